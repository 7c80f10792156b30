"""The built book in a real browser: complete by itself, alive under the hand, readable by everyone."""

import base64
import functools
import io
import json
import re
import shutil
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from urllib.parse import unquote

import nbformat.v4 as nb
import pytest
from PIL import Image

import sdlearn
from sdlearn.tools import book, cli, pages

needs_node = pytest.mark.skipif(not shutil.which("npm"), reason="formulas and playground take Node.js: install it")

pytest.importorskip("jupyter_book", reason='the book needs its extra: pip install -e ".[test]"')

PAGES = [path.stem for path in (*sorted(book.NOTEBOOKS.glob("*.md")), *book.notebooks())]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
SCRUBBERS = "div[id^=sdlearn-]"


@pytest.fixture(scope="session")
def site():
    assert cli.main(["book"]) == 0
    return book.SITE


@contextmanager
def served(folder):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def address(site):
    with served(site) as address:
        yield address


def visit(context, address, name):
    """Opens a page of the book; page.troubles collects what goes wrong while it is open."""
    page = context.new_page()
    page.set_default_timeout(120_000)  # a loaded machine is no defect of the page
    page.name, page.troubles = name, []
    page.on("console", lambda m: m.type in ("error", "warning") and page.troubles.append(m.text))
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("requestfailed", lambda request: page.troubles.append(f"failed: {request.url}"))
    page.on("response", lambda r: r.status >= 400 and page.troubles.append(f"{r.status}: {r.url}"))
    page.on(
        "request",
        lambda r: r.url.startswith((address, "data:", "blob:")) or page.troubles.append(f"another host: {r.url}"),
    )
    page.goto(f"{address}{name}.html", wait_until="networkidle")
    return page


@pytest.fixture(scope="session")
def desk(browser):
    with browser.new_context(viewport=DESKTOP, color_scheme="light") as context:
        yield context


@pytest.fixture(scope="session")
def hand(browser):
    with browser.new_context(viewport=PHONE, has_touch=True, color_scheme="dark") as context:
        yield context


@pytest.fixture(scope="module", params=PAGES)
def page(request, desk, address):
    """Every page once on a desk, in the light theme; the tests of one page follow each other."""
    with visit(desk, address, request.param) as page:
        yield page


@pytest.fixture(scope="module", params=PAGES)
def phone(request, hand, address):
    """Every page once on a phone, in the dark theme."""
    with visit(hand, address, request.param) as page:
        yield page


def pictures(scrubber):
    """What a reader sees of a scrubber now."""
    see = "nodes => nodes.map(n => [n.src, n.style.clipPath, n.style.left])"
    return scrubber.locator("img, .edge").evaluate_all(see)


