"""Which word draws which part: the UNet's cross-attention, recorded and swapped while a picture is drawn.

Every place of the picture asks all tokens, and softmax turns the fits into shares that add up to 1. diffusers' usual
processors never show them (one fused operation does it all), so others stand in while a `with` block lasts:

    with attention.record(sd) as maps:  # or a StableDiffusionPipeline
        sdlearn.text_to_image(sd, "a glossy fox", seed=7)
    fox = maps.heat(attention.places(sd, "a glossy fox", "fox"))  # (1, h, w)
    with attention.swap(sd, maps):  # an owl where the fox was
        sdlearn.text_to_image(sd, "a glossy owl", seed=7)

With guidance a batch is [uncond, cond]. Only the second half is kept and changed: the one that reads the prompt.
"""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field

import torch
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from .text import tokens


class Watched(AttnProcessor):
    """diffusers' plain attention, whose shares pass through `see` before they weigh the values."""

    def __init__(self, layer: str, see: Callable, pictures: int, before: AttnProcessor):
        self.layer, self.see, self.pictures, self.step = layer, see, pictures, 0
        self.before = before if isinstance(before, Watched) else None  # of blocks in blocks the outer one comes first

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None) -> Tensor:
        seen = copy(attn)  # the same weights
        seen.get_attention_scores = lambda *inputs: self.passed(attn.get_attention_scores(*inputs), attn.heads)
        return super().__call__(seen, hidden_states, encoder_hidden_states, attention_mask, temb)

    def passed(self, shares: Tensor, heads: int) -> Tensor:
        """(rows * heads, pixels, tokens), before and after."""
        rows = (self.before.passed(shares, heads) if self.before else shares).unflatten(0, (-1, heads))
        if len(rows) not in (n := self.pictures, 2 * n):
            raise ValueError(f"The UNet was given {len(rows)} rows for pictures={n}; say how many are drawn at once.")
        new = self.see(self.layer, self.step, rows[-n:])
        self.step += 1
        return (rows if new is None else torch.cat([rows[:-n], new])).flatten(0, 1)


@contextmanager
def watch(model, see: Callable[[str, int, Tensor], Tensor | None], pictures: int = 1):
    """While it lasts, see(layer, step, shares) is shown all shares, and what it returns (or None) takes their place.

    model: has a UNet, or is one. pictures: how many are drawn at once. step counts the UNet's calls, from 0. shares:
    (pictures, heads, pixels, tokens) of the prompt. The processors that were there come back, also after an error.
    """
    unet = getattr(model, "unet", model)
    if not hasattr(unet, "attn_processors"):
        raise TypeError(f"A {type(unet).__name__} shows no shares; take the model as it was before sdlearn.optimize().")
    before, cross = unet.attn_processors, ".attn2.processor"  # attn1 is the picture asking itself
    new = {k: Watched(k.removesuffix(cross), see, pictures, old) if cross in k else old for k, old in before.items()}
    unet.set_attn_processor(new)
    try:
        yield
    finally:
        unet.set_attn_processor(before)


@dataclass
class Maps:
    """What `record` keeps: layers[name][step] is (pictures, heads, h, w, tokens), each share from 0 to 1."""

    size: tuple[int, int]  # h, w of the latents
    layers: dict[str, list[Tensor]] = field(default_factory=dict)

    def heat(self, places: Sequence[int], *, steps=slice(None), layers=None, heads=slice(None), size=None) -> Tensor:
        """How much of the attention tokens get at each place, (pictures, *size), from 0 to 1 (DAAM, Tang et al. 2022).

        It is the sum over the tokens, and the mean over heads, steps and layers, whose maps are enlarged to one size.
        places: from 0. steps, heads: slices. layers: names, None for all. size: (h, w), None for the latents'.
        """
        means = []
        for name in layers or self.layers:
            few = [shares[:, heads][..., list(places)].float().sum(-1).mean(1) for shares in self.layers[name][steps]]
            mean = torch.stack(few).mean(0)[:, None]  # (pictures, 1, h, w)
            means.append(torch.nn.functional.interpolate(mean, size=size or self.size, mode="bilinear"))
        return torch.cat(means, 1).mean(1)


@contextmanager
def record(model, pictures: int = 1, size: tuple[int, int] | None = None):
    """Keep the `Maps` of what is drawn in the block. size: (h, w) of the latents, if it is not the model's own."""
    own = getattr(model, "unet", model).config.sample_size
    maps = Maps(size or ((own, own) if isinstance(own, int) else tuple(own)))

    def keep(layer: str, step: int, shares: Tensor):
        (h, w), pixels = maps.size, shares.shape[2]
        while h * w > pixels:
            h, w = -(-h // 2), -(-w // 2)
        if h * w != pixels:
            raise ValueError(f"{pixels} pixels are not {maps.size} halved; say size=(h, w) of the latents.")
        maps.layers.setdefault(layer, []).append(shares.unflatten(2, (h, w)).clone())  # a view would hold all rows

    with watch(model, keep, pictures):
        yield maps


@contextmanager
def swap(model, maps: Maps, until: int | None = None, pictures: int = 1):
    """Draw with recorded maps in the place of the picture's own: Prompt-to-Prompt's word swap (Hertz et al. 2022).

    until: the step from which on the picture has its own maps again. Words must stand at the same places in both
    prompts. Raises ValueError where the maps hold no such step.
    """

    def exchange(layer: str, step: int, shares: Tensor):
        if until is not None and step >= until:
            return None
        kept = [old.flatten(2, 3) for old in maps.layers.get(layer, [])[step : step + 1]]
        if not kept or kept[0].shape != shares.shape:
            raise ValueError(f"No map of step {step} has shape {tuple(shares.shape)}; record a run like this one.")
        return kept[0].to(shares)

    with watch(model, exchange, pictures):
        yield


def places(sd, prompt: str, words: str) -> list[int]:
    """Where the tokens of a word, or of words in a row, stand among the prompt's 77, each time that they occur."""
    ids, wanted = tokens(sd, prompt).ids, tokens(sd, words).ids[1:-1]
    starts = [k for k in range(len(ids)) if ids[k : k + len(wanted)] == wanted]
    if not (found := [k + i for k in starts for i in range(len(wanted))]):
        raise ValueError(f"{words!r} is not in {prompt!r}; name a word that is.")
    return found
