"""Notebook 06: starting from a picture. Five blanks make image-to-image; what is wrong shows in the last picture."""

from __future__ import annotations

import torch
from PIL import Image, ImageDraw

from .. import autoencoder
from ..model import StableDiffusion
from ..pictures import to_tensor
from ..samplers import SAMPLERS
from ..sampling import solve
from ..schedule import NoiseSchedule
from ..text import encode_prompt
from . import exercise

# The short run that turns an answer into a picture, so that what is wrong with it can be told in grey levels.
PROMPT, STEPS, START, GUIDANCE = "a flat fox", 4, 2, 4.0


ORANGE, BROWN = "#f08020", "#302018"
SHAPES = [  # of a cat's head, on 256 by 256 pixels
    ("polygon", [(44, 36), (60, 150), (140, 80)], ORANGE),  # ears
    ("polygon", [(212, 36), (196, 150), (116, 80)], ORANGE),
    ("ellipse", (36, 64, 220, 228), ORANGE),  # head
    ("ellipse", (84, 120, 104, 144), BROWN),  # eyes
    ("ellipse", (152, 120, 172, 144), BROWN),
    ("ellipse", (116, 168, 140, 186), BROWN),  # nose
]


def sketch(sd: StableDiffusion) -> Image.Image:
    """A cat's head as a child draws it, at the model's size."""
    drawing = Image.new("RGB", (256, 256), "white")
    pen = ImageDraw.Draw(drawing)
    for kind, place, colour in SHAPES:
        getattr(pen, kind)(place, fill=colour)
    return drawing.resize((sd.width, sd.height), Image.Resampling.LANCZOS)


def _image(sd: StableDiffusion) -> torch.Tensor:
    """The sketch as (1, 3, H, W) in [0, 1]."""
    return (to_tensor(sketch(sd)) + 1).to(sd.device) / 2


