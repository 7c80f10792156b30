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

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from . import autoencoder, guidance, samplers
from .autoencoder import SETTINGS_KEY, Generators, Picture, draw_noise, to_images
from .model import StableDiffusion
from .samplers import CLEAN, Level
from .schedule import whole_number
from .text import encode_prompt

Prompt = str | Sequence[str]


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a run.

    index: counts the network's answers in this run from 0; timestep, sigma: the training timestep and the noise level
    that the network was asked at; latents: the state after the step, (B, C, h, w) float32, on the sampler's own scale;
    x0: the finished latents as the network sees them from here, same shape, ready for `autoencoder.decode`.
    """

    index: int
    timestep: float
    sigma: float
    latents: Tensor
    x0: Tensor


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

    prompt: one or several, or None where prompt_embeds are given. seed, seeds: one number per picture; None draws one,
    and the picture carries it in its settings (diffusers: a list of CPU generators, one per picture). One prompt and
    one seed give an image; anything else gives a list, prompts and seeds paired, a single one repeated for all the
    others. height, width: pixels, multiples of `sd.vae_factor`; by default what the model was trained at.

    Every further option is one of `denoise`. Raises ValueError for what does not fit together or does not exist, and
    FloatingPointError where numbers overflow; each says what to do.
    """
    options |= {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "sampler": sampler}
    options |= {"negative_prompt": negative_prompt, "height": height, "width": width}
    batch = _Batch(prompt, seed, seeds, options)
    return batch.sign(sd, _draw(sd, denoise(sd, prompt, generator=batch.generators, **options)))


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
    options |= {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "sampler": sampler}
    options |= {"negative_prompt": negative_prompt, "start_step": start_step}
    images = [_fitted(sd, picture, height, width) for picture in autoencoder.as_list(image)]
    batch = _Batch(prompt, seed, seeds, options, pictures=images)
    # The posterior is drawn before the noise, as in the diffusers pipeline: the same seed gives the same picture.
    x0 = autoencoder.encode(sd, _each(images, len(batch.seeds)), batch.generators)
    if start_step == num_inference_steps:
        return batch.sign(sd, to_images(autoencoder.decode(sd, x0)))
    steps = denoise(sd, prompt, image_latents=x0, generator=batch.generators, **options)
    return batch.sign(sd, _draw(sd, steps))


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
    if start_step == num_inference_steps:
        raise ValueError("Inpainting at strength 0 would change nothing; raise strength or lower start_step.")
    options |= {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "sampler": sampler}
    options |= {"negative_prompt": negative_prompt, "start_step": start_step}
    original, hole = _with_mask(sd, image, mask, height, width)
    batch = _Batch(prompt, seed, seeds, options)
    n, (_, h, w) = len(batch.seeds), sd.latent_shape(original.height, original.width)
    picture = autoencoder.to_tensor(original).expand(n, -1, -1, -1)
    hole_pixels = autoencoder.to_tensor(hole)[:, :1].gt(0).float()
    hole_latents = torch.nn.functional.interpolate(hole_pixels, size=(h, w))
    shows_mask = sd.unet.config.in_channels > sd.latent_channels
    # The draws come in the diffusers pipeline's order, or stochastic samplers would go on with other numbers.
    x0 = autoencoder.encode(sd, picture, batch.generators) if start_step or not shows_mask else None
    noise = draw_noise(batch.generators, (n, sd.latent_channels, h, w))
    if shows_mask:
        masked = autoencoder.encode(sd, picture * (1 - hole_pixels), batch.generators)
        options["unet_channels"] = torch.cat([hole_latents.expand(n, -1, -1, -1).to(masked), masked], dim=1)
    else:
        draw_noise(batch.generators, noise.shape)  # diffusers encodes the masked picture here too, and drops it
        options["mask"] = hole_latents
    steps = denoise(sd, prompt, latents=noise, image_latents=x0, generator=batch.generators, **options)
    images = _draw(sd, steps)
    if keep_outside:
        images = [Image.composite(new, original, hole) for new in images]
    return batch.sign(sd, images)


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
) -> Iterator[Step]:
    """Run the reverse process and yield every `Step`.

    What to draw: prompt, negative_prompt ("" by default), or their encoder states prompt_embeds, negative_prompt_embeds
        (B, 77 n, D); clip_skip, long_prompt and prompt_weights as in `text.encode_prompt`.
    How hard: guidance_scale, a number or a function of the `Level` (see `guidance.interval`); steps at scale 1 ask the
        network once, not twice, and there a negative prompt has no say. Below 1 the formula goes on as it is, where
        diffusers takes 1. guidance_rescale, 0..1, as in `guidance.rescale`.
    By which steps: num_inference_steps, sampler (a name in SAMPLERS; diffusers: the scheduler), eta (DDIM only),
        spacing of the timesteps ("leading", "trailing", "linspace"; None for the model's or the sampler's own;
        diffusers: the scheduler's timestep_spacing).
    From where: seed or seeds; or generator, CPU generators that were drawn from before; or latents, the unit noise
        itself (B, C, h, w), where seeds only decide a stochastic sampler's fresh noise. image_latents (B, C, h, w): the
        clean latents that the noise is added to at the level of step start_step; None starts from noise alone.
        mask (1 or B, 1, h, w): 1 where to draw; elsewhere image_latents, noised to the level reached, replace the state
        after every step, and at start_step 0 the run starts from noise alone. unet_channels (1 or B, c, h, w): shown to
        the UNet beside the latents (inpainting models).
    progress: a bar on the terminal, for runs of more than a few seconds.

    Everything is checked before the first step; a run whose numbers overflow ends in FloatingPointError.
    """
    shape = _latent_shape(sd, height, width, latents=latents, image_latents=image_latents)
    _check_start(sd, shape, start_step, image_latents, mask, unet_channels)
    sampler = samplers.get_sampler(sampler)
    plan = sampler.plan(sd.schedule, num_inference_steps, start_step=start_step, spacing=spacing, eta=eta)
    scales = [guidance.scale_at(guidance_scale, level) for level in plan.levels[:-1]]
    if not 0 <= guidance_rescale <= 1:
        raise ValueError(f"guidance_rescale must lie between 0 (off) and 1 (full), not {guidance_rescale}.")
    n = _agree(prompt=prompt, negative_prompt=negative_prompt, seeds=seeds, latents=latents,
               image_latents=image_latents, mask=mask, unet_channels=unet_channels, prompt_embeds=prompt_embeds,
               negative_prompt_embeds=negative_prompt_embeds,
               generator=None if isinstance(generator, torch.Generator) else generator)  # fmt: skip
    text = {"clip_skip": clip_skip, "long_prompt": long_prompt, "prompt_weights": prompt_weights}
    guided = any(scale != 1 for scale in scales)
    embeddings = _embeddings(sd, prompt, prompt_embeds, negative_prompt, negative_prompt_embeds, guided, n, text)
    if generator is None:
        generator = _generators(_seeds(seed, seeds, n))
    elif seed is not None or seeds is not None:
        raise ValueError("Give either seeds or a generator, not both.")

    place = {"device": sd.device, "dtype": torch.float32}
    noise = (draw_noise(generator, (n, *shape)) if latents is None else latents).to(**place).expand(n, -1, -1, -1)
    fresh = [draw_noise(generator, (n, *shape)).to(**place) for _ in range(len(plan))] if plan.eta else []
    blend = None
    if image_latents is None or (mask is not None and start_step == 0):
        x = noise * plan.init_scale
    else:
        x = noised(image_latents.to(**place), noise, plan.levels[0])
    if mask is not None:
        blend = _keeper(mask.to(**place), image_latents.to(**place), noise)
    if unet_channels is not None:
        unet_channels = unet_channels.to(sd.device, sd.dtype).expand(n, -1, -1, -1)
    return _run(sd, plan, sampler.step, scales, guidance_rescale, embeddings, x, fresh, blend, unet_channels, progress)


