"""`sdlearn book --slides`: a deck of every notebook in _build/slides, which like the site needs no other host.

nbconvert makes the pages, reveal.js shows them. On the slides is what a class looks at: headings, formulas, lists,
figures, questions, exercises; the scrubbers are alive. The text of the lesson is in the speaker's view.
"""

import copy
import json
import re
import shutil
from collections.abc import Mapping
from html import escape
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from . import book, classroom, teaching

DECKS = book.BUILD / "slides"
FULL = 16  # lines of text that fit on a slide; a heading counts as two, a line of code as two thirds
CAPTION = 25  # words, of a paragraph that introduces the formula or the list after it
TASK = 60  # words, of a paragraph of an exercise that is shown
OPENING = 40  # words, of a paragraph that stands alone under a heading
# nbconvert's own page, without what it fetches from other hosts.
TEMPLATE = """
{%- extends "reveal/index.html.j2" -%}
{%- block html_head_js -%}
<link rel="icon" href="data:,">
<script>
window.MathJax = {tex: {inlineMath: [["$", "$"]], processEscapes: true}, options: {ignoreHtmlClass: "jp-OutputArea"}};
</script>
<script async src="mathjax/tex-svg.js"></script>
{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_css -%}<link rel="stylesheet" href="slides.css">{%- endblock -%}
{%- block footer_js -%}
<script src="reveal/dist/reveal.js"></script>
<script src="reveal/plugin/notes/notes.js"></script>
<script src="slides.js"></script>
{%- endblock -%}
"""
STYLE = """
.reveal { font-size: 24px; }
.reveal .controls { font-size: 6px; }
.reveal .slide-number { right: auto; left: 8px; background: none; color: #595959; }  /* the arrows are at the right */
.reveal .slides { text-align: left; }
.reveal .slides :is(h1, h2, h3, h4) { text-transform: none; letter-spacing: 0; line-height: 1.2; margin: 0 0 14px; }
.reveal .slides h1 { font-size: 46px; }
.reveal .slides h2 { font-size: 36px; }
.reveal .slides :is(h3, h4) { font-size: 28px; }
.reveal .slides ul { display: block; }
.reveal .slides .sdlearn-certificate a { color: #ffffff; }
[data-fitted] .reveal .slides section { max-height: 100%; overflow: hidden auto; }
.reveal .slides .section { color: #595959; font-size: 18px; margin: 0 0 12px; }
.reveal .slides table { font-size: 20px; }
.reveal .slides .jp-Cell { padding: 0; }
.reveal .slides mjx-container { max-width: 100%; overflow: auto hidden; }
.reveal .slides :is(.jp-OutputArea, .jp-OutputArea-child, .jp-OutputArea-output) {
  display: block; width: fit-content; max-width: 100%; margin: 0 auto; padding: 0; overflow: visible; }
.reveal .slides .jp-Cell-outputWrapper { display: block; }
.reveal .slides .jp-OutputArea-output img { margin: 0; }
.reveal .slides .sdlearn-machine svg { width: 900px; }
.reveal .slides pre { width: 100%; font-size: 16px; margin: 0; box-shadow: none; }
.reveal .slides .highlight pre { white-space: pre-wrap; }
"""
# Figures fill what the text leaves of their slide; text that is too much becomes smaller, and little of it larger.
SCRIPT = """
const WIDTH = 960, HEIGHT = 640, ROOM = 630;
Reveal.initialize({hash: true, width: WIDTH, height: HEIGHT, margin: 0.04, slideNumber: "c/t", transition: "none",
                   viewDistance: 1000, mobileViewDistance: 1000, plugins: [RevealNotes]});
addEventListener("load", async () => {
  await MathJax.startup.promise;
  const sum = (nodes) => nodes.reduce((all, node) => all + node.offsetHeight, 0);
  for (const slide of document.querySelectorAll(".slides section:not(.stack)")) {
    const figures = [...slide.querySelectorAll(".jp-OutputArea")], text = slide.offsetHeight - sum(figures);
    const wide = Math.max(1, ...figures.map((figure) => figure.offsetWidth));
    const zoom = Math.min(2, WIDTH / wide, (ROOM - text) / Math.max(1, sum(figures)));
    for (const figure of figures) figure.style.zoom = zoom;
    const size = text > ROOM ? ROOM / text : !figures.length && 1.6 * text < ROOM ? 1.25 : 1;
    for (const cell of slide.querySelectorAll(".jp-Cell")) cell.style.zoom = size;
  }
  Reveal.layout();
  document.body.dataset.fitted = "";
});
"""


