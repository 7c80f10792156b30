"""Training the text encoder and the UNet together, on latents that are worked out once.

The objective is Stable Diffusion 1's: predict the noise (Ho et al. 2020, eq. 14) on the scaled-linear schedule, given
the caption's 77 token states; one caption in ten is empty, so that guidance has an unconditional prediction (Ho and
Salimans 2022). Timesteps are weighted by min(SNR, 5) / SNR (Hang et al. 2023).
"""

from pathlib import Path

import torch
from torch import nn

from ..model import StableDiffusion
from ..sampling import text_to_image
from ..schedule import NoiseSchedule
from ..show import figures
from .data import PRESETS, Artwork, Pictures, pair_subjects, save_whole
from .loop import Settings, generator, processes, train
from .score import askable, obedience, pair_prompts, prompts

UNET_BLOCKS = {"emoji-64": (64, 128, 192), "emoji-128": (96, 160, 192)}
SETTINGS = {
    "emoji-64": Settings(steps=6000, batch_size=64, learning_rate=1e-3, warmup=200, ema=0.9995),
    "emoji-128": Settings(steps=20000, batch_size=512, learning_rate=1e-3, warmup=500, ema=0.9995,
                          save_every=2000, sheet_every=5000),
}  # fmt: skip
AUGMENTATIONS = 40  # pictures of each sprite, worked out as latents before the training


def new_text_encoder(width: int = 128):
    """An untrained CLIPTextModel for CLIP's own 49,408 tokens: 3 layers, 4 heads, 77 positions."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408, hidden_size=width, intermediate_size=4 * width, projection_dim=width,
            num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=77,
            bos_token_id=49406, eos_token_id=49407, pad_token_id=49407,
        )
    )  # fmt: skip


def new_unet(preset: str, width: int = 128):
    """An untrained UNet2DConditionModel on 4x16x16 latents, with cross-attention at 8x8 and 4x4."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=UNET_BLOCKS[preset],
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=width,
        attention_head_dim=4,  # diffusers reads it as the number of heads
        norm_num_groups=16,
    )


class DiffusionLoss(nn.Module):
    """Text encoder and UNet with their loss as forward, on Stable Diffusion 1's noise schedule."""

    def __init__(self, text_encoder, unet):
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet
        for name in ("signal", "noise", "snr"):
            self.register_buffer(name, getattr(NoiseSchedule(), name).float(), persistent=False)

    def forward(self, latents: torch.Tensor, ids: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor):
        """latents and noise (B, 4, h, w), of unit size; ids (B, 77); timesteps (B,), 0 to 999."""
        signal, sigma, snr = (table[timesteps].view(-1, 1, 1, 1) for table in (self.signal, self.noise, self.snr))
        states = self.text_encoder(ids).last_hidden_state
        predicted = self.unet(signal * latents + sigma * noise, timesteps, states).sample.float()
        return ((predicted - noise).pow(2) * (snr.clamp(max=5) / snr)).mean()


def curve_point(sd, reader, count: int = 64) -> dict[str, float]:
    """Share of pictures right in all parts, of `count` combinations that the training shows and `count` held out, if
    there are any of these."""
    return {
        kind: obedience(sd, reader, prompts(reader.subjects, count, seed=1, held=held), guidance_scale=4)["all"]
        for kind, held in (("seen", False), ("new", True))
        if askable(reader.subjects, held)
    }


def sheet_prompts(subjects) -> list[str]:
    """What every sample sheet of a run shows: seven of its combinations, and two subjects at once."""
    return prompts(subjects, 7) + [text for text, _ in pair_prompts(pair_subjects(subjects), 1)]


