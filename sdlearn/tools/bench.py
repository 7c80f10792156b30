"""How fast the loop is here: against diffusers' pipeline, and against what this hardware can do at best.

Both draw the same picture in one process: the same weights, seed, steps and scheduler. Runs are interleaved, so that a
machine that slows down slows both down, and the ratio is the median over rounds of neighbouring runs.
"""

import copy
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial

import diffusers
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from .. import samplers
from ..batch import Settings
from ..fast import optimize
from ..hub.architectures import random_model
from ..hub.checkpoints import load, quiet
from ..model import StableDiffusion
from ..sampling import denoise, text_to_image
from ..text import encode_prompt

PROMPT = "a glossy red apple on a blue background"
DIFFUSERS = "diffusers"


@dataclass(frozen=True)
class Timing:
    """Seconds of one side's runs, and the most device memory it held (None where no one counts it)."""

    name: str
    seconds: tuple[float, ...]
    peak_bytes: int | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Report:
    """What `bench` found; printing it gives the table.

    pictures: whole pictures, diffusers last; loop: the steps alone, without text encoder and autoencoder.
    difference: the largest difference from diffusers' picture, in grey levels of 255.
    step_flops: arithmetic of one step of the batch, a multiplication and an addition counting as two.
    peak_flops: what one large matrix product reaches here in the same number format, per second.
    """

    machine: str
    work: str
    num_steps: int
    pictures: tuple[Timing, ...]
    loop: tuple[Timing, ...]
    difference: int
    step_flops: float
    peak_flops: float

    def ratios(self, name: str) -> list[float]:
        """Seconds of ours over diffusers', round by round; below 1 ours is faster."""
        ours, theirs = (next(t for t in self.pictures if t.name == n) for n in (name, DIFFUSERS))
        return [a / b for a, b in zip(ours.seconds, theirs.seconds, strict=True)]

    def __str__(self) -> str:
        lines = [self.machine, self.work, ""]
        for timing in self.pictures:
            memory = "" if timing.peak_bytes is None else f"   peak {timing.peak_bytes / 2**30:.2f} GiB"
            lines.append(f"{timing.name:<20} {_spread(timing.seconds)} s a batch{memory}")
        for timing in self.pictures[:-1]:
            lines.append(
                f"{timing.name + ' / diffusers':<20} {_spread(self.ratios(timing.name))}, faster where below 1"
            )
        lines += [f"{'pictures differ by':<20} {self.difference} of 255 grey levels at most", ""]
        for timing in self.loop:
            rate = self.num_steps / timing.median
            reached = rate * self.step_flops
            share = f"{reached / self.peak_flops:.0%} of a large matrix product here ({_flops(self.peak_flops)})"
            lines.append(f"{timing.name + ' loop':<20} {rate:.3g} steps/s, {_flops(reached)}: {share}")
        return "\n".join([*lines, f"{'one step':<20} {self.step_flops / 1e9:.2f} GFLOP"])


def bench(
    *,
    model: dict | StableDiffusion | None = None,
    random_weights: bool = False,
    fast: bool = False,
    compiled: bool = False,
    repeats: int = 7,
    batch_size: int = 1,
    negative_prompt: str = "",
    **settings,
) -> Report:
    """Time text_to_image against StableDiffusionPipeline with the same weights, steps and scheduler.

    model: a loaded model, or the arguments of `load`, or with random_weights of `random_model`.
    fast, compiled: time the fast path as well, without and with torch.compile.
    settings: further arguments of `text_to_image`.
    Raises ValueError for fewer than one repeat or picture.
    """
    if repeats < 1 or batch_size < 1:
        raise ValueError("repeats and batch_size must be at least 1.")
    quiet()
    made = random_model if random_weights else load
    sd = model if isinstance(model, StableDiffusion) else made(**model or {})
    models = {"sdlearn": sd}
    models |= {"fast": optimize(sd)} if fast else {}
    models |= {"compiled": optimize(sd, compile=True)} if compiled else {}
    prompts, negatives, seeds = [PROMPT] * batch_size, [negative_prompt] * batch_size, range(batch_size)
    settings = Settings(prompts, negatives, seeds=seeds, progress=False, **settings)
    pipe = pipeline(sd, settings.sampler)

    def draw_with_diffusers():
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        options = {name: settings[name] for name in ("num_inference_steps", "guidance_scale", "height", "width")}
        return pipe(prompts, negative_prompt=negatives, generator=generators, **options).images

    def loop(sd):
        states = {side: encode_prompt(sd, settings[side]) for side in ("prompt", "negative_prompt")}
        asked = replace(settings, **dict.fromkeys(states), **{f"{side}_embeds": states[side] for side in states})
        return lambda: sum(1 for _ in denoise(sd, **asked))

    runs = {name: partial(text_to_image, model, **settings) for name, model in models.items()}
    pictures, drawn = interleave(runs | {DIFFUSERS: draw_with_diffusers}, repeats, sd.device)
    loops, steps = interleave({name: loop(model) for name, model in models.items()}, repeats, sd.device)
    num_steps = steps["sdlearn"]
    levels = {name: np.stack([np.asarray(picture, dtype=int) for picture in batch]) for name, batch in drawn.items()}
    guided = 2 if settings.guidance_scale != 1 else 1
    size = f"{settings.width or sd.width}x{settings.height or sd.height}"
    asked = f"{num_steps} {settings.sampler.name} steps, guidance {settings.guidance_scale:g}"
    return Report(
        machine=describe_machine(sd.device),
        work=f"{sd.name}, {str(sd.dtype).removeprefix('torch.')}, {batch_size} x {size} pixels, {asked}; "
        f"median (lowest to highest) of {repeats} interleaved runs",
        num_steps=num_steps,
        pictures=pictures,
        loop=loops,
        difference=max(int(np.abs(levels[name] - levels[DIFFUSERS]).max()) for name in models),
        step_flops=unet_flops(sd, batch_size * guided, sd.latent_shape(settings.height, settings.width)),
        peak_flops=matmul_flops(sd.device, sd.dtype),
    )


