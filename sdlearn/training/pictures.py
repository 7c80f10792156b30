"""Pictures with captions, composed from the artwork by a seed: an endless stream that a run can continue anywhere."""

import hashlib
import random
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F

from . import captions as wording
from .artwork import Artwork
from .captions import BACKGROUNDS, BLACK, SHADES, STYLES, WHITE, Details, Reading
from .presets import FACING_LEFT, PAIR_SUBJECTS, SIZE


@dataclass(frozen=True)
class Variety:
    """How much the composed pictures differ. The defaults are what the shipped model learns from."""

    coloured: float = 0.6  # share of pictures on a named colour other than the style's own
    mirror: float = 0.5  # share of pictures mirrored left to right
    rotate: float = 6.0  # largest turn, degrees
    hue: float = 8.0  # largest turn of the hue, degrees
    detailed: float = 0.45  # share of pictures with a size, a side or a shaded background, which the caption says
    keywords: float = 0.3  # share of captions that name the subject by one of its keywords
    pairs: float = 0.15  # share of pictures with two of `pair_subjects` side by side
    hold_out: bool = True  # leave out the combinations that `held_out` names


PLAIN = Variety(mirror=0, rotate=0, hue=0, detailed=0, keywords=0, pairs=0, hold_out=False)


def held_out(subject: str, style: str, background: str) -> bool:
    """True for the combinations that a run with `hold_out` never sees: one subject-style pair in eight, on half of the
    backgrounds. The pairs and the backgrounds come from a hash, so they are the same for everyone."""
    pair = hashlib.sha256(f"{subject}/{style}".encode()).digest()
    return pair[0] < 32 and (pair[1] + BACKGROUNDS.index(background)) % 2 == 0


def pair_subjects(subjects) -> tuple[str, ...]:
    """Those of `subjects` that pictures of two show: PAIR_SUBJECTS, or any where there are not two of these."""
    known = tuple(subject for subject in PAIR_SUBJECTS if subject in subjects)
    return known if len(known) > 1 else tuple(subjects)


class Batch(NamedTuple):
    """Composed pictures, and what each shows."""

    pixels: torch.Tensor  # (B, 3, size, size) in [-1, 1]
    captions: list[str]
    readings: list[Reading]  # what is there (of a pair, the left subject)


class Placement(NamedTuple):
    """Where a sprite goes. Lengths are shares of the picture's side, angles are degrees."""

    scale: float
    right: float = 0.0
    down: float = 0.0
    angle: float = 0.0
    mirror: bool = False
    hue: float = 0.0


class Scene(NamedTuple):
    """One picture before it is drawn."""

    sprites: tuple[int, ...]
    placements: tuple[Placement, ...]
    background: str
    shade: float  # how much lighter the background is at its bottom than at its top, as a share; 0: plain
    blocks: int  # of a side of a pixel picture; 0: not of blocks
    caption: str
    reading: Reading


