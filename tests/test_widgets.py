"""The explorers: quick under the hand, never behind it, honest about errors, and useful without a kernel."""

import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time

import nbformat
import pytest
import torch
from PIL import Image

from sdlearn import attention, autoencoder
from sdlearn.pictures import to_images, to_tensor
from sdlearn.sampling import text_to_image
from sdlearn.show import widgets
from sdlearn.show.widgets import Explorer, Frame

ipywidgets = pytest.importorskip("ipywidgets")
GREY = Image.new("RGB", (8, 8), "grey")
FIRST = Frame(1, "first", lambda: GREY)


def wait(explorer, seconds=60):
    end = time.monotonic() + seconds
    while explorer._thread is not None and explorer._thread.is_alive():
        assert time.monotonic() < end, "the explorer did not come to rest"
        time.sleep(0.01)


def small_explorer(work):
    controls = {"seed": ipywidgets.IntSlider(0, 0, 100)}
    return Explorer(work, lambda w: controls, FIRST, widgets._scrubbed([FIRST], "grey"))


@pytest.fixture(scope="module")
def apple(emoji):
    return Image.new("RGB", (emoji.width, emoji.height), "red")


# -- one thread, the newest wish ---------------------------------------------------------------------------------------


def test_a_burst_of_changes_is_one_run_with_the_last_values():
    asked = []

    def work(seed):
        asked.append(seed)
        yield Frame(1, f"seed {seed}", lambda: GREY)

    explorer = small_explorer(work)
    for seed in range(1, 20):
        explorer.controls["seed"].value = seed
    wait(explorer)
    assert asked == [19] and "seed 19" in explorer.message.value


def test_stale_work_stops_at_its_next_frame_and_the_newest_is_served():
    started, taken = threading.Event(), []

    def work(seed):
        for k in range(200):
            taken.append(seed)
            started.set()
            time.sleep(0.01)
            yield Frame(k / 200, f"seed {seed}", lambda: GREY)
            if seed == 2 and k == 3:
                return

    explorer = small_explorer(work)
    explorer.controls["seed"].value = 1
    assert started.wait(30)
    explorer.controls["seed"].value = 2
    wait(explorer)
    assert taken.count(1) < 200 and taken[-4:] == [2] * 4
    assert "seed 2" in explorer.message.value


def test_progress_and_pictures_come_while_it_draws():
    seen = []

    def work(seed):
        for k in range(1, 4):
            time.sleep(widgets.REFRESH * 1.2)
            yield Frame(k / 3, f"step {k}", lambda k=k: Image.new("RGB", (8, 8), (k, 0, 0)))

    explorer = small_explorer(work)
    explorer.picture.observe(lambda change: seen.append(explorer.progress.value), "value")
    explorer.redraw()
    wait(explorer)
    assert [round(done, 2) for done in seen[:3]] == [0.33, 0.67, 1]


def test_an_error_is_said_in_place_and_the_next_change_draws_again():
    def work(seed):
        if seed == 1:
            raise ValueError("no such <sampler>")
        yield Frame(1, "drawn", lambda: GREY)

    explorer = small_explorer(work)
    explorer.controls["seed"].value = 1
    wait(explorer)
    assert 'role="alert"' in explorer.message.value and "no such &lt;sampler&gt;" in explorer.message.value
    explorer.controls["seed"].value = 2
    wait(explorer)
    assert "alert" not in explorer.message.value and "drawn" in explorer.message.value


# -- the four explorers ------------------------------------------------------------------------------------------------


def shown(explorer):
    return Image.open(io.BytesIO(explorer.picture.value)).convert("RGB")


def test_prompt_explorer_ends_in_the_picture_that_text_to_image_draws(emoji):
    import sdlearn

    explorer = widgets.prompt_explorer(emoji, num_inference_steps=3)
    explorer.controls["seed"].value = 5
    wait(explorer)
    settings = {name: control.value for name, control in explorer.controls.items()}
    expected = sdlearn.text_to_image(emoji, **settings | {"negative_prompt": None}, progress=False)
    assert shown(explorer).resize(expected.size, Image.Resampling.NEAREST).tobytes() == expected.tobytes()


def test_noise_explorer_shows_the_formula_of_its_timestep(emoji, apple):
    explorer = widgets.noise_explorer(emoji, apple)
    explorer.controls["timestep"].value = 0
    wait(explorer)
    assert f"t = 0: {float(emoji.schedule.signal[0]):.3f}" in explorer.message.value
    nearly_clean = to_tensor(shown(explorer)) - to_tensor(apple.resize(shown(explorer).size))
    assert nearly_clean.abs().mean() < 0.05
    explorer.controls["timestep"].value = emoji.schedule.num_train_timesteps - 1
    wait(explorer)
    assert to_tensor(shown(explorer)).std() > 0.5


