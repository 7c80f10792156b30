"""Notebook 09: where the knowledge comes from. The likelihood bound, two ways to guide, and two thin matrices."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from ..hub.checkpoints import model_path
from ..model import StableDiffusion
from ..training import captions as wording
from . import exercise


def _chance(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- from one normal distribution to another ---------------------------------------------------------------------------


@exercise(
    minutes=5, difficulty=2, trains="the divergence that every term of the bound is made of",
    hint="Take the three parts one after the other: the logarithm of other_std / std; half of the sum of std squared "
    "and the squared distance of the means, divided by other_std squared; and one half off.",
)  # fmt: skip
def kl(mean, std, other_mean, other_std):
    spread = (std**2 + (mean - other_mean) ** 2) / (2 * other_std**2)
    return torch.log(other_std / std) + spread - 0.5


@kl.given
def _():
    ones = torch.tensor([[0.0, 1.0, 0.5, 2.0], [1.0, 0.5, 1.0, 2.0], [-2.0, 3.0, 1.0, 2.0]])
    yield tuple(ones.T)
    yield tuple(torch.tensor([0.3, 1.5, 0.3, 1.5]))


@kl.mistake("the two are swapped: the average is taken over the first one, so the second one's width divides.")
def _(mean, std, other_mean, other_std):
    return kl.answer(other_mean, other_std, mean, std)


@kl.mistake("the ratio in the logarithm is upside down: a wide second one makes it positive.")
def _(mean, std, other_mean, other_std):
    return kl.answer(mean, std, other_mean, other_std) - 2 * torch.log(other_std / std)


@kl.mistake("one half has to come off at the end, or the divergence of a thing from itself is not 0.")
def _(mean, std, other_mean, other_std):
    return kl.answer(mean, std, other_mean, other_std) + 0.5


@kl.mistake("the 2 under the fraction is missing.")
def _(mean, std, other_mean, other_std):
    return torch.log(other_std / std) + (std**2 + (mean - other_mean) ** 2) / other_std**2 - 0.5


@kl.mistake("the widths go in as standard deviations, and the fraction needs their squares.")
def _(mean, std, other_mean, other_std):
    return torch.log(other_std / std) + (std + (mean - other_mean) ** 2) / (2 * other_std) - 0.5


# -- what an error of the noise costs ----------------------------------------------------------------------------------


@exercise(
    minutes=5, difficulty=2, trains="what the bound charges for an error of the noise, at each level",
    hint="The signal-to-noise ratio of a level is alpha_bar / (1 - alpha_bar). Divide the cleaner level's by the "
    "noisier one's, take one off, and halve.",
)  # fmt: skip
def weight(now, before):
    def snr(alpha_bar):
        return alpha_bar / (1 - alpha_bar)

    return (snr(before) / snr(now) - 1) / 2


@weight.given
def _():
    yield torch.tensor([0.2, 0.5]), torch.tensor([0.5, 0.9])
    yield torch.tensor(0.98), torch.tensor(0.99)


@weight.mistake("one half is missing: it is the 2 under the squared difference of two means.")
def _(now, before):
    return 2 * weight.answer(now, before)


@weight.mistake("the ratio is upside down: the level before is the cleaner one, so its ratio goes on top.")
def _(now, before):
    return weight.answer(before, now)


@weight.mistake("one has to come off: two equal levels are no step, and cost nothing.")
def _(now, before):
    return weight.answer(now, before) + 0.5


@weight.mistake("this is the ratio of the alpha_bars. The signal-to-noise ratio is alpha_bar / (1 - alpha_bar).")
def _(now, before):
    return (before / now - 1) / 2


@weight.mistake(
    "that is the weight of an error in x_0. The noise's is that, divided by the noisier level's signal-to-noise ratio."
)
def _(now, before):
    return (before / (1 - before) - now / (1 - now)) / 2


# -- labels that are forgotten on purpose ------------------------------------------------------------------------------


@exercise(
    minutes=3, difficulty=1, trains="the one line of training that classifier-free guidance needs",
    hint="torch.where(condition, where it holds, where it does not). The condition: the number drawn is below 0.1.",
)  # fmt: skip
def forget(labels, drawn, nothing):
    return torch.where(drawn < 0.1, nothing, labels)


@forget.given
def _():
    yield torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([0.05, 0.5, 0.09, 0.95, 0.3, 0.01]), 3


@forget.mistake("it is the wrong way round: nine labels of ten are forgotten, and one is kept.")
def _(labels, drawn, nothing):
    return torch.where(drawn < 0.1, labels, nothing)


@forget.mistake("a forgotten label becomes 0, and 0 is the label of the first shape. Put `nothing` there.")
def _(labels, drawn, nothing):
    return torch.where(drawn < 0.1, 0, labels)


@forget.mistake("one number decides for all labels of the batch: each has a number of its own.")
def _(labels, drawn, nothing):
    return torch.where(drawn[0] < 0.1, nothing, labels)


@forget.mistake("no label is forgotten: then nobody learns what the points are like without one.")
def _(labels, drawn, nothing):
    return labels


@forget.mistake("one label of twenty is forgotten, and one of ten is asked for.")
def _(labels, drawn, nothing):
    return torch.where(drawn < 0.05, nothing, labels)


# -- guided by a classifier --------------------------------------------------------------------------------------------


@exercise(
    minutes=5, difficulty=2, trains="classifier guidance, and where its square root and its minus come from",
    hint="The score is -eps / sqrt(1 - alpha_bar). Guidance adds scale times the slope to the score. Turn that back "
    "into a prediction of the noise.",
)  # fmt: skip
def classifier_guide(eps, slope, alpha_bar, scale):
    return eps - scale * (1 - alpha_bar) ** 0.5 * slope


@classifier_guide.given
def _():
    for alpha_bar, scale in ((0.7, 3.0), (0.1, 1.0)):
        yield _chance(4, 2), _chance(4, 2, seed=1), alpha_bar, scale


@classifier_guide.mistake("the sign is turned round: noise is taken away, so a push towards the label is minus.")
def _(eps, slope, alpha_bar, scale):
    return classifier_guide.answer(eps, slope, alpha_bar, -scale)


@classifier_guide.mistake("the slope is in the language of the score, and eps is not: sqrt(1 - alpha_bar) is missing.")
def _(eps, slope, alpha_bar, scale):
    return eps - scale * slope


@classifier_guide.mistake("the square root is missing: 1 - alpha_bar is the variance of the noise.")
def _(eps, slope, alpha_bar, scale):
    return eps - scale * (1 - alpha_bar) * slope


@classifier_guide.mistake("that is the size of the signal. The score is eps over the size of the noise.")
def _(eps, slope, alpha_bar, scale):
    return eps - scale * alpha_bar**0.5 * slope


@classifier_guide.mistake("the scale is missing.")
def _(eps, slope, alpha_bar, scale):
    return eps - (1 - alpha_bar) ** 0.5 * slope


@classifier_guide.mistake("the slope is divided by the size of the noise, and has to be multiplied by it.")
def _(eps, slope, alpha_bar, scale):
    return eps - scale * slope / (1 - alpha_bar) ** 0.5


# -- two thin matrices -------------------------------------------------------------------------------------------------


@exercise(
    minutes=4, difficulty=1, trains="what a LoRA adds to a layer, and why it can be switched off",
    hint="The layer alone is x @ W.T. Beside it x first goes through A, which leaves few numbers, and then through B.",
)  # fmt: skip
def low_rank(x, W, A, B, scale):
    return x @ W.T + scale * (x @ A.T) @ B.T


@low_rank.given
def _():
    for scale in (0.5, 1.0, 0.0):
        yield _chance(3, 6), _chance(6, 6, seed=1), _chance(2, 6, seed=2), _chance(6, 2, seed=3), scale


@low_rank.mistake("the layer itself is gone: the two thin matrices are added to it and do not replace it.")
def _(x, W, A, B, scale):
    return scale * (x @ A.T) @ B.T


@low_rank.mistake("the scale is for the added part alone: at 0 the layer has to do what it always did.")
def _(x, W, A, B, scale):
    return scale * (x @ W.T + (x @ A.T) @ B.T)


@low_rank.mistake("W is not turned over: a layer computes x @ W.T.")
def _(x, W, A, B, scale):
    return x @ W + scale * (x @ A.T) @ B.T


@low_rank.mistake("the scale is missing.")
def _(x, W, A, B, scale):
    return x @ W.T + (x @ A.T) @ B.T


@low_rank.mistake("x goes through B first: A comes first and leaves few numbers, B makes many of them again.")
def _(x, W, A, B, scale):
    return x @ W.T + scale * (x @ B) @ A


@low_rank.mistake("the scale stands at each of the two matrices, so it counts twice.")
def _(x, W, A, B, scale):
    return x @ W.T + (scale * x @ A.T) @ (scale * B.T)


# -- a model that is a formula -----------------------------------------------------------------------------------------

DATA = 0.5  # the standard deviation of the numbers that are to be modelled; their mean is 0


class Chain:
    """A diffusion model of numbers x ~ N(0, DATA^2) of which everything is known.

    Noise goes up the levels z_0, z_1, ... (Kingma et al. 2021). Down again goes a model whose network says
    eps = quality * (the best guess), with the widths that the noise has left. Its distribution of x is normal, too.

    alpha_bar: (T,) of the levels, cleanest first. quality: 1 for the ideal network.
    """

    def __init__(self, alpha_bar: Tensor, quality: float = 1.0):
        self.a = a = alpha_bar.double()
        self.signal, self.noise = a.sqrt(), (1 - a).sqrt()
        self.guess = quality * self.noise / (a * DATA**2 + 1 - a)  # (T,): eps is this times z
        # From z_t and x to z_{t-1}: Ho et al. 2020, eq. 7, at t = 1 .. T - 1.
        now, before = a[1:], a[:-1]
        step = now / before
        self.from_x, self.from_z = before.sqrt() * (1 - step) / (1 - now), step.sqrt() * (1 - before) / (1 - now)
        self.width = ((1 - before) * (1 - step) / (1 - now)).sqrt()  # (T - 1,)

    def x0(self, z: Tensor, t: int) -> Tensor:
        """The model's guess of x at level t."""
        return (1 - self.noise[t] * self.guess[t]) / self.signal[t] * z

    def walks(self, x: float | Tensor, count: int, seed: int = 0) -> Tensor:
        """`count` walks from x up all levels, (T, count), step by step: q(z_0, z_1, ... | x)."""
        chance = torch.Generator().manual_seed(seed)
        fresh = torch.randn(len(self.a), count, generator=chance, dtype=torch.float64)
        z, states = self.signal[0] * x + self.noise[0] * fresh[0], []
        for t in range(len(self.a)):
            if t:
                step = self.a[t] / self.a[t - 1]
                z = step.sqrt() * z + (1 - step).sqrt() * fresh[t]
            states.append(z)
        return torch.stack(states)

    def log_ratios(self, z: Tensor, x: float | Tensor) -> Tensor:
        """log p(x, z_0, ..., z_T) - log q(z_0, ..., z_T | x) of each walk (T, count): the model against the noise."""
        normal, a = torch.distributions.Normal, self.a
        up = normal(self.signal[0] * x, self.noise[0]).log_prob(z[0])
        down = normal(0.0, 1.0).log_prob(z[-1].double())
        read = normal(z[0] / self.signal[0], self.noise[0] / self.signal[0])
        down = down + read.log_prob(torch.as_tensor(x).double())
        for t in range(1, len(a)):
            step = a[t] / a[t - 1]
            up = up + normal(step.sqrt() * z[t - 1], (1 - step).sqrt()).log_prob(z[t])
            mean = self.from_x[t - 1] * self.x0(z[t], t) + self.from_z[t - 1] * z[t]
            down = down + normal(mean, self.width[t - 1]).log_prob(z[t - 1])
        return down - up

    @cached_property
    def std(self) -> float:
        """The standard deviation of the x that the model makes: from z_T ~ N(0, 1) down, by variances alone."""
        variance = torch.ones((), dtype=torch.float64)
        for t in reversed(range(1, len(self.a))):
            factor = self.from_x[t - 1] * (1 - self.noise[t] * self.guess[t]) / self.signal[t] + self.from_z[t - 1]
            variance = factor**2 * variance + self.width[t - 1] ** 2
        return ((variance + self.noise[0] ** 2) / self.signal[0] ** 2).sqrt().item()

    def log_likelihood(self, x: float | Tensor) -> Tensor:
        """log p(x), exactly."""
        return torch.distributions.Normal(0.0, self.std).log_prob(torch.as_tensor(x).double())

    def ends(self, square: float | Tensor, kl: Callable = kl.answer) -> tuple[Tensor, Tensor]:
        """The first and the last term of the bound, of an x whose square (or mean square) is given: how far the
        noisiest level is from N(0, 1), and what reading x off the cleanest one costs."""
        one = torch.ones((), dtype=torch.float64)
        start = kl(self.signal[-1] * torch.as_tensor(square).double().sqrt(), self.noise[-1], 0 * one, one)
        width = self.noise[0] / self.signal[0]
        return start, torch.log(width) + 0.5 * math.log(2 * math.pi) + 0.5

    def noise_errors(self, square: float | Tensor) -> Tensor:
        """E (eps - the network's)^2 at levels 1 .. T - 1, for x of that square (or mean square)."""
        slope = 1 - self.guess * self.noise
        return (slope**2 + (self.guess * self.signal) ** 2 * square)[1:]

    def bound(self, square: float | Tensor, weight: Callable = weight.answer) -> Tensor:
        """The bound on -log p(x) in closed form: its two ends, and the weighted errors of the noise between them."""
        return sum(self.ends(square)) + (weight(self.a[1:], self.a[:-1]) * self.noise_errors(square)).sum()


