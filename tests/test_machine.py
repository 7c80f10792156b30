"""The map of the machine: true of the model in use, marked where the lesson is, several of them at peace on a page."""

import re
from xml.etree import ElementTree

import pytest
import torch

from sdlearn import autoencoder, text
from sdlearn.show import figures
from sdlearn.show.machine import STATIONS

SVG = "{http://www.w3.org/2000/svg}"


def drawn(sd, *args, **options):
    """The map as a tree, which it is only if its XML is well formed."""
    return ElementTree.fromstring(figures.machine(sd, *args, **options).html)


def texts(tree):
    return [node.text for node in tree.iter(SVG + "text")]


def ids(tree):
    return [node.get("id") for node in tree.iter() if node.get("id")]


def station(tree, name):
    [found] = [node for node in tree.iter() if name in node.get("class", "").split()]
    return found


@pytest.fixture(params=["emoji", "random_sd"])
def sd(request):
    return request.getfixturevalue(request.param)


def test_the_shapes_are_those_of_the_models_own_tensors(sd):
    rows = text.token_ids(sd, "a house")
    states = text.encode_ids(sd, rows)
    latents = autoencoder.encode(sd, torch.zeros(1, 3, sd.height, sd.width))
    picture = autoencoder.decode(sd, latents)
    written = texts(drawn(sd))
    assert f"ids {tuple(rows.shape)}" in written
    assert f"states {tuple(states.shape)}" in written
    assert written.count(str(tuple(latents.shape))) >= 3
    assert written.count(str(tuple(picture.shape[1:]))) >= 3
    assert f"{sd.schedule.betas.numel()} timesteps" in written


@pytest.mark.parametrize("here", STATIONS)
def test_the_lessons_station_is_marked_in_words_and_in_colour(emoji, here):
    tree = drawn(emoji, here)
    number, what = STATIONS[here]
    marked = [node for node in tree.iter() if "here" in node.get("class", "").split()]
    assert marked == [station(tree, here)]
    assert texts(marked[0]).count(f"{number} · you are here") == 1
    assert sum("you are here" in words for words in texts(tree)) == 1
    assert tree.find(SVG + "svg").get("aria-label").endswith(f"You are here: {what} (notebook {number}).")


@pytest.mark.parametrize("here", STATIONS)
def test_a_narrow_screen_begins_with_the_half_that_the_lesson_is_in(emoji, here):
    tree = drawn(emoji, here)
    frame = station(tree, here).find(SVG + "rect")
    middle = float(frame.get("x")) + float(frame.get("width")) / 2
    assert ("far" in tree.get("class").split()) == (middle > 400)


def test_every_station_bears_the_number_of_its_notebook(emoji):
    tree = drawn(emoji)
    for name, (number, _) in STATIONS.items():
        assert texts(station(tree, name)).count(number) == 1
    assert "here" not in re.sub(r"<style>.*?</style>", "", figures.machine(emoji).html, flags=re.DOTALL)


def test_another_station_is_an_error_that_lists_the_right_ones(emoji):
    for wrong in (lambda: figures.machine(emoji, here="unet"), lambda: figures.machine(emoji, links={"unet": "#"})):
        with pytest.raises(ValueError, match="'unet'") as error:
            wrong()
        assert all(repr(name) in str(error.value) for name in STATIONS) and "\n" not in str(error.value)
    with pytest.raises(TypeError, match="must be a model"):
        figures.machine("emoji")


def test_several_maps_on_a_page_do_not_clash(emoji):
    trees = [drawn(emoji, here) for here in ("text", "text", None)]
    known = [name for tree in trees for name in ids(tree)]
    assert len(known) == len(set(known)) == 3 * (len(STATIONS) + 1)
    for tree in trees:
        used = {node.get("marker-end") for node in tree.iter() if node.get("marker-end")}
        assert used == {f"url(#{name})" for name in ids(tree) if name.endswith("-tip")}


def test_links_make_stations_that_a_screen_reader_finds(emoji):
    links = {name: f"0{k}.html?a=1&b='2'" for k, name in enumerate(STATIONS)}
    tree = drawn(emoji, links=links)
    assert {node.get("href"): node.get("aria-label") for node in tree.iter(SVG + "a")} == {
        links[name]: f"Notebook {number}: {what}" for name, (number, what) in STATIONS.items()
    }
    assert not any(inner is not outer for outer in tree.iter(SVG + "a") for inner in outer.iter(SVG + "a"))
    assert [tree.find(SVG + "svg").get("role"), drawn(emoji).find(SVG + "svg").get("role")] == ["group", "img"]


def test_the_map_is_an_image_in_a_box_that_scrolls_by_keyboard(emoji):
    tree = drawn(emoji)
    svg, whole = tree.find(SVG + "svg"), figures.machine(emoji)
    assert tree.get("role") == "region" and tree.get("tabindex") == "0" and tree.get("aria-label")
    assert svg.get("role") == "img" and svg.get("aria-label") == whole.alt == repr(whole)


def test_it_needs_no_script_and_no_network_and_its_style_keeps_to_it(emoji):
    html = figures.machine(emoji, "loop").html
    assert re.findall(r"https?://[^\"]+", html) == ["http://www.w3.org/2000/svg"] and "<script" not in html
    style = re.sub(r"/\*.*?\*/", "", drawn(emoji).find("style").text, flags=re.DOTALL)
    selectors = re.findall(r"(?:^|})([^{}]+){", style)
    assert len(selectors) > 10 and all(".sdlearn-machine" in selector for selector in selectors)


def test_no_letter_is_smaller_than_twelve_pixels_where_the_map_is_800_wide(emoji):
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", drawn(emoji).find("style").text)]
    assert min(sizes) >= 12 and drawn(emoji).find(SVG + "svg").get("viewBox").split()[2] == "800"
