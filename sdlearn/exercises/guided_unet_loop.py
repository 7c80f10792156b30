"""Notebook 05: the machine as a chain of blanks, from words and a seed to a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ..autoencoder import decode as to_pixels
from ..sampling import denoise
from ..text import encode_prompt
from . import exercise

PROMPT, SEED = "a flat fox on a blue background", 3
BRIEF = 4  # steps of a run in a check: enough to tell every mistake by


def picture(latents: Tensor, sd) -> Tensor:
    return to_pixels(sd, latents)


def brief_run(noise: Tensor, sd) -> Tensor:
    """The picture that a short run makes of this noise."""
    *_, last = denoise(sd, PROMPT, latents=noise, num_inference_steps=BRIEF, guidance_scale=3.0, progress=False)
    return picture(last.latents, sd)


def predict_noise(sd, x: Tensor, t: int, states: Tensor) -> Tensor:
    """The noise (B, C, h, w) that the UNet sees in x, whichever of its three kinds of answer it was trained to give."""
    return sd.schedule.to_eps(x, sd.unet(x, t, encoder_hidden_states=states).sample, t)


# -- the words ---------------------------------------------------------------------------------------------------------


@exercise(
    minutes=4, difficulty=1, trains="what a tokenizer returns",
    hint="First the ids of the words in a list, then start mark + words + end mark, then padding until there are 77.",
)  # fmt: skip
def tokenize(sd, prompt):
    vocabulary = sd.tokenizer.get_vocab()
    words = [vocabulary[word + "</w>"] for word in prompt.split()]
    row = [sd.tokenizer.bos_token_id, *words, sd.tokenizer.eos_token_id]
    return row + [sd.tokenizer.pad_token_id] * (sd.tokenizer.model_max_length - len(row))


@tokenize.given
def _(sd):
    yield sd, "a red cat"  # whose words all begin longer ones, too
    yield sd, PROMPT
    yield sd, ""


@tokenize.mistake('the words stand there without "</w>": that is the entry for the beginning of a longer word.')
def _(sd, prompt):
    vocabulary = sd.tokenizer.get_vocab()
    words = [vocabulary[word] for word in prompt.split()]
    row = [sd.tokenizer.bos_token_id, *words, sd.tokenizer.eos_token_id]
    return row + [sd.tokenizer.pad_token_id] * (sd.tokenizer.model_max_length - len(row))


@tokenize.mistake("the row is not filled up: it needs the padding id until it holds model_max_length ids.")
def _(sd, prompt):
    row = tokenize.answer(sd, prompt)
    return row[: len(prompt.split()) + 2]


@tokenize.mistake("the two marks are missing: bos_token_id comes before the words and eos_token_id after them.")
def _(sd, prompt):
    row = tokenize.answer(sd, prompt)[1 : len(prompt.split()) + 1]
    return row + [sd.tokenizer.pad_token_id] * (sd.tokenizer.model_max_length - len(row))


@tokenize.mistake("it is filled up with zeros: 0 is the id of a word. Padding has an id of its own, pad_token_id.")
def _(sd, prompt):
    row = tokenize.answer(sd, prompt)[: len(prompt.split()) + 2]
    return row + [0] * (sd.tokenizer.model_max_length - len(row))


@tokenize.mistake("it is too long: the two marks count among the ids, so the padding is what is left after them.")
def _(sd, prompt):
    return [*tokenize.answer(sd, prompt), sd.tokenizer.pad_token_id, sd.tokenizer.pad_token_id]


# -- the seed ----------------------------------------------------------------------------------------------------------


@exercise(
    minutes=3, difficulty=1, trains="turning a seed into noise that is the same everywhere",
    hint="torch.randn takes generator=...; torch.Generator().manual_seed(seed) makes one. Other noise at every call "
    "means that the generator is not used.",
    picture=brief_run,
)  # fmt: skip
def first_noise(seed, shape):
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


@first_noise.given
def _(sd):
    for seed in (SEED, 11):
        yield seed, (1, *sd.latent_shape())


@first_noise.mistake("it is uniform noise, from 0 to 1: the forward process ends in a normal distribution (randn).")
def uniform(seed, shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@first_noise.mistake("it is uniform noise, from -1 to 1: its mean is right, its size and its shape are not (randn).")
def _(seed, shape):
    return 2 * torch.rand(shape, generator=torch.Generator().manual_seed(seed)) - 1


@first_noise.mistake("it is numpy's noise: normal, but another seed's worth of numbers than torch has under that name.")
def _(seed, shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()


@first_noise.mistake("it is drawn in double precision: the same seed gives other numbers then. Use torch's default.")
def _(seed, shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- two predictions, one answer ---------------------------------------------------------------------------------------


@exercise(
    minutes=3, difficulty=1, trains="classifier-free guidance",
    hint="At scale 0 the answer is uncond, at scale 1 it is cond. What has to be added to uncond, and how many times?",
    machine=lambda part, sd: brief_picture(sd, guide=part),
)  # fmt: skip
def guide(uncond, cond, scale):
    return uncond + scale * (cond - uncond)


@guide.given
def _(sd):
    chance = torch.Generator().manual_seed(0)
    for scale in (4.0, 1.0, 0.0):
        yield *torch.randn(2, 1, 4, 3, 3, generator=chance), scale


@guide.mistake("the count begins at the wrong end: from cond on it is scale + 1 times the difference. Begin at uncond.")
def from_the_prompt(uncond, cond, scale):
    return cond + scale * (cond - uncond)


@guide.mistake("the two are exchanged: this walks from cond through uncond, away from the prompt.")
def _(uncond, cond, scale):
    return cond + scale * (uncond - cond)


@guide.mistake("uncond is added in full: scale times cond, on top of uncond, is scale + 1 predictions' worth of noise.")
def _(uncond, cond, scale):
    return uncond + scale * cond


@guide.mistake("the starting point is missing: scale times the difference is a direction. Add it to uncond.")
def _(uncond, cond, scale):
    return scale * (cond - uncond)


# -- the plan of a run -------------------------------------------------------------------------------------------------


@exercise(
    minutes=6, difficulty=2, trains="the list of timesteps and noise levels that decides which picture you get",
    hint="[k * stride + steps_offset for k in reversed(range(n))] are the timesteps. Then a list of their alpha_bar "
    "with final_alpha_bar at its end, and zip(timesteps, levels, levels[1:]).",
    tolerance=1e-8, machine=lambda part, sd: brief_picture(sd, plan=part),
)  # fmt: skip
def plan(schedule, n):
    stride = schedule.num_train_timesteps // n
    return _rows(schedule, [k * stride + schedule.steps_offset for k in reversed(range(n))])


def _rows(schedule, timesteps, end=None) -> list[tuple[int, float, float]]:
    levels = [schedule.alpha_bar[t].item() for t in timesteps]
    levels.append(schedule.final_alpha_bar if end is None else end)
    return list(zip(timesteps, levels, levels[1:], strict=False))


@plan.given
def _(sd):
    yield sd.schedule, 16
    yield sd.schedule, 5


@plan.mistake('this is "trailing" spacing: it counts down from the top. Count up from the bottom, in whole strides.')
def trailing(schedule, n):
    return _rows(schedule, schedule.timesteps(n, "trailing"))


@plan.mistake('this is "linspace" spacing: both ends of the training range. Take multiples of the whole stride.')
def linspace(schedule, n):
    return _rows(schedule, schedule.timesteps(n, "linspace"))


@plan.mistake("the offset is forgotten: every timestep is a multiple of the stride, plus schedule.steps_offset.")
def no_offset(schedule, n):
    stride = schedule.num_train_timesteps // n
    return _rows(schedule, [k * stride for k in reversed(range(n))])


@plan.mistake("the run ends at alpha_bar 1: Stable Diffusion ends at schedule.final_alpha_bar, a little below.")
def ends_at_one(schedule, n):
    return _rows(schedule, [t for t, _, _ in plan.answer(schedule, n)], end=1.0)


@plan.mistake("the noise levels are those of one timestep before: alpha_bar[t] already counts from 0.")
def one_timestep_off(schedule, n):
    rows = _rows(schedule, [t - 1 for t, _, _ in plan.answer(schedule, n)])
    return [(t + 1, now, after) for t, now, after in rows]


@plan.mistake("the run goes uphill: the noisiest timestep comes first, so reverse the list.")
def _(schedule, n):
    return _rows(schedule, [t for t, _, _ in plan.answer(schedule, n)][::-1])


@plan.mistake("each step is one training timestep long: `after` is the level of the next row, not of t - 1.")
def _(schedule, n):
    rows = plan.answer(schedule, n)
    return [(t, now, schedule.alpha_bar[t - 1].item()) for t, now, _ in rows]


# -- one step ----------------------------------------------------------------------------------------------------------


@exercise(
    minutes=6, difficulty=2, trains="DDIM, the step from one noise level to the next",
    hint="Solve x = sqrt(now) x0 + sqrt(1 - now) eps for x0. Then write the same formula with `after`.",
    machine=lambda part, sd: brief_picture(sd, ddim_step=part),
)  # fmt: skip
def ddim_step(x, eps, now, after):
    x0 = (x - (1 - now) ** 0.5 * eps) / now**0.5
    return after**0.5 * x0 + (1 - after) ** 0.5 * eps


@ddim_step.given
def _(sd):
    chance = torch.Generator().manual_seed(1)
    for now, after in ((0.4, 0.7), (0.1, 0.2), (0.9, 1.0)):
        yield *torch.randn(2, 1, 4, 3, 3, generator=chance), now, after


@ddim_step.mistake("the square roots are missing: now and after are variances, and x, x0 and eps are amplitudes.")
def no_roots(x, eps, now, after):
    x0 = (x - (1 - now) * eps) / now
    return after * x0 + (1 - after) * eps


@ddim_step.mistake("the square roots are missing in the second half: mix x0 and eps with sqrt(after), sqrt(1 - after).")
def _(x, eps, now, after):
    x0 = (x - (1 - now) ** 0.5 * eps) / now**0.5
    return after * x0 + (1 - after) * eps


@ddim_step.mistake("x0 is not brought back to full strength: after taking the noise away, divide by sqrt(now).")
def _(x, eps, now, after):
    x0 = x - (1 - now) ** 0.5 * eps
    return after**0.5 * x0 + (1 - after) ** 0.5 * eps


@ddim_step.mistake("no noise is put back: at the next level there has to be sqrt(1 - after) times eps again.")
def _(x, eps, now, after):
    x0 = (x - (1 - now) ** 0.5 * eps) / now**0.5
    return after**0.5 * x0


@ddim_step.mistake("the two levels are exchanged: take x apart with `now` and put it together with `after`.")
def _(x, eps, now, after):
    return ddim_step.answer(x, eps, after, now)


@ddim_step.mistake("it stays where it is: x0 and eps are put together at `now` again, and that is x. Use `after`.")
def _(x, eps, now, after):
    return x


# -- the loop ----------------------------------------------------------------------------------------------------------


@exercise(
    minutes=8, difficulty=2, trains="the guided loop, from memory",
    hint="Inside `for t, now, after in plan:` there are three lines: predict_noise for both texts, guide, ddim_step. "
    "The result of the last one is the x of the next round.",
    picture=picture,
)  # fmt: skip
def guided_loop(sd, x, empty, words, plan, scale, guide=guide.answer, ddim_step=ddim_step.answer):
    both = torch.cat([empty, words])
    for t, now, after in plan:
        uncond, cond = predict_noise(sd, torch.cat([x, x]), t, both).chunk(2)
        x = ddim_step(x, guide(uncond, cond, scale), now, after)
    return x


@guided_loop.given
def _(sd):
    noise = first_noise.answer(SEED, (1, *sd.latent_shape())).to(sd.device)
    yield sd, noise, encode_prompt(sd, ""), encode_prompt(sd, PROMPT), plan.answer(sd.schedule, BRIEF), 4.0


@guided_loop.mistake("the texts are swapped: the empty one comes first. So the picture runs away from the prompt.")
def texts_swapped(sd, x, empty, words, plan, scale):
    return guided_loop.answer(sd, x, words, empty, plan, scale)


@guided_loop.mistake("the network is told i in the place of t: it needs the timestep, not the count of the step.")
def i_for_t(sd, x, empty, words, plan, scale):
    for i, (_, now, after) in enumerate(plan):
        x = ddim_step.answer(x, _answer(sd, x, i, empty, words, scale), now, after)
    return x


@guided_loop.mistake("the network is told the timestep of the next step: t belongs to the x that you have now.")
def _(sd, x, empty, words, plan, scale):
    told = [*(t for t, _, _ in plan[1:]), 0]
    for t, (_, now, after) in zip(told, plan, strict=True):
        x = ddim_step.answer(x, _answer(sd, x, t, empty, words, scale), now, after)
    return x


@guided_loop.mistake("the step is taken twice in each round. Call ddim_step once and keep what it returns.")
def step_twice(sd, x, empty, words, plan, scale):
    for t, now, after in plan:
        eps = _answer(sd, x, t, empty, words, scale)
        x = ddim_step.answer(ddim_step.answer(x, eps, now, after), eps, now, after)
    return x


@guided_loop.mistake("the scale does nothing: cond alone is what scale 1 gives. Put guide() before the step.")
def _(sd, x, empty, words, plan, scale):
    return guided_loop.answer(sd, x, empty, words, plan, 1.0)


@guided_loop.mistake("the network looks at the first noise in every round: show it the x that the last step returned.")
def _(sd, x, empty, words, plan, scale):
    noise = x
    for t, now, after in plan:
        x = ddim_step.answer(x, _answer(sd, noise, t, empty, words, scale), now, after)
    return x


@guided_loop.mistake("only one step is kept: each step has to start from what the step before returned (x = ...).")
def _(sd, x, empty, words, plan, scale):
    (t, now, after) = plan[-1]
    return ddim_step.answer(x, _answer(sd, x, t, empty, words, scale), now, after)


def _answer(sd, x, t, empty, words, scale):
    return guide.answer(predict_noise(sd, x, t, empty), predict_noise(sd, x, t, words), scale)


# -- the decoder -------------------------------------------------------------------------------------------------------


@exercise(
    minutes=2, difficulty=1, trains="the way from latents to pixels",
    hint="First divide by sd.scaling_factor, then call sd.vae.decoder(sd.vae.post_quant_conv(...)).",
    picture=lambda pixels, sd: pixels,
)  # fmt: skip
def decode(sd, x):
    return sd.vae.decoder(sd.vae.post_quant_conv(x / sd.scaling_factor))


@decode.given
def _(sd):
    noise = first_noise.answer(SEED, (1, *sd.latent_shape()))
    *_, last = denoise(sd, PROMPT, latents=noise, num_inference_steps=BRIEF, guidance_scale=3.0, progress=False)
    yield sd, last.latents


@decode.mistake("the scaling factor is forgotten: in the loop latents have unit size, the decoder has its own. Divide.")
def not_divided(sd, x):
    return sd.vae.decoder(sd.vae.post_quant_conv(x))


@decode.mistake("it is multiplied by the scaling factor: that is the encoder's direction. On the way back, divide.")
def _(sd, x):
    return sd.vae.decoder(sd.vae.post_quant_conv(x * sd.scaling_factor))


@decode.mistake("the pixels are brought to 0 to 1: leave them as they come, about -1 to 1.")
def _(sd, x):
    return decode.answer(sd, x) / 2 + 0.5


# -- the whole machine -------------------------------------------------------------------------------------------------

# What everybody does once, and the part that it replaces.
CLASSICS: Mapping[str, Mapping[str, Callable]] = {
    "texts swapped": {"guided_loop": texts_swapped},
    "uniform noise": {"first_noise": uniform},
    "cond + scale × difference": {"guide": from_the_prompt},
    "square roots missing": {"ddim_step": no_roots},
    "step called twice": {"guided_loop": step_twice},
    "i for t": {"guided_loop": i_for_t},
    "trailing spacing": {"plan": trailing},
    "linspace spacing": {"plan": linspace},
    "offset forgotten": {"plan": no_offset},
    "ends at alpha-bar 1": {"plan": ends_at_one},
    "no scaling factor": {"decode": not_divided},
}


@torch.no_grad()
def draw(sd, prompt: str, seed: int, num_inference_steps: int, guidance_scale: float, **parts: Callable) -> Tensor:
    """The picture (1, 3, H, W) that the machine of these exercises draws.

    parts: name of an exercise -> a function in the place of its answer, such as plan=trailing.
    """
    noise = parts.get("first_noise", first_noise.answer)(seed, (1, *sd.latent_shape())).to(sd.device)
    rows = parts.get("plan", plan.answer)(sd.schedule, num_inference_steps)
    states = encode_prompt(sd, ""), encode_prompt(sd, prompt)
    inner = {name: parts[name] for name in ("guide", "ddim_step") if name in parts}
    latents = parts.get("guided_loop", guided_loop.answer)(sd, noise, *states, rows, guidance_scale, **inner)
    return parts.get("decode", decode.answer)(sd, latents)


def brief_picture(sd, **parts: Callable) -> Tensor:
    """What the machine draws in a check, with these parts in the place of its own."""
    return draw(sd, PROMPT, SEED, BRIEF, 4.0, **parts)
