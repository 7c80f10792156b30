"""The loop: seeds, guidance, starts, blending, and that a GPU never waits for it. Equality is test_pipelines.py's."""

from __future__ import annotations

import inspect
import json
import warnings
from copy import deepcopy
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from fake_device import DEVICE, HostWaits
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from random_models import save_random_model
from reference import generators, pipeline, relative_error

import sdlearn
from sdlearn import autoencoder, guidance, text
from sdlearn.autoencoder import draw_noise
from sdlearn.pictures import fit, to_images
from sdlearn.samplers import SAMPLERS
from sdlearn.schedule import SPACINGS

FAST = {"num_inference_steps": 3, "guidance_scale": 3.0}
STOCHASTIC = [name for name, sampler in SAMPLERS.items() if sampler.eta]


def last(steps) -> sdlearn.Step:
    *_, step = steps
    return step


def picture(sd, level: int = 90) -> Image.Image:
    array = np.full((sd.height, sd.width, 3), level, dtype=np.uint8)
    array[: sd.height // 2, :, 0] = 200
    array[:, : sd.width // 3, 2] = 30
    return Image.fromarray(array)


def mask(sd) -> Image.Image:
    array = np.zeros((sd.height, sd.width), dtype=np.uint8)
    array[sd.height // 3 :, sd.width // 4 : -5] = 255
    return Image.fromarray(array)


@pytest.fixture
def calls(random_sd):
    """The batch size of every call of the random model's UNet."""
    seen = []
    handle = random_sd.unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    yield seen
    handle.remove()


# -- on a GPU the host never waits -----------------------------------------------------------------------------------


def on_a_fake_gpu(sd, **config):
    """Its UNet without weights there; the text encoder tells a model's device, and is not asked in these runs."""
    with torch.device(DEVICE):
        unet = UNet2DConditionModel.from_config(sd.unet.config, **config).eval()
        return replace(sd, unet=unet, text_encoder=torch.nn.Linear(1, 1))


def host_waits(sd, **options) -> tuple[list[str], list[str]]:
    """What made the host wait between the first network call and the last step of a run, and what after it."""
    embeds = torch.zeros(2, 77, sd.unet.config.cross_attention_dim)
    options = FAST | {"prompt_embeds": embeds, "negative_prompt_embeds": embeds, "seeds": [1, 2]} | options
    waits, within = HostWaits(), []

    def begins(*_):
        waits.seen.clear()
        hook.remove()

    hook = sd.unet.register_forward_pre_hook(begins)
    with waits:
        for _ in sdlearn.denoise(sd, **options):
            within += waits.seen
            waits.seen.clear()
    return within, list(waits.seen)


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_step_waits_for_the_host(random_sd, name):
    within, after = host_waits(on_a_fake_gpu(random_sd), sampler=name, num_inference_steps=5, guidance_rescale=0.5)
    assert within == []
    assert after == ["_local_scalar_dense"]  # the one look at the result, whether it is finite


def test_no_step_of_inpainting_waits_for_the_host(random_sd):
    x0, hole = torch.zeros(2, 4, 8, 8), torch.ones(1, 1, 8, 8)
    assert host_waits(on_a_fake_gpu(random_sd), image_latents=x0, mask=hole, sampler="ddpm")[0] == []
    shown = {"unet_channels": torch.zeros(1, 5, 8, 8)}
    assert host_waits(on_a_fake_gpu(random_sd, in_channels=9), **shown)[0] == []


@pytest.mark.parametrize(
    ("plant", "seen"),
    [
        (lambda x: x * x.std().item(), "_local_scalar_dense"),
        (lambda x: x if (x > 0).all() else -x, "_local_scalar_dense"),
        (lambda x: x.cpu().to(DEVICE), "_to_copy"),
        (lambda x: x * torch.ones(x.shape[1:]).to(x.device), "_to_copy"),
        (lambda x: x * torch.tensor([2.0], device=x.device), "tensor"),
        (lambda x: x[[1, 0]], "index"),
    ],
)
def test_a_planted_wait_is_found(random_sd, plant, seen):
    def solver(x, levels):
        for now, after in pairwise(levels):
            x, p = yield x, now
            x = plant(after.signal * p.x0 + after.noise * p.eps)
        return x

    within, _ = host_waits(on_a_fake_gpu(random_sd), sampler=replace(SAMPLERS["ddim"], solver=solver))
    assert within.count(seen) >= FAST["num_inference_steps"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_synchronises_a_cuda_device():
    sd = sdlearn.load("emoji", device="cuda")
    for name in SAMPLERS:
        steps = sdlearn.denoise(sd, "a red apple", seed=3, sampler=name, num_inference_steps=5)
        next(steps)  # tables and noise travel before the first step
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range({"plms": 5, "heun": 8}.get(name, 4)):
                next(steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert next(steps, None) is None


# -- seeds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_picture_k_of_a_batch_is_the_same_seed_alone(random_sd, name):
    prompts = ["a fox", "an apple", "an owl"]
    batch = last(sdlearn.denoise(random_sd, prompts, seeds=[5, 6, 7], sampler=name, **FAST)).latents
    for k, seed in enumerate((5, 6, 7)):
        alone = last(sdlearn.denoise(random_sd, prompts[k], seed=seed, sampler=name, **FAST)).latents
        assert relative_error(batch[k : k + 1], alone) < 1e-5


def test_noise_is_drawn_on_the_cpu_from_each_pictures_own_generator():
    noise = draw_noise(generators(5, 6), (2, 4, 8, 8))
    assert noise.device.type == "cpu" and noise.dtype == torch.float32
    assert torch.equal(noise[1], torch.randn(1, 4, 8, 8, generator=torch.Generator("cpu").manual_seed(6))[0])


@pytest.mark.parametrize("name", STOCHASTIC)
def test_fresh_noise_differs_between_seeds_and_not_between_runs(random_sd, name):
    start = torch.zeros(1, 4, 8, 8)  # the same first latents, so that only the fresh noise can differ
    one, again, other = (
        last(sdlearn.denoise(random_sd, "a fox", latents=start, seed=seed, sampler=name, **FAST)).latents
        for seed in (5, 5, 6)
    )
    assert torch.equal(one, again)
    assert relative_error(one, other) > 0.01


def test_latents_given_are_the_unit_noise_that_a_seed_would_have_drawn(random_sd):
    for name in ("ddim", "euler"):  # the second starts at the size of sigma_max all the same
        noise = draw_noise(generators(5), (1, 4, 8, 8))
        given = last(sdlearn.denoise(random_sd, "a fox", latents=noise, sampler=name, **FAST)).latents
        drawn = last(sdlearn.denoise(random_sd, "a fox", seed=5, sampler=name, **FAST)).latents
        assert torch.equal(given, drawn)


def test_a_generator_goes_on_where_it_was(random_sd):
    generator = generators(5)
    draw_noise(generator, (1, 4, 8, 8))
    first = draw_noise(deepcopy_generators(generator), (1, 4, 8, 8))
    ours = last(sdlearn.denoise(random_sd, "a fox", generator=generator, **FAST)).latents
    assert torch.equal(ours, last(sdlearn.denoise(random_sd, "a fox", latents=first, **FAST)).latents)


def deepcopy_generators(given):
    copies = generators(*[0] * len(given))
    for copy, generator in zip(copies, given, strict=True):
        copy.set_state(generator.get_state())
    return copies


def test_a_picture_without_a_seed_remembers_the_one_that_was_drawn(random_sd):
    image = sdlearn.text_to_image(random_sd, "a fox", **FAST)
    options = sdlearn.read_settings(image)
    assert options.pop("model") == random_sd.name
    assert sdlearn.text_to_image(random_sd, **options).tobytes() == image.tobytes()
    assert sdlearn.text_to_image(random_sd, "a fox", **FAST).tobytes() != image.tobytes()


def test_settings_name_what_cannot_be_written_down(random_sd):
    image = sdlearn.text_to_image(random_sd, "a fox", seed=1, num_inference_steps=2, guidance_scale=lambda level: 3.0)
    assert sdlearn.read_settings(image)["guidance_scale"] == "function"


def test_one_prompt_and_one_seed_give_a_picture_and_everything_else_a_list(random_sd):
    assert isinstance(sdlearn.text_to_image(random_sd, "a fox", seed=1, **FAST), Image.Image)
    for prompt, options in (
        (["a fox"], {"seed": 1}),
        ("a fox", {"seeds": [1]}),
        ("a fox", {"seeds": range(2)}),
        ("a fox", {"seed": 1, "negative_prompt": ["blurry", "a dog"]}),
    ):
        images = sdlearn.text_to_image(random_sd, prompt, **FAST, **options)
        negative = options.get("negative_prompt", [])
        assert isinstance(images, list) and len(images) == max(1, len(options.get("seeds", [0])), len(negative))


# -- guidance --------------------------------------------------------------------------------------------------------


def test_guidance_asks_once_with_both_halves_and_scale_1_once_with_one(random_sd, calls):
    for scale, batch in ((3.0, 4), (1.0, 2), (0.0, 4)):
        calls.clear()
        last(sdlearn.denoise(random_sd, "a fox", seeds=[1, 2], num_inference_steps=3, guidance_scale=scale))
        assert calls == [batch] * 3


def test_scale_1_is_the_conditional_prediction_and_scale_0_the_unconditional(random_sd):
    options = {"seed": 5, "num_inference_steps": 3}
    plain = last(sdlearn.denoise(random_sd, "a fox", guidance_scale=1.0, **options)).latents
    nearly = last(sdlearn.denoise(random_sd, "a fox", guidance_scale=1 + 1e-9, **options)).latents
    assert relative_error(nearly, plain) < 1e-6
    empty = last(sdlearn.denoise(random_sd, "", guidance_scale=1.0, **options)).latents
    none = last(sdlearn.denoise(random_sd, "a fox", guidance_scale=0.0, **options)).latents
    assert relative_error(none, empty) < 1e-6
    assert relative_error(plain, empty) > 1e-4  # the prompt has a say, so that the above says something


def test_below_1_the_formula_goes_on_and_diffusers_takes_1(random_sd):
    options = {"num_inference_steps": 3, "guidance_scale": 0.5}
    pipe = pipeline("", random_sd, "ddim")
    theirs = pipe("a fox", generator=generators(5), output_type="latent", **options).images
    at_1 = last(sdlearn.denoise(random_sd, "a fox", seed=5, num_inference_steps=3, guidance_scale=1.0)).latents
    ours = last(sdlearn.denoise(random_sd, "a fox", seed=5, **options)).latents
    assert relative_error(at_1, theirs) < 1e-5
    assert relative_error(ours, theirs) > 1e-4


def test_guidance_interval_guides_inside_and_saves_calls_outside(random_sd, calls):
    steps = list(sdlearn.denoise(random_sd, "a fox", seed=5, num_inference_steps=10,
                                 guidance_scale=guidance.interval(3.0, 0.5, 5.0)))  # fmt: skip
    inside = [0.5 < step.sigma <= 5.0 for step in steps]
    assert 0 < sum(inside) < 10
    assert calls == [2 if guided else 1 for guided in inside]


def test_guidance_may_be_any_function_of_the_level(random_sd):
    asked = []

    def scale(level):
        asked.append(level.timestep)
        return 4.0

    options = {"seed": 5, "num_inference_steps": 3}
    by_function = last(sdlearn.denoise(random_sd, "a fox", guidance_scale=scale, **options)).latents
    assert torch.equal(by_function, last(sdlearn.denoise(random_sd, "a fox", guidance_scale=4.0, **options)).latents)
    assert asked == list(SAMPLERS["ddim"].plan(random_sd.schedule, 3).timesteps)


def test_each_picture_has_its_own_negative_prompt(random_sd):
    options = {"num_inference_steps": 3, "guidance_scale": 8.0}
    both = last(sdlearn.denoise(random_sd, "a fox", seeds=[5, 5], negative_prompt=["", "a red dog"], **options)).latents
    for k, negative in enumerate(("", "a red dog")):
        alone = last(sdlearn.denoise(random_sd, "a fox", seed=5, negative_prompt=negative, **options)).latents
        assert relative_error(both[k : k + 1], alone) < 1e-5
    assert relative_error(both[:1], both[1:]) > 1e-4


# -- text passed in --------------------------------------------------------------------------------------------------


def test_embeddings_passed_in_draw_the_prompts_picture(random_sd):
    options = {"seed": 5, "num_inference_steps": 3, "guidance_scale": 4.0}
    named = sdlearn.text_to_image(random_sd, "a fox", negative_prompt="a dog", **options)
    embeds = {"prompt_embeds": "a fox", "negative_prompt_embeds": "a dog"}
    embeds = {name: text.encode_prompt(random_sd, prompt) for name, prompt in embeds.items()}
    given = sdlearn.text_to_image(random_sd, None, **options, **embeds)
    assert given.tobytes() == named.tobytes()
    batch = last(sdlearn.denoise(random_sd, seeds=[5, 6], num_inference_steps=3, guidance_scale=4.0, **embeds)).latents
    assert batch.shape[0] == 2


def test_a_long_prompt_is_read_to_its_end(random_sd):
    long = "a fox " * 60
    options = {"seed": 5, "long_prompt": True, **FAST}
    one = last(sdlearn.denoise(random_sd, long + "in snow", **options)).latents
    other = last(sdlearn.denoise(random_sd, long + "on fire", **options)).latents
    assert relative_error(one, other) > 1e-5
    embeds = text.encode_prompt(random_sd, long + "in snow", long_prompt=True)
    # The empty negative prompt is repeated to the same length.
    given = last(sdlearn.denoise(random_sd, prompt_embeds=embeds, seed=5, **FAST)).latents
    assert relative_error(given, one) < 1e-5


# -- starts and ends ---------------------------------------------------------------------------------------------------


def test_strength_0_is_the_round_trip_and_takes_no_step(random_sd, calls):
    image = picture(random_sd)
    ours = sdlearn.image_to_image(random_sd, image, "a fox", strength=0.0, seed=5)
    assert calls == []
    x0 = autoencoder.encode(random_sd, image, generators(5))
    assert ours.tobytes() == to_images(autoencoder.decode(random_sd, x0))[0].tobytes()


def test_start_step_and_strength_are_one_choice(random_sd, calls):
    image, options = picture(random_sd), {"seed": 5, "num_inference_steps": 10}
    by_strength = sdlearn.image_to_image(random_sd, image, "a fox", strength=0.6, **options)
    assert len(calls) == 6
    by_step = sdlearn.image_to_image(random_sd, image, "a fox", start_step=4, **options)
    assert by_step.tobytes() == by_strength.tobytes()
    assert sdlearn.read_settings(by_step)["start_step"] == 4


def test_a_run_may_start_from_every_step(random_sd):
    x0 = torch.zeros(1, 4, 8, 8)
    for name in SAMPLERS:
        for start in range(4):
            options = {"seed": 5, "sampler": name, "num_inference_steps": 4, "start_step": start}
            first, *_ = steps = list(sdlearn.denoise(random_sd, "a fox", image_latents=x0, **options))
            assert first.timestep == SAMPLERS[name].plan(random_sd.schedule, 4, start_step=start).timesteps[0]
            assert torch.isfinite(steps[-1].latents).all()


def test_the_picture_is_noised_to_the_level_of_the_first_step_taken(random_sd):
    x0, noise = draw_noise(generators(1, 2), (2, 4, 8, 8)).split(1)
    seen = []
    handle = random_sd.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    options = {"num_inference_steps": 10, "start_step": 4, "guidance_scale": 1.0}
    step = next(sdlearn.denoise(random_sd, "a fox", image_latents=x0, latents=noise, **options))
    handle.remove()
    assert torch.allclose(seen[0], random_sd.schedule.add_noise(x0, noise, int(step.timestep)), atol=1e-6)


@pytest.mark.parametrize("size", [(101, 67), (30, 300), (5, 5)])
def test_a_photograph_of_any_size_is_scaled_and_cropped_to_the_models(random_sd, size):
    photo, hole = (picture.resize(size) for picture in (picture(random_sd), mask(random_sd)))
    native = (random_sd.width, random_sd.height)
    sentence = f"picture of {size[0]}x{size[1]} pixels is scaled and cropped to {native[0]}x{native[1]}"
    with pytest.warns(UserWarning, match=sentence):
        ours = sdlearn.image_to_image(random_sd, photo, "a fox", seed=5, **FAST)
    assert ours.size == native
    fitted = fit(photo, *native)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sdlearn.image_to_image(random_sd, fitted, "a fox", seed=5, **FAST).tobytes() == ours.tobytes()
        assert sdlearn.image_to_image(random_sd, photo, **sdlearn.read_settings(ours)).tobytes() == ours.tobytes()
    with pytest.warns(UserWarning, match=sentence) as caught:
        drawn = sdlearn.inpaint(random_sd, photo, hole, "a fox", seed=5, **FAST)
    assert drawn.size == native and len(caught) == 1
    white = np.asarray(fit(hole, *native))[..., 0] >= 128
    assert np.array_equal(np.asarray(drawn)[~white], np.asarray(fitted)[~white])


def test_a_picture_whose_size_divides_into_latents_keeps_it(random_sd):
    wide = picture(random_sd).resize((96, 48))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sdlearn.image_to_image(random_sd, wide, "a fox", seed=5, **FAST).size == (96, 48)


@pytest.mark.parametrize("size", [{}, {"height": 48, "width": 80}])
def test_unmasked_pixels_come_back_bit_for_bit(random_sd, size):
    image, hole = picture(random_sd), mask(random_sd)
    options = {"seeds": [5, 6], **FAST, **size}
    kept = np.asarray(fit(image, 80, 48) if size else image)
    white = np.asarray(fit(hole, 80, 48) if size else hole.convert("RGB"))[..., 0] >= 128
    for drawn in sdlearn.inpaint(random_sd, image, hole, "a fox", **options):
        assert np.array_equal(np.asarray(drawn)[~white], kept[~white])
        assert (np.asarray(drawn)[white] != kept[white]).any()
    blended = sdlearn.inpaint(random_sd, image, hole, "a fox", keep_outside=False, **options)
    assert (np.asarray(blended[0])[~white] != kept[~white]).any()


def test_outside_the_mask_inpainting_ends_at_the_pictures_own_latents(random_sd):
    x0, hole = draw_noise(generators(1), (1, 4, 8, 8)), torch.zeros(1, 1, 8, 8)
    hole[..., 4:] = 1
    for name in SAMPLERS:
        end = last(sdlearn.denoise(random_sd, "a fox", image_latents=x0, mask=hole, seed=5, sampler=name, **FAST))
        assert torch.equal(end.latents[..., :4], x0[..., :4])
        assert not torch.equal(end.latents[..., 4:], x0[..., 4:])


# -- what a step is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLERS)
def test_steps_count_calls_and_end_at_what_the_network_sees(random_sd, name):
    steps = list(sdlearn.denoise(random_sd, "a fox", seed=5, sampler=name, **FAST))
    assert [step.index for step in steps] == list(range(len(steps)))
    assert all(step.latents.shape == step.x0.shape == (1, 4, 8, 8) for step in steps)
    assert all(step.latents.dtype == torch.float32 for step in steps)
    if SAMPLERS[name].grid != "training" and name != "lms":  # their last step goes all the way to x0
        assert torch.allclose(steps[-1].latents, steps[-1].x0, atol=1e-5)


def test_steps_already_seen_do_not_change_afterwards(random_sd):
    steps, copies = [], []
    for step in sdlearn.denoise(random_sd, "a fox", seed=5, **FAST):
        steps.append(step)
        copies.append((step.latents.clone(), step.x0.clone()))
    for step, (latents, x0) in zip(steps, copies, strict=True):
        assert torch.equal(step.latents, latents) and torch.equal(step.x0, x0)


def test_a_run_may_be_left_early(random_sd, calls):
    for step in sdlearn.denoise(random_sd, "a fox", seed=5, num_inference_steps=20):
        if step.index == 2:
            break
    assert len(calls) == 3


def test_everything_is_checked_before_the_first_step(random_sd, calls):
    with pytest.raises(ValueError, match="Unknown sampler"):
        sdlearn.denoise(random_sd, "a fox", sampler="none")  # no step was asked for
    assert calls == []


# -- numbers -----------------------------------------------------------------------------------------------------------


def test_latents_stay_float32_around_a_bfloat16_network(random_sd, random_folder):
    half = sdlearn.load(random_folder, device="cpu", dtype="bfloat16")
    options = {"seed": 5, "num_inference_steps": 20, "guidance_scale": 3.0}
    steps = list(sdlearn.denoise(half, "a fox", **options))
    assert {step.latents.dtype for step in steps} == {torch.float32}
    error = relative_error(steps[-1].latents, last(sdlearn.denoise(random_sd, "a fox", **options)).latents)
    assert 1e-5 < error < 0.02
    assert sdlearn.text_to_image(half, "a fox", seed=5, **FAST).size == (half.width, half.height)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_overflows_is_reported_with_the_cure(random_sd, value):
    broken = replace(random_sd, unet=deepcopy(random_sd.unet))
    broken.unet.conv_out.bias.data[0] = value
    with pytest.raises(FloatingPointError, match=r"not finite \(UNet in torch.float32\); lower guidance_scale"):
        sdlearn.text_to_image(broken, "a fox", seed=5, **FAST)
    broken.unet.half()
    with pytest.raises(FloatingPointError, match="load the model with dtype='bfloat16' or 'float32'"):
        sdlearn.text_to_image(broken, "a fox", seed=5, **FAST)


@settings(max_examples=25)
@given(
    name=st.sampled_from(sorted(SAMPLERS)),
    spacing=st.sampled_from(SPACINGS),
    n=st.integers(1, 6),
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    batch=st.integers(1, 3),
    scale=st.sampled_from([0.0, 1.0, 7.5]),
    data=st.data(),
)
def test_any_shape_any_steps_any_start_ends_finite(random_sd, name, spacing, n, rows, columns, batch, scale, data):
    start = data.draw(st.integers(0, n - 1))
    seeds = data.draw(st.lists(st.integers(0, 2**63 - 1), min_size=batch, max_size=batch))
    shape = (batch, 4, 2 * rows, 2 * columns)  # the UNet halves once
    options = {"num_inference_steps": n, "spacing": spacing, "sampler": name, "guidance_scale": scale}
    options |= {"image_latents": torch.zeros(shape), "start_step": start} if start else {}
    options |= {"height": 16 * rows, "width": 16 * columns}
    steps = list(sdlearn.denoise(random_sd, "a fox", seeds=seeds, **options))
    assert steps[-1].latents.shape == shape and torch.isfinite(steps[-1].latents).all()
    taken = n - start
    assert len(steps) == {"plms": taken + (taken > 1), "heun": 2 * taken - 1}.get(name, taken)


@given(n=st.integers(1, 200), strength=st.floats(0, 1))
def test_strength_counts_the_steps_that_are_left(n, strength):
    start = sdlearn.sampling._first_step(n, strength, None, 0.8)
    assert n - start == int(n * strength)
    assert sdlearn.sampling._first_step(n, None, start, 0.8) == start


# -- bad input ---------------------------------------------------------------------------------------------------------


def wrong(sd, **options):
    return lambda: sdlearn.text_to_image(sd, **{"prompt": "a fox", **FAST, **options})


BAD_CALLS = [
    ({"prompt": []}, "The list of prompt is empty; give at least one"),
    ({"seeds": []}, "The list of seeds is empty; give at least one"),
    ({"prompt": ["a", "b"], "seeds": [1, 2, 3]}, "does not fit together: 2 of prompt, 3 of seeds; give equal numbers"),
    ({"prompt": ["a", "b"], "negative_prompt": ["a", "b", "c"]}, "2 of prompt, 3 of negative_prompt"),
    ({"prompt": ["a", "b"], "latents": torch.zeros(3, 4, 8, 8)}, "2 of prompt, 3 of latents"),
    ({"seed": 1, "seeds": [1]}, "Give either seed or seeds, not both"),
    ({"seed": -1}, "A seed must be a whole number from 0 to .*, not -1"),
    ({"seed": 1.5}, "A seed must be a whole number"),
    ({"height": 65}, "multiples of 8 for this model, for example 64x64"),
    ({"width": 4}, "multiples of 8"),
    ({"num_inference_steps": 0}, "num_inference_steps must be a whole number of at least 1, not 0"),
    ({"sampler": "euler_a"}, "Unknown sampler 'euler_a'; choose one of ddpm, ddim"),
    ({"spacing": "even"}, "Unknown spacing 'even'; choose one of leading, trailing, linspace"),
    ({"sampler": "euler", "eta": 1.0}, "eta belongs to the sampler 'ddim'"),
    ({"guidance_rescale": 1.5}, "guidance_rescale must be a finite number from 0 to 1, not 1.5"),
    ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number, not nan"),
    ({"latents": torch.zeros(4, 8, 8)}, r"latents must have the shape .B, 4, h, w., not .4, 8, 8."),
    ({"latents": torch.full((1, 4, 8, 8), torch.nan)}, "latents holds values that are not finite"),
    ({"latents": torch.zeros(1, 4, 8, 8), "height": 32}, r"latents must have the shape .B, 4, 4, 8."),
    ({"start_step": 2}, "start_step skips steps, so it needs image_latents to begin with"),
    ({"mask": torch.ones(1, 1, 8, 8)}, "give that picture's latents as image_latents"),
    (
        {"mask": torch.ones(1, 8, 8), "image_latents": torch.zeros(1, 4, 8, 8)},
        r"mask must have the shape .1 or B, 1, 8",
    ),
    ({"unet_channels": torch.ones(1, 5, 8, 8)}, r"unet_channels must have the shape .1 or B, 0, 8, 8.,"),
    ({"prompt_embeds": torch.zeros(1, 77, 48)}, "Give either a prompt or prompt_embeds"),
    ({"prompt": None}, "Give either a prompt or prompt_embeds"),
    ({"prompt": None, "prompt_embeds": torch.zeros(1, 77, 32)}, r"prompt_embeds must have the shape .B, L, 48."),
    ({"negative_prompt": "", "negative_prompt_embeds": torch.zeros(1, 77, 48)}, "Give either a negative_prompt or"),
    ({"negative_prompt_embeds": torch.zeros(1, 154, 48)}, "must agree in length; encode both in one call"),
    ({"clip_skip": 3}, "clip_skip must be a whole number from 0 to 2"),
]


@pytest.mark.parametrize(("options", "message"), BAD_CALLS)
def test_a_bad_call_is_a_sentence_that_names_the_cure(random_sd, options, message):
    with pytest.raises(ValueError, match=message):
        wrong(random_sd, **options)()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": 5}, "A prompt is a string, not int: 5"),
        ({"prompt": ["a", None]}, "A prompt is a string, not NoneType"),
        ({"generator": torch.Generator()}, "Give seed or seeds instead of a generator"),
        ({"steps": 5}, "unexpected keyword argument 'steps'"),
    ],
)
def test_a_wrong_kind_is_a_sentence_too(random_sd, options, message):
    with pytest.raises(TypeError, match=message):
        wrong(random_sd, **options)()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 1.2}, "strength must be a finite number from 0 to 1, not 1.2"),
        ({"strength": -0.1}, "strength must be a finite number from 0 to 1"),
        ({"strength": float("nan")}, "strength must be a finite number from 0 to 1"),
        ({"strength": 0.5, "start_step": 1}, "say the same thing in two ways; give one of them"),
        ({"start_step": 4}, "start_step must be a whole number from 0 to 3, not 4"),
        ({"num_inference_steps": 0}, "num_inference_steps must be a whole number of at least 1, not 0"),
        ({"image": []}, "The list of pictures is empty; give at least one"),
        ({"prompt": ["a", "b"], "image": [Image.new("RGB", (64, 64))] * 3}, "2 of prompt, 3 of pictures"),
        ({"image": [Image.new("RGB", (64, 64)), Image.new("RGB", (32, 32))]}, "Pictures of different sizes"),
    ],
)
def test_a_bad_start_is_a_sentence_that_names_the_cure(random_sd, options, message):
    with pytest.raises(ValueError, match=message):
        sdlearn.image_to_image(random_sd, **{"image": picture(random_sd), "prompt": "a fox", **FAST, **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 0.0}, "Inpainting at strength 0 would change nothing; raise strength or lower start_step"),
        ({"mask": Image.new("L", (64, 64))}, "The mask is black everywhere, so there is nothing to redraw"),
        ({"mask": Image.new("L", (32, 64), 255)}, "The mask has 32x64 pixels and the picture 64x64; resize one"),
    ],
)
def test_bad_inpainting_is_a_sentence_that_names_the_cure(random_sd, options, message):
    given = {"image": picture(random_sd), "mask": mask(random_sd), "prompt": "a fox", **FAST, **options}
    with pytest.raises(ValueError, match=message):
        sdlearn.inpaint(random_sd, **given)


