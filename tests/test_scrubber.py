"""The scrubber's one HTML output: whole, self-contained, safe with any text, exact to the pixel."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from sdlearn.show import figures, paper
from sdlearn.show.scrubber import compare, scrub, scrub_plane


def noise(size, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


FRAMES = [noise(16, k) for k in range(3)]
EVIL = '</script><script>alert("1")</script><!-- & <b> \u2028'


class Page(HTMLParser):
    """The elements of a page, with their attributes, and the text inside scripts."""

    def __init__(self, page):
        super().__init__()
        self.elements, self.scripts, self.open = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] == "script":
            self.scripts.append(text)


def data_of(scrubber):
    """What the script is given: the argument of its one function."""
    [script] = Page(scrubber.html).scripts
    return json.loads(script[script.rindex("})({") + 3 : script.rindex(");")])


def decoded(uri):
    kind, content = uri.split(";base64,")
    assert kind in ("data:image/png", "data:image/webp")
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.mark.parametrize("size", [16, 64, 200])
def test_frames_decode_to_the_very_pixels(size):
    frames = [noise(size, k) for k in range(3)]
    data = data_of(scrub(frames))
    for frame, [place] in zip(frames, data["frames"], strict=True):
        assert (np.asarray(decoded(data["uris"][place])) == np.asarray(frame)).all()


def test_a_picture_that_returns_is_carried_once():
    still = noise(16, 9)
    data = data_of(scrub([[frame, still] for frame in FRAMES]))
    assert len(data["uris"]) == 4
    assert data["frames"] == [[0, 1], [2, 1], [3, 1]]


def test_the_output_asks_nothing_of_the_network():
    for made in (scrub(FRAMES, caption="c"), compare(*FRAMES[:2])):
        outside = re.sub(r"data:image/[a-z]+;base64,[A-Za-z0-9+/=]+", "", made.html)
        addresses = re.findall(r"https?://[^\"'` ]+", outside)
        assert addresses == ["http://www.w3.org/2000/svg"] * 2  # a name, which no browser fetches
        assert not re.search(r"\b(fetch|XMLHttpRequest|import|require|eval|innerHTML)\b", outside)
        for tag, attributes in Page(made.html).elements:
            assert tag not in ("link", "iframe", "object")
            assert attributes.get("src", "data:").startswith("data:")


def test_texts_cannot_leave_their_place():
    for made in (
        scrub(FRAMES, [EVIL] * 3, names=[EVIL], caption=EVIL, alt=EVIL),
        compare(*FRAMES[:2], labels=[EVIL, EVIL], caption=EVIL),
    ):
        page = Page(made.html)
        assert [tag for tag, _ in page.elements] == ["div", "img", "p", "script"]
        assert page.open == [], "every element is closed"
        assert page.elements[1][1]["alt"] == EVIL
        data = data_of(made)
        assert data["caption"] == EVIL and set(data["labels"]) == {EVIL}
        assert "<!--" not in page.scripts[0]


def test_every_output_has_its_own_id():
    ids = [Page(scrub(FRAMES).html).elements[0][1]["id"] for _ in range(5)]
    assert len(set(ids)) == 5
    assert data_of(made := scrub(FRAMES))["id"] == Page(made.html).elements[0][1]["id"]


def test_a_strip_stands_in_where_scripts_do_not_run():
    made = scrub([noise(64, k) for k in range(20)], alt="noise")
    _, attributes = next(e for e in Page(made.html).elements if e[0] == "img")
    strip = decoded(attributes["src"])
    assert strip.height == 64 and strip.width == 6 * 68 - 4
    assert (np.asarray(strip)[:, :64] == np.asarray(noise(64, 0))).all()
    assert (np.asarray(strip)[:, -64:] == np.asarray(noise(64, 19))).all()


def test_the_mime_bundle_holds_html_a_png_strip_and_words():
    bundle = scrub(FRAMES, ["a", "b", "c"], caption="three squares")._repr_mimebundle_()
    assert set(bundle) == {"text/html", "image/png", "text/plain"}
    assert Image.open(io.BytesIO(base64.b64decode(bundle["image/png"]))).format == "PNG"
    assert bundle["text/plain"] == "three squares"


@pytest.mark.parametrize("make", [lambda: scrub(FRAMES), lambda: scrub([FRAMES] * 2), lambda: compare(*FRAMES[:2])])
def test_the_strip_shows_every_picture_of_every_frame(make):
    made = make()
    strip = Image.open(io.BytesIO(base64.b64decode(made._repr_mimebundle_()["image/png"])))
    assert strip.size == (20 * len(made.frames) - 4, 20 * len(made.frames[0]) - 4)


def test_small_pictures_grow_by_a_whole_factor_and_large_ones_stay_within_the_page():
    for size, across in ((8, 1), (64, 1), (64, 2), (64, 6)):
        data = data_of(scrub([[noise(size)] * across] * 2))
        assert data["crisp"] and data["shown"] % size == 0 and data["shown"] * across <= 720
    for size, across, shown in (
        (96, 1, 288),
        (128, 1, 320),
        (128, 2, 320),
        (512, 1, 512),
        (512, 2, 356),
        (1024, 1, 720),
    ):
        data = data_of(scrub([[Image.new("RGB", (size, size))] * across] * 2))
        assert not data["crisp"] and data["shown"] == shown and shown * across <= 720


def test_frames_may_be_figures_or_tensors():
    made = scrub([figures.curves({"a": [1, k]}, xlabel="x", ylabel="y") for k in (2, 3)])
    assert made.frames[0][0].size == made.frames[1][0].size
    assert scrub(list(torch.zeros(2, 3, 8, 8))).frames[1][0].size == (8, 8)


def test_a_plane_has_a_label_for_every_place_and_carries_its_sides():
    made = scrub_plane([FRAMES[:2], FRAMES[1:]], [5, 10], [1, 7.5], axes=("steps", "guidance"), start=(-1, 1))
    data = data_of(made)
    assert made.labels == [
        "guidance 1, steps 5",
        "guidance 1, steps 10",
        "guidance 7.5, steps 5",
        "guidance 7.5, steps 10",
    ]
    assert (data["kind"], data["start"], data["across"], data["axes"]) == (
        "plane",
        3,
        ["5", "10"],
        ["steps", "guidance"],
    )
    assert len(data["uris"]) == 3 and data["frames"] == [[0], [1], [1], [2]]


def test_frames_that_need_not_be_exact_take_less():
    frames = [noise(128, k) for k in range(3)]
    exact, rough = scrub(frames), scrub(frames, lossless=False)
    assert len(rough.html) < 0.6 * len(exact.html)
    shown = np.asarray(decoded(data_of(rough)["uris"][0]).convert("RGB"), dtype=float)
    assert np.abs(shown - np.asarray(frames[0], dtype=float)).mean() < 60, "unrelated noise is 85 apart"
    still = [Image.new("RGB", (128, 128), colour) for colour in ("red", "blue")]
    assert data_of(scrub(still, lossless=False))["uris"] == data_of(scrub(still))["uris"], "small as it is"


def test_start_counts_from_either_end():
    assert data_of(scrub(FRAMES, start=-1))["start"] == 2
    assert data_of(scrub(FRAMES, start=1))["start"] == 1


def test_save_html_writes_a_page_that_stands_alone(tmp_path):
    made = scrub(FRAMES, caption="<i>")
    made.save_html(tmp_path / "scrub.html")
    text = (tmp_path / "scrub.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and made.html in text and "<title>&lt;i&gt;</title>" in text


BAD = {
    "at least one frame": lambda: scrub([]),
    "1 labels for 3 frames": lambda: scrub(FRAMES, ["a"]),
    "2 names for 1 pictures": lambda: scrub(FRAMES, names=["a", "b"]),
    "3 frames.*not 3": lambda: scrub(FRAMES, start=3),
    "fps.*0": lambda: scrub(FRAMES, fps=0),
    "one size": lambda: compare(noise(8), noise(16)),
    "2 labels across for 1 pictures": lambda: scrub_plane([FRAMES[:1]], [1, 2], [1], axes=("a", "b")),
    "2 labels down for 1 rows": lambda: scrub_plane([FRAMES], [1, 2, 3], [1, 2], axes=("a", "b")),
    "a place among 1 rows": lambda: scrub_plane([FRAMES], [1, 2, 3], [1], axes=("a", "b"), start=(1, 0)),
    "same number of pictures": lambda: scrub([FRAMES[:1], FRAMES[:2]]),
    "two labels": lambda: compare(*FRAMES[:2], labels=["a"]),
    "NaN": lambda: scrub([torch.full((3, 8, 8), torch.nan)]),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_input_gets_one_clear_sentence(said):
    with pytest.raises(ValueError, match=said) as error:
        BAD[said]()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [(4000, 10), (16390, 4), (4, 16390)])
def test_pictures_of_any_shape_can_be_scrubbed(size):
    frames = [Image.new("RGB", size, colour) for colour in ("red", "blue")]
    assert data_of(scrub(frames))["width"] == size[0]


def test_paths_are_pictures_too_and_one_picture_is_no_sequence(tmp_path):
    files = []
    for k, frame in enumerate(FRAMES):
        files.append(tmp_path / f"{k}.png")
        paper.picture(frame).save(files[-1])
    read = scrub([files[0], str(files[1])])
    assert read.frames[1][0].tobytes() == paper.picture(FRAMES[1]).tobytes()
    for one in (files[0], str(files[0]), paper.picture(FRAMES[0])):
        with pytest.raises(TypeError, match="sequence of pictures"):
            scrub(one)
    assert len(figures.grid(str(files[0])).axes) == 1
    with pytest.raises(FileNotFoundError, match="no picture at"):
        figures.grid(tmp_path / "missing.png")