def build() -> Path:
    """A deck of every notebook, executed where it is not fresh, in _build/slides; returns the list of the decks.

    Raises FileNotFoundError outside a clone, OSError without the extra `book`, RuntimeError if a notebook fails.
    """
    notebooks = book.notebooks()
    with book.alone():
        executed = dict(zip(notebooks, book.execute(notebooks), strict=True))
        shutil.rmtree(DECKS, ignore_errors=True)
        return make({n.stem: json.loads(c.read_text(encoding="utf-8")) for n, c in executed.items()}, DECKS)


def make(executed: Mapping[str, dict], out: Path) -> Path:
    """A page for each executed notebook in the folder `out`, with all that they load; returns the list of them."""
    _furnish(out)
    lines = []
    for name, notebook in executed.items():
        (out / f"{name}.html").write_text(page(notebook), encoding="utf-8", newline="\n")
        lines.append(f'<li><a href="{name}.html">{escape(teaching.title(notebook))}</a></li>')
    head = '<meta charset="utf-8"><title>Slides</title><link rel="icon" href="data:,">'
    how = "Arrows move, S opens the speaker's view with the text of the lesson, O shows all slides, F fills the screen."
    body = f"<body><main><h1>Slides</h1><p>{how}</p><ol>{''.join(lines)}</ol></main></body></html>"
    (out / "index.html").write_text(f'<!doctype html>\n<html lang="en"><head>{head}</head>{body}\n', encoding="utf-8")
    return out / "index.html"


def _furnish(out: Path) -> None:
    """Lay reveal.js and MathJax beside the decks; PyPI carries each in a package."""
    try:
        reveal, mathjax = distribution("sphinx-revealjs"), distribution("sphinx-mathjax-offline")
    except PackageNotFoundError as error:
        raise OSError(f"{error.name} is not installed; in the clone run: pip install -e '.[book]'") from None
    for file in reveal.files:
        _, found, path = file.as_posix().partition("/_static/revealjs/")
        if found and re.match(r"LICENSE|dist/(reveal\.(js|css)$|theme/(white\.css|fonts/source))|plugin/notes/", path):
            (out / "reveal" / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file.locate(), out / "reveal" / path)
    (out / "mathjax").mkdir(parents=True, exist_ok=True)
    shutil.copy(next(file for file in mathjax.files if file.name == "tex-svg.js").locate(), out / "mathjax")
    (out / "slides.css").write_text(STYLE, encoding="utf-8")
    (out / "slides.js").write_text(SCRIPT, encoding="utf-8")


def page(notebook: dict) -> str:
    """The deck of an executed notebook as HTML, by nbconvert."""
    import nbformat
    from nbconvert import SlidesExporter

    exporter = SlidesExporter(raw_template=TEMPLATE, reveal_url_prefix="reveal", reveal_theme="white",
                              exclude_input_prompt=True, exclude_output_prompt=True)  # fmt: skip
    html, _ = exporter.from_notebook_node(nbformat.reads(json.dumps(deck(notebook)), as_version=4))
    return html