def test_token_explorer_names_pieces_and_neighbours(emoji):
    explorer = widgets.token_explorer(emoji)
    explorer.controls["prompt"].value = "a cat snorfleblat"
    wait(explorer)
    assert re.search(r"cat: \w+ \w+ \w+; snor: none", explorer.message.value)
    explorer.controls["prompt"].value = ""
    wait(explorer)
    assert "empty prompt" in explorer.message.value


def test_attention_explorer_shows_each_token_and_listens_to_no_one_else(emoji):
    explorer = widgets.attention_explorer(emoji, "a cat", num_inference_steps=2)
    before = explorer.picture.value
    explorer.controls["prompt"].value = "a dog and a cat"
    wait(explorer)
    assert re.search(r"padding gets most: \d+% of the attention", explorer.message.value)
    assert explorer.picture.value != before
    assert [len(row) for row in explorer.fallback.frames] == [2] * 5  # two marks, two words and the padding
    assert not any(isinstance(now, attention.Watched) for now in emoji.unet.attn_processors.values())


def test_steps_explorer_shows_what_both_models_draw(emoji):
    explorer = widgets.steps_explorer(emoji, emoji, "a cat")
    explorer.controls["num_inference_steps"].value = 3
    wait(explorer)
    asked = {"seed": 1, "num_inference_steps": 3, "progress": False}
    plain = text_to_image(emoji, "a cat", sampler="ddim", spacing="trailing", guidance_scale=4.0, **asked)
    jumps = text_to_image(emoji, "a cat", sampler="lcm", guidance_scale=1.0, **asked)
    seen = shown(explorer)
    assert seen.crop((0, 0, *plain.size)).tobytes() == plain.tobytes()
    assert seen.crop((seen.width - jumps.width, 0, *seen.size)).tobytes() == jumps.tobytes()
    assert "3 steps" in explorer.message.value and len(explorer.fallback.frames) == 4


def test_memory_explorer_counts_what_the_arithmetic_says(emoji):
    explorer = widgets.memory_explorer(emoji)
    assert "sd-1.4, float16, 1 at once: 3.4 GiB, fits from 8 GB on" in explorer.message.value
    explorer.controls["low_memory"].value = True
    wait(explorer)
    assert "1 at once, low_memory: 1.8 GiB, fits from 4 GB on" in explorer.message.value
    explorer.controls["name"].value, explorer.controls["pictures"].value = "emoji", 16
    wait(explorer)
    assert re.search(r"emoji, float16, 16 at once, low_memory: 0\.\d GiB", explorer.message.value)
    assert len(explorer.fallback.frames) == 5


def test_img2img_explorer_starts_from_picture_sketch_and_upload(emoji, apple):
    explorer = widgets.img2img_explorer(emoji, apple, num_inference_steps=4)
    panel = explorer.box.children[0].children
    cells, upload = panel[-2].children, panel[-1]
    explorer.controls["strength"].value = 0
    wait(explorer)
    from_picture = explorer.picture.value
    cells[9].click()
    wait(explorer)
    assert explorer.controls["source"].value == "sketch" and explorer.picture.value != from_picture
    file = io.BytesIO()
    Image.new("RGB", (300, 200), "blue").save(file, "png")
    content = file.getvalue()
    if ipywidgets.__version__.startswith("7"):
        upload.set_trait("value", {"blue.png": {"metadata": {"name": "blue.png"}, "content": content}})
    else:
        blue = {"name": "blue.png", "type": "image/png", "size": len(content), "content": memoryview(content)}
        upload.value = ({**blue, "last_modified": __import__("datetime").datetime.now()},)
    wait(explorer)
    assert explorer.controls["source"].value == "upload"
    blue = Image.new("RGB", apple.size, "blue")
    round_trip = to_images(autoencoder.decode(emoji, autoencoder.encode(emoji, blue)))[0]
    assert shown(explorer).resize(blue.size, Image.Resampling.NEAREST).tobytes() == round_trip.tobytes()


def test_img2img_explorer_asks_for_the_upload_that_is_missing(emoji, apple):
    explorer = widgets.img2img_explorer(emoji, apple, num_inference_steps=2)
    explorer.controls["source"].value = "upload"
    wait(explorer)
    assert "press Upload" in explorer.message.value


