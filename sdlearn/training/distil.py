"""Few steps instead of many: latent consistency distillation into a LoRA (Luo et al. 2023, LCM and LCM-LoRA).

A consistency model names the end of the probability flow's path from anywhere on it (Song et al. 2023). The teacher is
the model itself, with guidance; the student is the same UNet with two small matrices beside each layer (Hu et al.
2022). From a noised picture the teacher takes one DDIM step, and the student learns to say before that step what it
says after it. Nothing is drawn to the end, so a step costs six forward passes of the UNet and nothing else.
"""

from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from ..guidance import guide
from ..model import StableDiffusion
from ..samplers import DISTILLED, consistency_weights
from ..schedule import convert
from .diffusion import tokenize
from .loop import Settings, generator, processes, train

SETTINGS = Settings(steps=400, batch_size=32, learning_rate=1e-3, warmup=20, ema=0.98, weight_decay=0.0)
RANK = 8  # a file of 1.4 MB for the shipped model
LAYERS = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
          "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj")  # fmt: skip
GUIDANCE = (2.0, 6.0)  # of the teacher, drawn for each picture
STRIDE = 4  # places of the grid that the teacher steps at once, as if it ran in 12 steps
NAME = "few-steps"


class ConsistencyLoss(nn.Module):
    """The UNet, with an adapter of peft's, as teacher (adapter off) and student (on), with the loss as forward.

    Luo et al. 2023, eq. 11, over a grid of DISTILLED timesteps of which the teacher skips some (their section 4.3),
    without a second, averaged copy of the student as the target: Song and Dhariwal 2024 show that it is not needed. A
    pseudo-Huber distance, also theirs.
    """

    def __init__(self, sd: StableDiffusion):
        super().__init__()
        self.unet, self.prediction_type = sd.unet, sd.schedule.prediction_type
        every = sd.schedule.num_train_timesteps // DISTILLED
        timesteps = torch.arange(0, DISTILLED + 1) * every - 1
        timesteps[0] = 0
        kept = torch.tensor([consistency_weights(t) for t in timesteps.tolist()])
        tables = {
            "timesteps": timesteps, "skip": kept[:, 0], "out": kept[:, 1],
            "signal": sd.schedule.signal[timesteps].float(), "noise": sd.schedule.noise[timesteps].float(),
        }  # fmt: skip
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, latents: Tensor, noise: Tensor, places: Tensor, states: Tensor, scales: Tensor, empty: Tensor):
        """latents, noise (B, 4, h, w), of unit size; places (B,), 1 to DISTILLED; states (B, 77, D) of the captions and
        empty (1, 77, D) of no words; scales (B,), the teacher's guidance."""
        at, before = self._at(places), self._at((places - STRIDE).clamp(min=0))
        x = at["signal"] * latents + at["noise"] * noise
        student = self._end(x, states, at)
        with torch.no_grad():
            with _switched_off(self.unet):
                both = torch.cat((empty.expand_as(states), states))
                without, with_words = self._ask(x.repeat(2, 1, 1, 1), both, at["timesteps"].repeat(2)).chunk(2)
            guided = guide(without, with_words, scales.view(-1, 1, 1, 1))
            x0, eps = convert(x, guided, at["signal"], at["noise"], self.prediction_type)
            target = self._end(before["signal"] * x0 + before["noise"] * eps, states, before)
        return ((student - target).pow(2) + 1e-6).sqrt().mean()

    def _end(self, x: Tensor, states: Tensor, at: dict[str, Tensor]) -> Tensor:
        """What the student names as the end of the path through x."""
        output = self._ask(x, states, at["timesteps"])
        x0, _ = convert(x, output, at["signal"], at["noise"], self.prediction_type)
        return at["skip"] * x + at["out"] * x0

    def _ask(self, x: Tensor, states: Tensor, timesteps: Tensor) -> Tensor:
        return self.unet(x, timesteps, states).sample.float()

    def _at(self, places: Tensor) -> dict[str, Tensor]:
        shaped = {name: getattr(self, name)[places].view(-1, 1, 1, 1) for name in ("signal", "noise", "skip", "out")}
        return {**shaped, "timesteps": self.timesteps[places]}


@contextmanager
def _switched_off(unet):
    unet.disable_adapters()
    try:
        yield
    finally:
        unet.enable_adapters()


def add_adapter(unet, rank: int = RANK, layers=LAYERS) -> None:
    """A new LoRA beside the layers of these names, by peft; only its matrices are trained, and it begins at nothing."""
    from peft import LoraConfig

    unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers)))


def train_few_steps(
    sd: StableDiffusion, latents: Tensor, ids: Tensor, folder: str | Path, *,
    settings: Settings | None = None, rank: int = RANK, **options,
) -> Path | None:  # fmt: skip
    """Distils `sd` in place and saves the adapter in `folder`, where `load(lora=...)` and diffusers'
    `load_lora_weights` find it.

    latents: (N, 4, h, w) of unit size, of training pictures, or drawn by the model itself; ids: (N, 77), the tokens of
    their captions. options: of `loop.train`. Returns the folder, or None if the run was stopped early.
    """
    from diffusers.models.attention_processor import AttnProcessor

    settings, folder = settings or SETTINGS, Path(folder)
    torch.manual_seed(settings.seed)
    if sd.device.type == "cpu":  # where fused attention is slow on its way back, see `train_diffusion`
        sd.unet.set_attn_processor(AttnProcessor())
    add_adapter(sd.unet, rank)
    model, empty = ConsistencyLoss(sd).train(), tokenize(sd.tokenizer, [""])

    @torch.no_grad()
    def states(ids: Tensor) -> Tensor:
        return sd.text_encoder(ids.long().to(sd.device)).last_hidden_state.float()

    def inputs(step: int, process: int):
        randomness = generator(settings.seed, step, process)
        count = settings.batch_size
        rows = torch.randint(len(latents), (count,), generator=randomness)
        noise = torch.randn(count, *latents.shape[1:], generator=randomness)
        places = torch.randint(1, DISTILLED + 1, (count,), generator=randomness)
        low, high = GUIDANCE
        scales = low + (high - low) * torch.rand(count, generator=randomness)
        return latents[rows].float(), noise, places, states(ids[rows]), scales, states(empty)

    done = train(model, inputs, settings, folder, **options)
    sd.unet.eval()
    if processes().is_main_process:
        save_adapter(sd.unet, folder)
    return folder if done else None


def save_adapter(unet, folder: str | Path) -> None:
    """The adapter in half precision, in the file that diffusers' `load_lora_weights` reads."""
    from diffusers import StableDiffusionPipeline
    from peft.utils import get_peft_model_state_dict

    weights = {name: weight.half().cpu() for name, weight in get_peft_model_state_dict(unet).items()}
    StableDiffusionPipeline.save_lora_weights(str(folder), unet_lora_layers=weights)
