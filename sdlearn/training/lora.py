"""One new subject for a finished model: a LoRA (Hu et al. 2022), trained on a few pictures and their captions.

    sd = sdlearn.load(dtype="float32")
    for step in lora.teach(sd, pictures, captions):
        ...                                               # look at it while it learns
    distil.save_adapter(sd.unet, "blorp")                 # for load(lora="blorp"), and for diffusers

The model's own weights stay as they are. Beside each matrix of its attention stand two thin ones, and only they learn.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .. import autoencoder, text
from ..model import StableDiffusion
from ..pictures import Picture
from .distil import add_adapter

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")  # where the paper puts them
RANK = 8


def adapt(sd: StableDiffusion, rank: int = RANK, seed: int = 0) -> list[torch.nn.Parameter]:
    """Adds a LoRA that changes nothing yet to the UNet, in place; returns its numbers, which are all that is trained.

    Raises ValueError for a model in half precision, in which small steps are lost.
    """
    from diffusers.models.attention_processor import AttnProcessor

    if sd.dtype != torch.float32:
        raise ValueError(f"Training needs float32, and this model is {sd.dtype}: load it with dtype='float32'.")
    if sd.device.type == "cpu":  # where fused attention is slow on its way back, see `train_diffusion`
        sd.unet.set_attn_processor(AttnProcessor())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        add_adapter(sd.unet, rank, ATTENTION)
    return [parameter for parameter in sd.unet.parameters() if parameter.requires_grad]


def loss(sd: StableDiffusion, latents: Tensor, states: Tensor, timesteps: Tensor, eps: Tensor) -> Tensor:
    """The simple loss (Ho et al. 2020, eq. 14) of latents (B, 4, h, w) with their captions' states (B, 77, D): the mean
    squared error of the noise, whatever the network says it in. timesteps (B,); eps (B, 4, h, w)."""
    x = sd.schedule.add_noise(latents, eps, timesteps)
    output = sd.unet(x, timesteps.to(sd.device), encoder_hidden_states=states).sample
    return (sd.schedule.to_eps(x, output, timesteps) - eps).square().mean()


def teach(
    sd: StableDiffusion, pictures: Sequence[Picture], captions: Sequence[str], *,
    steps: int = 80, batch_size: int = 8, rank: int = RANK, learning_rate: float = 8e-3, seed: int = 0,
) -> Iterator[int]:  # fmt: skip
    """Adds a LoRA to `sd.unet` and trains it in place; yields 0, 1, ... `steps`, the steps that are done.

    The rate rises over ten steps and falls to nothing over the second half.
    """
    latents, states = autoencoder.encode(sd, list(pictures)), text.encode_prompt(sd, list(captions))
    optimizer = torch.optim.AdamW(adapt(sd, rank, seed), betas=(0.9, 0.99), weight_decay=0)
    chance = torch.Generator().manual_seed(seed)
    for step in range(steps):
        yield step
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1, (step + 1) / 10, 2 * (1 - step / steps))
        rows = torch.randint(len(latents), (batch_size,), generator=chance)
        total = sd.schedule.num_train_timesteps
        timesteps = ((torch.arange(batch_size) + torch.rand(batch_size, generator=chance)) * total / batch_size).long()
        eps = torch.randn(batch_size, *latents.shape[1:], generator=chance).to(latents)
        loss(sd, latents[rows], states[rows], timesteps.clamp(max=total - 1), eps).backward()
        optimizer.step()
        optimizer.zero_grad()
    yield steps