def violations(page) -> str:
    """What axe finds, in its words."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    rules = ["color-contrast", "image-alt", "svg-img-alt", "label", "button-name", "link-name", "document-title"]
    for _ in range(5):
        found = axe.Axe().run(page, options={"runOnly": rules, "resultTypes": ["violations"]}).response["violations"]
        if not found:
            break
        page.wait_for_timeout(1000)  # a theme that is still being applied may show black on black for a moment
    return "\n".join(f"{v['id']}: {n['html'][:300]} {n['failureSummary']}" for v in found for n in v["nodes"])


# -- a book of one small lesson, which holds each thing that once went wrong -------------------------------------------

PYTHON = {"language_info": {"name": "python", "pygments_lexer": "ipython3"}}
PROOF = "# @title Proof\nassert difference == 0"
LINE = "✓ 25 steps, largest difference 0 grey levels"
LABELS = [
    "t = 981",
    "t = 481, half way: what is left of the noise is here about as large as the picture itself",
    "t = 1",
]
TERMS = " + ".join(rf"\alpha_{{{k}}} x_{{{k}}}" for k in range(30))


def code(source, *outputs, tag=None):
    return nb.new_code_cell(source, outputs=list(outputs), metadata={"tags": [tag]} if tag else {})


def printed(text):
    return nb.new_output("stream", name="stdout", text=f"{text}\n")


def displayed(html):
    return nb.new_output("display_data", {"text/html": html})


def plain(width, height, colour):
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "png")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def lesson():
    """A lesson with cells of every tag, a figure of full width, a scrubber, formulas too long, and long sections."""
    figure = (
        f'<img class="dark-light" src="{plain(816, 300, "teal")}" alt="A figure" width="816" style="max-width:100%">'
    )
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "green", "blue")]
    sections = [(f"## {k}. A section with a rather long name\n\n" + "A paragraph.\n\n" * 9) for k in range(3, 25)]
    sections[10] += "A paragraph of a section that is longer than any screen.\n\n" * 90
    return nb.new_notebook(
        metadata=PYTHON,
        cells=[
            nb.new_markdown_cell("# A lesson\n\nAbout one claim."),
            code("import sdlearn", tag="setup"),
            nb.new_markdown_cell("## 1. A claim\n\nA figure, and what was measured on it."),
            code(
                "figure",
                printed("printed before"),
                displayed(figure),
                nb.new_output("display_data", {"text/plain": "said after"}),
            ),
            code(PROOF, printed(LINE), tag="proof"),
            code("check(mine)", printed("not attempted"), tag="exercise"),
            code("#@title Solution\nmine = 1", printed("the solution's output"), tag="solution"),
            code("frames", displayed(sdlearn.scrub(frames, LABELS, caption="Three squares").html)),
            nb.new_markdown_cell(
                f"### Too long for a line\n\n$$ x = {TERMS} $$\n\n#### In the text\n\nSo ${TERMS}$ it is, in $[-1, 1]$."
            ),
            code(
                PROOF,
                printed(f"{LINE}, and then a good deal more about what was compared\n✓ and a second line"),
                tag="proof",
            ),
            nb.new_markdown_cell("\n".join(["## 2. More", *sections])),
        ],
    )


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """The address of a book of this lesson, a page of prose and a second lesson, made as the course's is."""
    folder = tmp_path_factory.mktemp("small")
    source = folder / "source"
    shutil.copytree(book.NOTEBOOKS / "_static", source / "_static")
    (source / "_toc.yml").write_text("format: jb-book\nroot: prose\nchapters: [{file: lesson}, {file: next}]\n")
    (source / "prose.md").write_text("# Prose\n\nNo formula.\n\n![A square](square.png)\n", encoding="utf-8")
    Image.new("RGB", (64, 64), "teal").save(source / "square.png")
    following = nb.new_notebook(
        metadata=PYTHON, cells=[nb.new_markdown_cell("# The next"), code(PROOF, printed(LINE), tag="proof")]
    )
    for name, notebook in {"lesson": lesson(), "next": following}.items():
        (source / f"{name}.ipynb").write_text(json.dumps(book.for_site(notebook)), encoding="utf-8")
    book.make(source, folder)
    with served(folder / "_build" / "html") as address:
        yield address


@pytest.fixture(scope="module")
def seen(desk, small):
    """The lesson on a desk."""
    with visit(desk, small, "lesson") as page:
        yield page


@pytest.fixture(scope="module")
def held(hand, small):
    """The lesson on a phone."""
    with visit(hand, small, "lesson") as page:
        yield page


def proof(page):
    return page.locator(".tag_proof").first


def test_notebooks_cells_are_folded_by_their_tags():
    cells = [code("1", tag=tag) for tag in ("proof", "solution", "setup", "exercise", None)]
    made = book.for_site(json.loads(json.dumps({"cells": cells, "metadata": {}})))["cells"]
    how = [{"hide-input", "hide-cell"} & set(cell["metadata"].get("tags", ())) for cell in made]
    assert how == [{"hide-input"}, {"hide-cell"}, {"hide-cell"}, set(), set()]
    said = [cell["metadata"].get("mystnb", {}).get("code_prompt_show") for cell in made]
    assert said == ["Show the proof", "Show a solution", "Set-up for Colab", None, None]


