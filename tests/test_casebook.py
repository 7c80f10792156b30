"""Broken pictures and their stories: everything opens without a script, and nothing is given away before."""

import re

import pytest
from PIL import Image
from test_predict import EVIL, Page

import sdlearn
from sdlearn.show.casebook import Case, gallery

GUESSES = {"`a < b`": "Yes, it is.", "Another": "No.", "A third": "No."}


def case(number=3, complaint="All is *grey*.", **other):
    picture = Image.new("RGB", (64, 64), "teal")
    told = {
        "right": picture, "broken": picture.rotate(45), "question": sdlearn.predict("Why?", GUESSES, right="`a < b`"),
        "cause": "Because of `x`.", "where": "decode", "line": ("- x / factor", "+ x"), "cost": "55 grey levels.",
        "searched": ("grey picture", "0.18215"), "witness": ("A report", "https://example.org/1?a=b&c=d"),
        "test": ("It comes back.", "return x == 1"),
    }  # fmt: skip
    return Case(number, complaint, **told | other)


class Shown(Page):
    def handle_starttag(self, tag, attributes):
        super().handle_starttag(tag, attributes)
        if tag == "img":  # has no end tag
            self.open.pop()


def words(page):
    return re.sub(r"\s+", " ", " ".join(text for _, text in page.texts))


def test_a_case_shows_both_pictures_and_the_guesses_and_folds_the_story():
    page = Shown(case()._repr_html_())
    assert [image["alt"] for image in page.named("img")] == [
        "Case 3, right: All is *grey*.",
        "Case 3, broken: All is *grey*.",
    ]
    assert len(page.named("details")) == 4 and not any("open" in details for details in page.named("details"))
    story = words(page).split("The story")[1]
    told = ("Because of x .", "- x / factor + x", "55 grey levels.", "“grey picture”, “0.18215”", "A report", "x == 1")
    for part in told:
        assert part in story, part
    assert [a["href"] for a in page.named("a")] == ["https://example.org/1?a=b&c=d"]


def test_a_terminal_shows_the_complaint_and_the_guesses_and_not_the_cause():
    said = repr(case())
    assert said.startswith("Case 3: All is *grey*.\nPredict") and "( ) Another" in said and "Because" not in said


def test_the_gallery_holds_every_broken_picture_its_cause_and_the_way_to_its_case():
    cases = [case(k) for k in (1, 2, 3)]
    sheet = gallery(cases, right=cases[0].right)
    page = Shown(sheet.html)
    assert len(page.named("img")) == 4 and len(page.named("details")) == 3
    assert len({details["name"] for details in page.named("details")}) == 1, "one is open at a time"
    assert [a["href"] for a in page.named("a")] == ["#case-1", "#case-2", "#case-3"]
    for one in cases:
        assert f'id="case-{one.number}"' in one._repr_html_()
    assert words(page).count("Because of x .") == 3 and words(page).count("“grey picture”") == 3
    assert repr(sheet) == sheet.alt == "Broken pictures: 1. All is *grey*. 2. All is *grey*. 3. All is *grey*."


def test_texts_cannot_leave_their_place():
    evil = dict.fromkeys(("complaint", "cause", "where", "cost"), EVIL)
    evil |= {"searched": (EVIL,), "witness": (EVIL, EVIL), "test": (EVIL, EVIL), "line": (f"- {EVIL}", f"+ {EVIL}")}
    for made in (
        lambda **given: case(**given)._repr_html_(),
        lambda **given: gallery([case(**given)], case().right).html,
    ):
        plain = made(complaint="p", cause="p", where="p", cost="p", searched=("p",))
        assert [tag for tag, _ in Shown(made(**evil)).elements] == [tag for tag, _ in Shown(plain).elements]


def test_it_needs_no_script_and_fetches_nothing():
    for html in (case()._repr_html_(), gallery([case()], case().right).html):
        assert not re.search(r"<script|url\(|@import| on\w+=|src=\"(?!data:)", html)
        [*styles] = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
        selectors = [
            s
            for style in styles
            for s in re.findall(r"(?:^|})([^{}]+){", re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL))
        ]
        assert len(selectors) > 10 and all(
            ".sdlearn-" in part for s in selectors for part in re.split(r",(?![^()]*\))", s)
        )


def test_an_empty_gallery_is_an_error():
    with pytest.raises(ValueError, match="at least one case"):
        gallery([], Image.new("RGB", (8, 8)))


# -- in a browser ------------------------------------------------------------------------------------------------------

PHONE = {"width": 360, "height": 740}


@pytest.fixture
def sheet():
    cases = [case(k, complaint=f"Everything is grey, and it is case {k}.") for k in range(1, 6)]
    parts = gallery(cases, cases[0].right).html + "".join(one._repr_html_() for one in cases)
    head = '<!doctype html><html lang="en"><head><title>Cases</title></head>'
    return f"{head}<body><main><h1>Cases</h1>{parts}</main></body></html>"


@pytest.mark.parametrize("scripts", [True, False])
def test_a_click_or_a_key_tells_the_cause_and_leads_to_the_case(browser, sheet, scripts):
    with browser.new_context(java_script_enabled=scripts) as context, context.new_page() as page:
        page.set_content(sheet)
        tiles = page.locator(".sdlearn-gallery details")
        said = tiles.nth(1).locator(".said")
        assert not said.is_visible()
        tiles.nth(1).locator("summary").click()
        assert said.is_visible() and "Because of x." in said.inner_text()
        tiles.nth(3).locator("summary").press("Enter")
        assert tiles.nth(3).locator(".said").is_visible() and not said.is_visible(), "one at a time"
        tiles.nth(3).locator("a").click()
        at = page.locator("#case-4").bounding_box()["y"]
        assert -5 < at < 200, "the case is in sight"
        story = page.locator("#case-4 > details")
        assert not story.locator("pre").first.is_visible()
        story.locator("summary").click()
        assert story.locator("pre").first.is_visible()


def test_on_a_phone_nothing_is_wider_than_the_screen(browser, sheet):
    with browser.new_context(viewport=PHONE) as context, context.new_page() as page:
        page.set_content(sheet)
        for summary in page.locator(".sdlearn-gallery summary, .sdlearn-case > details > summary").all():
            summary.click()
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        right, broken = (image.bounding_box() for image in page.locator("#case-2 .pictures img").all())
        assert right["y"] == broken["y"] and right["x"] + right["width"] <= broken["x"], "side by side"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_read_it(browser, sheet, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    ground = (
        "" if scheme == "light" else "<style>body { background: #121212; color: #ced6dd; } a { color: #69a8ff }</style>"
    )
    with browser.new_context(viewport=PHONE) as context, context.new_page() as page:
        page.set_content(sheet.replace("<main>", f"<main>{ground}", 1))
        page.locator(".sdlearn-gallery summary").first.click()
        page.locator(".sdlearn-case > details > summary").first.click()
        found = axe.Axe().run(page).response["violations"]
        assert [(v["id"], v["nodes"][0]["html"][:200]) for v in found] == []
