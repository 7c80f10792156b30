"""The lessons' figures: they show what they are given, legibly, exactly, and say so when they cannot."""

import io
import itertools
import math
import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from sdlearn.pictures import open_image
from sdlearn.samplers import SAMPLERS
from sdlearn.schedule import NoiseSchedule
from sdlearn.show import figures, paper, samples


def noise(size, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


SMALL = [noise(64, k) for k in range(8)]
LARGE = [noise(32, k).resize((512, 512), Image.Resampling.BICUBIC) for k in range(4)]
PIECES = ["<|startoftext|>", "a</w>", "pup", "py</w>", "<|endoftext|>"] + ["<|endoftext|>"] * 72
IDS = [49406, 320, 1, 2, 49407] + [49407] * 72
T = NoiseSchedule().timesteps(50)
X = np.linspace(-3, 3, 61)

CLOUDS = {"fox": ([-1.0, 0.0], 0.5), "apple": ([1.0, 0.0], 0.5)}


def small_unet():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):  # its module tree without its weights
        return UNet2DConditionModel(
            sample_size=12, block_out_channels=(8, 16, 16), layers_per_block=2, norm_num_groups=4, attention_head_dim=4,
            cross_attention_dim=8, down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        )  # fmt: skip


# Every public drawing function, on small and on Stable Diffusion's sizes.
DRAWN = {
    "grid": lambda: figures.grid(SMALL, [f"a rather long caption, number {k}" for k in range(8)], title="Eight"),
    "grid of rows": lambda: figures.grid([SMALL[:3], SMALL[3:6]], row_labels=["x", "y"], column_labels="abc"),
    "grid of large pictures": lambda: figures.grid(LARGE, title="Four"),
    "strip": lambda: figures.strip({"x_t": SMALL * 4, "x_0": SMALL * 4}, [f"t = {k}" for k in range(32)]),
    "difference": lambda: figures.difference(LARGE[0], LARGE[1]),
    "latent channels": lambda: figures.latent_channels(normal(1, 4, 16, 16), image=SMALL[0]),
    "latent channels of two": lambda: figures.latent_channels(normal(2, 4, 64, 64), captions=["a", "b"]),
    "guidance": lambda: figures.guidance(normal(1, 4, 16, 16), normal(1, 4, 16, 16, seed=1), 7.5),
    "guidance plane": lambda: figures.guidance_plane(normal(4, 8, 8), normal(4, 8, 8, seed=1), (0, 1, 4)),
    "guidance plane of two that are nearly equal": lambda: figures.guidance_plane(
        normal(4, 8, 8), 1.01 * normal(4, 8, 8), (0, 1, 2, 4, 8, 12), SMALL[:6], title="A line"
    ),
    "guidance plane of two that are equal": lambda: figures.guidance_plane(normal(9), normal(9), (0, 1), LARGE[:2]),
    "guided flow": lambda: figures.guided_flow(
        {0: normal(5, 40, 2), 4: normal(5, 40, 2)}, CLOUDS, {4: (normal(9, 2), normal(9, 2))}
    )[1],
    "unet": lambda: figures.unet(small_unet(), title="A small UNet"),
    "heat maps": lambda: figures.heat_maps(SMALL[0], {"cat": normal(8, 8).abs(), "a dog": normal(4, 4).abs()}),
    "heat maps of many words": lambda: figures.heat_maps(
        SMALL[0], {f"{k} <|endoftext|>": normal(64, 64, seed=k).abs() for k in range(11)}, top=1, smooth=False
    ),
    "amounts": lambda: figures.amounts(["<|startoftext|>", "cat", "$1"], [0.2, 0.03, 0.77], xlabel="share", title="A"),
    "matrix": lambda: figures.matrix(normal(5, 5), row_labels="abcde", column_labels=["a long word"] * 5, title="M"),
    "attention": lambda: figures.attention(
        {"scores": normal(3, 3), "weights": normal(3, 3).softmax(1)}, "abc", mask=torch.ones(3, 3).triu(1), title="A"
    ),
    "attention of twelve heads": lambda: figures.attention(
        {f"head {k}": normal(9, 9, seed=k).softmax(1) for k in range(12)}, ["a long word"] * 9
    ),
    "large matrix": lambda: figures.matrix(normal(77, 77).abs(), label="similarity"),
    "curves": lambda: figures.curves(
        {"a": ([1, 2, 4], [1.0, 0.5, 0.25]), "b": ([1, 2, 4], [1, 1, 1])},
        xlabel="n",
        ylabel="error",
        log="xy",
        slope=True,
        reference=(0.1, "chance"),
    ),
    "one schedule": lambda: figures.noise_schedule(NoiseSchedule()),
    "schedules": lambda: figures.noise_schedule(
        {"a": NoiseSchedule(beta_schedule="squaredcos_cap_v2"), "b": NoiseSchedule(rescale_betas_zero_snr=True)}
    ),
    "histograms": lambda: figures.histograms({f"t = {k}": normal(999) for k in range(4)}, title="H"),
    "overlaid histograms": lambda: figures.histograms({"t": {"steps": normal(99), "jump": normal(99, seed=1)}}),
    "field": lambda: figures.field(
        X, {"t = 1": (X, np.sin(X), np.exp(-(X**2))), "t = 2": (X, X, X**2)}, samples=normal(99), density=X**2
    ),
    "density": lambda: figures.density_over_time(X, np.exp(-(X**2)) * np.ones((9, 1)), paths=normal(3, 9)),
    "tokens": lambda: figures.tokens(PIECES, IDS),
    "too many tokens": lambda: figures.tokens(
        PIECES[:4] * 19 + PIECES[4:5], IDS[:4] * 19 + IDS[4:5], dropped="so lost"
    ),
    "ladders": lambda: figures.ladders(
        NoiseSchedule(), {name: SAMPLERS[name].plan(NoiseSchedule(), 8).levels for name in ("ddim", "euler_karras")}
    ),
    "to scale": lambda: figures.to_scale(
        {"a small model": {"text": 7e6, "UNet": 11e6, "VAE": 4e6}, "a": {"text": 123e6, "UNet": 860e6, "VAE": 84e6}},
        {"a small model": SMALL[0], "a": (512, 512)},
        title="To scale",
    ),
    "to scale, one that is tiny": lambda: figures.to_scale({"x": {"a": 10, "b": 900_000_000}, "y": {"a": 1, "b": 1}}),
    "bars": lambda: figures.bars(
        {"one": {"a": 1.0, "b": 2.0}, "two, with a longer name": {"b": 0.5, "c": 0.1}},
        xlabel="GiB",
        marks={"4 GB": 4},
        title="B",
    ),
    "bars of one piece": lambda: figures.bars({"one": {"a": 1}, "two": {"a": 0.03}}, xlabel="s", form=".2f"),
    "walks": lambda: figures.walks(
        ([0.9, 0.5, 0], normal(3, 5)),
        {"one step": ([0.9, 0], normal(2, 5)), "two steps of $x": ([0.9, 0.2, 0], normal(3, 5))},
        density=(X, np.exp(-(X**2))),
        title="W",
    ),
    "a walk alone": lambda: figures.walks(([1, 0], normal(2, 3)), {"a": ([1, 0], normal(2, 3))}),
    "number line": lambda: figures.number_line(T, 20),
    "number lines": lambda: figures.number_line(T, {"strength 0.2": 40, "strength 1": 0}, title="Where to start"),
}