def test_what_needs_a_kernel_leaves_a_way_to_the_playground_where_the_site_can_draw():
    widget = nb.new_output("display_data", {book.WIDGET: {}})
    explorer = displayed('<div id="explorer-1">a scrubber</div>')
    for live in (True, False):
        notebook = nb.new_notebook(cells=[code("explore", widget, explorer, printed("text"))])
        (cell,) = book.for_site(json.loads(json.dumps(notebook)), live)["cells"]
        shown = ["".join(output.get("data", {}).get("text/html", "")) for output in cell["outputs"]]
        assert len(shown) == 2 and ('href="playground.html"' in shown[0]) == live and shown[1] == ""


READ = {  # cells, and the minutes that reading them takes
    "160 words": ([nb.new_markdown_cell("# Title\n\n" + "word " * 159)], 1),
    "ten lines of code and no blank one": ([code("\n\n".join(["x = 1"] * 10))], 1),
    "an exercise is code": ([code("\n".join(["..."] * 5), tag="exercise")], 0.5),
    "a picture": ([code("", displayed('<img src="data:," alt="a">'))], 0.5),
    "a drawing and a picture in one cell": (
        [code("", displayed("<p><svg></svg></p>"), nb.new_output("display_data", {"image/png": "aaaa"}))],
        1,
    ),
    "a scrubber": ([code("", displayed(['<div id="sdlearn-1">', "</div>"]))], 0.5),
    "a table or a print is no figure": ([code("", displayed("<table></table>"), printed("1"))], 0),
    "what is folded is not read": (
        [code("x\n" * 99, displayed("<svg></svg>"), tag=tag) for tag in ("proof", "solution", "setup")],
        0,
    ),
    "what is not in sight is not read": (
        [nb.new_markdown_cell("<!-- a b -->\n<details><summary>Hint</summary>\n\na b\n\n</details>\n[](x_y.md)")],
        0,
    ),
    "a link is its words, a formula what it is written in": (
        [nb.new_markdown_cell("[two words](https://example.org/a) and $a + b$ | - |")] * 32,
        1,
    ),
    "the badge": ([nb.new_markdown_cell("[![Open In Colab](https://a.b/c.svg)](https://a.b/c)\n")], 0),
}


@pytest.mark.parametrize("what", READ)
def test_minutes_of_reading(what):
    cells, minutes = READ[what]
    assert book.minutes({"cells": cells}) == pytest.approx(minutes)
    assert book.minutes({"cells": [*cells, *cells]}) == pytest.approx(2 * minutes)


def test_a_proof_is_the_line_that_it_prints_with_its_code_a_click_away(seen):
    fold = proof(seen)
    control, source = fold.locator("summary"), fold.locator(".cell_input")
    assert (control.inner_text().strip(), source.is_visible()) == ("Show the proof", False)
    assert control.get_attribute("aria-label") is None, "its name is what it says"
    line, text = fold.locator(".cell_output pre"), seen.locator("article p").first
    assert line.inner_text().strip() == LINE and line.is_visible()
    size = "node => parseFloat(getComputedStyle(node).fontSize)"
    assert line.evaluate(size) < text.evaluate(size)
    assert fold.bounding_box()["height"] < 40, "one line"
    at = control.bounding_box()
    control.click()
    assert source.is_visible() and control.inner_text().strip() == "Hide the proof"
    assert "assert difference == 0" in source.inner_text() and "@title" not in source.inner_text()
    assert {k: abs(v - at[k]) < 12 for k, v in control.bounding_box().items()} == dict.fromkeys(at, True), "it stays"
    control.press("Enter")
    assert not source.is_visible()


def test_a_solution_is_folded_with_what_it_prints_and_the_set_up_says_what_it_is(seen):
    for tag, said in (("solution", "Show a solution"), ("setup", "Set-up for Colab")):
        cell = seen.locator(f".tag_{tag}")
        assert cell.inner_text().strip() == said
        cell.locator("summary").click()
        assert cell.locator(".cell_input").is_visible()
        cell.locator("summary").click()
    assert seen.locator(".tag_exercise .cell_input").is_visible()