def levels(schedule, count: int) -> Tensor:
    """alpha_bar at `count` levels between the ends of a schedule, cleanest first, with even steps of the log SNR."""
    clean, noisy = schedule.snr[0].log().item(), schedule.snr[-1].log().item()
    return torch.linspace(clean, noisy, count, dtype=torch.float64).sigmoid()


# -- a creature that no model has met ----------------------------------------------------------------------------------

WORD = "blorp"
SEEN = ("white", "yellow", "green", "blue", "pink", "teal", "beige", "gray")  # the backgrounds of its pictures
BODY, DARK, BELLY, GLOW, PUPIL = (124, 77, 196), (66, 36, 120), (176, 140, 232), (245, 130, 48), (24, 24, 28)


def blorp(size: int, background: str, scale: float = 0.85, right: float = 0, down: float = 0, lean: float = 0):
    """A round creature with one eye and two feelers, a PIL image of size x size pixels.

    background: a colour of the course's. scale: its height, as a share of the picture's. right, down: where it stands,
    as shares, from the middle. lean: which way its feelers point, -1 to 1.
    """
    n = 4 * size  # drawn four times as large, and reduced smoothly
    image = Image.new("RGB", (n, n), wording.RGB[background])
    pen = ImageDraw.Draw(image)

    def at(x, y):
        return n * (0.5 + right + scale * x), n * (0.5 + down + scale * y)

    def oval(x, y, width, height, fill):
        pen.ellipse((*at(x - width, y - height), *at(x + width, y + height)), fill=fill)

    for side in (-1, 1):
        tip = 0.22 * side + 0.08 * lean
        pen.line((*at(0.1 * side, -0.2), *at(tip, -0.42)), fill=DARK, width=round(0.045 * scale * n))
        oval(tip, -0.43, 0.065, 0.065, GLOW)
        oval(0.16 * side, 0.43, 0.12, 0.06, DARK)
        oval(0.36 * side, 0.12, 0.07, 0.12, BODY)
    oval(0, 0.08, 0.34, 0.36, BODY)
    oval(0, 0.25, 0.20, 0.16, BELLY)
    oval(0, -0.04, 0.19, 0.19, "white")
    look = 0.03 * (1 + lean)
    oval(look, -0.02, 0.09, 0.09, PUPIL)
    oval(look + 0.03, -0.055, 0.03, 0.03, "white")
    pen.arc((*at(-0.1, 0.1), *at(0.1, 0.24)), 15, 165, fill=DARK, width=round(0.03 * scale * n))
    return image.resize((size, size), Image.Resampling.LANCZOS)


