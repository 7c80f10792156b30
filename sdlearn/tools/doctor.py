"""`sdlearn doctor`: is everything here that the course needs? OK or FAIL for each, and the cure.

What only real checkpoints need is a NOTE.

`--class` is what a teacher asks of every machine a week before: the same and a little more, a word that says all is
well, and a file to send back. `--class-summary FOLDER` makes one table of these files.
"""

import csv
import hashlib
import importlib.util
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import time
import webbrowser
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil

MEMORY_NEEDED = 1.5e9  # what drawing with the shipped model and a notebook's kernel take
DISK_NEEDED = 6e9  # a real checkpoint in full precision, and room to write
PATIENCE = 15  # seconds for a picture; a lesson draws a few dozen, and would take a quarter of an hour
PORT = 8888  # JupyterLab's; it takes a later one if that is taken
TEXT_ONLY = {"elinks", "links", "lynx", "w3m", "www-browser"}  # browsers that show no notebook
TABLE = "class.csv"
SHIPPED = "Shipped model"
COLUMNS = ("file", "ready", "system", "python", "cores", "memory", "picture", "said")


@dataclass(frozen=True)
class Finding:
    """One line of the report. A finding that only real checkpoints need does not fail the whole.

    seconds: where something was timed.
    """

    name: str
    ok: bool
    message: str
    cure: str = ""
    essential: bool = True
    seconds: float | None = None

    def __str__(self) -> str:
        if self.ok:
            return f"OK    {self.name}: {self.message}"
        if self.essential:
            return f"FAIL  {self.name}: {self.message}\n      Cure: {self.cure}"
        return f"NOTE  {self.name}: {self.message}\n      Only real checkpoints need it. Cure: {self.cure}"


def examine() -> int:
    """Print every finding as it is made; returns 1 if the lessons cannot run here, else 0."""
    found = _look(python, packages, device, memory, disk, shipped_model, chosen_model, jupyter, hub)
    print("The lessons run here: sdlearn course" if _well(found) else "Something is missing; cure what says FAIL.")
    return int(not _well(found))


