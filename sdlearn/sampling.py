"""The sampling loop, and the three ways to use it.

`denoise` is a generator: it yields every `Step` as it is taken, so watching, stopping early and keeping intermediate
states need no callbacks. `text_to_image`, `image_to_image` and `inpaint` differ only in where it starts and in what is
blended in after each step.

On a GPU the host runs ahead: within a step nothing is read back, every coefficient is a Python float, all random
numbers were drawn beforehand (on the CPU, one generator per picture, so that a seed gives the same picture on every
device and in every batch).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from . import autoencoder, guidance, samplers
from .autoencoder import SETTINGS_KEY, Generators, Picture, draw_noise, to_images
from .checkpoints import StableDiffusion
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
    prompt: Prompt,
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
    """Draw what a prompt says.

    prompt: one or several. seed, seeds: one number per picture; None draws one, and the picture carries it in its
    settings. One prompt and one seed give an image; anything else gives a list, prompts and seeds paired, a single one
    repeated for all the others. height, width: pixels, multiples of `sd.vae_factor`; by default what the model was
    trained at.
    Every further option is one of `denoise`. Errors say what was wrong and what to do.
    """
    # Parameters are passed on one by one, so that this signature stays the documentation.
    options |= {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "sampler": sampler}
    options |= {"negative_prompt": negative_prompt, "height": height, "width": width}
    batch = _Batch(prompt, seed, seeds, negative_prompt, options)
    return batch.finish(sd, denoise(sd, batch.prompts, generator=batch.generators, **options))


def image_to_image(
    sd: StableDiffusion,
    image: Picture | Sequence[Picture],
    prompt: Prompt,
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

    image: one picture, or one for each prompt or seed. With height and width it is scaled and cropped to that size.
    strength: 0..1, how much of the run is done: the last int(num_inference_steps * strength) steps, 0.8 by default.
        At 0 (wherever that number is 0) no step is taken and the picture comes back from the autoencoder's round trip;
        at 1 every step is taken, but even the noisiest one still holds a trace of the picture.
    start_step: the same choice as the tutorials make it, the number of steps to skip; give one of the two.

    The picture is noised to the level of the first step taken. Other parameters as for `text_to_image`.
    """
    start_step = _first_step(num_inference_steps, strength, start_step, default=0.8)
    options |= {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "sampler": sampler}
    options |= {"negative_prompt": negative_prompt}
    images = _prepare(sd, image, height, width)
    batch = _Batch(prompt, seed, seeds, negative_prompt, options | {"start_step": start_step}, len(images))
    x0 = autoencoder.encode(sd, _repeat(images, len(batch.seeds)), batch.generators)
    if start_step == num_inference_steps:
        return batch.finish(sd, [Step(-1, -1.0, 0.0, x0, x0)])
    options |= {"image_latents": x0, "start_step": start_step}
    return batch.finish(sd, denoise(sd, batch.prompts, generator=batch.generators, **options))