@dataclass(frozen=True)
class Pictures:
    """An endless, seeded stream of batches: batch `index` is always the same, so a run can continue anywhere.

    Every style comes equally often, however many artists draw it: the model would lean to the one it meets most. Within
    a style every subject does.
    """

    artwork: Artwork
    size: int = SIZE
    variety: Variety = Variety()
    seed: int = 0

    @cached_property
    def _groups(self) -> tuple[list, list]:
        """The sprites of each style by subject: of all subjects, and of those that may share a picture."""
        art, found = self.artwork, []
        for subjects in (art.subjects, pair_subjects(art.subjects)):
            masks = [[(art.subject == art.subjects.index(name)) & (art.style == style) for name in subjects]
                     for style in art.style.unique()]  # fmt: skip
            found.append([[mask.nonzero().flatten().tolist() for mask in group if mask.any()] for group in masks])
        return tuple(found)

    def batch(self, index: int, batch_size: int) -> Batch:
        """Batch number `index`, on the device of the artwork's sprites."""
        return self.compose(self.scenes(index, batch_size))

    def scenes(self, index: int, batch_size: int) -> list[Scene]:
        """What the pictures of a batch show, not yet drawn."""
        chance = random.Random(f"{self.seed}/{index}")
        return [self._scene(chance) for _ in range(batch_size)]

    def compose(self, scenes: list[Scene]) -> Batch:
        """The pictures of these scenes."""
        device = self.artwork.sprites.device
        ground = torch.stack([_background(scene, self.size) for scene in scenes]).to(device)
        for layer in range(max(len(scene.sprites) for scene in scenes)):
            rows = [i for i, scene in enumerate(scenes) if layer < len(scene.sprites)]
            sprites = self.artwork.sprites[[scenes[i].sprites[layer] for i in rows]].float() / 255
            white_ink = [scenes[i].reading.style == "ink" and wording.is_dark(scenes[i].background) for i in rows]
            placed = place(sprites, [scenes[i].placements[layer] for i in rows], self.size, white_ink)
            for blocks in {scenes[i].blocks for i in rows} - {0}:
                some = [k for k, i in enumerate(rows) if scenes[i].blocks == blocks]
                placed[some] = in_blocks(placed[some], blocks)
            ground[rows] = placed[:, :3] + ground[rows] * (1 - placed[:, 3:])
        return Batch(ground * 2 - 1, [scene.caption for scene in scenes], [scene.reading for scene in scenes])

    def _scene(self, chance: random.Random) -> Scene:
        two = chance.random() < self.variety.pairs
        while True:
            subjects = chance.choice(self._groups[two])
            sprites = [chance.choice(group) for group in chance.sample(subjects, 1 + two)]
            own = wording.unnamed_background(self._reading(sprites[0], None).style)
            others = [background for background in BACKGROUNDS if background != own]
            background = chance.choice(others) if chance.random() < self.variety.coloured else own
            if not (self.variety.hold_out and any(held_out(*self._reading(s, background)) for s in sprites)):
                return self.scene(chance, sprites, background)

    def scene(self, chance: random.Random, sprites: list[int], background: str) -> Scene:
        """A scene with this sprite, or these two, on this background; everything else is drawn from `chance`."""
        readings = [self._reading(sprite, background) for sprite in sprites]
        style, names = readings[0].style, [self._name(reading.subject, chance) for reading in readings]
        details = self._details(chance, len(sprites), background)
        placements = tuple(self._placement(chance, k, sprites, details) for k in range(len(sprites)))
        if len(sprites) == 1 and readings[0].subject in FACING_LEFT and chance.random() < self.variety.detailed:
            details = details._replace(facing="right" if placements[0].mirror else "left")
        blocks = 0
        if style == "pixel":  # half as large a thing is drawn of blocks half as large, or there would be too few
            blocks = 16 if max(placement.scale for placement in placements) > 0.62 else 32
        light = chance.uniform(0.5, 0.8)
        name = wording.pair(*names) if len(names) == 2 else names[0]
        return Scene(
            tuple(sprites), placements, background,
            0.0 if not details.shade else light if details.shade == SHADES[0] else -light,
            blocks, wording.caption(name, style, background, chance, details), readings[0],
        )  # fmt: skip

    def _reading(self, sprite: int, background: str) -> Reading:
        art = self.artwork
        return Reading(art.subjects[art.subject[sprite]], STYLES[art.style[sprite]], background)

    def _name(self, subject: str, chance: random.Random) -> str:
        keywords = self.artwork.keywords.get(subject, ())
        return chance.choice(keywords) if keywords and chance.random() < self.variety.keywords else subject

    def _details(self, chance: random.Random, sprites: int, background: str) -> Details:
        """What a picture has and its caption names: of two subjects only the shade, since both have their places."""
        if chance.random() >= self.variety.detailed:
            return Details()
        shade = chance.choice(SHADES) if background not in (WHITE, BLACK) and chance.random() < 0.4 else None
        if sprites == 2:
            return Details(shade=shade)
        size = chance.choices(("small", "big", None), weights=(60, 25, 15))[0]
        side = chance.choice(("left", "right", "top", "bottom", None)) if size == "small" else None
        return Details(size, side, None, shade)

    def _placement(self, chance: random.Random, layer: int, sprites: list[int], details: Details) -> Placement:
        variety = self.variety
        scale, right, down = chance.uniform(0.76, 0.92), chance.uniform(-0.05, 0.05), chance.uniform(-0.05, 0.05)
        if len(sprites) == 2:  # half the size, left and right of the middle
            scale, right, down = scale * 0.55, right / 4 + (-0.245, 0.245)[layer], down
        elif details.size == "small":
            scale = chance.uniform(0.42, 0.54)
            right += {"left": -0.22, "right": 0.22}.get(details.side, 0)
            down += {"top": -0.22, "bottom": 0.22}.get(details.side, 0)
        elif details.size == "big":
            scale, right, down = chance.uniform(0.97, 1.06), right / 2, down / 2
        turned = STYLES[self.artwork.style[sprites[layer]]] != "pixel"  # blocks lie straight
        angle = chance.uniform(-variety.rotate, variety.rotate) * turned
        mirror = chance.random() < variety.mirror
        return Placement(scale, right, down, angle, mirror, chance.uniform(-variety.hue, variety.hue))


