"""The sampling loop, and the three ways to use it.

`denoise` is a generator: it yields every `Step` as it is taken, so watching, stopping early and keeping intermediate
states need no callbacks. `text_to_image`, `image_to_image` and `inpaint` differ only in where it starts and in what is
blended in after each step.

On a GPU the host runs ahead: within a step nothing is read back, every coefficient is a Python float, all random
numbers were drawn beforehand (on the CPU, one generator per picture, so that a seed gives the same picture on every
device and in every batch).

Parameters that diffusers' pipelines have too carry their names and meanings; where a meaning differs, the docstring
says so.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from . import autoencoder, guidance, pictures, samplers
from .autoencoder import Generators, draw_noise
from .batch import Batch, Prompt, Settings, each, plain
from .model import StableDiffusion, check_model
from .pictures import Picture, to_images
from .samplers import Plan, Prediction
from .schedule import CLEAN, Level, number, whole_number
from .text import encode_prompt


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a run.

    index: counts the network's answers in this run, from 0.
    timestep: the training timestep that the network was asked at.
    sigma: the noise level there.
    latents: the state after the step, (B, C, h, w) float32, on the sampler's own scale.
    x0: the finished latents as the network sees them from here, same shape, ready for `autoencoder.decode`.
    """

    index: int
    timestep: float
    sigma: float
    latents: Tensor
    x0: Tensor


@torch.no_grad()
def solve(
    solver: samplers.Solver,
    ask: Callable[[Tensor, Level], Tensor],
    prediction_type: str = "epsilon",
    blend: Callable[[Tensor, Level], Tensor] | None = None,
) -> Iterator[Step]:
    """Diffusion is this loop: ask the network what it sees in x, and let the solver take a step on its answer.

    solver: a started one, `Plan.start(x)` or for example `samplers.heun(x, levels)`.
    ask: the network's output, guidance included, for (x, level).
    prediction_type: what the output stands for.
    blend: what takes the place of x when a level is reached (inpainting).
    """
    x, level = next(solver)
    for index in count():
        prediction = Prediction(x, ask(x, level), level, prediction_type)
        try:
            x, reached = solver.send((x, prediction))
        except StopIteration as end:  # the solver has come to the end of its levels
            x, reached = end.value, None
        if blend is not None:
            x = blend(x, reached or CLEAN)
        yield Step(index, level.timestep, level.sigma, x, prediction.x0)
        if reached is None:
            return
        level = reached


