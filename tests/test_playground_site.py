"""The playground in a real browser: it draws Python's pictures, shows how, and asks for nothing before it must."""

from __future__ import annotations

import re
import shutil
import urllib.parse

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from test_site import DESKTOP, PHONE, SCRUBBERS, served, violations, visit

import sdlearn
from sdlearn import autoencoder, pictures, sampling
from sdlearn.tools import book, browser, playground

pytest.importorskip("jupyter_book", reason='the book needs its extra: pip install -e ".[test]"')
if browser.missing():
    pytest.skip(browser.missing(), allow_module_level=True)
if not shutil.which("npm"):
    pytest.skip("formulas and the playground take Node.js: install it", allow_module_level=True)

HEAVY = re.compile(r"\.(gz|wasm)$")


@pytest.fixture(scope="module")
def page_alone(emoji, tmp_path_factory):
    """The folder of a site of this page and one other."""
    try:
        playground.fetch(playground.RUNTIME, playground.CACHE)
    except OSError as error:
        pytest.skip(f"onnxruntime-web cannot be had: {error}")
    folder = tmp_path_factory.mktemp("playground")
    lay(folder, playground.stand(folder / "source", book.BUILD / "playground", emoji))
    return folder / "_build" / "html"


def lay(folder, standing):
    source = folder / "source"
    shutil.copytree(book.NOTEBOOKS / "_static", source / "_static", dirs_exist_ok=True)
    (source / "_toc.yml").write_text("format: jb-book\nroot: index\nchapters: [{file: playground}, {file: next}]\n")
    (source / "index.md").write_text("# The course\n", encoding="utf-8")
    (source / "next.md").write_text("# The next\n", encoding="utf-8")
    text = (book.NOTEBOOKS / "playground.md").read_text(encoding="utf-8").replace(playground.PLACE, standing)
    (source / "playground.md").write_text(re.sub(r"\w+\.ipynb", "next.md", text), encoding="utf-8")
    book.make(source, folder)


@pytest.fixture(scope="module")
def address(page_alone):
    with served(page_alone) as address:
        yield address


@pytest.fixture(scope="module")
def desk(browser):
    with browser.new_context(viewport=DESKTOP, color_scheme="light", accept_downloads=True) as context:
        yield context


@pytest.fixture(scope="module")
def desktop(desk, address):
    """The page on a desk, by daylight, where it has drawn once."""
    with visit(desk, address, "playground") as page:
        draw(page, CASES["the first"])
        yield page


# Settings in the words of the page's controls, with what each stands for in a link.
CASES = {
    "the first": {"prompt": "a glossy fox on a teal background", "seed": 7, "steps": 8, "guidance": 4},
    "ddim": {"prompt": "an ink cat", "seed": 1, "steps": 5, "guidance": 7.5, "sampler": "ddim"},
    "fresh noise": {"prompt": "an owl 🦉", "seed": 2**32 - 1, "steps": 4, "guidance": 3, "sampler": "euler_ancestral"},
    "heun": {"prompt": "", "seed": 0, "steps": 3, "guidance": 1, "sampler": "heun"},
    "negative": {"prompt": "a glossy rocket", "not": "blue", "seed": 12, "steps": 4, "guidance": 4, "sampler": "lms"},
}  # fmt: skip
NAMES = {"not": "negative_prompt", "steps": "num_inference_steps", "guidance": "guidance_scale"}


def in_python(case) -> dict:
    return {"sampler": "dpm++2m"} | {NAMES.get(name, name): value for name, value in case.items()}


def draw(page, case) -> dict:
    """Sets the controls as a link does, presses Draw, and returns what the page says that it has drawn."""
    page.evaluate("history.replaceState(null, '', location.pathname)")
    page.evaluate("hash => { location.hash = hash; }", urllib.parse.urlencode({"sampler": "dpm++2m", "not": ""} | case))
    page.wait_for_timeout(100)
    page.evaluate(
        """() => {
        const all = ({detail}) => ({...detail, latents: [...detail.latents], picture: [...detail.picture]});
        window.answer = new Promise((resolve) => document.querySelector("sd-playground").addEventListener(
            "drawn", (event) => resolve(all(event)), {once: true}));
        }"""
    )
    page.get_by_role("button", name="Draw", exact=True).click()
    return page.evaluate("window.answer")