@pytest.fixture(scope="module", params=DRAWN)
def figure(request):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for theirs in (r"matplotlib\.", r"pyparsing\."):  # matplotlib and its parser are not always in step
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=theirs)
        drawn = DRAWN[request.param]()
        drawn.page = drawn.png()
    return drawn


def texts(figure):
    return [t.get_text() for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]


def image_axes(figure):
    return [ax for ax in figure.axes if ax.get_images()]


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(figure.png())).convert("RGB"))


# -- of every figure --------------------------------------------------------------------------------------------------


def test_a_figure_is_a_figure_with_a_text_alternative(figure):
    assert isinstance(figure, Figure)
    assert len(figure.alt) > 10


def test_no_text_is_smaller_than_nine_points(figure):
    assert min(t.get_fontsize() for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()) >= 9


def test_a_figure_fits_a_notebook_and_is_sharp_but_light(figure):
    assert figure.get_figwidth() <= 9
    assert figure.dpi >= 120
    assert len(figure.page) < 900_000


def test_nothing_leaves_the_figure(figure):
    figure.draw_without_rendering()
    box = figure.get_tightbbox()  # in inches
    assert box.x0 >= -0.01 and box.y0 >= -0.01
    assert box.x1 <= figure.get_figwidth() + 0.01 and box.y1 <= figure.get_figheight() + 0.01


def test_a_figure_has_a_white_page_whatever_the_reader_has_set(figure):
    page = np.asarray(Image.open(io.BytesIO(figure.page)).convert("RGB"))
    corner = page[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corner == 255).all()


