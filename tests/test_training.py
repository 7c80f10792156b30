"""The recipe: runs that survive an interruption, latents that stay alive, a judge that can judge, a model folder."""

import copy
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline
from PIL import Image
from safetensors.torch import load_file
from toy_training import (
    SHORT,
    SIDE,
    SUBJECTS,
    small_text_encoder,
    small_unet,
    small_vae,
    toy_artwork,
    write_archives,
)
from transformers import CLIPTextModel

import sdlearn
from sdlearn.hub.lora import loras
from sdlearn.pictures import psnr
from sdlearn.tools.book import NOTEBOOKS, ROOT
from sdlearn.tools.cli import _parser, main
from sdlearn.training import autoencoder, diffusion, distil, export, judge, loop, pictures, presets, score
from sdlearn.training import cli as training_cli
from sdlearn.training.captions import BACKGROUNDS, STYLES, Reading, parse
from sdlearn.training.loop import Settings, generator
from sdlearn.training.pictures import PLAIN, Pictures, Variety, held_out


@pytest.fixture(autouse=True)
def a_process_of_its_own():
    """accelerate remembers the precision of a process's first run; every test is a run that begins anew."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def artwork():
    return toy_artwork()


def silent(line):
    pass


def assert_equal_weights(a, b):
    b = b.state_dict()
    assert all(torch.equal(weights, b[name]) for name, weights in a.state_dict().items())


# --- the loop ---------------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_stays_and_falls_to_nothing():
    settings = Settings(steps=1000, batch_size=1, learning_rate=1e-3, warmup=100, cooldown=0.2)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=settings.learning_rate)
    schedule, rates = loop._rate(optimizer, settings), []
    for _ in range(1001):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(1e-5) and rates[99:801] == pytest.approx([1e-3] * 702)
    assert rates[850] == pytest.approx(0.5e-3) and rates[1000] == 0 and settings.flat_until == 800
    assert all(before <= after for before, after in pairwise(rates[:100]))


def test_the_running_mean_of_the_weights_forgets_the_first_steps_fast():
    average, mean = loop._ema(0.9), [torch.zeros(1)]
    for done in range(400):  # the count of steps that are in the mean already
        average(mean, [torch.ones(1)], torch.tensor(done))
        if done == 0:
            assert mean[0].item() == pytest.approx(0.95)
    assert mean[0].item() == pytest.approx(1)
    average(mean, [torch.zeros(1)], torch.tensor(400))
    assert mean[0].item() == pytest.approx(0.9)


@pytest.mark.parametrize(("decoder_only", "optimizer"), [(False, "adamw"), (False, "muon"), (True, "adamw")])
def test_an_interrupted_autoencoder_run_ends_like_an_uninterrupted_one(artwork, tmp_path, decoder_only, optimizer):
    if optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")

    def run(folder, **options):
        settings = replace(SHORT, optimizer=optimizer)
        return autoencoder.train_autoencoder(
            artwork, tmp_path / folder, small_vae(), decoder_only, settings, log=silent, **options
        )

    whole = run("whole")
    assert run("parts", until=3) is None
    assert run("parts", minutes=1e-9) is None  # no time: not one step
    parts = run("parts")
    assert_equal_weights(whole, parts)
    assert_equal_weights(whole, AutoencoderKL.from_pretrained(tmp_path / "parts" / "vae"))
    untrained = small_vae()
    assert not torch.equal(whole.decoder.conv_in.weight, untrained.decoder.conv_in.weight)
    if decoder_only:  # latents of the old encoder are still latents of this autoencoder
        assert_equal_weights(whole.encoder, untrained.encoder)
        assert_equal_weights(whole.quant_conv, untrained.quant_conv)
        assert whole.config.scaling_factor == untrained.config.scaling_factor


def test_an_interrupted_diffusion_run_ends_like_an_uninterrupted_one(artwork, tmp_path, emoji):
    vae = small_vae().eval().requires_grad_(False)

    def run(folder, settings=SHORT, **options):
        return diffusion.train_diffusion(
            artwork, vae, emoji.tokenizer, tmp_path / folder, small_text_encoder(), small_unet(), settings,
            augmentations=2, log=silent, **options,
        )  # fmt: skip

    whole = run("whole")
    assert run("parts", until=3) is None
    parts = run("parts")
    for a, b in zip(whole, parts, strict=True):
        assert_equal_weights(a, b)
    assert not torch.equal(whole[1].conv_in.weight, small_unet().conv_in.weight)
    with pytest.raises(ValueError, match="other settings"):
        run("parts", replace(SHORT, learning_rate=1.0))


def test_a_run_may_be_lengthened_until_its_rate_falls_and_not_after(tmp_path):
    def go_on(steps, until):
        settings = replace(SHORT, steps=steps, cooldown=0.5)
        loop.train(Line(), noise_and_line, settings, tmp_path, until=until, log=silent)

    go_on(8, until=3)
    go_on(10, until=4)
    go_on(10, until=7)
    with pytest.raises(ValueError, match="other settings"):
        go_on(12, until=8)


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros(1, 3))

    def forward(self, x, y):
        return (x @ self.slope[0] - y).pow(2).mean()


def noise_and_line(step, process):
    x = torch.randn(4, 3, generator=generator(0, step, process))
    return x, x @ torch.tensor([1.0, -2.0, 0.5])


def test_what_watches_a_run_is_logged_and_can_end_it(tmp_path):
    loop.train(
        Line(), noise_and_line, SHORT, tmp_path / "a", watch=lambda model, step: {"slope": step / 12}, log=silent
    )
    (line,) = map(json.loads, (tmp_path / "a" / "log.jsonl").read_text().splitlines())
    assert line["slope"] == 0.5 and line["step"] == 6 and line["samples"] == 12

    def alarmed(model, step):
        raise RuntimeError("alarm")

    with pytest.raises(RuntimeError, match="alarm"):
        loop.train(Line(), noise_and_line, SHORT, tmp_path / "b", watch=alarmed, log=silent)


def test_muon_takes_a_kernel_for_the_matrix_of_its_channels():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    settings = replace(SHORT, optimizer="muon", weight_decay=0.1)
    kernel = torch.nn.Parameter(torch.randn(8, 4, 3, 3, generator=generator(0)))
    matrix = torch.nn.Parameter(kernel.detach().clone().view(8, 36))
    ours = loop._FlatMuon([kernel], settings)
    theirs = torch.optim.Muon([matrix], lr=1e-3, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    start = matrix.detach().clone()
    for step in range(3):
        kernel.grad = torch.randn(8, 4, 3, 3, generator=generator(1, step))
        matrix.grad = kernel.grad.view(8, 36).clone()
        ours.step()
        theirs.step()
        assert torch.equal(kernel.view(8, 36), matrix)
    assert not torch.equal(matrix, start)
    with pytest.raises(ValueError, match=r"muon.*adamw"):
        loop._FlatMuon([kernel], replace(settings, mixed_precision="fp16"))


def test_muon_leaves_tables_biases_and_the_ends_to_adamw():
    if not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    model = torch.nn.ModuleDict({"text": small_text_encoder(), "unet": small_unet()})
    adamw, muon = loop._optimizers(model, replace(SHORT, optimizer="muon"))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_adamw = {names[id(p)] for p in adamw.param_groups[0]["params"]}
    by_muon = {names[id(p)] for p in muon._whole}
    assert by_adamw | by_muon == set(names.values()) and not by_adamw & by_muon
    assert {"unet.conv_in.weight", "unet.conv_out.weight", "unet.conv_out.bias"} <= by_adamw
    assert any("token_embedding" in name for name in by_adamw) and not any("norm" in name for name in by_muon)
    assert any("to_q" in name for name in by_muon) and any("resnets.0.conv1.weight" in name for name in by_muon)


# The script of the two tests below; `slow` delays what the second process writes into a checkpoint.
SCRIPT = """
import sys
import time
import accelerate.accelerator
import torch
from sdlearn.training.loop import Settings, generator, processes, train

