"""Notebook 12: the jump to the end of the path, what it is taught, and the same model in the clothes of 2024."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise, product

import torch
from PIL import Image
from torch import Tensor, nn

from .. import autoencoder
from ..hub import costs
from ..hub.lora import add_lora, loras
from ..model import StableDiffusion
from ..samplers import DISTILLED, SAMPLERS, consistency_weights
from ..sampling import solve
from ..schedule import CLEAN, Level
from ..show import exact
from ..text import encode_prompt
from . import Exercise, exercise

LORA = "few-steps"
PUBLISHED = dict.fromkeys(("sd-1.4", "sd-1.5"), "latent-consistency/lcm-lora-sdv1-5")

# -- what the student is taught ----------------------------------------------------------------------------------------


@exercise(
    minutes=8, difficulty=3, trains="the target of consistency distillation",
    hint="Three lines: ask the teacher and take x0 out of its answer; land on `after` with DDIM's step; ask the "
    "student there.",
)  # fmt: skip
def target(x, now, after, teacher, student):
    eps = teacher(x, now)
    x0 = (x - now.noise * eps) / now.signal
    return student(after.signal * x0 + after.noise * eps, after)


@target.given
def _():
    levels = exact.levels(6, unit_size=True)
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for now, after in ((levels[3], levels[4]), (levels[2], levels[3])):
        yield x, now, after, exact.ask, _guess


def _guess(x, level):
    """Stands for a student: some function of the point and of its level."""
    return (x / level.signal).sin() + 0.3 * level.noise


def _landed(x, now, after, eps):
    return after.signal * (x - now.noise * eps) / now.signal + after.noise * eps


@target.mistake(
    "that is the teacher's guess of the clean point, and a student who learns it learns the mean of all ends, as every "
    "denoiser does: take the step with it, and ask the student there."
)
def _(x, now, after, teacher, student):
    return (x - now.noise * teacher(x, now)) / now.signal


@target.mistake("the student is asked at the level `now`, and its new point lies at `after`: it has to be told so.")
def _(x, now, after, teacher, student):
    return student(_landed(x, now, after, teacher(x, now)), now)


@target.mistake("that is what the student says before the teacher's step; then there is nothing to learn.")
def _(x, now, after, teacher, student):
    return student(x, now)


@target.mistake("the point has not moved, it is the old x at another level: mix it anew with the factors of `after`.")
def _(x, now, after, teacher, student):
    return student(x, after)


@target.mistake("that is the point after the teacher's step: the student's answer there is still missing.")
def _(x, now, after, teacher, student):
    return _landed(x, now, after, teacher(x, now))


@target.mistake("x0 is not brought back to full strength: after the noise is taken away, divide by now.signal.")
def _(x, now, after, teacher, student):
    eps = teacher(x, now)
    return student(after.signal * (x - now.noise * eps) + after.noise * eps, after)


@target.mistake("the teacher is asked at the level `after`, and x lies at `now`.")
def _(x, now, after, teacher, student):
    return student(_landed(x, now, after, teacher(x, after)), after)


@target.mistake("after the step it is the student's turn, and not the teacher's once more.")
def _(x, now, after, teacher, student):
    return teacher(_landed(x, now, after, teacher(x, now)), after)


# -- the loop ----------------------------------------------------------------------------------------------------------


@exercise(
    minutes=6, difficulty=2, trains="multistep consistency sampling, the loop of the sampler `lcm`",
    hint="One line in the loop: what `answer` names, times after.signal, plus fresh[k], times after.noise.",
)  # fmt: skip
def few_steps(x, levels, answer, fresh):
    for k, (now, after) in enumerate(pairwise(levels)):
        x = after.signal * answer(x, now) + after.noise * fresh[k]
    return x


@few_steps.given
def _():
    chance = torch.Generator().manual_seed(0)
    levels = [Level(999.0, 0.28, 0.96), Level(600.0, 0.6, 0.8), Level(200.0, 0.96, 0.28), CLEAN]
    x, *fresh = torch.randn(4, 1, 4, 3, 3, generator=chance)
    yield x, levels, _name_the_end, fresh
    yield x, [levels[0], levels[2], CLEAN], _name_the_end, fresh[:2]


def _name_the_end(x, level):
    """Stands for a distilled network: some function of the point and of its level."""
    return 0.5 * x.tanh() + 0.1 * level.signal


@few_steps.mistake(
    "the noise that is in x already is used again, which is DDIM's step; a network that names the end has no noise to "
    "offer, so draw fresh[k]."
)
def _(x, levels, answer, fresh):
    for now, after in pairwise(levels):
        x0 = answer(x, now)
        x = after.signal * x0 + after.noise * (x - now.signal * x0) / now.noise
    return x


@few_steps.mistake("every step goes back with the same noise: fresh[k], with the number of the step.")
def _(x, levels, answer, fresh):
    for now, after in pairwise(levels):
        x = after.signal * answer(x, now) + after.noise * fresh[0]
    return x


@few_steps.mistake("the noise that the run began with comes in again: take fresh[k].")
def _(x, levels, answer, fresh):
    first = x
    for now, after in pairwise(levels):
        x = after.signal * answer(x, now) + after.noise * first
    return x


@few_steps.mistake("no noise comes back: the next answer is asked of a clean picture that is said to be noisy.")
def _(x, levels, answer, fresh):
    for now, _after in pairwise(levels):
        x = answer(x, now)
    return x


@few_steps.mistake("the noise is missing: the answer fades by after.signal, and nothing fills up what is missing to 1.")
def _(x, levels, answer, fresh):
    for now, after in pairwise(levels):
        x = after.signal * answer(x, now)
    return x


@few_steps.mistake("the picture does not fade: the answer is multiplied by after.signal before noise is added.")
def _(x, levels, answer, fresh):
    for k, (now, after) in enumerate(pairwise(levels)):
        x = answer(x, now) + after.noise * fresh[k]
    return x


@few_steps.mistake("you go back to the level you come from: the factors are those of `after`.")
def _(x, levels, answer, fresh):
    for k, (now, _after) in enumerate(pairwise(levels)):
        x = now.signal * answer(x, now) + now.noise * fresh[k]
    return x


@few_steps.mistake("that is the first jump only: each level is asked, and the next answer is better.")
def _(x, levels, answer, fresh):
    return answer(x, levels[0])


@few_steps.mistake("the network is told the level where the step leads: it has to know the one where x is, `now`.")
def _(x, levels, answer, fresh):
    for k, (_now, after) in enumerate(pairwise(levels)):
        x = after.signal * answer(x, after) + after.noise * fresh[k]
    return x


# -- the same model, said otherwise ------------------------------------------------------------------------------------


@exercise(
    minutes=6, difficulty=2, trains="reading a v-prediction as flow matching does",
    hint="Notebook 01 has x0 = signal * x - noise * v and eps = noise * x + signal * v. The straight line from x0 to "
    "eps has the velocity eps - x0. What must x be divided by, so that the two shares add up to 1?",
)  # fmt: skip
def to_flow(x, v, alpha_bar):
    signal, noise = alpha_bar**0.5, (1 - alpha_bar) ** 0.5
    x0, eps = signal * x - noise * v, noise * x + signal * v
    return x / (signal + noise), noise / (signal + noise), eps - x0


@to_flow.given
def _():
    chance = torch.Generator().manual_seed(2)
    for alpha_bar in (0.8, 0.3):
        yield torch.randn(1, 4, 3, 3, generator=chance), torch.randn(1, 4, 3, 3, generator=chance), alpha_bar


def _flow(x, v, alpha_bar, *, z=None, tau=None, velocity=None):
    """The right answer, with a part exchanged."""
    right = to_flow.answer(x, v, alpha_bar)
    return tuple(b if a is None else a for a, b in zip((z, tau, velocity), right, strict=True))


@to_flow.mistake("the velocity is turned round: time runs from the picture to the noise here, so it is eps - x0.")
def _(x, v, alpha_bar):
    return _flow(x, v, alpha_bar, velocity=-to_flow.answer(x, v, alpha_bar)[2])


@to_flow.mistake(
    "that is v itself: it points along the circle of signal and noise, and the velocity along the straight line is "
    "eps - x0."
)
def _(x, v, alpha_bar):
    return _flow(x, v, alpha_bar, velocity=v)


@to_flow.mistake("the point is not on the line yet: divide x by signal + noise, so that the two shares add up to 1.")
def _(x, v, alpha_bar):
    return _flow(x, v, alpha_bar, z=x)


@to_flow.mistake(
    "x is divided by signal alone: that keeps the picture whole, as Euler's sampler does. Here the sum is 1."
)
def _(x, v, alpha_bar):
    return _flow(x, v, alpha_bar, z=x / alpha_bar**0.5)


@to_flow.mistake("tau is the share of the noise in the sum: noise / (signal + noise).")
def _(x, v, alpha_bar):
    return _flow(x, v, alpha_bar, tau=(1 - alpha_bar) ** 0.5)


@to_flow.mistake("tau is a share of amplitudes, and 1 - alpha_bar is one of variances: noise / (signal + noise).")
def _(x, v, alpha_bar):
    return _flow(x, v, alpha_bar, tau=1 - alpha_bar)


@to_flow.mistake("tau runs the wrong way: it is 0 at the picture and 1 at the noise.")
def _(x, v, alpha_bar):
    return _flow(x, v, alpha_bar, tau=1 - to_flow.answer(x, v, alpha_bar)[1])


@to_flow.mistake("x stands in the place of x0: first take x0 = signal * x - noise * v out of the answer.")
def _(x, v, alpha_bar):
    eps = (1 - alpha_bar) ** 0.5 * x + alpha_bar**0.5 * v
    return _flow(x, v, alpha_bar, velocity=eps - x)


@to_flow.mistake("the square roots are missing: signal is the root of alpha_bar, noise the root of 1 - alpha_bar.")
def _(x, v, alpha_bar):
    signal, noise = alpha_bar, 1 - alpha_bar
    return x / (signal + noise), noise / (signal + noise), noise * x + signal * v - (signal * x - noise * v)


# -- patches -----------------------------------------------------------------------------------------------------------


@exercise(
    minutes=3, difficulty=1, trains="counting what a transformer reads", tolerance=1e-9,
    hint="First the autoencoder divides both sides by `factor`, then the patches divide both by `patch`.",
)  # fmt: skip
def picture_tokens(width, height, factor, patch):
    return (width // factor // patch) * (height // factor // patch)


@picture_tokens.given
def _():
    return [(1024, 768, 8, 2), (128, 128, 8, 4)]


@picture_tokens.mistake("those are the places of the latents: a patch takes several of them together.")
def _(width, height, factor, patch):
    return (width // factor) * (height // factor)


@picture_tokens.mistake("the autoencoder is forgotten: the network reads latents, which are `factor` times smaller.")
def _(width, height, factor, patch):
    return (width // patch) * (height // patch)


@picture_tokens.mistake("a patch is a square: it divides the height as well as the width.")
def _(width, height, factor, patch):
    return (width // factor) * (height // factor) // patch


@picture_tokens.mistake("those are the tokens of one row: there are as many rows as the height has patches.")
def _(width, height, factor, patch):
    return width // factor // patch


# -- the challenge -----------------------------------------------------------------------------------------------------

PROMPTS = (
    "a glossy fox on a blue background",
    "a flat owl on a pink background",
    "a comic cat on a yellow background",
    "a neon guitar on a purple background",
    "a pixel mushroom on a green background",
    "an ink penguin on a red background",
    "a glossy teapot on a pink background",
    "a flat rocket on a teal background",
    "a comic house on an orange background",
    "a neon butterfly on a blue background",
    "a pixel robot on a white background",
    "an ink panda on a green background",
)
SOLVERS = ("ddim", "dpm++2m", "plms")  # those that keep the latents at unit size
BUDGETS = (2, 4)  # with one call there is nothing to choose


class Challenge(Exercise):
    """A run to be chosen: which sampler, at which timesteps. What counts is what the judge sees in its pictures.

    The network is fixed, and so are the prompts and the first noise. An answer is right if it keeps the rules and its
    pictures score above those of evenly spaced DDIM with as many calls. On a model that no judge knows every run that
    keeps the rules is right.
    """

    def judge(self, attempt, sd):
        runs = {}
        for calls in BUDGETS:
            try:
                runs[calls] = attempt(calls) if callable(attempt) else None
            except NotImplementedError:
                return None, self._invitation()
            except Exception as error:  # the reader's own code
                return False, f"your code stops with {type(error).__name__}: {error}."
            if runs[calls] is None or runs[calls] is ...:
                return None, self._invitation()
            if problem := broken_rule(sd, runs[calls], calls):
                return False, problem
        for calls, run in runs.items():
            found, line = score(sd, *run), score(sd, *even(sd, calls))
            if found is not None and found <= line:
                return False, _why_low(
                    sd, run, calls
                ) or f"{calls} calls: score {found:.2f}, and the line is {line:.2f}."
        return True, "right."


def even(sd: StableDiffusion, calls: int) -> tuple[str, tuple[int, ...]]:
    """The run to beat: DDIM at evenly spaced timesteps, by diffusers' default rule."""
    return "ddim", sd.schedule.timesteps(calls, "leading")


