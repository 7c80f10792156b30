"""The sampling loop, and the ways to start it.

`denoise` is a generator: it yields every `Step` as it is taken, so watching a run, stopping it early and keeping its
states need no callbacks. `text_to_image`, `image_to_image` and `inpaint` differ only in where it begins and in what is
blended in after each step.

On a GPU the host runs ahead: a step reads nothing back, its coefficients are Python floats, and all random numbers were
drawn before the first one, on the CPU, one generator for each picture: one seed, one picture, on every device.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from . import autoencoder, guidance, pictures, samplers
from .autoencoder import Generators, draw_noise
from .batch import Batch, Prompt, Settings, each
from .model import StableDiffusion, check_model
from .pictures import Picture
from .samplers import Plan, Prediction
from .schedule import CLEAN, Level, number, whole_number
from .text import encode_prompt


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a run; its tensors are (B, C, h, w), float32."""

    index: int  # counts the network's answers in this run, from 0
    timestep: float  # the training timestep that the network was asked at
    sigma: float  # the noise level there
    latents: Tensor  # the state after the step, on the sampler's own scale
    x0: Tensor  # the finished latents as the network sees them from here, ready for `autoencoder.decode`


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
    prediction_type: what the output stands for, a name in PREDICTION_TYPES.
    blend: what takes the place of x when a level is reached (inpainting).
    """
    x, level = next(solver)
    index = 0
    while level is not CLEAN:
        prediction = Prediction(x, ask(x, level), level, prediction_type)
        x, reached = _step(solver, x, prediction)
        x = blend(x, reached) if blend else x
        yield Step(index, level.timestep, level.sigma, x, prediction.x0)
        level = reached
        index += 1


def _step(solver: samplers.Solver, x: Tensor, prediction: Prediction) -> tuple[Tensor, Level]:
    """Where the solver's step leads: to its next question, or with its last x to the end."""
    try:
        return solver.send((x, prediction))
    except StopIteration as end:
        return end.value, CLEAN


def network(
    sd: StableDiffusion, asked: Settings, plan: Plan, scales: Sequence[float], text: Tensor, like: Tensor
) -> Callable[[Tensor, Level], Tensor]:
    """What `solve` asks: the UNet, with and without the prompt in one call, and guidance between its two answers.

    scales: the guidance scale at each level.
    text: the prompts' states (n, L, D), or with guidance (2n, L, D), the negative prompts' first.
    like: latents of the run's shape (n, C, h, w) and device.
    """
    n, channels = like.shape[:2]
    timesteps = torch.tensor(plan.timesteps, dtype=torch.float32).to(like.device)
    at = dict(zip(plan.levels, zip(timesteps, scales, strict=True), strict=False))
    cond = text[-n:]
    unet_input = torch.empty(len(text), sd.unet.config.in_channels, *like.shape[2:], dtype=sd.dtype, device=like.device)
    grouped = unet_input.unflatten(0, (-1, n))  # (1 or 2, n, C, h, w)
    if asked.unet_channels is not None:
        grouped[:, :, channels:] = asked.unet_channels.to(sd.device, sd.dtype)

    def ask(x: Tensor, level: Level) -> Tensor:
        timestep, scale = at[level]
        states = cond if scale == 1 else text
        grouped[:, :, :channels].copy_(x * level.input_scale)  # scaled, cast and doubled by one copy
        (output,) = sd.unet(unet_input[: len(states)], timestep, encoder_hidden_states=states, return_dict=False)
        output = output.float()
        if scale == 1:
            return output
        without, with_prompt = output.chunk(2)
        guided = guidance.guide(without, with_prompt, scale)
        return guidance.rescale(guided, with_prompt, asked.guidance_rescale)

    return ask