def test_one_switch_shows_all_proofs_and_is_remembered_from_page_to_page(browser, small):
    with browser.new_context(viewport=DESKTOP) as context, visit(context, small, "lesson") as page:
        sources, switch = page.locator(".tag_proof .cell_input"), page.get_by_role("button", name="Show proofs")
        assert sources.count() == 2 and switch.get_attribute("aria-pressed") == "false"
        switch.focus()
        page.keyboard.press("Tab")
        page.keyboard.press("Shift+Tab")
        assert switch.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        assert switch.get_attribute("aria-pressed") == "true"
        assert all(source.is_visible() for source in sources.all())
        page.goto(f"{small}prose.html")
        assert page.get_by_role("button", name="Show proofs").count() == 0, "there is nothing to show"
        page.goto(f"{small}next.html")
        assert switch.get_attribute("aria-pressed") == "true" and sources.first.is_visible()
        switch.click()
        assert not sources.first.is_visible()
        page.go_back()
        page.go_back()
        page.wait_for_function("!document.querySelector('.tag_proof details').open")
        assert switch.get_attribute("aria-pressed") == "false"
        # To leave a page breaks off what it was still loading.
        assert [trouble for trouble in page.troubles if not trouble.startswith("failed")] == []


def test_the_switch_leaves_what_is_being_read_in_its_place(seen):
    seen.evaluate("document.getElementById('more').scrollIntoView({behavior: 'instant'})")
    place = "document.getElementById('more').getBoundingClientRect().top"
    before, switch = seen.evaluate(place), seen.get_by_role("button", name="Show proofs")
    for _ in range(2):
        switch.evaluate("node => node.click()")  # Playwright's own click scrolls the page before it
        seen.wait_for_timeout(100)
        assert abs(seen.evaluate(place) - before) < 2


def test_without_scripts_proofs_and_solutions_can_be_opened(browser, small):
    with browser.new_context(viewport=DESKTOP, java_script_enabled=False) as context, context.new_page() as page:
        page.goto(f"{small}lesson.html")
        assert page.locator(".proofs").count() == 0 and proof(page).locator("pre").last.is_visible()
        for cell in page.locator(".tag_proof, .tag_solution").all():
            cell.locator("summary").click()
            assert cell.locator(".cell_input").is_visible()


def test_folded_and_unfolded_the_lesson_passes_axe_in_both_themes(seen, held):
    for page in (seen, held):
        for _ in range(2):
            assert not violations(page)
            page.get_by_role("button", name="Show proofs").click()
        assert page.troubles == []


def test_the_bar_over_the_page_has_room_for_the_switch_on_a_phone(held):
    buttons = held.locator(".bd-header-article button:visible, .bd-header-article label:visible").all()
    boxes = sorted((button.bounding_box() for button in buttons), key=lambda box: box["x"])
    assert all(a["x"] + a["width"] <= b["x"] + 1 for a, b in pairwise(boxes)), boxes
    assert boxes[0]["x"] >= 0 and boxes[-1]["x"] + boxes[-1]["width"] <= PHONE["width"]
    switch = held.get_by_role("button", name="Show proofs").bounding_box()
    assert min(switch["height"], switch["width"]) >= 24


def test_icons_are_drawn_without_the_script_that_could_draw_them_too(seen):
    loaded = seen.evaluate("performance.getEntriesByType('resource').map(r => r.name)")
    assert not [name for name in loaded if "fontawesome.js" in name]
    icons = seen.locator("i[class*=fa-]:visible, span[class*=fa-]:visible")
    assert icons.count() > 4
    for icon in icons.all():
        family, content = icon.evaluate("n => ['fontFamily', 'content'].map(k => getComputedStyle(n, '::before')[k])")
        assert "Font Awesome" in family and content != "none"
        assert icon.bounding_box()["width"] > 6
        assert seen.evaluate("family => document.fonts.check(`900 16px ${family}`)", family)


@needs_node
def test_formulas_are_set_beforehand_and_their_style_is_loaded_only_where_there_are_some(desk, small, seen):
    def loaded(page):
        names = page.evaluate("performance.getEntriesByType('resource').map(r => r.name)")
        return [name for name in names if re.search("mathjax|katex", name)]

    assert loaded(seen) and not [name for name in loaded(seen) if name.endswith(".js")]
    assert seen.evaluate("window.MathJax === undefined")
    assert seen.locator(".math .katex").count() == seen.locator(".math").count() > 0
    assert seen.evaluate("document.fonts.check('16px KaTeX_Main')")
    with visit(desk, small, "prose") as page:
        assert loaded(page) == []


