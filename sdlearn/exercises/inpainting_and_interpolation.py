"""Notebook 08: holes and walks. The blend that keeps the outside, the way round between noises, two prompts at once."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from ..model import StableDiffusion
from ..pictures import to_tensor
from . import exercise

# -- small things to try an answer on ----------------------------------------------------------------------------------


def _chance(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _left(size: int = 4) -> Tensor:
    """A hole over the left half, (1, 1, size, size)."""
    mask = torch.zeros(1, 1, size, size)
    mask[..., : size // 2] = 1
    return mask


# -- the loop around a hole --------------------------------------------------------------------------------------------


def keep_outside(x: Tensor, original: Tensor, noise: Tensor, mask: Tensor, alpha_bar: float) -> Tensor:
    """x in the hole, where the mask (1, 1, h, w) is 1, and around it the original's latents, noised to that level."""
    noised = alpha_bar**0.5 * original + (1 - alpha_bar) ** 0.5 * noise
    return mask * x + (1 - mask) * noised


# Called with the index of a step and all levels: the alpha_bar that the original is brought to after that step.
LevelOf = Callable[[int, Sequence[float]], float]


def landed(k: int, levels: Sequence[float]) -> float:
    """The right one: where the step landed, and after the last step no noise at all."""
    return 1.0 if k + 2 == len(levels) else levels[k + 1]


def started(k: int, levels: Sequence[float]) -> float:
    return 1.0 if k + 2 == len(levels) else levels[k]


def fill(x, original, noise, mask, levels, step, level_of: LevelOf = landed, keep=keep_outside) -> Tensor:
    """The latents (n, 4, h, w) of pictures whose hole is filled; by `level_of` and `keep` also each wrong way to it."""
    for k in range(len(levels) - 1):
        x = keep(step(x, k), original, noise, mask, level_of(k, levels))
    return x


@exercise(
    minutes=8, difficulty=2, trains="inpainting with any model, and which noise level the original is brought to",
    hint="for k in range(len(levels) - 1): x = step(x, k), and then the blend. Noise the original with the jump of "
    "notebook 01, to levels[k + 1]; after the last step leave it clean. The mask weighs x, 1 - mask the original.",
)  # fmt: skip
def inpaint(x, original, noise, mask, levels, step):
    return fill(x, original, noise, mask, levels, step)


@inpaint.given
def _():
    levels = [0.1, 0.3, 0.6, 0.9]
    x, original, noise = (_chance(1, 4, 4, 4, seed=part) for part in range(3))

    def step(x, k):  # no network: neighbours mix, so that what stands outside finds its way in
        return 0.5 * x + 0.3 * x.roll(1, -1) + 0.1 * k

    yield x, original, noise, _left(), levels, step


@inpaint.mistake("the mask is the wrong way round: it is 1 where something new is drawn, and there x stays.")
def _(x, original, noise, mask, levels, step):
    return fill(x, original, noise, 1 - mask, levels, step)


@inpaint.mistake("the last blend still noises the original: after the last step nothing is asked, so put it in clean.")
def _(x, original, noise, mask, levels, step):
    return fill(x, original, noise, mask, levels, step, lambda k, levels: levels[k + 1])


@inpaint.mistake(
    "the original is at the level from which the step came, and x has already landed on the next one, levels[k + 1]."
)
def _(x, original, noise, mask, levels, step):
    return fill(x, original, noise, mask, levels, step, started)


@inpaint.mistake(
    "the original is at the level from which the step came, up to the very end: x has already landed on the next one, "
    "and after the last step no noise is left."
)
def _(x, original, noise, mask, levels, step):
    return fill(x, original, noise, mask, levels, step, lambda k, levels: levels[k])


@inpaint.mistake("the original is put in clean after every step: it has to carry the noise of the level landed on.")
def _(x, original, noise, mask, levels, step):
    return fill(x, original, noise, mask, levels, step, lambda k, levels: 1.0)


@inpaint.mistake("the square roots are missing: alpha_bar and 1 - alpha_bar are variances.")
def _(x, original, noise, mask, levels, step):
    def keep(x, original, noise, mask, a):
        return mask * x + (1 - mask) * (a * original + (1 - a) * noise)

    return fill(x, original, noise, mask, levels, step, keep=keep)


