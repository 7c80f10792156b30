"""Three shapes in the plane: a problem on which a network can be trained in seconds and held to the exact answer.

A heart, a ring and a star lie over one another, each a closed row of small round Gaussians. Noised to
x = sqrt(alpha_bar) x_0 + sqrt(1 - alpha_bar) eps they are Gaussians still, with means sqrt(alpha_bar) mu_i and variance
alpha_bar WIDTH^2 + 1 - alpha_bar. So the ideal network is a formula (`ask`), with a label and without one, and so is
the ideal classifier of noised points (`which`).

Points are (N, 2), labels (N,) whole numbers from 0 on, where NONE stands for no label; alpha_bar is a number or (N,).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

NAMES = ("heart", "ring", "star")
NONE = len(NAMES)  # the label of points whose label is not told, as the empty text is Stable Diffusion's
WIDTH = 0.06


def _outlines(count: int = 60) -> Tensor:
    """`count` points along each shape, (3, count, 2); all of them together have mean 0 and, with WIDTH, size 1."""
    turn = torch.arange(count) / count * 2 * math.pi
    heart = torch.stack([16 * turn.sin() ** 3, 13 * turn.cos() - 5 * (2 * turn).cos() - 2 * (3 * turn).cos()
                         - (4 * turn).cos() + 2], dim=1) / 11  # fmt: skip
    ring = 1.25 * torch.stack([turn.cos(), turn.sin()], dim=1)
    angle, radius = math.pi / 2 + torch.arange(11) * math.pi / 5, torch.tensor([1.75, 0.75]).repeat(6)[:11]
    corner = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    place = torch.arange(count) / count * 10
    side = place.long()
    star = torch.lerp(corner[side], corner[side + 1], (place - side)[:, None])
    points = torch.stack([heart, ring, star])
    points = points - points.mean((0, 1))
    return points * ((1 - WIDTH**2) / points.square().mean()) ** 0.5


CENTRES = _outlines()


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points of the shapes, (count, 2), and their labels, (count,); every shape is equally likely."""
    labels = torch.randint(len(NAMES), (count,), generator=generator)
    places = torch.randint(CENTRES.shape[1], (count,), generator=generator)
    return CENTRES[labels, places] + WIDTH * torch.randn(count, 2, generator=generator), labels


def _seen(x: Tensor, alpha_bar) -> tuple[Tensor, Tensor, Tensor]:
    """From each Gaussian to x, (N, 3, count, 2); their variance (N, 1, 1); the logarithm of each one's density at x,
    up to a number that all share, (N, 3, count)."""
    a = torch.as_tensor(alpha_bar, dtype=x.dtype).expand(len(x)).view(-1, 1, 1)
    distance = x[:, None, None] - a[..., None].sqrt() * CENTRES.to(x)
    variance = a * WIDTH**2 + 1 - a
    return distance, variance, -distance.square().sum(-1) / (2 * variance)


def ask(x: Tensor, alpha_bar, labels: Tensor | int | None = None) -> Tensor:
    """The ideal network: the noise expected in x, (N, 2), of points with these labels, or all with this one (None and
    NONE: whatever their label)."""
    distance, variance, fit = _seen(x, alpha_bar)
    if labels is not None:
        labels = torch.as_tensor(labels).expand(len(x))
        other = torch.arange(len(NAMES)) != labels[:, None]
        fit = fit.masked_fill((other & (labels[:, None] != NONE))[..., None], -math.inf)
    share = fit.flatten(1).softmax(1).view_as(fit)
    noise = (1 - torch.as_tensor(alpha_bar, dtype=x.dtype).expand(len(x)).view(-1, 1)).sqrt()
    return noise * ((share / variance)[..., None] * distance).sum((1, 2))


def which(x: Tensor, alpha_bar) -> Tensor:
    """The ideal classifier: the logarithm of each label's probability for the noised point x, (N, 3)."""
    return _seen(x, alpha_bar)[2].logsumexp(2).log_softmax(1)


def obedience(points: Tensor, label: int) -> float:
    """The share of points that lie on the shape of this label: within three WIDTHs of its outline."""
    away = (points[:, None] - CENTRES[label]).norm(dim=2).amin(1)
    return (away < 3 * WIDTH).double().mean().item()


def coverage(points: Tensor, label: int) -> float:
    """The share of a shape's outline that has points nearby, of all that lie nearest to it; 1 is the whole outline."""
    nearest = (points[:, None] - CENTRES[label]).norm(dim=2).argmin(1)
    return len(nearest.unique()) / CENTRES.shape[1]


class Network(nn.Module):
    """A small residual network on points and their noise level, (N, 2) and (N,), to `outputs` numbers each.

    With labels it is a denoiser, `network(x, alpha_bar, labels)`; without, a classifier, `network(x, alpha_bar)`.
    """

    def __init__(self, outputs: int, *, labels: bool = False, width: int = 128, depth: int = 3):
        super().__init__()
        self.enter = nn.Linear(26, width)
        self.told = nn.Embedding(NONE + 1, width) if labels else None
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.leave = nn.Linear(width, outputs)
        self.register_buffer("octaves", 2.0 ** torch.arange(4))

    def forward(self, x: Tensor, alpha_bar, labels: Tensor | None = None) -> Tensor:
        a = torch.as_tensor(alpha_bar, dtype=x.dtype).expand(len(x))[:, None]
        level = ((1 - a) / a).log() / 4  # (N, 1): log sigma, halved
        waves = torch.cat([(x[..., None] * self.octaves).flatten(1), level * torch.arange(1, 5)], dim=1)  # (N, 12)
        h = self.enter(torch.cat([x, waves.sin(), waves.cos()], dim=1))
        if self.told is not None:
            h = h + self.told(labels)
        for block in self.blocks:
            h = h + block(nn.functional.silu(h))
        return self.leave(nn.functional.silu(h))
