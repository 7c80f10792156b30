"""Many pictures from a file of prompts: `sdlearn generate`.

A picture is finished or absent, never half written, and carries its settings. So the pictures themselves say how far a
run came: the same command looks which are there and draws the others. Under `accelerate launch` every process takes
its share of them.
"""

import csv
import io
import json
import os
import re
from collections.abc import Iterable
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import PartialState
from PIL import UnidentifiedImageError
from tqdm import tqdm

from ..batch import Kind, Settings
from ..fast import optimize
from ..hub.checkpoints import load, quiet
from ..model import StableDiffusion
from ..pictures import read_settings, save_image
from ..sampling import text_to_image
from ..schedule import whole_number

INDEX = "index.jsonl"
NAME = re.compile(r"(\d{5,})-(\d+)\.png")


def generate(
    prompts: str | os.PathLike, out: str | os.PathLike, *, pictures: int = 1, seed: int = 0, batch_size: int = 1,
    model: dict | StableDiffusion | None = None, fast: bool = False, **settings,
) -> int:  # fmt: skip
    """Draw `pictures` pictures for every line of the file `prompts` into the folder `out`; returns an exit status.

    Picture k of line n is nnnnn-k.png with seed + k. index.jsonl lists file and settings of each, in that order.
    prompts: a text file with a prompt a line, a .csv with a column "prompt", or a .jsonl with a key "prompt".
    model: the arguments of `load`, or a loaded model. fast: take the fast path.
    settings: further arguments of `text_to_image`.
    Raises ValueError for an empty file of prompts, and where other pictures are in the way: nothing is overwritten.
    """
    batch_size, pictures = whole_number("batch_size", batch_size, 1), whole_number("pictures", pictures, 1)
    quiet()
    out = Path(out)
    jobs = {  # what each file shall hold; settings that do not fit together are an error before the model is loaded
        out / f"{n:05d}-{k}.png": Settings(prompt, seed=seed + k, **settings)
        for n, prompt in enumerate(read_prompts(prompts))
        for k in range(pictures)
    }
    processes = _processes(model)
    sd = model if isinstance(model, StableDiffusion) else _load(model or {}, processes)
    sd = optimize(sd) if fast else sd
    missing = [file for file, asked in jobs.items() if not is_finished(file, asked.by(sd))]
    mine = missing[processes.process_index :: processes.num_processes]
    with _writing(out):
        out.mkdir(parents=True, exist_ok=True)
    if processes.is_main_process:
        write_index(out)
        if len(missing) < len(jobs):
            print(f"{len(jobs) - len(missing)} of {len(jobs)} pictures are already in {out}.")
        if processes.num_processes > 1:
            print(f"{processes.num_processes} processes share {len(missing)} pictures; this one draws {len(mine)}.")
    processes.wait_for_everyone()  # all have looked before any draws
    with tqdm(total=len(mine), unit="picture", delay=1, disable=not processes.is_main_process) as bar:
        for start in range(0, len(mine), batch_size):
            files = mine[start : start + batch_size]
            texts, seeds = [jobs[file].prompt for file in files], [jobs[file].seed for file in files]
            drawn = text_to_image(sd, texts, seeds=seeds, **settings)
            with _writing(out):
                for file, picture in zip(files, drawn, strict=True):
                    save_image(picture, file)
                with open(out / INDEX, "ab", buffering=0) as index:
                    index.write(_lines(files))  # at once, or processes would cut each other's lines
            bar.update(len(files))
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


def is_finished(file: Path, asked: Settings) -> bool:
    """Whether that very picture is there; raises ValueError if another one is in its place."""
    if not file.exists():
        return False
    try:
        found = read_settings(file)
    except (ValueError, OSError, SyntaxError, UnidentifiedImageError) as error:
        raise ValueError(f"{file} is no picture of this run ({error}); move it, or choose another --out.") from None
    name = asked.difference(found)
    if name is None:
        return True
    wanted = asked.written().get(name)
    if isinstance(wanted, Kind):
        reason = f"does not hold its {name}, a {wanted} without a name, so it cannot be compared"
    else:
        reason = f"was drawn with another {name} ({found.get(name)!r}, not {wanted!r})"
    raise ValueError(f"{file} {reason}; choose another --out, or the settings it was drawn with.")


def write_index(out: Path) -> None:
    """The index of all pictures in the folder, complete and in order, in place of what an interrupted run left."""
    names = (NAME.fullmatch(file.name) for file in out.iterdir())
    files = [out / name[0] for name in sorted(filter(None, names), key=lambda name: (int(name[1]), int(name[2])))]
    partial = out / f"{INDEX}.{os.getpid()}.part"
    with _writing(out):
        partial.write_bytes(_lines(files))
        partial.replace(out / INDEX)


def _lines(files: Iterable[Path]) -> bytes:
    found = ({"file": file.name, **read_settings(file)} for file in files)
    return b"".join(json.dumps(settings, ensure_ascii=False).encode() + b"\n" for settings in found)


@contextmanager
def _writing(out: Path):
    """A cure beside what the system reports of a full disk, a read-only folder, a file in a folder's place."""
    try:
        yield
    except OSError as error:
        cure = "make room, or choose another --out. The same command goes on from what is there."
        raise OSError(f"Cannot write into the folder {out} ({error.strerror or error}); {cure}") from error


def _processes(model: dict | StableDiffusion | None) -> PartialState:
    """This process among those that were launched together; accelerate must know that they meet on the CPU."""
    asked = str(model.device if isinstance(model, StableDiffusion) else (model or {}).get("device"))
    # Ten minutes are allowed otherwise: too few for the others' download, or for the slowest one's last pictures.
    return PartialState(cpu=asked == "cpu" or not torch.cuda.is_available(), timeout=timedelta(days=7))


def _load(options: dict, processes: PartialState) -> StableDiffusion:
    several = processes.num_processes > 1
    if several and processes.device.type == "cuda" and options.get("device") in (None, "cuda"):
        options = options | {"device": str(processes.device)}  # each process on a GPU of its own
    with processes.main_process_first():  # one downloads, the others find it in the cache
        return load(**options)