def inpaint(
    sd: StableDiffusion,
    image: Picture,
    mask: Picture,
    prompt: Prompt,
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

    mask: a picture of the image's size; above half grey is redrawn. strength, start_step: as for `image_to_image`, but
        1 (the default) starts from pure noise. keep_outside: put the input's own pixels back outside the mask, bit for
        bit; False returns them as the autoencoder gives them, which hides the seam and changes them slightly.

    Works with ordinary UNets, whose latents outside the mask are replaced by the noised input after every step, and
    with inpainting UNets (9 input channels), which are shown the mask and the masked picture. The rest as before.
    """
    start_step = _first_step(num_inference_steps, strength, start_step, default=1.0)
    options |= {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, "sampler": sampler}
    options |= {"negative_prompt": negative_prompt}
    (original,) = _prepare(sd, image, height, width)
    hole = _prepare_mask(mask, original.size)
    batch = _Batch(prompt, seed, seeds, negative_prompt, options | {"start_step": start_step})
    n = len(batch.seeds)
    if start_step == num_inference_steps:
        raise ValueError("Inpainting at strength 0 would change nothing; raise strength or lower start_step.")
    picture = autoencoder.to_tensor(original)
    hole_pixels = autoencoder.to_tensor(hole)[:, :1].gt(0).float()
    _, h, w = sd.latent_shape(original.height, original.width)
    hole_latents = torch.nn.functional.interpolate(hole_pixels, size=(h, w))
    # The draws come in the diffusers pipeline's order: the picture's latents, the noise, the masked picture's latents.
    extra_channels = sd.unet.config.in_channels - sd.latent_channels
    if extra_channels not in (0, 1 + sd.latent_channels):
        raise ValueError(f"This UNet takes {sd.unet.config.in_channels} channels, which no inpainting model does.")
    x0 = None
    if not extra_channels or start_step:
        x0 = autoencoder.encode(sd, picture.expand(n, -1, -1, -1), batch.generators)
    noise = draw_noise(batch.generators, (n, sd.latent_channels, h, w))
    if extra_channels:
        masked = autoencoder.encode(sd, (picture * (hole_pixels < 0.5)).expand(n, -1, -1, -1), batch.generators)
        options["unet_channels"] = torch.cat([hole_latents.expand(n, -1, -1, -1).to(masked), masked], dim=1)
    else:
        options["mask"] = hole_latents
    options |= {"image_latents": x0, "latents": noise, "start_step": start_step}
    images = batch.finish(sd, denoise(sd, batch.prompts, generator=batch.generators, **options), as_list=True)
    if keep_outside:
        images = [batch.signed(Image.composite(new, original, hole), k) for k, new in enumerate(images)]
    return images if batch.many else images[0]


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
        network once, not twice. guidance_rescale as in `guidance.rescale`.
    By which steps: num_inference_steps, sampler (a name in SAMPLERS), eta (DDIM only), spacing of the timesteps
        ("leading", "trailing", "linspace"; None for the model's or the sampler's own).
    From where: seed or seeds; or generator, CPU generators that were drawn from before; or latents, the unit noise
        itself (B, C, h, w). image_latents (B, C, h, w): the clean latents that the noise is added to at the level of
        step start_step; None starts from noise alone. mask (1 or B, 1, h, w): 1 where to draw; elsewhere image_latents,
        noised to the level reached, replace the state after every step. unet_channels: shown to the UNet beside the
        latents (inpainting models).
    progress: a bar on the terminal, for runs of more than a few seconds.

    Everything is checked before the first step; a run whose numbers overflow ends in FloatingPointError.
    """
    shape = sd.latent_shape(height, width)
    sampler = samplers.get_sampler(sampler)
    plan = sampler.plan(sd.schedule, num_inference_steps, start_step=start_step, spacing=spacing, eta=eta)
    scales = [guidance.scale_at(guidance_scale, level) for level in plan.levels[:-1]]
    guided = any(scale != 1 for scale in scales)
    text = {"clip_skip": clip_skip, "long_prompt": long_prompt, "prompt_weights": prompt_weights}
    for name, given in (("latents", latents), ("image_latents", image_latents)):
        if given is not None:
            if given.ndim != 4 or given.shape[1] != shape[0]:
                raise ValueError(f"{name} must have the shape (B, {shape[0]}, h, w), not {tuple(given.shape)}.")
            if not torch.isfinite(given).all():
                raise ValueError(f"{name} holds values that are not finite; a run can only end as it starts.")
            shape = tuple(given.shape[1:])

    counts = {"prompts": _count(prompt), "negative prompts": _count(negative_prompt), "seeds": _count(seeds)}
    for name, given in (("latents", latents), ("image_latents", image_latents), ("prompt_embeds", prompt_embeds)):
        counts[name] = None if given is None else len(given)
    counts["generators"] = len(generator) if isinstance(generator, Sequence) else None
    n = _agree(counts)
    embeddings = _embeddings(sd, prompt, prompt_embeds, negative_prompt, negative_prompt_embeds, guided, n, text)

    if generator is None and (latents is None or plan.eta):
        generator = _generators(_seeds(seed, seeds, n))
    if latents is None:
        latents = draw_noise(generator, (n, *shape))
    fresh = [draw_noise(generator, (n, *shape)).to(sd.device) for _ in range(len(plan))] if plan.eta else []
    noise = latents.to(sd.device, torch.float32).expand(n, -1, -1, -1)
    if image_latents is not None:
        image_latents = image_latents.to(sd.device, torch.float32)
    if mask is not None:
        if image_latents is None:
            raise ValueError("A mask keeps part of a picture; give that picture's latents as image_latents.")
        mask = mask.to(sd.device, torch.float32)
    if unet_channels is not None:
        unet_channels = unet_channels.to(sd.device, sd.dtype)
    return _run(sd, plan, sampler.step, scales, guidance_rescale, embeddings, noise, fresh, image_latents, mask,
                unet_channels, start_from_noise=start_step == 0 and (mask is not None or image_latents is None),
                progress=progress)  # fmt: skip


@torch.no_grad()
def _run(sd, plan, step, scales, guidance_rescale, embeddings, noise, fresh, image_latents, mask, unet_channels,
         start_from_noise, progress) -> Iterator[Step]:  # fmt: skip
    first = plan.levels[0]
    x = noise * plan.init_scale if start_from_noise else first.signal * image_latents + first.noise * noise
    timesteps = torch.tensor(plan.timesteps, dtype=torch.float32).to(x.device)
    uncond, cond = embeddings
    both = torch.cat([uncond, cond]) if uncond is not None else cond
    channels = sd.unet.config.in_channels
    unet_input = torch.empty(len(both), channels, *x.shape[2:], dtype=sd.dtype, device=x.device)
    if unet_channels is not None:
        unet_input[:, x.shape[1] :] = unet_channels.repeat(len(both) // len(x), 1, 1, 1)
    history = ()
    bar = tqdm(range(len(plan)), delay=5, leave=False, disable=not progress, unit="step")
    for k in bar:
        now, after = plan.levels[k], plan.levels[k + 1]
        wants_both = scales[k] != 1
        states = both if wants_both else cond
        sample = unet_input[: len(states)]
        # (n, C, h, w) into (groups, n, C, h, w): scaled, cast and doubled by one copy.
        sample.unflatten(0, (-1, len(x)))[:, :, : x.shape[1]].copy_(x * now.input_scale)
        output = sd.unet(sample, timesteps[k], encoder_hidden_states=states, return_dict=False)[0].float()
        if wants_both:
            without, with_prompt = output.chunk(2)
            output = guidance.guide(without, with_prompt, scales[k])
            if guidance_rescale:
                output = guidance.rescale(output, with_prompt, guidance_rescale)
        prediction = plan.predict(x, output, k)
        x, history = step(x, prediction, plan, k, history, fresh[k] if fresh else None)
        if mask is not None:
            x = mask * x + (1 - mask) * (after.signal * image_latents + after.noise * noise)
        yield Step(k, now.timestep, now.sigma, x, prediction.x0)
    # One look at the end: a check inside the loop would make a GPU wait at every step.
    if not torch.isfinite(x).all():
        raise FloatingPointError(
            f"The UNet ({sd.dtype}) produced values that are not finite; "
            f"load the model with dtype='bfloat16' or 'float32'."
        )


class _Batch:
    """The prompts, seeds and generators of one call, and what its pictures remember of them."""

    def __init__(self, prompt, seed, seeds, negative_prompt, settings, images: int = 1):
        # A batch of one image given as a list is still one picture; a list of prompts or seeds asks for a list.
        self.many = not isinstance(prompt, str) or seeds is not None or images > 1
        n = _agree(
            {
                "prompts": _count(prompt),
                "negative prompts": _count(negative_prompt),
                "seeds": _count(seeds),
                "pictures": images if images > 1 else None,
            }
        )
        self.prompts = _repeat([prompt] if isinstance(prompt, str) else list(prompt), n)
        self.negatives = _repeat([negative_prompt or ""] if _count(negative_prompt) is None else negative_prompt, n)
        self.seeds = _seeds(seed, seeds, n)
        self.generators = _generators(self.seeds)
        self.settings = {k: v for k, v in settings.items() if isinstance(v, str | int | float)}

    def finish(self, sd, steps, as_list: bool = False):
        for step in steps:  # noqa: B007 - the last one is the result
            pass
        self.settings["model"] = sd.name
        images = [self.signed(image, k) for k, image in enumerate(to_images(autoencoder.decode(sd, step.latents)))]
        return images if self.many or as_list else images[0]

    def signed(self, image: Image.Image, k: int) -> Image.Image:
        settings = {"prompt": self.prompts[k], **self.settings, "negative_prompt": self.negatives[k]}
        settings |= {"seed": self.seeds[k], "width": image.width, "height": image.height}
        image.info[SETTINGS_KEY] = json.dumps(settings)
        return image


def _embeddings(sd, prompt, prompt_embeds, negative_prompt, negative_prompt_embeds, guided, n, text):
    """(uncond or None, cond), each (n, L, D) in the UNet's dtype; every distinct text is encoded once, in one batch."""
    if (prompt is None) == (prompt_embeds is None):
        raise ValueError("Give either a prompt or prompt_embeds.")
    if negative_prompt is not None and negative_prompt_embeds is not None:
        raise ValueError("Give either a negative_prompt or negative_prompt_embeds, not both.")
    wanted = {}
    if prompt_embeds is None:
        wanted["cond"] = _repeat([prompt] if isinstance(prompt, str) else list(prompt), n)
    if guided and negative_prompt_embeds is None:
        negative = "" if negative_prompt is None else negative_prompt
        wanted["uncond"] = _repeat([negative] if isinstance(negative, str) else list(negative), n)
    distinct = list(dict.fromkeys(text for texts in wanted.values() for text in texts))
    states = encode_prompt(sd, distinct, **text) if distinct else None
    found = {side: states[[distinct.index(text) for text in texts]] for side, texts in wanted.items()}
    cond = found.get("cond", prompt_embeds)
    uncond = found.get("uncond", negative_prompt_embeds if guided else None)
    if uncond is not None and uncond.shape[1:] != cond.shape[1:]:
        if uncond.shape[1] >= cond.shape[1] or cond.shape[1] % uncond.shape[1] or uncond.shape[2] != cond.shape[2]:
            raise ValueError(
                f"prompt_embeds {tuple(cond.shape)} and negative_prompt_embeds {tuple(uncond.shape)} must agree in "
                f"length and width; encode both with the same options."
            )
        uncond = uncond.repeat(1, cond.shape[1] // uncond.shape[1], 1)
    place = {"device": sd.device, "dtype": sd.dtype}
    return tuple(None if e is None else e.to(**place).expand(n, -1, -1) for e in (uncond, cond))


def _first_step(n: int, strength: float | None, start_step: int | None, default: float) -> int:
    """How many of n steps are skipped (diffusers: n - min(int(n * strength), n))."""
    if start_step is not None:
        if strength is not None:
            raise ValueError("strength and start_step say the same thing in two ways; give one of them.")
        if start_step != int(start_step) or not 0 <= start_step <= n:
            raise ValueError(f"start_step must be a whole number from 0 to {n}, not {start_step}.")
        return int(start_step)
    strength = default if strength is None else strength
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie between 0 (keep the picture) and 1 (redraw it), not {strength}.")
    return n - min(int(n * strength), n)


def _prepare(sd, image, height, width) -> list[Image.Image]:
    pictures = [image] if isinstance(image, Picture) else list(image)
    if height or width:
        pictures = [autoencoder.fit(p, width or sd.width, height or sd.height) for p in pictures]
    pictures = [autoencoder.open_image(p) for p in pictures]
    for p in pictures:
        try:
            sd.latent_shape(p.height, p.width)
        except ValueError as error:
            raise ValueError(f"{error} Pass height and width to have it scaled and cropped.") from None
    return pictures


def _prepare_mask(mask: Picture, size: tuple[int, int]) -> Image.Image:
    """The mask as 0 and 255 only, at the picture's size."""
    grey = autoencoder.open_image(mask).convert("L")
    if grey.size != size:
        grey = autoencoder.fit(grey, *size).convert("L")
    hole = grey.point(lambda value: 255 if value >= 128 else 0)
    if hole.getextrema() == (0, 0):
        raise ValueError("The mask is black everywhere, so there is nothing to redraw; paint white what should change.")
    return hole


def _count(given) -> int | None:
    """How many there are of something; None where it is absent or single and goes along with any number."""
    return None if given is None or isinstance(given, str) else len(given)


def _agree(counts: dict[str, int | None]) -> int:
    """The batch size that all the given counts agree on; a count of one goes along with the others."""
    for name, count in counts.items():
        if count == 0:
            raise ValueError(f"The list of {name} is empty; give at least one.")
    several = {name: count for name, count in counts.items() if count not in (None, 1)}
    if len(set(several.values())) > 1:
        said = ", ".join(f"{count} {name}" for name, count in several.items())
        raise ValueError(f"The batch does not fit together: {said}; give equal numbers, or one for all.")
    return next(iter(several.values()), 1)


def _repeat(items: Sequence, n: int) -> list:
    return list(items) * n if len(items) == 1 else list(items)


def _seeds(seed: int | None, seeds: Sequence[int] | None, n: int) -> list[int]:
    if seed is not None and seeds is not None:
        raise ValueError("Give either seed or seeds, not both.")
    if seeds is None:
        # Nobody's choice, but recorded, so that a lucky picture can be drawn again.
        seeds = [seed] if seed is not None else [secrets.randbelow(2**32) for _ in range(n)]
    for s in seeds:
        if isinstance(s, bool) or int(s) != s or not 0 <= s < 2**63:
            raise ValueError(f"A seed is a whole number from 0 to 2**63 - 1, not {s!r}.")
    return [int(s) for s in _repeat(seeds, n)]


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator("cpu").manual_seed(s) for s in seeds]
