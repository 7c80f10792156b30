"""Notebook 07: which word draws which part."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .. import autoencoder
from ..model import StableDiffusion
from ..pictures import to_tensor
from ..show import figures
from ..text import encode_prompt, tokens
from . import exercise
from . import guided_unet_loop as loop

PROMPT = "a glossy cat and a dog"
SUBJECTS = (  # of one token each, so that they stand at the same places in all pairs
    "butterfly", "cactus", "car", "castle", "cat", "dog", "fox", "guitar", "house", "mushroom", "owl", "panda",
    "penguin", "pizza", "rabbit", "robot", "rocket", "star",
)  # fmt: skip


def cross_attentions(sd: StableDiffusion) -> dict[str, torch.nn.Module]:
    """The UNet's cross-attentions by the names that `attention.record` gives them."""
    return {name.removesuffix(".attn2"): block for name, block in sd.unet.named_modules() if name.endswith(".attn2")}


def enlarge(heat: Tensor, size: Sequence[int]) -> Tensor:
    """A map (h, w) at another size, between its values on straight lines."""
    return interpolate(heat[None, None], size=tuple(size), mode="bilinear")[0, 0]


# -- which of the 77 ---------------------------------------------------------------------------------------------------


@exercise(
    minutes=3, difficulty=1, trains="finding the columns of a word",
    hint="Compare every piece with the word and its mark for an end, and keep the places where they are equal.",
)  # fmt: skip
def places(pieces, word):
    return [k for k, piece in enumerate(pieces) if piece == word + "</w>"]


@places.given
def _(sd):
    yield tokens(sd, PROMPT).pieces, "cat"
    yield tokens(sd, "a flat red car on a red background").pieces, "red"
    yield tokens(sd, "a foxaroo and a fox").pieces, "fox"


@places.mistake("it is one too small: the start mark has place 0, so the first word has place 1.")
def _(pieces, word):
    return [k - 1 for k in places.answer(pieces, word)]


@places.mistake("only the first one is found: a word may stand in a prompt several times, and each place counts.")
def _(pieces, word):
    return places.answer(pieces, word)[:1]


@places.mistake("pieces that only contain or begin the word are taken for it: compare with ==, `</w>` included.")
def _(pieces, word):
    return [k for k, piece in enumerate(pieces) if word in piece]


# -- the shares --------------------------------------------------------------------------------------------------------


@exercise(
    minutes=6, difficulty=2, trains="cross-attention, as it is in every block of the UNet", tolerance=1e-6,
    hint="q and k: (rows, heads × d) → (heads, rows, d), with .unflatten(-1, (attn.heads, -1)).transpose(0, 1). Then "
    "q @ k.transpose(1, 2), divided by the root of d, and softmax over the tokens.",
)  # fmt: skip
def shares(attn, picture, words):
    return _shares(attn, picture, words)


@torch.no_grad()
def _shares(attn, picture, words, *, over=-1, scale=lambda d, heads: d**-0.5, split=lambda heads: (heads, -1), at=1):
    """The right shares, and by what follows the star each of the wrong ones."""
    q, k = (
        side.unflatten(-1, split(attn.heads)).movedim(at, 0) for side in (attn.to_q(picture), attn.to_k(words))
    )  # (heads, rows, d)
    return (q @ k.transpose(1, 2) * scale(q.shape[-1], attn.heads)).softmax(over)


@shares.given
def _(sd):
    attn = next(iter(cross_attentions(sd).values()))
    chance = torch.Generator().manual_seed(0)
    picture = 3 * torch.randn(6, attn.to_q.in_features, generator=chance)
    yield attn, picture.to(sd.device, sd.dtype), encode_prompt(sd, PROMPT)[0].to(sd.dtype)


@shares.mistake("softmax runs over the pixels: each place of the picture shares out its attention among the tokens.")
def _(attn, picture, words):
    return _shares(attn, picture, words, over=1)


@shares.mistake("the scores are not scaled: divide them by the root of a head's width d, or softmax turns too sharp.")
def _(attn, picture, words):
    return _shares(attn, picture, words, scale=lambda d, heads: 1)


@shares.mistake("the scores are divided by d: it is the root of d that keeps their size.")
def _(attn, picture, words):
    return _shares(attn, picture, words, scale=lambda d, heads: 1 / d)


@shares.mistake("the scores are divided by the root of all channels: d is what one head has of them.")
def _(attn, picture, words):
    return _shares(attn, picture, words, scale=lambda d, heads: (d * heads) ** -0.5)


@shares.mistake("the channels are dealt out to the heads one by one: the first d belong to the first head.")
def _(attn, picture, words):
    return _shares(attn, picture, words, split=lambda heads: (-1, heads), at=2)


@shares.mistake("there is one head of all channels: split them into attn.heads first.")
def _(attn, picture, words):
    return _shares(attn, picture, words, split=lambda heads: (1, -1)).expand(attn.heads, -1, -1)


