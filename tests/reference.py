"""diffusers, as the thing to be equal to: its schedulers and pipelines around the same weights."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import diffusers
import torch

from sdlearn.samplers import SAMPLERS

TOLERANCE = 1e-5  # relative L2 error of the final latents, float32 on the CPU

STEPS = (3, 10, 20, 30, 50)  # of the runs with a network that is a formula

PAGE = (Path(__file__).parents[1] / "notebooks" / "conventions.md").read_text(encoding="utf-8")

# What `scheduler_config.json` of Stable Diffusion 1.x says, and what StableDiffusionPipeline insists on.
CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
}


def scheduler(name: str, schedule, spacing: str | None = None):
    """The diffusers scheduler that our sampler of that name is to equal, on the same noise schedule."""
    config = CONFIG | {"prediction_type": schedule.prediction_type}
    config |= {"rescale_betas_zero_snr": schedule.rescale_betas_zero_snr}
    config |= {"timestep_spacing": spacing or schedule.timestep_spacing} if spacing or schedule.timestep_spacing else {}
    config |= {"use_karras_sigmas": True} if SAMPLERS[name].karras else {}
    return getattr(diffusers, SAMPLERS[name].scheduler).from_config(config)


def pipeline(kind: str, sd, name: str, spacing: str | None = None):
    """StableDiffusion{kind}Pipeline on the very modules of `sd`; it draws latents with `output_type="latent"`."""
    cls = getattr(diffusers, f"StableDiffusion{kind}Pipeline")
    pipe = cls(
        vae=sd.vae,
        text_encoder=sd.text_encoder,
        tokenizer=sd.tokenizer,
        unet=sd.unet,
        scheduler=scheduler(name, sd.schedule, spacing),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """||ours - theirs|| / ||theirs||, in float64."""
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


def with_schedule(sd, **changes):
    """The same model, told that it was trained with another schedule."""
    return replace(sd, schedule=replace(sd.schedule, **changes))


def table(section: str) -> list[list[str]]:
    """The cells of the first table under a heading of the page on conventions, its head first."""
    body = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)[1]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in body.splitlines() if line.startswith("|")]
    return [rows[0], *rows[2:]]


def assert_stated(error: float, name: str, column: str, within: float = 10):
    """That the page states this error; the last bits of a sum are another machine's own, so up to a factor."""
    head, *rows = table("Equal to diffusers, measured")
    (stated,) = (float(row[head.index(column)]) for row in rows if row[0] == f"`{name}`")
    error = max(error, 1e-7)  # below that is float32's own rounding, and the page says 1e-7
    assert stated / within <= error <= stated * within, (name, column, stated, error)