def _noise(sd: StableDiffusion, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    shape = (1, *sd.latent_shape())
    return tuple(part.to(sd.device) for part in draws.answer(shape, seed))


def _levels(sd: StableDiffusion) -> list[float]:
    """alpha_bar where each step of the short run begins, and where the last one ends."""
    return [*(sd.schedule.alpha_bar[t].item() for t in sd.schedule.timesteps(STEPS)), sd.schedule.final_alpha_bar]


def _finished(x: torch.Tensor, sd: StableDiffusion) -> torch.Tensor:
    """The picture of latents that are noised to the level of step START."""
    states = encode_prompt(sd, ["", PROMPT])
    timesteps = sd.schedule.timesteps(STEPS)
    return autoencoder.decode(sd, loop.answer(sd, x.to(sd.device), states, timesteps, _levels(sd), START, GUIDANCE))


def _finished_latents(z: torch.Tensor, sd: StableDiffusion, noise: torch.Tensor | None = None) -> torch.Tensor:
    """The picture that a run ends in which starts from these clean latents."""
    noise = _noise(sd)[1] if noise is None else noise
    timesteps = sd.schedule.timesteps(STEPS)
    return _finished(sd.schedule.add_noise(z.to(noise), noise, timesteps[START]), sd)


def _finished_draws(both: torch.Tensor, sd: StableDiffusion) -> torch.Tensor:
    """The picture of a run with these numbers for the encoder's sample and for the noise."""
    eps, noise = both.reshape(2, 1, *sd.latent_shape()).to(sd.device)
    return _finished_latents(encode.answer(sd, _image(sd), eps), sd, noise)


# -- where to step in --------------------------------------------------------------------------------------------------


@exercise(
    minutes=4, difficulty=1, trains="what strength means",
    hint="Taken are the share `strength` of all steps, with the part of a step cut off by int(). Skip the rest.",
)  # fmt: skip
def first_step(strength, num_inference_steps):
    return num_inference_steps - int(num_inference_steps * strength)


@first_step.given
def _():
    return [(0.33, 20), (0.6, 20), (1.0, 20), (0.04, 20), (0.29, 100), (0.0, 50)]


@first_step.mistake("that is how many steps are taken; the run begins at the step after those that are skipped.")
def _(strength, num_inference_steps):
    return int(num_inference_steps * strength)


@first_step.mistake(
    "it is one off where the share is no whole number: cut the part of a step off from the steps that are taken, "
    "with int(), and subtract. Rounding, or cutting off from the steps that are skipped, gives another step."
)
def _(strength, num_inference_steps):
    return num_inference_steps - round(num_inference_steps * strength)


@first_step.mistake("that is a training timestep, from 0 to 999; asked for is an index into this run's list of them.")
def _(strength, num_inference_steps):
    return round(1000 * strength)


@first_step.mistake("that is a training timestep, counted from the noisy end; asked for is an index into this run.")
def _(strength, num_inference_steps):
    return round(1000 * (1 - strength))


@first_step.mistake("the share still has its fraction: steps are whole, so cut it off with int().")
def _(strength, num_inference_steps):
    return num_inference_steps - num_inference_steps * strength


# -- the picture becomes latents ---------------------------------------------------------------------------------------


@exercise(
    minutes=5, difficulty=2, trains="the way into the latents, as every pipeline takes it", tolerance=1e-4,
    hint="sd.vae.encode(2 * image - 1).latent_dist has .mean and .std. The scaling factor comes last.",
    picture=_finished_latents,
)  # fmt: skip
@torch.no_grad()
def encode(sd, image, eps):
    distribution = sd.vae.encode(2 * image - 1).latent_dist
    return (distribution.mean + distribution.std * eps) * sd.scaling_factor


@encode.given
def _(sd):
    yield sd, _image(sd), _noise(sd)[0]


@encode.mistake(
    "the pixels went in from 0 to 1, and the encoder was trained on -1 to 1: to it the picture is pale and grey."
)
@torch.no_grad()
def zero_to_one(sd, image, eps):
    distribution = sd.vae.encode(image).latent_dist
    return (distribution.mean + distribution.std * eps) * sd.scaling_factor


@encode.mistake("the scaling factor is missing: the schedule's noise has size 1, and so must the latents have.")
@torch.no_grad()
def unscaled(sd, image, eps):
    distribution = sd.vae.encode(2 * image - 1).latent_dist
    return distribution.mean + distribution.std * eps


@encode.mistake("you divide by the scaling factor; on the way in it multiplies, on the way out it divides.")
@torch.no_grad()
def divided(sd, image, eps):
    distribution = sd.vae.encode(2 * image - 1).latent_dist
    return (distribution.mean + distribution.std * eps) / sd.scaling_factor


@encode.mistake(
    "that is the mean of the encoder's distribution; the pipeline draws from it, mean + std * eps. The difference is "
    "small by itself, but who draws nothing here takes the generator's first numbers for the noise."
)
@torch.no_grad()
def mean(sd, image, eps):
    return sd.vae.encode(2 * image - 1).latent_dist.mean * sd.scaling_factor


# -- two draws from one generator --------------------------------------------------------------------------------------


@exercise(
    minutes=4, difficulty=1, trains="the order of random numbers, which decides whether two programs agree",
    hint="torch.randn(shape, generator=generator), twice, from one and the same generator. The encoder comes first.",
    picture=_finished_draws,
)  # fmt: skip
def draws(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    eps = torch.randn(shape, generator=generator)
    noise = torch.randn(shape, generator=generator)
    return eps, noise


@draws.given
def _(sd):
    for seed in (0, 1):
        yield (1, *sd.latent_shape()), seed


@draws.mistake("the noise is drawn first: the encoder's sample comes before it, and takes the first numbers.")
def noise_first(shape, seed):
    eps, noise = draws.answer(shape, seed)
    return noise, eps


@draws.mistake("this is uniform noise, from torch.rand; the network has only seen normal noise, from torch.randn.")
def uniform(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)


@draws.mistake("the generator is seeded anew for the noise: both draws are the same numbers. Seed once, draw twice.")
def seeded_twice(shape, seed):
    eps, _ = draws.answer(shape, seed)
    return eps, eps


# -- the noised start --------------------------------------------------------------------------------------------------


@exercise(
    minutes=4, difficulty=1, trains="the noise level of the first step taken",
    hint="t = timesteps[start_step] first; then alpha_bar[t] is a share of variance, and the two factors are roots.",
    picture=_finished,
)  # fmt: skip
def noised_start(z, noise, timesteps, start_step, alpha_bar):
    t = timesteps[start_step]
    return alpha_bar[t] ** 0.5 * z + (1 - alpha_bar[t]) ** 0.5 * noise


@noised_start.given
def _(sd):
    eps, noise = _noise(sd)
    yield encode.answer(sd, _image(sd), eps), noise, sd.schedule.timesteps(STEPS), START, sd.schedule.alpha_bar


@noised_start.mistake("the square roots are missing: alpha_bar and 1 - alpha_bar are variances.")
def no_roots(z, noise, timesteps, start_step, alpha_bar):
    t = timesteps[start_step]
    return alpha_bar[t] * z + (1 - alpha_bar[t]) * noise


@noised_start.mistake(
    "start_step counts steps, and alpha_bar is a table over training timesteps: look up timesteps[start_step] first."
)
def index_for_timestep(z, noise, timesteps, start_step, alpha_bar):
    return alpha_bar[start_step] ** 0.5 * z + (1 - alpha_bar[start_step]) ** 0.5 * noise


@noised_start.mistake("this is the level of the step before: too noisy by one step for what the network will be told.")
def too_noisy(z, noise, timesteps, start_step, alpha_bar):
    return noised_start.answer(z, noise, timesteps, start_step - 1, alpha_bar)


@noised_start.mistake("this is the level of the step after: too clean by one step for what the network will be told.")
def too_clean(z, noise, timesteps, start_step, alpha_bar):
    return noised_start.answer(z, noise, timesteps, start_step + 1, alpha_bar)


@noised_start.mistake("the two are swapped: alpha_bar is what is left of the picture.")
def _(z, noise, timesteps, start_step, alpha_bar):
    return noised_start.answer(noise, z, timesteps, start_step, alpha_bar)


@noised_start.mistake("the picture keeps all its strength: it has to fade by sqrt(alpha_bar).")
def _(z, noise, timesteps, start_step, alpha_bar):
    return z + (1 - alpha_bar[timesteps[start_step]]) ** 0.5 * noise


# -- the loop from there -----------------------------------------------------------------------------------------------


@exercise(
    minutes=8, difficulty=3, trains="the guided loop, begun anywhere",
    hint="for k in range(start_step, len(timesteps)), and inside it the loop of notebook 05, unchanged.",
    picture=lambda x, sd: autoencoder.decode(sd, x),
)  # fmt: skip
def loop(sd, x, states, timesteps, levels, start_step, guidance_scale):
    return _loop(sd, x, states, timesteps, levels, start_step, guidance_scale)


@torch.no_grad()
def _loop(
    sd, x, states, timesteps, levels, start_step, guidance_scale, *,
    told=lambda k, t: t, lands=1, repeats=1, anchor=0,
):  # fmt: skip
    """The right loop, and by what follows the star each of the wrong ones.

    told: what the network is told at index k, timestep t. lands: levels below the present one. repeats: updates for
    each answer. anchor: which of (uncond, cond) guidance starts from.
    """
    s = sd.schedule
    for k in range(start_step, len(timesteps)):
        t = timesteps[k]
        both = sd.unet(torch.cat([x, x]), told(k, t), states)[0].chunk(2)  # (1, 4, h, w) each
        guided = both[anchor] + guidance_scale * (both[1] - both[0])
        for _ in range(repeats):
            x0, eps = s.to_x0(x, guided, t), s.to_eps(x, guided, t)
            x = levels[k + lands] ** 0.5 * x0 + (1 - levels[k + lands]) ** 0.5 * eps
    return x


@loop.given
def _(sd):
    eps, noise = _noise(sd)
    z, timesteps = encode.answer(sd, _image(sd), eps), sd.schedule.timesteps(STEPS)
    x = sd.schedule.add_noise(z, noise, timesteps[START])
    yield sd, x, encode_prompt(sd, ["", PROMPT]), timesteps, _levels(sd), START, GUIDANCE


@loop.mistake(
    "the loop begins at the top: these latents hold the noise of step start_step, so the steps before it are skipped."
)
def from_the_top(sd, x, states, timesteps, levels, start_step, guidance_scale):
    return _loop(sd, x, states, timesteps, levels, 0, guidance_scale)


@loop.mistake("the network is told the index k; it was trained on timesteps, so tell it timesteps[k].")
def told_the_index(sd, x, states, timesteps, levels, start_step, guidance_scale):
    return _loop(sd, x, states, timesteps, levels, start_step, guidance_scale, told=lambda k, t: k)


@loop.mistake("x is updated twice for each answer of the network: one answer, one step.")
def every_step_twice(sd, x, states, timesteps, levels, start_step, guidance_scale):
    return _loop(sd, x, states, timesteps, levels, start_step, guidance_scale, repeats=2)


@loop.mistake("each step lands on the level that it came from, so nothing moves: it goes to the next, k + 1.")
def _(sd, x, states, timesteps, levels, start_step, guidance_scale):
    return _loop(sd, x, states, timesteps, levels, start_step, guidance_scale, lands=0)


@loop.mistake("guidance starts from cond, which makes it stronger by one: uncond + guidance_scale * (cond - uncond).")
def guided_from_cond(sd, x, states, timesteps, levels, start_step, guidance_scale):
    return _loop(sd, x, states, timesteps, levels, start_step, guidance_scale, anchor=1)


# What one wrong line costs: for each caption, the parts of the machine that are exchanged.
ONE_LINE_WRONG = {
    "latents: the mean, noise drawn first": {"encode": mean, "draws": noise_first},
    "pixels from 0 to 1": {"encode": zero_to_one},
    "no scaling factor": {"encode": unscaled},
    "uniform noise": {"draws": uniform},
    "no square roots": {"noised_start": no_roots},
    "index for timestep": {"noised_start": index_for_timestep},
    "one level too noisy": {"noised_start": too_noisy},
    "one level too clean": {"noised_start": too_clean},
    "loop from the top": {"loop": from_the_top},
    "network told the index": {"loop": told_the_index},
    "every step twice": {"loop": every_step_twice},
}


# -- what the notebook measures ----------------------------------------------------------------------------------------


def grey_levels(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference of two pictures in [-1, 1], of any shape, in grey levels of 255."""
    a, b = ((127.5 * (x.float().cpu().clamp(-1, 1) + 1)).round() for x in (a, b))
    return (a - b).abs().max().item()


def showing(judge, images, subject: str) -> int | None:
    """In how many pictures the judge finds this subject; None without a judge."""
    return sum(seen.subject == subject for seen in judge.read(images)) if judge else None


def excess_noise(schedule: NoiseSchedule, sampler: str, num_inference_steps: int, start_step: int) -> list[float]:
    """By how much sigma the latents hold too much noise after each step, with a network that is always right."""
    plan = SAMPLERS[sampler].plan(schedule, num_inference_steps, start_step=start_step, spacing="linspace")
    eps = torch.ones(1)  # of one latent, whose picture is 0
    run = zip(solve(plan.start(plan.levels[0].noise * eps), lambda x, level: eps), plan.levels[1:], strict=True)
    return [(step.latents / level.signal).item() - level.sigma for step, level in run]


def excess_noise_of_lms(scheduler, num_inference_steps: int, start_step: int) -> list[float]:
    """The same of diffusers' LMSDiscreteScheduler, begun as its image-to-image pipeline begins it."""
    scheduler.set_timesteps(num_inference_steps)
    scheduler.set_begin_index(start_step)
    x, excess = scheduler.sigmas[start_step].reshape(1), []
    for t, sigma in zip(scheduler.timesteps[start_step:], scheduler.sigmas[start_step + 1 :], strict=True):
        scheduler.scale_model_input(x, t)
        x = scheduler.step(torch.ones(1), t, x).prev_sample
        excess.append((x - sigma).item())
    return excess