def broken_rule(sd: StableDiffusion, run, calls: int) -> str | None:
    """The rule of the challenge that a run breaks, in a sentence."""
    try:
        name, timesteps = run
        timesteps = [int(t) for t in timesteps if t == int(t)] if len(timesteps) else []
    except (TypeError, ValueError):
        return SHAPE
    if name not in SOLVERS:
        return FOREIGN
    if len(timesteps) != len(run[1]) or not timesteps or max(timesteps) >= sd.schedule.num_train_timesteps:
        return UNKNOWN
    if any(after >= now for now, after in pairwise(timesteps)) or timesteps[-1] < 0:
        return UPHILL
    return TOO_MANY if asked(name, timesteps) > calls else None


def asked(name: str, timesteps: Sequence[int]) -> int:
    """How often a run asks the network."""
    return len(timesteps) + (name == "plms" and len(timesteps) > 1)


def _why_low(sd: StableDiffusion, run, calls: int) -> str | None:
    name, timesteps = run
    if timesteps[0] < 0.95 * (sd.schedule.num_train_timesteps - 1):
        return LATE
    return SPARE if asked(name, timesteps) < calls else None


SHAPE = "a run is two things, the sampler's name and a list of timesteps."
FOREIGN = "the sampler is none of ddim, dpm++2m and plms: the others count the noise in sigma, and need other levels."
UNKNOWN = "a timestep is a whole number that the network was trained with, from 0 to 999."
UPHILL = (
    "a run goes from the noise to the picture: the largest timestep comes first, and each is smaller than the last."
)
TOO_MANY = (
    "that is more calls than there are: plms asks once more than it has timesteps, because it takes the first twice."
)
LATE = (
    "it begins too late: the first state is pure noise, and at that timestep the network is told that part of it is "
    "picture. Begin at the noisiest timestep."
)
SPARE = "a call is left over: one timestep more would bring the pictures nearer."


