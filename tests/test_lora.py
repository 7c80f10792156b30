"""LoRAs, added by us, by diffusers and by hand, are one; consistency distillation is content with the right answer."""

from __future__ import annotations

import shutil

import pytest
import torch
from reference import generators, pipeline, relative_error
from safetensors.torch import load_file, save_file

import sdlearn
from sdlearn.hub import lora
from sdlearn.samplers import DISTILLED, SAMPLERS, consistency_weights
from sdlearn.training import diffusion, distil
from sdlearn.training.loop import Settings

SHORT = Settings(steps=3, batch_size=2, learning_rate=1e-2, warmup=1, mixed_precision="no", weight_decay=0.0)
RUN = {"seed": 3, "sampler": "lcm", "num_inference_steps": 4, "guidance_scale": 1.0}


def draw(sd) -> torch.Tensor:
    return list(sdlearn.denoise(sd, "a fox", progress=False, **RUN))[-1].latents


def trained(sd, folder, **options):
    latents = torch.randn(6, *sd.latent_shape(), generator=torch.Generator().manual_seed(0))
    ids = diffusion.tokenize(sd.tokenizer, ["a fox", "a cat"] * 3)
    return distil.train_few_steps(sd, latents, ids, folder, settings=SHORT, rank=4, **options)


@pytest.fixture(scope="module")
def own(random_folder, tmp_path_factory):
    """A folder with a model and, in it, an adapter of three steps."""
    folder = shutil.copytree(random_folder, tmp_path_factory.mktemp("own") / "model")
    trained(sdlearn.load(folder, device="cpu", dtype="float32"), folder / "lora" / "three")
    return folder


def test_what_we_add_is_what_diffusers_loads(own):
    pipe = pipeline("", sdlearn.load(own, device="cpu", dtype="float32"), "lcm")
    pipe.load_lora_weights(str(own / "lora" / "three"))
    options = {"num_inference_steps": 4, "guidance_scale": 1.0}
    theirs = pipe("a fox", generator=generators(3), output_type="latent", **options).images
    ours = sdlearn.load(own, device="cpu", dtype="float32", lora="three")
    assert relative_error(draw(ours), theirs) < 1e-5
    assert ours.name == "model + three"
    assert not any("lora" in name for name, _ in ours.unet.named_parameters())  # fused: it costs nothing to run


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
def test_a_lora_is_a_product_of_two_thin_matrices_added_to_a_weight(own, scale):
    plain = sdlearn.load(own, device="cpu", dtype="float32")
    added = sdlearn.load(own, device="cpu", dtype="float32", lora="three", lora_scale=scale)
    pairs = load_file(own / "lora" / "three" / lora.FILE)
    name = next(key for key in pairs if key.endswith("to_q.lora_A.weight")).removesuffix(".lora_A.weight")
    down, up = pairs[f"{name}.lora_A.weight"].float(), pairs[f"{name}.lora_B.weight"].float()
    assert down.shape[0] == up.shape[1] == 4 and up.any()
    layer = name.removeprefix("unet.")
    before, after = (sd.unet.get_submodule(layer).weight for sd in (plain, added))
    torch.testing.assert_close(after - before, scale * up @ down, atol=1e-6, rtol=1e-4)
    assert (relative_error(draw(added), draw(plain)) > 1e-3) == (scale > 0)


def test_a_folder_or_a_file_anywhere_will_do(own, tmp_path):
    shutil.copytree(own / "lora" / "three", tmp_path / "mine")
    named = draw(sdlearn.load(own, device="cpu", dtype="float32", lora="three"))
    for place in (tmp_path / "mine", tmp_path / "mine" / lora.FILE):
        assert torch.equal(draw(sdlearn.load(own, device="cpu", dtype="float32", lora=place)), named)