def test_an_inpainting_model_is_not_run_on_uninitialised_channels(tmp_path):
    nine = sdlearn.load(save_random_model(tmp_path, unet_in_channels=9), device="cpu")
    with pytest.raises(ValueError, match="reads 5 channels beside the latents: an inpainting model, so use inpaint"):
        sdlearn.text_to_image(nine, "a fox", **FAST)
    odd = replace(nine, unet=UNet2DConditionModel.from_config(nine.unet.config, in_channels=8))
    with pytest.raises(ValueError, match="unet_channels must have the shape"):
        sdlearn.inpaint(odd, picture(odd), mask(odd), "a fox", **FAST)


def test_the_three_ways_to_draw_share_their_parameters():
    shared = {"seed", "seeds", "num_inference_steps", "guidance_scale", "negative_prompt", "sampler", "height", "width"}
    for draw in (sdlearn.text_to_image, sdlearn.image_to_image, sdlearn.inpaint, sdlearn.denoise):
        parameters = inspect.signature(draw).parameters
        assert shared <= set(parameters)
        assert all(parameters[name].default == inspect.signature(sdlearn.denoise).parameters[name].default
                   for name in shared)  # fmt: skip


def test_settings_are_plain_json(random_sd):
    image = sdlearn.text_to_image(random_sd, "a fox", seed=3, **FAST)
    assert json.loads(image.info["sdlearn"])["seed"] == 3