def network(sd, plan: Plan, asked: Settings, scales, uncond, cond, x: Tensor) -> Callable[[Tensor, Level], Tensor]:
    """What `solve` asks: the UNet, with and without the prompt in one call, and guidance between the two answers."""
    n, channels = x.shape[:2]
    both = cond if uncond is None else torch.cat([uncond, cond])
    timesteps = torch.tensor(plan.timesteps, dtype=torch.float32).to(x.device)
    moments = dict(zip(plan.levels, zip(timesteps, scales, strict=True), strict=False))
    unet_input = torch.empty(len(both), sd.unet.config.in_channels, *x.shape[2:], dtype=sd.dtype, device=x.device)
    if asked.unet_channels is not None:
        shown = asked.unet_channels.to(sd.device, sd.dtype).expand(n, -1, -1, -1)
        unet_input[:, channels:] = shown.repeat(len(both) // n, 1, 1, 1)

    def ask(x: Tensor, level: Level) -> Tensor:
        timestep, scale = moments[level]
        states = cond if scale == 1 else both
        sample = unet_input[: len(states)]
        # (n, C, h, w) into (groups, n, C, h, w): scaled, cast and doubled by one copy.
        sample.unflatten(0, (-1, n))[:, :, :channels].copy_(x * level.input_scale)
        output = sd.unet(sample, timestep, encoder_hidden_states=states, return_dict=False)[0].float()
        if scale == 1:
            return output
        without, with_prompt = output.chunk(2)
        output = guidance.guide(without, with_prompt, scale)
        return guidance.rescale(output, with_prompt, asked.guidance_rescale) if asked.guidance_rescale else output

    return ask


def denoise(
    sd: StableDiffusion,
    prompt: Prompt | None = None,
    *,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    num_inference_steps: int = 25,
    guidance_scale: guidance.GuidanceScale = 7.5,
    guidance_rescale: float = 0.0,
    negative_prompt: Prompt | None = None,
    sampler: str | samplers.Sampler = "ddim",
    eta: float | None = None,
    spacing: str | None = None,
    height: int | None = None,
    width: int | None = None,
    start_step: int = 0,
    latents: Tensor | None = None,
    image_latents: Tensor | None = None,
    mask: Tensor | None = None,
    unet_channels: Tensor | None = None,
    prompt_embeds: Tensor | None = None,
    negative_prompt_embeds: Tensor | None = None,
    clip_skip: int | None = None,
    long_prompt: bool = False,
    prompt_weights: bool = False,
    generator: Generators = None,
    progress: bool = True,
    **options,
) -> Iterator[Step]:
    """Run the reverse process and yield every `Step`.

    prompt, negative_prompt: what to draw, and what not ("" by default); one text, or one for each picture.
    seed, seeds: one number for each picture; none draws one.
    num_inference_steps: the steps of the run.
    guidance_scale: a number or a function of the `Level` (see `guidance.interval`). Steps at scale 1 ask the network
        once, not twice, and there a negative prompt has no say. Below 1 the formula goes on as it is, where diffusers
        takes 1.
    guidance_rescale: 0..1, as in `guidance.rescale`.
    sampler: a name in SAMPLERS, or a `Sampler` of your own (diffusers: the scheduler).
    eta: DDIM's share of fresh noise, 0..1.
    spacing: "leading", "trailing" or "linspace"; None for the model's or the sampler's own (timestep_spacing there).
    height, width: pixels, multiples of `sd.vae_factor`; by default what the model was trained at.
    start_step: how many steps are skipped; needs image_latents.
    latents: the unit noise itself (B, C, h, w); seeds then only decide a stochastic sampler's fresh noise.
    image_latents: clean latents (B, C, h, w), noised to the level of start_step; None starts from noise alone.
    mask: (1 or B, 1, h, w), 1 where to draw. Elsewhere image_latents, noised to the level reached, replace the state
        after every step, and at start_step 0 the run starts from noise alone.
    unet_channels: (1 or B, c, h, w), shown to the UNet beside the latents (inpainting models).
    prompt_embeds, negative_prompt_embeds: encoder states (B, 77 n, D) in the place of texts.
    clip_skip, long_prompt, prompt_weights: as in `text.encode_prompt`.
    generator: CPU generators that were drawn from before, in the place of seeds.
    progress: a bar on the terminal, for runs of more than a few seconds.
    options: what else `read_settings` finds in a picture: the name and dtype of the model that drew it.

    Everything is checked before the first step; a run whose numbers overflow ends in FloatingPointError.
    """
    given = {name: value for name, value in locals().items() if name not in ("sd", "generator", "options")}
    asked = Settings(**given | options)
    return _run(sd, asked, Batch(asked, generator))


def text_to_image(
    sd: StableDiffusion,
    prompt: Prompt | None,
    *,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    num_inference_steps: int = 25,
    guidance_scale: guidance.GuidanceScale = 7.5,
    negative_prompt: Prompt | None = None,
    sampler: str = "ddim",
    height: int | None = None,
    width: int | None = None,
    **options,
) -> Image.Image | list[Image.Image]:
    """Draw what a prompt says (diffusers: StableDiffusionPipeline).

    prompt: one text or several, or None where prompt_embeds are given.
    seed, seeds: one number per picture; None draws one, and the picture carries it in its settings (diffusers: a list
        of CPU generators, one per picture).
    options: every further one is of `denoise`, as are the others here.

    One prompt and one seed give an image; anything else gives a list, prompts and seeds paired, a single one repeated
    for all the others. Raises ValueError for what does not fit together or does not exist, TypeError for a wrong kind,
    FloatingPointError where numbers overflow; each says what to do.
    """
    asked = Settings(prompt, negative_prompt, seed, seeds, num_inference_steps, guidance_scale, sampler, height, width,
                     **options)  # fmt: skip
    batch = Batch(asked)
    return batch.sign(sd, _draw(sd, _run(sd, asked, batch)))


def image_to_image(
    sd: StableDiffusion,
    image: Picture | Sequence[Picture],
    prompt: Prompt | None,
    *,
    strength: float | None = None,
    start_step: int | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    num_inference_steps: int = 25,
    guidance_scale: guidance.GuidanceScale = 7.5,
    negative_prompt: Prompt | None = None,
    sampler: str = "ddim",
    height: int | None = None,
    width: int | None = None,
    **options,
) -> Image.Image | list[Image.Image]:
    """Draw a prompt, starting from a picture instead of from pure noise (SDEdit, Meng et al. 2022).

    image: one picture, or one for each prompt or seed. With height or width it is scaled and cropped to that size.
    strength: 0..1, how much of the run is done: the last int(num_inference_steps * strength) steps, 0.8 by default.
        At 0 (wherever that number is 0) no step is taken and the picture comes back from the autoencoder's round trip;
        at 1 every step is taken, but even the noisiest one still holds a trace of the picture.
    start_step: the same choice as the tutorials make it, the number of steps to skip; give one of the two.

    The picture is noised to the level of the first step taken. Other parameters as for `text_to_image`. Equal to
    diffusers' StableDiffusionImg2ImgPipeline, save that a strength too small for one step is an error or an empty
    batch there, and that PLMS and LMS begin in the middle as they begin at the top.
    """
    start_step = _first_step(num_inference_steps, strength, start_step, default=0.8)
    asked = Settings(prompt, negative_prompt, seed, seeds, num_inference_steps, guidance_scale, sampler, height, width,
                     start_step=start_step, **options)  # fmt: skip
    _check_model(sd, asked)
    if asked.image_latents is not None:
        raise TypeError("image_to_image works out image_latents from the image; leave them out, or call denoise.")
    images = [_fitted(sd, picture, asked.height, asked.width) for picture in pictures.as_list(image)]
    batch = Batch(asked, pictures=images)
    taken = start_step < asked.num_inference_steps
    _plan(sd, asked if taken else replace(asked, start_step=0))  # a run of no steps is checked like any other
    # The posterior is drawn before the noise, as in the diffusers pipeline: the same seed gives the same picture.
    x0 = autoencoder.encode(sd, each(images, batch.size), batch.generators)
    if not taken:
        return batch.sign(sd, to_images(autoencoder.decode(sd, x0)))
    return batch.sign(sd, _draw(sd, _run(sd, replace(asked, image_latents=x0), batch)))


def inpaint(
    sd: StableDiffusion,
    image: Picture,
    mask: Picture,
    prompt: Prompt | None,
    *,
    strength: float | None = None,
    start_step: int | None = None,
    seed: int | None = None,
    seeds: Sequence[int] | None = None,
    num_inference_steps: int = 25,
    guidance_scale: guidance.GuidanceScale = 7.5,
    negative_prompt: Prompt | None = None,
    sampler: str = "ddim",
    height: int | None = None,
    width: int | None = None,
    keep_outside: bool = True,
    **options,
) -> Image.Image | list[Image.Image]:
    """Redraw the white part of a mask and keep the rest (RePaint, Lugmayr et al. 2022, without its resampling).

    mask: a picture of the image's size; above half grey is redrawn (diffusers: mask_image). With height or width both
        are scaled and cropped to that size.
    strength, start_step: as for `image_to_image`, but 1 (the default) starts from pure noise, and 0 is an error.
    keep_outside: put the input's own pixels back outside the mask, bit for bit; False returns them as the autoencoder
        gives them, which hides the seam and changes them slightly (all that diffusers does by itself).

    Works with ordinary UNets, whose latents outside the mask are replaced by the noised input after every step, and
    with inpainting UNets (9 input channels), which are shown the mask and the masked picture. The rest as before.
    The latents are equal to diffusers' StableDiffusionInpaintPipeline.
    """
    start_step = _first_step(num_inference_steps, strength, start_step, default=1.0)
    asked = Settings(prompt, negative_prompt, seed, seeds, num_inference_steps, guidance_scale, sampler, height, width,
                     start_step=start_step, **options)  # fmt: skip
    _check_model(sd, asked)
    if start_step == asked.num_inference_steps:
        raise ValueError("Inpainting at strength 0 would change nothing; raise strength or lower start_step.")
    if asked.image_latents is not None or asked.unet_channels is not None:
        raise TypeError("inpaint works out image_latents and unet_channels from the image; leave them out.")
    original, hole = _with_mask(sd, image, mask, asked.height, asked.width)
    batch = Batch(asked)
    n, (_, h, w) = batch.size, sd.latent_shape(original.height, original.width)
    picture = pictures.to_tensor(original).expand(n, -1, -1, -1)
    hole_pixels = pictures.to_tensor(hole)[:, :1].gt(0).float()
    hole_latents = torch.nn.functional.interpolate(hole_pixels, size=(h, w))
    shows_mask = sd.unet.config.in_channels > sd.latent_channels
    # The draws come in the diffusers pipeline's order, or stochastic samplers would go on with other numbers.
    x0 = autoencoder.encode(sd, picture, batch.generators) if start_step or not shows_mask else None
    noise = draw_noise(batch.generators, (n, sd.latent_channels, h, w))
    run = replace(asked, latents=noise if asked.latents is None else asked.latents, image_latents=x0)
    if shows_mask:
        masked = autoencoder.encode(sd, picture * (1 - hole_pixels), batch.generators)
        run = replace(run, unet_channels=torch.cat([hole_latents.expand(n, -1, -1, -1).to(masked), masked], dim=1))
    else:
        draw_noise(batch.generators, noise.shape)  # diffusers encodes the masked picture here too, and drops it
        run = replace(run, mask=hole_latents)
    images = _draw(sd, _run(sd, run, batch))
    if keep_outside:
        images = [Image.composite(new, original, hole) for new in images]
    return batch.sign(sd, images, keep_outside=keep_outside)


def _run(sd: StableDiffusion, asked: Settings, batch: Batch) -> Iterator[Step]:
    """The steps of a run; everything is checked, and all that a step needs is made, before they begin."""
    _check_model(sd, asked)
    n, shape = batch.size, _latent_shape(sd, asked)
    _check_start(sd, shape, asked)
    plan = _plan(sd, asked)
    scales = [guidance.scale_at(asked.guidance_scale, level) for level in plan.levels[:-1]]
    uncond, cond = _embeddings(sd, asked, any(scale != 1 for scale in scales), n)
    place = {"device": sd.device, "dtype": torch.float32}
    noise = draw_noise(batch.generators, (n, *shape)) if asked.latents is None else asked.latents
    noise = noise.to(**place).expand(n, -1, -1, -1)
    fresh = [draw_noise(batch.generators, (n, *shape)).to(**place) for _ in range(len(plan))] if plan.eta else []
    x0 = None if asked.image_latents is None else asked.image_latents.to(**place)
    blend = None if asked.mask is None else _keeper(asked.mask.to(**place), x0, noise)
    if x0 is None or (asked.mask is not None and not asked.start_step):
        x = noise * plan.init_scale
        if plan.levels[0].sigma < 1:
            warnings.warn(
                f"The run begins at timestep {plan.levels[0].timestep:g}, where the network expects more picture than "
                f"noise, and it gets noise alone; take more steps or spacing='trailing'.",
                stacklevel=3,
            )
    else:
        x = noised(x0, noise, plan.levels[0])
    ask = network(sd, plan, asked, scales, uncond, cond, x)
    return _watched(sd, asked, plan, solve(plan.start(x, fresh), ask, sd.schedule.prediction_type, blend))


def _watched(sd: StableDiffusion, asked: Settings, plan: Plan, steps: Iterator[Step]) -> Iterator[Step]:
    """The steps, with a bar, and a look at where they end."""
    hidden = {} if asked.progress else {"disable": True}  # only then: TQDM_DISABLE in the environment counts too
    with tqdm(total=len(plan), delay=15, mininterval=1, leave=False, unit="step", **hidden) as bar:
        for step in steps:
            yield step
            bar.update(plan.timesteps.index(step.timestep) + 1 - bar.n)
    # One look at the end: a check inside the loop would make a GPU wait at every step.
    size = step.latents.std(dim=(1, 2, 3), correction=0)
    if asked.image_latents is not None:  # flat, bright colours have larger ones than most pictures
        size = size / asked.image_latents.to(size).std(dim=(1, 2, 3), correction=0).clamp_min(1)
    size = size.max().item()
    if not math.isfinite(size):
        cure = "lower guidance_scale, or fetch the weights again"
        cure = "lower the weights in the prompt" if asked.prompt_weights else cure
        cure = "load the model with dtype='bfloat16' or 'float32'" if sd.dtype == torch.float16 else cure
        raise FloatingPointError(f"The run ended in values that are not finite (UNet in {sd.dtype}); {cure}.")
    if size > OVERSHOT:
        warnings.warn(
            f"The latents ended {size:.1f} times as large as those of pictures usually are: the run probably overshot, "
            f"and the colours are burnt. Lower guidance_scale, take more steps, or sampler='ddim', which bears more.",
            stacklevel=2,
        )


# Latents are scaled so that those of pictures have a standard deviation of about 1. A solver whose steps are too long
# for the guidance ends far above: on the shipped model good pictures reach 1.5, and burnt ones 1.4 to 6.
OVERSHOT = 1.75


def _plan(sd: StableDiffusion, asked: Settings) -> Plan:
    options = {"start_step": asked.start_step or 0, "spacing": asked.spacing, "eta": asked.eta}
    return asked.sampler.plan(sd.schedule, asked.num_inference_steps, **options)


def noised(x0: Tensor, noise: Tensor, level: Level) -> Tensor:
    """x = signal * x0 + noise_level * noise at a level of a run, on its sampler's scale (diffusers: add_noise)."""
    return level.signal * x0 + level.noise * noise


def _keeper(mask: Tensor, image_latents: Tensor, noise: Tensor) -> Callable[[Tensor, Level], Tensor]:
    """What inpainting does after a step: outside the mask, the picture noised to the level that was reached."""
    return lambda x, level: mask * x + (1 - mask) * noised(image_latents, noise, level)


def _draw(sd: StableDiffusion, steps: Iterator[Step]) -> list[Image.Image]:
    try:
        for step in steps:  # noqa: B007 - the last one is the result
            pass
        return to_images(autoencoder.decode(sd, step.latents))
    except RuntimeError as error:
        if "DefaultCPUAllocator" not in str(error):  # a CPU without more memory
            raise
        raise MemoryError("The pictures do not fit into memory; draw fewer at once, or smaller ones.") from error


def _embeddings(sd, asked: Settings, guided: bool, n: int) -> tuple[Tensor | None, Tensor]:
    """(uncond or None, cond), each (n, L, D) in the UNet's dtype; every distinct text is encoded once, in one batch."""
    width = sd.unet.config.cross_attention_dim
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        given = asked[name]
        if given is not None and (given.ndim != 3 or given.shape[2] != width):
            raise ValueError(f"{name} must have the shape (B, L, {width}) for this UNet, not {tuple(given.shape)}.")
    wanted = {}
    if asked.prompt_embeds is None:
        wanted["cond"] = each(asked.prompt, n)
    if guided and asked.negative_prompt_embeds is None:
        wanted["uncond"] = each("" if asked.negative_prompt is None else asked.negative_prompt, n)
    distinct = list(dict.fromkeys(text for texts in wanted.values() for text in texts))
    reading = {name: asked[name] for name in ("clip_skip", "long_prompt", "prompt_weights")}
    states = encode_prompt(sd, distinct, **reading) if distinct else None
    found = {side: states[[distinct.index(text) for text in texts]] for side, texts in wanted.items()}
    cond = found.get("cond", asked.prompt_embeds)
    uncond = found.get("uncond", asked.negative_prompt_embeds) if guided else None
    if uncond is not None and uncond.shape[1] != cond.shape[1]:
        if asked.negative_prompt_embeds is not None or cond.shape[1] % uncond.shape[1]:
            raise ValueError(
                f"prompt_embeds {tuple(cond.shape)} and negative_prompt_embeds {tuple(uncond.shape)} must agree in "
                f"length; encode both in one call."
            )
        uncond = uncond.repeat(1, cond.shape[1] // uncond.shape[1], 1)
    place = {"device": sd.device, "dtype": sd.dtype}
    return tuple(None if e is None else e.to(**place).expand(n, -1, -1) for e in (uncond, cond))


def _first_step(n: int, strength: float | None, start_step: int | None, default: float) -> int:
    """How many of n steps are skipped (diffusers: n - min(int(n * strength), n))."""
    n = whole_number("num_inference_steps", plain(n), 1)
    if start_step is not None:
        if strength is not None:
            raise ValueError("strength and start_step say the same thing in two ways; give one of them.")
        return whole_number("start_step", plain(start_step), 0, n)
    strength = default if strength is None else plain(strength)
    return n - int(n * number("strength", strength, 0, 1))


def _fitted(sd: StableDiffusion, picture: Picture, height: int | None, width: int | None) -> Image.Image:
    if height or width:
        _size(sd, height, width)  # before any pixel is made
        picture = pictures.fit(picture, width or sd.width, height or sd.height)
    picture = pictures.open_image(picture)
    try:
        sd.latent_shape(picture.height, picture.width)
    except ValueError as error:
        raise ValueError(f"{error} Pass height and width to have it scaled and cropped.") from None
    return picture


def _with_mask(sd, image: Picture, mask: Picture, height, width) -> tuple[Image.Image, Image.Image]:
    """The picture, and the mask as 0 and 255 only at the same size."""
    image, mask = pictures.open_image(image), pictures.open_image(mask)
    if image.size != mask.size:
        raise ValueError(
            f"The mask has {mask.width}x{mask.height} pixels and the picture {image.width}x{image.height}; "
            f"resize one to the other's size."
        )
    original, grey = (_fitted(sd, picture, height, width) for picture in (image, mask))
    hole = grey.convert("L").point(lambda value: 255 if value >= 128 else 0)
    if hole.getextrema() == (0, 0):
        raise ValueError("The mask is black everywhere, so there is nothing to redraw; paint white what should change.")
    return original, hole


def _check_model(sd: object, asked: Settings) -> None:
    check_model(sd)
    if asked.model not in (None, sd.name):
        found = f"These settings are of a picture by {asked.model!r}; {sd.name!r} draws another one from them."
        warnings.warn(found, stacklevel=3)


def _latent_shape(sd: StableDiffusion, asked: Settings) -> tuple[int, int, int]:
    """(C, h, w) of the run: the size asked for, or else that of the latents given, or else the model's own."""
    shape = None if asked.height is None and asked.width is None else _size(sd, asked.height, asked.width)
    for name in ("latents", "image_latents"):
        latents = asked[name]
        if latents is None:
            continue
        c, h, w = shape or (sd.latent_channels, "h", "w")
        if latents.ndim != 4 or latents.shape[1] != c or (shape and tuple(latents.shape[2:]) != (h, w)):
            raise ValueError(f"{name} must have the shape (B, {c}, {h}, {w}), not {tuple(latents.shape)}.")
        shape = tuple(latents.shape[1:])
    return shape or sd.latent_shape()


def _size(sd: StableDiffusion, height: int | None, width: int | None) -> tuple[int, int, int]:
    """`sd.latent_shape` for a size that is asked for: as many pixels as Pillow opens, and no more."""
    height, width = height or sd.height, width or sd.width
    if height * width > Image.MAX_IMAGE_PIXELS:
        raise ValueError(
            f"{width}x{height} pixels are too many to draw (at most {Image.MAX_IMAGE_PIXELS}); lower height or width."
        )
    return sd.latent_shape(height, width)


def _check_start(sd, shape, asked: Settings) -> None:
    (c, h, w), mask, unet_channels = shape, asked.mask, asked.unet_channels
    if asked.start_step and asked.image_latents is None:
        raise ValueError("start_step skips steps, so it needs image_latents to begin with; or leave it at 0.")
    if mask is not None and asked.image_latents is None:
        raise ValueError("A mask keeps part of a picture; give that picture's latents as image_latents.")
    if mask is not None and (mask.ndim != 4 or tuple(mask.shape[1:]) != (1, h, w)):
        raise ValueError(f"mask must have the shape (1 or B, 1, {h}, {w}), not {tuple(mask.shape)}.")
    extra = sd.unet.config.in_channels - c
    if unet_channels is None and extra:
        raise ValueError(f"This UNet reads {extra} channels beside the latents: an inpainting model, so use inpaint.")
    if unet_channels is not None and tuple(unet_channels.shape[1:]) != (extra, h, w):
        raise ValueError(
            f"unet_channels must have the shape (1 or B, {extra}, {h}, {w}) for this UNet, not "
            f"{tuple(unet_channels.shape)}."
        )
