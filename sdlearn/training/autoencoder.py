"""Training the autoencoder: pictures to latents an eighth of their side, and back."""

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from ..pictures import contact_sheet, psnr, to_images
from .artwork import Artwork
from .loop import Settings, generator, processes, train
from .pictures import Pictures, Variety
from .presets import SIZE

BLOCKS = (16, 32, 96, 160)
SETTINGS = Settings(steps=3600, batch_size=16, learning_rate=1.5e-3, optimizer="muon", ema=0.998)
DECODER_SETTINGS = Settings(steps=4000, batch_size=16, learning_rate=5e-4, ema=0.999, weight_decay=0.0)
KL = 1e-5  # weight of the divergence from a standard normal distribution
CHANNELS = 0.05  # weight of `channel_loss`, which keeps all latent channels alive
LATENT_NOISE = 0.15  # most standard deviations that a decoder learning alone gets added: a UNet's latents are not exact
CROPPED = 0.6  # share of the steps, the first ones, on quarters of pictures: as much to learn from for half the work
LEAST_PARTICIPATION = 3.0  # of four channels; a run that is under it is stopped
SETTLED = 1000  # steps before that counts: a new encoder's channels need some hundreds of them to part


def new_autoencoder():
    """An untrained AutoencoderKL of 4.2 M parameters: 3 x 128 x 128 pixels to 4 x 16 x 16 latents, 48 times fewer."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(BLOCKS), up_block_types=("UpDecoderBlock2D",) * len(BLOCKS),
        block_out_channels=BLOCKS, layers_per_block=1, latent_channels=4, norm_num_groups=8, sample_size=SIZE,
        mid_block_add_attention=False,
    )  # fmt: skip


class AutoencoderLoss(nn.Module):
    """The autoencoder with its loss as forward: what a picture loses on the way through the latents and back.

    axes: `colour_axes` of the pictures that it learns from.
    decoder_only: the encoder stays as it is, so the latents, and a UNet trained on them, stay valid.
    """

    def __init__(self, vae, axes: torch.Tensor, decoder_only: bool = False):
        super().__init__()
        self.vae, self.decoder_only = vae, decoder_only
        self.register_buffer("axes", axes, persistent=False)
        if decoder_only:
            vae.encoder.requires_grad_(False)
            vae.quant_conv.requires_grad_(False)

    def forward(self, pixels: torch.Tensor, noise: torch.Tensor, amount: torch.Tensor) -> torch.Tensor:
        """pixels (B, 3, H, W) in [-1, 1]; noise (B, 4, h, w), standard normal; amount (B, 1, 1, 1), 0 to 1."""
        if self.decoder_only:
            with torch.no_grad():
                latents = self.vae.encode(pixels).latent_dist.mean.float()
            latents = latents + noise * amount * LATENT_NOISE / self.vae.config.scaling_factor
            return reconstruction_loss(self.vae.decode(latents).sample.float(), pixels, self.axes)
        posterior = self.vae.encode(pixels).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).mean()
        latents = mean + (0.5 * logvar).exp() * noise
        loss = reconstruction_loss(self.vae.decode(latents).sample.float(), pixels, self.axes)
        return loss + KL * kl + CHANNELS * channel_loss(mean)


def channel_loss(mean: torch.Tensor) -> torch.Tensor:
    """How far posterior means (B, C, h, w) are from zero mean, unit variance and no correlation of their channels.

    Without it two of four channels end as copies of the other two. After VICReg (Bardes et al. 2022, arXiv 2105.04906).
    """
    flat = mean.transpose(0, 1).flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    covariance = centred @ centred.T / flat.shape[1]
    deviation = covariance.diagonal().clamp(min=1e-6).sqrt()
    correlation = covariance / (deviation.view(-1, 1) * deviation)
    off_diagonal = correlation - torch.diag_embed(correlation.diagonal())
    return flat.mean(1).pow(2).mean() + (deviation - 1).pow(2).mean() + off_diagonal.pow(2).mean()


@torch.no_grad()
def channel_eigenvalues(latents: torch.Tensor) -> torch.Tensor:
    """Eigenvalues (C,), ascending, of the channels' covariance of latents (B, C, h, w): one near zero is a channel that
    the others already say."""
    return torch.linalg.eigvalsh(torch.cov(latents.float().transpose(0, 1).flatten(1)))


def participation(eigenvalues: torch.Tensor) -> float:
    """Participation ratio, (sum)^2 / sum of squares: how many channels carry the latents' variance, 1 to C."""
    return (eigenvalues.sum() ** 2 / eigenvalues.pow(2).sum()).item()


def colour_axes(pixels: torch.Tensor) -> torch.Tensor:
    """The map (3, 3) from red, green, blue to the principal axes of the colours of 8 x 8 patches of pictures (B, 3, H,
    W), each divided by its standard deviation. Of these drawings the axes are near to light against dark, red against
    blue, and green against magenta, which varies least."""
    patches = F.avg_pool2d(pixels.float(), 8).transpose(0, 1).flatten(1)
    variances, directions = torch.linalg.eigh(torch.cov(patches))
    return (directions / variances.sqrt()).T