class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros(1, 3))

    def forward(self, x, y):
        return (x @ self.slope[0] - y).pow(2).mean()

def inputs(step, process):  # of one process: the two batches of two processes, one after the other
    batches = [torch.randn(4, 4, generator=generator(0, step, k)) for k in (range(2) if alone else [process])]
    x, noise = torch.cat(batches).split((3, 1), 1)
    return x, x @ torch.tensor([1.0, -2.0, 0.5]) + noise[:, 0]

alone, model = processes().num_processes == 1, Line()
if "slow" in sys.argv and not processes().is_main_process:
    written = accelerate.accelerator.save_accelerator_state
    def late(*args, **options):
        time.sleep(0.5)
        return written(*args, **options)
    accelerate.accelerator.save_accelerator_state = late
optimizer = "muon" if "muon" in sys.argv else "adamw"
settings = Settings(20, 8 if alone else 4, 0.1, optimizer, warmup=1, mixed_precision="no", save_every=10)
assert train(model, inputs, settings, sys.argv[1], log=lambda line: None)
if processes().is_main_process:
    print(processes().num_processes, *model.slope[0].tolist())
"""


def launch(count: int, folder, *words) -> list[float]:
    """Runs SCRIPT in `count` processes; what it printed."""
    script = folder.with_suffix(".py")
    script.write_text(SCRIPT)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count), script, folder, *words]
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [float(word) for word in done.stdout.split()]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_learn_what_one_learns_from_batches_twice_as_large(tmp_path, optimizer):
    results = []
    for count in (1, 2):
        processes, *slope = launch(count, tmp_path / str(count), optimizer)
        assert processes == count
        results.append(slope)
        logged = [json.loads(line) for line in (tmp_path / str(count) / "log.jsonl").read_text().splitlines()]
        assert [(line["step"], line["samples"]) for line in logged] == [(20, 160)]
    # On the way to 1, -2, 0.5; Muon's step is 0.2 * sqrt(3) of the rate long, whatever the gradient.
    reached = {"adamw": [1, -1.7, 0.5], "muon": [0.25, -0.45, 0.1]}[optimizer]
    assert results[0] == pytest.approx(reached, abs=0.5 if optimizer == "adamw" else 0.2)
    assert results[1] == pytest.approx(results[0], abs=1e-5)


def test_a_checkpoint_is_whole_when_one_process_writes_later_than_the_other(tmp_path):
    launch(2, tmp_path / "run", "slow")
    written = {path.name for path in (tmp_path / "run" / "checkpoint").iterdir()}
    assert {"random_states_0.pkl", "random_states_1.pkl", "optimizer.bin", "settings.json"} <= written
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert not left & {"checkpoint.new", "checkpoint.old"}


def test_a_run_cut_off_between_two_checkpoints_goes_on_from_the_old_one(tmp_path):
    loop.train(Line(), noise_and_line, SHORT, tmp_path, until=3, log=silent)
    (tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    said = []
    assert loop.train(Line(), noise_and_line, SHORT, tmp_path, log=said.append)
    assert "from step 3" in said[0]


# --- the autoencoder --------------------------------------------------------------------------------------------------


def whitened(count: int = 6, channels: int = 4, side: int = 16) -> torch.Tensor:
    """Latents (count, channels, side, side) of exactly zero mean, unit variance and uncorrelated channels."""
    flat = torch.randn(channels, count * side * side, generator=generator(5), dtype=torch.float64)
    flat = flat - flat.mean(1, keepdim=True)
    flat = torch.linalg.solve_triangular(
        torch.linalg.cholesky(flat @ flat.T / flat.shape[1]), flat, upper=False
    )  # fmt: skip
    return flat.view(channels, count, side, side).transpose(0, 1).float()


def test_the_channel_loss_is_nothing_for_whitened_latents_and_grows_with_copies():
    latents = whitened()
    assert autoencoder.channel_loss(latents).item() == pytest.approx(0, abs=1e-6)
    losses = [0.0]
    for copies in (1, 2, 3):
        latents[:, copies] = latents[:, 0]
        losses.append(autoencoder.channel_loss(latents).item())
    assert losses == pytest.approx([0, 2 / 16, 6 / 16, 12 / 16], abs=1e-4)  # pairs that are correlated, of all pairs
    assert autoencoder.channel_loss(whitened() * 2).item() == pytest.approx(1, abs=1e-4)  # standard deviation 2
    assert autoencoder.channel_loss(whitened() + 1).item() == pytest.approx(1, abs=1e-4)  # mean 1


def test_participation_counts_the_channels_that_carry_something():
    latents = whitened()
    assert autoencoder.participation(autoencoder.channel_eigenvalues(latents)) == pytest.approx(4, abs=0.01)
    assert autoencoder.participation(autoencoder.channel_eigenvalues(latents * 3 + 5)) == pytest.approx(4, abs=0.01)
    latents[:, 2:] = latents[:, :2]
    assert autoencoder.participation(autoencoder.channel_eigenvalues(latents)) == pytest.approx(2, abs=0.01)
    latents[:] = latents[:, :1]
    assert autoencoder.participation(autoencoder.channel_eigenvalues(latents)) == pytest.approx(1, abs=0.01)


def test_a_run_whose_latents_collapse_is_stopped(artwork, tmp_path, monkeypatch):
    vae = small_vae()
    with torch.no_grad():  # four copies of one channel
        vae.quant_conv.weight[:4] = vae.quant_conv.weight[:1]
    young = replace(SHORT, steps=2)
    autoencoder.train_autoencoder(artwork, tmp_path / "young", copy.deepcopy(vae), settings=young, log=silent)
    monkeypatch.setattr(autoencoder, "SETTLED", 2)
    with pytest.raises(RuntimeError, match=r"latents.* 1\..* channels"):
        autoencoder.train_autoencoder(artwork, tmp_path, vae, settings=young, log=silent)
    autoencoder.train_autoencoder(  # whose latents are as they are
        artwork, tmp_path / "decoder", vae, decoder_only=True, settings=young, log=silent
    )


def test_the_reconstruction_loss_is_nothing_for_the_picture_itself_and_feels_a_hue():
    picture = torch.rand(2, 3, 32, 32, generator=generator(0)) * 2 - 1
    grey = torch.rand(64, 1, 32, 32, generator=generator(1))  # of colours that differ in brightness above all
    axes = autoencoder.colour_axes(grey + 0.1 * torch.rand(64, 3, 32, 32, generator=generator(2)))
    assert autoencoder.reconstruction_loss(picture, picture, axes) == 0
    lighter, tinted = torch.zeros(2, 3, 1, 1), torch.zeros(2, 3, 1, 1)
    lighter[:] = 0.1
    tinted[:, 0], tinted[:, 2] = 0.15, -0.15
    light, tint = (autoencoder.reconstruction_loss(picture + change, picture, axes) for change in (lighter, tinted))
    assert (tinted.abs().mean() - lighter.abs().mean()).abs() < 1e-6 and tint > 2 * light


def test_colours_on_their_axes_are_uncorrelated_and_of_unit_size():
    mix = torch.tensor([[1.0, 0.2, 0], [0.9, -0.1, 0.05], [0.8, 0, -0.1]])
    pixels = torch.einsum("ij,bjhw->bihw", mix, torch.rand(32, 3, 64, 64, generator=generator(0)))
    on_axes = torch.einsum("ij,bjhw->bihw", autoencoder.colour_axes(pixels), F.avg_pool2d(pixels, 8))
    torch.testing.assert_close(torch.cov(on_axes.transpose(0, 1).flatten(1)), torch.eye(3), rtol=0, atol=1e-3)


def test_crops_are_cut_from_their_pictures_where_latents_meet():
    place = torch.arange(64.0)
    pictures = torch.stack([torch.stack((place.view(-1, 1).expand(64, 64), place.expand(64, 64)))] * 40)
    pictures[20:] += 100
    cut = autoencoder.crops(pictures, 8, generator(0))
    assert cut.shape == (40, 2, 32, 32)
    corners = cut[:, :, 0, 0] - torch.tensor([0, 100]).repeat_interleave(20).view(-1, 1)
    assert set(corners.flatten().tolist()) == {0, 8, 16, 24, 32}
    assert torch.equal(cut - cut[:, :, :1, :1], pictures[:, :, :32, :32] - pictures[:, :, :1, :1])


def test_the_shipped_autoencoder_uses_all_its_channels_and_keeps_edges(emoji):
    """On the toy artwork's simple shapes, which it was not trained on."""
    vae = emoji.vae
    assert vae.config.block_out_channels == list(autoencoder.BLOCKS) and vae.config.sample_size == presets.SIZE
    pixels = Pictures(toy_artwork(), presets.SIZE, Variety(hold_out=False)).batch(0, 24).pixels
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mean
        output = vae.decode(latents).sample.clamp(-1, 1)
    assert autoencoder.participation(autoencoder.channel_eigenvalues(latents)) > autoencoder.LEAST_PARTICIPATION
    assert (latents.std() * vae.config.scaling_factor).item() == pytest.approx(1, abs=0.25)
    assert psnr(output, pixels).mean() > 24


