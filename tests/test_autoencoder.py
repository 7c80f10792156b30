"""Pictures in and out: any file is read rightly or refused, latents equal diffusers', settings survive."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import re
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from reference import generators, relative_error

import sdlearn
from sdlearn import autoencoder
from sdlearn.pictures import SETTINGS_KEY, contact_sheet, fit, open_image, psnr, to_images, to_tensor

PIXELS = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
COLOURS = Image.fromarray(PIXELS)
SMOOTH = Image.fromarray(PIXELS[:4, :6]).resize((24, 16), Image.Resampling.BICUBIC)


def saved(tmp_path, image: Image.Image, name: str, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


# -- any picture is upright RGB ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff", "webp", "ppm", "tga"])
def test_lossless_files_are_read_to_the_bit(tmp_path, ending):
    options = {"lossless": True} if ending == "webp" else {}
    assert np.array_equal(np.asarray(open_image(saved(tmp_path, COLOURS, f"x.{ending}", **options))), PIXELS)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "RGBX", "LAB"])
def test_opaque_modes_are_converted_by_colour(mode):
    image = COLOURS.convert("RGB" if mode == "LAB" else mode)
    assert open_image(image).tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_transparency_is_laid_over_white(mode):
    if mode in ("LA", "La"):
        half = Image.new("LA", (4, 4), (0, 128)).convert(mode)
    else:
        half = Image.new("RGBA", (4, 4), (0, 0, 0, 128)).convert(mode)
    assert open_image(half).getpixel((0, 0)) == pytest.approx((127, 127, 127), abs=1)
    assert open_image(Image.new(mode, (4, 4))).getpixel((0, 0)) == (255, 255, 255)


def test_a_palettes_transparent_colour_is_white(tmp_path):
    palette = COLOURS.convert("P")
    path = saved(tmp_path, palette, "x.gif", transparency=palette.getpixel((0, 0)))
    assert open_image(path).getpixel((0, 0)) == (255, 255, 255)


def test_16_bit_grey_keeps_its_range(tmp_path):
    values = np.array([[0, 257 * 10, 65535]], dtype=np.uint16)
    for ending in ("png", "tiff"):
        read = open_image(saved(tmp_path, Image.fromarray(values), f"x.{ending}"))
        assert np.asarray(read)[0, :, 0].tolist() == [0, 10, 255]


@pytest.mark.parametrize("white", [255, 4095, 65535])
@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_grey_of_any_depth_has_its_white(mode, white):
    values = np.array([[0, white // 5, white]])
    kind = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    image = Image.frombytes(mode, (3, 1), values.astype(kind).tobytes())
    assert np.asarray(open_image(image))[0, :, 0].tolist() == [0, 51, 255]


@pytest.mark.parametrize("values", [[0, 65536], [-1, 200]])
def test_whole_numbers_beyond_every_depth_are_refused(values):
    image = Image.fromarray(np.array([values], dtype=np.int32))
    with pytest.raises(ValueError, match=rf"{values[0]} .*{values[1]} .*white"):
        open_image(image)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_cameras_rotation_is_applied(tmp_path, orientation):
    turned = {1: [], 2: [0], 3: [3], 4: [1], 5: [5], 6: [4], 7: [6], 8: [2]}[orientation]  # Image.Transpose
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = COLOURS
    for transpose in turned:
        upright = upright.transpose(Image.Transpose(transpose))
    path = saved(tmp_path, COLOURS, "x.png", exif=exif)
    assert open_image(path).tobytes() == upright.tobytes()
    with Image.open(path) as opened:
        assert open_image(opened).tobytes() == upright.tobytes()


def test_of_an_animation_the_first_frame_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    for ending in ("gif", "png", "webp"):
        path = tmp_path / f"x.{ending}"
        frames[0].save(
            path,
            save_all=True,
            append_images=frames[1:],
            duration=10,
            **({"lossless": True} if ending == "webp" else {}),
        )
        red, green, blue = open_image(path).getpixel((0, 0))
        assert red > 250 and green < 5 and blue < 5


@given(arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))))
def test_a_picture_survives_the_way_to_a_tensor_and_back(array):
    tensor = to_tensor(Image.fromarray(array))
    assert tensor.dtype == torch.float32 and tensor.shape == (1, 3, *array.shape[:2])
    assert tensor.min() >= -1 and tensor.max() <= 1
    assert np.array_equal(np.asarray(to_images(tensor)[0]), array)


def test_tensors_are_those_of_the_pipelines():
    theirs = VaeImageProcessor(vae_scale_factor=4).preprocess(SMOOTH)
    assert torch.allclose(to_tensor(SMOOTH), theirs, atol=1e-6)
    wild = 2 * torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))  # clipped alike
    back = VaeImageProcessor(vae_scale_factor=4).postprocess(wild, output_type="pil")[0]
    assert np.abs(np.asarray(back, int) - np.asarray(to_images(wild)[0], int)).max() <= 1


def test_fitting_crops_about_the_centre_and_never_stretches():
    wide = Image.new("RGB", (40, 10), "white")
    wide.paste("black", (15, 0, 25, 10))
    assert np.asarray(fit(wide, 10, 10)).max() == 0
    assert fit(wide, 24, 16).size == (24, 16)


# -- pictures compared and laid side by side --------------------------------------------------------------------------


@given(st.floats(1e-4, 1), st.integers(1, 3))
def test_psnr_is_the_closed_form_for_each_picture(gap, count):
    a = torch.zeros(count, 3, 5, 7, dtype=torch.float64)
    gaps = gap / torch.arange(1, count + 1)
    expected = 20 * torch.log10(2 / gaps)
    assert torch.allclose(psnr(a, a + gaps.double().reshape(-1, 1, 1, 1)), expected.double(), atol=1e-5)
    assert torch.isinf(psnr(a, a)).all()


def test_only_pictures_of_one_size_are_compared():
    with pytest.raises(ValueError, match=r"size.*\(1, 3, 4, 4\).*\(2, 3, 4, 4\)"):
        psnr(torch.zeros(1, 3, 4, 4), torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize(
    ("count", "columns", "gap", "size"), [(5, 3, 0, (72, 32)), (5, 3, 2, (76, 34)), (2, 8, 1, (49, 16))]
)
def test_a_contact_sheet_holds_every_picture_in_its_place(count, columns, gap, size):
    images = [Image.fromarray(np.roll(PIXELS, k)) for k in range(count)]
    sheet = contact_sheet(images, columns, gap)
    assert sheet.size == size
    for k, image in enumerate(images):
        left, top = k % columns * (24 + gap), k // columns * (16 + gap)
        assert sheet.crop((left, top, left + 24, top + 16)).tobytes() == image.tobytes()
    if count % columns and columns < count:
        assert sheet.getpixel((size[0] - 1, size[1] - 1)) == (255, 255, 255)


@pytest.mark.parametrize(("images", "columns"), [([], 3), ([COLOURS], 0), ([COLOURS, COLOURS.resize((4, 4))], 2)])
def test_a_sheet_that_cannot_be_laid_out_says_so(images, columns):
    with pytest.raises(ValueError, match="contact sheet"):
        contact_sheet(images, columns)


# -- files that are no pictures ----------------------------------------------------------------------------------------


def test_a_file_that_is_missing_or_no_picture_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        open_image(tmp_path / "nothing.png")
    with pytest.raises(FileNotFoundError, match=re.escape(tmp_path.name)):
        open_image(tmp_path)
    for content in (b"", b"hello", b"<svg/>", bytes(range(256))):
        path = tmp_path / "x.png"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.png.*PNG or JPEG"):
            open_image(path)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tiff", "webp"])
def test_a_truncated_file_is_damaged_and_not_half_grey(tmp_path, ending):
    path = saved(tmp_path, COLOURS.resize((200, 120)), f"x.{ending}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"damaged.*again|not a picture"):
        open_image(path)


def test_a_decompression_bomb_is_refused_before_it_unfolds(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for size in (12, 40):  # Pillow warns beyond the limit and stops beyond twice the limit; both are too many here
        path = saved(tmp_path, Image.new("RGB", (size, size)), "x.png")
        with pytest.raises(ValueError, match=r"100 pixels.*scale it down"):
            open_image(path)


@pytest.mark.parametrize("wrong", [5, None, b"x.png", PIXELS, torch.zeros(3, 4, 4)])
def test_what_is_no_picture_at_all_is_told_what_one_is(wrong):
    with pytest.raises(TypeError, match=rf"path.*{type(wrong).__name__}.*fromarray"):
        open_image(wrong)


def test_pictures_without_pixels_or_a_white_are_refused():
    with pytest.raises(ValueError, match=r"empty.*0x4"):
        open_image(Image.new("RGB", (0, 4)))
    with pytest.raises(ValueError, match=r"white.*scale.*uint8"):
        open_image(Image.fromarray(np.ones((4, 4), dtype=np.float32)))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "DDS", "JPEG2000"])
def test_any_damage_to_a_file_is_a_picture_or_a_sentence(tmp_path, file_format):
    buffer = io.BytesIO()
    COLOURS.save(buffer, file_format)
    rng, path = random.Random(file_format), tmp_path / "x"
    refused = 0
    for _ in range(60):
        data = bytearray(buffer.getvalue())
        for _ in range(rng.choice([1, 3, 10])):
            place = rng.randrange(len(data))
            if rng.random() < 0.3:
                data = data[: place + 1]
            else:
                data[place] = rng.choice([0, 127, 128, 255, rng.randrange(256)])
        path.write_bytes(data)
        try:
            image = open_image(path)
        except ValueError as error:
            assert str(path) in str(error) and str(error).endswith((".", "again."))
            refused += 1
        else:
            assert image.mode == "RGB" and image.width > 0
    assert refused


def test_batches_of_pictures_agree_in_size_and_are_not_empty():
    with pytest.raises(ValueError, match=r"sizes.*4x4, 8x8.*resize"):
        to_tensor([Image.new("RGB", (4, 4)), Image.new("RGB", (8, 8))])
    with pytest.raises(ValueError, match=r"pictures.*empty"):
        to_tensor([])


# -- latents -----------------------------------------------------------------------------------------------------------


def test_encoding_is_the_scaled_mean_and_a_seeded_draw_is_diffusers(emoji):
    x = to_tensor(SMOOTH)
    posterior = emoji.vae.encode(x).latent_dist
    assert relative_error(autoencoder.encode(emoji, SMOOTH), posterior.mean * emoji.scaling_factor) < 1e-6
    drawn = posterior.sample(torch.Generator().manual_seed(3)) * emoji.scaling_factor
    assert relative_error(autoencoder.encode(emoji, SMOOTH, torch.Generator().manual_seed(3)), drawn) < 1e-6
    # One generator for each picture: the second is what its seed gives alone.
    both = autoencoder.encode(emoji, [COLOURS, SMOOTH], generators(9, 3))
    assert relative_error(both[1:], drawn) < 1e-5


def test_decoding_is_diffusers_and_undoes_encoding(emoji):
    z = torch.randn(2, 4, 6, 4, generator=torch.Generator().manual_seed(0))
    assert relative_error(autoencoder.decode(emoji, z), emoji.vae.decode(z / emoji.scaling_factor).sample) < 1e-6
    # On a picture of the kind it was trained on the round trip is close; noise would not be.
    drawn = to_tensor(sdlearn.text_to_image(emoji, "a glossy red apple", seed=7, num_inference_steps=10))
    again = autoencoder.decode(emoji, autoencoder.encode(emoji, drawn))
    assert (again - drawn).pow(2).mean().sqrt() < 0.2


def test_latents_have_about_unit_size(emoji):
    drawn = sdlearn.text_to_image(emoji, "a glossy red apple", seed=7, num_inference_steps=10)
    assert 0.3 < autoencoder.encode(emoji, drawn).std() < 3


def test_bad_tensors_are_refused_with_their_shape(emoji):
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\).*\(3, 8, 8\)"):
        to_images(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\).*\(1, 4, 8, 8\)"):
        autoencoder.encode(emoji, torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"\(B, 4, h, w\).*\(1, 3, 8, 8\)"):
        autoencoder.decode(emoji, torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="multiples of"):
        autoencoder.encode(emoji, Image.new("RGB", (62, 64)))
    with pytest.raises(ValueError, match=r"1 generators.*2 pictures"):
        autoencoder.encode(emoji, [COLOURS, SMOOTH], generators(1))


def test_bytes_that_were_never_scaled_are_refused(emoji):
    for wrong in (torch.full((1, 3, 64, 64), 255.0), torch.full((1, 3, 64, 64), 255, dtype=torch.uint8)):
        for read in (to_images, lambda x: autoencoder.encode(emoji, x)):
            with pytest.raises(ValueError, match=r"255, not in \[-1, 1\].*127.5"):
                read(wrong)
    to_images(torch.full((1, 3, 8, 8), 3.0))  # a decoder may overshoot


def test_mistaken_first_arguments_are_named(emoji):
    step = next(sdlearn.denoise(emoji, "a fox", seed=1, num_inference_steps=2, progress=False))
    with pytest.raises(TypeError, match=r"step.latents or step.x0"):
        autoencoder.decode(emoji, step)
    with pytest.raises(TypeError, match=r"tensor of shape \(B, 4, h, w\), not list"):
        autoencoder.decode(emoji, [1])
    calls = (
        lambda sd: autoencoder.decode(sd, step.x0),
        lambda sd: autoencoder.encode(sd, SMOOTH),
        lambda sd: sdlearn.text_to_image(sd, "a fox"),
        lambda sd: sdlearn.image_to_image(sd, SMOOTH, "a fox"),
        lambda sd: list(sdlearn.denoise(sd, "a fox")),
    )
    for call in calls:
        with pytest.raises(TypeError, match=r"sd must be a model from sdlearn.load\(\), not str: 'emoji'"):
            call("emoji")
    for wrong in ([SMOOTH], "x.png", None):
        with pytest.raises(TypeError, match="one PIL image at a time"):
            sdlearn.save_image(wrong, "x.png")


def test_numbers_that_overflow_are_reported_and_never_a_black_picture(emoji):
    with pytest.raises(ValueError, match=r"not finite.*float32"):
        to_images(torch.full((1, 3, 4, 4), torch.nan))
    broken = replace(emoji, vae=deepcopy(emoji.vae))
    broken.vae.decoder.conv_out.bias.data[0] = torch.inf
    with pytest.raises(FloatingPointError, match=r"pixels.*not finite"):
        autoencoder.decode(broken, torch.zeros(1, 4, 4, 4))
    broken.vae.encoder.conv_out.bias.data[0] = torch.nan
    with pytest.raises(FloatingPointError, match=r"latents.*not finite"):
        autoencoder.encode(broken, Image.new("RGB", (16, 16)))


# -- files with settings -----------------------------------------------------------------------------------------------


@given(prompt=st.text(st.characters(exclude_categories=["Cs"]), max_size=40), seed=st.integers(0, 2**63 - 1))
def test_settings_survive_a_png(tmp_path_factory, prompt, seed):
    image, settings = SMOOTH.copy(), {"prompt": prompt, "seed": seed, "guidance_scale": 7.5}
    image.info[SETTINGS_KEY] = json.dumps(settings)
    path = sdlearn.save_image(image, tmp_path_factory.getbasetemp() / "x.png")
    assert sdlearn.read_settings(path) == sdlearn.read_settings(image) == settings
    assert open_image(path).tobytes() == image.tobytes()


def test_a_saved_picture_draws_itself_again(tmp_path, random_sd):
    image = sdlearn.text_to_image(
        random_sd, "a fox", seed=3, num_inference_steps=2, sampler="euler", negative_prompt="dog"
    )
    settings = sdlearn.read_settings(sdlearn.save_image(image, tmp_path / "fox.png"))
    assert settings.pop("model") == random_sd.name
    assert sdlearn.text_to_image(random_sd, **settings).tobytes() == image.tobytes()


def test_a_picture_without_settings_says_so(tmp_path):
    with pytest.raises(ValueError, match="no settings"):
        sdlearn.read_settings(sdlearn.save_image(SMOOTH, tmp_path / "x.png"))
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        sdlearn.read_settings(tmp_path / "nothing.png")
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ValueError, match="not a picture"):
        sdlearn.read_settings(tmp_path / "text.png")


def test_an_interrupted_save_leaves_the_old_file_and_nothing_half_written(tmp_path, monkeypatch):
    path = sdlearn.save_image(SMOOTH, tmp_path / "x.png")
    before = path.read_bytes()

    def interrupted(self, target, **options):
        target.write_bytes(before[:50])
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sdlearn.save_image(COLOURS, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["x.png"]


def test_many_may_save_one_file(tmp_path):
    path = tmp_path / "x.png"
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(sdlearn.save_image, SMOOTH, path) for _ in range(60)]:
            done.result()
    assert list(tmp_path.iterdir()) == [path] and Image.open(path).tobytes() == SMOOTH.tobytes()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_a_picture_that_cannot_be_written_is_named_with_the_cure(tmp_path, monkeypatch, code):
    def fails(self, target, **options):
        target.write_bytes(b"half")
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.raises(OSError, match=rf"x.png \({os.strerror(code)}\); make room, or choose a folder"):
        sdlearn.save_image(SMOOTH, tmp_path / "x.png")
    assert not list(tmp_path.iterdir())


def test_only_png_and_only_existing_folders_are_written(tmp_path):
    with pytest.raises(ValueError, match=r"x\.jpg.*PNG"):
        sdlearn.save_image(SMOOTH, tmp_path / "x.jpg")
    with pytest.raises(FileNotFoundError, match=r"missing.*make it"):
        sdlearn.save_image(SMOOTH, tmp_path / "missing" / "x.png")
