"""Many pictures from a file of prompts: `sdlearn generate`.

A picture is finished or absent, never half written, and carries its settings. So the pictures themselves say how far a
run came: the same command looks which are there and draws the others. Under `accelerate launch` every process takes
its share of them.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from PIL import UnidentifiedImageError
from tqdm import tqdm

from ..batch import Settings
from ..hub.checkpoints import load, quiet
from ..model import StableDiffusion
from ..pictures import read_settings, save_image
from ..sampling import text_to_image
from ..schedule import whole_number

INDEX = "index.jsonl"
NAME = re.compile(r"(\d{5,})-(\d+)\.png")


@dataclass(frozen=True)
class Job:
    """One picture to draw."""

    file: Path
    settings: Settings


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
    prompts: a text file with a prompt a line, a .csv with a column "prompt", or a .jsonl with a key "prompt".
    model: the arguments of `load`, or a loaded model.
    fast: the fast path.
    settings: further arguments of `text_to_image`.

    Raises ValueError for an empty file of prompts, and for a folder with pictures of other settings: nothing is ever
    overwritten.
    """
    batch_size, pictures = whole_number("batch_size", batch_size, 1), whole_number("pictures", pictures, 1)
    quiet()
    out = Path(out)
    jobs = plan(read_prompts(prompts), out, pictures, seed, settings)
    processes = _processes(model)
    sd = model if isinstance(model, StableDiffusion) else _load(model or {}, processes)
    if fast:
        from ..fast import optimize

        sd = optimize(sd)
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
    missing = [job for job in jobs if not is_finished(job, sd)]
    mine = missing[processes.process_index :: processes.num_processes]
    if processes.is_main_process:
        write_index(out)
        if len(missing) < len(jobs):
            print(f"{len(jobs) - len(missing)} of {len(jobs)} pictures are already in {out}.")
        if processes.num_processes > 1:
            print(f"{processes.num_processes} processes share {len(missing)} pictures; this one draws {len(mine)}.")
    processes.wait_for_everyone()  # all have looked before any draws
    with tqdm(total=len(mine), unit="picture", delay=1, disable=not processes.is_main_process) as bar:
        for start in range(0, len(mine), batch_size):
            batch = mine[start : start + batch_size]
            seeds = [job.settings.seed for job in batch]
            drawn = text_to_image(sd, [job.settings.prompt for job in batch], seeds=seeds, **settings)
            with _writing(out):
                for job, picture in zip(batch, drawn, strict=True):
                    save_image(picture, job.file)
                append_index(out, batch)
            bar.update(len(batch))
    processes.wait_for_everyone()
    if processes.is_main_process:
        write_index(out)
        print(f"{len(jobs)} pictures are in {out}; {INDEX} lists their settings.")
    return 0


def read_prompts(file: str | os.PathLike) -> list[str]:
    """The lines of a text file, or the prompts of a .csv or .jsonl; empty ones are passed over."""
    kind = Path(file).suffix.lower()
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
        if kind == ".csv":
            lines = [row["prompt"] or "" for row in csv.DictReader(io.StringIO(text))]
        elif kind == ".jsonl":
            lines = [json.loads(line)["prompt"] for line in text.split("\n") if line.strip()]
        else:
            lines = text.split("\n")  # splitlines() would cut at signs that are part of a prompt
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text file in UTF-8; save it as one, with a prompt a line.") from error
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f'{file} must have a "prompt" in every row; or save it as .txt, a prompt a line.') from error
    prompts = [line.strip() for line in lines if str(line).strip()]
    if not prompts:
        raise ValueError(f"{file} holds no prompts; write one a line.")
    return prompts


def plan(prompts: Sequence[str], out: Path, pictures: int, seed: int, settings: dict) -> list[Job]:
    """Every picture of a run, in order; settings that do not hold are an error here."""
    return [
        Job(out / f"{n:05d}-{k}.png", Settings(prompt, seed=seed + k, **settings))
        for n, prompt in enumerate(prompts)
        for k in range(pictures)
    ]


def is_finished(job: Job, sd: StableDiffusion) -> bool:
    """Whether that very picture is there; raises ValueError if another one is in its place."""
    if not job.file.exists():
        return False
    try:
        found = read_settings(job.file)
    except (ValueError, OSError, SyntaxError, UnidentifiedImageError) as error:
        raise ValueError(
            f"{job.file} is not a picture of this run ({error}); move it away or choose another --out."
        ) from None
    wanted = job.settings.by(sd)
    name = wanted.difference(found)
    if name:
        raise ValueError(
            f"{job.file} was drawn with another {name} ({found.get(name)!r}, not {wanted.written()[name]!r}); "
            f"choose another --out, or the settings it was drawn with."
        )
    return True


def write_index(out: Path) -> None:
    """The index of all pictures in the folder, complete and in order, in place of what an interrupted run left."""
    numbered = [(NAME.fullmatch(file.name), file) for file in out.iterdir()]
    numbered = sorted((int(name[1]), int(name[2]), file) for name, file in numbered if name)
    partial = out / f"{INDEX}.{os.getpid()}.part"
    with _writing(out):
        partial.write_bytes(b"".join(_line(file) for *_, file in numbered))
        partial.replace(out / INDEX)


def append_index(out: Path, jobs: Sequence[Job]) -> None:
    """Add finished pictures while a run goes on; one write, so that processes do not cut each other's lines."""
    with open(out / INDEX, "ab", buffering=0) as index:
        index.write(b"".join(_line(job.file) for job in jobs))


@contextmanager
def _writing(out: Path):
    """A cure beside what the system reports of a full disk, a read-only folder, a file in a folder's place."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"Cannot write into the folder {out} ({error.strerror or error}); make room, or choose another --out. "
            f"What is drawn is kept, and the same command goes on from there."
        ) from error


def _line(file: Path) -> bytes:
    settings = {"file": file.name, **read_settings(file)}
    return json.dumps(settings, ensure_ascii=False).encode() + b"\n"


def _processes(model: dict | StableDiffusion | None) -> PartialState:
    """This process among those that were launched together; accelerate must know that they meet on the CPU."""
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