def test_drawing_opens_no_pyplot_figure_and_leaves_the_settings_alone():
    import matplotlib
    import matplotlib.pyplot as plt

    before, open_figures = dict(matplotlib.rcParams), plt.get_fignums()
    for name in ("grid", "curves", "matrix"):
        DRAWN[name]().png()
    assert plt.get_fignums() == open_figures
    assert dict(matplotlib.rcParams) == before


def test_the_readers_own_style_does_not_reach_the_figures():
    import matplotlib

    plain = pixels(figures.curves({"a": [1, 2]}, xlabel="x", ylabel="y"))
    with matplotlib.rc_context({"figure.facecolor": "black", "text.color": "white", "font.size": 3}):
        assert (pixels(figures.curves({"a": [1, 2]}, xlabel="x", ylabel="y")) == plain).all()


def test_a_figure_shows_itself_once_with_its_text_alternative(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, **options: shown.append((data, options)))
    figure = figures.grid([SMALL[0]], ["<b>fox</b> & friends"])
    figure._ipython_display_()
    [(data, options)] = shown
    assert set(data) == {"image/png", "text/html", "text/plain"}
    assert 'alt="pictures: &lt;b&gt;fox&lt;/b&gt; &amp; friends"' in data["text/html"]
    assert options["metadata"]["image/png"]["width"] == round(96 * figure.get_figwidth())


def test_a_chart_is_a_drawing_whose_colours_a_page_may_change_and_a_sheet_of_pictures_is_none(monkeypatch):
    chart = figures.curves({"<b>": ([0, 1], [0, 1]), "c": ([0, 1], [1, 0])}, xlabel="x", ylabel="y", title="A & B")
    drawings = [chart.svg(), chart.svg()]
    root = ElementTree.fromstring(drawings[0])
    assert root.get("role") == "img" and root.get("aria-label") == chart.alt and root.get("width") == "816"
    colours = re.findall(r"\b(?:fill|stroke):\s*([^;\"]+)", drawings[0])
    own = [colour for colour in colours if not re.fullmatch(r"var\(--ink-([0-9a-f]{6}), #\1\)|none", colour)]
    assert len(colours) > 20 and own == []
    ids = [set(re.findall(r'\bid="([^"]+)"', drawing)) for drawing in drawings]
    assert not ids[0] & ids[1], "two of them may stand on one page"
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', drawings[0]))
    assert {one or other for one, other in used} <= ids[0]
    assert figures.grid([SMALL[0]], ["a fox"]).svg() is None


# -- sheets of pictures -----------------------------------------------------------------------------------------------


def test_every_picture_of_a_grid_gets_axes_and_every_caption_its_place():
    figure = DRAWN["grid"]()
    assert len(figure.axes) == 8
    assert figure.alt.startswith("Eight: a rather long caption, number 0, ")
    assert "".join(texts(figure)).count("number") == 8