@inpaint.mistake("inside the hole the original is added to x: weigh it with 1 - mask.")
def _(x, original, noise, mask, levels, step):
    def keep(x, original, noise, mask, a):
        return mask * x + keep_outside(x, original, noise, 0 * mask, a)

    return fill(x, original, noise, mask, levels, step, keep=keep)


@inpaint.mistake("the blend comes before the step, so the last step changes the outside again: step first, then blend.")
def _(x, original, noise, mask, levels, step):
    for k in range(len(levels) - 1):
        x = step(keep_outside(x, original, noise, mask, levels[k]), k)
    return x


@inpaint.mistake("the outside is put in at the end only: until then the network has not seen what it is to fit to.")
def _(x, original, noise, mask, levels, step):
    for k in range(len(levels) - 1):
        x = step(x, k)
    return keep_outside(x, original, noise, mask, 1.0)


def _not_yet(x, original, noise, mask, alpha_bar):
    return keep_outside(x, original, noise, mask, alpha_bar) if alpha_bar == 1 else x


# What one wrong line costs: caption -> what is exchanged in `fill`.
ONE_LINE_WRONG = {
    "original clean at every step": {"level_of": lambda k, levels: 1.0},
    "original one level too noisy": {"level_of": started},
    "original put in at the end only": {"keep": _not_yet},
}


# -- back up by one level ----------------------------------------------------------------------------------------------


@exercise(
    minutes=5, difficulty=2, trains="the forward step between any two levels, which RePaint takes to try again",
    hint="The share of variance that is left of x on the way up is the ratio now / after. So x fades by its root, and "
    "fresh noise fills up to variance 1.",
)  # fmt: skip
def back_up(x, fresh, now, after):
    ratio = now / after
    return ratio**0.5 * x + (1 - ratio) ** 0.5 * fresh


@back_up.given
def _():
    for now, after in ((0.2, 0.5), (0.6, 0.9)):
        yield _chance(1, 4, 3, 3), _chance(1, 4, 3, 3, seed=1), now, after


@back_up.mistake("the square roots are missing: a ratio of two alpha_bars is a share of variance.")
def _(x, fresh, now, after):
    return now / after * x + (1 - now / after) * fresh


@back_up.mistake(
    "that is the jump from a clean picture: x already carries the noise of level after, so it has less way to go."
)
def _(x, fresh, now, after):
    return now**0.5 * x + (1 - now) ** 0.5 * fresh


@back_up.mistake("the noise is added and nothing fades: then the latents grow with every way up.")
def _(x, fresh, now, after):
    return x + (1 - now / after) ** 0.5 * fresh


@back_up.mistake("the two are swapped: the fresh noise gets what is left of x.")
def _(x, fresh, now, after):
    return back_up.answer(fresh, x, now, after)


# -- between two noises ------------------------------------------------------------------------------------------------


@exercise(
    minutes=5, difficulty=2, trains="spherical interpolation: as far round the circle as asked, at full size",
    hint="The cosine of the angle is (a * b).sum() / (a.norm() * b.norm()), and torch.arccos turns it into the angle. "
    "The weights are sin((1 - share) * angle) and sin(share * angle), both divided by sin(angle).",
)  # fmt: skip
def slerp(a, b, share):
    angle = torch.arccos((a * b).sum() / (a.norm() * b.norm()))
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)


@slerp.given
def _():
    a = _chance(1, 4, 3, 3) / 10  # short, so that a cosine without its norms is one, too, and only the wrong one
    b = 0.6 * a + _chance(1, 4, 3, 3, seed=1) / 10
    for share in (0.25, 0.5, 1.0):
        yield a, b, share


@slerp.mistake("this is the straight line: it cuts the corner, and its middle is shorter than both ends.")
def lerp(a, b, share):
    return (1 - share) * a + share * b


@slerp.mistake("the line is brought back to its size, but not to its pace: it runs faster in the middle of the way.")
def _(a, b, share):
    return ((1 - share) * a + share * b) / ((1 - share) ** 2 + share**2) ** 0.5


@slerp.mistake("the angle is taken for a right one: that holds for noises, and nearly; measure the angle.")
def _(a, b, share):
    return math.cos(share * math.pi / 2) * a + math.sin(share * math.pi / 2) * b


