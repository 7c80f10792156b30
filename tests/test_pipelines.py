"""The three ways to draw equal diffusers' three pipelines: same weights, text, guidance and seeds, same latents.

Compared are the final latents, float32 on the CPU, by relative L2 error. Pictures follow from them by one decoder call,
which test_autoencoder.py compares.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from random_models import save_random_model
from reference import PAGE, TOLERANCE, assert_stated, generators, pipeline, relative_error, scheduler, with_schedule
from toy import network, run

import sdlearn
from sdlearn import autoencoder
from sdlearn.pictures import to_images
from sdlearn.samplers import SAMPLERS
from sdlearn.schedule import NoiseSchedule

PROMPTS = ["a comic fox on a pink background", "a glossy red apple"]
MIDDLE = 0.6  # a strength
# diffusers' PLMS and LMS go wrong from the middle of a run; two tests below say how, and what ours are equal to.
STARTS = [(name, s) for name in SAMPLERS for s in (0.3, MIDDLE, 1.0) if s == 1 or name not in ("plms", "lms")]


@pytest.fixture(scope="module")
def inpainting_sd(tmp_path_factory):
    """A small random model whose UNet reads the mask and the masked picture, too: 9 channels."""
    folder = save_random_model(tmp_path_factory.mktemp("inpainting"), unet_in_channels=9, prediction_type="epsilon")
    return sdlearn.load(folder, device="cpu", dtype="float32")


@pytest.fixture
def last_latents(monkeypatch):
    """What image_to_image and inpaint decode: a list that gets the final latents of every call."""
    seen, decode = [], autoencoder.decode
    monkeypatch.setattr(autoencoder, "decode", lambda sd, latents: seen.append(latents) or decode(sd, latents))
    return seen


def last(steps) -> torch.Tensor:
    *_, step = steps
    return step.latents


def picture(sd) -> Image.Image:
    """Smooth, colourful, of the model's own size."""
    small = np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((sd.width, sd.height), Image.Resampling.BICUBIC)


def mask(sd) -> Image.Image:
    """White on the lower right, with an edge that no latent grid shares."""
    y, x = np.indices((sd.height, sd.width))
    return Image.fromarray(((x + y) > 1.1 * sd.width).astype(np.uint8) * 255)


# -- text to image ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prediction_type", "steps"), [("epsilon", (10, 20, 50)), ("v_prediction", (10,))])
@pytest.mark.parametrize("name", SAMPLERS)
def test_text_to_image_is_the_pipeline_on_a_random_model(random_sd, name, prediction_type, steps):
    sd = with_schedule(random_sd, prediction_type=prediction_type)
    pipe, errors = pipeline("", sd, name), {}
    for n in steps:
        options = {"num_inference_steps": n, "guidance_scale": 5.0}
        theirs = pipe(PROMPTS, generator=generators(3, 4), output_type="latent", **options).images
        ours = last(sdlearn.denoise(sd, PROMPTS, seeds=[3, 4], sampler=name, **options))
        errors[n] = relative_error(ours, theirs)
    assert max(errors.values()) <= TOLERANCE, errors
    if prediction_type == "epsilon":
        assert_stated(max(errors.values()), name, "Random")


# With guidance at 10 and 20 steps; without at 50, which halves the time.
SHIPPED_RUNS = ((10, 4.0), (20, 4.0), (50, 1.0))
COLUMNS = {10: "Shipped, 10", 20: "20", 50: "50"}


@pytest.mark.parametrize("name", SAMPLERS)
def test_text_to_image_is_the_pipeline_on_the_shipped_model(emoji, name):
    pipe = pipeline("", emoji, name)
    for n, scale in SHIPPED_RUNS:
        options = {"num_inference_steps": n, "guidance_scale": scale}
        theirs = pipe(PROMPTS[0], generator=generators(3), output_type="latent", **options).images
        ours = last(sdlearn.denoise(emoji, PROMPTS[0], seed=3, sampler=name, **options))
        error, bound = relative_error(ours, theirs), TOLERANCE
        if error > bound and name in ("plms", "lms"):
            # Multistep extrapolation amplifies rounding at large steps, so no two programs agree better than diffusers
            # agrees with itself once its first latents move by one unit in the last place of a float32.
            bound = 10 * sensitivity(emoji, pipe, PROMPTS[0], [3], options, theirs)
            if name == "plms" and n == 20:
                stated = float(re.search(r"diffusers' own PLMS moves\s+by (\d+e-\d+)", PAGE)[1])
                assert stated / 3 < bound / 10 < stated * 3
        assert error <= bound, (n, error, bound)
        assert_stated(error, name, COLUMNS[n])