def test_pictures_of_something_grow_smoothly_and_not_far():
    stripes = Image.fromarray(np.uint8(np.indices((128, 128))[1] // 16 % 2 * 255))
    page = paper.enlarged(stripes, 300)
    assert page.size == (300, 300) and len(np.unique(np.asarray(page))) > 2  # between black and white lie greys
    assert paper.enlarged(stripes, 1000).width == 384 and paper.enlarged(stripes, 100).width == 100


@pytest.mark.parametrize("size", [8, 16, 64])
def test_small_pictures_are_enlarged_by_whole_factors_pixel_for_pixel(size):
    figure = figures.grid([noise(size), noise(size, 1)])
    page = pixels(figure)
    for ax, image in zip(figure.axes, (noise(size), noise(size, 1)), strict=True):
        box = ax.get_window_extent()
        factor = round(box.width) // size
        assert factor >= 2 and round(box.width) == round(box.height) == factor * size
        left, top = round(box.x0), page.shape[0] - round(box.y1)
        # The hairline covers the outermost pixels, so compare inside of it, at the middle of every enlarged pixel.
        enlarged = page[top : top + factor * size, left : left + factor * size]
        middle = enlarged[factor // 2 :: factor, factor // 2 :: factor]
        assert (middle[1:-1, 1:-1] == np.asarray(image)[1:-1, 1:-1]).all()


def test_large_pictures_are_reduced_to_the_width_of_the_page():
    figure = figures.grid([LARGE])
    assert len(figure.axes) == 4
    assert figure.get_figwidth() <= paper.WIDTH + 0.1
    assert all(ax.get_window_extent().width < 512 for ax in figure.axes)


def test_captions_are_plain_text_even_with_dollars():
    figure = figures.grid(SMALL[:1], ["$5_ or $6^"])
    figure.png()
    assert "$5_ or $6^" in texts(figure)


def test_pictures_may_be_pil_images_tensors_or_arrays():
    tensor = torch.zeros(3, 8, 8)
    array = np.full((8, 8, 3), 128, np.uint8)
    pil = Image.new("RGB", (8, 8), (128, 128, 128))
    for image in (tensor, array, torch.from_numpy(array), pil, pil.convert("L"), pil.quantize(2)):
        assert np.abs(np.asarray(paper.picture(image), int) - 128).max() <= 1
    assert len(figures.grid(torch.zeros(5, 3, 8, 8)).axes) == 5


def test_transparency_is_shown_over_white():
    assert paper.picture(Image.new("RGBA", (1, 1), (255, 0, 0, 0))).getpixel((0, 0)) == (255, 255, 255)


def test_a_strip_thins_a_long_trajectory_and_keeps_both_ends():
    figure = figures.strip({"x_t": SMALL * 4, "x_0": SMALL * 4}, [f"t = {k}" for k in range(32)], at_most=6)
    labels = [t for t in texts(figure) if t.startswith("t = ")]
    assert len(labels) == 6 and labels[0] == "t = 0" and labels[-1] == "t = 31"
    assert len(image_axes(figure)) == 12
    assert {"x_t", "x_0"} < set(texts(figure))


def test_figures_read_a_picture_as_the_model_does():
    grey = Image.fromarray(np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8))
    for image in (grey, noise(8).convert("LA"), noise(8).convert("CMYK")):
        assert paper.picture(image).tobytes() == open_image(image).tobytes()
    assert np.asarray(paper.picture(grey))[..., 0].ravel()[[0, 31, 63]].tolist() == [0, 125, 255]


# -- measures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gap", [1, 16, 255])
def test_psnr_is_the_closed_form(gap):
    a, b = Image.new("RGB", (4, 4), (0, 0, 0)), Image.new("RGB", (4, 4), (gap, gap, gap))
    assert figures.psnr(a, b) == pytest.approx(20 * math.log10(255 / gap), abs=1e-9)
    assert figures.psnr(a, a) == math.inf


def test_psnr_of_tensors_has_the_range_from_minus_one_to_one_as_its_peak():
    assert figures.psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.02)) == pytest.approx(40, abs=1e-5)


def test_psnr_does_not_ask_how_a_picture_is_stored():
    image = noise(32)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1
    assert figures.psnr(image, tensor) > 120


def test_the_distance_of_pictures_is_their_root_mean_square_difference():
    black, grey, white = (Image.new("RGB", (8, 8), (value,) * 3) for value in (0, 51, 255))
    assert figures.distance(black, white) == pytest.approx(1) and figures.distance(white, white) == 0
    assert figures.distance([black, black], [grey, white]) == pytest.approx((0.2 + 1) / 2)
    with pytest.raises(ValueError, match="give as many"):
        figures.distance([black, black], [white])


def test_difference_shows_the_magnified_gap_and_its_psnr():
    a, b = Image.new("RGB", (8, 8), (100, 100, 100)), Image.new("RGB", (8, 8), (110, 100, 100))
    figure = figures.difference(a, b, magnify=4)
    assert len(figure.axes) == 3
    assert figure.axes[2].get_images()[0].get_array()[0, 0].tolist() == [40, 0, 0]
    assert f"PSNR {figures.psnr(a, b):.1f} dB" in figure.alt
    assert "|difference| × 4" in texts(figure)


