"""The course as a site: `sdlearn book` executes the notebooks and builds the book in _build/html.

It works in a clone of the repository, with the extra `book`. Every notebook is executed once, by nbmake on a copy
(conftest.py), and the book is made of these copies; a copy that is newer than its notebook and the package is used
again. Nothing in the result points to another host but the links that a reader clicks.
"""

import hashlib
import html
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import distribution
from pathlib import Path

import psutil
from PIL import Image

import sdlearn

from .. import pictures
from ..hub import checkpoints
from . import pages

ROOT = Path(__file__).parents[2]
NOTEBOOKS = ROOT / "notebooks"
BUILD = ROOT / "_build"
SITE = BUILD / "html"
COVER = NOTEBOOKS / "images" / "cover.png"

BADGE = re.compile(r"\[!\[Open In Colab\]\([^)]*\)\]\([^)]*\)\s*")
# Cells that a reader need not see, by tag: what folds them on the site, and what their control says, closed and open.
FOLDED = {
    "proof": ("hide-input", "Show the proof", "Hide the proof"),
    "solution": ("hide-cell", "Show a solution", "Hide the solution"),
    "setup": ("hide-cell", "Set-up for Colab", "Set-up for Colab"),
    "imports": ("hide-cell", "Imports and the model", "Imports and the model"),  # see `for_site`
}
OPENING = 18  # lines of code that the first picture may stand under
WIDGET = "application/vnd.jupyter.widget-view+json"
EXPLORER = '<div id="explorer-'  # of show.widgets, which needs a kernel
LIVE = re.compile(r'<div id="explorer-\w+" data-live="([^"]*)">')
PLAYGROUND = (
    '<p style="color: var(--pst-color-text-base)">Live on this site: the <a href="playground.html">playground</a> '
    "draws your own words.</p>"
)
SCRIPTS = {"sd-playground": "page.mjs", "sd-trip": "trip.mjs"}

COVER_SEED = 5
COVER_SUBJECTS = """
    glossy fox, pink; flat owl, teal; comic mushroom, sky blue; ink cat, yellow; neon cactus, black;
    flat rocket, purple; pixel strawberry, white; comic green apple, orange; pixel dog, sky blue; glossy castle, white;
    neon strawberry, black; ink butterfly, teal; comic penguin, blue; flat guitar, yellow; glossy robot, sky blue;
    neon sunflower, purple; comic taxi, white; glossy cherries, beige; ink palm tree, beige; pixel frog, green;
    glossy house, sky blue; pixel cupcake, pink; glossy trophy, blue; comic sunglasses, pink
"""


def notebooks() -> list[Path]:
    """The numbered notebooks in order, the final, and after it the appendices."""
    if not NOTEBOOKS.is_dir() or not (ROOT / "book.yml").is_file():
        raise FileNotFoundError(f"The book is built in a clone of the repository; {ROOT} is none.")
    order = ("[0-9]*.ipynb", "final.ipynb", "appendix_*.ipynb")
    return [notebook for pattern in order for notebook in sorted(NOTEBOOKS.glob(pattern))]


def executed_copy(notebook: Path) -> Path:
    """Where the executed copy of a notebook lies: a folder for each model that the notebooks are run on."""
    model = checkpoints.chosen()
    folder = model.replace("/", "--")
    if model != checkpoints.DEFAULT and Path(model).expanduser().is_dir():
        source = Path(model).expanduser().resolve()  # two models may lie in folders of one name
        folder = f"{source.name}-{hashlib.sha256(str(source).encode()).hexdigest()[:8]}"
    return BUILD / "executed" / folder / notebook.name


def is_fresh(notebook: Path) -> bool:
    """Whether the executed copy is complete and newer than the notebook and everything that it may import."""
    copy = executed_copy(notebook)
    source = Path(checkpoints.chosen()).expanduser()
    model = source.rglob("*.*") if source.is_dir() else ()  # a training may have written it anew
    read = [notebook, *Path(__file__).parents[1].rglob("*.*"), *model]
    newest = max(file.stat().st_mtime for file in read if "__pycache__" not in file.parts)
    return copy.is_file() and copy.stat().st_mtime >= newest and seconds(copy) is not None


def execute(chosen: list[Path] | None = None) -> list[Path]:
    """Execute those notebooks whose executed copies are not fresh; returns all the copies.

    Raises RuntimeError with nbmake's report if a notebook fails.
    """
    chosen = notebooks() if chosen is None else chosen
    if stale := [str(n) for n in chosen if not is_fresh(n)]:
        _call([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *stale], "A notebook failed")
    return [executed_copy(n) for n in chosen]