def pipeline(sd: StableDiffusion, sampler: str) -> diffusers.StableDiffusionPipeline:
    """diffusers' pipeline on the same parts, with the scheduler that our sampler is equal to.

    It runs every part in one number format, so beside a half-precision UNet it gets a half-precision autoencoder.
    """
    ours = samplers.get_sampler(sampler)
    given = {f.name: getattr(sd.schedule, f.name) for f in fields(sd.schedule) if f.init}
    schedule = {name: value for name, value in given.items() if value is not None}
    options = {"clip_sample": False, "skip_prk_steps": True, "use_karras_sigmas": ours.karras}
    # What a scheduler does not know it passes over.
    scheduler = getattr(diffusers, ours.scheduler).from_config(schedule | options)
    vae = sd.vae if sd.vae.dtype == sd.dtype else torch.nn.Module.to(copy.deepcopy(sd.vae), sd.dtype)
    parts = {"vae": vae, "text_encoder": sd.text_encoder, "tokenizer": sd.tokenizer, "unet": sd.unet}
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipe = diffusers.StableDiffusionPipeline(scheduler=scheduler, **parts, **none)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def interleave(runs: dict[str, Callable], repeats: int, device: torch.device) -> tuple[tuple[Timing, ...], dict]:
    """Time each function `repeats` times after one warm-up, in turns; every other round goes backwards.

    Returns the timings in the order given, and what each function returned in its warm-up.
    """
    peaks, results, seconds = {}, {}, {name: [] for name in runs}
    for name, run in runs.items():
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        results[name] = run()
        peaks[name] = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    for k in range(repeats):
        for name in list(runs)[:: -1 if k % 2 else 1]:
            seconds[name].append(_seconds(runs[name], device))
    return tuple(Timing(name, tuple(seconds[name]), peaks[name]) for name in runs), results


def _seconds(run: Callable, device: torch.device) -> float:
    wait = (lambda: None) if device.type == "cpu" else getattr(torch, device.type).synchronize
    wait()
    start = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - start


def unet_flops(sd: StableDiffusion, batch: int, latent_shape: Sequence[int]) -> float:
    """Floating-point operations of one call of the UNet on that many latents, counted on shapes alone."""
    config = dict(sd.unet.config)
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(config)
        sample = torch.empty(batch, config["in_channels"], *latent_shape[1:])
        states = torch.empty(batch, sd.tokenizer.model_max_length, config["cross_attention_dim"])
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            unet(sample, torch.empty(()), encoder_hidden_states=states)
    return float(counter.get_total_flops())


@torch.no_grad()
def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product here: the most that a network can hope for."""
    n = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    calls = 2 if device.type == "cpu" else 20

    def run():
        for _ in range(calls):
            a @ b

    return calls * 2 * n**3 / min(_seconds(run, device) for _ in range(6))


def describe_machine(device: torch.device) -> str:
    """The device and the versions that a timing depends on."""
    if device.type == "cuda":
        hardware = torch.cuda.get_device_name(device)
    else:
        known = (platform.processor(), platform.machine(), torch.backends.cpu.get_cpu_capability())
        hardware = f"{' '.join(dict.fromkeys(filter(None, known)))}, {torch.get_num_threads()} threads"
    return f"{device.type} ({hardware}), torch {torch.__version__}, diffusers {diffusers.__version__}"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def _flops(rate: float) -> str:
    return f"{rate / 1e12:.1f} TFLOP/s" if rate >= 1e12 else f"{rate / 1e9:.1f} GFLOP/s"
