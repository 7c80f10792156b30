"""Frames as a file that moves, to send to somebody: GIF, or PNG and WebP without loss.

    save_animation(pictures, "walk.gif", fps=10)

On a page, `sdlearn.scrub` is kinder: its frames stand still until somebody asks.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..pictures import contact_sheet
from ..schedule import number, whole_number
from . import paper

# How Pillow is to write each kind. A GIF has 256 colours and counts time in hundredths of a second.
KINDS = {
    ".gif": {"format": "GIF", "optimize": False, "disposal": 1},
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "lossless": True, "quality": 90},
}
ENOUGH = 256  # pixels: what is smaller is enlarged, by a whole factor


def save_animation(frames: Sequence, path: str | os.PathLike, *, fps: float = 10, scale: int | None = None) -> Path:
    """Write pictures of one size as an animation that goes round for ever; returns its path.

    frames: pictures as `figures` takes them, first to last; where the last is followed well by the first, the loop has
    no seam. path: its ending, .gif, .png or .webp, chooses the kind. fps: frames a second, at most 50, rounded to what
    a GIF can say. scale: the whole factor by which pixels are enlarged; by default to about 256 pixels.

    All frames of a GIF share one palette, so that what stands still does not flicker. The file appears only when it is
    complete. Raises ValueError for another ending, for frames of several sizes, or for fewer than two.
    """
    path = Path(path)
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"{path.name} does not end in {', '.join(KINDS)}, the animations that can be written.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {path.parent}; make it first.")
    images = [paper.picture(frame) for frame in frames]
    if len(images) < 2:
        raise ValueError(f"An animation needs at least two frames, not {len(images)}; save_image writes one picture.")
    if len({image.size for image in images}) > 1:
        raise ValueError("The frames of an animation must have one size; scale them with pictures.fit.")
    hundredths = max(2, round(100 / number("fps", fps, 0.01, 50)))
    factor = max(1, ENOUGH // images[0].width) if scale is None else whole_number("scale", scale, 1)
    if path.suffix.lower() == ".gif":
        # Colours of every frame go into the one palette. No dithering: its dots would crawl from frame to frame.
        palette = contact_sheet(images, columns=len(images)).quantize(256, Image.Quantize.MEDIANCUT)
        images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    images = [image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST) for image in images]
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")  # of this call alone
    options = {"save_all": True, "append_images": images[1:], "duration": 10 * hundredths, "loop": 0}
    try:
        images[0].save(partial, **options, **KINDS[path.suffix.lower()])
        partial.replace(path)
    except OSError as error:
        raise OSError(
            f"Cannot write {path} ({error.strerror or error}); make room, or choose a folder that you may write in."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return path