def denoise(
    sd: StableDiffusion, prompt: Prompt | None = None, *, seed: int | None = None, seeds: Sequence[int] | None = None,
    num_inference_steps: int = 25, guidance_scale: guidance.GuidanceScale = 7.5, guidance_rescale: float = 0.0,
    negative_prompt: Prompt | None = None, sampler: str | samplers.Sampler = "ddim", eta: float | None = None,
    spacing: str | None = None, height: int | None = None, width: int | None = None, start_step: int = 0,
    latents: Tensor | None = None, image_latents: Tensor | None = None, mask: Tensor | None = None,
    unet_channels: Tensor | None = None, prompt_embeds: Tensor | None = None,
    negative_prompt_embeds: Tensor | None = None, clip_skip: int | None = None, long_prompt: bool = False,
    prompt_weights: bool = False, generator: Generators = None, progress: bool = True, **options,
) -> Iterator[Step]:  # fmt: skip
    """Run the reverse process and yield every `Step`. Names that diffusers' pipelines have mean what they mean there.

    prompt, negative_prompt: what to draw, and what not ("" by default); one text, or one for each picture.
    seed, seeds: one number for each picture; none draws one.
    num_inference_steps: the steps of the run.
    guidance_scale: a number, or a function of the `Level`; where it is 1 the network is asked once instead of twice.
    guidance_rescale: 0..1, as in `guidance.rescale`.
    sampler: a name in SAMPLERS, or a `Sampler` of your own (diffusers: the scheduler).
    eta: DDIM's share of fresh noise, 0..1.
    spacing: a name in SPACINGS; None for the model's or the sampler's own (diffusers: timestep_spacing).
    height, width: pixels, multiples of `sd.vae_factor`; by default what the model was trained at.
    start_step: how many steps are skipped; needs image_latents.
    latents: the unit noise itself (B, C, h, w); seeds then only decide a stochastic sampler's fresh noise.
    image_latents: clean latents (B, C, h, w), noised to the level of start_step; None starts from noise alone.
    mask: (1 or B, 1, h, w), 1 where to draw; elsewhere noised image_latents replace the state after every step.
    unet_channels: (1 or B, c, h, w), shown to the UNet beside the latents (inpainting models).
    prompt_embeds, negative_prompt_embeds: encoder states (B, 77 n, D) in the place of texts.
    clip_skip, long_prompt, prompt_weights: as in `text.encode_prompt`.
    generator: CPU generators that were drawn from before, in the place of seeds.
    progress: a bar on the terminal, for runs of more than a few seconds.
    options: what else `read_settings` finds in a picture: the name and dtype of the model that drew it.

    Everything is checked before the first step; a run whose numbers overflow ends in FloatingPointError.
    """
    named = {name: value for name, value in locals().items() if name not in ("sd", "generator", "options")}
    asked = _asked(sd, **named, **options)
    return _run(sd, asked, Batch(asked, generator))


def text_to_image(
    sd: StableDiffusion, prompt: Prompt | None, *, seed: int | None = None, seeds: Sequence[int] | None = None,
    num_inference_steps: int = 25, guidance_scale: guidance.GuidanceScale = 7.5, negative_prompt: Prompt | None = None,
    sampler: str | samplers.Sampler = "ddim", height: int | None = None, width: int | None = None, **options,
) -> Image.Image | list[Image.Image]:  # fmt: skip
    """Draw what a prompt says (diffusers: StableDiffusionPipeline).

    prompt: one text or several, or None where prompt_embeds are given.
    seed, seeds: one number for each picture; none draws one, and the picture carries it in its settings.
    options: any further ones of `denoise`, which explains the others, too.

    One prompt and one seed give an image; anything else gives a list, prompts and seeds paired, a single one repeated
    for all the others. ValueError, TypeError and FloatingPointError each name what is wrong and the cure.
    """
    asked = _asked(sd, prompt, negative_prompt, seed, seeds, num_inference_steps, guidance_scale, sampler, height,
                   width, **options)  # fmt: skip
    batch = Batch(asked)
    return batch.sign(sd, _draw(sd, _run(sd, asked, batch)))