@needs_node
def test_where_katex_cannot_be_had_mathjax_sets_the_formulas(tmp_path, monkeypatch):
    def fail(*args):
        raise OSError("There is no network.")

    page = '<head><script async src="../mathjax/tex-svg.js"></script></head><span class="math notranslate nohighlight">'
    page += r"\(x\)</span>"
    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="in the browser: There is no network"):
        patch.setattr(pages, "fetch", fail)
        assert pages.with_formulas({tmp_path: page}, tmp_path) == {tmp_path: page}
    with pytest.raises(ValueError, match="cannot be set: ParseError"):
        pages.katex([(r"\frac{", False)], tmp_path)


def test_the_contents_list_follows_to_the_end_through_long_sections(seen):
    links = seen.locator("#pst-page-toc-nav a")
    hashes = links.evaluate_all("nodes => nodes.map(n => n.hash)")
    for k, name in [*enumerate(hashes)][:-2]:  # the last two are together on the last screen
        there = "name => document.getElementById(name).scrollIntoView({behavior: 'instant'})"
        seen.evaluate(there, name[1:])
        seen.wait_for_function("k => document.querySelectorAll('#pst-page-toc-nav a')[k].matches('.active')", arg=k)
        box = links.nth(k).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= DESKTOP["height"], "the list scrolls along"
    assert seen.locator("#pst-page-toc-nav a[aria-current]").count() == 1


def test_text_keeps_its_distance_from_the_figure_beside_it(seen):
    outputs = seen.locator(".cell_output", has_text="printed before").locator(".output").all()
    before, figure, after = (output.bounding_box() for output in outputs)
    assert figure["y"] - before["y"] - before["height"] >= 8
    assert after["y"] - figure["y"] - figure["height"] >= 8


def test_figures_fit_a_phone(held):
    figure = held.get_by_alt_text("A figure")
    box, frame = figure.bounding_box(), held.locator(".cell_output", has=figure)
    assert box["width"] > 250 and box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"]
    assert frame.evaluate("node => node.scrollWidth - node.clientWidth") == 0


def test_pictures_keep_their_colours_in_the_dark(hand, small):
    with visit(hand, small, "prose") as page:
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        picture = page.get_by_alt_text("A square")
        assert picture.evaluate("node => getComputedStyle(node).filter") == "none"


def test_headings_step_down_in_size_on_a_phone(held):
    sizes = [held.locator(f"article h{level}").first for level in range(1, 5)]
    sizes = [node.evaluate("node => parseFloat(getComputedStyle(node).fontSize)") for node in sizes]
    assert sizes == sorted(set(sizes), reverse=True), sizes
    weights = [held.locator(f"article h{k}").first.evaluate("n => getComputedStyle(n).fontWeight") for k in (2, 3)]
    assert weights[0] == weights[1]


def test_long_formulas_scroll_in_their_own_box_and_show_that_they_do(seen, held):
    for page in (seen, held):
        text, column = page.locator("span.math").first, page.locator("article p").first
        right = [box["x"] + box["width"] for box in (text.bounding_box(), column.bounding_box())]
        assert right[0] <= right[1] + 1, "a formula in the text breaks like the text"
        for formula in [page.locator("div.math .katex-display").first]:
            formula.scroll_into_view_if_needed()
            assert formula.evaluate("node => node.scrollWidth > node.clientWidth"), "too long for its box"
            assert formula.evaluate("node => getComputedStyle(node).overflowX") == "auto"
            for end, shaded in ((0, [False, True]), (10**6, [True, False])):
                formula.evaluate("(node, x) => { node.scrollLeft = x; }", end)
                shot = Image.open(io.BytesIO(formula.screenshot())).convert("L")
                ground = max(shot.getcolors())[1]
                edges = [shot.crop((x, 0, x + 1, 4)).resize((1, 1)).getpixel((0, 0)) for x in (1, shot.width - 2)]
                assert [abs(edge - ground) > 20 for edge in edges] == shaded


