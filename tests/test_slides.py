"""Slides of a notebook: what is on them and what is not, and that they work in a browser without any other host."""

import json
import re

import pytest
from test_site import code, displayed, lesson, pictures, printed, served, visit

from sdlearn.tools import book, classroom, slides

PROJECTOR = {"width": 1024, "height": 768}
FOREIGN = re.compile(r"""(?:src|href|import|url)\s*[=(]\s*["']?https?://[^"')]*\.(?:js|css|woff2?)\b""")


def small() -> dict:
    """The lesson of the site's tests, with a question, a widget and a task in words."""
    notebook = json.loads(json.dumps(lesson()))
    widget = {"output_type": "display_data", "metadata": {}, "data": {book.WIDGET: {"model_id": "a"}}}
    question = displayed('<div class="sdlearn-predict"><p>Which?</p></div>')
    more = [
        {
            "cell_type": "markdown",
            "id": "t",
            "metadata": {},
            "source": "## 3. To do\n\n### Exercise: a line\n\nWrite it.",
        },
        code("mine = ...", printed("not attempted"), tag="exercise"),
        code("sdlearn.predict()", question),
        {**code("explorer"), "outputs": [widget]},
        {
            "cell_type": "markdown",
            "id": "l",
            "metadata": {},
            "source": "Why so?\n\nThree things:\n\n- one\n- [two](next.ipynb)",
        },
    ]
    notebook["cells"] = [*notebook["cells"][:9], *json.loads(json.dumps(more))]
    notebook["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {}}
    return notebook


def shown(notebook: dict) -> list[dict]:
    """Kind, section, texts and notes of every slide of a deck."""
    found = []
    for cell in slides.deck(notebook)["cells"]:
        kind, text = cell["metadata"]["slideshow"]["slide_type"], "".join(cell["source"])
        if kind == "notes":
            found[-1]["notes"] = text
            continue
        if kind != "-":
            found.append({"kind": kind, "section": "", "texts": [], "notes": ""})
        if section := re.fullmatch(r'<p class="section">(.*)</p>', text):
            found[-1]["section"] = section[1]
        else:
            found[-1]["texts"].append(text)
    return found


def test_headings_figures_questions_and_tasks_are_shown_and_prose_is_for_the_speaker():
    found = shown(small())
    one, three = "1. A claim", "3. To do"
    assert [(slide["kind"], slide["section"], slide["texts"][0].splitlines()[0]) for slide in found] == [
        ("slide", "", "# A lesson"),
        ("slide", "", f"## {one}"),
        ("subslide", one, "check(mine)"),
        ("subslide", one, "frames"),
        ("subslide", one, "### Too long for a line"),
        ("subslide", one, "#### In the text"),
        ("slide", "", f"## {three}"),
        ("subslide", three, "### Exercise: a line"),
        ("subslide", three, "sdlearn.predict()"),
        ("subslide", three, "Three things:"),
    ]
    by_head = {slide["texts"][0].splitlines()[0]: slide for slide in found}
    assert by_head["## 1. A claim"]["texts"][1] == "figure" and "what was measured" in by_head["## 1. A claim"]["notes"]
    assert by_head["### Exercise: a line"]["texts"][1:] == ["Write it.", "mine = ..."]
    things = by_head["Three things:"]
    assert things["texts"] == ["Three things:\n\n- one\n- [two](next.html)"] and things["notes"] == "Why so?"


def test_proofs_solutions_set_up_outputs_of_stubs_and_widgets_are_left_out():
    cells = slides.deck(small())["cells"]
    assert not [cell for cell in cells if book.tags(cell) & book.FOLDED.keys()]
    text = json.dumps(cells)
    for absent in ("@title", "import sdlearn", "not attempted", "printed before", "widget-view"):
        assert absent not in text
    page = slides.page(small())
    assert not FOREIGN.search(page) and "require(" not in page and "<title>A lesson slides</title>" in page


@pytest.fixture(scope="module")
def decks(tmp_path_factory):
    """The address of the small lesson's slides."""
    out = tmp_path_factory.mktemp("slides")
    slides.make({"lesson": small()}, out)
    with served(out) as address:
        yield address


@pytest.fixture(scope="module")
def projector(browser):
    with browser.new_context(viewport=PROJECTOR, color_scheme="light") as context:
        yield context


def current(page) -> str:
    return page.evaluate("Reveal.getCurrentSlide().innerText").strip().splitlines()[0]


def opened(page):
    page.wait_for_selector("body[data-fitted]")
    return page


def ill_fitting(page) -> list[str]:
    """Slides that are larger than the screen, and those whose figure leaves most of it empty."""
    return page.evaluate("""() => {
        const found = [];
        do {
            const slide = Reveal.getCurrentSlide(), figure = slide.querySelector(".jp-OutputArea");
            const box = (figure || slide).getBoundingClientRect();
            const empty = figure && box.width < 0.5 * innerWidth && box.height < 0.5 * innerHeight;
            const large = slide.scrollWidth > slide.clientWidth + 1 || slide.scrollHeight > slide.clientHeight + 1;
            if (empty || large || box.bottom > innerHeight + 1) found.push(slide.innerText.slice(0, 60));
        } while (!Reveal.isLastSlide() && (Reveal.next(), true));
        return found;
    }""")


def test_a_deck_is_moved_by_keys_and_its_scrubbers_too(projector, decks):
    with visit(projector, decks, "lesson") as page:
        assert current(opened(page)) == "A lesson"
        page.keyboard.press("Space")
        assert current(page) == "1. A claim"
        assert page.get_by_alt_text("A figure").evaluate("node => node.naturalWidth") == 816
        scrubber = page.locator("div[id^=sdlearn-]")
        page.evaluate("while (!Reveal.getCurrentSlide().querySelector('[id^=sdlearn-]')) Reveal.next()")
        slider, place = scrubber.locator("input[type=range]"), page.evaluate("location.hash")
        slider.focus()
        page.keyboard.press("Home")
        first = pictures(scrubber)
        page.keyboard.press("ArrowRight")
        assert pictures(scrubber) != first and page.evaluate("location.hash") == place, "the slide stays"
        box = scrubber.locator(".stage").bounding_box()
        page.mouse.move(box["x"] + 0.95 * box["width"], box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.up()
        assert slider.input_value() == "2", "the hand goes where the picture is, however large the slide"
        page.wait_for_function("document.querySelectorAll('mjx-container').length > 1")
        assert page.troubles == []


def test_the_speakers_view_opens_with_the_text(projector, decks):
    with visit(projector, decks, "lesson") as page:
        opened(page).keyboard.press("Space")
        with page.expect_popup() as popup:
            page.keyboard.press("s")
        speaker = popup.value
        speaker.wait_for_selector(".speaker-controls-notes .value:has-text('what was measured on it')")
        speaker.close()


def test_the_list_of_decks_leads_to_them(projector, decks):
    with visit(projector, decks, "index") as page:
        page.get_by_role("link", name="A lesson").click()
        assert current(opened(page)) == "A lesson"


@pytest.mark.parametrize("notebook", book.notebooks(), ids=lambda notebook: notebook.stem)
def test_every_notebook_has_a_deck_with_its_figures_and_exercises(notebook, projector, tmp_path):
    (copy,) = book.execute([notebook])
    executed = json.loads(copy.read_text(encoding="utf-8"))
    slides.make({notebook.stem: executed}, tmp_path)
    cells = [cell for cell in executed["cells"] if not book.tags(cell) & book.FOLDED.keys()]
    figures = sum(
        any(map(slides._is_shown, cell.get("outputs", ()))) for cell in cells if "exercise" not in book.tags(cell)
    )
    deck = slides.deck(executed)["cells"]
    assert sum(bool(cell.get("outputs")) for cell in deck) == figures > 0
    assert sum(map(len, map(classroom._checked, deck))) == sum(map(len, map(classroom._checked, cells)))
    assert not FOREIGN.search((tmp_path / f"{notebook.stem}.html").read_text(encoding="utf-8"))
    with served(tmp_path) as address, visit(projector, address, notebook.stem) as page:
        assert opened(page).evaluate("Reveal.getTotalSlides()") > 8
        assert ill_fitting(page) == [] and page.troubles == []
        # A scrubber's stand-in, which only a page without scripts shows, is never loaded.
        assert page.evaluate("[...document.images].filter(i => i.loading != 'lazy' && !i.naturalWidth).length") == 0