def album(sd: StableDiffusion, count: int = 24) -> tuple[list[Image.Image], list[str]]:
    """Pictures of the creature at the model's size, all flat, and their captions in the forms that the course's model
    was trained on."""
    chance, pictures, captions = random.Random(0), [], []
    for k in range(count):
        background, place = SEEN[k % len(SEEN)], (chance.uniform(0.78, 0.92), chance.uniform(-0.03, 0.03))
        drawn = blorp(min(sd.width, sd.height), background, *place, chance.uniform(-0.02, 0.02), chance.uniform(-1, 1))
        pictures.append(drawn.resize((sd.width, sd.height)))
        captions.append(wording.caption(WORD, "flat", background, chance))
    return pictures, captions


def known_things() -> list[str]:
    """32 prompts of things that the course's model knows well, no thing twice; of any sixteen in a row every style."""
    things = (
        "bear", "fox", "rocket", "owl", "mushroom", "cat", "castle", "penguin", "guitar", "panda", "house", "rabbit",
        "robot", "star", "teapot", "butterfly", "dog", "tiger", "cactus", "red apple", "car", "lion", "pizza", "duck",
        "frog", "bus", "carrot", "moon", "whale", "pumpkin", "ghost", "umbrella",
    )  # fmt: skip
    styles, colours = ("comic", "flat", "glossy", "ink", "neon"), ("yellow", "pink", "green", "teal", "blue", "beige")
    prompts = []
    for k, thing in enumerate(things):
        style, colour = styles[k % len(styles)], colours[k % len(colours)]
        ground = "" if style == "neon" else f" on a {colour} background"
        prompts.append(wording.indefinite(thing, style) + ground)
    return prompts


