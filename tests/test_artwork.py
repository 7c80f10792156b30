"""What the model learns from: drawings in six styles, captions that say what is there, pictures from a seed."""

import colorsys
import random
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise, product
from xml.etree import ElementTree

import pytest
import torch
from toy_training import SHAPES, SIDE, SUBJECTS, drawing, sprite, toy_artwork, write_archives

from sdlearn.training import artwork as artworks
from sdlearn.training import captions, pictures, presets, score
from sdlearn.training.artwork import SVG, Artwork, draw, load_artwork, only_lines, outlined, restyle
from sdlearn.training.captions import (
    BACKGROUNDS,
    MASS_NOUNS,
    RGB,
    SHADES,
    SIDES,
    SIZES,
    STYLES,
    Details,
    Reading,
    caption,
    indefinite,
    is_dark,
    parse,
)
from sdlearn.training.pictures import Pictures, Placement, Variety, held_out, pair_subjects, place


@pytest.fixture(scope="module")
def artwork():
    return toy_artwork()


# --- drawing ----------------------------------------------------------------------------------------------------------

# A red square of 16 of 32 units in the middle with a blue dot of radius 2; at 96 pixels a unit is three of them.
SQUARE = '<rect x="8" y="8" width="16" height="16" fill="#e02020"/>'
DOT = '<circle cx="16" cy="16" r="2" fill="#2040e0"/>'


def colour_at(picture, right: float, down: float = 16):
    """(red, green, blue), not multiplied by alpha, and alpha, 0 to 1, of a drawing of 32 units at 96 pixels."""
    *colour, alpha = (picture[:, int(3 * down), int(3 * right)].float() / 255).tolist()
    return [part / max(alpha, 1e-3) for part in colour], alpha


def test_comic_outlines_every_shape_and_leaves_small_ones_their_colour():
    flat, comic = (draw(drawing(SQUARE + DOT), style) for style in ("flat", "comic"))
    for right, down in ((7.7, 12), (24.3, 12), (12, 7.7), (12, 24.3)):  # just outside the square
        assert colour_at(flat, right, down)[1] == 0
        colour, alpha = colour_at(comic, right, down)
        assert alpha > 0.9 and max(colour) < 0.2
    assert max(colour_at(comic, 18.4)[0]) < 0.2  # around the dot
    red, blue = (pytest.approx(colour_at(flat, right)[0], abs=0.02) for right in (10, 16))
    for right in (9, 10, 22):  # the outline takes nothing from the square
        assert colour_at(comic, right, 12)[0] == red
    for right in (14.6, 16, 17.4):  # nor from the dot
        assert colour_at(comic, right)[0] == blue


def test_neon_is_a_line_of_the_fills_hue_in_full_saturation_with_no_fill():
    picture = draw(drawing(SQUARE), "neon")
    assert colour_at(picture, 16)[1] < 0.05
    colour, alpha = colour_at(picture, 8)
    hue, _, saturation = colorsys.rgb_to_hls(*colour)
    assert alpha > 0.9 and saturation > 0.98
    assert min(hue, 1 - hue) < 0.01  # red, as the square
    assert colorsys.rgb_to_hls(*(value / 255 for value in (0xE0, 0x20, 0x20)))[2] < 0.9  # which was less saturated


def test_neons_glow_falls_off_outside_the_line():
    picture = draw(drawing(SQUARE), "neon")
    glow = [colour_at(picture, right)[1] for right in (7.1, 6.4, 5.7, 5.0, 4.3)]
    assert all(near > far for near, far in pairwise(glow))
    assert glow[0] > 0.15 and glow[-1] < 0.05


@pytest.mark.parametrize(
    ("fill", "hue"), [("#e02020", 0), ("#2c2", 1 / 3), ("#224488", 11 / 18), ("#fdd", 0), ("#100", 0)]
)
def test_bright_keeps_the_hue_and_saturates_it(fill, hue):
    found, light, saturation = colorsys.rgb_to_hls(*rgb(artworks.bright(fill)))
    assert found == pytest.approx(hue, abs=0.01) and saturation > 0.98 and light == pytest.approx(0.6, abs=0.01)


def test_greys_shine_near_white_or_blue():
    for light in ("#fff", "#c8c8c8", "#dcdce0"):
        assert min(rgb(artworks.bright(light))) > 0.9
    for dark in ("#000", "#505050", "currentColor", "url(#gradient)", None):
        red, _, blue = rgb(artworks.bright(dark))
        assert blue == 1 and red < 0.3