@torch.no_grad()
def make_latents(vae, pictures: Pictures, tokenizer, path: Path, count: int, batch_size: int = 50, log=print) -> None:
    """Writes `count` latents of unit size (float16) and their captions' token ids to a safetensors file."""
    latents, ids = [], []
    for index in range(-(-count // batch_size)):
        batch = pictures.batch(index, batch_size)
        mean = vae.encode(batch.pixels.to(vae.device)).latent_dist.mean
        latents.append((mean * vae.config.scaling_factor).half().cpu())
        ids.append(tokenize(tokenizer, batch.captions))
        if index % 20 == 0:
            log(f"latents: {index * batch_size} of {count}")
    save_whole({"latents": torch.cat(latents)[:count], "ids": torch.cat(ids)[:count].int()}, path)


@torch.no_grad()
def start_tokens(text_encoder, ids: torch.Tensor, new: bool) -> None:
    """Readies the token table for captions of these token ids.

    In a new encoder, rows that no caption reads become zeros: nothing would teach them anything, and zeros cost nothing
    in a compressed download. In any encoder, rows of zeros that captions do read start at random, or they could not
    learn to differ. All others stay: a model that goes on keeps the words it knows.
    """
    table = text_encoder.get_input_embeddings().weight
    read = torch.zeros(len(table), dtype=torch.bool)
    read[ids.long().unique()] = True
    if new:
        table[~read] = 0
    empty = read & ~table.any(1)
    table[empty] = torch.randn(int(empty.sum()), table.shape[1]) * table[table.any(1)].std()


def _plain_attention(text_encoder, unet) -> None:
    """Attention as matrix products: on the CPU the backward pass of torch's fused attention takes a quarter of a step
    at this size, and this a twentieth."""
    from diffusers.models.attention_processor import AttnProcessor

    unet.set_attn_processor(AttnProcessor())
    text_encoder.set_attn_implementation("eager")


def tokenize(tokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids (B, 77)."""
    return tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


def train_diffusion(
    artwork: Artwork,
    preset: str,
    vae,
    tokenizer,
    folder: str | Path,
    text_encoder=None,
    unet=None,
    settings: Settings | None = None,
    augmentations: int = AUGMENTATIONS,
    reader=None,
    **options,
):
    """Trains a text encoder and a UNet (new, or the given ones further) and saves them in `folder`.

    reader: judges pictures of the EMA weights with every sample sheet; `score.jsonl` holds the curve.

    Returns them, or None if the run was stopped early (what is saved then is the EMA so far). `options` go to
    `loop.train`.
    """
    from safetensors.torch import load_file

    settings, folder = settings or SETTINGS[preset], Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = Pictures(artwork, PRESETS[preset].size, PRESETS[preset].variety, settings.seed)
    path = folder / "latents.safetensors"
    with processes().main_process_first():  # one makes the latents, the others find them
        if not path.exists():
            make_latents(vae, pictures, tokenizer, path, augmentations * len(artwork.sprites))
    data = load_file(path)
    empty = tokenize(tokenizer, [""])[0]
    torch.manual_seed(settings.seed)
    new = text_encoder is None
    text_encoder, unet = text_encoder or new_text_encoder(), unet or new_unet(preset)
    start_tokens(text_encoder, data["ids"], new)
    if vae.device.type == "cpu":
        _plain_attention(text_encoder, unet)
    model = DiffusionLoss(text_encoder.float().train(), unet.float().train())

    def inputs(step: int, process: int):
        randomness = generator(settings.seed, step, process)
        rows = torch.randint(len(data["latents"]), (settings.batch_size,), generator=randomness)
        ids = data["ids"][rows].long()
        ids[torch.rand(len(rows), generator=randomness) < 0.1] = empty
        noise = torch.randn(len(rows), *data["latents"].shape[1:], generator=randomness)
        timesteps = torch.randint(1000, (len(rows),), generator=randomness)
        return data["latents"][rows].float(), ids, noise, timesteps

    def sheet(model, path):
        sd = StableDiffusion(tokenizer, model.text_encoder, model.unet, vae, NoiseSchedule(), preset, folder)
        texts = sheet_prompts(artwork.subjects)
        rows = [text_to_image(sd, text, seeds=range(4), guidance_scale=4, progress=False) for text in texts]
        figures.grid(rows, row_labels=texts).savefig(path)
        return curve_point(sd, reader) if reader else None

    done = train(model, inputs, settings, folder, sheet=sheet, **options)
    if processes().is_main_process:
        text_encoder.eval().save_pretrained(folder / "text_encoder")
        unet.eval().save_pretrained(folder / "unet")
    return (text_encoder, unet) if done else None
