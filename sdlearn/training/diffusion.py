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
from .artwork import Artwork, save_whole
from .judge import Judge
from .loop import Settings, generator, mixed_precision, processes, train
from .pictures import Pictures
from .presets import FACTOR, SIZE
from .score import CLASSIC, draw, known, obedience, pair_obedience, pair_prompts, prompts

UNET_BLOCKS = (64, 128, 192)
SETTINGS = Settings(
    steps=20000, batch_size=128, learning_rate=1.5e-3, optimizer="muon", warmup=200, save_every=500, sheet_every=2000
)
USUAL = {"sampler": "ddim", "num_inference_steps": 25, "guidance_scale": 7.5}
AUGMENTATIONS = 30  # pictures of each sprite, worked out as latents before the training
UNSAID = 0.1  # share of captions that are left empty
MOST_SNR = 5.0  # above it a timestep's loss counts less


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


def new_unet(width: int = 128):
    """An untrained UNet2DConditionModel on 4x16x16 latents, with cross-attention at 8x8 and 4x4."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=SIZE // FACTOR, block_out_channels=UNET_BLOCKS, layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width, norm_num_groups=16, attention_head_dim=4,  # read as the number of heads
    )  # fmt: skip


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
        return ((predicted - noise).pow(2) * (snr.clamp(max=MOST_SNR) / snr)).mean()


def curve_point(sd, judge: Judge, count: int = 48) -> dict[str, float]:
    """Shares of `count` pictures each: right in all parts, of combinations that the training shows and of those that it
    holds out, by the settings that everyone uses; and of pairs, both in their places."""
    curve = {}
    for kind, held in (("seen", False), ("new", True)):
        if known(judge, held):
            found = obedience(sd, judge, prompts(judge, count, seed=1, held=held), **USUAL)
            curve |= {kind: found["all"], f"{kind}, subject": found["subject"], f"{kind}, style": found["style"]}
    for name, options in CLASSIC.items():
        curve[name] = obedience(sd, judge, prompts(judge, count // 2, seed=1), **options)["all"]
    texts, pairs = zip(*pair_prompts(judge, count // 2), strict=True)
    curve["pairs"] = pair_obedience(draw(sd, list(texts), list(range(len(texts))), **USUAL), pairs, judge)["in order"]
    return curve


SHEET = (
    "a glossy fox on a blue background",
    "a flat rocket",
    "a comic castle on a pink background",
    "a neon guitar",
    "a pixel owl on a green background",
    "an ink cat on a yellow background",
    "a small glossy teapot on the left on a dark to light teal background",
    "a flat cat and a dog on a beige background",
)


def draw_sheet(sd, path: Path) -> None:
    """SHEET drawn from three seeds, and from one more by the settings in CLASSIC."""
    columns = [(seed, USUAL) for seed in range(3)] + [(3, options) for options in CLASSIC.values()]
    drawn = [text_to_image(sd, list(SHEET), seeds=[k] * len(SHEET), progress=False, **how) for k, how in columns]
    labels = [f"{how['sampler']} {how['guidance_scale']:g}" for _, how in columns]
    figures.grid(list(zip(*drawn, strict=True)), row_labels=SHEET, column_labels=labels).savefig(path)


@torch.no_grad()
def make_latents(vae, pictures: Pictures, tokenizer, path: Path, count: int, batch_size: int = 50) -> None:
    """Writes `count` latents of unit size (float16) and their captions' token ids to a safetensors file.

    Of several processes each makes its share; the first one puts the shares together.
    """
    from safetensors.torch import load_file

    us, batches, latents, ids = processes(), -(-count // batch_size), [], []
    faster = torch.autocast(vae.device.type, torch.bfloat16, enabled=mixed_precision() == "bf16")
    for index in range(us.process_index, batches, us.num_processes):
        batch = pictures.batch(index, batch_size)
        with faster:
            mean = vae.encode(batch.pixels.to(vae.device)).latent_dist.mean.float()
        latents.append((mean * vae.config.scaling_factor).half().cpu())
        ids.append(tokenize(tokenizer, batch.captions).int())
        if index % 50 == 0:
            print(f"latents: {index * batch_size} of {count}")
    shares = [path.with_name(f"{path.stem}-{share}.safetensors") for share in range(us.num_processes)]
    if latents:  # else there are fewer batches than processes
        save_whole({"latents": torch.cat(latents), "ids": torch.cat(ids)}, shares[us.process_index])
    us.wait_for_everyone()
    if us.is_main_process:
        made = [load_file(share) for share in shares if share.exists()]
        save_whole({name: torch.cat([one[name] for one in made])[:count] for name in made[0]}, path)
        for share in shares:
            share.unlink(missing_ok=True)
    us.wait_for_everyone()


class ReadRows(nn.Embedding):
    """Of a token table, the rows that captions of these ids read, and one of zeros for all others: a step is a tenth
    shorter when 49,000 rows without a gradient need not be cleared, averaged and sent to the other processes."""

    def __init__(self, table: nn.Embedding, ids: torch.Tensor):
        rows = ids.long().unique()
        super().__init__(len(rows) + 1, table.embedding_dim)
        self.table, self.rows = [table], rows  # in a list, or its weights would count as this module's
        index = torch.full((table.num_embeddings,), len(rows))
        index[rows] = torch.arange(len(rows))
        self.register_buffer("index", index, persistent=False)
        with torch.no_grad():
            self.weight.copy_(torch.cat((table.weight[rows], table.weight.new_zeros(1, table.embedding_dim))))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(self.index[ids])

    @torch.no_grad()
    def whole(self) -> nn.Embedding:
        """The table that the rows came from, with what they have learned."""
        self.table[0].weight[self.rows] = self.weight[:-1].to(self.table[0].weight)
        return self.table[0]


@torch.no_grad()
def start_tokens(text_encoder, ids: torch.Tensor, new: bool) -> None:
    """Readies the token table for captions of these token ids.

    In a new encoder, rows that no caption reads become zeros: nothing would teach them, and zeros compress to nothing.
    In any encoder, rows of zeros that captions do read start at random, or they could not learn to differ. All others
    stay: a model that goes on keeps the words it knows.
    """
    table = text_encoder.get_input_embeddings().weight
    read = torch.zeros(len(table), dtype=torch.bool)
    read[ids.long().unique()] = True
    if new:
        table[~read] = 0
    empty = read & ~table.any(1)
    table[empty] = torch.randn(int(empty.sum()), table.shape[1]) * table[table.any(1)].std()


def tokenize(tokenizer, captions: list[str]) -> torch.Tensor:
    """Token ids (B, 77)."""
    return tokenizer(captions, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


def train_diffusion(
    artwork: Artwork, vae, tokenizer, folder: str | Path, text_encoder=None, unet=None,
    settings: Settings | None = None, augmentations: int = AUGMENTATIONS, judge: Judge | None = None, **options,
):  # fmt: skip
    """Trains a text encoder and a UNet (new, or the given ones further) and saves them in `folder`.

    judge: reads pictures of the EMA weights with every sample sheet; `score.jsonl` holds the curve.
    options: of `loop.train`. Returns both, or None if the run was stopped early (the EMA so far is saved then).
    """
    from diffusers.models.attention_processor import AttnProcessor
    from safetensors.torch import load_file

    settings, folder = settings or SETTINGS, Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = Pictures(artwork, vae.config.sample_size, seed=settings.seed)
    path = folder / "latents.safetensors"
    if not path.exists():
        make_latents(vae, pictures, tokenizer, path, augmentations * len(artwork.sprites))
    data = load_file(path)
    empty = tokenize(tokenizer, [""])[0]
    torch.manual_seed(settings.seed)
    new = text_encoder is None
    text_encoder, unet = text_encoder or new_text_encoder(), unet or new_unet()
    start_tokens(text_encoder, data["ids"], new)
    rows = ReadRows(text_encoder.get_input_embeddings(), data["ids"])
    text_encoder.set_input_embeddings(rows)
    if vae.device.type == "cpu":  # the backward pass of torch's fused attention takes a quarter of a step, and of
        unet.set_attn_processor(AttnProcessor())  # attention as matrix products a twentieth, at this size
        text_encoder.set_attn_implementation("eager")
    model = DiffusionLoss(text_encoder.float().train(), unet.float().train())

    def inputs(step: int, process: int):
        randomness = generator(settings.seed, step, process)
        count = settings.batch_size
        rows = torch.randint(len(data["latents"]), (count,), generator=randomness)
        ids = data["ids"][rows].long()
        ids[torch.rand(count, generator=randomness) < UNSAID] = empty
        noise = torch.randn(count, *data["latents"].shape[1:], generator=randomness)
        # One timestep from each of as many equal parts: a batch's loss varies less than with independent ones.
        timesteps = ((torch.arange(count) + torch.rand(count, generator=randomness)) * (1000 / count)).long()
        return data["latents"][rows].float(), ids, noise, timesteps.clamp(max=999)

    def sheet(model, path):
        sd = StableDiffusion(tokenizer, model.text_encoder, model.unet, vae, NoiseSchedule(), "training", folder)
        draw_sheet(sd, path)
        return curve_point(sd, judge) if judge else None

    done = train(model, inputs, settings, folder, sheet=sheet, **options)
    text_encoder.set_input_embeddings(rows.whole())
    if processes().is_main_process:
        text_encoder.eval().save_pretrained(folder / "text_encoder")
        unet.eval().save_pretrained(folder / "unet")
    return (text_encoder, unet) if done else None