def test_scaled_latents_have_unit_size(artwork, tmp_path):
    vae = autoencoder.train_autoencoder(artwork, tmp_path, small_vae(), settings=SHORT, log=silent)
    batch = Pictures(artwork, SIDE, Variety(hold_out=False)).batch(-1, 64)
    latents = vae.encode(batch.pixels).latent_dist.mean * vae.config.scaling_factor
    assert latents.std().item() == pytest.approx(1, abs=0.1)
    assert AutoencoderKL.from_pretrained(tmp_path / "vae").config.scaling_factor == vae.config.scaling_factor


# --- text encoder and UNet --------------------------------------------------------------------------------------------


def test_each_batch_has_one_timestep_from_each_of_as_many_equal_parts(artwork, tmp_path, emoji, monkeypatch):
    seen = []

    def watched(model, inputs, settings, folder, **options):
        seen.extend(inputs(step, process) for step in range(6) for process in range(2))
        return False

    monkeypatch.setattr(diffusion, "train", watched)
    settings = replace(SHORT, batch_size=40)
    diffusion.train_diffusion(
        artwork, small_vae().eval(), emoji.tokenizer, tmp_path, small_text_encoder(), small_unet(), settings,
        augmentations=2,
    )  # fmt: skip
    for latents, ids, noise, timesteps in seen:
        assert (timesteps // 25).tolist() == list(range(40)) and timesteps.max() <= 999
        assert latents.shape == noise.shape == (40, 4, 16, 16) and ids.shape == (40, 77)
    assert len({tuple(timesteps.tolist()) for *_, timesteps in seen}) == len(seen)
    places = torch.stack([timesteps % 25 for *_, timesteps in seen]).float()
    assert places.mean().item() == pytest.approx(12, abs=1.5) and places.unique().numel() == 25
    empty = sum((ids[:, 1] == 49407).float().mean().item() for _, ids, *_ in seen) / len(seen)
    assert empty == pytest.approx(0.1, abs=0.06)


def test_several_processes_make_the_latents_together(artwork, tmp_path, emoji, monkeypatch):
    vae, pictures = small_vae().eval(), Pictures(artwork, SIDE)

    def made(name: str, count: int) -> dict:
        """What `count` processes write, one after the other here: the first, which puts it together, is the last."""
        for index in reversed(range(count)):
            us = SimpleNamespace(
                process_index=index, num_processes=count, is_main_process=index == 0, wait_for_everyone=lambda: None
            )
            monkeypatch.setattr(diffusion, "processes", lambda us=us: us)
            diffusion.make_latents(vae, pictures, emoji.tokenizer, tmp_path / name, 14, batch_size=4)
        return load_file(tmp_path / name)

    alone, together = made("alone.safetensors", 1), made("together.safetensors", 3)
    assert {path.name for path in tmp_path.iterdir()} == {"alone.safetensors", "together.safetensors"}
    for rows in (alone, together):
        assert rows["latents"].shape == (14, 4, 16, 16) and rows["ids"].shape == (14, 77)
    order = [0, 1, 2, 3, 12, 13, 4, 5, 6, 7, 8, 9, 10, 11]  # the first and the fourth batch are the first process's
    pairs = {tuple(row.flatten()[:5].tolist()) for row in alone["latents"][order[:6]]}
    assert pairs == {tuple(row.flatten()[:5].tolist()) for row in together["latents"][:6]}


def test_rows_that_no_caption_reads_are_not_trained_and_come_back_as_they_were():
    table = torch.nn.Embedding(50, 4)
    before = table.weight.detach().clone()
    rows = diffusion.ReadRows(table, torch.tensor([[3, 9, 3], [40, 9, 9]]))
    assert rows.weight.shape == (4, 4)
    assert torch.equal(rows(torch.tensor([40, 3])), before[[40, 3]]) and not rows(torch.tensor([7])).any()
    rows(torch.tensor([3, 9])).sum().backward()
    with torch.no_grad():
        rows.weight -= 0.5 * rows.weight.grad
    after = rows.whole().weight
    assert after is table.weight
    before[[3, 9]] -= 0.5
    torch.testing.assert_close(after, before)


def test_a_new_model_knows_the_words_it_read_and_one_that_goes_on_keeps_its_own(artwork, tmp_path, emoji):
    def table_after_training(name, text_encoder=None):
        diffusion.train_diffusion(
            artwork, small_vae().eval(), emoji.tokenizer, tmp_path / name, text_encoder, small_unet(text_width),
            SHORT, augmentations=2, log=silent,
        )  # fmt: skip
        ids = load_file(tmp_path / name / "latents.safetensors")["ids"].long().unique().tolist()
        encoder = CLIPTextModel.from_pretrained(tmp_path / name / "text_encoder")
        return encoder.get_input_embeddings().weight.detach(), ids

    text_width = emoji.text_encoder.config.hidden_size
    table, read = table_after_training("new")
    assert table.any(1).nonzero().flatten().tolist() == read

    before = emoji.text_encoder.get_input_embeddings().weight.detach().clone()
    untaught = emoji.tokenizer.convert_tokens_to_ids("cottage</w>")  # the test's artwork calls a house so
    assert not before[untaught].any()
    table, read = table_after_training("on", copy.deepcopy(emoji.text_encoder).requires_grad_(True))
    known = before.any(1)
    assert table[untaught].norm().item() == pytest.approx(before[known].norm(dim=1).mean().item(), rel=0.5)
    assert table.any(1).nonzero().flatten().tolist() == sorted({*read, *known.nonzero().flatten().tolist()})
    known[read] = False  # words that this run did not read
    assert known.sum() > 300 and torch.allclose(table[known], before[known], rtol=1e-3)


class Alternating:
    """A judge that finds every second picture right."""

    subjects, styles, backgrounds = presets.SUBJECTS, STYLES, BACKGROUNDS

    def obeys(self, images, texts):
        assert len(images) == len(texts) and images.shape[1:] == (3, SIDE, SIDE)
        return [judge.Obeyed(True, True, i % 2 == 0) for i in range(len(texts))]

    def read(self, pixels):
        return [judge.Seen("nothing", "flat", "white", 1, 1, 1)] * len(pixels)


@pytest.fixture
def hasty(monkeypatch):
    """Pictures of two steps wherever a run or a score draws some."""
    for options in (diffusion.USUAL, *score.CLASSIC.values()):
        monkeypatch.setitem(options, "num_inference_steps", 2)


def test_a_run_with_a_judge_writes_the_curve_of_its_score(artwork, tmp_path, emoji, monkeypatch, hasty):
    monkeypatch.setattr(diffusion, "curve_point", partial(diffusion.curve_point, count=2))
    diffusion.train_diffusion(
        artwork, small_vae().eval(), emoji.tokenizer, tmp_path, small_text_encoder(), small_unet(),
        replace(SHORT, sheet_every=3), augmentations=2, judge=Alternating(), log=silent,
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "score.jsonl").read_text().splitlines()]
    assert [(line["step"], line["samples"]) for line in lines] == [(3, 6), (6, 12)]
    for line in lines:
        assert line["seen"] == line["new"] == 0.5 and line["seen, subject"] == line["new, style"] == 1
        assert line["pairs"] == 0 and set(score.CLASSIC) <= line.keys()
    sheet = Image.open(tmp_path / "sheet-000006.png")
    assert sheet.width > 5 * SIDE and sheet.height > len(diffusion.SHEET) * SIDE


