"""Small Stable-Diffusion-shaped models with random weights, saved as diffusers folders.

They draw nothing, but every size differs from the shipped model's, so whatever is tuned to it breaks on them:

    python tests/random_models.py /tmp/other          # factor 8, v-prediction, other widths
    SDLEARN_MODEL=/tmp/other pytest notebooks
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import sdlearn

STABLE_DIFFUSION_SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def save_random_model(
    folder: str | Path,
    *,
    prediction_type: str = "v_prediction",
    vae_blocks: int = 4,
    sample_size: int = 8,
    width: int = 48,
    unet_in_channels: int = 4,
    scaling_factor: float = 0.3,
    seed: int = 0,
    **schedule,
) -> Path:
    """A whole model in the diffusers layout: factor 2^(vae_blocks - 1), text width `width`, latents `sample_size`."""
    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=sample_size,
            in_channels=unet_in_channels,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=width,
            attention_head_dim=8,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 16, 16, 16)[:vae_blocks],
            down_block_types=("DownEncoderBlock2D",) * vae_blocks,
            up_block_types=("UpDecoderBlock2D",) * vae_blocks,
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=sample_size * 2 ** (vae_blocks - 1),
            scaling_factor=scaling_factor,
        )
        text_encoder = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49408,
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=3,
                num_attention_heads=4,
                bos_token_id=49406,
                eos_token_id=49407,
                pad_token_id=49407,
            )
        )
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    text_encoder.save_pretrained(folder / "text_encoder")
    CLIPTokenizer.from_pretrained(sdlearn.model_path() / "tokenizer").save_pretrained(folder / "tokenizer")
    # As in Stable Diffusion's own files: what nobody chose is not written down.
    config = {
        "_class_name": "PNDMScheduler",
        "prediction_type": prediction_type,
        **STABLE_DIFFUSION_SCHEDULE,
        **schedule,
    }
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    index = json.loads((sdlearn.model_path() / "model_index.json").read_text(encoding="utf-8"))
    index["scheduler"] = ["diffusers", "PNDMScheduler"]  # as Stable Diffusion 1's own files name it
    (folder / "model_index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
    return folder


if __name__ == "__main__":
    print(save_random_model(sys.argv[1]))