def image_to_image(
    sd: StableDiffusion, image: Picture | Sequence[Picture], prompt: Prompt | None, *, strength: float | None = None,
    start_step: int | None = None, seed: int | None = None, seeds: Sequence[int] | None = None,
    num_inference_steps: int = 25, guidance_scale: guidance.GuidanceScale = 7.5, negative_prompt: Prompt | None = None,
    sampler: str | samplers.Sampler = "ddim", height: int | None = None, width: int | None = None, **options,
) -> Image.Image | list[Image.Image]:  # fmt: skip
    """Draw a prompt, starting from a picture instead of from pure noise (SDEdit, Meng et al. 2022).

    image: one picture, or one for each prompt or seed.
    strength: 0..1, the share of the steps that is taken, the last int(num_inference_steps * strength); 0.8 by default.
    start_step: the same choice as the number of steps to skip; give one of the two.
    height, width: the picture is scaled and cropped to them; to the model's own size where its own does not fit.

    The picture is noised to the level of the first step taken: where none is taken it is only encoded and decoded, and
    where all are, a trace is left. The rest is as for `text_to_image` (diffusers: StableDiffusionImg2ImgPipeline).
    """
    start_step = _first_step(num_inference_steps, strength, start_step, default=0.8)
    asked = _asked(sd, prompt, negative_prompt, seed, seeds, num_inference_steps, guidance_scale, sampler, height,
                   width, start_step=start_step, image_latents=None, **options)  # fmt: skip
    images = [_fitted(sd, asked, picture) for picture in pictures.as_list(image)]
    batch, last = Batch(asked, pictures=images), asked.num_inference_steps - 1
    _plan(sd, replace(asked, start_step=min(start_step, last)))  # a run of no steps is checked like any other
    # The posterior is drawn before the noise, as in the diffusers pipeline: the same seed gives the same picture.
    x0 = autoencoder.encode(sd, each(images, batch.size), batch.generators)
    if start_step > last:
        return batch.sign(sd, pictures.to_images(autoencoder.decode(sd, x0)))
    return batch.sign(sd, _draw(sd, _run(sd, replace(asked, image_latents=x0), batch)))


def inpaint(
    sd: StableDiffusion, image: Picture, mask: Picture, prompt: Prompt | None, *, strength: float | None = None,
    start_step: int | None = None, seed: int | None = None, seeds: Sequence[int] | None = None,
    num_inference_steps: int = 25, guidance_scale: guidance.GuidanceScale = 7.5, negative_prompt: Prompt | None = None,
    sampler: str | samplers.Sampler = "ddim", height: int | None = None, width: int | None = None,
    keep_outside: bool = True, **options,
) -> Image.Image | list[Image.Image]:  # fmt: skip
    """Redraw the white part of a mask and keep the rest (RePaint, Lugmayr et al. 2022, without its resampling).

    image, height, width: as for `image_to_image`.
    mask: a picture of the image's size; above half grey is redrawn (diffusers: mask_image).
    strength, start_step: as for `image_to_image`, but 1 (the default) starts from pure noise, and 0 is an error.
    keep_outside: put the input's own pixels back outside the mask, bit for bit; False leaves the autoencoder's there.

    Outside the mask the noised input replaces an ordinary UNet's latents after every step; an inpainting UNet (9 input
    channels) is shown the mask and the masked picture (diffusers: StableDiffusionInpaintPipeline).
    """
    start_step = _first_step(num_inference_steps, strength, start_step, default=1.0)
    asked = _asked(sd, prompt, negative_prompt, seed, seeds, num_inference_steps, guidance_scale, sampler, height,
                   width, start_step=start_step, image_latents=None, unet_channels=None, **options)  # fmt: skip
    if start_step == asked.num_inference_steps:
        raise ValueError("Inpainting at strength 0 would change nothing; raise strength or lower start_step.")
    original, hole = _with_mask(sd, asked, image, mask)
    batch = Batch(asked)
    n, (channels, h, w) = batch.size, sd.latent_shape(original.height, original.width)
    picture = pictures.to_tensor(original).expand(n, -1, -1, -1)
    hole_pixels = pictures.to_tensor(hole)[:, :1].gt(0).float()
    hole_latents = torch.nn.functional.interpolate(hole_pixels, size=(h, w))
    shows_mask = sd.unet.config.in_channels > channels
    # The draws come in the diffusers pipeline's order, or stochastic samplers would go on with other numbers.
    x0 = autoencoder.encode(sd, picture, batch.generators) if start_step or not shows_mask else None
    noise = draw_noise(batch.generators, (n, channels, h, w))
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


def _asked(sd: StableDiffusion, *given, **options) -> Settings:
    """The settings, checked, for a model that is one."""
    check_model(sd)
    asked = Settings(*given, **options)
    if asked.model not in (None, sd.name):
        warnings.warn(f"{asked.model!r} drew the picture of these settings; {sd.name!r} draws another.", stacklevel=3)
    return asked