def loaded(page) -> list[list]:
    """Names and bytes of what the page has fetched."""
    return page.evaluate("performance.getEntriesByType('resource').map(r => [r.name, r.encodedBodySize])")


def last_latents(sd, case, **more):
    *_, last = sampling.denoise(sd, **in_python(case), **more, progress=False)
    return last.latents


def assert_same(sd, found, latents):
    difference = (torch.tensor(found["latents"]).reshape(latents.shape) - latents).abs().max().item()
    assert difference < 1e-3, difference
    (picture,) = pictures.to_images(autoencoder.decode(sd, latents))
    shown = np.array(found["picture"], dtype=np.uint8).reshape(sd.height, sd.width, 4)[..., :3]
    assert np.abs(shown.astype(int) - np.asarray(picture).astype(int)).max() <= 1


# -- before anything is pressed ----------------------------------------------------------------------------------------


def test_before_draw_is_pressed_nothing_heavy_is_fetched_and_no_other_host_is_asked(desk, address):
    with visit(desk, address, "playground") as page:
        asked = loaded(page)
        assert not [name for name, _ in asked if HEAVY.search(name)]
        ours = [size for name, size in asked if "/playground/" in name]
        assert len(ours) > 5 and sum(ours) < 80_000, "the page's own light part"
        assert page.troubles == []
        assert page.locator("sd-playground").evaluate("node => node.children.length") == 0, "the scrubber made room"
        noise = page.get_by_role("img", name="Noise, seed 7")
        before = noise.screenshot()
        page.get_by_label("Seed", exact=True).fill("8")
        assert page.get_by_role("img", name="Noise, seed 8").screenshot() != before, "each seed has a noise of its own"


def test_without_scripts_the_page_says_so_and_shows_a_finished_run(browser, address):
    with browser.new_context(viewport=DESKTOP, java_script_enabled=False) as context, context.new_page() as page:
        page.goto(f"{address}playground.html")
        assert page.get_by_text("JavaScript, which is off").is_visible()
        assert page.locator("sd-playground img").first.is_visible()


def test_a_browser_that_lacks_something_is_told_what_and_keeps_the_run(browser, address):
    with browser.new_context(viewport=DESKTOP) as context:
        context.add_init_script("delete window.DecompressionStream")
        with visit(context, address, "playground") as page:
            assert page.get_by_text("too old to draw here (it knows no unpacking)").is_visible()
            page.locator(f"{SCRUBBERS} input[type=range]").press("End")
            assert page.troubles == []


def test_a_site_that_was_built_without_the_runtime_says_so_and_shows_the_run(emoji, tmp_path, monkeypatch, desk):
    def fail(*args):
        raise OSError("There is no network.")

    monkeypatch.setattr(playground, "fetch", fail)
    with pytest.warns(UserWarning, match="instead of drawing: There is no network"):
        standing = playground.stand(tmp_path / "source", tmp_path / "cache", emoji)
    lay(tmp_path, standing)
    with served(tmp_path / "_build" / "html") as address, visit(desk, address, "playground") as page:
        assert page.get_by_text("built without what it takes to draw").is_visible()
        page.locator(f"{SCRUBBERS} input[type=range]").press("End")
        assert page.locator("sd-playground").count() == 0 and page.troubles == []


# -- the picture -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_browser_draws_pythons_picture(name, desktop, emoji):
    case = CASES[name]
    found = draw(desktop, case)
    assert found["settings"] == {"negative_prompt": ""} | in_python(case)
    assert_same(emoji, found, last_latents(emoji, case))
    assert desktop.troubles == []