def test_the_sheets_prompts_are_of_what_the_recipe_teaches():
    for prompt in diffusion.SHEET:
        asked = parse(prompt, presets.SUBJECTS)
        assert asked.subject and asked.style, prompt
    assert {parse(prompt, presets.SUBJECTS).style for prompt in diffusion.SHEET} == set(STYLES)


def test_the_diffusion_loss_noises_as_diffusers_does_and_weights_by_min_snr():
    class Recorder(torch.nn.Module):
        """A UNet that predicts nothing and remembers what it was shown."""

        def forward(self, x, timesteps, states):
            self.x = x
            return type("Output", (), {"sample": torch.zeros_like(x)})

    unet = Recorder()
    loss = diffusion.DiffusionLoss(small_text_encoder(), unet)
    x0, noise = torch.randn(2, 3, 4, 8, 8, generator=generator(0))
    timesteps = torch.tensor([10, 400, 990])
    value = loss(x0, torch.full((3, 77), 49407), noise, timesteps)
    ddpm = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert torch.allclose(unet.x, ddpm.add_noise(x0, noise, timesteps), atol=1e-5)
    snr = ddpm.alphas_cumprod[timesteps] / (1 - ddpm.alphas_cumprod[timesteps])
    expected = (noise.pow(2).mean((1, 2, 3)) * snr.clamp(max=5) / snr).mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)


