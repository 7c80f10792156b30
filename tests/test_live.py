"""The landing page as a toy and the lessons' explorers, in a real browser: they compute what Python computes."""

from __future__ import annotations

import json
import re
import shutil

import nbformat.v4 as nb
import numpy as np
import pytest
import torch
from PIL import Image
from test_playground_site import HEAVY, loaded
from test_site import DESKTOP, PHONE, PYTHON, code, displayed, served, violations, visit

import sdlearn
from sdlearn import autoencoder, pictures
from sdlearn.show import widgets
from sdlearn.show.scrubber import scrub, scrub_plane
from sdlearn.tools import book, browser, landing, playground

pytest.importorskip("jupyter_book", reason='the book needs its extra: pip install -e ".[test]"')
if browser.missing():
    pytest.skip(browser.missing(), allow_module_level=True)
if not shutil.which("npm"):
    pytest.skip("formulas and the playground take Node.js: install it", allow_module_level=True)

SEEDS, STEPS = [1, 2], 3
ROW = "| [A lesson](lesson.ipynb) | What it does | 24 | 11 |"
INDEX = (
    f"# The course\n\nA course that takes Stable Diffusion apart while it runs.\n\n{landing.TOY}\n\n{landing.SHEET}\n\n"
)
INDEX += f"| | | Minutes | and exercises |\n|-|-|--:|--:|\n{ROW}\n\n{landing.MAP}\n\n[Every concept](concepts.md)\n"
COLOURS = [["#f00", "#0f0", "#00f"], ["#ff0", "#0ff", "#f0f"]]