def test_an_upload_that_is_no_picture_is_said(emoji, apple):
    explorer = widgets.img2img_explorer(emoji, apple, num_inference_steps=1)
    upload = explorer.box.children[0].children[-1]
    content = b"no picture at all"
    if ipywidgets.__version__.startswith("7"):
        upload.set_trait("value", {"a.txt": {"metadata": {"name": "a.txt"}, "content": content}})
    else:
        file = {"name": "a.txt", "type": "text/plain", "size": len(content), "content": memoryview(content)}
        upload.value = ({**file, "last_modified": __import__("datetime").datetime.now()},)
    wait(explorer)
    assert "no picture that Pillow can read" in explorer.message.value


@pytest.mark.parametrize("typed", ["red", "#f00", "#ff0000"])
def test_a_colour_paints_cell_and_sketch_however_it_is_written(emoji, apple, typed):
    explorer = widgets.img2img_explorer(emoji, apple, num_inference_steps=1)
    picker, board = explorer.box.children[0].children[-3:-1]
    explorer.controls["strength"].value = 0
    picker.value = typed
    for cell in board.children:
        cell.click()
    wait(explorer)
    red = Image.new("RGB", apple.size, "red")
    round_trip = to_images(autoencoder.decode(emoji, autoencoder.encode(emoji, red)))[0]
    assert shown(explorer).resize(red.size, Image.Resampling.NEAREST).tobytes() == round_trip.tobytes()
    assert board.children[0].style.button_color == typed


LEFT = "####...."  # a line of a hole, shorter than the picture: what is missing is kept


def test_inpaint_explorer_fills_the_hole_and_keeps_what_is_outside(emoji, apple):
    explorer = widgets.inpaint_explorer(emoji, apple, "an ink cat", num_inference_steps=3)
    explorer.controls["hole"].value = "\n".join([LEFT] * 4)
    wait(explorer)
    f = emoji.vae_factor
    filled = shown(explorer).resize(apple.size, Image.Resampling.NEAREST)
    inside = (0, 0, 4 * f, 4 * f)
    assert filled.crop(inside).tobytes() != apple.crop(inside).tobytes()
    filled.paste(apple.crop(inside), inside)
    assert filled.tobytes() == apple.tobytes(), "outside the hole every pixel is the picture's own"
    assert "after 3 steps" in explorer.message.value