def test_short_formulas_do_not_scroll(seen):
    formula = seen.locator("span.math").last
    for side in ("Width", "Height"):
        assert formula.evaluate(f"node => node.scroll{side} <= node.client{side}")


def test_a_card_keeps_its_height_whatever_its_label(held):
    card, slider = held.locator(f"{SCRUBBERS} .card"), held.locator("input[type=range]")
    heights = set()
    for label in LABELS:
        assert held.get_by_text(label).locator("visible=true").count() == 1
        heights.add(card.bounding_box()["height"])
        slider.press("ArrowRight")
    slider.press("Home")
    assert len(heights) == 1


def test_a_finger_that_goes_up_scrolls_the_page_and_one_that_goes_sideways_moves_the_value(held):
    scrubber = held.locator(SCRUBBERS)
    slider, session = scrubber.locator("input[type=range]"), held.context.new_cdp_session(held)

    def swipe(target, across, up):
        """From a quarter of the width on; returns what the value is now and how far the page went."""
        slider.evaluate("node => { node.value = 0; node.dispatchEvent(new Event('input')); }")
        target.evaluate("node => node.scrollIntoView({block: 'center', behavior: 'instant'})")
        held.wait_for_timeout(200)
        box, start = target.bounding_box(), held.evaluate("scrollY")
        x, y = box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2
        for k in range(11):
            point = {"x": x - across * k / 10, "y": y - up * k / 10}
            kind = "touchMove" if k else "touchStart"
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
            held.wait_for_timeout(20)
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        held.wait_for_timeout(200)
        return int(slider.input_value()), held.evaluate("scrollY") - start

    stage = scrubber.locator(".stage")
    for target in (stage, slider):
        value, scrolled = swipe(target, 0, 200)
        assert value == 0 and scrolled > 100
        value, scrolled = swipe(target, 90, 0)
        assert value == 1 and scrolled == 0
        value, scrolled = swipe(target, 0, 0)
        assert value == 2 and scrolled == 0, "a tap goes there"


# -- without a browser -------------------------------------------------------------------------------------------------


def test_contents_list_every_page():
    toc = (book.NOTEBOOKS / "_toc.yml").read_text(encoding="utf-8")
    listed = re.findall(r"file: (\S+)", toc)
    assert sorted(listed) == sorted(set(PAGES) - {"index"})


def test_every_notebook_is_in_the_map_of_concepts_and_on_the_landing_page():
    for page in ("concepts.md", "index.md"):
        linked = re.findall(r"\]\((\w+\.ipynb)\)", (book.NOTEBOOKS / page).read_text(encoding="utf-8"))
        assert set(linked) == {notebook.name for notebook in book.notebooks()}


# -- on a desk, by daylight --------------------------------------------------------------------------------------------


def test_a_page_begins_on_the_first_screen_and_the_landing_page_with_its_toy(page):
    for viewport in (PHONE, DESKTOP):
        page.set_viewport_size(viewport)
        box = page.locator("sd-toy form" if page.name == "index" else "article h1").first.bounding_box()
        assert box["y"] + box["height"] < viewport["height"]


def test_a_lesson_begins_with_its_picture(page):
    if page.name not in {notebook.stem for notebook in book.notebooks()}:
        return
    page.set_viewport_size(DESKTOP)
    box = page.locator(f".cell_output :is(img, svg, {SCRUBBERS})").first.bounding_box()
    assert box["y"] + min(200, box["height"]) < DESKTOP["height"], "a good piece is seen before anybody scrolls"


def test_links_lead_to_pages_of_the_site_and_buttons_to_the_notebook(page, address, site):
    whole = "nodes => nodes.map(n => new URL(n.getAttribute('href') ?? '', document.baseURI).href)"  # also of an SVG
    links = {unquote(link) for link in page.locator("a").evaluate_all(whole)}
    inside = {link.removeprefix(address).split("#")[0].split("?")[0] for link in links if link.startswith(address)}
    assert len(inside) > len(PAGES) / 2 and all((site / path).exists() for path in inside), inside
    if page.name[0].isdigit():
        path = f"notebooks/{page.name}.ipynb"
        assert f"https://colab.research.google.com/github/sdlearn/sdlearn/blob/main/{path}" in links
        assert f"https://mybinder.org/v2/gh/sdlearn/sdlearn/main?urlpath=lab/tree/{path}" in links
        assert f"_sources/{page.name}.ipynb" in inside