def test_it_begins_with_a_photograph_as_python_does(desktop, emoji, tmp_path):
    start = Image.effect_noise((emoji.width, emoji.height), 60).convert("RGB")
    start.paste("tomato", (8, 8, emoji.width // 2, emoji.height // 2))
    start.save(tmp_path / "start.png")
    desktop.get_by_label("Draw again at every change").uncheck()
    desktop.get_by_label("a sketch or photograph").check()
    desktop.get_by_label("A photograph to begin with").set_input_files(tmp_path / "start.png")
    desktop.wait_for_timeout(300)
    case = {"prompt": "a glossy fox on a teal background", "seed": 3, "steps": 6, "guidance": 4, "strength": 0.6}
    try:
        found = draw(desktop, case)
        wanted = sdlearn.image_to_image(emoji, start, **in_python(case))
        shown = np.array(found["picture"], dtype=np.uint8).reshape(emoji.height, emoji.width, 4)[..., :3]
        assert np.abs(shown.astype(int) - np.asarray(wanted).astype(int)).max() <= 1
        found = draw(desktop, case | {"strength": 0})
        assert "to latents and back" in desktop.locator(".said").inner_text() or found["milliseconds"] >= 0
    finally:
        desktop.get_by_label("pure noise").check()
        desktop.get_by_label("Draw again at every change").check()
    assert desktop.troubles == []


def test_every_step_is_there_to_see_with_both_answers_and_their_difference(desktop):
    draw(desktop, CASES["the first"])
    slider = desktop.get_by_label("Step", exact=True)
    slider.press("Home")
    assert desktop.get_by_role("img", name="Noise, seed 7").count() == 1
    slider.press("ArrowRight")
    assert "Step 1 of 8" in desktop.locator(".said").inner_text()
    seen = {}
    for panel in ("What it has", "What it believes", "Without your words", "With your words", "The difference"):
        desktop.wait_for_function(
            """(name) => {
            const panel = document.querySelector("sd-playground").shadowRoot.querySelector(`[aria-label^="${name}"]`);
            const {data} = panel.getContext("2d").getImageData(0, 0, panel.width, panel.height);
            return new Set(data).size > 8;
            }""",
            arg=panel,
        )
        seen[panel] = desktop.get_by_role("img", name=panel).screenshot()
    assert len(set(seen.values())) == 5
    slider.press("End")
    assert "a glossy fox" in desktop.locator(".said").inner_text()


def test_play_shows_the_run_again(desktop):
    desktop.get_by_role("button", name="Play").click()
    desktop.wait_for_timeout(300)
    desktop.get_by_role("button", name="Pause").click()
    assert 0 < int(desktop.get_by_label("Step", exact=True).input_value()) < 9


def test_a_word_lights_up_where_it_was_read(desktop):
    def dark():
        read = "n => n.getContext('2d').getImageData(0, 0, n.width, n.height).data.filter((v, k) => k % 4 === 3)"
        return desktop.locator("canvas.map").evaluate(f"n => [...({read})(n)]")

    draw(desktop, CASES["the first"])
    desktop.mouse.move(0, 0)
    assert set(dark()) == {0}
    desktop.get_by_role("button", name=re.compile("^fox: token")).hover()
    fox = dark()
    assert len(set(fox)) > 4 and min(fox) == 0
    desktop.get_by_role("button", name=re.compile("^background: token")).focus()
    desktop.mouse.move(0, 0)
    assert dark() != fox
    desktop.get_by_label("Step", exact=True).focus()
    assert set(dark()) == {0}


def test_pieces_are_shown_as_they_are_typed_and_strangers_are_marked(desktop):
    desktop.get_by_label("Draw again at every change").uncheck()
    prompt = desktop.get_by_label("Prompt", exact=True)
    prompt.fill("fox snorfleblat")
    pieces = desktop.locator(".piece")
    assert pieces.first.inner_text() == "fox" and pieces.count() > 3
    assert desktop.locator(".piece.strange").count() > 0
    prompt.fill("fox " * 90)
    assert desktop.get_by_text("no room for: fox fox").is_visible()
    prompt.fill("a glossy fox on a teal background")
    desktop.get_by_label("Draw again at every change").check()


def test_a_change_draws_again(desktop):
    draw(desktop, CASES["the first"])
    found = "document.querySelector('sd-playground').drawn"
    desktop.get_by_label("Guidance").fill("6")
    desktop.wait_for_function(f"{found}.guidance_scale === 6")
    desktop.get_by_role("button", name="Another seed").click()
    desktop.wait_for_function(f"{found}.seed !== 7")
    desktop.wait_for_function("!document.querySelector('sd-playground').hasAttribute('busy')")


def test_it_draws_while_one_types_with_the_lora_for_few_steps(desktop, emoji):
    def next_picture(act):
        desktop.evaluate(
            """() => {
            const plain = ({detail}) => ({...detail, picture: [...detail.picture], latents: 0});
            window.answer = new Promise((resolve) => document.querySelector("sd-playground").addEventListener(
                "drawn", (event) => resolve(plain(event)), {once: true}));
            }"""
        )
        act()
        return desktop.evaluate("window.answer")

    box, prompt = desktop.get_by_label("Draw while I type"), desktop.get_by_label("Prompt", exact=True)
    draw(desktop, CASES["the first"])
    fast = sdlearn.load("emoji", device="cpu", dtype="float32", lora=browser.FEW)
    try:
        next_picture(box.check)
        found = next_picture(lambda: prompt.fill("an ink cat on a yellow background"))  # and nothing is pressed
        wanted = sdlearn.text_to_image(
            fast, "an ink cat on a yellow background", seed=7, **browser.FEW_HOW, progress=False
        )
        shown = np.array(found["picture"], dtype=np.uint8).reshape(emoji.height, emoji.width, 4)[..., :3]
        assert np.abs(shown.astype(int) - np.asarray(wanted).astype(int)).mean() < 2
        print(f"4 steps, while others work, too: {found['milliseconds'] / 1000:.2f} s")
        assert 'sdlearn.load(lora="few-steps")' in desktop.get_by_label("The same in Python").inner_text()
        assert desktop.get_by_role("slider", name="Steps", exact=True).is_disabled()
    finally:
        box.uncheck()
    desktop.wait_for_function("!document.querySelector('sd-playground').hasAttribute('busy')")
    assert not desktop.get_by_role("slider", name="Steps", exact=True).is_disabled()


# -- what one takes away -----------------------------------------------------------------------------------------------


def test_a_link_opens_the_page_with_its_settings_and_waits_for_draw(desk, address):
    case = CASES["negative"]
    with visit(desk, address, "playground") as page:
        page.goto(f"{address}playground.html#{urllib.parse.urlencode(case)}")
        page.reload(wait_until="networkidle")
        assert page.get_by_label("Prompt", exact=True).input_value() == case["prompt"]
        assert page.get_by_label("Leave out").input_value() == "blue"
        assert page.get_by_label("Sampler").input_value() == "lms"
        assert page.evaluate("document.querySelector('sd-playground').link()").endswith(
            "#prompt=a+glossy+rocket&not=blue&seed=12&steps=4&guidance=4&sampler=lms"
        )
        assert not [name for name, _ in loaded(page) if HEAVY.search(name)]


def test_a_saved_picture_is_drawn_again_from_its_own_settings(desktop, emoji, tmp_path):
    case = CASES["negative"]
    draw(desktop, case)
    with desktop.expect_download() as waiting:
        desktop.get_by_role("button", name="Save the picture").click()
    path = tmp_path / waiting.value.suggested_filename
    assert path.name == "a-glossy-rocket-12.png"
    waiting.value.save_as(path)
    found = sdlearn.read_settings(path)
    assert found | in_python(case) == found
    again = sdlearn.text_to_image(emoji, **found)
    with Image.open(path) as saved:
        assert np.abs(np.asarray(saved.convert("RGB")).astype(int) - np.asarray(again).astype(int)).max() <= 1


def test_the_line_of_python_is_shown_and_copied(desk, desktop, address):
    desk.grant_permissions(["clipboard-read", "clipboard-write"], origin=address)
    draw(desktop, CASES["ddim"])
    desktop.get_by_role("button", name="Copy the Python").click()
    lines = desktop.evaluate("navigator.clipboard.readText()")
    assert lines.endswith(
        'sdlearn.text_to_image(sd, "an ink cat", seed=1, num_inference_steps=5, guidance_scale=7.5, sampler="ddim")'
    )
    assert desktop.get_by_label("The same in Python").inner_text() == lines
    desktop.get_by_role("button", name="Copy a link").click()
    assert "sampler=ddim" in desktop.evaluate("navigator.clipboard.readText()")


# -- for everyone ------------------------------------------------------------------------------------------------------


def test_it_passes_axe_by_day(desktop):
    draw(desktop, CASES["the first"])
    assert not violations(desktop)


def test_on_a_phone_in_the_dark_it_fits_and_passes_axe_with_the_sheet_open(browser, address):
    with (
        browser.new_context(viewport=PHONE, has_touch=True, color_scheme="dark") as context,
        visit(context, address, "playground") as page,
    ):
        draw(page, CASES["heun"])
        page.get_by_label("a sketch or photograph").check()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        assert not violations(page)
        sizes = (
            "nodes => nodes.map(n => n.getBoundingClientRect()).map(b => Math.min(b.width, b.height)).filter(x => x)"
        )
        assert min(page.locator("sd-playground button").evaluate_all(sizes)) >= 24, "large enough for a finger"
        assert page.troubles == []


def test_it_is_played_with_the_keys_alone(browser, address):
    with browser.new_context(viewport=DESKTOP) as context, visit(context, address, "playground") as page:
        page.get_by_label("Prompt", exact=True).focus()
        page.evaluate("document.querySelector('sd-playground').inputs.num_inference_steps.value = 2")
        page.evaluate(
            "void (window.answer = new Promise(r => document.querySelector('sd-playground')"
            ".addEventListener('drawn', () => r(true), {once: true})))"
        )
        page.keyboard.press("Enter")
        assert page.evaluate("window.answer")
        page.get_by_label("a sketch or photograph").check()
        sheet = page.get_by_role("application")
        sheet.focus()
        read = "node => node.getContext('2d').getImageData(0, 0, node.width, node.height).data.reduce((a, b) => a + b)"
        before = sheet.evaluate(read)
        page.keyboard.press("ArrowLeft")
        page.keyboard.press(" ")
        assert sheet.evaluate(read) < before, "paint on white"
        assert page.get_by_role("status").first.inner_text(), "what happens is said"


def test_it_draws_without_a_connection_after_the_first_visit(browser, page_alone, emoji):
    with browser.new_context(viewport=DESKTOP) as context:
        with served(page_alone) as address:
            page = context.new_page()
            page.goto(f"{address}playground.html", wait_until="networkidle")
            draw(page, CASES["heun"])
            page.wait_for_selector("sd-playground[settled]", state="attached")
        context.new_cdp_session(page).send("Network.clearBrowserCache")  # what a browser happens to have is no promise
        context.set_offline(True)  # and the host is gone, too
        page.goto(f"{address}playground.html", wait_until="load")
        page.wait_for_function("document.querySelector('sd-playground').shadowRoot")
        assert_same(emoji, draw(page, CASES["heun"]), last_latents(emoji, CASES["heun"]))


def processor_seconds() -> float:
    """Of the browsers that the tests have started."""
    children = psutil.Process().children(recursive=True)
    return sum(sum(child.cpu_times()[:2]) for child in children if "chrom" in child.name())


def test_budgets(browser, address):
    """Of bytes, and of the processor's seconds; those by the clock are printed (pytest -rP), since others work, too."""
    with browser.new_context(viewport=DESKTOP) as context, visit(context, address, "playground") as page:
        case = {**CASES["the first"], "steps": 25}
        start = processor_seconds()
        found = draw(page, case)
        before = processor_seconds()
        again = draw(page, case | {"seed": 8})
        first, spent = before - start, processor_seconds() - before
        total = sum(size for name, size in loaded(page) if not HEAVY.search(name))
        manifest = page.evaluate("document.querySelector('sd-playground').manifest")
        names = ("runtime", "script", "merges", "text", "unet", "decoder", "few")
        wire = sum(manifest["files"][name]["bytes"] for name in names) + sum(
            manifest["samplers"][name]["bytes"] for name in ("dpm++2m", "lcm")
        )
        assert wire < 20e6
        assert total < 2.5e6
        clock = [one["milliseconds"] / 1000 for one in (found, again)]
        print(f"page before Draw {total / 1e6:.2f} MB; model and runtime {wire / 1e6:.2f} MB. Processor seconds of 25 "
              f"steps: the first time {first:.1f}, then {spent:.1f}; by the clock, once the model was there, "
              f"{clock[0]:.1f} and {clock[1]:.1f}.")  # fmt: skip
        assert first < 20
        assert spent < 10


def test_the_page_holds_the_place_that_the_playground_takes():
    assert (book.NOTEBOOKS / "playground.md").read_text(encoding="utf-8").count(playground.PLACE) == 1