# --- export -----------------------------------------------------------------------------------------------------------


def test_the_exported_folder_is_a_pipeline(tmp_path, emoji):
    folder = export.export(small_vae(), small_text_encoder(), small_unet(), emoji.tokenizer, tmp_path / "model")
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    assert {part.dtype for part in (pipeline.text_encoder, pipeline.unet, pipeline.vae)} == {torch.float32}
    assert pipeline.scheduler.config.clip_sample is False
    folders = folder, sdlearn.model_path()
    written, shipped = (json.loads((path / "scheduler" / "scheduler_config.json").read_text()) for path in folders)
    assert shipped == {**written, "_diffusers_version": shipped["_diffusers_version"]}
    files = [sorted(file.relative_to(path).as_posix() for file in path.rglob("*/*.*")) for path in folders]
    assert files[0] == [file for file in files[1] if not file.startswith(("judge", "lora"))]
    ours = sdlearn.text_to_image(sdlearn.load(folder, device="cpu"), "an ink owl", seed=1, num_inference_steps=2)
    assert ours.size == (SIDE, SIDE)


def test_larger_latents_are_the_same_autoencoder(tmp_path, emoji):
    vae = small_vae()
    vae.register_to_config(scaling_factor=1.03)
    pixels = torch.rand(1, 3, SIDE, SIDE, generator=generator(0)) * 2 - 1
    with torch.no_grad():
        before, picture = vae.encode(pixels).latent_dist, vae(pixels).sample
        export.enlarge_latents(vae, 4)
        after, same = vae.encode(pixels).latent_dist, vae(pixels).sample
    torch.testing.assert_close(after.mean, 4 * before.mean)
    torch.testing.assert_close(after.std, 4 * before.std)
    assert vae.config.scaling_factor == 1.03 / 4
    torch.testing.assert_close(same, picture)
    for _ in range(2):  # what was exported before stays as it is
        folder = export.export(vae, small_text_encoder(), small_unet(), emoji.tokenizer, tmp_path / "model")
        vae = AutoencoderKL.from_pretrained(folder / "vae")
        assert vae.config.scaling_factor == 1.03 / 4


@pytest.mark.parametrize(("steps", "error", "share"), [(4, 0.0375, 0.5), (8, 0.019, 0.6), (64, 0.0024, 0.8)])
def test_finely_rounded_weights_are_near_and_coarsely_rounded_ones_compress(steps, error, share):
    layer = torch.nn.Linear(400, 400)
    torch.nn.init.normal_(layer.weight, std=0.03, generator=generator(0))
    layer.weight.data[0] = 0
    layer.half()
    before, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    export.round_weights(layer, steps)
    after = layer.weight.detach()
    assert torch.equal(layer.bias, bias) and not after[0].any()
    assert (after.float() - before.float()).norm() / before.float().norm() == pytest.approx(error, rel=0.3)
    packed = [len(zlib.compress(weights.numpy().tobytes())) for weights in (before, after)]
    assert packed[1] < share * packed[0]
    export.round_weights(layer, steps)
    assert torch.equal(layer.weight, after)  # once is enough


def test_the_recipes_model_fits_the_size_budget_together_with_its_judge():
    vae, unet = autoencoder.new_autoencoder(), diffusion.new_unet()
    size = 2 * sum(p.numel() for part in (vae, diffusion.new_text_encoder(), unet) for p in part.parameters())
    assert size + 1.5 * export.MIB <= export.BUDGET
    small = judge.Judge(presets.SUBJECTS)
    assert 2 * sum(p.numel() for p in small.parameters()) <= 1.5 * export.MIB
    with torch.no_grad():
        latents = vae.encode(torch.zeros(1, 3, presets.SIZE, presets.SIZE)).latent_dist.mean
        assert latents.shape[1:] == (4, unet.config.sample_size, unet.config.sample_size)
        assert small.body(torch.zeros(1, 3, presets.SIZE, presets.SIZE)).shape[2:] == (4, 4)


def test_too_large_a_model_is_refused(tmp_path, emoji):
    with pytest.raises(ValueError, match=f"{export.BUDGET // export.MIB} MiB"):
        export.export(small_vae(), diffusion.new_text_encoder(512), small_unet(), emoji.tokenizer, tmp_path)


# --- the judge --------------------------------------------------------------------------------------------------------


def test_the_model_card_lists_what_the_model_learned(emoji):
    card = " ".join((sdlearn.model_path() / "README.md").read_text().split())
    known = judge.load_judge()
    listed = re.search(r"\*\*Subjects\*\*, (\d+): (.*?)\. - ", card)
    assert int(listed[1]) == len(known.subjects) and tuple(listed[2].split(", ")) == known.subjects
    styles = re.search(r"\*\*Styles\*\*, (\d+): (.*?)\. - ", card)
    assert int(styles[1]) == len(known.styles) and set(styles[2].split(", ")) == set(known.styles)
    words = re.search(r"\*\*Other words\*\* for some of them, (\d+), .*?: (.*?)\. - ", card)
    assert int(words[1]) == len(words[2].split(", "))
    rows = emoji.text_encoder.get_input_embeddings().weight.any(1)
    assert f"holds {rows.sum()} trained rows" in card
    for word in (*known.subjects, *words[2].split(", ")):
        assert rows[emoji.tokenizer(word).input_ids].all(), f"the card lists {word!r}, which the model never read"
    assert f"the {len(known.subjects)} things it can draw" in " ".join((ROOT / "README.md").read_text().split())


def test_the_shipped_judge_is_small_and_reads_what_the_shipped_model_draws(emoji):
    known = judge.load_judge()
    folder = sdlearn.model_path() / "judge"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1.5 * export.MIB
    subjects = ("red apple", "owl", "fox", "pizza", "rocket", "house")
    grounds = ("white", "teal", "pink", "blue", "black", "white")
    styles = [known.styles[k % len(known.styles)] for k in range(6)]
    asked = [score.write(Reading(*words)) for words in zip(subjects, styles, grounds, strict=True)] * 4
    images = sdlearn.text_to_image(emoji, asked, seeds=range(24), num_inference_steps=15, guidance_scale=4)
    right = judge.share(known.obeys(images, asked))
    assert right["subject"] >= 0.75 and right["background"] >= 0.9 and right["style"] >= 0.7
    swapped = judge.share(known.obeys(images, asked[1:] + asked[:1]))
    assert swapped["subject"] <= 0.1


