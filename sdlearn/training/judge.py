"""The judge: a small classifier that says what a picture shows, and so measures whether a picture obeys its prompt.

    judge = load_judge()
    judge.read(images)[0]                                       # what the first picture shows
    judge.obeys(images, "an ink owl on a teal background")      # for each picture, which parts are right

It was trained on the artwork, never on pictures that a model drew, so it is independent of the shipped model. It knows
the subjects of `judge.subjects` and nothing else: asked about a photograph, it answers at random.
"""

import json
from collections import deque
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..pictures import as_list, to_tensor
from .captions import BACKGROUNDS, STYLES, Reading, parse
from .loop import mixed_precision
from .presets import SIZE

WIDTHS = (16, 32, 64, 128, 176)  # channels after each halving of the side
USES = 3  # of a composed batch, each time degraded anew
SAVED = ("subjects", "styles", "backgrounds", "widths", "size")  # what a judge is made from, in order


class Seen(NamedTuple):
    """What the judge sees in a picture, and how sure it is of each part (0 to 1)."""

    subject: str
    style: str
    background: str
    subject_probability: float
    style_probability: float
    background_probability: float


class Obeyed(NamedTuple):
    """Which parts of the prompt a picture shows. A part that the prompt leaves open is None."""

    subject: bool | None
    style: bool | None
    background: bool | None

    @property
    def all(self) -> bool:
        """True when no part is wrong."""
        return False not in self


class Judge(nn.Module):
    """Strided convolutions and three linear heads: (B, 3, size, size) in [-1, 1] to logits of what a picture shows.

    Pictures of other sizes are resized to `size`, pixels a side.
    """

    def __init__(self, subjects, styles=STYLES, backgrounds=BACKGROUNDS, widths=WIDTHS, size: int = SIZE):
        super().__init__()
        self.names = self.subjects, self.styles, self.backgrounds = tuple(subjects), tuple(styles), tuple(backgrounds)
        self.widths, self.size = tuple(widths), size
        blocks = [_block(before, after, stride=2) for before, after in pairwise((3, *widths))]
        self.body = nn.Sequential(*blocks, _block(widths[-1], widths[-1], stride=1))
        self.heads = nn.ModuleList(nn.Linear(2 * widths[-1], len(names)) for names in self.names)

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self.body(pixels)  # (B, widths[-1], 4, 4)
        features = torch.cat((features.mean((2, 3)), features.amax((2, 3))), 1)
        return tuple(head(features) for head in self.heads)

    @torch.inference_mode()
    def probabilities(self, images) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each subject (B, n), each style and each background; `images` as in `read`."""
        parts = [images] if torch.is_tensor(images) else map(to_tensor, as_list(images))
        pixels = torch.cat([self.resize(part.float()) for part in parts])  # PIL images may be of any sizes
        device = self.heads[0].weight.device
        logits = [self(part) for part in pixels.to(device).clamp(-1, 1).split(64)]
        return tuple(torch.cat(parts).softmax(1).cpu() for parts in zip(*logits, strict=True))

    def read(self, images) -> list[Seen]:
        """What each picture shows. `images`: a PIL image, a list of them, or a tensor (B, 3, H, W) in [-1, 1]."""
        best = [table.max(1) for table in self.probabilities(images)]
        found = [[names[i] for i in part.indices.tolist()] for names, part in zip(self.names, best, strict=True)]
        return [Seen(*row) for row in zip(*found, *(part.values.tolist() for part in best), strict=True)]

    def obeys(self, images, prompts: str | Reading | list[str | Reading]) -> list[Obeyed]:
        """For each picture, which parts of its prompt it shows. One prompt for all pictures, or one each; a prompt
        whose words the judge does not know can be given as the `Reading` that it means."""
        seen = self.read(images)
        prompts = [prompts] * len(seen) if isinstance(prompts, (str, Reading)) else list(prompts)
        if len(prompts) != len(seen):
            raise ValueError(f"{len(seen)} pictures, {len(prompts)} prompts: give one prompt, or one for each picture.")
        wanted = [prompt if isinstance(prompt, Reading) else self.parse(prompt) for prompt in prompts]
        return [
            Obeyed(*(None if want is None else want == got for want, got in zip(asked, shown[:3], strict=True)))
            for asked, shown in zip(wanted, seen, strict=True)
        ]

    def parse(self, prompt: str) -> Reading:
        """The subject, style and background that a prompt asks for, as far as this judge knows them."""
        return parse(prompt, *self.names)

    def resize(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, H, W) at the judge's size; those that have it are left as they are."""
        same = pixels.shape[-2:] == (self.size, self.size)
        return pixels if same else F.interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)


def share(obeyed: list[Obeyed]) -> dict[str, float]:
    """Share of pictures that are right in subject, in style, in background and in all parts asked for."""
    shares = {}
    for part in ("subject", "style", "background"):
        asked = [getattr(one, part) for one in obeyed if getattr(one, part) is not None]
        shares[part] = sum(asked) / len(asked) if asked else float("nan")
    return {**shares, "all": sum(one.all for one in obeyed) / len(obeyed)}