@slerp.mistake("the division by sin(angle) is missing: at the ends you would not arrive at a and b.")
def _(a, b, share):
    return slerp.answer(a, b, share) * torch.sin(torch.arccos((a * b).sum() / (a.norm() * b.norm())))


@slerp.mistake("the norms are missing: a cosine is the dot product divided by both of them.")
def _(a, b, share):
    angle = torch.arccos((a * b).sum())
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)


@slerp.mistake("the ends are swapped: share 0 is a, and share 1 is b.")
def _(a, b, share):
    return slerp.answer(b, a, share)


# -- two prompts at once -----------------------------------------------------------------------------------------------


def _toy_ask(x: Tensor, words: float) -> Tensor:
    """No network: an answer that depends on the words, and on what is up and what is down."""
    down = torch.linspace(-1, 1, x.shape[-2]).view(-1, 1)
    return words * down * x + (1 - words) * x.roll(1, -2)


def upside_down(x: Tensor) -> Tensor:
    """Latents or pictures (..., h, w) with their top at the bottom; twice is not at all."""
    return x.flip(-2)


@exercise(
    minutes=4, difficulty=1, trains="visual anagrams: one picture that two prompts agree on, each from its side",
    hint="Ask for the first words about x, and for the second about turn(x). The second answer belongs to the turned "
    "picture, so turn it back before the two are averaged.",
)  # fmt: skip
def two_ways(ask, x, first, second, turn):
    return (ask(x, first) + turn(ask(turn(x), second))) / 2


@two_ways.given
def _():
    yield _toy_ask, _chance(1, 4, 4, 4), 0.2, 0.7, upside_down


@two_ways.mistake("the second answer is still upside down: turn it back before it is mixed with the first.")
def _(ask, x, first, second, turn):
    return (ask(x, first) + ask(turn(x), second)) / 2


@two_ways.mistake("the network is asked about x both times: show it turn(x) with the second words.")
def _(ask, x, first, second, turn):
    return (ask(x, first) + turn(ask(x, second))) / 2


@two_ways.mistake("nothing is turned: this is a mixture of two prompts.")
def _(ask, x, first, second, turn):
    return (ask(x, first) + ask(x, second)) / 2


@two_ways.mistake("the two answers are added and not averaged: that is twice the noise that is there.")
def _(ask, x, first, second, turn):
    return 2 * two_ways.answer(ask, x, first, second, turn)


@two_ways.mistake("first and second are swapped: the picture as it stands is the first one's.")
def _(ask, x, first, second, turn):
    return two_ways.answer(ask, x, second, first, turn)


def blur(x: Tensor, sigma: float = 1.5) -> Tensor:
    """The coarse part of (B, C, h, w): each value a mean of its neighbours, a Gaussian of `sigma` latents wide."""
    reach = math.ceil(2 * sigma)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype) / sigma) ** 2)
    weights = (weights / weights.sum()).expand(x.shape[1], 1, -1)
    wide = F.pad(x, (reach,) * 4, mode="replicate")
    across = F.conv2d(wide, weights[:, :, None], groups=x.shape[1])
    return F.conv2d(across, weights[:, :, :, None], groups=x.shape[1])


@exercise(
    minutes=4, difficulty=1, trains="hybrid pictures: coarse shapes from one prompt, details from another",
    hint="What a blur keeps is coarse, and x - blur(x) is what it loses. Ask twice, and add the coarse part of one "
    "answer to the fine part of the other.",
)  # fmt: skip
def near_and_far(ask, x, far, near, blur):
    coarse, fine = ask(x, far), ask(x, near)
    return blur(coarse) + fine - blur(fine)


@near_and_far.given
def _():
    yield _toy_ask, _chance(1, 4, 8, 8), 0.2, 0.7, blur


@near_and_far.mistake("far and near are swapped: from afar only the coarse part is seen, so it belongs to far.")
def _(ask, x, far, near, blur):
    return near_and_far.answer(ask, x, near, far, blur)


@near_and_far.mistake("the near answer is added whole: its own coarse part has to come off, or there are two of them.")
def _(ask, x, far, near, blur):
    return blur(ask(x, far)) + ask(x, near)


