"""Artwork of three shapes, its archives, and models so small that a training step takes a moment."""

import base64
import hashlib
import io
import json
import tarfile

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from sdlearn.training import artwork, diffusion
from sdlearn.training.captions import STYLES
from sdlearn.training.loop import Settings

SHAPES = {
    "house": '<rect x="4" y="4" width="24" height="24" fill="{}"/>',
    "key": '<polygon points="2,2 30,30 2,30" fill="{}"/>',  # heavier on its left
    "red apple": '<circle cx="16" cy="16" r="12" fill="{}"/>',
}
SUBJECTS = tuple(SHAPES)
FILLS = {"glossy": "#d33", "flat": "#3a3", "comic": "#e80", "neon": "#33d", "pixel": "#a3a", "ink": "#000"}
SIDE = 64  # pixels of the pictures that the models below learn from
SHORT = Settings(steps=6, batch_size=2, learning_rate=1e-3, warmup=2, mixed_precision="no", save_every=2)


def toy_artwork() -> artwork.Artwork:
    """Each subject drawn by one artist in each style, subjects outermost."""
    order = [(name, style) for name in SUBJECTS for style in STYLES]
    return artwork.Artwork(
        torch.stack([artwork.draw(drawing(SHAPES[name].format(FILLS[style]), 48), style) for name, style in order]),
        torch.tensor([SUBJECTS.index(name) for name, _ in order]),
        torch.tensor([STYLES.index(style) for _, style in order]),
        SUBJECTS,
        {"house": ("cottage", "home")},
    )


def drawing(body: str, pixels: int = 96, side: int = 32) -> str:
    """A complete SVG file with this body."""
    return artwork.svg({"width": side, "height": side, "icons": {"it": {"body": body}}}, "it", pixels)


def sprite(art: artwork.Artwork, subject: str, style: str) -> int:
    """The number of the first drawing of a subject in a style."""
    is_it = (art.subject == art.subjects.index(subject)) & (art.style == STYLES.index(style))
    return is_it.nonzero().flatten()[0].item()


def write_archives(cache, monkeypatch, pixels: int = 48) -> None:
    """npm archives of the three shapes in a folder, which `artwork.PACKAGES` now expects; twemoji lacks the key."""
    icons = {
        name.replace(" ", "-"): {"body": body.format(fill)}
        for (name, body), fill in zip(SHAPES.items(), ("#d33", "#3a3", "#33d"), strict=True)
    }
    labels = [{"label": "red apple", "tags": ["gem", "apple"]}, {"label": "house", "tags": ["home", "loaf"]}]
    published = {}
    for name, package in artwork.PACKAGES.items():
        drawn = {icon: body for icon, body in icons.items() if (name, icon) != ("twemoji", "key")}
        members = {"icons.json": {"width": 32, "height": 32, "icons": drawn}, "en/data.json": labels}
        path = cache / f"{package.name.removeprefix('@').replace('/', '-')}-{package.version}.tgz"
        with tarfile.open(path, "w:gz") as archive:
            for member, content in members.items():
                data = json.dumps(content).encode()
                info = tarfile.TarInfo(f"package/{member}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
        published[name] = package._replace(sha512=digest)
    monkeypatch.setattr(artwork, "PACKAGES", published)
    monkeypatch.setattr(artwork, "SPRITE", pixels)


def small_vae() -> AutoencoderKL:
    """Of factor 4, for pictures of SIDE pixels: the shipped model's geometry."""
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4,
        block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4, sample_size=SIDE,
        mid_block_add_attention=False,
    )  # fmt: skip


def small_unet(text_width: int = 32) -> UNet2DConditionModel:
    torch.manual_seed(1)
    return UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1, cross_attention_dim=text_width,
        attention_head_dim=2, norm_num_groups=8,
    )  # fmt: skip


def small_text_encoder():
    torch.manual_seed(2)
    return diffusion.new_text_encoder(width=32)