def reconstruction_loss(output: torch.Tensor, pixels: torch.Tensor, axes: torch.Tensor) -> torch.Tensor:
    """L1 + L2, the mean colour of 8 x 8 patches (for true areas), and edges at full and half size (for sharpness).

    The mean colours are compared on whitened axes as well: measured in red, green and blue, the axis that varies least
    weighs so little that a network learns it last, and green peppers stay grey for hours.
    """
    error = output - pixels
    patches = F.avg_pool2d(error, 8)
    loss = error.abs().mean() + error.pow(2).mean() + patches.abs().mean()
    loss = loss + torch.einsum("ij,bjhw->bihw", axes, patches).pow(2).mean()
    for weight in (0.5, 0.25):
        for axis in (2, 3):
            loss = loss + weight * error.diff(dim=axis).abs().mean()
        error = F.avg_pool2d(error, 2)
    return loss


def train_autoencoder(
    artwork: Artwork, folder: str | Path, vae=None, decoder_only: bool = False, settings: Settings | None = None,
    **options,
):  # fmt: skip
    """Trains an autoencoder (a new one, or `vae` further), measures its `scaling_factor`, saves it in `folder`/vae.

    Returns it, or None if the run was stopped early (what is saved then is the EMA so far). `options` go to
    `loop.train`. Raises RuntimeError when a latent channel dies.
    """
    if decoder_only and vae is None:
        raise ValueError("decoder_only trains the decoder of an autoencoder that exists: give it as vae.")
    settings = settings or (DECODER_SETTINGS if decoder_only else SETTINGS)
    vae = (vae or new_autoencoder()).float().train()
    pictures = Pictures(artwork, vae.config.sample_size, Variety(hold_out=False), settings.seed)
    sample = replace(pictures, seed=settings.seed + 2).batch(0, 256).pixels
    model = AutoencoderLoss(vae, colour_axes(sample), decoder_only)
    factor = 2 ** (len(vae.config.block_out_channels) - 1)

    def inputs(step: int, process: int):
        randomness = generator(settings.seed, step, process)
        pixels = pictures.batch(step * 1024 + process, settings.batch_size).pixels
        if step < CROPPED * settings.steps and not decoder_only:
            pixels = torch.cat([crops(pixels, factor, randomness) for _ in range(2)])
        noise = torch.randn(len(pixels), 4, *(side // factor for side in pixels.shape[2:]), generator=randomness)
        amount, chosen = torch.rand(2, len(pixels), 1, 1, 1, generator=randomness)
        return pixels, noise, amount * (chosen < 0.5)

    fixed = replace(pictures, seed=settings.seed + 1).batch(0, 48).pixels

    @torch.no_grad()
    def watch(model, step: int) -> dict[str, float]:
        latents = model.vae.encode(fixed.to(model.vae.device)).latent_dist.mean
        output = model.vae.decode(latents).sample
        eigenvalues = channel_eigenvalues(latents)
        ratio = participation(eigenvalues)
        if ratio < LEAST_PARTICIPATION and step >= SETTLED and not decoder_only:
            raise RuntimeError(
                f"The latents live in {ratio:.1f} of their channels (eigenvalues {eigenvalues.tolist()}): start again "
                f"with a heavier channel_loss."
            )
        quality = psnr(output.cpu().clamp(-1, 1), fixed.cpu()).mean().item()
        each = {f"eigenvalue {k}": value for k, value in enumerate(eigenvalues.tolist())}
        return {"psnr": quality, "participation": ratio, **each}

    def sheet(model, path):
        with torch.no_grad():
            output = model.vae(fixed.to(model.vae.device)).sample
        pairs = torch.stack((fixed.cpu(), output.cpu().clamp(-1, 1)), 1).flatten(0, 1)
        contact_sheet(to_images(pairs), columns=12).save(path)

    done = train(model, inputs, settings, folder, watch=watch, sheet=sheet, **options)
    vae.eval()
    if not decoder_only:
        batches = [pictures.batch(-1 - index, 32).pixels.to(vae.device) for index in range(4)]
        with torch.no_grad():
            latents = torch.cat([vae.encode(pixels).latent_dist.mean for pixels in batches])
        vae.register_to_config(scaling_factor=round(1 / latents.float().std().item(), 5))  # which makes them of size 1
    if processes().is_main_process:
        vae.save_pretrained(Path(folder) / "vae")
    return vae if done else None


def crops(pixels: torch.Tensor, factor: int, randomness: torch.Generator) -> torch.Tensor:
    """A piece of half the side from each picture (B, 3, H, W), cut where latents meet: at multiples of `factor`."""
    half = pixels.shape[-1] // 2
    corners = torch.randint(half // factor + 1, (len(pixels), 2), generator=randomness) * factor
    cut = zip(pixels, corners.tolist(), strict=True)
    return torch.stack([one[:, y : y + half, x : x + half] for one, (y, x) in cut])