# -- the heat map ------------------------------------------------------------------------------------------------------


@exercise(
    minutes=5, difficulty=2, trains="from shares to a heat map, and the half of the batch that counts", tolerance=1e-5,
    hint="Of each layer take [1], then [..., places], sum over the last dimension, mean over the first. `enlarge` the "
    "map, and at the end take the mean over the layers.",
)  # fmt: skip
def heat_map(layers, places, size):
    maps = [both[1][..., places].sum(-1).mean(0) for both in layers]
    return torch.stack([enlarge(one, size) for one in maps]).mean(0)


@heat_map.given
def _():
    chance = torch.Generator().manual_seed(0)
    layers = [torch.randn(2, 3, side, side, 7, generator=chance).softmax(-1) for side in (4, 2)]
    yield layers, [3, 4], (8, 8)
    yield layers, [5], (4, 4)


@heat_map.mistake("this is the half with the empty prompt: guidance puts it first, so the prompt's is [1].")
def _(layers, places, size):
    return heat_map.answer([both.flip(0) for both in layers], places, size)


@heat_map.mistake("both halves are mixed: the first belongs to the empty prompt, where these places hold padding.")
def _(layers, places, size):
    return heat_map.answer([both.mean(0, keepdim=True).expand_as(both) for both in layers], places, size)


@heat_map.mistake("it is the mean over the word's tokens: shares are parts of a whole, so they are added up.")
def _(layers, places, size):
    return heat_map.answer(layers, places, size) / len(places)


@heat_map.mistake("heads are added up: each head's shares make a whole by themselves, so take their mean.")
def _(layers, places, size):
    return heat_map.answer(layers, places, size) * layers[0].shape[1]


@heat_map.mistake("layers are added up: each layer's shares make a whole by themselves, so take their mean.")
def _(layers, places, size):
    return heat_map.answer(layers, places, size) * len(layers)


# -- a word silenced ---------------------------------------------------------------------------------------------------


@exercise(
    minutes=3, difficulty=1, trains="changing what a picture hears", tolerance=1e-5,
    hint="Work on shares.clone(). Set [..., places] to 0, and divide by .sum(-1, keepdim=True).",
)  # fmt: skip
def silence(shares, places):
    shares = shares.clone()
    shares[..., places] = 0
    return shares / shares.sum(-1, keepdim=True)


@silence.given
def _():
    yield torch.randn(1, 2, 4, 6, generator=torch.Generator().manual_seed(0)).softmax(-1), [2, 3]


@silence.mistake("the shares no longer add up to 1: divide each row by what is left of it.")
def _(shares, places):
    shares = shares.clone()
    shares[..., places] = 0
    return shares


@silence.mistake("softmax is taken a second time: it has made shares already. Divide by the sum.")
def _(shares, places):
    shares = shares.clone()
    shares[..., places] = 0
    return shares.softmax(-1)


@silence.mistake("these are the places that stay: the others are silenced in their stead.")
def _(shares, places):
    kept = torch.zeros_like(shares)
    kept[..., places] = shares[..., places]
    return kept / kept.sum(-1, keepdim=True)


# -- towards the forgotten word ----------------------------------------------------------------------------------------


@exercise(
    minutes=6, difficulty=3, trains="steering a picture by the gradient of anything that can be measured",
    hint="x = x.detach().requires_grad_(); inside torch.enable_grad(), loss = (1 - heard(x).amin(1)).sum(). "
    "torch.autograd.grad(loss, x) is a tuple of one. Divide it by the root of its mean square, picture by picture.",
)  # fmt: skip
def excite(x, heard, size):
    return _excite(x, heard, size)


