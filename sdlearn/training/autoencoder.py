"""Training the autoencoder: pictures to latents an eighth or a quarter of their side, and back."""

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from ..pictures import to_images
from .data import PRESETS, Artwork, Pictures
from .loop import Settings, generator, processes, train

BLOCKS = {"emoji-64": (32, 64, 96), "emoji-128": (32, 64, 96, 96)}
SETTINGS = {
    "emoji-64": Settings(steps=6000, batch_size=24, learning_rate=1.5e-3, ema=0.998),
    "emoji-128": Settings(steps=12000, batch_size=128, learning_rate=1e-3, warmup=500, ema=0.999, sheet_every=2000),
}
DECODER_SETTINGS = {
    "emoji-64": Settings(steps=4000, batch_size=24, learning_rate=6e-4, ema=0.998, weight_decay=0.0),
    "emoji-128": Settings(steps=5000, batch_size=128, learning_rate=5e-4, ema=0.999, weight_decay=0.0),
}


def new_autoencoder(preset: str):
    """An untrained AutoencoderKL: 4 latent channels, a quarter (emoji-64) or an eighth (emoji-128) of the side."""
    from diffusers import AutoencoderKL

    blocks = BLOCKS[preset]
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(blocks),
        up_block_types=("UpDecoderBlock2D",) * len(blocks),
        block_out_channels=blocks,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=PRESETS[preset].size,
        mid_block_add_attention=False,
    )


class AutoencoderLoss(nn.Module):
    """The autoencoder with its loss as forward: what a picture loses on the way through the latents and back.

    decoder_only: the encoder stays as it is, so the latents, and a UNet trained on them, stay valid. Half of the
    latents get noise of up to `latent_noise` standard deviations, so that the decoder forgives a UNet's small errors.
    """

    def __init__(self, vae, decoder_only: bool = False, kl: float = 2e-4, latent_noise: float = 0.15):
        super().__init__()
        self.vae, self.decoder_only, self.kl, self.latent_noise = vae, decoder_only, kl, latent_noise
        if decoder_only:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)

    def forward(self, pixels: torch.Tensor, noise: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
        """pixels (B, 3, H, W) in [-1, 1]; noise (B, 4, h, w), standard normal; amount (B, 1, 1, 1), 0 to 1."""
        if self.decoder_only:
            with torch.no_grad():
                latents = self.vae.encode(pixels).latent_dist.mean.float()
            latents = latents + noise * amount * self.latent_noise / self.vae.config.scaling_factor
            return reconstruction_loss(self.vae.decode(latents).sample.float(), pixels)
        posterior = self.vae.encode(pixels).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        latents = mean + (0.5 * logvar).exp() * noise
        return reconstruction_loss(self.vae.decode(latents).sample.float(), pixels) + self.kl * kl


def reconstruction_loss(output: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """L1 + L2, edges at full and half size (for sharpness), and the mean colour of 8x8 patches (for true colours)."""
    loss = (output - pixels).abs().mean() + (output - pixels).pow(2).mean()
    loss = loss + (F.avg_pool2d(output, 8) - F.avg_pool2d(pixels, 8)).abs().mean()
    for weight in (0.5, 0.25):
        for axis in (2, 3):
            loss = loss + weight * (output.diff(dim=axis) - pixels.diff(dim=axis)).abs().mean()
        output, pixels = F.avg_pool2d(output, 2), F.avg_pool2d(pixels, 2)
    return loss


def train_autoencoder(
    artwork: Artwork,
    preset: str,
    folder: str | Path,
    vae=None,
    decoder_only: bool = False,
    settings: Settings | None = None,
    **options,
):
    """Trains an autoencoder (a new one, or `vae` further), measures its `scaling_factor`, saves it in `folder`/vae.

    Returns it, or None if the run was stopped early (what is saved then is the EMA so far). `options` go to
    `loop.train`.
    """
    if decoder_only and vae is None:
        raise ValueError("decoder_only trains the decoder of an autoencoder that exists: give it as vae.")
    settings = settings or (DECODER_SETTINGS if decoder_only else SETTINGS)[preset]
    vae = (vae or new_autoencoder(preset)).float().train()
    pictures = Pictures(artwork, PRESETS[preset].size, replace(PRESETS[preset].variety, hold_out=False), settings.seed)
    model = AutoencoderLoss(vae, decoder_only)
    height = pictures.size // 2 ** (len(vae.config.block_out_channels) - 1)

    def inputs(step: int, process: int):
        randomness = generator(settings.seed, step, process)
        batch = pictures.batch(step * 1024 + process, settings.batch_size)
        noise = torch.randn(settings.batch_size, 4, height, height, generator=randomness)
        amount, chosen = torch.rand(2, settings.batch_size, 1, 1, 1, generator=randomness)
        return batch.pixels, noise, amount * (chosen < 0.5)

    fixed = Pictures(artwork, pictures.size, seed=settings.seed + 1).batch(0, 32).pixels

    def sheet(model, path):
        with torch.no_grad():
            output = model.vae(fixed.to(model.vae.device)).sample
        save_sheet(torch.stack((fixed.cpu(), output.cpu()), 1).flatten(0, 1), path, columns=16)

    done = train(model, inputs, settings, folder, sheet=sheet, **options)
    vae.eval()
    if not decoder_only:
        vae.register_to_config(scaling_factor=round(1 / latent_std(vae, pictures), 5))
    if processes().is_main_process:
        vae.save_pretrained(Path(folder) / "vae")
    return vae if done else None


@torch.no_grad()
def latent_std(vae, pictures: Pictures, batches: int = 4) -> float:
    """Standard deviation of the latents' means over all channels: 1 / scaling_factor."""
    latents = [vae.encode(pictures.batch(-1 - i, 32).pixels.to(vae.device)).latent_dist.mean for i in range(batches)]
    return torch.cat(latents).float().std().item()


def psnr(output: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio of each picture (B,), dB, of tensors (B, 3, H, W) in [-1, 1]."""
    error = (output.clamp(-1, 1) - pixels).pow(2).mean((1, 2, 3))
    return 10 * torch.log10(4 / error)


def save_sheet(pixels: torch.Tensor, path: Path, columns: int) -> None:
    """A contact sheet of pictures (B, 3, H, W) in [-1, 1], rows from left to right."""
    images = to_images(pixels.float().clamp(-1, 1).cpu())
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    sheet.save(path)
