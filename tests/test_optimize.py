"""The fast path: the same latents, the same calls, less work; and a message where it does not fit."""

import gc
import warnings
import weakref
from dataclasses import replace

import accelerate
import pytest
import torch
from diffusers import UNet2DConditionModel
from fake_device import let_the_cpu_record_graphs
from torch.utils.flop_counter import FlopCounterMode

import sdlearn
from sdlearn.fast import FastUNet, _Graph, optimize
from sdlearn.guidance import interval

TOLERANCE = 1e-5  # relative L2 error of a run's latents, float32
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def final(sd, prompt="a cat", **options) -> torch.Tensor:
    options = {"seed": 1, "num_inference_steps": 4, **options}
    return list(sdlearn.denoise(sd, prompt, **options))[-1].latents


def assert_same(fast, plain, tolerance=TOLERANCE):
    assert (fast - plain).norm() <= tolerance * plain.norm()


@pytest.fixture(scope="module")
def fast_emoji(emoji):
    return optimize(emoji)


@pytest.mark.parametrize("sampler", ["ddim", "plms", "euler", "heun", "dpm++2m"])
def test_the_fast_path_draws_the_same_latents(emoji, fast_emoji, sampler):
    assert isinstance(fast_emoji.unet, FastUNet)
    assert_same(final(fast_emoji, sampler=sampler), final(emoji, sampler=sampler))


@pytest.mark.parametrize(
    "options",
    [
        {"guidance_scale": 1.0},
        {"guidance_scale": interval(7.5, 0.5, 5.0)},  # batches of one and of two in one run
        {"negative_prompt": "blue"},
        {"prompt": ["a cat", "a dog"], "seed": None, "seeds": [3, 4]},
        {"long_prompt": True, "prompt": "a cat " * 60},
        {"width": 32},
    ],
)
def test_every_kind_of_run_stays_the_same(emoji, fast_emoji, options):
    options = {"prompt": "a cat", **options}
    if "width" in options:
        options["width"] = emoji.width // 2
    assert_same(final(fast_emoji, **options), final(emoji, **options))


def test_image_to_image_and_inpainting_go_through_it(emoji, fast_emoji):
    picture = sdlearn.text_to_image(emoji, "a cat", seed=1, num_inference_steps=4)
    mask = picture.convert("L").point(lambda value: 255 * (value > 100))
    for draw in (
        lambda sd: sdlearn.image_to_image(sd, picture, "a dog", seed=2, num_inference_steps=4),
        lambda sd: sdlearn.inpaint(sd, picture, mask, "a dog", seed=2, num_inference_steps=4),
    ):
        ours, theirs = sdlearn.pictures.to_tensor([draw(fast_emoji), draw(emoji)])
        assert (ours - theirs).abs().max() <= 1.01 / 127.5


def test_models_of_another_geometry_and_prediction_too(random_sd):
    assert_same(final(optimize(random_sd)), final(random_sd))


def test_stable_diffusion_2s_linear_projections_too(random_folder, random_sd):
    config = dict(random_sd.unet.config) | {"use_linear_projection": True, "attention_head_dim": (4, 8)}
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(config).eval().requires_grad_(False)
    sd = replace(random_sd, unet=unet)
    assert_same(final(optimize(sd)), final(sd))


def test_the_original_is_left_alone_and_shares_its_weights(random_folder):
    sd = sdlearn.load(random_folder, "cpu")
    before = {key: (value.data_ptr(), value.stride()) for key, value in sd.unet.state_dict().items()}
    latents = final(sd)
    fast = optimize(sd)
    final(fast)
    assert {key: (value.data_ptr(), value.stride()) for key, value in sd.unet.state_dict().items()} == before
    torch.testing.assert_close(final(sd), latents, rtol=0, atol=0)
    shared = {value.data_ptr() for value in fast.unet.state_dict().values()} & {p for p, _ in before.values()}
    assert len(shared) > len(before) / 2
    assert (fast.device, fast.dtype, fast.latent_shape()) == (sd.device, sd.dtype, sd.latent_shape())