def rgb(code: str):
    return [int(code[i : i + 2], 16) / 255 for i in (1, 3, 5)]


def test_a_shape_inherits_the_fill_of_its_groups_and_is_lined_in_its_own_units():
    body = (
        '<g fill="#20c020"><g transform="translate(1 2) scale(2)"><circle r="3"/><path fill="#fff" d="M0 0"/></g></g>'
    )
    shapes = shapes_of(restyle(drawing(body), only_lines))
    assert [shape.get("stroke") for shape in shapes] == [artworks.bright("#20c020"), artworks.bright("#fff")]
    assert {shape.get("fill") for shape in shapes} == {"none"}
    assert [float(shape.get("stroke-width")) for shape in shapes] == pytest.approx([0.036 * 32 / 2] * 2)
    for shape in shapes_of(restyle(drawing(body), outlined)):
        assert float(shape.get("stroke-width")) == pytest.approx(0.045 * 32 / 2)
    (only,) = shapes_of(restyle(drawing('<g fill="none"><circle r="3"/></g>'), outlined))
    assert only.get("stroke") is None  # what is not filled has no edge


def test_what_only_cuts_or_is_referred_to_is_not_restyled():
    hidden = '<circle id="a" r="9"/>'
    body = f'<defs>{hidden}<clipPath id="c">{hidden}</clipPath></defs><g clip-path="url(#c)"><rect width="9"/></g>'
    for edit in (outlined, only_lines):
        *kept, drawn = shapes_of(restyle(drawing(body), edit))
        assert [shape.attrib for shape in kept] == [{"id": "a", "r": "9"}] * 2
        assert drawn.get("stroke")


def test_restyling_survives_what_only_a_parser_reads():
    body = "<!-- <circle fill='#f00'/> --><path\n fill = '#e02020' data-x='a&gt;b /&gt;' d='M8 8h16v16h-16z'></path>"
    (path,) = shapes_of(restyle(drawing(body), only_lines))
    assert path.get("stroke") == artworks.bright("#e02020") and path.get("data-x") == "a>b />"
    assert colour_at(draw(drawing(body), "neon"), 8)[1] > 0.9


def shapes_of(svg_text: str):
    return [element for element in ElementTree.fromstring(svg_text).iter() if element.tag in artworks.SHAPES]


def test_a_drawings_colours_are_multiplied_by_its_alpha():
    picture = draw(drawing('<rect x="8" y="8" width="16" height="16" fill="#ff0000" opacity="0.5"/>'), "flat")
    assert picture.shape == (4, 96, 96) and picture.dtype == torch.uint8
    assert picture[:, 48, 48].tolist() == pytest.approx([128, 0, 0, 128], abs=1) and not picture[:, 0, 0].any()
    assert SVG in drawing("")


# --- the collection ---------------------------------------------------------------------------------------------------


def test_a_damaged_download_is_refused(tmp_path):
    (tmp_path / "iconify-json-twemoji-1.2.5.tgz").write_bytes(b"not what was published")
    with pytest.raises(OSError, match=r"checksum .* delete"):
        artworks.fetch("twemoji", tmp_path)


def test_artwork_is_drawn_once_and_every_style_has_its_artists(tmp_path, monkeypatch):
    write_archives(tmp_path, monkeypatch)
    art = load_artwork(tmp_path, SUBJECTS)
    assert art.subjects == SUBJECTS and art.sprites.shape[1:] == (4, 48, 48)
    drawn = Counter((art.subjects[k], STYLES[s]) for k, s in zip(art.subject.tolist(), art.style.tolist(), strict=True))
    for name, style in product(SUBJECTS, STYLES):
        artists = artworks.ARTISTS[style]
        assert drawn[name, style] == len(artists) - (name == "key" and "twemoji" in artists)
    comic, neon = (art.sprites[sprite(art, "house", style)] for style in ("comic", "neon"))
    assert comic[3, 24, 24] == 255 and neon[3, 24, 24] < 20
    monkeypatch.setattr(artworks, "draw", None)  # from now on it is read, not drawn
    assert torch.equal(load_artwork(tmp_path, SUBJECTS).sprites, art.sprites)
    assert len(list(tmp_path.glob("sprites-*"))) == 1


def test_a_subject_that_not_every_style_draws_is_refused_with_what_is_near(tmp_path, monkeypatch):
    write_archives(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"'horse'.* house"):
        load_artwork(tmp_path, ("key", "horse"))
    with pytest.raises(ValueError, match="two subjects"):
        load_artwork(tmp_path, ("key", "key"))