@near_and_far.mistake("both answers are blurred: the details of the near one are what a blur takes away.")
def _(ask, x, far, near, blur):
    return blur(ask(x, far)) + blur(ask(x, near))


@near_and_far.mistake("this averages the two answers; each is to give its own scale, whole.")
def _(ask, x, far, near, blur):
    return (ask(x, far) + ask(x, near)) / 2


# -- what the notebook measures ----------------------------------------------------------------------------------------


def grey_levels(a, b) -> float:
    """The largest difference of two pictures, PIL or tensors in [-1, 1], in grey levels of 255."""
    a, b = (x if torch.is_tensor(x) else to_tensor(x) for x in (a, b))
    a, b = ((127.5 * (x.float().cpu().clamp(-1, 1) + 1)).round() for x in (a, b))
    return (a - b).abs().max().item()


def seam(pictures: Tensor) -> float:
    """How much harder pictures (B, 3, H, W) change across their middle column than beside it: 1 is no seam at all."""
    change = (pictures[..., 1:] - pictures[..., :-1]).abs().mean((0, 1, 2))  # (W - 1,)
    middle = pictures.shape[-1] // 2 - 1
    return (change[middle] / change[middle - 6 : middle + 7].mean()).item()


def detail(pictures: Tensor) -> Tensor:
    """How much each picture (B, 3, H, W) changes from pixel to pixel, (B,): what is washed out changes little."""
    across = (pictures[..., 1:] - pictures[..., :-1]).abs().mean((1, 2, 3))
    return across + (pictures[..., 1:, :] - pictures[..., :-1, :]).abs().mean((1, 2, 3))


def sure(judge, pictures, subjects: Sequence[str]) -> Tensor | None:
    """How sure the judge is of each subject, 0 to 1, (B, subjects); None without a judge."""
    if judge is None:
        return None
    return judge.probabilities(pictures)[0][:, [judge.subjects.index(subject) for subject in subjects]]


def best(judge, views: Mapping[str, Tensor], count: int) -> list[int]:
    """Which pictures the judge is most sure of from all sides; without a judge the first.

    views: subject -> the pictures (B, 3, H, W) as they are to be seen for it.
    """
    if judge is None:
        return list(range(count))
    each = torch.cat([sure(judge, pictures, [subject]) for subject, pictures in views.items()], dim=1)
    return each.min(dim=1).values.topk(count).indices.tolist()


def from_afar(image: Image.Image, share: float = 0.03) -> Image.Image:
    """A picture as it looks from so far away that `share` of its width is one blur."""
    return image.filter(ImageFilter.GaussianBlur(share * image.width))


def scratch(image: Image.Image, factor: int) -> tuple[Image.Image, Image.Image]:
    """A picture scratched by lines thinner than a latent's cell of `factor` pixels, and the hole that they are."""
    hole = Image.new("L", image.size)
    pen, (width, height) = ImageDraw.Draw(hole), image.size
    for left, right in ((0.2, 0.6), (0.45, 0.3), (0.85, 0.7)):
        pen.line((left * width, 0, right * width, height), fill=255, width=factor // 3 + 1)
    return Image.composite(Image.new("RGB", image.size, "#d55e00"), image, hole), hole


def nine_channels(sd: StableDiffusion) -> StableDiffusion:
    """The same model with a UNet that also reads a mask and a masked picture, and does not yet know what they mean.

    The weights of the further channels are 0, as in the checkpoint from which Stable Diffusion's inpainting model was
    trained on; all the others are shared with `sd`.
    """
    more, old = sd.latent_channels + 1, sd.unet.conv_in
    new = torch.nn.Conv2d(old.in_channels + more, old.out_channels, old.kernel_size, padding=old.padding)
    with torch.no_grad():
        new.weight.copy_(torch.cat([old.weight.cpu(), torch.zeros(len(old.weight), more, *old.kernel_size)], dim=1))
        new.bias.copy_(old.bias)
    unet = copy.copy(sd.unet)
    unet._modules = sd.unet._modules | {"conv_in": new.to(old.weight).requires_grad_(False)}
    unet.register_to_config(in_channels=new.in_channels)
    return replace(sd, unet=unet)