def right(judge, pictures, prompts) -> float | None:
    """The share of pictures that show subject, style and background of their prompts; None without a judge."""
    if judge is None:
        return None
    obeyed = judge.obeys(pictures, prompts)
    return sum(one.all for one in obeyed) / len(obeyed)


def purple(pictures) -> float:
    """The share of pixels that have the hue of the creature's body, of PIL images together."""
    hue, colourful, bright = np.concatenate([np.asarray(image.convert("HSV")).reshape(-1, 3) for image in pictures]).T
    return ((hue > 166) & (hue < 212) & (colourful > 51) & (bright > 51)).mean().item()


# -- what was measured of the shipped model ----------------------------------------------------------------------------


def recipe() -> str:
    """What the shipped model is trained on and how, in lines, read from the settings that its training uses."""
    from ..training import diffusion
    from ..training.pictures import Variety, held_out
    from ..training.presets import PAIR_SUBJECTS, SUBJECTS

    settings, variety = diffusion.SETTINGS, Variety()
    kinds = [(s, style, b) for s in SUBJECTS for style in wording.STYLES for b in wording.BACKGROUNDS]
    held = sum(held_out(*kind) for kind in kinds)
    lines = {
        "subjects × styles × backgrounds": f"{len(SUBJECTS)} × {len(wording.STYLES)} × {len(wording.BACKGROUNDS)} = "
        f"{len(kinds):,} combinations",
        "held out": f"{held:,} of them, which training never shows",
        "two subjects in a picture": f"{variety.pairs:.0%} of pictures, of {len(PAIR_SUBJECTS)} subjects",
        "size, side, facing or shade": f"vary and are said in {variety.detailed:.0%}",
        "pictures of each drawing": f"{diffusion.AUGMENTATIONS}, worked out once as latents",
        "caption left empty": f"{diffusion.UNSAID:.0%}, for guidance",
        "loss": f"(eps - the network's)², times min(SNR, {diffusion.MOST_SNR:g}) / SNR",
        "optimizer": f"{settings.optimizer}, rate {settings.learning_rate:g}, {settings.batch_size} latents a step",
        "weights that are shipped": f"a running mean (EMA) that keeps {settings.ema:.2%} at each step",
    }
    return "\n".join(f"{name:32} {said}" for name, said in lines.items())