@lambda answer: Challenge(
    answer, minutes=10, difficulty=3, trains="spending few calls of a network well",
    hint="Where does a run have to begin? And what does a sampler gain that remembers its last answer, which costs no "
    "call?",
)  # fmt: skip
def plan(calls):
    return "dpm++2m", [999 - 1000 * k // calls for k in range(calls)]


@plan.given
def _(sd):
    return [(calls,) for calls in BUDGETS]


@plan.mistake(SHAPE)
def _(calls):
    return [999, 500][:calls] + [250, 0][: calls - 2] + [0]


@plan.mistake(FOREIGN)
def _(calls):
    return "euler", [999, 500][:calls]


@plan.mistake(UNKNOWN)
def _(calls):
    return "ddim", [1000 - 1000 * k // calls for k in range(calls)]


@plan.mistake(UPHILL)
def _(calls):
    return "ddim", [1000 * (k + 1) // calls - 1 for k in range(calls)]


@plan.mistake(TOO_MANY)
def _(calls):
    return "plms", [999 - 1000 * k // calls for k in range(calls)]


@plan.mistake(LATE)
def _(calls):
    return "ddim", [1000 * (calls - 1 - k) // calls + 1 for k in range(calls)]


@plan.mistake(SPARE)
def _(calls):
    return "ddim", [999]


@cache
def _asked_words(sd: StableDiffusion) -> tuple[Tensor, Tensor]:
    """The first noise (n, C, h, w) of the challenge and the states (n, L, D) of its prompts."""
    generators = [torch.Generator().manual_seed(seed) for seed in range(len(PROMPTS))]
    noise = autoencoder.draw_noise(generators, (len(PROMPTS), *sd.latent_shape())).to(sd.device)
    return noise, encode_prompt(sd, list(PROMPTS))


@torch.no_grad()
def pictures(sd: StableDiffusion, name: str, timesteps: Sequence[int]) -> Tensor:
    """What a run of the challenge draws of PROMPTS without guidance, (n, 3, H, W) in [-1, 1]."""
    noise, states = _asked_words(sd)
    schedule = sd.schedule
    levels = [Level(float(t), schedule.signal[t].item(), schedule.noise[t].item()) for t in timesteps]
    run = SAMPLERS[name].solver(noise, [*levels, CLEAN])
    *_, last = solve(run, lambda x, level: ask(sd, x, level, states), schedule.prediction_type)
    return autoencoder.decode(sd, last.latents)


@cache
def _score(sd: StableDiffusion, name: str, timesteps: tuple[int, ...]) -> float | None:
    return judged(sd, pictures(sd, name, timesteps))


def score(sd: StableDiffusion, name: str, timesteps: Sequence[int]) -> float | None:
    """How sure the judge is, 0 to 1, that the run's pictures show their prompts, on average; None where no judge knows
    the model."""
    return _score(sd, name, tuple(timesteps))


def judged(sd: StableDiffusion, images, prompts: Sequence[str] = PROMPTS) -> float | None:
    """The same of any pictures, one for each prompt."""
    from ..training.score import adherence
    from .lesson import lesson

    judge = lesson(sd).judge
    if judge is None:
        return None
    each = [image[None] if torch.is_tensor(image) else image for image in images]
    return sum(adherence(judge, image, prompt) for image, prompt in zip(each, prompts, strict=True)) / len(prompts)


# -- the twin on a line ------------------------------------------------------------------------------------------------

LEVELS = exact.levels(18, unit_size=True)  # the levels that the twin's student is taught at, and the end


class Student(nn.Module):
    """A small network that names the end of the path of a point on the line, the picture at full strength.

    At the last of LEVELS its answer is the point itself, whatever its weights (Karras et al. 2022; Song et al. 2023,
    eq. 5, with data of variance 1): from there the answers grow up the path.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1)
        )

    def forward(self, x: Tensor, level: Level) -> Tensor:
        """x: points (N,) at a level of unit size. Returns (N,)."""
        away = level.sigma - LEVELS[-1].sigma
        seen = torch.stack([x, torch.full_like(x, level.sigma).log() / 2], dim=1)
        out = self.body(seen.float())[:, 0]
        return x / level.signal / (1 + away**2) + away / (1 + level.sigma**2) ** 0.5 * out


def learn(target: Callable, steps: int = 2500, batch_size: int = 256) -> Student:
    """Consistency distillation on the line: at a random level the student learns to say what `target` says.

    target(x, now, after, teacher, student): as the exercise has it. The teacher is the ideal network.
    """
    chance = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student = Student()
    optimizer = torch.optim.Adam(student.parameters(), lr=5e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        k = int(torch.randint(len(LEVELS) - 1, (1,), generator=chance))
        now, after = LEVELS[k], LEVELS[k + 1]
        lump = torch.multinomial(exact.WEIGHTS, batch_size, replacement=True, generator=chance)
        points, noise = torch.randn(2, batch_size, generator=chance, dtype=torch.float64)
        x = now.add_noise(exact.CENTRES[lump] + exact.WIDTH * points, noise)
        with torch.no_grad():
            wanted = target(x, now, after, exact.ask, student)
        loss = (student(x, now) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
    return student.eval()


def on_the_line(level: Level, x: Tensor) -> tuple[float, Tensor]:
    """A point of any scale as flow matching has it: the share of the noise, and the point where both shares add up
    to 1."""
    both = level.signal + level.noise
    return level.noise / both, x / both


def way(levels: Sequence[Level], states: Sequence[Tensor]) -> tuple[list[float], Tensor]:
    """A walk as `figures.walks` draws it: the share of noise (T,), and the places of the points there (T, N)."""
    noise, places = zip(*map(on_the_line, levels, states), strict=True)
    return list(noise), torch.stack(places)


def lumps() -> tuple[Tensor, Tensor]:
    """The density of the data on the line: places (X,), and how likely each is."""
    x = torch.linspace(-2, 2, 401, dtype=torch.float64)
    return x, (exact.WEIGHTS * torch.exp(-(((x[:, None] - exact.CENTRES) / exact.WIDTH) ** 2) / 2)).sum(dim=1)


def stray(x: Tensor) -> float:
    """The share of points on the line that lie in neither lump: farther than three widths from both centres."""
    return ((x[:, None] - exact.CENTRES).abs().amin(dim=1) > 3 * exact.WIDTH).double().mean().item()


# -- the distilled network ---------------------------------------------------------------------------------------------


def distilled(sd: StableDiffusion) -> StableDiffusion:
    """A copy of the model with a LoRA for few steps, its own or a published one; if there is none, or if it cannot be
    had, a copy as it is, and a sentence that says so."""
    from ..hub.checkpoints import load

    copy = load(sd.path, device=sd.device.type, dtype=str(sd.dtype).removeprefix("torch."))
    name = LORA if LORA in loras(sd.path) else PUBLISHED.get(sd.name)
    try:
        return add_lora(copy, name) if name else _as_it_is(copy, "none is known; `sdlearn train distil` makes one")
    except OSError as error:
        return _as_it_is(copy, str(error))


def _as_it_is(sd: StableDiffusion, reason: str) -> StableDiffusion:
    print(f"{sd.name!r} is not distilled ({reason}). What follows draws with the model as it is.")
    return sd


def ask(sd: StableDiffusion, x: Tensor, level: Level, states: Tensor) -> Tensor:
    """What the network says of x (n, C, h, w) at a level of unit size, raw; states (1 or n, L, D)."""
    states = states.expand(len(x), -1, -1)
    return sd.unet(x.to(sd.dtype), level.timestep, encoder_hidden_states=states).sample.float()


@torch.no_grad()
def ends(sd: StableDiffusion, x: Tensor, level: Level, states: Tensor) -> Tensor:
    """Where a distilled network says that the paths through x (n, C, h, w) end, (n, C, h, w): one call."""
    skip, out = consistency_weights(level.timestep)
    return out * sd.schedule.to_x0(x, ask(sd, x, level, states), round(level.timestep)) + skip * x


def beginner(sd: StableDiffusion, rank: int = 8) -> StableDiffusion:
    """A copy of the model in float32 with a LoRA that is still nothing, and that alone can learn."""
    from diffusers.models.attention_processor import AttnProcessor

    from ..hub.checkpoints import load
    from ..training.distil import add_adapter

    student = load(sd.path, device=sd.device.type, dtype="float32")
    if sd.device.type == "cpu":  # where fused attention is slow on its way back
        student.unet.set_attn_processor(AttnProcessor())
    add_adapter(student.unet, rank)
    return student


def batches(sd: StableDiffusion, images, size: int, seed: int = 0) -> Iterator[tuple[Tensor, ...]]:
    """Batch after batch for `training.distil.ConsistencyLoss`, of the pictures that show PROMPTS, with guidance 4."""
    latents, states = autoencoder.encode(sd, images).float(), encode_prompt(sd, [*PROMPTS, ""]).float()
    chance = torch.Generator().manual_seed(seed)
    while True:
        rows, places = (
            torch.randint(len(latents), (size,), generator=chance),
            torch.randperm(DISTILLED, generator=chance),
        )
        places = places.repeat(-(-size // DISTILLED))[:size] + 1
        noise = torch.randn(size, *latents.shape[1:], generator=chance).to(latents)
        scales = torch.full((size,), 4.0).to(latents)
        yield latents[rows], noise, places.to(latents.device), states[rows], scales, states[-1:]


def told(sd: StableDiffusion, images, finished) -> float:
    """How good pictures are, 0 to 1: what `judged` says, and where no judge knows the model, how near they are to the
    finished ones."""
    from ..show.sheets import distance

    found = judged(sd, images)
    return 1 - distance(images, finished) if found is None else found


def cut(image: Image.Image, side: int, gap: int = 3) -> Image.Image:
    """A picture cut into squares of `side` pixels, which are moved apart."""
    columns, rows = image.width // side, image.height // side
    sheet = Image.new("RGB", (columns * (side + gap) - gap, rows * (side + gap) - gap), "white")
    for row, column in product(range(rows), range(columns)):
        square = image.crop((column * side, row * side, (column + 1) * side, (row + 1) * side))
        sheet.paste(square, (column * (side + gap), row * (side + gap)))
    return sheet


def calls_of(sd: StableDiffusion, draw: Callable[[], object]) -> int:
    """How many latents the UNet was shown while `draw` was called; guidance shows it each twice."""
    shown = []
    hook = sd.unet.register_forward_pre_hook(lambda module, inputs: shown.append(len(inputs[0])))
    try:
        draw()
    finally:
        hook.remove()
    return sum(shown)


# -- transformers ------------------------------------------------------------------------------------------------------

# What the published configs say, as far as it is not the default of diffusers' class.
SD3 = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "num_layers": 24,
    "attention_head_dim": 64, "num_attention_heads": 24, "joint_attention_dim": 4096, "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048, "pos_embed_max_size": 192,
}  # fmt: skip
FLUX = {"num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24, "attention_head_dim": 128}


class Block(nn.Module):
    """A block of a DiT (Peebles & Xie 2022, adaLN-Zero): attention and a small network at every token, each shifted,
    scaled and let through by what the timestep says. At first the gates are 0, and the block does nothing."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.look, self.gather = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.told = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        nn.init.zeros_(self.told[1].weight)
        nn.init.zeros_(self.told[1].bias)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x: tokens (B, n, width). time: (B, width). Returns tokens."""
        shift, scale, gate, shift_2, scale_2, gate_2 = self.told(time)[:, None].chunk(6, dim=-1)
        x = x + gate * self.attend(self.norm(x) * (1 + scale) + shift)
        return x + gate_2 * self.think(self.norm(x) * (1 + scale_2) + shift_2)

    def attend(self, x: Tensor) -> Tensor:
        parts = self.look(x).chunk(3, dim=-1)
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        found = nn.functional.scaled_dot_product_attention(query, key, value)
        return self.gather(found.transpose(1, 2).flatten(-2))


class DiT(nn.Module):
    """A transformer in the place of the UNet: (latents, timestep, states) -> an answer of the latents' shape.

    It reads patches of the latents, and the words as further tokens beside them, as in Stable Diffusion 3 and FLUX.
    """

    def __init__(self, channels: int, size: int, words: int, patch: int = 2, width: int = 256, layers: int = 8):
        super().__init__()
        self.patch, self.width, self.size = patch, width, size // patch
        self.enter = nn.Conv2d(channels, width, patch, patch)  # a patch becomes a token: one matrix for all patches
        self.read = nn.Linear(words, width)
        self.place = nn.Parameter(torch.zeros(1, self.size**2, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, heads=8) for _ in range(layers))
        self.leave = nn.Linear(width, channels * patch**2)

    def forward(self, x: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        """x: (B, C, size, size); timestep: (B,); states: (B, L, words)."""
        frequencies = torch.exp(-9.2 * torch.arange(self.width // 2, device=x.device) / (self.width // 2))
        angles = timestep[:, None] * frequencies
        time = self.time(torch.cat([angles.cos(), angles.sin()], dim=1))
        picture = self.enter(x).flatten(2).transpose(1, 2) + self.place
        tokens = torch.cat([picture, self.read(states)], dim=1)
        for block in self.blocks:
            tokens = block(tokens, time)
        out = self.leave(tokens[:, : self.size**2]).transpose(1, 2)  # (B, C * patch * patch, tokens)
        return nn.functional.fold(out, self.patch * self.size, self.patch, stride=self.patch)


def networks(sd: StableDiffusion, patches: Sequence[int] = (4, 2, 1)) -> dict[str, dict[str, float]]:
    """This model's UNet, and DiTs that differ in their patches only: what each holds and what a call of it costs."""
    shaped, (channels, size, _) = costs.shapes(sd, "float32"), sd.latent_shape()
    length, words = sd.tokenizer.model_max_length, sd.text_encoder.config.hidden_size
    found: dict[str, nn.Module] = {"UNet": shaped.unet}
    with torch.device("meta"):
        found |= {f"DiT, patches of {n} x {n}": DiT(channels, size, words, n) for n in patches if size % n == 0}
        t, states = torch.empty(1), torch.empty(1, length, words)
        x = {
            name: torch.empty(1, sd.unet.config.in_channels if name == "UNet" else channels, size, size)
            for name in found
        }
    rows = {}
    for name, network in found.items():
        out = costs.count(lambda network=network, x=x[name]: _first(network(x, t, states)))
        told = sum(
            p.numel() for part, p in network.named_parameters() if "time_emb" in part or "tim" in part or "told" in part
        )
        count = sum(p.numel() for p in network.parameters())
        rows[name] = {
            "M parameters": count / 1e6,
            "GFLOP a call": out.flops / 1e9,
            "% for the time": 100 * told / count,
        }
    return rows


def _first(answer) -> Tensor:
    return answer if torch.is_tensor(answer) else answer[0]


@cache
def real(name: str) -> nn.Module:
    """The network of "sd-1.5", "sd-3-medium" or "flux.1-schnell" without its numbers, by its published config."""
    import diffusers

    from ..hub.architectures import random_model

    with torch.device("meta"):
        if name == "sd-3-medium":
            return diffusers.SD3Transformer2DModel(**SD3)
        if name == "flux.1-schnell":
            return diffusers.FluxTransformer2DModel(**FLUX)
    return random_model(name, device="meta", dtype="float32").unet


def cost_at_1024(name: str) -> float:
    """FLOP of one call of that network for one picture of 1024 x 1024."""
    network = real(name)
    with torch.device("meta"):
        one, side = torch.empty(1), 1024 // 8
        if name == "sd-3-medium":
            given = torch.empty(1, 16, side, side), torch.empty(1, 333, 4096), torch.empty(1, 2048), one
        elif name == "flux.1-schnell":
            tokens = picture_tokens.answer(1024, 1024, 8, 2)
            words, places = torch.empty(1, 256, 4096), (torch.empty(tokens, 3), torch.empty(256, 3))
            given = torch.empty(1, tokens, 64), words, torch.empty(1, 768), one, *places
        else:
            given = torch.empty(1, 4, side, side), one, torch.empty(1, 77, network.config.cross_attention_dim)
    return costs.count(lambda: network(*given)[0]).flops


def today() -> str:
    """A table that reads Stable Diffusion 1.5, Stable Diffusion 3 and FLUX.1 in the words of this course."""
    names = ("sd-1.5", "sd-3-medium", "flux.1-schnell")
    counted = {name: f"{sum(p.numel() for p in real(name).parameters()) / 1e9:.2f} G" for name in names}
    flops = {name: f"{cost_at_1024(name) / 1e12:.1f} TFLOP" for name in names}
    tokens = f"{picture_tokens.answer(1024, 1024, 8, 2)} tokens"
    rows = {
        "": names,
        "reads": ("CLIP-L", "CLIP-L, CLIP-G, T5-XXL", "CLIP-L, T5-XXL"),
        "words reach it by": ("cross-attention", "joint attention, adaLN", "joint attention, adaLN"),
        "latents at 1024": ("4 x 128 x 128", "16 x 128 x 128", "16 x 128 x 128"),
        "scaling; shift": ("0.18215; none", "1.5305; 0.0609", "0.3611; 0.1159"),
        "network": ("UNet", "MMDiT, 24 blocks", "DiT, 19 + 38 blocks"),
        "  it holds": tuple(counted.values()),
        "  it reads at 1024": ("16384 places", tokens, tokens),
        "  a call at 1024": tuple(flops.values()),
        "answers with": ("eps", "eps - x0", "eps - x0"),
        "path": ("signal^2 + noise^2 = 1", "signal + noise = 1", "signal + noise = 1"),
        "timesteps": ("1000, whole", "tau, shifted by 3", "tau, not shifted"),
        "sampler": ("any of notebook 02", "Euler", "Euler"),
        "steps; guidance": ("25 to 50; 7.5", "28; 7", "1 to 4; none (distilled)"),
    }
    wide = [max(len(row[k]) for row in rows.values()) for k in range(3)]
    return "\n".join(
        f"{name:19}" + "  ".join(f"{c:{w}}" for c, w in zip(row, wide, strict=True)).rstrip()
        for name, row in rows.items()
    )