def test_what_cannot_be_added_says_why(own, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def load(name):
        return sdlearn.load(own, device="cpu", dtype="float32", lora=name)

    with pytest.raises(ValueError, match=r"There is no LoRA 'there'.*the model's own \('three'\)"):
        load("there")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no folder with a pytorch_lora_weights"):
        load(tmp_path / "empty")
    with pytest.raises(OSError, match="nobody/nothing"):
        load("nobody/nothing")
    (tmp_path / "damaged.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(OSError, match=r"damaged\.safetensors is damaged"):
        load(tmp_path / "damaged.safetensors")
    pairs = load_file(own / "lora" / "three" / lora.FILE)
    save_file({key: torch.zeros(7, 7) for key in pairs}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="was not made for the model 'model'"):
        load(tmp_path / "foreign.safetensors")


def test_the_shipped_lora_is_small_and_what_diffusers_loads(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = sdlearn.model_path() / "lora" / distil.NAME
    assert (folder / lora.FILE).stat().st_size < 1.5e6
    assert {part.dtype for part in load_file(folder / lora.FILE).values()} == {torch.float16}
    pipe = pipeline("", sdlearn.load("emoji", device="cpu", dtype="float32"), "lcm")
    pipe.load_lora_weights(folder)
    run = {"num_inference_steps": 4, "guidance_scale": 1.0, "generator": generators(3)}
    ours = sdlearn.load("emoji", device="cpu", dtype="float32", lora=distil.NAME)
    assert relative_error(draw(ours), pipe("a fox", output_type="latent", **run).images) < 1e-5


# -- distillation ------------------------------------------------------------------------------------------------------


class Gaussian(torch.nn.Module):
    """The exact noise prediction for pictures that are all zero: whatever is there is noise. And a learner's error."""

    def __init__(self, schedule, off: float):
        super().__init__()
        self.off, self.adapted = torch.nn.Parameter(torch.tensor(off)), True
        self.register_buffer("noise", schedule.noise.float())

    def disable_adapters(self):
        self.adapted = False

    def enable_adapters(self):
        self.adapted = True

    def forward(self, x, timesteps, states):
        eps = x / self.noise[timesteps].view(-1, 1, 1, 1)
        return type("Output", (), {"sample": eps + self.off if self.adapted else eps})


@pytest.mark.parametrize(("off", "low", "high"), [(0.0, 0.0, 0.004), (0.1, 0.01, 10.0)])
def test_the_loss_is_least_where_the_student_names_the_paths_end(random_sd, off, low, high):
    sd = sdlearn.model.StableDiffusion(
        random_sd.tokenizer, random_sd.text_encoder, None, random_sd.vae, sdlearn.NoiseSchedule(), "toy", None
    )
    object.__setattr__(sd, "unet", Gaussian(sd.schedule, off))
    loss = distil.ConsistencyLoss(sd)
    places = torch.arange(1, DISTILLED + 1)
    noise = torch.randn(DISTILLED, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    states, scales = torch.zeros(DISTILLED, 1, 1), torch.full((DISTILLED,), 4.0)
    value = loss(torch.zeros_like(noise), noise, places, states, scales, states[:1])
    assert low <= value.item() <= high
    assert sd.unet.adapted
    value.backward()
    assert sd.unet.off.grad is not None


def test_the_grid_of_the_loss_is_the_samplers(random_sd):
    grid = distil.ConsistencyLoss(random_sd).timesteps.tolist()
    asked = [level.timestep for level in SAMPLERS["lcm"].plan(random_sd.schedule, DISTILLED).levels[:-1]]
    assert grid[:0:-1] == asked and grid[0] == 0
    assert consistency_weights(0) == (1.0, 0.0)


def test_only_the_adapter_learns(random_folder, tmp_path):
    sd = sdlearn.load(random_folder, device="cpu", dtype="float32")
    before = {name: p.clone() for name, p in sd.unet.named_parameters()}
    assert trained(sd, tmp_path / "few") == tmp_path / "few"
    after = {name.replace(".base_layer", ""): p for name, p in sd.unet.named_parameters()}
    assert all(torch.equal(after[name], p) for name, p in before.items())
    assert any(p.any() for name, p in after.items() if "lora_B" in name)


def test_a_stopped_distillation_goes_on(random_folder, tmp_path):
    whole, parts, fresh = (sdlearn.load(random_folder, device="cpu", dtype="float32") for _ in range(3))
    trained(whole, tmp_path / "whole")
    assert trained(parts, tmp_path / "parts", until=2) is None
    assert trained(fresh, tmp_path / "parts")
    found = [load_file(tmp_path / name / lora.FILE) for name in ("whole", "parts")]
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