def test_scrubbers_move_and_play(page):
    scrubbers = page.locator(SCRUBBERS).all()
    assert scrubbers or not page.name[0].isdigit(), "nothing to drag"
    for scrubber in scrubbers:
        slider, play = scrubber.locator("input[type=range], [role=slider]"), scrubber.locator("button")
        slider.focus()
        page.keyboard.press("Home")
        first = pictures(scrubber)
        page.keyboard.press("ArrowRight")
        assert pictures(scrubber) != first
        page.keyboard.press("End")
        assert pictures(scrubber) != first
        page.keyboard.press("Home")
        assert pictures(scrubber) == first
        if play.count():  # a comparison has none
            play.click()
            assert play.get_attribute("aria-label") == "Pause"
            for _ in range(100):
                if pictures(scrubber) != first:
                    break
                page.wait_for_timeout(50)
            assert pictures(scrubber) != first
            slider.press("Home")
            assert play.get_attribute("aria-label") == "Play"


def test_contrast_and_text_alternatives_pass_axe(page):
    assert not violations(page)


def test_page_is_complete_without_any_other_host(page):
    """The last of a page: nothing went wrong under the hand of the tests before, either."""
    assert page.troubles == []
    raw = page.locator(".math").evaluate_all(
        "nodes => nodes.filter(n => !n.querySelector('mjx-container, .katex')).length"
    )
    assert raw == 0, "mathematics that was not typeset"
    page.evaluate(
        """() => Promise.all([...document.querySelectorAll("img")].map((node) => {
            node.loading = "eager";
            return node.decode().catch(() => {});
        }))"""
    )
    broken = page.locator("img").evaluate_all("nodes => nodes.filter(n => !n.naturalWidth).map(n => n.outerHTML)")
    assert broken == []


def test_page_is_light_until_something_is_pressed_and_little_blocks_its_paint(page, address):
    """At 10 Mbit/s a second is 1.25 MB. By the clock (pytest -rP) the first paint is no test: others work, too."""
    with page.context.new_page() as fresh:
        session = page.context.new_cdp_session(fresh)
        session.send("Network.enable")
        line = {"offline": False, "latency": 20, "downloadThroughput": 10e6 / 8, "uploadThroughput": 10e6 / 8}
        session.send("Network.emulateNetworkConditions", line)
        fresh.goto(f"{address}{page.name}.html", wait_until="networkidle")
        read = "performance.getEntries().filter(r => 'encodedBodySize' in r)"
        sizes = fresh.evaluate(f"{read}.map(r => [r.name, r.encodedBodySize, r.renderBlockingStatus])")
        painted = fresh.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    total = sum(size for _, size, _ in sizes)
    print(f"{page.name}: {total / 1e6:.2f} MB, first paint after {painted:.0f} ms")
    assert total < 2.5e6, sorted(sizes, key=lambda one: -one[1])[:5]
    assert sum(size for _, size, how in sizes if how == "blocking") < 0.75e6
    assert not [name for name, *_ in sizes if re.search("fontawesome.js|/mathjax/", name)]


# -- on a phone, in the dark -------------------------------------------------------------------------------------------


def test_page_fits_a_phone(phone):
    assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_figures_are_no_wider_than_the_phone(phone):
    right = phone.locator(".cell_output img").evaluate_all("nodes => nodes.map(n => n.getBoundingClientRect().right)")
    assert all(x <= PHONE["width"] for x in right)


def test_contrast_and_text_alternatives_pass_axe_in_the_dark(phone):
    assert phone.evaluate("document.documentElement.dataset.theme") == "dark"
    phone.set_viewport_size(DESKTOP)  # there is more to see: the lists beside the page
    assert not violations(phone)
    assert phone.troubles == []