# -- latents, curves and diagrams -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 4, 5])
def test_latent_channels_share_one_scale_around_zero(channels):
    latents = torch.zeros(channels, 4, 4)
    latents[0, 0, 0], latents[-1, 1, 1] = -2.0, 2.0
    figure = figures.latent_channels(latents)
    *maps, _ = figure.axes
    assert len(maps) == channels
    first, last = (ax.get_images()[0].get_array() for ax in (maps[0], maps[-1]))
    orange, purple = first[0, 0], last[last.shape[0] * 3 // 8, last.shape[1] * 3 // 8]
    assert orange[0] > orange[2] and purple[2] > purple[1]
    assert {"−2", "0", "2"} <= set(texts(figure))


def test_guidance_draws_the_extrapolated_prediction():
    u, c = normal(2, 8, 8), normal(2, 8, 8, seed=1)
    figure = figures.guidance(u, c, 1.0)
    columns = [figure.axes[k].get_images()[0].get_array() for k in range(4)]
    assert (columns[1] == columns[3]).all(), "at scale 1 guidance is the conditional prediction"
    assert (columns[0] == figures.guidance(u, c, 0.0).axes[3].get_images()[0].get_array()).mean() > 0.9


def test_the_guidance_plane_is_true_to_scale():
    uncond, cond = torch.tensor([3.0, 4.0, 0.0, 0.0]), torch.tensor([3.0, 4.0, 1.0, 0.0])  # lengths 2.5 and 0.5 apart
    ax = figures.guidance_plane(uncond, cond, (0, 1, 6)).axes[0]
    dots = [line.get_xydata()[0] for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots, [[0, 0], [0, 2.5], [0.5, 2.5], [3, 2.5]], atol=1e-9)
    assert ax.get_aspect() == 1


def test_the_measures_of_a_flow_are_the_nearest_cloud_and_the_mean_distance():
    from sdlearn.show.geometry import flow_measures

    assert flow_measures([[-1.0, 0.0], [-1.0, 3.0]], CLOUDS) == (1, 3)
    assert flow_measures([[-1.0, 0.0], [3.0, 0.0]], CLOUDS) == (0.5, 4)


def test_skips_are_counted_as_the_unet_sends_them(emoji, random_sd):
    from sdlearn.show.unet import skip_counts

    for sd in (emoji, random_sd):
        sent = []

        def listen(module, inputs, output, sent=sent):
            sent.extend(tuple(skip.shape[2:]) for skip in (output[1] if isinstance(output, tuple) else [output]))

        hooks = [part.register_forward_hook(listen) for part in (sd.unet.conv_in, *sd.unet.down_blocks)]
        sd.unet(torch.zeros(1, *sd.latent_shape()), 1, torch.zeros(1, 77, sd.unet.config.cross_attention_dim))
        for hook in hooks:
            hook.remove()
        assert [size for count, size in skip_counts(sd.unet) for _ in range(count)] == sent


def test_the_slope_of_a_power_law_is_its_exponent():
    n = np.array([5, 10, 20, 40])
    figure = figures.curves({"Heun": (n, 3.0 / n**2)}, xlabel="steps", ylabel="error", log="xy", slope=True)
    assert "Heun (slope −2.00)" in texts(figure)
    assert {"5", "10", "20", "40"} <= set(texts(figure))


def test_curve_names_do_not_touch_even_where_the_curves_end_together():
    figure = figures.curves({f"curve {k}": [1, 2 + k / 1000] for k in range(6)}, xlabel="x", ylabel="y")
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in figure.findobj(Text) if t.get_text().startswith("curve")]
    assert len(boxes) == 6
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("log", ["", "x"])
@pytest.mark.parametrize(
    "x", [(1, 2, 3, 4, 5, 6, 7.5, 10), (1, 100, 101, 102), (6, 10, 20, 50, 100, 200), range(1, 31)]
)
def test_tick_labels_do_not_touch(x, log):
    figure = figures.curves({"a": (x, [1 + k for k in range(len(x))])}, xlabel="x", ylabel="y", log=log)
    figure.draw_without_rendering()
    labels = [t for which in ("major", "minor") for t in figure.axes[0].get_xticklabels(which=which) if t.get_text()]
    boxes = sorted((t.get_window_extent() for t in labels), key=lambda box: box.x0)
    assert boxes and all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize("log", ["", "x", "y", "xy"])
def test_only_the_axes_named_are_logarithmic(log):
    ax = figures.curves({"a": ([1, 10, 100], [1, 10, 100])}, xlabel="x", ylabel="y", log=log).axes[0]
    assert (ax.get_xscale() == "log", ax.get_yscale() == "log") == ("x" in log, "y" in log)


def test_counted_steps_have_whole_numbers_on_the_axis():
    figure = figures.curves({"a": range(5, 0, -1)}, xlabel="step", ylabel="y")
    figure.draw_without_rendering()
    assert all(t == round(t) for t in figure.axes[0].get_xticks())


def test_the_noise_schedule_plots_its_own_tables():
    s = NoiseSchedule()
    first, second, ratio, betas = figures.noise_schedule(s).axes
    assert np.allclose(first.lines[0].get_ydata() ** 2 + first.lines[1].get_ydata() ** 2, 1)
    assert np.allclose(ratio.lines[0].get_ydata(), s.snr.log10())
    assert np.allclose(betas.lines[0].get_ydata(), s.betas)
    assert second.get_title(loc="left") == "Their squares sum to one"


def test_a_schedule_that_ends_in_pure_noise_is_drawn_without_its_infinite_end():
    ratio = figures.noise_schedule({"zero": NoiseSchedule(rescale_betas_zero_snr=True)}).axes[2]
    assert len(ratio.lines[0].get_ydata()) == 999 and np.isfinite(ratio.lines[0].get_ydata()).all()