@torch.no_grad()
def _run(sd, plan, step, scales, guidance_rescale, embeddings, x, fresh, blend, unet_channels, progress):
    timesteps = torch.tensor(plan.timesteps, dtype=torch.float32).to(x.device)
    uncond, cond = embeddings
    both = cond if uncond is None else torch.cat([uncond, cond])
    n, channels = x.shape[:2]
    unet_input = torch.empty(len(both), sd.unet.config.in_channels, *x.shape[2:], dtype=sd.dtype, device=x.device)
    if unet_channels is not None:
        unet_input[:, channels:] = unet_channels.repeat(len(both) // n, 1, 1, 1)
    history = ()
    hidden = {} if progress else {"disable": True}  # only then: TQDM_DISABLE in the environment counts too
    for k in tqdm(range(len(plan)), delay=15, mininterval=1, leave=False, unit="step", **hidden):
        now, after = plan.levels[k], plan.levels[k + 1]
        states = cond if scales[k] == 1 else both
        sample = unet_input[: len(states)]
        # (n, C, h, w) into (groups, n, C, h, w): scaled, cast and doubled by one copy.
        sample.unflatten(0, (-1, n))[:, :, :channels].copy_(x * now.input_scale)
        output = sd.unet(sample, timesteps[k], encoder_hidden_states=states, return_dict=False)[0].float()
        if scales[k] != 1:
            without, with_prompt = output.chunk(2)
            output = guidance.guide(without, with_prompt, scales[k])
            if guidance_rescale:
                output = guidance.rescale(output, with_prompt, guidance_rescale)
        prediction = plan.predict(x, output, k)
        x, history = step(x, prediction, plan, k, history, fresh[k] if fresh else None)
        if blend is not None:
            x = blend(x, after if k + 1 < len(plan) else CLEAN)
        yield Step(k, now.timestep, now.sigma, x, prediction.x0)
    # One look at the end: a check inside the loop would make a GPU wait at every step.
    if not torch.isfinite(x).all():
        cure = (
            "load the model with dtype='bfloat16' or 'float32'"
            if sd.dtype == torch.float16
            else "lower guidance_scale, or fetch the weights again"
        )
        raise FloatingPointError(f"The run ended in values that are not finite (UNet in {sd.dtype}); {cure}.")


def noised(x0: Tensor, noise: Tensor, level: Level) -> Tensor:
    """x = signal * x0 + noise_level * noise at a level of a run, on its sampler's scale (diffusers: add_noise)."""
    return level.signal * x0 + level.noise * noise


def _keeper(mask: Tensor, image_latents: Tensor, noise: Tensor) -> Callable[[Tensor, Level], Tensor]:
    """What inpainting does after a step: outside the mask, the picture noised to the level that was reached."""
    return lambda x, level: mask * x + (1 - mask) * noised(image_latents, noise, level)


def _draw(sd: StableDiffusion, steps: Iterator[Step]) -> list[Image.Image]:
    for step in steps:  # noqa: B007 - the last one is the result
        pass
    return to_images(autoencoder.decode(sd, step.latents))


class _Batch:
    """The pictures of one call: how many, from which seeds, and what each remembers of how it was drawn."""

    def __init__(self, prompt, seed, seeds, options, **sized):
        if "generator" in options:
            raise TypeError("Give seed or seeds instead of a generator: a picture remembers its seed.")
        sized |= {name: options.get(name) for name in ("negative_prompt", "latents", "prompt_embeds")}
        n = _agree(prompt=prompt, seeds=seeds, **sized)
        self.many = n > 1 or seeds is not None or not (prompt is None or isinstance(prompt, str))
        self.seeds = _seeds(seed, seeds, n)
        self.generators = _generators(self.seeds)
        # A function or a tensor cannot be written down; its kind at least says that there was one.
        plain = {k: v if isinstance(v, str | int | float) else type(v).__name__ for k, v in options.items()}
        plain = {k: v for k, v in plain.items() if options[k] is not None and k != "progress"}
        texts = zip(_each(prompt, n), _each(options["negative_prompt"] or "", n), self.seeds, strict=True)
        self.settings = [plain | {"prompt": p, "negative_prompt": neg, "seed": s} for p, neg, s in texts]

    def sign(self, sd: StableDiffusion, images: list[Image.Image]) -> Image.Image | list[Image.Image]:
        """Put into each picture the settings that draw it again; one picture alone comes without its list."""
        for image, settings in zip(images, self.settings, strict=True):
            settings |= {"model": sd.name, "width": image.width, "height": image.height}
            image.info[SETTINGS_KEY] = json.dumps(settings)
        return images if self.many else images[0]


def _embeddings(sd, prompt, prompt_embeds, negative_prompt, negative_prompt_embeds, guided, n, text):
    """(uncond or None, cond), each (n, L, D) in the UNet's dtype; every distinct text is encoded once, in one batch."""
    if (prompt is None) == (prompt_embeds is None):
        raise ValueError("Give either a prompt or prompt_embeds.")
    if negative_prompt is not None and negative_prompt_embeds is not None:
        raise ValueError("Give either a negative_prompt or negative_prompt_embeds, not both.")
    width = sd.unet.config.cross_attention_dim
    for name, given in (("prompt_embeds", prompt_embeds), ("negative_prompt_embeds", negative_prompt_embeds)):
        if given is not None and (given.ndim != 3 or given.shape[2] != width):
            raise ValueError(f"{name} must have the shape (B, L, {width}) for this UNet, not {tuple(given.shape)}.")
    wanted = {}
    if prompt_embeds is None:
        wanted["cond"] = _each(prompt, n)
    if guided and negative_prompt_embeds is None:
        wanted["uncond"] = _each("" if negative_prompt is None else negative_prompt, n)
    distinct = list(dict.fromkeys(text for texts in wanted.values() for text in texts))
    states = encode_prompt(sd, distinct, **text) if distinct else None
    found = {side: states[[distinct.index(text) for text in texts]] for side, texts in wanted.items()}
    cond = found.get("cond", prompt_embeds)
    uncond = found.get("uncond", negative_prompt_embeds) if guided else None
    if uncond is not None and uncond.shape[1] != cond.shape[1]:
        if negative_prompt_embeds is not None or cond.shape[1] % uncond.shape[1]:
            raise ValueError(
                f"prompt_embeds {tuple(cond.shape)} and negative_prompt_embeds {tuple(uncond.shape)} must agree in "
                f"length; encode both in one call."
            )
        uncond = uncond.repeat(1, cond.shape[1] // uncond.shape[1], 1)
    place = {"device": sd.device, "dtype": sd.dtype}
    return tuple(None if e is None else e.to(**place).expand(n, -1, -1) for e in (uncond, cond))


def _first_step(n: int, strength: float | None, start_step: int | None, default: float) -> int:
    """How many of n steps are skipped (diffusers: n - min(int(n * strength), n))."""
    n = whole_number("num_inference_steps", n, 1)
    if start_step is not None:
        if strength is not None:
            raise ValueError("strength and start_step say the same thing in two ways; give one of them.")
        return whole_number("start_step", start_step, 0, n)
    strength = default if strength is None else strength
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie between 0 (keep the picture) and 1 (redraw it), not {strength}.")
    return n - int(n * strength)


def _fitted(sd: StableDiffusion, picture: Picture, height: int | None, width: int | None) -> Image.Image:
    if height or width:
        picture = autoencoder.fit(picture, width or sd.width, height or sd.height)
    picture = autoencoder.open_image(picture)
    try:
        sd.latent_shape(picture.height, picture.width)
    except ValueError as error:
        raise ValueError(f"{error} Pass height and width to have it scaled and cropped.") from None
    return picture


def _with_mask(sd, image: Picture, mask: Picture, height, width) -> tuple[Image.Image, Image.Image]:
    """The picture, and the mask as 0 and 255 only at the same size."""
    image, mask = autoencoder.open_image(image), autoencoder.open_image(mask)
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


def _latent_shape(sd, height, width, **given: Tensor | None) -> tuple[int, int, int]:
    """(C, h, w) of the run: the size asked for, or else that of the latents given, or else the model's own."""
    shape = None if height is None and width is None else sd.latent_shape(height, width)
    for name, latents in given.items():
        if latents is None:
            continue
        c, h, w = shape or (sd.latent_channels, "h", "w")
        if latents.ndim != 4 or latents.shape[1] != c or (shape and tuple(latents.shape[2:]) != (h, w)):
            raise ValueError(f"{name} must have the shape (B, {c}, {h}, {w}), not {tuple(latents.shape)}.")
        if not torch.isfinite(latents).all():
            raise ValueError(f"{name} holds values that are not finite; look where they come from before the run.")
        shape = tuple(latents.shape[1:])
    return shape or sd.latent_shape()


def _check_start(sd, shape, start_step, image_latents, mask, unet_channels) -> None:
    c, h, w = shape
    if start_step and image_latents is None:
        raise ValueError("start_step skips steps, so it needs image_latents to begin with; or leave it at 0.")
    if mask is not None and image_latents is None:
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


def _agree(**given: object) -> int:
    """The batch size that all the given lists and tensors agree on; what is single goes along with the others."""
    counts = {name: len(g) for name, g in given.items() if hasattr(g, "__len__") and not isinstance(g, str)}
    for name, count in counts.items():
        if count == 0:
            raise ValueError(f"The list of {name} is empty; give at least one.")
    several = {name: count for name, count in counts.items() if count > 1}
    if len(set(several.values())) > 1:
        said = ", ".join(f"{count} of {name}" for name, count in several.items())
        raise ValueError(f"The batch does not fit together: {said}; give equal numbers, or one for all.")
    return max(several.values(), default=1)


def _each(value, n: int) -> list:
    """One for each of n pictures: a list of n as it is, anything single n times."""
    single = isinstance(value, str) or not isinstance(value, Iterable)
    values = [value] if single else list(value)
    return values * n if len(values) == 1 else values


def _seeds(seed: int | None, seeds: Sequence[int] | None, n: int) -> list[int]:
    if seed is not None and seeds is not None:
        raise ValueError("Give either seed or seeds, not both.")
    if seed is None and seeds is None:
        # Nobody's choice, but recorded, so that a lucky picture can be drawn again.
        return [secrets.randbelow(2**32) for _ in range(n)]
    return [whole_number("A seed", s, 0, 2**63 - 1) for s in _each(seed if seeds is None else seeds, n)]


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator("cpu").manual_seed(s) for s in seeds]