def _call(command: list[str], failure: str) -> None:
    run = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", errors="replace")
    if run.returncode:
        raise RuntimeError(f"{failure}:\n{run.stdout}{run.stderr}")


def seconds(executed: Path) -> float | None:
    """How long an executed notebook took from its first cell to its last; None if it did not come to the end."""
    cells = [c for c in json.loads(executed.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    times = [c["metadata"].get("execution", {}) for c in cells]
    if not times or "shell.execute_reply" not in times[-1]:
        return None
    first, last = times[0]["iopub.status.busy"], times[-1]["shell.execute_reply"]
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds()


def build() -> Path:
    """Execute what is not fresh and build the site; returns its first page. Warnings are errors.

    Raises FileNotFoundError outside a clone, OSError without the extra `book`, and RuntimeError with the report if a
    notebook or the build fails.
    """
    notebooks()  # a clone, or one sentence why not
    if importlib.util.find_spec("jupyter_book") is None:
        raise OSError("Jupyter Book is not installed; in the clone run: pip install -e '.[book]'")
    with alone():
        make(_stage(execute()), ROOT)
    return SITE / "index.html"


def make(source: Path, out: Path) -> None:
    """The site of what lies in the folder `source`, in out/_build/html."""
    _furnish(source)
    site = out / "_build" / "html"
    shutil.rmtree(site, ignore_errors=True)
    command = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", "build", str(source)]
    command += ["--path-output", str(out), "--config", str(ROOT / "book.yml"), "-W", "--keep-going", "--quiet"]
    _call(command, "The book was not built")
    pages.finish(site)


@contextmanager
def alone() -> Iterator[None]:
    """While this process writes into _build no other does; errors name the disk and the cure."""
    lock = BUILD / "building"  # holds the number of the process
    try:
        BUILD.mkdir(exist_ok=True)
        if lock.exists() and psutil.pid_exists(int(lock.read_text() or 0)):
            message = f"Another `sdlearn book` is at work in {BUILD}; wait for it, or if there is none delete {lock}."
            raise OSError(message)
        lock.write_text(str(os.getpid()))
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
    except OSError as error:
        if error.errno is None:  # a sentence of ours
            raise
        raise OSError(f"Cannot write into {BUILD} ({error.strerror}); make room, or take the folder over.") from error


def _stage(executed: list[Path]) -> Path:
    """The folder that Jupyter Book reads: the executed notebooks, the pages and the pictures."""
    from . import landing, playground, teaching

    source = BUILD / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(NOTEBOOKS, source, ignore=shutil.ignore_patterns("*.ipynb", ".*"))
    notebooks = {copy.stem: json.loads(copy.read_text(encoding="utf-8")) for copy in executed}
    for page in source.glob("teaching*.md"):
        page.write_text(teaching.fill(page.read_text(encoding="utf-8"), notebooks), encoding="utf-8")
    page = source / "playground.md"
    drawing = playground.stand(source, BUILD / "playground")
    page.write_text(page.read_text(encoding="utf-8").replace(playground.PLACE, drawing), encoding="utf-8")
    live = (source / "extra" / "playground").is_dir()
    index, sheet = source / "index.md", (COVER, cover_prompts(), COVER_SEED)
    sd = sdlearn.load("emoji", device="cpu", dtype="float32")
    text = landing.fill(index.read_text(encoding="utf-8"), notebooks, sd, source / "extra" / "landing", sheet, live)
    index.write_text(text, encoding="utf-8")
    for name, notebook in notebooks.items():
        (source / f"{name}.ipynb").write_text(json.dumps(for_site(notebook, live)), encoding="utf-8")
    return source


def _furnish(source: Path) -> None:
    """Lay what book.yml expects beside the pages: MathJax and the site's icon."""
    extra = source / "extra"
    (extra / "mathjax").mkdir(parents=True)
    # MathJax as one file that fetches no fonts; PyPI carries it in a package that is not importable.
    mathjax = next(file for file in distribution("sphinx-mathjax-offline").files if file.name == "tex-svg.js")
    shutil.copy(mathjax.locate(), extra / "mathjax")
    with Image.open(COVER) as cover:
        side = cover.height // 3
        cover.crop((2 * side, 0, 3 * side, side)).resize((64, 64)).save(extra / "favicon.png")


def for_site(notebook: dict, live: bool = False) -> dict:
    """An executed notebook without what needs a kernel or another host, and with its folded cells told to myst-nb.

    live: whether the site has what it takes to draw, so that explorers do.
    """
    opening = [cell for cell in notebook["cells"][:4] if cell["cell_type"] == "code" and not tags(cell)]
    if sum(len("".join(cell["source"]).splitlines()) for cell in opening) > OPENING:
        opening[0]["metadata"]["tags"] = ["imports"]
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":  # the book has a Colab button of its own
            cell["source"] = BADGE.sub("", "".join(cell["source"]))
        else:  # a widget is nothing without its kernel; the scrubber beside it stays
            cell["outputs"] = [o for o in cell["outputs"] if WIDGET not in o.get("data", {})]
            for data in (output.get("data", {}) for output in cell["outputs"]):
                if EXPLORER in (page := "".join(data.get("text/html", ""))):
                    data["text/html"] = awaken(page) if live else page
        for tag in tags(cell) & FOLDED.keys():
            how, closed, opened = FOLDED[tag]
            prompts = {"code_prompt_show": closed, "code_prompt_hide": opened}
            cell["metadata"] |= {"tags": sorted({how, *tags(cell)}), "mystnb": prompts}
    notebook["metadata"].pop("widgets", None)
    return notebook


def awaken(page: str) -> str:
    """An explorer's HTML inside the element that takes its place where the reader's browser can, or a way there."""
    found = LIVE.search(page)
    if not found:
        return page + PLAYGROUND
    attributes = json.loads(html.unescape(found[1]))
    element = attributes.pop("element")
    listed = " ".join(f'{name}="{html.escape(value)}"' for name, value in attributes.items())
    script = f'<script type="module" src="_static/playground/{SCRIPTS[element]}"></script>'
    off = "<noscript><p>To compute here takes JavaScript, which is off. Below is what was drawn before.</p></noscript>"
    return f'<{element} model="playground/model.json" {listed}>{off}{LIVE.sub("<div>", page)}</{element}>{script}'


def tags(cell: dict) -> set[str]:
    return set(cell.get("metadata", {}).get("tags", ()))


def fold(notebook: dict) -> dict:
    """The notebook with its proofs, its solutions and its set-up, and no other cell, folded in JupyterLab and Colab."""
    for cell in notebook["cells"]:
        metadata = cell["metadata"]
        metadata.pop("jupyter", None)
        metadata.pop("cellView", None)
        if FOLDED.keys() & tags(cell):
            metadata |= {"cellView": "form", "jupyter": {"source_hidden": True}}  # Colab's key, JupyterLab's key
    return notebook


def minutes(executed: dict) -> float:
    """How long an executed notebook takes to read: 160 words or 10 lines of code a minute, half a minute a figure.

    Counted is what is in sight: no proof, solution or set-up, no comment, address or folded part of the text, no blank
    line. A formula counts as the words that it is written in.
    """
    words = lines = figures = 0
    for cell in executed["cells"]:
        if tags(cell) & FOLDED.keys():
            continue
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            source = re.sub(r"<!--.*?-->|<details.*?</details>|</?[a-z][^>]*>", " ", BADGE.sub("", source), flags=re.S)
            source = re.sub(r"\]\([^)]*\)", "]", source)
            words += sum(bool(re.search(r"\w", word)) for word in source.split())
        elif cell["cell_type"] == "code":
            lines += sum(bool(line.strip()) for line in source.splitlines())
            figures += sum(map(_is_figure, cell["outputs"]))
    return words / 160 + lines / 10 + figures / 2


def _is_figure(output: dict) -> bool:
    data = output.get("data", {})
    page = "".join(data.get("text/html", ""))
    return any(kind.startswith("image/") for kind in data) or bool(re.search(r"<(img|svg)\b|id=\"sdlearn-", page))


def draw_cover() -> Path:
    """Draw the README's picture anew with the shipped model: a sheet of its subjects, styles and backgrounds."""
    notebooks()  # a clone, or one sentence why not
    sd = sdlearn.load("emoji", device="cpu", dtype="float32")
    prompts = cover_prompts()
    drawn = sdlearn.text_to_image(sd, prompts, seeds=[COVER_SEED] * len(prompts), progress=False)
    sheet = pictures.contact_sheet(drawn, columns=8)
    COVER.parent.mkdir(exist_ok=True)
    sheet.quantize(192, dither=Image.Dither.NONE).save(COVER, optimize=True)  # looks the same in a third of the bytes
    return COVER


def cover_prompts() -> list[str]:
    from ..training.captions import Reading
    from ..training.score import write

    found = re.findall(r"(\w+) ([\w ]+), ([\w ]+)", COVER_SUBJECTS)
    return [write(Reading(subject, style, background)) for style, subject, background in found]