def sensitivity(sd, pipe, prompts, seeds: list[int], options: dict, theirs: torch.Tensor) -> float:
    """How far the pipeline's own result moves when its first latents are multiplied by 1 +- 2^-23."""
    noise = torch.cat([torch.randn(1, *sd.latent_shape(), generator=one) for one in generators(*seeds)])
    moved = (pipe(prompts, latents=noise * s, output_type="latent", **options).images for s in (1 + 2**-23, 1 - 2**-23))
    found = max(relative_error(m, theirs) for m in moved)
    assert found < 1e-3  # a sampler that is truly unstable would hide any mistake
    return found


@pytest.mark.parametrize("name", ["ddim", "ddpm", "euler", "dpm++2m"])
def test_negative_prompts_rescale_and_zero_terminal_snr_are_the_pipelines(random_sd, name):
    sd = with_schedule(
        random_sd, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    options = {"num_inference_steps": 10, "guidance_scale": 5.0, "guidance_rescale": 0.7}
    options |= {"negative_prompt": ["blurry", "a dog"]}
    pipe = pipeline("", sd, name)
    theirs = pipe(PROMPTS, generator=generators(3, 4), output_type="latent", **options).images
    ours = last(sdlearn.denoise(sd, PROMPTS, seeds=[3, 4], sampler=name, **options))
    # At zero terminal SNR Euler begins with states a thousand times as large, and with them their rounding.
    own = sensitivity(sd, pipe, PROMPTS, [3, 4], options, theirs) if name == "euler" else 0
    assert relative_error(ours, theirs) <= max(TOLERANCE, 10 * own)


def test_other_sizes_and_eta_are_the_pipelines(random_sd):
    options = {"num_inference_steps": 10, "guidance_scale": 3.0, "height": 48, "width": 96, "eta": 0.5}
    theirs = pipeline("", random_sd, "ddim")(
        PROMPTS[0], generator=generators(5), output_type="latent", **options
    ).images
    ours = last(sdlearn.denoise(random_sd, PROMPTS[0], seed=5, sampler="ddim", **options))
    assert ours.shape == (1, 4, 6, 12)
    assert relative_error(ours, theirs) <= TOLERANCE


def test_the_pictures_themselves_are_the_pipelines(emoji):
    options = {"num_inference_steps": 10, "guidance_scale": 4.0}
    theirs = pipeline("", emoji, "ddim")(PROMPTS, generator=generators(3, 4), **options).images
    ours = sdlearn.text_to_image(emoji, PROMPTS, seeds=[3, 4], **options)
    for our, their in zip(ours, theirs, strict=True):
        difference = np.abs(np.asarray(our, dtype=int) - np.asarray(their, dtype=int))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.001  # a value that rounds the other way


# -- image to image --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "strength"), STARTS)
def test_image_to_image_is_the_pipeline(random_sd, last_latents, name, strength):
    sd, image = with_schedule(random_sd, prediction_type="epsilon"), picture(random_sd)
    options = {"num_inference_steps": 10, "guidance_scale": 5.0, "strength": strength}
    pipe = pipeline("Img2Img", sd, name)
    theirs = pipe(PROMPTS, image=image, generator=generators(3, 4), output_type="latent", **options).images
    sdlearn.image_to_image(sd, image, PROMPTS, seeds=[3, 4], sampler=name, **options)
    error = relative_error(last_latents[-1], theirs)
    assert error <= TOLERANCE
    if strength == (1 if name in ("plms", "lms") else MIDDLE):
        assert_stated(error, name, "Image to image")


@pytest.mark.parametrize("name", ["ddim", "euler_ancestral", "dpm++2m"])
def test_image_to_image_is_the_pipeline_on_the_shipped_model(emoji, last_latents, name):
    options = {"num_inference_steps": 20, "guidance_scale": 4.0, "strength": MIDDLE}
    theirs = pipeline("Img2Img", emoji, name)(PROMPTS[0], image=picture(emoji), generator=generators(3),
                                              output_type="latent", **options).images  # fmt: skip
    sdlearn.image_to_image(emoji, picture(emoji), PROMPTS[0], seed=3, sampler=name, **options)
    assert relative_error(last_latents[-1], theirs) <= TOLERANCE


def drive(reference, sd, x: torch.Tensor) -> torch.Tensor:
    """Run a prepared diffusers scheduler from x with the toy network."""
    net = network(sd)
    for t in reference.timesteps:
        x = reference.step(net(reference.scale_model_input(x, t), t), t, x).prev_sample
    return x


def test_plms_begins_in_the_middle_as_at_the_top_and_diffusers_one_timestep_too_early():
    # PNDM's list of timesteps holds its second one twice, and the img2img pipeline cuts it as if it did not: k steps
    # in, it begins at the timestep before, and takes the correction that belongs to a repeated one where none is.
    schedule, n, k = NoiseSchedule(), 20, 8
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    plan = SAMPLERS["plms"].plan(schedule, n, start_step=k)
    reference = scheduler("plms", schedule)
    reference.set_timesteps(n)
    asked = schedule.timesteps(n)
    assert reference.timesteps[k] == asked[k - 1]
    steps = run(plan.start(noise), network(schedule))
    assert [step.timestep for step in steps[:4]] == [asked[k], asked[k + 1], asked[k + 1], asked[k + 2]]

    ours = steps[-1].latents
    cut = reference.timesteps[k:]
    reference.timesteps = torch.tensor([asked[k], asked[k + 1], *asked[k + 1 :]])
    assert relative_error(ours, drive(reference, schedule, noise)) <= TOLERANCE
    reference.set_timesteps(n)
    reference.timesteps = cut
    assert relative_error(ours, drive(reference, schedule, noise)) > 1e-3


def test_lms_begins_in_the_middle_with_euler_and_diffusers_with_a_fraction_of_a_step():
    # In the middle, diffusers' LMS takes the first of four weights and has no slopes for the other three.
    schedule, n, k = NoiseSchedule(), 20, 8
    noise = 5 * torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    plan = SAMPLERS["lms"].plan(schedule, n, start_step=k)
    ours = run(plan.start(noise), network(schedule))[-1].latents

    reference = scheduler("lms", schedule)
    reference.set_timesteps(n)
    cut = reference.timesteps[k:]
    reference.set_begin_index(k)
    reference.timesteps = cut
    weights = [reference.get_lms_coefficient(4, k, j) for j in range(4)]
    step = (reference.sigmas[k + 1] - reference.sigmas[k]).item()
    assert sum(weights) == pytest.approx(step, rel=1e-5)
    assert abs(weights[0] / step - 1) > 0.5  # the one weight it uses is far from the whole step
    assert relative_error(ours, drive(reference, schedule, noise)) > 1e-3

    # The same scheduler, given the tail of its list as if that were all, is ours.
    reference.set_timesteps(n)
    reference.timesteps, reference.sigmas = reference.timesteps[k:], reference.sigmas[k:]
    reference.set_begin_index(0)
    assert relative_error(ours, drive(reference, schedule, noise)) <= TOLERANCE


@pytest.mark.parametrize(("n", "strength", "taken"), [(100, 0.29, 28), (50, 0.29, 14), (20, 0.6, 12), (20, 1.0, 20)])
def test_strength_takes_the_pipelines_number_of_steps(random_sd, n, strength, taken):
    pipe = pipeline("Img2Img", random_sd, "ddim")
    pipe.scheduler.set_timesteps(n)
    assert len(pipe.get_timesteps(n, strength, "cpu")[0]) == taken  # int(100 * 0.29) is 28
    assert n - sdlearn.sampling._first_step(n, strength, None, 0.8) == taken


def test_a_strength_below_one_step_is_an_empty_batch_there_and_the_round_trip_here(random_sd, last_latents):
    image = picture(random_sd)
    pipe = pipeline("Img2Img", random_sd, "ddim")
    theirs = pipe(PROMPTS[0], image=image, strength=0.04, num_inference_steps=20, output_type="latent").images
    assert theirs.shape[0] == 0
    ours = sdlearn.image_to_image(random_sd, image, PROMPTS[0], strength=0.04, num_inference_steps=20, seed=3)
    encoded = autoencoder.encode(random_sd, image, generators(3))
    assert torch.equal(last_latents[-1], encoded)
    assert ours.tobytes() == to_images(autoencoder.decode(random_sd, encoded))[0].tobytes()


def test_strength_1_still_holds_a_trace_of_the_picture(random_sd, last_latents):
    sd = with_schedule(random_sd, prediction_type="epsilon")
    sdlearn.image_to_image(sd, picture(sd), PROMPTS[0], strength=1.0, num_inference_steps=10, latents=None, seed=3)
    x0 = autoencoder.encode(sd, picture(sd), generators(3))
    generator = generators(3)
    autoencoder.draw_noise(generator, x0.shape)  # the posterior's draw
    noise = autoencoder.draw_noise(generator, x0.shape)
    from_noise = last(sdlearn.denoise(sd, PROMPTS[0], latents=noise, num_inference_steps=10))
    assert 1e-3 < relative_error(last_latents[0], from_noise) < 0.5


# -- inpainting ------------------------------------------------------------------------------------------------------


def inpainted(sd, name: str, n: int, strength: float) -> torch.Tensor:
    pipe = pipeline("Inpaint", sd, name)
    # Lists, because with one picture diffusers draws its posterior once for all seeds, and picture 2 depends on seed 1.
    images, masks = [picture(sd)] * 2, [mask(sd)] * 2
    return pipe(PROMPTS, image=images, mask_image=masks, strength=strength, num_inference_steps=n, guidance_scale=5.0,
                height=sd.height, width=sd.width, generator=generators(3, 4), output_type="latent").images  # fmt: skip


@pytest.mark.parametrize(("name", "strength"), [start for start in STARTS if start[1] >= MIDDLE])
@pytest.mark.parametrize("channels", [4, 9])
def test_inpainting_is_the_pipeline(random_sd, inpainting_sd, last_latents, channels, name, strength):
    sd = with_schedule(random_sd, prediction_type="epsilon") if channels == 4 else inpainting_sd
    options = {"num_inference_steps": 10, "guidance_scale": 5.0, "strength": strength}
    sdlearn.inpaint(sd, picture(sd), mask(sd), PROMPTS, seeds=[3, 4], sampler=name, **options)
    error = relative_error(last_latents[-1], inpainted(sd, name, 10, strength))
    assert error <= TOLERANCE
    if strength == (1 if name in ("plms", "lms") else MIDDLE):
        assert_stated(error, name, {4: "Inpaint, 4 channels", 9: "9 channels"}[channels])


def test_inpainting_is_the_pipeline_on_the_shipped_model(emoji, last_latents):
    sdlearn.inpaint(
        emoji, picture(emoji), mask(emoji), PROMPTS, seeds=[3, 4], num_inference_steps=20, guidance_scale=5.0
    )
    assert relative_error(last_latents[-1], inpainted(emoji, "ddim", 20, 1.0)) <= TOLERANCE


def test_inpainting_one_picture_draws_its_latents_once_for_each_seed(random_sd, last_latents):
    sd, options = with_schedule(random_sd, prediction_type="epsilon"), {"num_inference_steps": 5, "guidance_scale": 5.0}
    sdlearn.inpaint(sd, picture(sd), mask(sd), "a fox", seeds=[3, 4], **options)
    sdlearn.inpaint(sd, picture(sd), mask(sd), "a fox", seed=4, **options)
    assert relative_error(last_latents[0][1:], last_latents[1]) <= TOLERANCE
    # diffusers draws them once, from the first seed, so that its second picture is not what the second seed draws.
    pipe, size = pipeline("Inpaint", sd, "ddim"), {"height": sd.height, "width": sd.width, "output_type": "latent"}
    one = {"image": picture(sd), "mask_image": mask(sd), **options, **size}
    both = pipe("a fox", num_images_per_prompt=2, generator=generators(3, 4), **one).images
    alone = pipe("a fox", generator=generators(4), **one).images
    assert relative_error(both[1:], alone) > 0.01
    assert relative_error(last_latents[1], alone) <= TOLERANCE


def test_the_shipped_folder_draws_by_diffusers_own_defaults(emoji):
    """The call that every tutorial makes: its scheduler, whatever the folder names, must bear a guidance of 7.5."""
    pipe = StableDiffusionPipeline.from_pretrained(sdlearn.model_path())
    assert type(pipe.scheduler).__name__ == "DDIMScheduler" and not pipe.scheduler.config.clip_sample
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe("a glossy dog", num_inference_steps=10, generator=torch.Generator().manual_seed(7)).images[0]
    ours = sdlearn.text_to_image(emoji, "a glossy dog", seed=7, num_inference_steps=10)
    assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1