def _run(sd: StableDiffusion, asked: Settings, batch: Batch) -> Iterator[Step]:
    """The steps of a run; everything is checked, and all that a step needs is made, before they begin."""
    shape, plan = (batch.size, *_latent_shape(sd, asked)), _plan(sd, asked)
    scale = asked.guidance_scale if callable(asked.guidance_scale) else lambda level: asked.guidance_scale
    scales = [number("guidance_scale", scale(level), low=-math.inf) for level in plan.levels[:-1]]
    text = _text(sd, asked, batch.size, guided=any(scale != 1 for scale in scales))
    place = {"device": sd.device, "dtype": torch.float32}
    noise = draw_noise(batch.generators, shape) if asked.latents is None else asked.latents
    noise = noise.to(**place).expand(shape)
    fresh = [draw_noise(batch.generators, shape).to(**place) for _ in range(len(plan))] if plan.eta else []
    x0, mask = (None if given is None else given.to(**place) for given in (asked.image_latents, asked.mask))
    top = plan.levels[0]
    if x0 is not None and (mask is None or asked.start_step):
        x = top.add_noise(x0, noise)
    else:
        x = noise * plan.init_scale
        if top.sigma < 1:
            found = (
                f"The run begins at timestep {top.timestep:g}, where the network expects more picture than noise, and"
            )
            warnings.warn(f"{found} it gets noise alone; take more steps or spacing='trailing'.", stacklevel=3)

    def keep_outside(x: Tensor, level: Level) -> Tensor:
        return mask * x + (1 - mask) * level.add_noise(x0, noise)

    ask = network(sd, asked, plan, scales, text, x)
    blend = None if mask is None else keep_outside
    return _watched(sd, asked, plan, solve(plan.start(x, fresh), ask, sd.schedule.prediction_type, blend))


def _plan(sd: StableDiffusion, asked: Settings) -> Plan:
    start = {"start_step": asked.start_step or 0, "spacing": asked.spacing, "eta": asked.eta}
    return asked.sampler.plan(sd.schedule, asked.num_inference_steps, **start)


def _text(sd: StableDiffusion, asked: Settings, n: int, guided: bool) -> Tensor:
    """States of the prompts (n, L, D), of negative ones and prompts (2n, L, D) if guided; each text is read once."""
    sides = ("negative_prompt", "prompt") if guided else ("prompt",)
    texts = {side: each(asked[side] or "", n) for side in sides if asked[f"{side}_embeds"] is None}
    distinct = list(dict.fromkeys(text for several in texts.values() for text in several))
    reading = {name: asked[name] for name in ("clip_skip", "long_prompt", "prompt_weights")}
    found = encode_prompt(sd, distinct, **reading) if distinct else None
    read = {side: found[[distinct.index(text) for text in several]] for side, several in texts.items()}
    *uncond, cond = (read.get(side, asked[f"{side}_embeds"]) for side in sides)
    for states in uncond:
        times, rest = divmod(cond.shape[1], states.shape[1])
        if rest or (times > 1 and asked.negative_prompt_embeds is not None):
            found = f"prompt_embeds {tuple(cond.shape)} and negative_prompt_embeds {tuple(states.shape)}"
            raise ValueError(f"{found} must agree in length; encode both in one call.")
        uncond = [states.repeat(1, times, 1)]  # beside a long prompt a short one is repeated
    return torch.cat([states.to(sd.device, sd.dtype).expand(n, -1, -1) for states in (*uncond, cond)])


def _watched(sd: StableDiffusion, asked: Settings, plan: Plan, steps: Iterator[Step]) -> Iterator[Step]:
    """The steps, with a bar, and a look at where they end."""
    hidden = {} if asked.progress else {"disable": True}  # {} leaves it to TQDM_DISABLE in the environment
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
        heavy = "lower the weights in the prompt" if asked.prompt_weights else None
        half = "load the model with dtype='bfloat16' or 'float32'" if sd.dtype == torch.float16 else None
        cure = half or heavy or "lower guidance_scale, or fetch the weights again"
        raise FloatingPointError(f"The run ended in values that are not finite (UNet in {sd.dtype}); {cure}.")
    if size > OVERSHOT:
        found = (
            f"The latents ended {size:.1f} times as large as those of pictures usually are: the run probably overshot,"
        )
        cure = "and the colours are burnt. Lower guidance_scale, take more steps, or sampler='ddim', which bears more."
        warnings.warn(f"{found} {cure}", stacklevel=2)


# Latents of pictures have a standard deviation of about 1, by their scaling. A solver whose steps are too long for the
# guidance ends far above: on the shipped model good pictures reach 1.5, and burnt ones 1.4 to 6.
OVERSHOT = 1.75


def _draw(sd: StableDiffusion, steps: Iterator[Step]) -> list[Image.Image]:
    try:
        (last,) = deque(steps, maxlen=1)
        return pictures.to_images(autoencoder.decode(sd, last.latents))
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):  # a CPU without more memory
            raise MemoryError("The pictures do not fit into memory; draw fewer at once, or smaller ones.") from error
        raise