def prepare() -> int:
    """`examine` for a class: also what JupyterLab needs, on one screen, ending in one word and a file for the teacher.

    The file, sdlearn-check-XXXXXX.json in the working folder, holds what was printed, the versions of sdlearn, Python
    and the system, the cores and the memory, and nothing else: no name, no address, and no path above the home folder.
    Returns 1 if the lessons cannot run here, else 0.
    """
    model = (shipped_model, chosen_model)
    found = _look(python, all_packages, device, memory, room, *model, jupyter, kernel, port, browser)
    report = {
        "sdlearn": version("sdlearn"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "memory": round(psutil.virtual_memory().total / 1e9, 1),
        "findings": [asdict(finding) for finding in found],
    }
    report = json.loads(json.dumps(report).replace(json.dumps(str(Path.home()))[1:-1], "~"))
    code = _code(report)
    file = Path(f"sdlearn-check-{code.rsplit('-', 1)[1]}.json")
    try:
        file.write_text(json.dumps({"code": code, **report}, indent=1), encoding="utf-8")
    except OSError as error:
        cure = "go to a folder of your own and run this again."
        raise OSError(f"Cannot write {file} here ({error.strerror}); {cure}") from error
    print(f"\n{code}\n\nSend your teacher the file {file.resolve()}")
    print("It holds the lines above, the versions, cores and memory of this machine, and nothing about you.")
    return int(not _well(found))


def summarise(folder: str | Path) -> int:
    """One table of the files that `prepare` wrote on the machines of a class, and what to cure first.

    Prints it, and writes it to class.csv in the folder. A file whose word does not fit what is in it was changed or cut
    short. Raises FileNotFoundError where there is none.
    """
    folder = Path(folder).expanduser()
    files = [file for file in sorted(folder.rglob("*.json*")) if file.is_file()]
    if not files:
        raise FileNotFoundError(f"There is no file of `sdlearn doctor --class` in {folder}; give the folder with them.")
    rows, wrong, times = [], {}, []
    for file in files:
        name = file.relative_to(folder).as_posix()
        try:
            report = json.loads(file.read_text(encoding="utf-8"))
            intact = report.pop("code") == _code(report)
            found = [Finding(**finding) for finding in report["findings"]]
            about = [report[key] for key in COLUMNS[2:6]]
        except (ValueError, KeyError, TypeError, AttributeError):
            rows.append((name, "cannot be read", *[""] * 6))
            continue
        bad = [f for f in found if not f.ok and f.essential]
        seconds = [f.seconds for f in found if f.name == SHIPPED and f.ok]
        times += [(s, name) for s in seconds]
        for finding in bad:
            wrong.setdefault(finding.name, []).append((name, finding.cure))
        ready = "yes" if intact and not bad else "no" if intact else "changed by hand"
        rows.append((name, ready, *about, "".join(f"{s:.1f}" for s in seconds), "; ".join(f.name for f in bad)))
    table = [COLUMNS, *rows]
    widths = [max(len(str(row[k])) for row in table) for k in range(len(COLUMNS))]
    for row in table:
        print("  ".join(f"{cell!s:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"\n{sum(row[1] == 'yes' for row in rows)} of {len(rows)} are ready.", end=" ")
    if times:
        print(f"A picture takes {statistics.median(s for s, _ in times):.1f} s (median).", end="")
    print()
    if slow := [f"{name} ({s:.0f} s)" for s, name in sorted(times, reverse=True) if s > PATIENCE]:
        print(f"Slow: {', '.join(slow)}. Cure: close other programs, plug it in; or two share a machine, or Colab.")
    for what, cases in sorted(wrong.items(), key=lambda item: -len(item[1])):
        cure = Counter(cure for _, cure in cases).most_common(1)[0][0]
        print(f"{what}: {', '.join(name for name, _ in cases)}. Cure: {cure}")
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerows(table)
    print("wrote", folder / TABLE)
    return 0


def _look(*checks: Callable) -> list[Finding]:
    """Print every finding as it is made."""
    found = []
    for check in checks:
        for finding in check():
            print(finding, flush=True)
            found.append(finding)
    return found


def _well(found: list[Finding]) -> bool:
    return all(finding.ok or not finding.essential for finding in found)


def _code(report: dict) -> str:
    """The word for a report: whether all is well, and a checksum that shows whether the report was changed."""
    found = [Finding(**finding) for finding in report["findings"]]
    content = json.dumps(report, sort_keys=True).encode()
    return f"{'READY' if _well(found) else 'NOT-READY'}-{hashlib.sha256(content).hexdigest()[:6]}"


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


def all_packages() -> Iterator[Finding]:
    """`packages` in one line, if all are well."""
    found = list(packages())
    missing = [finding for finding in found if not finding.ok]
    yield from missing or [Finding("Packages", True, f"all {len(found)} are here")]


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


def room() -> list[Finding]:
    """Where the learner's notebooks and pictures go."""
    free = shutil.disk_usage(Path.cwd()).free
    return [Finding("Disk", free >= 1e9, f"{free / 1e9:.0f} GB free in this folder", "make 1 GB of room.")]


def shipped_model() -> list[Finding]:
    """Loads it, draws with it, and looks whether the picture is one."""
    import numpy as np

    from ..hub.checkpoints import DEFAULT, load, quiet
    from ..hub.weights import first_line
    from ..sampling import text_to_image

    quiet()
    try:
        sd = load(DEFAULT)
        text_to_image(sd, "a cat", seed=1, num_inference_steps=2, guidance_scale=1)  # the first call of all is slower
        start = time.perf_counter()
        picture = text_to_image(sd, "a glossy red apple on a blue background", seed=7, progress=False)
        seconds = time.perf_counter() - start
    except (OSError, ValueError, FloatingPointError, RuntimeError, MemoryError) as error:
        cure = "close other programs." if isinstance(error, MemoryError) else "install sdlearn again."
        return [Finding(SHIPPED, False, first_line(error), cure)]
    red, _, blue = np.asarray(picture, dtype=float)[:4].mean(axis=(0, 1))  # the top rows are background
    message = f"draws a {picture.width}x{picture.height} picture in {seconds:.1f} seconds, 25 steps"
    right = bool(blue > red and np.asarray(picture).std() > 10)  # numpy's own bool is nothing for a file
    message += "" if right else ", but not what was asked for"
    return [Finding(SHIPPED, right, message, "install sdlearn again.", seconds=round(seconds, 2))]


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


def kernel() -> list[Finding]:
    """Starts one, as JupyterLab does for a notebook, and imports the course in it."""
    name, cure = "Notebook", f"{Path(sys.executable).name} -m ipykernel install --user --name python3"
    if importlib.util.find_spec("jupyter_client") is None or importlib.util.find_spec("ipykernel") is None:
        return [Finding(name, False, "no kernel is installed", "install JupyterLab first.")]
    from jupyter_client.manager import start_new_kernel

    start = time.perf_counter()
    try:
        manager, client = start_new_kernel(90, "python3", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except (RuntimeError, OSError, ValueError) as error:
        return [Finding(name, False, f"no kernel starts ({type(error).__name__})", cure)]
    try:
        answer = client.execute_interactive("import sdlearn", timeout=90, output_hook=lambda message: None)
    except (RuntimeError, TimeoutError) as error:
        return [Finding(name, False, f"its kernel does not answer ({type(error).__name__})", cure)]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    seconds = time.perf_counter() - start
    if answer["content"]["status"] != "ok":
        return [Finding(name, False, "its kernel is another Python's, which has no sdlearn", cure)]
    return [Finding(name, True, f"a kernel answers after {seconds:.1f} seconds", seconds=round(seconds, 2))]


def port() -> list[Finding]:
    """Whether a server on this machine is heard on it, as a browser must hear JupyterLab."""
    taken = 0
    with socket.socket() as server:
        for number in range(PORT, PORT + 50):
            try:
                server.bind(("127.0.0.1", number))
                break
            except OSError:
                taken += 1
        try:
            server.listen()
            with socket.create_connection(("localhost", server.getsockname()[1]), timeout=5):
                pass
        except OSError as error:
            message = f"no server can be reached on localhost ({error.strerror or error})"
            return [Finding("Port", False, message, "allow Python in the firewall, for this machine alone.")]
    said = f"; {taken} from {PORT} on taken" if taken else ""
    return [Finding("Port", True, f"{number} answers{said}")]


def browser() -> list[Finding]:
    """Whether Python finds one that can show JupyterLab."""
    cure = "install Firefox or Chrome; or open by hand the address that `sdlearn course --no-browser` prints."
    try:
        name = Path(getattr(webbrowser.get(), "name", "")).name or "the system's own"
    except webbrowser.Error:
        return [Finding("Browser", False, "none found", cure)]
    return [Finding("Browser", name not in TEXT_ONLY, name, cure)]


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