def test_text_is_projected_once_for_a_run(fast_emoji):
    calls = []
    handle = fast_emoji.unet.project_text.register_forward_hook(lambda *_: calls.append(1))
    final(fast_emoji, "a horse", num_inference_steps=6)
    handle.remove()
    assert len(calls) == 1


def test_the_next_prompt_is_never_answered_with_the_last_ones_text(emoji, fast_emoji):
    final(fast_emoji, "a cat")
    assert_same(final(fast_emoji, "a red house on a blue background"), final(emoji, "a red house on a blue background"))
    states = sdlearn.text.encode_prompt(emoji, "a cat").clone()
    sample, timestep = torch.randn(1, 4, 16, 16), torch.tensor(500.0)
    first = fast_emoji.unet(sample, timestep, encoder_hidden_states=states, return_dict=False)[0]
    states.mul_(-1)  # changed in place: the same tensor, another text
    second = fast_emoji.unet(sample, timestep, encoder_hidden_states=states, return_dict=False)[0]
    assert not torch.equal(first, second)
    assert_same(second, emoji.unet(sample, timestep, encoder_hidden_states=states, return_dict=False)[0])


def test_a_step_does_less_arithmetic_than_the_plain_one(emoji, fast_emoji):
    states = sdlearn.text.encode_prompt(emoji, ["", "a cat"])
    inputs = (torch.randn(2, *emoji.latent_shape()), torch.tensor(500.0))
    flops = {}
    for name, unet in (("plain", emoji.unet), ("fast", fast_emoji.unet)):
        unet(*inputs, encoder_hidden_states=states, return_dict=False)  # the text's share falls away after this
        with FlopCounterMode(display=False) as counter:
            unet(*inputs, encoder_hidden_states=states, return_dict=False)
        flops[name] = counter.get_total_flops()
    text = 2 * states.shape[0] * states.shape[1] * fast_emoji.unet.project_text.weight.numel()
    assert flops["plain"] - flops["fast"] == text


def test_it_works_in_inference_mode(emoji, fast_emoji):
    with torch.inference_mode():
        assert_same(final(fast_emoji), final(emoji))


def test_half_precision_agrees_within_its_rounding(random_folder):
    sd = sdlearn.load(random_folder, "cpu", "bfloat16")
    assert_same(final(optimize(sd)), final(sd), tolerance=2e-2)


# -- where it does not fit -----------------------------------------------------------------------------------------


def test_an_offloaded_unet_stays_as_it_is_with_a_message(random_folder):
    sd = sdlearn.load(random_folder, "cpu")
    accelerate.cpu_offload(sd.unet, torch.device("cpu"))
    with pytest.warns(UserWarning, match=r"does not fit this UNet: its weights are kept in main memory \(low_memory\)"):
        assert optimize(sd) is sd


def test_optimizing_twice_says_so(fast_emoji):
    with pytest.warns(UserWarning, match="it is a FastUNet"):
        assert optimize(fast_emoji) is fast_emoji


def test_unusual_unets_stay_as_they_are_with_a_message(random_sd):
    config = dict(random_sd.unet.config) | {"only_cross_attention": True}
    sd = replace(random_sd, unet=UNet2DConditionModel.from_config(config))
    with pytest.warns(UserWarning, match="its config has only_cross_attention"):
        assert optimize(sd) is sd


def test_graphs_are_refused_without_a_cuda_device(emoji):
    with pytest.raises(ValueError, match="CUDA graphs need a CUDA device, and this model is on cpu"):
        optimize(emoji, graph=True)


def test_a_graph_that_cannot_be_recorded_is_said_and_done_without(emoji):
    fast = optimize(emoji)
    fast.unet.graph = True  # as on a CUDA device; recording fails without one
    with pytest.warns(UserWarning, match="without a CUDA graph, which failed: "):
        latents = final(fast)
    assert_same(latents, final(emoji))


def test_a_compiler_that_fails_is_said_and_done_without(emoji):
    def no_compiler(*_):
        raise RuntimeError("backend='inductor' raised:\nNo C++ compiler was found\nand much more")

    fast = optimize(emoji)
    fast.unet.call = no_compiler
    with pytest.warns(UserWarning, match=r"without torch.compile, which failed: No C\+\+ compiler was found$"):
        latents = final(fast)
    assert_same(latents, final(emoji))


