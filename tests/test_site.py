"""The built book in a real browser: complete by itself, alive under the hand, readable by everyone."""

import functools
import re
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import pytest

from sdlearn.tools import book, cli

pytest.importorskip("jupyter_book", reason='the book needs its extra: pip install -e ".[test]"')

PAGES = [path.stem for path in (*sorted(book.NOTEBOOKS.glob("*.md")), *book.notebooks())]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}
SCRUBBERS = "div[id^=sdlearn-]"

every_page = pytest.mark.parametrize("name", PAGES)


@pytest.fixture(scope="session")
def site():
    assert cli.main(["book"]) == 0
    return book.SITE


@pytest.fixture(scope="session")
def address(site):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture
def open_page(browser, address):
    """Opens a page of the book; page.troubles collects what went wrong while loading."""
    contexts = []

    def open_page(name, viewport=DESKTOP, **options):
        contexts.append(browser.new_context(viewport=viewport, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(120_000)  # a loaded machine is no defect of the page
        page.troubles = []
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

    yield open_page
    for context in contexts:
        context.close()


def pictures(scrubber):
    """What a reader sees of a scrubber now."""
    see = "nodes => nodes.map(n => [n.src, n.style.clipPath, n.style.left])"
    return scrubber.locator("img, .edge").evaluate_all(see)


# -- without a browser -------------------------------------------------------------------------------------------------


def test_contents_list_every_page():
    toc = (book.NOTEBOOKS / "_toc.yml").read_text(encoding="utf-8")
    listed = re.findall(r"file: (\S+)", toc)
    assert sorted(listed) == sorted(set(PAGES) - {"index"})


def test_every_notebook_is_in_the_map_of_concepts_and_on_the_landing_page():
    for page in ("concepts.md", "index.md"):
        linked = re.findall(r"\]\((\d\d_\w+\.ipynb)\)", (book.NOTEBOOKS / page).read_text(encoding="utf-8"))
        assert set(linked) == {notebook.name for notebook in book.notebooks()}


# -- in a browser ------------------------------------------------------------------------------------------------------


@every_page
def test_page_is_complete_without_any_other_host(open_page, name):
    page = open_page(name)
    assert page.troubles == []
    raw = page.locator(".math").evaluate_all("nodes => nodes.filter(n => !n.querySelector('mjx-container')).length")
    assert raw == 0, "mathematics that was not typeset"
    broken = page.locator("img").evaluate_all("nodes => nodes.filter(n => !n.naturalWidth).map(n => n.outerHTML)")
    assert broken == []


@every_page
def test_scrubbers_move(open_page, name):
    page = open_page(name)
    scrubbers = page.locator(SCRUBBERS).all()
    if name == "index" or name[0].isdigit():
        assert scrubbers, "nothing to drag"
    for scrubber in scrubbers:
        slider = scrubber.locator("input[type=range]")
        slider.focus()
        page.keyboard.press("Home")
        first = pictures(scrubber)
        page.keyboard.press("ArrowRight")
        assert pictures(scrubber) != first
        page.keyboard.press("End")
        assert pictures(scrubber) != first
        page.keyboard.press("Home")
        assert pictures(scrubber) == first


@every_page
def test_play_plays(open_page, name):
    page = open_page(name)
    for scrubber in page.locator(SCRUBBERS).all():
        play = scrubber.locator("button")
        if play.count():  # a comparison has none
            scrubber.locator("input[type=range]").focus()
            page.keyboard.press("Home")
            first = pictures(scrubber)
            play.click()
            assert play.get_attribute("aria-label") == "Pause"
            page.wait_for_timeout(1200)
            assert pictures(scrubber) != first


@every_page
def test_page_fits_a_phone(open_page, name):
    page = open_page(name, viewport=PHONE, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@every_page
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_text_alternatives_pass_axe(open_page, name, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    page = open_page(name, color_scheme=scheme)
    rules = ["color-contrast", "image-alt", "svg-img-alt", "label", "button-name", "link-name", "document-title"]
    for _ in range(5):
        found = axe.Axe().run(page, options={"runOnly": rules}).response["violations"]
        if not found:
            break
        page.wait_for_timeout(1000)  # a theme that is still being applied may show black on black for a moment
    told = [f"{v['id']}: {node['html'][:300]} {node['failureSummary']}" for v in found for node in v["nodes"]]
    assert not told, "\n".join(told)


@pytest.mark.parametrize("notebook", book.notebooks(), ids=lambda notebook: notebook.stem)
def test_buttons_lead_to_the_notebook(open_page, site, notebook):
    page = open_page(notebook.stem)
    links = [unquote(link) for link in page.locator("a").evaluate_all("nodes => nodes.map(n => n.href)")]
    path = f"notebooks/{notebook.name}"
    assert f"https://colab.research.google.com/github/sdlearn/sdlearn/blob/main/{path}" in links
    assert f"https://mybinder.org/v2/gh/sdlearn/sdlearn/main?urlpath=lab/tree/{path}" in links
    assert any(link.endswith(f"/_sources/{notebook.name}") for link in links)
    assert (site / "_sources" / notebook.name).is_file()


def test_landing_page_shows_a_scrubber_on_the_first_screen(open_page):
    for viewport in (DESKTOP, PHONE):
        box = open_page("index", viewport=viewport).locator(SCRUBBERS).first.bounding_box()
        assert box["y"] + box["height"] < viewport["height"]
