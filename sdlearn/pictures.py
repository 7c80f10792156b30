"""Pictures: files and PIL images on one side, tensors (B, 3, H, W) in [-1, 1] on the other.

A PNG that is written here carries the settings it was drawn with.
"""

from __future__ import annotations

import json
import os
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

Picture = Image.Image | str | os.PathLike

SETTINGS_KEY = "sdlearn"


def open_image(picture: Picture) -> Image.Image:
    """Any picture as an upright RGB one: a PIL image of any mode, or a file.

    A camera's rotation is applied, transparency is laid over white, grey of more than 8 bits is brought to 8, and of an
    animation the first frame is taken. Raises ValueError for a file that is no picture, broken, or absurdly large.
    """
    return _as_rgb(ImageOps.exif_transpose(picture) if isinstance(picture, Image.Image) else _read(picture))


def _read(path: str | os.PathLike) -> Image.Image:
    """The picture in a file, upright, decoded to its end, in the file's own mode."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"A picture is a PIL image or the path of one, not {type(path).__name__}; "
            f"PIL.Image.fromarray makes one of an array."
        )
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no picture at {path}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on odd metadata; the pixels decode, or they do not
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                return ImageOps.exif_transpose(opened)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"{path} has more than {Image.MAX_IMAGE_PIXELS} pixels, too many to open; scale it down first."
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not a picture that Pillow can read; save it as PNG or JPEG.") from error
    except Exception as error:  # a damaged file makes each of Pillow's decoders fail in its own way
        raise ValueError(f"The picture {path} is damaged ({error}); save or fetch it again.") from error


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.width == 0 or image.height == 0:
        raise ValueError(f"The picture is empty: {image.width}x{image.height} pixels.")
    if image.mode == "F":
        raise ValueError("A picture of floats does not say which number is white; scale it to 0..255 as uint8.")
    if image.mode.startswith("I"):  # which convert("RGB") would clip to white
        image = _shallow(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("RGBA", "LA", "PA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _shallow(image: Image.Image) -> Image.Image:
    """Deep grey as 8-bit grey. No mode says which number is white: instruments write 8 and 12 bits into 16 or 32."""
    values = np.asarray(image, dtype=np.float64)
    white = next((top for top in (255, 4095, 65535) if values.max() <= top), None)
    if white is None or values.min() < 0:
        raise ValueError(
            f"A grey picture from {values.min():.0f} to {values.max():.0f} does not say which number is white; "
            f"scale it to 0..255 as uint8."
        )
    return Image.fromarray((values * (255 / white)).round().astype(np.uint8))


def as_list(pictures: Picture | Sequence[Picture]) -> list[Picture]:
    """One or several pictures as a list that is not empty."""
    pictures = list(pictures) if isinstance(pictures, Sequence) and not isinstance(pictures, str) else [pictures]
    if not pictures:
        raise ValueError("The list of pictures is empty; give at least one.")
    return pictures


def to_tensor(pictures: Picture | Sequence[Picture]) -> Tensor:
    """One or several pictures of one size as a float32 tensor (B, 3, H, W) in [-1, 1]."""
    images = [open_image(picture) for picture in as_list(pictures)]
    if len({image.size for image in images}) > 1:
        sizes = ", ".join(f"{w}x{h}" for w, h in sorted({image.size for image in images}))
        raise ValueError(f"Pictures of different sizes cannot share a batch ({sizes}); resize them to one size.")
    array = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(array).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(tensor: Tensor) -> list[Image.Image]:
    """A tensor (B, 3, H, W) in [-1, 1] as PIL images; values outside are clipped, as every picture format does.

    Raises ValueError if any value is not finite (such a picture would come out black), or far outside the range.
    """
    check_shape(tensor, 3, "H, W")
    if not torch.isfinite(tensor).all():
        raise ValueError("The picture holds values that are not finite and would come out black; decode in float32.")
    check_range(tensor)
    # To 8 bits before the copy to the host: a quarter of the bytes.
    array = ((tensor.detach().float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(a) for a in array.permute(0, 2, 3, 1).cpu().numpy()]


def fit(picture: Picture, width: int, height: int) -> Image.Image:
    """The picture scaled and cropped about its centre to exactly that size, without distortion."""
    return ImageOps.fit(open_image(picture), (width, height), Image.Resampling.LANCZOS)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each pair of pictures (B,), dB, of tensors (B, 3, H, W) in [-1, 1].

    10 log10(peak^2 / mean squared error), the peak being the whole range, 2; infinite where they are equal. Values
    are measured as they are, neither clipped nor rounded.
    """
    check_shape(a, 3, "H, W")
    if a.shape != b.shape:
        raise ValueError(f"Only pictures of one size can be compared, not {tuple(a.shape)} with {tuple(b.shape)}.")
    a, b = (x if x.dtype == torch.float64 else x.float() for x in (a, b))
    return 10 * torch.log10(4 / (a - b).pow(2).mean((1, 2, 3)))


def contact_sheet(images: Sequence[Image.Image], columns: int, gap: int = 0) -> Image.Image:
    """Pictures of one size on one white sheet, row by row, `columns` of them in a row and `gap` pixels between."""
    if not images or columns < 1:
        raise ValueError("A contact sheet needs at least one picture and one column.")
    width, height = images[0].size
    if any(image.size != (width, height) for image in images):
        raise ValueError("The pictures of a contact sheet must have one size; scale them with `fit`.")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for k, image in enumerate(images):
        sheet.paste(image, (k % columns * (width + gap), k // columns * (height + gap)))
    return sheet


def check_shape(x: Tensor, channels: int, size: str) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"Expected a tensor of shape (B, {channels}, {size}), not {type(x).__name__}.")
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"Expected a tensor of shape (B, {channels}, {size}), not {tuple(x.shape)}.")


def check_range(x: Tensor) -> None:
    """Decoders overshoot [-1, 1] a little; values of ten and more are bytes that were never scaled."""
    if not x.is_floating_point() or x.abs().max() > 10:
        raise ValueError(
            f"The pixels reach from {x.min().item():g} to {x.max().item():g}, not in [-1, 1]; "
            f"bytes are brought there by x / 127.5 - 1."
        )


def save_image(image: Image.Image, path: str | os.PathLike) -> Path:
    """Write a PNG that carries the settings it was drawn with (prompt, seed, steps, ...); returns its path.

    The file appears only when it is complete: an interrupted run leaves no half-written picture behind.
    """
    if not isinstance(image, Image.Image):
        raise TypeError(f"save_image writes one PIL image at a time, not {type(image).__name__}; save each by itself.")
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path.name} is not a .png: only PNG keeps the picture exact and carries its settings.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent}; make it first.")
    info = PngImagePlugin.PngInfo()
    if SETTINGS_KEY in image.info:
        info.add_itxt(SETTINGS_KEY, image.info[SETTINGS_KEY])
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")  # of this call alone
    try:
        image.save(partial, format="PNG", pnginfo=info)
        partial.replace(path)
    except OSError as error:
        raise OSError(
            f"Cannot write {path} ({error.strerror or error}); make room, or choose a folder that you may write in."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def read_settings(picture: Picture) -> dict:
    """The settings a picture was drawn with: of an image from this session, or of a PNG written by `save_image`."""
    info = (picture if isinstance(picture, Image.Image) else _read(picture)).info
    if SETTINGS_KEY not in info:
        raise ValueError("This picture carries no settings: it was not drawn by sdlearn, or another program saved it.")
    return json.loads(info[SETTINGS_KEY])