def _latent_shape(sd: StableDiffusion, asked: Settings) -> tuple[int, int, int]:
    """(C, h, w) of the run: of the size asked for, or else of the latents given, or else the model's own."""
    shape = _size(sd, asked) if asked.height or asked.width else None
    for name in ("latents", "image_latents"):
        _check_shape(asked, name, "B", *(shape or (sd.latent_channels, "h", "w")))
        shape = shape or (None if asked[name] is None else tuple(asked[name].shape[1:]))
    c, h, w = shape = shape or sd.latent_shape()
    extra = sd.unet.config.in_channels - c
    _check_shape(asked, "mask", "1 or B", 1, h, w)
    _check_shape(asked, "unet_channels", "1 or B", extra, h, w)
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        _check_shape(asked, name, "B", "L", sd.unet.config.cross_attention_dim)
    if asked.start_step and asked.image_latents is None:
        raise ValueError("start_step skips steps, so it needs image_latents to begin with; or leave it at 0.")
    if asked.mask is not None and asked.image_latents is None:
        raise ValueError("A mask keeps part of a picture; give that picture's latents as image_latents.")
    if asked.unet_channels is None and extra:
        raise ValueError(f"This UNet reads {extra} channels beside the latents: an inpainting model, so use inpaint.")
    return shape


def _check_shape(asked: Settings, name: str, *shape: int | str) -> None:
    """A tensor that is given must have that shape; letters stand for any number."""
    found = shape if asked[name] is None else tuple(asked[name].shape)
    if len(found) != len(shape) or any(a != b and isinstance(a, int) for a, b in zip(shape, found, strict=True)):
        raise ValueError(f"{name} must have the shape ({', '.join(map(str, shape))}), not {found}.")


def _size(sd: StableDiffusion, asked: Settings) -> tuple[int, int, int]:
    """`sd.latent_shape` for a size that is asked for: as many pixels as Pillow opens, and no more."""
    height, width = asked.height or sd.height, asked.width or sd.width
    if height * width > (most := Image.MAX_IMAGE_PIXELS):
        raise ValueError(f"{width}x{height} pixels are too many to draw (at most {most}); lower height or width.")
    return sd.latent_shape(height, width)


def _first_step(n: int, strength: float | None, start_step: int | None, default: float) -> int:
    """How many of n steps are skipped (diffusers: n - min(int(n * strength), n))."""
    n = whole_number("num_inference_steps", n, 1)
    if start_step is None:
        return n - int(n * number("strength", default if strength is None else strength, 0, 1))
    if strength is not None:
        raise ValueError("strength and start_step say the same thing in two ways; give one of them.")
    return whole_number("start_step", start_step, 0, n)


def _fitted(sd: StableDiffusion, asked: Settings, picture: Picture) -> Image.Image:
    """The picture scaled and cropped to the size asked for; without one, only if it does not divide into latents."""
    picture = pictures.open_image(picture)
    if not (asked.height or asked.width):
        if picture.width % sd.vae_factor == picture.height % sd.vae_factor == 0:
            return picture
        found = (
            f"The picture of {picture.width}x{picture.height} pixels is scaled and cropped to {sd.width}x{sd.height};"
        )
        warnings.warn(f"{found} height and width (multiples of {sd.vae_factor}) choose another size.", stacklevel=3)
    _size(sd, asked)  # before any pixel is made
    return pictures.fit(picture, asked.width or sd.width, asked.height or sd.height)


def _with_mask(sd: StableDiffusion, asked: Settings, image: Picture, mask: Picture) -> tuple[Image.Image, Image.Image]:
    """The picture, and the mask as 0 and 255 only at the same size."""
    image, mask = pictures.open_image(image), pictures.open_image(mask)
    if image.size != mask.size:
        sizes = f"{mask.width}x{mask.height} pixels and the picture {image.width}x{image.height}"
        raise ValueError(f"The mask has {sizes}; resize one to the other's size.")
    original = _fitted(sd, asked, image)
    grey = mask if mask.size == original.size else pictures.fit(mask, *original.size)
    hole = grey.convert("L").point(lambda value: 255 if value >= 128 else 0)
    if hole.getextrema() == (0, 0):
        raise ValueError("The mask is black everywhere, so there is nothing to redraw; paint white what should change.")
    return original, hole
