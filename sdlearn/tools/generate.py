"""Many pictures from a file of prompts: `sdlearn generate`.

A picture is finished or absent, never half written, and carries its settings. So the pictures themselves say how far a
run came: the same command looks which are there and draws the others. Under `accelerate launch` every process takes
its share of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from PIL import UnidentifiedImageError
from tqdm import tqdm

from ..hub.checkpoints import load, quiet
from ..model import StableDiffusion
from ..pictures import read_settings, save_image
from ..sampling import text_to_image

INDEX = "index.jsonl"


@dataclass(frozen=True)
class Job:
    """One picture to draw."""

    file: Path
    prompt: str
    seed: int


def generate(
    prompts: str | os.PathLike,
    out: str | os.PathLike,
    *,
    pictures: int = 1,
    seed: int = 0,
    batch_size: int = 1,
    model: dict | StableDiffusion | None = None,
    fast: bool = False,
    **settings,
) -> int:
    """Draw `pictures` pictures for every line of the file `prompts` into the folder `out`; returns an exit status.

    Picture k of line n is nnnnn-k.png with seed + k. index.jsonl lists file and settings of each, in that order.
    model: the arguments of `load`, or a loaded model; settings: further arguments of `text_to_image`; fast: the fast
    path. Raises ValueError for an empty file of prompts, and for a folder with pictures of other settings: nothing is
    ever overwritten.
    """
    if batch_size < 1 or pictures < 1:
        raise ValueError("The batch size and the number of pictures must be at least 1.")
    quiet()
    out = Path(out)
    jobs = plan(read_prompts(prompts), out, pictures, seed)
    processes = _processes(model)
    sd = model if isinstance(model, StableDiffusion) else _load(model or {}, processes)
    if fast:
        from ..fast import optimize

        sd = optimize(sd)
    out.mkdir(parents=True, exist_ok=True)
    missing = [job for job in jobs if not is_finished(job, {"model": sd.name, **settings})]
    mine = missing[processes.process_index :: processes.num_processes]
    if processes.is_main_process:
        write_index(out, jobs)
        if len(missing) < len(jobs):
            print(f"{len(jobs) - len(missing)} of {len(jobs)} pictures are already in {out}.")
        if processes.num_processes > 1:
            print(f"{processes.num_processes} processes share {len(missing)} pictures; this one draws {len(mine)}.")
    processes.wait_for_everyone()  # all have looked before any draws
    with tqdm(total=len(mine), unit="picture", delay=1, disable=not processes.is_main_process) as bar:
        for start in range(0, len(mine), batch_size):
            batch = mine[start : start + batch_size]
            seeds = [job.seed for job in batch]
            drawn = text_to_image(sd, [job.prompt for job in batch], seeds=seeds, **settings)
            for job, picture in zip(batch, drawn, strict=True):
                save_image(picture, job.file)
            append_index(out, batch)
            bar.update(len(batch))
    processes.wait_for_everyone()
    if processes.is_main_process:
        write_index(out, jobs)
        print(f"{len(jobs)} pictures are in {out}; {INDEX} lists their settings.")
    return 0


def read_prompts(file: str | os.PathLike) -> list[str]:
    """The lines of a text file; empty ones are passed over."""
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text file in UTF-8; save it as one, with a prompt a line.") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"{file} holds no prompts; write one a line.")
    return prompts


def plan(prompts: Sequence[str], out: Path, pictures: int, seed: int) -> list[Job]:
    """Every picture of a run, in order."""
    return [
        Job(out / f"{n:05d}-{k}.png", prompt, seed + k) for n, prompt in enumerate(prompts) for k in range(pictures)
    ]


def is_finished(job: Job, settings: dict) -> bool:
    """Whether that very picture is there; raises ValueError if another one is in its place."""
    if not job.file.exists():
        return False
    try:
        found = read_settings(job.file)
    except (ValueError, OSError, SyntaxError, UnidentifiedImageError) as error:
        raise ValueError(
            f"{job.file} is not a picture of this run ({error}); move it away or choose another --out."
        ) from None
    wanted = {"prompt": job.prompt, "seed": job.seed, **{k: v for k, v in settings.items() if v is not None}}
    other = [name for name, value in wanted.items() if found.get(name) != value]
    if other:
        name = other[0]
        raise ValueError(
            f"{job.file} was drawn with another {name} ({found.get(name)!r}, not {wanted[name]!r}); "
            f"choose another --out, or the settings it was drawn with."
        )
    return True


def write_index(out: Path, jobs: Sequence[Job]) -> None:
    """The index of all finished pictures, complete and in order, in place of what an interrupted run left."""
    partial = out / f"{INDEX}.part"
    partial.write_bytes(b"".join(_line(job) for job in jobs if job.file.exists()))
    partial.replace(out / INDEX)


def append_index(out: Path, jobs: Sequence[Job]) -> None:
    """Add finished pictures while a run goes on; one write, so that processes do not cut each other's lines."""
    with open(out / INDEX, "ab", buffering=0) as index:
        index.write(b"".join(_line(job) for job in jobs))


def _line(job: Job) -> bytes:
    settings = {"file": job.file.name, **read_settings(job.file)}
    return json.dumps(settings, ensure_ascii=False).encode() + b"\n"


def _processes(model: dict | StableDiffusion | None) -> PartialState:
    """This process among those that were launched together; accelerate must be told that they meet on the CPU."""
    asked = str(model.device if isinstance(model, StableDiffusion) else (model or {}).get("device"))
    # Ten minutes are allowed otherwise: too few for the others' download, or for the slowest one's last pictures.
    return PartialState(cpu=asked == "cpu" or not torch.cuda.is_available(), timeout=timedelta(days=7))


def _load(options: dict, processes: PartialState) -> StableDiffusion:
    if processes.num_processes == 1:
        return load(**options)
    if processes.device.type == "cuda" and options.get("device") in (None, "cuda"):
        options = options | {"device": str(processes.device)}  # each process on a GPU of its own
    with processes.main_process_first():  # one downloads, the others find it in the cache
        return load(**options)