def test_a_synonym_means_one_subject_and_is_no_subject_itself(tmp_path, monkeypatch):
    write_archives(tmp_path, monkeypatch)
    assert load_artwork(tmp_path, SUBJECTS).keywords == {"house": ("loaf",), "key": (), "red apple": ("gem",)}
    entries = [
        {"label": "dog face", "tags": ["puppy", "pet", "kitty"]},
        {"label": "cat face", "tags": ["kitty", "pet"]},
        {"label": "automobile", "tags": ["pickup"]},
        {"label": "pickup truck"},
    ]
    monkeypatch.setattr(artworks, "read_package", lambda path, member: entries)
    names = {"dog": "dog-face", "cat": "cat-face", "car": "automobile", "pickup": "pickup-truck"}
    # A pet is a word for neither; "kitty" would mean two of them; "automobile" is its artists' own name.
    assert artworks._keywords(names, tmp_path) == {"dog": ("puppy",), "cat": (), "car": ("automobile",), "pickup": ()}


def test_a_choice_of_subjects_keeps_their_drawings_and_names_what_there_is(artwork):
    few = artwork.only(["key", "house", "key"])
    assert few.subjects == ("house", "key") and few.keywords == {"house": ("cottage", "home")}
    for row, (subject, style) in enumerate(zip(few.subject.tolist(), few.style.tolist(), strict=True)):
        assert torch.equal(few.sprites[row], artwork.sprites[sprite(artwork, few.subjects[subject], STYLES[style])])
    assert len(few.sprites) == 2 * len(STYLES)
    with pytest.raises(ValueError, match=r"'hose'.* house"):
        artwork.only(["key", "hose"])
    with pytest.raises(ValueError, match="two subjects"):
        artwork.only(["key"])


def test_the_presets_name_only_subjects_and_words_that_read_as_themselves():
    known = set(presets.SUBJECTS)
    assert len(known) == len(presets.SUBJECTS) >= 200
    assert known >= set(presets.PAIR_SUBJECTS) and known >= set(presets.FACING_LEFT)
    for subject in presets.SUBJECTS:
        assert parse(f"{subject} on a red background", presets.SUBJECTS) == (subject, None, "red")


# --- captions ---------------------------------------------------------------------------------------------------------


def test_every_caption_reads_back_as_what_is_in_the_picture():
    chance = random.Random(0)
    for subject, style in product(presets.SUBJECTS, STYLES):
        background = chance.choice(BACKGROUNDS)
        text = caption(subject, style, background, chance)
        assert parse(text, presets.SUBJECTS) in (
            Reading(subject, style, background),
            Reading(subject, None, background),  # the form that leaves the style open
        ), text


def test_captions_with_details_read_back_as_the_same_picture():
    chance = random.Random(1)
    subjects = ("orange", "bell pepper", "bell", "socks")
    for size, side, facing, shade in product((None, *SIZES), (None, *SIDES), (None, "left", "right"), (None, *SHADES)):
        details = Details(size, side, facing, shade)
        for style in STYLES:
            subject, background = chance.choice(subjects), chance.choice(("orange", "sky blue", "blue"))
            text = caption(subject, style, background, chance, details)
            read = parse(text, subjects)
            assert (read.subject, read.background) == (subject, background) and read.style in (style, None), text
            said = [size, side and SIDES[side], facing and f"facing {facing}", shade]
            assert all(re.search(rf"\b{words}\b", text) for words in said if words), text


def test_only_things_that_are_counted_one_by_one_take_an_article():
    assert [indefinite(name) for name in ("owl", "unicorn", "bus", "wine glass", "cactus", "nest with eggs")] == [
        "an owl", "a unicorn", "a bus", "a wine glass", "a cactus", "a nest with eggs"
    ]  # fmt: skip
    several = {"blueberries", "books", "cherries", "french fries", "glasses", "grapes", "headphones", "jeans",
               "pancakes", "scissors", "socks", "sunglasses"}  # fmt: skip
    assert {name for name in presets.SUBJECTS if indefinite(name) == name} - MASS_NOUNS == several
    assert (indefinite("books", "ink"), indefinite("popcorn", "flat")) == ("ink books", "flat popcorn")
    assert indefinite("owl", "flat") == "a flat owl" and indefinite("dog", "small", None) == "a small dog"
    assert captions.pair("owl", "socks") == "owl and socks"
    assert score.write(Reading("socks", "ink", "teal")) == "ink socks on a teal background"