def test_histograms_state_what_was_measured_and_what_was_foretold():
    figure = figures.histograms({"t = 3": np.array([1.0, 3.0])}, mean=2, std=0.5)
    assert {"t = 3", "measured +2.00 ± 1.00", "formula +2.00 ± 0.50"} <= set(texts(figure))


def test_of_several_measurements_only_the_first_is_filled():
    ax = figures.histograms({"t": {"walk": normal(99), "jump": normal(99, seed=1)}}).axes[0]
    filled = {patch.get_facecolor() for patch in ax.patches if patch.get_fill()}
    outlines = [patch for patch in ax.patches if not patch.get_fill()]
    assert len(filled) == 1 and len(outlines) == 1


def test_a_field_shows_what_was_learned_what_is_exact_and_where_data_are():
    figure = figures.field(X, {"t = 9": (2 * X, X, np.exp(-(X**2)))}, samples=[0.5, 99.0], density=np.exp(-(X**2)))
    field, made = figure.axes
    exact, learned = field.lines
    assert (learned.get_ydata() == 2 * X).all() and (exact.get_ydata() == X).all()
    assert {"learned", "exact", "data", "t = 9"} <= set(texts(figure))
    assert made.patches[-1].get_height() > 0, "what lies beyond the line is piled at its end"
    assert len(figures.field(X, {"t = 9": (X, X, np.ones(61))}).axes) == 1


def test_tokens_show_positions_ids_and_one_box_of_padding():
    seen = texts(DRAWN["tokens"]())
    assert {"pup", "py", "320", "49406", "padding × 72", "5–76", "77 tokens, of which 72 are padding"} <= set(seen)
    assert not any("</w>" in t for t in seen)


def test_tokens_from_the_middle_of_a_prompt_keep_their_positions():
    figure = figures.tokens(["a</w>", "cat</w>"], [320, 2368], positions=[40, 41])
    assert {"40", "41"} <= set(texts(figure)) and "0" not in texts(figure)


def test_masked_cells_of_a_matrix_stay_white_and_do_not_stretch_its_scale():
    figure = figures.matrix([[0.0, 5.0], [5.0, 6.0]], mask=[[True, False], [False, False]])
    shown = figure.axes[0].images[0]
    assert shown.get_clim() == (5, 6)
    assert shown.to_rgba(shown.get_array())[0, 0, 3] == 0  # nothing is painted on the paper


def test_attention_writes_its_numbers_and_leaves_what_is_masked_empty():
    weights = [[1.0, 0.0], [0.25, 0.754]]
    figure = figures.attention({"weights": weights}, ["red", "fox"], mask=[[False, True], [False, False]])
    assert [t for t in texts(figure) if t[0].isdigit()] == ["1", "0.25", "0.75"]
    shown = figure.axes[0].images[0]
    assert shown.to_rgba(shown.get_array())[0, 1, 3] == 0  # nothing is painted on the paper


def test_overlap_is_the_share_that_two_outlines_have_in_common():
    def square(left, hollow=False):
        picture = np.full((40, 40, 3), 250, np.uint8)
        picture[10:30, left : left + 20] = 30
        if hollow:  # an outline that is closed counts as filled
            picture[12:28, left + 2 : left + 18] = 250
        return Image.fromarray(picture)

    assert figures.overlap(square(10), square(10)) == 1
    assert figures.overlap(square(10), square(20)) == pytest.approx(1 / 3)
    assert figures.overlap(square(0), square(20)) == 0
    assert figures.overlap(square(10), square(10, hollow=True)) == 1
    assert figures.overlap(*2 * [Image.new("RGB", (8, 8), "white")]) == 0
    with pytest.raises(ValueError):
        figures.overlap(square(10), square(10).crop((0, 0, 39, 40)))


def test_the_edge_colour_is_that_of_the_background():
    image = Image.new("RGB", (64, 32), (10, 200, 30))
    image.paste("white", (10, 8, 50, 32))
    assert figures.edge_colour(image) == pytest.approx((10, 200, 30))


def test_pieces_of_one_word_share_a_colour_and_words_differ():
    figure = DRAWN["tokens"]()
    _, a, pup, py, *_ = (patch.get_facecolor() for patch in figure.axes[0].patches)
    assert pup == py != a


def test_dropped_words_are_marked():
    seen = texts(DRAWN["too many tokens"]())
    assert seen.count("lost") == 1 + 2  # the word itself, and the mark over each of the two boxes
    assert "77 tokens; 2 more did not fit" in seen


