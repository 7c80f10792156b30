"""`sdlearn doctor`: is everything here that the course needs? OK or FAIL for each, and the cure."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil

MEMORY_NEEDED = 1.5e9  # what drawing with the shipped model and a notebook's kernel take
DISK_NEEDED = 6e9  # a real checkpoint in full precision, and room to write


@dataclass(frozen=True)
class Finding:
    """One line of the report. A finding that only real checkpoints need does not fail the whole."""

    name: str
    ok: bool
    message: str
    cure: str = ""
    essential: bool = True

    def __str__(self) -> str:
        if self.ok:
            return f"OK    {self.name}: {self.message}"
        cure = self.cure if self.essential else f"{self.cure} (Only real checkpoints need it.)"
        return f"FAIL  {self.name}: {self.message}\n      Cure: {cure}"


def examine() -> int:
    """Print every finding as it is made; returns 1 if the lessons cannot run here, else 0."""
    ill = False
    for check in (python, packages, device, memory, disk, shipped_model, chosen_model, jupyter, hub):
        for finding in check():
            print(finding, flush=True)
            ill |= finding.essential and not finding.ok
    print("Something is missing; cure what says FAIL." if ill else "The lessons run here: sdlearn course")
    return int(ill)


def python() -> list[Finding]:
    return [Finding("Python", sys.version_info >= (3, 11), platform.python_version(), "install Python 3.11 or newer.")]


def packages() -> Iterator[Finding]:
    """What sdlearn's own metadata asks for, extras left out."""
    from packaging.requirements import Requirement

    for requirement in map(Requirement, requires("sdlearn") or ()):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        cure = f"{Path(sys.executable).name} -m pip install '{requirement}'"
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            yield Finding(requirement.name, False, "not installed", cure)
            continue
        ok = requirement.specifier.contains(found, prereleases=True)
        yield Finding(requirement.name, ok, found, cure)


def device() -> list[Finding]:
    import torch

    from ..hub.checkpoints import place

    best, _ = place(None, None)
    if best.type == "cuda":
        total = torch.cuda.get_device_properties(best).total_memory
        return [Finding("Device", True, f"{torch.cuda.get_device_name(best)}, {total / 1e9:.0f} GB, half precision")]
    # A GPU that torch does not see is the most common disappointment.
    unused = best.type == "cpu" and shutil.which("nvidia-smi") is not None
    if unused and subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0:
        message = f"an NVIDIA GPU that torch {torch.__version__} cannot use; the CPU is used instead"
        cure = "install torch with CUDA, https://pytorch.org/get-started; if it has it, update the GPU's driver."
        return [Finding("Device", False, message, cure, essential=False)]
    cpu = f"CPU, {os.cpu_count()} cores, torch takes {torch.get_num_threads()}"
    return [Finding("Device", True, "Apple GPU (mps)" if best.type == "mps" else cpu)]


def memory() -> list[Finding]:
    found = psutil.virtual_memory()
    message = f"{found.available / 1e9:.1f} of {found.total / 1e9:.1f} GB free"
    return [Finding("Memory", found.available >= MEMORY_NEEDED, message, "close other programs or notebooks.")]


def disk() -> list[Finding]:
    from ..hub.download import free_space

    cache, free = free_space()
    message = f"{free / 1e9:.0f} GB free for checkpoints in {cache}"
    cure = f"free {DISK_NEEDED / 1e9:.0f} GB, or set HF_HOME to a folder on another disk."
    return [Finding("Disk", free >= DISK_NEEDED, message, cure, essential=False)]


def shipped_model() -> list[Finding]:
    """Loads it, draws with it, and looks whether the picture is one."""
    import numpy as np

    from ..hub.checkpoints import DEFAULT, load, quiet
    from ..hub.weights import first_line
    from ..sampling import text_to_image

    quiet()
    try:
        sd = load(DEFAULT)
        text_to_image(sd, "a glossy red apple", seed=1, num_inference_steps=1)  # the first call of all is slower
        start = time.perf_counter()
        picture = text_to_image(sd, "a glossy red apple on a blue background", seed=7, progress=False)
        seconds = time.perf_counter() - start
    except (OSError, ValueError, FloatingPointError, RuntimeError, MemoryError) as error:
        cure = "close other programs." if isinstance(error, MemoryError) else "install sdlearn again."
        return [Finding("Shipped model", False, first_line(error), cure)]
    red, _, blue = np.asarray(picture, dtype=float)[:4].mean(axis=(0, 1))  # the top rows are background
    message = f"draws a {picture.width}x{picture.height} picture in {seconds:.1f} seconds, 25 steps"
    right = blue > red and np.asarray(picture).std() > 10
    message += "" if right else ", but not what was asked for"
    return [Finding("Shipped model", right, message, "install sdlearn again.")]


def chosen_model() -> list[Finding]:
    """Another model that SDLEARN_MODEL names for the lessons; it is looked for, neither downloaded nor drawn with."""
    from ..hub import checkpoints, download, weights

    name = checkpoints.chosen()
    if name == checkpoints.DEFAULT:
        return []
    cure = "set SDLEARN_MODEL to a model that is here, or unset it for the shipped one."
    try:
        source = checkpoints.locate(name)
        if isinstance(source, Path):
            weights.check(source)
        elif not any(map(download.cached, source)):
            raise OSError(f"{name} is not on this machine yet")
    except (OSError, ValueError) as error:
        return [Finding("SDLEARN_MODEL", False, weights.first_line(error), cure)]
    return [Finding("SDLEARN_MODEL", True, name)]


def jupyter() -> list[Finding]:
    ok = importlib.util.find_spec("jupyterlab") is not None
    message = version("jupyterlab") if ok else "not installed"
    return [Finding("JupyterLab", ok, message, f"{Path(sys.executable).name} -m pip install 'sdlearn[course]'")]


def hub() -> list[Finding]:
    import urllib.error
    import urllib.request

    from huggingface_hub import constants, get_token

    from ..hub.checkpoints import models

    here = [model.name for model in models() if model.ids and model.cached]
    cached = f"; in the cache: {', '.join(here)}" if here else ""
    if constants.HF_HUB_OFFLINE:
        return [
            Finding("Hub", False, f"switched off by HF_HUB_OFFLINE{cached}", "unset HF_HUB_OFFLINE.", essential=False)
        ]
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except OSError as error:
        cure = "connect to the network, or set HTTPS_PROXY or HF_ENDPOINT; the lessons run without."
        return [Finding("Hub", False, f"{constants.ENDPOINT}: {error}{cached}", cure, essential=False)]
    token = "with a token" if get_token() else "without a token"
    return [Finding("Hub", True, f"{constants.ENDPOINT} answers, {token}{cached}")]
