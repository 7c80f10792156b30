"""How good is a model? Pictures for fixed prompts and seeds, read by the judge, and distances that need no judge."""

import random
from dataclasses import replace
from itertools import combinations, product

import torch

from ..pictures import psnr, to_tensor
from ..sampling import text_to_image
from .captions import STYLES, Reading, indefinite, pair
from .judge import Judge, round_trip, share
from .pictures import PLAIN, Pictures, held_out, pair_subjects

# What everyone types: diffusers' defaults (whose scheduler PNDM is plms here), and the settings of older tutorials.
CLASSIC = {
    "diffusers' defaults": {"sampler": "plms", "num_inference_steps": 50, "guidance_scale": 7.5},
    "older tutorials": {"sampler": "lms", "num_inference_steps": 50, "guidance_scale": 8.0},
}


def prompts(judge: Judge, count: int, seed: int = 0, held: bool | None = None) -> list[str]:
    """Prompts that ask for a random subject, style and background each, always the same for a seed.

    held: True takes only combinations that `pictures.held_out` names, False only the others, None any.
    """
    readings = known(judge, held)
    if not readings:
        raise ValueError("None of these subjects has a combination that was held out of training.")
    return [write(reading) for reading in random.Random(seed).choices(readings, k=count)]


def known(judge: Judge, held: bool | None = None) -> list[Reading]:
    """Every combination that `prompts` draws from."""
    readings = [Reading(*parts) for parts in product(judge.subjects, judge.styles, judge.backgrounds)]
    return [reading for reading in readings if held is None or held_out(*reading) == held]


def write(reading: Reading) -> str:
    """The plain prompt for a subject, a style and a background."""
    return f"{indefinite(reading.subject, reading.style)} on {indefinite('background', reading.background)}"


def keyword_prompts(judge: Judge, keywords: dict[str, tuple[str, ...]], count: int, seed: int = 0):
    """Prompts that call a subject by another word ("a flat puppy on ..."), each with the Reading that it means."""
    chance, found = random.Random(seed), []
    words = [(word, subject) for subject, names in sorted(keywords.items()) for word in names]
    for word, subject in chance.choices(words, k=count):
        style, background = chance.choice(judge.styles), chance.choice(judge.backgrounds)
        found.append((write(Reading(word, style, background)), Reading(subject, style, background)))
    return found


def pair_prompts(judge: Judge, count: int, seed: int = 0) -> list[tuple[str, tuple[str, str]]]:
    """Prompts that ask for two different subjects ("an ink cat and a dog on ..."), each with the two."""
    chance, found = random.Random(seed), []
    for _ in range(count):
        first, second = chance.sample(list(pair_subjects(judge.subjects)), 2)
        words = Reading(pair(first, second), chance.choice(judge.styles), chance.choice(judge.backgrounds))
        found.append((write(words), (first, second)))
    return found


def draw(sd, prompts: list[str], seeds: list[int], batch_size: int = 16, **options) -> torch.Tensor:
    """Pictures (B, 3, H, W) in [-1, 1], a few at a time. `options` go to `text_to_image`."""
    few = [slice(start, start + batch_size) for start in range(0, len(prompts), batch_size)]
    drawn = (text_to_image(sd, prompts[rows], seeds=seeds[rows], progress=False, **options) for rows in few)
    return torch.cat([to_tensor(images) for images in drawn])


def obedience(
    sd, judge: Judge, prompts: list[str], seed: int = 0, meant: list[Reading] | None = None, **options
) -> dict[str, float]:
    """Share of pictures right in subject, style, background and all three; picture k is drawn from seed + k.

    meant: what the prompts ask for, if not in words that the judge knows.
    """
    pictures = draw(sd, prompts, list(range(seed, seed + len(prompts))), **options)
    return {"pictures": len(prompts), **share(judge.obeys(pictures, meant or prompts))}


def pair_obedience(pictures: torch.Tensor, pairs: list[tuple[str, str]], judge: Judge) -> dict[str, float]:
    """Share of pictures (B, 3, H, W) whose halves show the two subjects: the first one left, or both in either order.

    The judge knows one subject to a picture, so it is shown the middle of each half, enlarged: it misses some.
    """
    quarter, width = pictures.shape[-2] // 4, pictures.shape[-1] // 2
    middle = pictures[:, :, quarter : 3 * quarter]
    left, right = (judge.read(half) for half in (middle[..., :width], middle[..., width:]))
    seen = [(a.subject, b.subject) for a, b in zip(left, right, strict=True)]
    in_order = sum(shown == tuple(asked) for shown, asked in zip(seen, pairs, strict=True)) / len(pairs)
    both = sum(set(shown) == set(asked) for shown, asked in zip(seen, pairs, strict=True)) / len(pairs)
    return {"pictures": len(pairs), "in order": in_order, "both": both}


def diversity(sd, prompts: list[str], seeds: int = 4, **options) -> float:
    """Mean root-mean-square distance between pictures of one prompt from different seeds, on a scale of 0 to 1."""
    pictures = draw(sd, [p for p in prompts for _ in range(seeds)], list(range(seeds)) * len(prompts), **options)
    groups = pictures.view(len(prompts), seeds, *pictures.shape[1:])
    return torch.stack([distance(groups[:, a], groups[:, b]) for a, b in combinations(range(seeds), 2)]).mean().item()