def some_captions(count: int, seed: int = 4) -> list[str]:
    """Captions in the forms of the training, with what it varies."""
    chance, found = random.Random(seed), []
    for _ in range(count):
        details = wording.Details(
            size=chance.choice([None, *wording.SIZES]),
            side=chance.choice([None, None, *wording.SIDES]),
            shade=chance.choice([None, None, *wording.SHADES]),
        )
        thing, style = chance.choice(("dog", "rocket", "teapot", "owl")), chance.choice(wording.STYLES)
        found.append(wording.caption(thing, style, chance.choice(list(wording.COLOURS)), chance, details))
    return found


def card(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading of the shipped model's card."""
    _, _, below = (model_path() / "README.md").read_text(encoding="utf-8").partition(f"## {heading}\n")
    table = re.search(r"(?:^\|.*\|\n)+", below.split("\n## ")[0], re.MULTILINE)
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table[0].splitlines()]
    return [row for row in rows if not set("".join(row)) <= set("-: ")]


def shares() -> dict[str, dict[str, float]]:
    """What the card says was right, in per cent: of combinations that training showed and of those that it held out."""
    found: dict[str, dict[str, float]] = {}
    for name, value in (row for row in card("How good is it") if len(row) == 2):
        kind, _, part = name.partition(": ")
        if kind.endswith("combinations") and value.endswith("%"):
            found.setdefault(part, {})[kind] = float(value.removesuffix("%"))
    return found