def _excite(x, heard, size, *, chosen=lambda loudest: loudest.amin(1), over=(1, 2, 3), sign=-1):
    """The right step, and by what follows the star each of the wrong ones."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        loss = (1 - chosen(heard(x))).sum()
    (gradient,) = torch.autograd.grad(loss, x)
    length = gradient.pow(2).mean(over, keepdim=True).sqrt() if over else 1
    return x.detach() + sign * size * gradient / length


@excite.given
def _():
    chance = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 3, 3, generator=chance)
    listening = torch.randn(3, 36, generator=chance)  # for each of three words

    def heard(x):
        return torch.sigmoid(x.flatten(1) @ listening.T / 6)

    yield x, heard, 0.1


@excite.mistake("the step goes the wrong way: the gradient points to where the loss grows, so subtract it.")
def _(x, heard, size):
    return _excite(x, heard, size, sign=1)


@excite.mistake("this listens to the loudest word: the forgotten one is that with the smallest share, amin.")
def _(x, heard, size):
    return _excite(x, heard, size, chosen=lambda loudest: loudest.amax(1))


@excite.mistake("this listens to all words alike: the loss counts the one that is heard least, amin over the words.")
def _(x, heard, size):
    return _excite(x, heard, size, chosen=lambda loudest: loudest.mean(1))


@excite.mistake("the gradient keeps its own length, which is tiny: divide by the root of its mean square first.")
def _(x, heard, size):
    return _excite(x, heard, size, over=())


@excite.mistake("one length is taken for all pictures: each has its own, so keep the first dimension apart.")
def _(x, heard, size):
    return _excite(x, heard, size, over=(0, 1, 2, 3))


# -- what the notebook draws and measures ------------------------------------------------------------------------------


def draw(sd: StableDiffusion, prompts: Sequence[str], *, steps: int, scale: float, first: Callable | None = None):
    """Pictures (B, 3, H, W) in [-1, 1] of as many prompts, from seeds 0, 1, ..., by the loop of notebook 05.

    first(x, t, level): what takes the place of x before a step at timestep t and noise level (its standard deviation).
    """
    seeds = [torch.Generator().manual_seed(seed) for seed in range(len(prompts))]
    x = autoencoder.draw_noise(seeds, (len(prompts), *sd.latent_shape())).to(sd.device)
    both = encode_prompt(sd, [""] * len(prompts) + list(prompts))
    for t, now, after in loop.plan.answer(sd.schedule, steps):
        x = first(x, t, (1 - now) ** 0.5) if first else x
        with torch.no_grad():
            answers = loop.predict_noise(sd, torch.cat([x, x]), t, both).chunk(2)
        x = loop.ddim_step.answer(x, loop.guide.answer(*answers, scale), now, after)
    return autoencoder.decode(sd, x)


def pairs(count: int, seed: int = 0) -> list[tuple[str, tuple[str, str]]]:
    """Prompts of two subjects each, in three styles, with the two."""
    chance, found = random.Random(seed), []
    for _ in range(count):
        first, second = chance.sample(SUBJECTS, 2)
        style = chance.choice(("glossy", "flat", "ink"))
        article = ["an" if word[0] in "aeiou" else "a" for word in (style, second)]
        found.append((f"{article[0]} {style} {first} and {article[1]} {second}", (first, second)))
    return found


def halves(judge, images) -> list[tuple[str, str]]:
    """What the judge reads in the left and in the right half of each picture; of nothing without a judge."""
    if judge is None:
        return []
    pixels = images if torch.is_tensor(images) else to_tensor(images)
    quarter, middle = pixels.shape[-2] // 4, pixels.shape[-1] // 2
    band = pixels[:, :, quarter : 3 * quarter]
    left, right = (judge.read(half) for half in (band[..., :middle], band[..., middle:]))
    return [(a.subject, b.subject) for a, b in zip(left, right, strict=True)]


def both_seen(judge, images, asked: Sequence[tuple[str, tuple[str, str]]]) -> list[bool | None]:
    """Whether the judge finds both subjects of each of `pairs`, one in each half; None without a judge."""
    if judge is None:
        return [None] * len(asked)
    return [set(seen) == set(both) for seen, (_, both) in zip(halves(judge, images), asked, strict=True)]


def before_and_after(drawn: Sequence[Tensor], right: Sequence[Sequence], prompts: Sequence[str]):
    """A Figure of six pairs before and after, those first whose verdicts differ; the title counts all.

    drawn: two batches of pictures. right: whether both subjects are found in each, two lists.
    """
    chosen = sorted(range(len(prompts)), key=lambda k: right[0][k] == right[1][k])[:6]
    said = {True: "both found", False: "not both", None: ""}
    captions = [said[verdicts[k]] for verdicts in right for k in chosen]
    before, after = (sum(map(bool, verdicts)) for verdicts in right)
    known = f": both found in {before} of {len(prompts)}, excited in {after}"
    return figures.grid(
        [[batch[k] for k in chosen] for batch in drawn],
        captions,
        row_labels=["as usual", "excited"],
        column_labels=[prompts[k] for k in chosen],
        title="Two subjects" + known * (right[0][0] is not None),
    )


def centre(image) -> float:
    """Where a subject stands, from left (0) to right (1): the mean place of what is unlike the upper left corner."""
    pixels = to_tensor(image)[0]
    unlike = (pixels - pixels[:, :1, :1]).abs().amax(0).sub(0.3).clamp_min(0).sum(0) + 1e-6
    return float((unlike * torch.linspace(0, 1, len(unlike))).sum() / unlike.sum())


def change(images, others) -> Tensor:
    """Where pictures differ from others, (B, H, W): root mean squares over the colours, 0 to 1."""
    return (to_tensor(images) - to_tensor(others)).pow(2).mean(1).sqrt() / 2


def agreement(heat: Tensor, changed: Tensor) -> float:
    """The correlation of heat maps (B, h, w) with maps of `change` (B, H, W), place by place; the mean over B."""
    changed = interpolate(changed[:, None], size=heat.shape[1:], mode="area")[:, 0]
    both = zip(heat.cpu().flatten(1), changed.flatten(1), strict=True)
    return torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in both]).mean().item()