def adherence(judge: Judge, images, prompt: str) -> float:
    """How sure the judge is that pictures show subject, style and background of their prompt, 0 to 1; their mean.

    images: as for `Judge.read`.
    """
    asked = zip(judge.parse(prompt), judge.names, judge.probabilities(images), strict=True)
    parts = [table[:, names.index(part)] for part, names, table in asked if part is not None]
    return torch.stack(parts).prod(0).mean().item()


def apart(images) -> float:
    """The mean `distance` of any two of several pictures of one size."""
    pixels = to_tensor(images)
    return torch.stack([distance(a, b) for a, b in combinations(pixels, 2)]).mean().item()


def nearest(sd, pictures: Pictures, prompts: list[str], judge: Judge, tries: int = 64, **options) -> dict[str, float]:
    """How far drawn pictures are from the closest of `tries` training pictures of the same words, and, for comparison,
    how far a new composition of the same artwork is. Equal distances: the model has learned the artwork by heart, up to
    where it stands. Root-mean-square, 0 to 1, means over the prompts."""
    drawn = draw(sd, prompts, list(range(len(prompts))), **options)
    found, usual = [], []
    for picture, prompt in zip(drawn, prompts, strict=True):
        known = variations(pictures, judge.parse(prompt), tries + 1)
        found.append(distance(picture, known[1:]).min())
        usual.append(distance(known[0], known[1:]).min())
    return {"drawn": torch.stack(found).mean().item(), "composed": torch.stack(usual).mean().item()}


def variations(pictures: Pictures, reading: Reading, count: int) -> torch.Tensor:
    """`count` compositions (count, 3, size, size) of one subject, style and background."""
    art = pictures.artwork
    is_it = (art.subject == art.subjects.index(reading.subject)) & (art.style == STYLES.index(reading.style))
    chance = random.Random(f"{pictures.seed}/{reading}")
    sprites = [chance.choice(is_it.nonzero().flatten().tolist()) for _ in range(count)]
    return pictures.compose([pictures.scene(chance, [sprite], reading.background) for sprite in sprites]).pixels.cpu()


def round_trip_psnr(vae, pictures: Pictures, count: int = 256) -> dict[str, float]:
    """PSNR (dB) of composed pictures through the autoencoder and back: mean, and of the worst tenth."""
    pixels = pictures.batch(0, count).pixels
    values = psnr(round_trip(vae, pixels), pixels).sort().values
    return {"pictures": count, "mean": values.mean().item(), "worst tenth": values[: count // 10].mean().item()}


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Root-mean-square difference of pictures in [-1, 1], on a scale of 0 to 1."""
    return ((a - b) / 2).pow(2).mean((-3, -2, -1)).sqrt()


def score(
    sd, judge: Judge, artwork=None, count: int = 100, seed: int = 0, held: bool = False, **options
) -> dict[str, dict | float]:
    """Everything above for one model. Without `artwork`, what needs it (keywords, PSNR, nearest) is left out.

    held: the model was trained with `Variety.hold_out`: what it has seen and what it has not are scored apart.

    Raises ValueError, before anything is drawn, for `artwork` and a judge of styles that the artwork is not drawn in.
    """
    foreign = [style for style in judge.styles if style not in STYLES]
    if foreign and artwork is not None:
        raise ValueError(f"No artwork is drawn in the style {foreign[0]!r}: score without artwork (--no-artwork).")
    kinds = {"trained combinations": False, "held-out combinations": True} if held else {"combinations": None}
    result = {
        kind: obedience(sd, judge, prompts(judge, count, seed, which), seed, **options) for kind, which in kinds.items()
    }
    usual = prompts(judge, count, seed, False if held else None)
    result |= {name: obedience(sd, judge, usual, seed, **classic) for name, classic in CLASSIC.items()}
    pair_texts, pairs = zip(*pair_prompts(judge, count, seed), strict=True)
    drawn = draw(sd, list(pair_texts), list(range(seed, seed + count)), **options)
    result["two subjects"] = pair_obedience(drawn, list(pairs), judge)
    asked = prompts(judge, max(4, count // 10), seed)
    result["diversity"] = diversity(sd, asked, **options)
    if artwork is not None:
        artwork = artwork.only(judge.subjects)
        unseen = Pictures(artwork, sd.height, PLAIN, seed=1000 + seed)
        scenes = Pictures(artwork, sd.height, replace(PLAIN, pairs=1.0), seed=1000 + seed).scenes(0, count)
        names = [tuple(artwork.subjects[artwork.subject[sprite]] for sprite in scene.sprites) for scene in scenes]
        result["two subjects, composed from the artwork"] = pair_obedience(unseen.compose(scenes).pixels, names, judge)
        if any(artwork.keywords.values()):
            texts, meant = zip(*keyword_prompts(judge, artwork.keywords, count, seed), strict=True)
            result["keywords"] = obedience(sd, judge, list(texts), seed, list(meant), **options)
        result["round trip, dB"] = round_trip_psnr(sd.vae, Pictures(artwork, sd.height, seed=1000 + seed))
        result["distance to the nearest training picture"] = nearest(sd, unseen, asked, judge, **options)
    return result