def test_a_prompt_is_read_as_people_write_it():
    subjects = ("red apple", "orange", "dog")
    assert parse("A Glossy red apple, on a SKY BLUE background!", subjects) == ("red apple", "glossy", "sky blue")
    assert parse("an orange on an orange background", subjects) == ("orange", None, "orange")
    assert parse("a spaceship", subjects) == (None, None, "white")
    assert parse("a cartoon dog", subjects, styles=("cartoon", "ink")).style == "cartoon"


def test_neon_without_a_named_background_is_on_black_and_all_else_on_white(artwork):
    for style in STYLES:
        own = "black" if style == "neon" else "white"
        assert parse(f"a {style} dog", ("dog",)).background == own
        assert parse(f"a {style} dog on a red background", ("dog",)).background == "red"
    assert parse("a dog", ("dog",)).background == "white"

    stream = Pictures(artwork, SIDE, Variety(detailed=0))
    unsaid = [scene for scene in stream.scenes(0, 400) if "background" not in scene.caption]
    for scene in unsaid:
        assert scene.background == ("black" if "neon" in scene.caption else "white")
    assert {scene.reading.style for scene in unsaid} == set(STYLES)
    few = [next(scene for scene in unsaid if scene.reading.style == style) for style in STYLES]
    corners = (stream.compose(few).pixels[:, :, 0, 0] + 1) / 2 * 255
    for scene, corner in zip(few, corners.tolist(), strict=True):
        assert corner == pytest.approx(RGB[scene.background], abs=0.5)


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_a_batch_depends_on_its_seed_and_its_number_alone(artwork):
    variety = Variety(mirror=0.5, rotate=10, hue=20, keywords=0.5, pairs=0.5)
    stream = Pictures(artwork, SIDE, variety, seed=3)
    first = stream.batch(5, 8)
    stream.batch(6, 8)
    again = Pictures(artwork, SIDE, variety, seed=3).batch(5, 8)
    assert torch.equal(first.pixels, again.pixels) and first[1:] == again[1:]
    assert not torch.equal(first.pixels, stream.batch(6, 8).pixels)
    assert first.pixels.shape == (8, 3, SIDE, SIDE) and first.pixels.abs().max() <= 1 + 1e-6


def centre(alpha):
    """Centre of mass (right, down) of (H, W) in shares of the side, from the middle."""
    axis = (torch.arange(alpha.shape[0]) + 0.5) / alpha.shape[0] - 0.5
    return (alpha.sum(0) @ axis / alpha.sum()).item(), (alpha.sum(1) @ axis / alpha.sum()).item()


