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
        found = axe.Axe().run(page, options={"runOnly": rules}).response["violations"]
        if not found:
            break
        page.wait_for_timeout(1000)  # a theme that is still being applied may show black on black for a moment
    return "\n".join(f"{v['id']}: {n['html'][:300]} {n['failureSummary']}" for v in found for n in v["nodes"])


# -- without a browser -------------------------------------------------------------------------------------------------


def test_contents_list_every_page():
    toc = (book.NOTEBOOKS / "_toc.yml").read_text(encoding="utf-8")
    listed = re.findall(r"file: (\S+)", toc)
    assert sorted(listed) == sorted(set(PAGES) - {"index"})


def test_every_notebook_is_in_the_map_of_concepts_and_on_the_landing_page():
    for page in ("concepts.md", "index.md"):
        linked = re.findall(r"\]\((\d\d_\w+\.ipynb)\)", (book.NOTEBOOKS / page).read_text(encoding="utf-8"))
        assert set(linked) == {notebook.name for notebook in book.notebooks()}


# -- on a desk, by daylight --------------------------------------------------------------------------------------------


def test_a_page_begins_on_the_first_screen_and_the_landing_page_with_its_scrubber(page):
    for viewport in (PHONE, DESKTOP):
        page.set_viewport_size(viewport)
        box = page.locator(SCRUBBERS if page.name == "index" else "article h1").first.bounding_box()
        assert box["y"] + box["height"] < viewport["height"]


def test_links_lead_to_pages_of_the_site_and_buttons_to_the_notebook(page, address, site):
    links = {unquote(link) for link in page.locator("a").evaluate_all("nodes => nodes.map(n => n.href)")}
    inside = {link.removeprefix(address).split("#")[0].split("?")[0] for link in links if link.startswith(address)}
    assert len(inside) > len(PAGES) / 2 and all((site / path).exists() for path in inside), inside
    if page.name[0].isdigit():
        path = f"notebooks/{page.name}.ipynb"
        assert f"https://colab.research.google.com/github/sdlearn/sdlearn/blob/main/{path}" in links
        assert f"https://mybinder.org/v2/gh/sdlearn/sdlearn/main?urlpath=lab/tree/{path}" in links
        assert f"_sources/{page.name}.ipynb" in inside


def test_scrubbers_move_and_play(page):
    scrubbers = page.locator(SCRUBBERS).all()
    assert scrubbers or not (page.name == "index" or page.name[0].isdigit()), "nothing to drag"
    for scrubber in scrubbers:
        slider, play = scrubber.locator("input[type=range]"), scrubber.locator("button")
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
    raw = page.locator(".math").evaluate_all("nodes => nodes.filter(n => !n.querySelector('mjx-container')).length")
    assert raw == 0, "mathematics that was not typeset"
    broken = page.locator("img").evaluate_all("nodes => nodes.filter(n => !n.naturalWidth).map(n => n.outerHTML)")
    assert broken == []


# -- on a phone, in the dark -------------------------------------------------------------------------------------------


def test_page_fits_a_phone(phone):
    assert phone.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_contrast_and_text_alternatives_pass_axe_in_the_dark(phone):
    assert phone.evaluate("document.documentElement.dataset.theme") == "dark"
    phone.set_viewport_size(DESKTOP)  # there is more to see: the lists beside the page
    assert not violations(phone)
    assert phone.troubles == []