@pytest.fixture(scope="module")
def photograph(emoji):
    image = Image.effect_noise((emoji.width, emoji.height), 60).convert("RGB")
    image.paste("tomato", (8, 8, emoji.width // 2, emoji.height // 2))
    return image


@pytest.fixture(scope="module")
def site(emoji, photograph, tmp_path_factory):
    """The folder of a site of a landing page, a lesson of explorers and scrubbers, and a page of words."""
    try:
        playground.fetch(playground.RUNTIME, playground.CACHE)
    except OSError as error:
        pytest.skip(f"onnxruntime-web cannot be had: {error}")
    folder = tmp_path_factory.mktemp("live")
    source = folder / "source"
    shutil.copytree(book.NOTEBOOKS / "_static", source / "_static")
    playground.stand(source, book.BUILD / "playground", emoji)
    explorers = [
        widgets.prompt_explorer(emoji, "a glossy fox", seed=7, num_inference_steps=STEPS),
        widgets.noise_explorer(emoji, photograph, timestep=600),
        widgets.token_explorer(emoji, "a glossy fox snorfleblat"),
        widgets.img2img_explorer(emoji, photograph, strength=0),
        widgets.img2img_explorer(emoji, photograph, "a flat owl", seed=3, strength=0.5, num_inference_steps=STEPS),
    ]
    noise = [Image.effect_noise((64, 64), 20 + k).convert("RGB") for k in range(4)]
    squares = [[Image.new("RGB", (32, 32), colour) for colour in row] for row in COLOURS]
    made = [
        scrub(noise, ["t = 981", "t = 428: half way", "t = 300", "t = 1"], caption="Noise"),
        scrub(noise, ["t = 981", "t = 500", "t = 428", "t = 0"], caption="More noise"),
        scrub_plane(squares, [5, 10, 20], [1, 7.5], axes=("steps", "guidance"), caption="A plane", start=(1, 0)),
    ]
    shown = [displayed(one.html) for one in made] + [displayed(explorer.still()) for explorer in explorers]
    cells = [code(f"cell_{k}", output) for k, output in enumerate(shown)]
    text = nb.new_markdown_cell("# A lesson\n\nIt is about $x_0$, and what stands here is its description of itself.")
    lesson = nb.new_notebook(metadata=PYTHON, cells=[text, *cells])
    shown = book.for_site(json.loads(json.dumps(lesson)), True)
    (source / "lesson.ipynb").write_text(json.dumps(shown), encoding="utf-8")
    (source / "concepts.md").write_text(
        "# Concepts\n\nClassifier-free guidance (CFG) and $\\sigma_t$. The scaling factor is 0.18215 there.\n"
    )
    (source / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters: [{file: lesson}, {file: concepts}]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(landing, "SEEDS", SEEDS)
        patch.setattr(landing, "HOW", {**landing.HOW, "num_inference_steps": STEPS})
        patch.setattr(landing, "STATIONS", {"text": "lesson"})
        sheet = (book.COVER, book.cover_prompts(), 5)
        page = landing.fill(INDEX, {"lesson": lesson}, emoji, source / "extra" / "landing", sheet, True)
    (source / "index.md").write_text(page, encoding="utf-8")
    book.make(source, folder)
    return folder / "_build" / "html"


@pytest.fixture(scope="module")
def address(site):
    with served(site) as address:
        yield address


@pytest.fixture(scope="module")
def desk(browser):
    with browser.new_context(viewport=DESKTOP, color_scheme="light") as context:
        yield context


@pytest.fixture(scope="module")
def front(desk, address):
    with visit(desk, address, "index") as page:
        yield page


@pytest.fixture(scope="module")
def lesson(desk, address):
    with visit(desk, address, "lesson") as page:
        yield page


def heard(page, element, event, act, count=1):
    """What the element says, that many times, once `act` has been done."""
    page.evaluate(
        """([element, event, count]) => {
        const found = [], plain = ([key, value]) => [key, ArrayBuffer.isView(value) ? [...value] : value];
        const node = document.querySelector(element);
        window.heard = new Promise((resolve) => node.addEventListener(event, ({detail}) => {
            found.push(Object.fromEntries(Object.entries(detail).map(plain)));
            if (found.length === count) resolve(found);
        }));
        }""",
        [element, event, count],
    )
    act()
    late = "new Promise((_, fail) => setTimeout(() => fail(new Error('nothing was heard')), 300_000))"
    return page.evaluate(f"Promise.race([window.heard, {late}])")


def same(shown, picture, most=1):
    found = np.array(shown, dtype=np.uint8).reshape(picture.height, picture.width, 4)[..., :3]
    return np.abs(found.astype(int) - np.asarray(picture).astype(int)).max() <= most


# -- the landing page --------------------------------------------------------------------------------------------------

PLACE = "() => new DOMMatrix(getComputedStyle(document.querySelector('sd-toy .film > img')).transform).m42"


def test_the_picture_develops_once_by_itself(browser, address):
    with browser.new_context(viewport=DESKTOP) as context, visit(context, address, "index") as page:
        page.wait_for_function(f"({PLACE})() < 0")
        page.wait_for_function(f"document.querySelector('sd-toy input[type=range]').value === '{STEPS}'")
        at = page.evaluate(PLACE)
        page.wait_for_timeout(1000)
        assert page.evaluate(PLACE) == at, "once"
        height = page.locator("sd-toy .film").first.bounding_box()["height"]
        assert at == pytest.approx(-STEPS * height, abs=2), "the last frame fills the window"
        slider = page.get_by_label("From noise to picture")
        slider.press("Home")
        assert page.evaluate(PLACE) == 0 and slider.get_attribute("aria-valuetext") == "noise"
        assert page.troubles == []


def test_with_reduced_motion_and_without_scripts_the_picture_is_there_at_once(browser, address):
    with browser.new_context(viewport=DESKTOP, reduced_motion="reduce") as context, context.new_page() as page:
        page.goto(f"{address}index.html")
        page.wait_for_selector("sd-toy input[type=range]")
        at = page.evaluate(PLACE)
        assert at < 0 and page.get_by_label("From noise to picture").input_value() == str(STEPS)
        page.wait_for_timeout(1500)
        assert page.evaluate(PLACE) == at
    with browser.new_context(viewport=DESKTOP, java_script_enabled=False) as context, context.new_page() as page:
        page.goto(f"{address}index.html")
        film, image = page.locator("sd-toy .film").first.bounding_box(), page.locator("sd-toy img").first.bounding_box()
        assert image["y"] + image["height"] == pytest.approx(film["y"] + film["height"], abs=2)
        assert page.get_by_role("link", name="Start", exact=True).is_visible()


def test_it_draws_the_readers_words_from_every_seed_and_fetches_nothing_before(front, emoji):
    assert not [name for name, _ in loaded(front) if HEAVY.search(name)]
    prompt = front.get_by_label("Prompt", exact=True)
    assert prompt.input_value() == landing.PROMPT
    prompt.fill("an ink cat on a yellow background")
    found = heard(front, "sd-toy", "drawn", lambda: prompt.press("Enter"), len(SEEDS))
    how = {**landing.HOW, "num_inference_steps": STEPS}
    for one, seed in zip(found, SEEDS, strict=True):
        wanted = sdlearn.text_to_image(emoji, "an ink cat on a yellow background", seed=seed, progress=False, **how)
        assert one["seed"] == seed and same(one["picture"], wanted)
    slider = front.get_by_label("From noise to picture")
    picture = front.locator("sd-toy canvas").first
    last = picture.screenshot()
    slider.press("Home")
    assert picture.screenshot() != last, "the noise that it began with"
    slider.press("End")
    assert front.troubles == []


def test_a_picture_of_the_sheet_is_a_prompt_to_take(front):
    before = front.locator(".sheet button").evaluate_all("nodes => nodes.map(n => n.ariaLabel)")
    assert before == book.cover_prompts()
    front.get_by_role("button", name=before[1]).press("Enter")
    assert front.get_by_label("Prompt", exact=True).input_value() == before[1]
    (found,) = heard(front, "sd-toy", "drawn", front.get_by_role("button", name="Draw", exact=True).click)
    assert found["seed"] == 5, "the first is the sheet's own"


def test_every_lesson_has_a_card_with_its_own_moving_picture_and_the_map_leads_there(front, site):
    card = front.locator("a.lesson")
    assert card.count() == 1 and card.get_attribute("href") == "lesson.html"
    assert card.inner_text().split("\n")[-1] == "24 minutes, and 11 of exercises"
    card.scroll_into_view_if_needed()
    image = card.locator("img")
    image.evaluate("node => node.decode()")
    assert image.evaluate("node => node.naturalHeight") > 2 * landing.CARD[1], "several frames"
    still = "node => getComputedStyle(node).animationName"
    assert image.evaluate(still) == "none"
    card.hover()
    assert image.evaluate(still) == "film"
    assert front.locator(".sdlearn-machine a").evaluate_all("nodes => nodes.map(n => n.getAttribute('href'))") == [
        "lesson.html"
    ]


def test_each_page_says_what_it_is_to_those_who_link_to_it(site):
    heads = {name: (site / f"{name}.html").read_text(encoding="utf-8") for name in ("index", "lesson", "concepts")}
    said = {
        name: dict(re.findall(r'<meta (?:name|property)="([\w:]+)" content="(.*?)"', page))
        for name, page in heads.items()
    }
    titles = [re.search("<title>(.*?)</title>", page)[1] for page in heads.values()]
    assert all(len(set(parts)) == len(parts) for parts in (title.split(" &#8212; ") for title in titles)), titles
    assert said["index"]["description"] == "A course that takes Stable Diffusion apart while it runs."
    assert "about x" in said["lesson"]["description"] and "\\" not in said["lesson"]["description"]
    images = [one["og:image"] for one in said.values()]
    assert images[0] == images[2] != images[1], "its own, or the cover"
    for address in images:
        with Image.open(site / address.removeprefix("https://sdlearn.github.io/sdlearn/")) as image:
            assert image.size == landing.SHARED


def test_the_landing_page_passes_axe_in_both_themes_and_fits_a_phone(front, browser, address):
    assert not violations(front)
    dark = browser.new_context(viewport=PHONE, has_touch=True, color_scheme="dark")
    with dark as context, visit(context, address, "index") as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert not violations(page)
        assert page.locator("sd-toy .film").first.bounding_box()["width"] > 80, "large enough to see"
        assert page.troubles == []


# -- explorers ---------------------------------------------------------------------------------------------------------


def test_explorers_keep_their_scrubber_until_they_are_woken_and_say_so_without_scripts(lesson, browser, address):
    assert lesson.locator(".bell button").count() == 5
    assert lesson.locator("sd-playground [id^=sdlearn-], sd-trip [id^=sdlearn-]").count() == 5
    assert not [name for name, _ in loaded(lesson) if HEAVY.search(name) or name.endswith("model.json")]
    with browser.new_context(java_script_enabled=False) as context, context.new_page() as page:
        page.goto(f"{address}lesson.html")
        told = page.locator("noscript p", has_text="takes JavaScript, which is off")
        assert told.count() == 5 and told.first.is_visible()
        assert page.locator("sd-trip img").first.is_visible()
    with browser.new_context() as context:
        context.add_init_script("delete window.DecompressionStream")
        with visit(context, address, "lesson") as page:
            assert page.get_by_text("too old").count() == 5 and page.locator(".bell").count() == 0
            page.locator("sd-trip [id^=sdlearn-] input[type=range]").first.press("End")


def test_the_prompt_explorer_draws_pythons_picture(lesson, emoji):
    button = lesson.get_by_role("button", name="Draw here, live")
    (found,) = heard(lesson, "sd-playground", "drawn", button.click)
    settings = {"seed": 7, "num_inference_steps": STEPS, "guidance_scale": 4.0, "sampler": "dpm++2m"}
    assert same(found["picture"], sdlearn.text_to_image(emoji, "a glossy fox", progress=False, **settings))
    assert lesson.get_by_label("Seed", exact=True).first.input_value() == "7"
    assert lesson.get_by_text("Take it with you").first.is_hidden(), "a lesson's explorer has what the lesson needs"


def test_the_token_explorer_reads_and_names_neighbours_as_python_does(lesson, emoji):
    lesson.get_by_role("button", name="Type your own sentence").click()
    node = lesson.locator("sd-playground[shows=near]")
    node.locator(".near dt").nth(3).wait_for()
    told = node.locator(".near dd").all_inner_texts()[2:]
    ids = [int(number) for number in told[::2]]
    reader = sdlearn.text.tokens(emoji, "a glossy fox snorfleblat")
    assert set(ids) == set(reader.ids[1:-1])
    for number, words in zip(ids, told[1::2], strict=True):
        wanted = widgets.neighbours(emoji, number)
        assert words == (", ".join(wanted) or "none: nothing is learned")
    assert node.locator("canvas:visible").count() == 0


def test_a_picture_goes_to_latents_and_back_as_in_python(lesson, emoji, photograph, tmp_path):
    button = lesson.get_by_role("button", name="there and back")
    (found,) = heard(lesson, "sd-trip:not([given*=timestep])", "tripped", button.click)
    latents = autoencoder.encode(emoji, photograph)
    assert np.abs(np.array(found["latents"]) - latents.flatten().numpy()).max() < 1e-3
    (back,) = pictures.to_images(autoencoder.decode(emoji, latents))
    assert same(found["picture"], back)
    a, b = (np.asarray(image, dtype=float) for image in (photograph, back))
    said = float(re.search(r"PSNR ([\d.]+) dB", lesson.locator("sd-trip .status", has_text="PSNR").inner_text())[1])
    assert said == pytest.approx(10 * np.log10(255**2 / ((a - b) ** 2).mean()), abs=0.1)
    Image.new("RGB", (300, 200), "teal").save(tmp_path / "mine.png")
    trip = lesson.locator("sd-trip:not([given*=timestep])")

    def choose():
        trip.get_by_label("A photograph to begin with").set_input_files(tmp_path / "mine.png")

    (mine,) = heard(lesson, "sd-trip:not([given*=timestep])", "tripped", choose)
    assert mine["picture"] != found["picture"]


@pytest.mark.parametrize("place", ["pixels", "latents"])
def test_noise_is_added_as_in_python(place, lesson, emoji, photograph):
    name = "sd-trip[given*=timestep]"
    if place == "pixels":
        act = lesson.get_by_role("button", name="Add noise").click
        x0 = pictures.to_tensor(photograph)
    else:
        act = lesson.locator(name).get_by_label("latents").check
        x0 = autoencoder.encode(emoji, photograph)
    (found,) = heard(lesson, name, "tripped", act)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    x = emoji.schedule.add_noise(x0, noise, 600)
    (wanted,) = pictures.to_images(x if place == "pixels" else autoencoder.decode(emoji, x))
    assert same(found["picture"], wanted, 2)
    amount = float(emoji.schedule.noise[600])
    assert f"{amount:.3f} × noise" in lesson.locator(f"{name} .status").last.inner_text()


def test_a_sketch_is_drawn_from_the_lessons_own(lesson, emoji, photograph):
    button = lesson.get_by_role("button", name="Sketch, and have it drawn")
    name = 'sd-playground[asleep^="Sketch"]'
    (found,) = heard(lesson, name, "drawn", button.click)
    how = {"seed": 3, "strength": 0.5, "num_inference_steps": STEPS, "guidance_scale": 4.0, "sampler": "ddim"}
    assert same(found["picture"], sdlearn.image_to_image(emoji, photograph, "a flat owl", progress=False, **how))


def test_woken_explorers_pass_axe_and_leave_no_trouble(lesson):
    assert not violations(lesson)
    assert lesson.troubles == []


# -- scrubbers ---------------------------------------------------------------------------------------------------------


def test_a_plane_is_dragged_both_ways_and_moved_with_the_keys(desk, address):
    with visit(desk, address, "lesson") as page:
        pad, image = page.get_by_role("slider", name="A plane"), page.locator("[id^=sdlearn-] .plane img")
        assert pad.get_attribute("aria-valuetext") == "guidance 7.5, steps 5"
        first = image.get_attribute("src")
        pad.focus()
        page.keyboard.press("ArrowUp")
        page.keyboard.press("ArrowRight")
        assert pad.get_attribute("aria-valuetext") == "guidance 1, steps 10" and image.get_attribute("src") != first
        page.keyboard.press("ArrowUp")
        assert pad.get_attribute("aria-valuetext") == "guidance 1, steps 10", "it ends at its edge"
        for target in (pad, image):
            target.scroll_into_view_if_needed()
            page.wait_for_timeout(500)  # the theme scrolls smoothly
            box = target.bounding_box()
            page.mouse.move(box["x"] + 5, box["y"] + 5)
            page.mouse.down()
            page.mouse.move(box["x"] + box["width"] - 5, box["y"] + box["height"] - 5, steps=4)
            page.mouse.up()
            assert pad.get_attribute("aria-valuetext") == "guidance 7.5, steps 20"
            page.keyboard.press("Home")
            page.keyboard.press("PageUp")
        assert not violations(page) and page.troubles == []


def test_a_frame_has_an_address(desk, address):
    with visit(desk, address, "lesson") as page:
        sliders = page.locator(".card input[type=range]")
        page.goto(f"{address}lesson.html#t=428")
        page.wait_for_function("location.hash === '#t=428'")
        said = [sliders.nth(k).get_attribute("aria-valuetext") for k in (0, 1)]
        assert said == ["t = 428: half way", "t = 981"], "the first that has it"
        page.goto(f"{address}lesson.html#t=428@2")
        page.wait_for_function("document.querySelectorAll('[id^=sdlearn-]')[1].shadowRoot"
                               ".querySelector('input').value === '2'")  # fmt: skip
        link = page.get_by_role("link", name="A link to t = 428", exact=True)
        assert link.get_attribute("href") == "#t=428@2"
        page.reload(wait_until="load")
        assert sliders.nth(1).get_attribute("aria-valuetext") == "t = 428"


# -- search, and what a page weighs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["CFG", "0.18215"])
def test_search_finds_names_and_numbers_and_quotes_no_latex(asked, desk, address):
    with desk.new_page() as page:
        page.goto(f"{address}search.html?q={asked}", wait_until="load")
        page.locator("#search-results li").first.wait_for()
        said = page.locator("#search-results").inner_text()
        assert "Concepts" in said
        page.wait_for_function("document.querySelector('#search-results p.context')")
        assert "\\" not in page.locator("#search-results").inner_text()


def test_pages_are_light_and_formulas_are_set_beforehand(browser, address):
    with browser.new_context(viewport=DESKTOP) as context, visit(context, address, "lesson") as page:
        assert sum(size for _, size in loaded(page)) < 1.5e6
        assert page.evaluate("window.MathJax === undefined") and page.locator(".math .katex").count() == 1
        assert page.evaluate("document.fonts.check('16px KaTeX_Math')")
        hidden = page.locator("sd-trip > div > img").first
        assert hidden.count() == 0 or not hidden.evaluate("node => node.complete && node.naturalWidth > 0")