def test_inpaint_explorer_asks_the_same_as_inpaint(emoji, apple):
    import sdlearn

    rows, columns = emoji.latent_shape()[1:]
    where = Image.new("L", apple.size)
    where.paste(255, (0, 0, apple.width // 2, apple.height))
    explorer = widgets.inpaint_explorer(emoji, apple, "an ink cat", seed=4, num_inference_steps=3)
    expected = sdlearn.inpaint(emoji, apple, where, "an ink cat", num_inference_steps=3, guidance_scale=4.0,
                               latents=torch.randn(1, 4, rows, columns, generator=torch.Generator().manual_seed(4)),
                               seed=4)  # fmt: skip
    apart = to_tensor(shown(explorer).resize(apple.size, Image.Resampling.NEAREST)) - to_tensor(expected)
    assert apart.abs().max() < 0.1  # all that differs is the encoder's draw, for which the explorer takes the mean


@pytest.mark.parametrize(
    ("typed", "words"),
    [("", "no hole yet"), ("....", "no hole yet"), ("#" * 99, "at most"), ("#\n" * 99, "at most"), ("#x", "# where")],
)
def test_a_hole_that_is_none_is_said(emoji, apple, typed, words):
    explorer = widgets.inpaint_explorer(emoji, apple, num_inference_steps=2)
    explorer.controls["hole"].value = typed
    wait(explorer)
    assert 'role="alert"' in explorer.message.value and words in explorer.message.value


def test_sliders_reach_as_far_as_what_they_begin_with(emoji):
    explorer = widgets.prompt_explorer(emoji, seed=500, num_inference_steps=1, guidance_scale=0.5)
    values = {name: control.value for name, control in explorer.controls.items()}
    assert (values["seed"], values["guidance_scale"]) == (500, 0.5)
    steps = widgets._slider(ipywidgets.IntSlider, "steps", 80, 1, 50)
    assert (steps.value, steps.max) == (80, 80)


# -- without a kernel, and with one ------------------------------------------------------------------------------------


def test_without_ipywidgets_the_scrubber_is_shown(emoji, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    displayed = []
    monkeypatch.setattr("IPython.display.display", displayed.append)
    explorer = widgets.prompt_explorer(emoji, num_inference_steps=2)
    explorer._ipython_display_()
    assert displayed == [explorer.fallback]


def test_an_executed_notebook_carries_widget_and_scrubber(emoji, monkeypatch):
    displayed = []
    monkeypatch.setattr("IPython.display.display", displayed.append)
    explorer = widgets.token_explorer(emoji)
    explorer._ipython_display_()
    box, still = displayed
    assert box is explorer.box and explorer.fallback.html in still.data


@pytest.fixture
def lab(tmp_path, request):
    """JupyterLab on this machine with a notebook that shows the prompt explorer, or what its parameter says."""
    pytest.importorskip("jupyterlab")
    code = "import sdlearn\nfrom sdlearn import widgets\n\nsdlearn.quiet()\nsd = sdlearn.load('emoji')\n"
    shows = getattr(request, "param", "widgets.prompt_explorer(sd, num_inference_steps=4)")
    cell = nbformat.v4.new_code_cell(code + shows)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=kernel), tmp_path / "live.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += [f"--ServerApp.root_dir={tmp_path}", "--IdentityProvider.token=", "--ServerApp.disable_check_xsrf=True"]
    folders = {name: str(tmp_path / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")}
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **folders})
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/lab/tree/live.ipynb"
    finally:
        server.terminate()
        server.wait(30)


def run_first_cell(page, tries=30):
    """JupyterLab calls a kernel idle before it is connected to it, and drops what it is told to run until then.

    So it is told again until the prompt [ ] has become [*].
    """
    from playwright.sync_api import TimeoutError

    cell = page.locator(".jp-CodeCell").first
    cell.wait_for(timeout=120_000)
    running = cell.locator(".jp-InputPrompt").filter(has_text=re.compile(r"\[[*\d]+\]"))
    for _ in range(tries):
        cell.locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        try:
            return running.wait_for(timeout=4_000)
        except TimeoutError:
            continue
    pytest.fail(f"JupyterLab ran nothing, told {tries} times")


def test_in_jupyterlab_a_slider_draws_a_new_picture(lab, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(lab)
    run_first_cell(page)
    picture = page.locator("[class*=explorer-] img").first
    picture.wait_for(timeout=180_000)
    before = picture.get_attribute("src")
    still = page.locator("div[id^=explorer-]")
    still.wait_for(state="hidden", timeout=20_000)
    page.locator("[class*=explorer-] .noUi-handle").first.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("before => document.querySelector('[class*=explorer-] img').src !== before", arg=before)
    page.locator("[class*=explorer-]", has_text="after 4 steps").first.wait_for(timeout=60_000)
    page.close()


RED = "widgets.inpaint_explorer(sd, Image.new('RGB', (sd.width, sd.height), 'red'), 'a fox', num_inference_steps=2)"


@pytest.mark.parametrize("lab", [f"from PIL import Image\n{RED}"], indirect=True)
def test_in_jupyterlab_a_hole_is_painted_by_hand_and_by_keyboard(lab, browser):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(lab)
    run_first_cell(page)
    board, typed = page.locator(".sdlearn-board canvas"), page.locator(".sdlearn-hole textarea")
    board.wait_for(timeout=180_000)
    assert not typed.is_visible()
    page.get_by_role("button", name="Wipe the board").click()
    page.locator("[class*=explorer-] [role=alert]", has_text="no hole yet").wait_for(timeout=60_000)
    box = board.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + 5)  # one quick move: no cell is left out
    page.mouse.up()
    lines = typed.input_value().split("\n")
    assert set(lines[0]) == {"#"} and not any("#" in line for line in lines[2:])
    page.locator("[class*=explorer-]", has_text="after 2 steps").first.wait_for(timeout=60_000)
    before = typed.input_value().count("#")
    board.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press(" ")
    assert typed.input_value().count("#") > before
    page.close()


def test_the_site_keeps_the_scrubber_and_no_widget(tmp_path, emoji):
    from sdlearn.tools import book

    view = {"output_type": "display_data", "data": {book.WIDGET: {"model_id": "x"}, "text/plain": "VBox()"}}
    still = {"output_type": "display_data", "data": {"text/html": "<div>scrubber</div>"}}
    cell = {"cell_type": "code", "metadata": {}, "source": "explorer"}
    cells = [{**cell, "outputs": [view, still]}]
    assert book.for_site({"cells": json.loads(json.dumps(cells)), "metadata": {"widgets": {}}}) == {
        "cells": [{**cell, "outputs": [still]}],
        "metadata": {},
    }