@pytest.mark.parametrize("zero_snr", [False, True])
def test_ladders_put_the_same_noise_at_the_same_place_from_left_to_right(zero_snr):
    schedule = NoiseSchedule(prediction_type="v_prediction", rescale_betas_zero_snr=zero_snr)
    runs = {name: SAMPLERS[name].plan(schedule, 9, spacing="trailing").levels for name in ("ddim", "euler")}
    fig = figures.ladders(schedule, runs)
    right, left = sorted(fig.axes[0].get_xlim())
    assert fig.axes[0].get_xlim() == (left, right)  # noise on the left
    unit, full = (line.get_xdata() for line in fig.axes[0].lines if line.get_marker() == "o")
    assert unit[:-1] == pytest.approx(full[:-1]) and list(unit) == sorted(unit, reverse=True)
    assert right <= full[-1] < unit[-1]  # no noise at all, and almost none


def test_a_heat_map_is_yellow_where_the_most_is_and_blue_where_the_least():
    heat = torch.tensor([[0.1, 0.1], [0.1, 0.3]])
    for white in (Image.new("RGB", (64, 64), "white"), Image.new("RGB", (512, 256), "white")):
        x = np.asarray(figures.overlay(white, heat, smooth=False), dtype=int)
        least, most = x[0, 0], x[-1, -1]
        assert x.shape[:2] == white.size[::-1]
        assert most[0] > 240 and most[1] > 220 and most[2] < 100 and least[2] > least[0]
        assert len(np.unique(x.reshape(-1, 3), axis=0)) == 2, "two amounts, and no others between them"
    half = np.asarray(figures.overlay(white, heat, top=0.6, smooth=False), dtype=int)
    assert half[-1, -1].sum() < most.sum() and half[0, 0].sum() > least.sum(), "on a given scale from 0"
    black = np.asarray(figures.overlay(Image.new("RGB", (64, 64)), heat, smooth=False), dtype=int)
    assert np.allclose(black[[0, -1], [0, -1]], 0.6 * np.stack([least, most]), atol=1), "the picture shades the colours"


def test_heat_maps_say_how_much_is_least_and_most():
    figure = figures.heat_maps(SMALL[0], {"cat": [[0.02, 0.14]], "same": [[0.5, 0.5]]})
    assert {"the picture", "cat: 2–14%", "same: 50–50%"} <= set(texts(figure))
    assert len(image_axes(figure)) == 3


def test_amounts_stand_beside_their_bars_in_the_order_given():
    figure = figures.amounts(["first", "second"], [0.25, 0.75], xlabel="share")
    assert [bar.get_width() for bar in figure.axes[0].patches] == [0.25, 0.75]
    assert {"25.0%", "75.0%"} <= set(texts(figure)) and "first 25.0%, second 75.0%" in figure.alt
    assert figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1], "the first is on top"


def test_the_number_line_counts_the_steps_taken():
    seen = texts(figures.number_line(T, {"strength 0.2": 40, "all": 0}))
    assert {"10 of 50 steps", "50 of 50 steps", "strength 0.2", str(T[0])} <= set(seen)
    assert {"index", "timestep", "30 of 50 steps"} <= set(texts(figures.number_line(T, 20)))


# -- bad input --------------------------------------------------------------------------------------------------------