def test_a_sprite_lands_where_its_placement_says(artwork):
    k = sprite(artwork, "house", "flat")  # a square of 24/32 of the side
    house = artwork.sprites[k : k + 1].float() / 255
    for right, down in ((0.08, -0.05), (0.0, 0.0)):
        placed = place(house, [Placement(0.8, right, down)], SIDE, [False])[0, 3]
        assert centre(placed) == pytest.approx((right, down), abs=2e-3)
        assert placed.sum().item() == pytest.approx((0.8 * 0.75 * SIDE) ** 2, rel=0.02)
    turned = place(house, [Placement(0.8, angle=45)], SIDE, [False])[0, 3]
    assert turned.sum().item() == pytest.approx((0.8 * 0.75 * SIDE) ** 2, rel=0.02)
    assert (turned[SIDE // 2] > 0.5).sum().item() == pytest.approx(2**0.5 * 0.8 * 0.75 * SIDE, abs=2)  # the diagonal


def test_a_mirrored_sprite_is_the_mirror_image_and_moves_the_same_way(artwork):
    k = sprite(artwork, "key", "flat")
    key = artwork.sprites[k : k + 1].float() / 255
    plain, mirrored = (place(key, [Placement(0.9, mirror=m)], SIDE, [False]) for m in (False, True))
    assert torch.allclose(plain.flip(3), mirrored, atol=1e-5)
    moved = place(key, [Placement(0.8, right=0.05, mirror=True)], SIDE, [False])
    still = place(key, [Placement(0.8, mirror=True)], SIDE, [False])
    assert centre(moved[0, 3])[0] - centre(still[0, 3])[0] == pytest.approx(0.05, abs=2e-3)


def test_a_hue_turn_of_120_degrees_makes_red_green():
    red = torch.tensor([1.0, 0, 0, 1]).view(1, 4, 1, 1).expand(1, 4, 48, 48)
    placed = place(red, [Placement(1, hue=120)], SIDE, [False])
    assert torch.allclose(placed[0, :, 32, 32], torch.tensor([0.0, 1, 0, 1]), atol=1e-5)


def test_ink_is_white_where_black_would_not_show(artwork):
    stream = Pictures(artwork, SIDE, Variety(detailed=0))
    house = sprite(artwork, "house", "ink")
    for background in BACKGROUNDS:
        batch = stream.compose([stream.scene(random.Random(0), [house], background)])
        middle = (batch.pixels[0, :, 32, 32] + 1) / 2
        assert middle.mean().item() == pytest.approx(1.0 if is_dark(background) else 0.0, abs=1e-3)
        corner = (batch.pixels[0, :, 0, 0] + 1) / 2 * 255
        assert corner.tolist() == pytest.approx(RGB[background], abs=0.01)


@pytest.mark.parametrize("size", [64, 128])
def test_pixel_pictures_are_of_equal_blocks_on_the_grid_and_never_turned(artwork, size):
    stream = Pictures(artwork, size, Variety(pairs=0.3))
    scenes = [scene for scene in stream.scenes(0, 120) if scene.reading.style == "pixel"]
    for scene in scenes:
        small = len(scene.sprites) == 2 or " small " in f" {scene.caption} "
        assert scene.blocks == (32 if small else 16)
        assert all(placement.angle == 0 for placement in scene.placements)
    assert {scene.blocks for scene in scenes} == {16, 32} and {len(scene.sprites) for scene in scenes} == {1, 2}
    for scene, picture in zip(scenes, stream.compose(scenes).pixels, strict=True):
        step = size // scene.blocks
        blocks = picture.view(3, scene.blocks, step, scene.blocks, step)
        assert torch.equal(blocks, blocks[:, :, :1, :, :1].expand_as(blocks))
        assert len(picture.flatten(1).unique(dim=1).T) > 1  # and there is something to see
    others = [scene for scene in stream.scenes(0, 120) if scene.reading.style != "pixel"]
    assert {scene.blocks for scene in others} == {0}
    assert any(placement.angle for scene in others for placement in scene.placements)


def coverage(stream, scene):
    """(H, W): how much of each pixel the sprites of a scene cover, from its pictures on white and on yellow."""
    plain = [scene._replace(background=background, shade=0.0) for background in ("white", "yellow")]
    on_white, on_yellow = stream.compose(plain).pixels[:, 2]
    return 1 - (on_white - on_yellow) * 255 / 2 / (RGB["white"][2] - RGB["yellow"][2])


@pytest.fixture(scope="module")
def detailed(artwork):
    """A stream and 200 of its scenes, most of them with something special."""
    stream = Pictures(artwork, SIDE, Variety(detailed=0.8, pairs=0, rotate=0))
    return stream, stream.scenes(0, 200)


def test_what_a_caption_says_of_a_side_is_where_the_thing_is(detailed):
    stream, scenes = detailed
    for side, (axis, sign) in {"left": (0, -1), "right": (0, 1), "top": (1, -1), "bottom": (1, 1)}.items():
        there = [scene for scene in scenes if re.search(SIDES[side], scene.caption)]
        assert len(there) > 5
        for scene in there:
            assert sign * centre(coverage(stream, scene))[axis] > 0.08, scene.caption


def test_what_a_caption_calls_small_covers_less_and_what_it_calls_big_more(detailed):
    stream, scenes = detailed
    covered = {"small": [], "big": [], "": []}
    for scene in scenes:
        word = re.search("small|big|$", scene.caption)[0]
        covered[word].append((scene.sprites, coverage(stream, scene).mean().item()))
    for one, usual in covered[""]:
        assert all(usual > area for other, area in covered["small"] if other == one)
        assert all(usual < area for other, area in covered["big"] if other == one)


def test_facing_right_is_the_mirror_image_of_facing_left(artwork, monkeypatch):
    monkeypatch.setattr(pictures, "FACING_LEFT", ("key",))  # whose mass is on its left
    stream = Pictures(artwork, SIDE, Variety(detailed=0.9, pairs=0))
    scenes = stream.scenes(0, 150)
    said = [scene for scene in scenes if "facing" in scene.caption]
    assert {scene.reading.subject for scene in said} == {"key"}
    assert {scene.placements[0].mirror for scene in said} == {True, False}
    for scene in said:
        (where,) = scene.placements
        faces_right = "facing right" in scene.caption
        leans = centre(coverage(stream, scene))[0] - where.right
        assert faces_right == where.mirror == (leans > 0), scene.caption
        if scene.reading.style != "pixel":  # whose blocks are of the picture's grid, not of the thing
            other = where._replace(mirror=not where.mirror, right=-where.right, angle=-where.angle)
            one, two = stream.compose([scene, scene._replace(placements=(other,))]).pixels
            assert torch.allclose(one.flip(2), two, atol=1e-4)


def test_a_background_said_to_go_from_dark_to_light_gets_lighter_downwards(detailed):
    stream, scenes = detailed
    for shade, sign in zip(SHADES, (1, -1), strict=True):
        shaded = [scene for scene in scenes if shade in scene.caption and scene.placements[0].scale < 0.9]
        assert len(shaded) > 5
        for scene in shaded:
            free = coverage(stream, scene)[:, 0] < 1e-4  # the sprite may touch the picture's edge
            light = stream.compose([scene]).pixels[0, :, free, 0].mean(0) * sign
            assert (light.diff() >= -1e-6).all() and light[-1] - light[0] > 0.2, scene.caption
    plain = next(scene for scene in scenes if " to " not in scene.caption and scene.placements[0].scale < 0.9)
    column = stream.compose([plain]).pixels[0, :, coverage(stream, plain)[:, 0] < 1e-4, 0]
    assert torch.allclose(column, column[:, :1].expand_as(column))


def test_held_out_combinations_are_a_fixed_part_and_never_shown(artwork):
    pairs = {(s, style): [held_out(s, style, b) for b in BACKGROUNDS] for s in presets.SUBJECTS for style in STYLES}
    share = sum(any(row) for row in pairs.values()) / len(pairs)
    assert 0.10 <= share <= 0.15
    assert not any(all(row) for row in pairs.values())  # subject and style are seen together on other backgrounds
    for pairs in (0.0, 0.5):
        scenes = Pictures(artwork, SIDE, Variety(pairs=pairs)).scenes(0, 2000)
        shown = {
            (artwork.subjects[artwork.subject[k]], STYLES[artwork.style[k]], scene.background)
            for scene in scenes
            for k in scene.sprites
        }
        assert not any(held_out(*reading) for reading in shown)
        assert len(shown) > 200


def test_captions_name_both_subjects_of_a_pair_and_use_keywords(artwork):
    batch = Pictures(artwork, SIDE, Variety(pairs=1.0, keywords=1.0)).batch(0, 40)
    assert all(re.search(" and an? ", text) for text in batch.captions)
    houses = [t for t, r in zip(batch.captions, batch.readings, strict=True) if r.subject == "house"]
    assert houses and all("cottage" in t or "home" in t for t in houses)


def test_a_style_that_two_artists_draw_comes_no_more_often(artwork):
    flat = artwork.style == STYLES.index("flat")
    twice = replace(
        artwork,
        sprites=torch.cat((artwork.sprites, artwork.sprites[flat])),
        subject=torch.cat((artwork.subject, artwork.subject[flat])),
        style=torch.cat((artwork.style, artwork.style[flat])),
    )
    counts = Counter(scene.reading.style for scene in Pictures(twice, SIDE, Variety(hold_out=False)).scenes(0, 6000))
    assert {style: counts[style] / 6000 for style in STYLES} == pytest.approx(dict.fromkeys(STYLES, 1 / 6), abs=0.02)


def test_only_some_subjects_share_a_picture_and_the_first_named_is_left(artwork):
    names = ("anchor", "cat", "owl", "key")  # the middle two are of those that come in pairs
    four = Artwork(artwork.sprites[:16], torch.arange(16) // 4, torch.arange(16) % 4, names, {})
    scenes = Pictures(four, SIDE, Variety(pairs=1.0)).scenes(0, 100)
    shown = {tuple(names[four.subject[k]] for k in scene.sprites): scene for scene in scenes}
    assert shown.keys() == {("cat", "owl"), ("owl", "cat")}
    for (left, right), scene in shown.items():
        assert re.search(rf"\b{left} and an? {right}\b", scene.caption) and scene.reading.subject == left
        assert scene.placements[0].right < 0 < scene.placements[1].right
    assert pair_subjects(("anchor", "cat", "key")) == ("anchor", "cat", "key")


def test_the_toy_shapes_are_subjects_of_the_recipe():
    assert set(SHAPES) <= set(presets.SUBJECTS)