def test_the_judge_takes_any_size_and_says_how_sure_it_is(emoji):
    known = judge.load_judge()
    picture = sdlearn.text_to_image(emoji, "a comic castle", seed=7, num_inference_steps=15)
    large, small = known.read([picture.resize((4 * picture.width, 4 * picture.width)), picture])
    assert large[:3] == small[:3] == ("castle", "comic", "white")
    assert 0.5 < small.subject_probability <= 1
    with pytest.raises(ValueError, match="2 pictures, 3 prompts"):
        known.obeys([picture, picture], ["a dog"] * 3)


def test_a_judge_learns_shapes_and_comes_back_from_disk(artwork, tmp_path):
    stream = Pictures(artwork, SIDE, Variety(pairs=0, detailed=0))
    known = judge.train_judge(stream, steps=60, batch_size=24, log=silent)
    measured = judge.measure_judge(known, replace(stream, seed=9), batches=2, batch_size=24)
    assert measured["subject"] > 0.7 and measured["background"] > 0.7
    judge.save_judge(known, tmp_path, measured)
    again = judge.load_judge(tmp_path)
    assert (again.subjects, again.styles, again.size, again.widths) == (SUBJECTS, STYLES, SIDE, judge.WIDTHS)
    assert json.loads((tmp_path / "judge.json").read_text())["measured"] == measured
    pixels = stream.batch(100, 8).pixels
    for a, b in zip(known.probabilities(pixels), again.probabilities(pixels), strict=True):
        assert torch.allclose(a, b, atol=0.02)  # half precision on disk


def test_the_judge_learns_from_pictures_that_went_through_the_autoencoder(artwork, monkeypatch):
    sent = []
    monkeypatch.setattr(judge, "round_trip", lambda vae, pixels: sent.append(vae) or pixels)
    judge.train_judge(Pictures(artwork, SIDE), "an autoencoder", steps=40, batch_size=3, log=silent)
    assert sent == ["an autoencoder"]


def test_degraded_pictures_are_half_of_them_as_they_were(artwork):
    torch.manual_seed(0)
    pixels = Pictures(artwork, SIDE).batch(0, 1).pixels.expand(200, -1, -1, -1)
    changed = judge.degraded(pixels)
    same = sum(torch.equal(a, b) for a, b in zip(pixels, changed, strict=True))
    assert 70 < same < 130 and changed.abs().max() <= 1


def test_parts_a_prompt_leaves_open_cannot_be_wrong():
    right = [judge.Obeyed(True, None, True), judge.Obeyed(False, True, True)]
    assert [one.all for one in right] == [True, False]
    assert judge.share(right) == {"subject": 0.5, "style": 1.0, "background": 1.0, "all": 0.5}


# --- the score --------------------------------------------------------------------------------------------------------


class Known:
    """What prompts are made of: a judge's words."""

    def __init__(self, subjects=SUBJECTS, styles=STYLES, backgrounds=BACKGROUNDS):
        self.subjects, self.styles, self.backgrounds = subjects, styles, backgrounds

    def parse(self, prompt):
        return parse(prompt, self.subjects, self.styles, self.backgrounds)


def test_score_prompts_are_fixed_ask_for_what_the_judge_knows_and_can_be_held_out():
    known = Known(presets.SUBJECTS)
    for held in (True, False):
        asked = score.prompts(known, 30, seed=1, held=held)
        assert asked == score.prompts(known, 30, seed=1, held=held)
        assert all(held_out(*known.parse(prompt)) == held for prompt in asked)
    old = Known(("dog", "pie"), ("cartoon", "ink"), ("white", "teal"))
    asked = {old.parse(prompt) for prompt in score.prompts(old, 200)}
    assert len(asked) == 8 and {reading.style for reading in asked} == {"cartoon", "ink"}
    free = next(subject for subject in presets.SUBJECTS if not any(score.known(Known((subject,)), held=True)))
    with pytest.raises(ValueError, match="held out"):
        score.prompts(Known((free,)), 1, held=True)


def test_prompts_of_keywords_and_pairs_come_with_what_they_mean():
    [(text, meant)] = score.keyword_prompts(Known(("dog",)), {"dog": ("puppy",)}, 1)
    assert " puppy on " in text and meant.subject == "dog" and text == score.write(meant._replace(subject="puppy"))
    for text, (first, second) in score.pair_prompts(Known(("cat", "owl", "dog")), 20):
        assert first != second and f" {first} and a" in text and f" {second} on " in text