BAD = {
    "nothing to draw": lambda: figures.grid([]),
    "2 captions for 1 pictures": lambda: figures.grid(SMALL[:1], ["a", "b"]),
    "1 row labels for 2 rows": lambda: figures.grid([SMALL[:1], SMALL[:1]], row_labels=["a"]),
    "2 labels for 1 columns": lambda: figures.strip({"x": SMALL[:1]}, ["a", "b"]),
    "1 pictures in row 'y' for 2": lambda: figures.strip({"x": SMALL[:2], "y": SMALL[:1]}),
    "1 of 192 values that are NaN": lambda: figures.grid([torch.zeros(3, 8, 8).index_fill(0, torch.tensor(0), 0).put_(
        torch.tensor(5), torch.tensor(math.nan))]),
    "A picture is a PIL image": lambda: figures.grid([torch.zeros(4, 8, 8)]),
    "of one size": lambda: figures.psnr(SMALL[0], LARGE[0]),
    "Latents have shape": lambda: figures.latent_channels(torch.zeros(8, 8)),
    "latents has no values": lambda: figures.latent_channels(torch.zeros(0, 4, 8, 8)),
    "at least one curve": lambda: figures.curves({}, xlabel="x", ylabel="y"),
    "not positive": lambda: figures.curves({"a": [0, 1]}, xlabel="x", ylabel="y", log="y"),
    "2 ids for 1 pieces": lambda: figures.tokens(["a"], [1, 2]),
    "from 0 to 50": lambda: figures.number_line(T, 51),
    "at least one panel": lambda: figures.walks(([1, 0], normal(2, 3)), {}),
    "2 noise levels of 'a' for 3 rows": lambda: figures.walks(([1, 0], normal(2, 3)), {"a": ([1, 0], normal(3, 3))}),
    "a row for each timestep": lambda: figures.density_over_time(X, np.ones((61, 3))),
    r"a row and a column for each of 3 words": lambda: figures.attention({"w": np.ones((2, 2))}, "abc"),
    "60 values of 't = 1' for 61 positions": lambda: figures.field(X, {"t = 1": (X, X[1:], X)}),
    "two dimensions": lambda: figures.matrix([1.0, 2.0]),
    r"two dimensions, height and width, not shape \(1, 2, 2\)": lambda: figures.overlay(SMALL[0], np.ones((1, 2, 2))),
    "at least one heat map": lambda: figures.heat_maps(SMALL[0], {}),
    "2 names for 1 amounts": lambda: figures.amounts(["a", "b"], [1.0], xlabel="x"),
    r"its shape, \(1, 2\), and leave a cell": lambda: figures.matrix([[1.0, 2.0]], mask=[[True, True]]),
    "2 positions for 1 pieces": lambda: figures.tokens(["a"], [1], positions=[3, 4]),
}  # fmt: skip


@pytest.mark.parametrize("said", BAD)
def test_bad_input_gets_one_clear_sentence(said):
    with pytest.raises(ValueError, match=said) as error:
        BAD[said]()
    assert "\n" not in str(error.value)


# -- pictures to try things on -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(8, 8), (64, 64), (200, 24), (512, 512)])
def test_the_test_card_has_pure_colours_a_ramp_and_bars_down_to_one_pixel(size):
    card = samples.test_card(*size)
    x = np.asarray(card, dtype=int)
    assert card.size == size and card.mode == "RGB"
    assert {tuple(pixel) for pixel in x[0]} == {tuple(bytes.fromhex(colour[1:])) for colour in samples.BARS}
    ramp = x[size[1] // 3 + 1 if size[1] > 8 else 2, :, 0]
    assert ramp[0] < 40 and ramp[-1] > 215
    bars = x[size[1] // 2 + 1, : size[0] // 4, 0]
    assert set(np.abs(np.diff(bars))) == {255}


def test_a_photograph_is_the_readers_own_or_one_that_is_always_there(tmp_path):
    always = samples.photograph()
    assert always.mode == "RGB" and always.width == always.height >= 256
    Image.new("L", (300, 7), 90).save(tmp_path / "holiday.png")
    own = samples.photograph(tmp_path / "holiday.png")
    assert own.mode == "RGB" and own.size == (300, 7)
    assert samples.photograph(own).size == (300, 7)


# -- sizes -----------------------------------------------------------------------------------------------------------


def test_every_part_has_as_much_area_as_it_has_numbers_and_the_picture_as_it_has_pixels():
    models = {"small": {"text": 100, "UNet": 400}, "large": {"text": 2500, "UNet": 10_000}}
    figure = figures.to_scale(models, {"small": (64, 64), "large": (256, 128)})
    boxes = [box for box in figure.axes[0].patches if box.get_width() > 0]
    areas = [box.get_width() * box.get_height() for box in boxes]
    numbers = [100, 400, 64 * 64, 2500, 10_000, 256 * 128]
    for parts in ([0, 1, 3, 4], [2, 5]):
        per_number = [areas[k] / numbers[k] for k in parts]
        assert per_number == pytest.approx([per_number[0]] * len(parts), rel=1e-6)
    with pytest.raises(ValueError, match="same parts"):
        figures.to_scale({"a": {"x": 1}, "b": {"y": 1}})


def test_pieces_lie_end_to_end_in_one_colour_each_and_the_sum_stands_behind():
    figure = figures.bars({"one": {"a": 1.0, "b": 2.0}, "two": {"b": 0.5}}, xlabel="GiB", marks={"4 GB": 4})
    a, b = figure.axes[0].containers
    assert [(bar.get_x(), bar.get_width()) for bar in (*a, *b)] == [(0, 1.0), (0, 0), (1.0, 2.0), (0, 0.5)]
    assert len({bar.get_facecolor() for bar in b}) == 1 and a[0].get_facecolor() != b[0].get_facecolor()
    assert {"3.0", "0.5", "4 GB", "a", "b"} <= set(texts(figure))