# -- graphs, recorded on the CPU by a stand-in that replays operations on the same memory -----------------------------


@pytest.fixture
def graphed_emoji(emoji, monkeypatch):
    let_the_cpu_record_graphs(monkeypatch)
    fast = optimize(emoji)
    fast.unet.graph = True
    return fast


def recorded(fast) -> int:
    return sum(isinstance(call, _Graph) for call in fast.unet._calls.values())


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({}, 1),
        ({"guidance_scale": 1.0}, 1),
        ({"guidance_scale": interval(7.5, 0.5, 5.0)}, 2),  # batches of one and of two in one run
        ({"sampler": "plms", "guidance_scale": 2.0}, 1),
        ({"sampler": "euler_karras", "guidance_scale": 2.0}, 1),
        ({"long_prompt": True, "prompt": "a cat " * 60}, 1),
    ],
)
def test_a_replayed_graph_draws_the_same_latents(emoji, graphed_emoji, options, sizes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(final(graphed_emoji, **options), final(emoji, **options))
    assert recorded(graphed_emoji) == sizes


def test_one_graph_serves_every_prompt_and_every_size_has_its_own(emoji, graphed_emoji):
    for prompt in ("a cat", "a red house on a blue background", "a cat"):
        assert_same(final(graphed_emoji, prompt), final(emoji, prompt))
    assert recorded(graphed_emoji) == 1
    for options in ({"width": emoji.width // 2}, {"seed": None, "seeds": [3, 4]}, {}):
        assert_same(final(graphed_emoji, **options), final(emoji, **options))
    assert recorded(graphed_emoji) == 3


def test_memory_is_free_as_soon_as_the_model_is_dropped(random_folder, monkeypatch):
    let_the_cpu_record_graphs(monkeypatch)
    fast = optimize(sdlearn.load(random_folder, "cpu"))
    fast.unet.graph = True
    final(fast)
    weight = weakref.ref(fast.unet.unet.conv_in.weight)
    gc.collect()
    gc.disable()
    try:
        del fast
        assert weight() is None
    finally:
        gc.enable()


def test_a_graph_recorded_in_inference_mode_serves_outside_of_it_too(emoji, graphed_emoji):
    with torch.inference_mode():
        final(graphed_emoji)
    assert_same(final(graphed_emoji, "a dog"), final(emoji, "a dog"))


def test_a_graph_that_took_a_value_for_a_constant_is_found_out(emoji, graphed_emoji, monkeypatch):
    plain = graphed_emoji.unet.plain

    def reads_the_timestep(sample, timestep, text):
        return plain(sample, torch.tensor(timestep.item()), text)

    graphed_emoji.unet.plain = graphed_emoji.unet.call = reads_the_timestep
    with pytest.warns(UserWarning, match=r"without a CUDA graph, which failed: its answer is off by [\d.]+%"):
        latents = final(graphed_emoji)
    assert recorded(graphed_emoji) == 0
    assert_same(latents, final(emoji))


# -- on a GPU ------------------------------------------------------------------------------------------------------


@needs_cuda
@pytest.mark.parametrize("options", [{}, {"guidance_scale": interval(7.5, 0.5, 5.0)}, {"sampler": "plms"}])
def test_cuda_graphs_draw_the_same_latents(random_folder, options):
    sd = sdlearn.load(random_folder, "cuda", "float32")
    fast = optimize(sd)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for prompt in ("a cat", "a dog"):  # the second run replays what the first recorded
            assert_same(final(fast, prompt, **options), final(sd, prompt, **options), tolerance=1e-3)
    assert recorded(fast)


@needs_cuda
def test_a_replayed_step_does_not_wait_for_the_host(random_folder):
    fast = optimize(sdlearn.load(random_folder, "cuda", "float16"))
    final(fast)
    steps = sdlearn.denoise(fast, "a cat", seed=1, num_inference_steps=4, progress=False)
    next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            next(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_cuda
def test_compiled_graphs_draw_the_same_latents(random_folder):
    sd = sdlearn.load(random_folder, "cuda", "float32")
    assert_same(final(optimize(sd, compile=True)), final(sd), tolerance=1e-3)
