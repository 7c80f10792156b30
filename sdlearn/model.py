"""A Stable Diffusion model as the set of its parts, wherever they came from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .schedule import NoiseSchedule

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class StableDiffusion:
    """The parts of one model. Everything that depends on the model's size is read from their configs.

    tokenizer: transformers CLIPTokenizer; text_encoder: CLIPTextModel; unet: diffusers UNet2DConditionModel;
    vae: AutoencoderKL; schedule: the NoiseSchedule it was trained with; path: the folder it was read from, None for
    random weights.
    """

    tokenizer: Any
    text_encoder: Any
    unet: Any
    vae: Any
    schedule: NoiseSchedule
    name: str
    path: Path | None

    @property
    def device(self) -> torch.device:
        """Where it computes. (With low_memory the UNet's weights are elsewhere; the text encoder never moves.)"""
        return next(self.text_encoder.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's number format; the latents between its calls are float32 whatever this says."""
        return next(self.unet.parameters()).dtype

    @property
    def latent_channels(self) -> int:
        return self.vae.config.latent_channels

    @property
    def scaling_factor(self) -> float:
        """1 / standard deviation of the autoencoder's latents: what brings them to unit size for the UNet."""
        return self.vae.config.scaling_factor

    @cached_property
    def vae_factor(self) -> int:
        """Pixels per latent along one side: the autoencoder halves the size between its blocks."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def height(self) -> int:
        """The picture height in pixels that the model was trained at."""
        return self._native_size[0] * self.vae_factor

    @property
    def width(self) -> int:
        """The picture width in pixels that the model was trained at."""
        return self._native_size[1] * self.vae_factor

    @property
    def _native_size(self) -> tuple[int, int]:
        size = self.unet.config.sample_size
        return (size, size) if isinstance(size, int) else tuple(size)

    def latent_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, int, int]:
        """(channels, h, w) of the latents of a picture of that size in pixels; the native size by default.

        Raises ValueError for a size that the autoencoder cannot divide.
        """
        height, width = height or self.height, width or self.width
        f = self.vae_factor
        if height % f or width % f or min(height, width) < f:
            fits = (max(f, round(width / f) * f), max(f, round(height / f) * f))
            raise ValueError(
                f"A picture of {width}x{height} pixels does not divide into latents: width and height must be "
                f"multiples of {f} for this model, for example {fits[0]}x{fits[1]}."
            )
        return self.latent_channels, height // f, width // f

    def __repr__(self) -> str:
        return f"StableDiffusion({self.name!r}, {self.width}x{self.height} pixels, {self.dtype}, {self.device})"


def check_model(sd: object) -> None:
    """Raises TypeError where something else stands in a model's place, such as its name."""
    if not isinstance(sd, StableDiffusion):
        raise TypeError(f"sd must be a model from sdlearn.load(), not {type(sd).__name__}: {sd!r:.80}.")