def deck(notebook: dict) -> dict:
    """An executed notebook as nbconvert's slides: headings, formulas, lists, figures, questions, and exercises' stubs.

    A heading begins a slide and what follows stands under it (arrow down). Prose is for the speaker's view. Proofs,
    solutions, set-up and code that only draws are left out.
    """
    made, said, section = [], [], ""  # slides; prose that belongs to what is shown next

    def show(cell: dict, lines: float, kind: str | None = None) -> None:
        if kind or not made or made[-1]["lines"] + lines > FULL:
            made.append({"kind": kind or "subslide", "section": section, "cells": [], "notes": [], "lines": 0})
        made[-1]["cells"].append(cell)
        made[-1]["lines"] += lines
        made[-1]["notes"] += said
        said.clear()

    for cell in copy.deepcopy(notebook["cells"]):
        source = book.BADGE.sub("", classroom.source(cell))
        if book.tags(cell) & book.FOLDED.keys():
            continue
        if cell["cell_type"] == "markdown":
            task = False
            for block in _blocks(source):
                if heading := re.match(r"(#+) (.*)", block):
                    if made:
                        made[-1]["notes"] += said  # it looks back
                        said.clear()
                    section = heading[2] if len(heading[1]) < 3 else section
                    task = block.startswith("### Exercise: ")
                    show(_prose(block), 2, "slide" if len(heading[1]) < 3 else "subslide")
                elif (task and len(block.split()) <= TASK) or (len(made) == 1 and made[0]["lines"] == 2):
                    show(_prose(block), _lines(block))
                elif re.match(r"\$\$|[-*] |\d+\. |\|", block):
                    if said and len(said[-1].split()) <= CAPTION:
                        block = f"{said.pop()}\n\n{block}"
                    show(_prose(block), _lines(block))
                else:
                    said.append(block)
        elif "exercise" in book.tags(cell):
            show({**cell, "outputs": []}, len(source.splitlines()) * 2 / 3)
        elif figures := [output for output in cell["outputs"] if _is_shown(output)]:
            cell = {**cell, "outputs": figures, "metadata": {"transient": {"remove_source": True}}}
            show(cell, FULL - 2, None if made and made[-1]["lines"] == 2 else "subslide")
    cells = []
    for slide in made:
        first = classroom.source(slide["cells"][0])
        if slide["lines"] == 2 and slide["notes"]:  # a heading alone
            words = slide["notes"][0]
            short = words if len(words.split()) <= OPENING else re.match(r".*?[.?!](?=\s|$)|.*", words, re.DOTALL)[0]
            slide["cells"].append(_prose(short))
        if slide["section"] and not first.startswith(("# ", "## ")):
            slide["cells"].insert(0, _prose(f'<p class="section">{slide["section"]}</p>'))
        for number, cell in enumerate(slide["cells"]):
            kind = "-" if number else slide["kind"]
            cells.append({**cell, "metadata": {**cell["metadata"], "slideshow": {"slide_type": kind}}})
        if slide["notes"]:
            notes = _prose("\n\n".join(slide["notes"]))
            cells.append({**notes, "metadata": {"slideshow": {"slide_type": "notes"}}})
    for number, cell in enumerate(cells):
        cell["id"] = f"slide-{number}"
    kept = {key: notebook["metadata"][key] for key in ("kernelspec", "language_info") if key in notebook["metadata"]}
    return {**notebook, "metadata": {**kept, "title": teaching.title(notebook)}, "cells": cells}


def _lines(block: str) -> int:
    return sum(1 + len(line) // 90 for line in block.splitlines())


def _blocks(source: str) -> list[str]:
    """Headings, paragraphs, formulas, lists, tables; without what is folded."""
    source = re.sub(r"<details.*?</details>", "", source, flags=re.DOTALL)
    source = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.html)", re.sub(r"\[([^\]]*)\]\(\w+\.md[^)]*\)", r"\1", source))
    source = re.sub(r"^(#+ .*)$", r"\n\n\1\n\n", source, flags=re.MULTILINE)
    return [block.strip() for block in re.split(r"\n\s*\n", source) if block.strip()]


def _prose(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def _is_shown(output: dict) -> bool:
    """Whether it is a figure or a question, and no widget, which is nothing without its kernel."""
    data = output.get("data", {})
    question = "sdlearn-predict" in "".join(data.get("text/html", ""))
    return book.WIDGET not in data and (question or book._is_figure(output))