def test_each_half_of_a_pair_is_read_by_itself():
    class Colours:
        """Reads a half by its colour, as a judge of red and blue things would."""

        def read(self, pixels):
            names = ["red" if picture[0].mean() > picture[2].mean() else "blue" for picture in pixels]
            return [judge.Seen(name, "flat", "white", 1, 1, 1) for name in names]

    picture = -torch.ones(1, 3, SIDE, SIDE)
    picture[:, 0, :, : SIDE // 2] = picture[:, 2, :, SIDE // 2 :] = 1
    asked = [("red", "blue"), ("blue", "red"), ("red", "red")]
    assert score.pair_obedience(picture.repeat(3, 1, 1, 1), asked, Colours()) == {
        "pictures": 3, "in order": pytest.approx(1 / 3), "both": pytest.approx(2 / 3)
    }  # fmt: skip


def test_the_distance_to_training_pictures_is_zero_for_one_of_them(artwork):
    stream = Pictures(artwork, SIDE, PLAIN)
    known = score.variations(stream, Reading("house", "flat", "blue"), 4)
    assert score.distance(known[2], known).argmin() == 2 and score.distance(known[2], known).min() == 0
    assert score.distance(torch.ones(1, 3, 8, 8), -torch.ones(1, 3, 8, 8)).item() == 1
    assert psnr(known, known + 0.02).mean().item() == pytest.approx(40, abs=1)


def test_nearest_tells_a_model_that_copies_from_one_that_composes(artwork, monkeypatch):
    stream = Pictures(artwork, SIDE, PLAIN)
    prompts = [score.write(Reading("house", "flat", "blue")), score.write(Reading("key", "ink", "pink"))]
    readings = [Known().parse(prompt) for prompt in prompts]

    def drawn_by(draw):
        monkeypatch.setattr(score, "draw", lambda sd, prompts, seeds, **options: draw())
        return score.nearest(None, stream, prompts, Known(), tries=8)

    copied = drawn_by(lambda: torch.stack([score.variations(stream, reading, 9)[3] for reading in readings]))
    composed = drawn_by(
        lambda: torch.cat([score.variations(replace(stream, seed=77), reading, 1) for reading in readings])
    )
    assert copied["drawn"] == 0 < copied["composed"] == composed["composed"]
    assert 0.3 < composed["drawn"] / composed["composed"] < 3


def test_adherence_is_the_product_of_what_is_asked_for_and_apart_a_mean_over_pairs():
    class Sure(judge.Judge):
        def probabilities(self, images):
            return tuple(torch.full((2, len(names)), 0.5) for names in self.names)

    sure = Sure(("dog", "owl"))
    assert score.adherence(sure, None, "a flat dog on a blue background") == 0.125
    assert score.adherence(sure, None, "a dog") == 0.25  # the style is left open; no background means a white one
    black, white = Image.new("RGB", (8, 8)), Image.new("RGB", (8, 8), "white")
    assert score.apart([black, white]) == 1 and score.apart([black, white, white]) == pytest.approx(2 / 3)


def test_diversity_is_the_mean_distance_of_the_seeds_of_one_prompt(monkeypatch):
    def same(sd, prompts, seeds, **options):
        return torch.zeros(len(prompts), 3, 8, 8) + torch.tensor([ord(p[0]) / 128 for p in prompts]).view(-1, 1, 1, 1)

    def apart(sd, prompts, seeds, **options):
        return torch.zeros(len(prompts), 3, 8, 8) + torch.tensor(seeds).view(-1, 1, 1, 1) / 4

    monkeypatch.setattr(score, "draw", same)
    assert score.diversity(None, ["a dog", "cat"]) == 0
    monkeypatch.setattr(score, "draw", apart)  # seeds 0 to 3: 1, 1, 1, 2, 2 and 3 steps of 1/4 apart, of a range of 2
    assert score.diversity(None, ["a dog", "cat"]) == pytest.approx(10 / 6 / 4 / 2)


def test_styles_that_no_artwork_is_drawn_in_are_refused_before_anything_is_drawn(artwork):
    with pytest.raises(ValueError, match=r"'oil'.*--no-artwork"):
        score.score(None, Known(styles=("flat", "oil")), artwork)


# --- the commands -----------------------------------------------------------------------------------------------------


def test_the_training_commands_are_all_there(capsys):
    for command in ("data", "judge", "autoencoder", "diffusion", "distil", "export", "score", "speedrun"):
        with pytest.raises(SystemExit) as stopped:
            main(["train", command, "--help"])
        assert stopped.value.code == 0
        assert f"sdlearn train {command}" in capsys.readouterr().out


def test_a_model_is_made_and_scored_by_the_commands_alone(tmp_path, monkeypatch, capsys, hasty):
    write_archives(tmp_path, monkeypatch)
    # The recipe, but of one eighth of the pixels and widths.
    for module in (autoencoder, diffusion):
        monkeypatch.setattr(module, "SIZE", 64)
    monkeypatch.setattr(autoencoder, "BLOCKS", (8, 8, 8, 8))
    monkeypatch.setattr(diffusion, "UNET_BLOCKS", (16, 16, 16))
    for part in ("new_text_encoder", "new_unet"):
        monkeypatch.setattr(diffusion, part, partial(getattr(diffusion, part), width=32))
    monkeypatch.setattr(diffusion, "SETTINGS", replace(diffusion.SETTINGS, sheet_every=3))
    monkeypatch.setattr(diffusion, "curve_point", partial(diffusion.curve_point, count=2))
    monkeypatch.setattr(diffusion, "train_diffusion", partial(diffusion.train_diffusion, augmentations=1))
    monkeypatch.setattr(judge, "train_judge", partial(judge.train_judge, batch_size=4))
    monkeypatch.setattr(judge, "measure_judge", partial(judge.measure_judge, batches=1, batch_size=4))
    monkeypatch.setattr(pictures.Pictures, "batch", smaller(pictures.Pictures.batch, 16))
    monkeypatch.setattr(score, "nearest", partial(score.nearest, tries=2))
    run = tmp_path / "runs"
    run.mkdir()

    def sdlearn_train(words):
        words = words.format(run=run, artwork=f"--cache {tmp_path} --subjects 'house, key, red apple'")
        status = main(["train", *shlex.split(words)])
        return status, capsys.readouterr().out

    status, said = sdlearn_train("data {artwork} --sheet {run}/data.png")
    assert status == 0 and "29 drawings of 3 subjects" in said and "Twitter Emoji" in said
    assert Image.open(run / "data.png").width == 12 * presets.SIZE

    short = "{artwork} --steps 3 --batch-size 2"
    stopped, said = sdlearn_train(f"autoencoder {short} --run {{run}}/autoencoder --minutes 0")
    assert stopped == training_cli.STOPPED_EARLY and "the same command goes on" in said
    assert sdlearn_train(f"autoencoder {short} --run {{run}}/autoencoder")[0] == 0
    status, said = sdlearn_train("judge {artwork} --steps 40 --run {run}/judge --vae {run}/autoencoder/vae")
    assert status == 0 and {"raw", "round_trip"} <= json.loads(said).keys()
    assert judge.load_judge(run / "judge").size == 64  # that of the autoencoder it sees through
    trained = f"diffusion {short} --run {{run}}/diffusion --vae {{run}}/autoencoder/vae --judge {{run}}/judge"
    assert sdlearn_train(trained)[0] == 0
    assert (run / "diffusion" / "sheet-000003.png").exists() and (run / "diffusion" / "score.jsonl").exists()
    decoder = f"autoencoder {short} --run {{run}}/decoder --decoder-of {{run}}/autoencoder/vae"
    assert sdlearn_train(decoder)[0] == 0
    assert sdlearn_train("export --diffusion {run}/diffusion --vae {run}/decoder/vae --out {run}/model")[0] == 0

    sd = sdlearn.load(run / "model", device="cpu")
    assert sdlearn.text_to_image(sd, "a neon key", seed=1, num_inference_steps=2).size == (64, 64)
    assert set(SUBJECTS) == set(judge.load_judge(run / "judge").subjects)
    scored = "score --model {run}/model --judge {run}/judge --pictures 4 --steps 2 --held-out"
    status, said = sdlearn_train(f"{scored} --cache {tmp_path}")  # of the judge's subjects
    found = json.loads(said)
    assert status == 0 and found["sampler"] == "ddim" and found["guidance_scale"] == 7.5
    kinds = {"trained combinations", "held-out combinations", "two subjects", "keywords", *score.CLASSIC}
    for kind in kinds:
        assert found[kind]["pictures"] == 4 and all(0 <= value <= 4 for value in found[kind].values()), kind
    assert found["diversity"] > 0 and found["round trip, dB"]["mean"] > 0
    assert found["distance to the nearest training picture"]["drawn"] > 0

    assert sdlearn_train(f"distil {short} --model {{run}}/model --run {{run}}/few")[0] == 0
    few = "--lora {run}/few --sampler lcm --guidance-scale 1 --no-artwork"
    assert json.loads(sdlearn_train(f"{scored} {few}")[1])["sampler"] == "lcm"

    fine = f"diffusion {short} --run {{run}}/more --from {{run}}/model --learning-rate 5e-4 --optimizer adamw"
    assert sdlearn_train(fine)[0] == 0

    monkeypatch.setattr(training_cli, "_vae", lambda folder: autoencoder_of(run / "decoder" / "vae"))
    monkeypatch.setattr(judge, "load_judge", partial(judge.load_judge, run / "judge"))
    status, said = sdlearn_train(f"speedrun {short} --run {{run}}/speedrun --pictures 4")
    assert not status and re.search(
        r"speedrun, 20 minutes: (0|25|50|75|100)\.0% of 4 pictures are right$", said.strip()
    )


def autoencoder_of(folder):
    return AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False)