def load_judge(path=None) -> Judge:
    """The shipped judge, or the one in the folder `path`, ready to read."""
    from safetensors.torch import load_file

    folder = Path(path) if path else Path(__file__).parents[1] / "emoji" / "judge"
    known = json.loads((folder / "judge.json").read_text())
    judge = Judge(*(known[name] for name in SAVED))
    judge.load_state_dict(load_file(folder / "judge.safetensors"))
    return judge.eval().requires_grad_(False)


def save_judge(judge: Judge, folder, measured: dict) -> None:
    """Half-precision weights, and the labels with what was measured, in `folder`."""
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.half() if v.is_floating_point() else v for k, v in judge.state_dict().items()}
    save_file(weights, folder / "judge.safetensors", metadata={"format": "pt"})
    known = {name: getattr(judge, name) for name in SAVED}
    (folder / "judge.json").write_text(json.dumps({**known, "measured": measured}, indent=1) + "\n")


def train_judge(pictures, vae=None, steps: int = 6000, batch_size: int = 96, seed: int = 0, log=print) -> Judge:
    """Trains a judge on composed pictures (`pictures.Pictures`), a third of them sent through `vae` and back.

    The rest is blurred, washed out and made noisy at random: what the judge will see is never as sharp as artwork.
    """
    torch.manual_seed(seed)
    device = pictures.artwork.sprites.device
    judge = Judge(pictures.artwork.subjects, size=pictures.size).train().to(device)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    faster = torch.autocast(device.type, torch.bfloat16, enabled=mixed_precision() == "bf16")
    # The round trips cost more than the training, so a pool of them is made once and drawn from.
    pool = []
    for index in range(0 if vae is None else steps // 40):
        batch = pictures.batch(-1 - index, batch_size)
        with faster:
            pool.append((round_trip(vae, batch.pixels).half(), _targets(judge, batch.readings)))
    recent = deque(maxlen=32)  # to compose a batch takes longer than to learn from it, so each is used a few times
    for step in range(steps):
        if step % USES == 0:
            recent.append(pictures.batch(step // USES, batch_size))
        batch = recent[torch.randint(len(recent), ()).item()]
        pixels, targets = degraded(batch.pixels), _targets(judge, batch.readings)
        if pool:
            old_pixels, old_targets = pool[torch.randint(len(pool), ()).item()]
            rows = torch.randperm(batch_size, device=device)[: batch_size // 3]
            pixels[rows] = torch.roll(old_pixels[rows].to(pixels), torch.randint(-6, 7, (2,)).tolist(), (2, 3))
            for target, old in zip(targets, old_targets, strict=True):
                target[rows] = old[rows]
        with faster:
            read = zip(judge(pixels), targets, strict=True)
            loss = sum(F.cross_entropy(logits, target, label_smoothing=0.02) for logits, target in read)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            log(f"judge: step {step + 1} of {steps}, loss {loss.item():.3f}")
    return judge.eval().requires_grad_(False)


def measure_judge(judge: Judge, pictures, vae=None, batches: int = 20, batch_size: int = 100) -> dict[str, float]:
    """Share of composed pictures that the judge reads right (with `vae`: after the round trip). Use an unseen seed."""
    right = []
    for index in range(batches):
        batch = pictures.batch(index, batch_size)
        pixels = batch.pixels if vae is None else round_trip(vae, batch.pixels)
        right += judge.obeys(pixels, batch.readings)
    return {"pictures": len(right), **share(right)}


@torch.inference_mode()
def round_trip(vae, pixels: torch.Tensor) -> torch.Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] through the autoencoder and back."""
    return torch.cat([vae(part).sample for part in pixels.split(24)]).float().clamp(-1, 1)


def degraded(pixels: torch.Tensor) -> torch.Tensor:
    """Each picture blurred, washed out, tinted and made noisy by its own random amount; half of them unchanged."""
    rand = partial(torch.rand, len(pixels), 1, 1, 1, device=pixels.device)
    amount = rand() * (rand() < 0.5)
    pixels = pixels.lerp(F.avg_pool2d(F.pad(pixels, (2, 2, 2, 2), mode="replicate"), 5, 1), amount)
    pixels = pixels.lerp(pixels.mean(1, keepdim=True), 0.35 * amount * rand())
    pixels = pixels + 0.08 * amount * torch.randn_like(pixels[:, :, :1, :1])
    return (pixels + 0.1 * amount * torch.randn_like(pixels)).clamp(-1, 1)


def _targets(judge: Judge, readings: list[Reading]) -> list[torch.Tensor]:
    device = judge.heads[0].weight.device
    asked = zip(judge.names, zip(*readings, strict=True), strict=True)
    return [torch.tensor([names.index(name) for name in column], device=device) for names, column in asked]


def _block(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.SiLU())