def _background(scene: Scene, size: int) -> torch.Tensor:
    """(3, size, size) in [0, 1]; of a pixel picture, one shade to a row of blocks."""
    colour = torch.tensor(wording.RGB[scene.background]).view(3, 1, 1) / 255
    rows = scene.blocks or size
    ramp = torch.linspace(-0.5, 0.5, rows).repeat_interleave(size // rows).view(1, -1, 1) * scene.shade
    shaded = torch.where(ramp < 0, colour * (1 + ramp), colour + (1 - colour) * ramp)
    return shaded.expand(3, size, size).clone()


def in_blocks(pictures: torch.Tensor, blocks: int) -> torch.Tensor:
    """Pictures (B, 4, H, W), colours times alpha, of blocks x blocks squares of one colour, each there or not."""
    small = F.adaptive_avg_pool2d(pictures, blocks)
    alpha = small[:, 3:]
    there = (alpha > 0.45).to(small)
    small = torch.cat((small[:, :3] / alpha.clamp(min=0.01), torch.ones_like(alpha)), 1).clamp(0, 1) * there
    return F.interpolate(small, pictures.shape[-2:], mode="nearest")


def place(sprites: torch.Tensor, placements: list[Placement], size: int, white_ink: list[bool]) -> torch.Tensor:
    """Sprites (B, 4, P, P) scaled, turned, mirrored and moved into pictures (B, 4, size, size), colours times alpha.

    Sampled at twice the size and averaged, so that thin lines do not break up.
    """
    device = sprites.device
    invert = torch.tensor(white_ink, device=device).view(-1, 1, 1, 1)
    colour, alpha = sprites[:, :3], sprites[:, 3:]
    colour = torch.where(invert, alpha - colour, colour)
    turn_hue = torch.stack([_hue_matrix(p.hue) for p in placements]).to(device)
    colour = torch.minimum(torch.einsum("bij,bjhw->bihw", turn_hue, colour).clamp(min=0), alpha)

    values = torch.tensor([[p.scale, p.right, p.down, p.angle, -1.0 if p.mirror else 1.0] for p in placements])
    scale, right, down, angle, flip = values.unbind(1)
    cos, sin = torch.deg2rad(angle).cos() / scale, torch.deg2rad(angle).sin() / scale
    # grid_sample asks where each pixel of the result comes from: the inverse of "flip, turn, scale, then move".
    none = torch.zeros_like(cos)
    rows = torch.stack((flip * cos, flip * sin, none, -sin, cos, none), 1).view(-1, 2, 3)
    move = torch.stack((right, down), 1) * 2  # shares of the side to the grid's -1...1
    rows[:, :, 2] = -(rows[:, :, :2] @ move.unsqueeze(2)).squeeze(2)
    grid = F.affine_grid(rows, (len(sprites), 4, 2 * size, 2 * size), align_corners=False).to(device)
    return F.avg_pool2d(F.grid_sample(torch.cat((colour, alpha), 1), grid, align_corners=False), 2)


def _hue_matrix(degrees: float) -> torch.Tensor:
    """(3, 3): turns a colour about the gray axis (Rodrigues' rotation about (1, 1, 1))."""
    angle = torch.deg2rad(torch.tensor(float(degrees)))
    third, root = (1 - angle.cos()) / 3, angle.sin() / 3**0.5
    return torch.eye(3) * angle.cos() + third + root * torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]])