def smaller(batch, most: int):
    """`Pictures.batch` with at most so many pictures, but for sheets, whose shape is tested."""

    def few(self, index, batch_size):
        return batch(self, index, batch_size if batch_size == 96 else min(batch_size, most))

    return few


def test_the_recipe_runs_commands_and_options_that_there_are_in_order(tmp_path):
    asked = run_recipe(tmp_path, "done")
    assert [words[:2] for words in asked] == [
        ["train", part]
        for part in ("data", "autoencoder", "judge", "diffusion", "autoencoder", "export", "distil", "score", "score")
    ]  # fmt: skip
    parsed = [_parser(with_training=True).parse_args(words) for words in asked]
    data, first, judged, trained, decoder, exported, distilled, scored, few = parsed
    assert first.batch_size == 16 and first.minutes == 8 and first.cache == data.cache
    assert trained.vae == judged.vae == decoder.decoder_of == first.folder / "vae"
    assert exported.vae == decoder.folder / "vae" and exported.diffusion == trained.folder
    assert scored.model == str(exported.out) and scored.judge == trained.judge == judged.folder and scored.held_out
    assert distilled.model == few.model == scored.model and few.judge == scored.judge
    assert (few.lora, few.sampler, few.steps, few.guidance_scale) == (distil.NAME, "lcm", 4, 1)
    made = tmp_path / "run" / "model"
    assert [path.name for path in (made / "judge").iterdir()] == ["judge.json"] and loras(made) == [distil.NAME]
    assert len(run_recipe(tmp_path, "done")) == 8  # again: but a judge that is there stays


def test_the_recipe_does_not_go_on_with_half_a_part(tmp_path):
    asked = run_recipe(tmp_path, "stopped")
    assert [words[1] for words in asked] == ["data", "autoencoder"]


def run_recipe(folder, ends: str) -> list[list[str]]:
    """The command lines that recipe.sh gives to `sdlearn`, whose long parts come to such an end."""
    if os.name != "posix":
        pytest.skip("the recipe is a shell script")
    status = 0 if ends == "done" else training_cli.STOPPED_EARLY
    (folder / "bin").mkdir(exist_ok=True)
    fake = folder / "bin" / "sdlearn"
    fake.write_text(
        f'#!/bin/sh\nfor word in "$@"; do echo "$word"; done >> "$LOG"; echo --- >> "$LOG"\n'
        f"case $2 in\n"
        f'autoencoder | diffusion) exit {status} ;;\njudge) mkdir "$RUN/judge"; touch "$RUN/judge/judge.json" ;;\n'
        f'distil) mkdir -p "$RUN/few-steps"; touch "$RUN/few-steps/pytorch_lora_weights.safetensors" ;;\n'
        f"esac\n"
    )
    fake.chmod(0o755)
    log = folder / "log"
    log.unlink(missing_ok=True)
    done = subprocess.run(
        [shutil.which("sh"), str(ROOT / "sdlearn" / "training" / "recipe.sh")],
        env=os.environ | {
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "LOG": str(log), "RUN": str(folder / "run"),
            "CACHE": str(folder / "cache"), "MINUTES": "--minutes 8", "BATCH": "--batch-size 16",
        },
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return [lines.split("\n")[:-1] for lines in log.read_text().split("---\n")[:-1]]


def test_every_command_on_the_page_about_training_is_one():
    page = (NOTEBOOKS / "training.md").read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"```sh\n(.*?)```", page, re.DOTALL)).replace("\\\n", "")
    commands = [shlex.split(line) for line in re.findall(r"sdlearn train (.*)", blocks)]
    assert {command[0] for command in commands} == {"data", "diffusion", "export", "judge", "score", "speedrun"}
    parsed = [_parser(with_training=True).parse_args(["train", *words]) for words in commands]
    (new,) = {getattr(args, "subjects", None) for args in parsed} - {None, "shipped"}
    unheard = {*judge.load_judge().subjects, *presets.SUBJECTS, *presets.SYNONYMS}
    assert not set(new.split(", ")) & unheard  # new to the model
    for inline in re.findall(r"`(sdlearn train [a-z]+[^`]*)`", page):
        words = inline.split()[1:]
        known = _parser(with_training=True).parse_known_args([*words, "--run", "x", "--diffusion", "x", "--out", "x"])
        assert known[0].run, inline


def test_shipped_stands_for_the_shipped_models_subjects_in_a_list_of_subjects():
    known = list(judge.load_judge().subjects)
    assert training_cli._subjects("shipped") == known and len(known) > 200
    assert training_cli._subjects("squid, shipped ,hot dog,") == ["squid", *known, "hot dog"]
