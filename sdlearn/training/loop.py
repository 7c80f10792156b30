"""What every training run shares: mixed precision, several processes, EMA, checkpoints, progress, sample sheets.

A step's randomness comes from (seed, step, process) and nothing else, so a run that is stopped and started again draws
what the uninterrupted run draws: with the optimizer and the EMA restored, both end with the same weights.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


@dataclass(frozen=True)
class Settings:
    """How long and how fast to learn. `batch_size` is that of one process."""

    steps: int
    batch_size: int
    learning_rate: float
    optimizer: str = "adamw"  # or "muon", for matrices and kernels, beside AdamW for the rest
    warmup: int = 100  # steps of linear rise
    cooldown: float = 0.25  # share of the steps, at the end, in which the rate falls to nothing
    ema: float = 0.9995  # decay of the running mean of the weights, which is what gets exported
    weight_decay: float = 0.01
    mixed_precision: str = "bf16"  # accelerate's: "no", "bf16", "fp16"
    seed: int = 0
    save_every: int = 250  # steps between checkpoints
    sheet_every: int = 500  # steps between sample sheets

    @property
    def flat_until(self) -> int:
        """The step at which the rate begins to fall; until then a run may still be made shorter or longer (Haegele et
        al. 2024, "Scaling laws and compute-optimal training beyond fixed training durations")."""
        return self.steps - round(self.steps * self.cooldown)


class Steps:
    """How many steps are done: the position in the data, as every step knows its own batch."""

    def __init__(self):
        self.done = 0

    def state_dict(self) -> dict:
        return {"done": self.done}

    def load_state_dict(self, state: dict) -> None:
        self.done = state["done"]


def train(
    model: nn.Module,
    inputs: Callable[[int, int], tuple],
    settings: Settings,
    folder: str | Path,
    *,
    watch: Callable[[nn.Module, int], dict[str, float]] | None = None,
    sheet: Callable[[nn.Module, Path], dict[str, float] | None] | None = None,
    minutes: float | None = None,
    until: int | None = None,
    log: Callable[[str], None] = print,
) -> bool:
    """Trains `model`, whose forward returns the loss, and leaves the EMA weights in it. True when all steps are done.

    inputs(step, process): the arguments of the model's forward at that step, made from them alone.
    folder: gets `checkpoint/` (and goes on from one that is there), `log.jsonl`, `sheet-<step>.png` from
    sheet(model, path), which sees the EMA weights, and in `score.jsonl` what that measured, if it returns something.
    watch(model, step): what to log beside the loss at every report; what it raises ends the run.
    minutes, until: stop early, with a checkpoint, after so much time or so many steps. Call again to go on.
    """
    from accelerate import Accelerator

    started, folder = time.monotonic(), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    processes()
    accelerator = Accelerator(mixed_precision=settings.mixed_precision, cpu=not torch.cuda.is_available())
    model.to(accelerator.device)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizers = _optimizers(model, settings)
    rates = [_rate(optimizer, settings) for optimizer in optimizers]
    ema, steps = AveragedModel(model, multi_avg_fn=_ema(settings.ema)), Steps()
    wrapped, *optimizers = accelerator.prepare(model, *optimizers)
    accelerator.register_for_checkpointing(ema, steps, *rates)
    checkpoint, old = folder / "checkpoint", folder / "checkpoint.old"
    if old.is_dir() and not checkpoint.is_dir():  # cut off between the two renames of _save
        old.rename(checkpoint)
    if checkpoint.is_dir():
        accelerator.load_state(str(checkpoint))
        _check_settings(checkpoint, settings, steps.done)
        log(f"going on from step {steps.done}")
    first, last = steps.done, min(settings.steps, until or settings.steps)
    samples, running = settings.batch_size * accelerator.num_processes, None  # samples of a step

    def write(name: str, measured: dict[str, float]) -> None:
        with open(folder / name, "a") as file:
            file.write(json.dumps({"step": steps.done, "samples": steps.done * samples, **measured}) + "\n")

    while steps.done < last and not _out_of_time(accelerator, steps.done - first, started, minutes):
        arguments = inputs(steps.done, accelerator.process_index)
        loss = wrapped(*(a.to(accelerator.device) if torch.is_tensor(a) else a for a in arguments))
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trained, 1.0)
        for stepped in (*optimizers, *rates):
            stepped.step()
        model.zero_grad()
        ema.update_parameters(model)
        steps.done += 1
        running = loss.detach() if running is None else running.lerp(loss.detach(), 0.05)
        if steps.done % 50 == 0 or steps.done == last:
            watched = watch(model, steps.done) if watch and accelerator.is_main_process else {}
            loss, seconds = accelerator.reduce(running, "mean").item(), time.monotonic() - started
            if accelerator.is_main_process:
                rate = (steps.done - first) / seconds
                log(
                    f"step {steps.done} of {settings.steps}, loss {loss:.4f}, {rate * samples:.0f} samples a second, "
                    f"{(settings.steps - steps.done) / rate / 60:.0f} minutes left"
                    + "".join(f", {name} {value:.2f}" for name, value in watched.items())
                )
                write("log.jsonl", {"loss": loss, "seconds": seconds, **watched})
        if steps.done % settings.save_every == 0 and steps.done < last:
            _save(accelerator, checkpoint, settings)
        if sheet and steps.done % settings.sheet_every == 0 and accelerator.is_main_process:
            measured = sheet(ema.module, folder / f"sheet-{steps.done:06d}.png")
            if measured:
                write("score.jsonl", measured)
    if steps.done > first:
        _save(accelerator, checkpoint, settings)
    model.load_state_dict(ema.module.state_dict())
    accelerator.free_memory()
    return steps.done >= settings.steps


def generator(seed: int, *place: int) -> torch.Generator:
    """A CPU generator for one place in a run, such as (step, process)."""
    import numpy as np

    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, *place)).generate_state(1)[0]))


def processes():
    """This process among those that torchrun or accelerate launched together: `is_main_process` is true in one of them,
    which writes the files. Without a GPU they meet on the CPU, which accelerate must know."""
    from accelerate import PartialState

    # Ten minutes are allowed otherwise: too few for the one that makes the latents, or draws a sheet.
    return PartialState(cpu=not torch.cuda.is_available(), timeout=timedelta(days=1))


def mixed_precision() -> str:
    """bf16 where the processor computes in it, else full precision."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    # Private names, and not in every version of torch; without them the safe answer is full precision.
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bf16" if any(check() for check in checks if check) else "no"


def _optimizers(model: nn.Module, settings: Settings) -> list[torch.optim.Optimizer]:
    """AdamW for all that is trained; or Muon (Jordan et al. 2024) for the matrices and kernels, and AdamW for biases,
    norms, tables, and the layers that touch the data."""
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    ends = ("embedding", "conv_in", "conv_out")
    inner = {name: p for name, p in trained.items() if p.dim() > 1 and not any(end in name for end in ends)}
    inner = inner if settings.optimizer == "muon" else {}
    rest = [p for name, p in trained.items() if name not in inner]
    adamw = {"lr": settings.learning_rate, "betas": (0.9, 0.99), "weight_decay": settings.weight_decay, "fused": True}
    return [
        *([torch.optim.AdamW(rest, **adamw)] if rest else []),
        *([_FlatMuon(inner.values(), settings)] if inner else []),
    ]


class _FlatMuon(torch.optim.Muon if hasattr(torch.optim, "Muon") else object):
    """torch's Muon takes matrices only, so kernels are shown to it flattened to (channels, rest)."""

    def __init__(self, parameters, settings: Settings):
        if not hasattr(torch.optim, "Muon"):
            raise ImportError("The optimizer 'muon' needs torch 2.9 or newer; use 'adamw'.")
        if settings.mixed_precision == "fp16":  # whose loss scaling does not see the flattened gradients
            raise ValueError("The optimizer 'muon' needs bf16 or full precision; use 'adamw'.")
        self._whole = list(parameters)
        flat = [nn.Parameter(p.detach().view(len(p), -1)) for p in self._whole]
        super().__init__(
            flat, lr=settings.learning_rate, weight_decay=settings.weight_decay, adjust_lr_fn="match_rms_adamw"
        )

    def step(self, closure=None):
        for whole, flat in zip(self._whole, self.param_groups[0]["params"], strict=True):
            flat.data = whole.data.view_as(flat)  # the same memory, which moves when several processes are joined
            flat.grad = whole.grad.view_as(flat)
        return super().step(closure)


def _rate(optimizer, settings: Settings):
    """Linear warm-up, a flat stretch, and 1 - sqrt down to nothing (transformers' `get_wsd_schedule`, which knows that
    fall from 4.50 on only)."""

    def factor(step: int) -> float:
        rise = (step + 1) / max(1, settings.warmup)
        fall = 1 - (max(0, step - settings.flat_until) / max(1, settings.steps - settings.flat_until)) ** 0.5
        return min(1.0, rise, max(0.0, fall))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def _ema(decay: float):
    """An exponential moving average, faster at first: the weights of the first steps should not stay in it for long."""

    @torch.no_grad()
    def average(averaged: list[torch.Tensor], now: list[torch.Tensor], count: torch.Tensor) -> None:
        done = count.item()
        torch._foreach_lerp_(averaged, now, 1 - min(decay, (1 + done) / (20 + done)))

    return average


def _out_of_time(accelerator, done: int, started: float, minutes: float | None) -> bool:
    """Asked now and then, and answered alike in every process: none may wait for one that has left."""
    if minutes is None or done % 20:
        return False
    late = torch.tensor(float(time.monotonic() - started > 60 * minutes), device=accelerator.device)
    return accelerator.reduce(late, "sum").item() > 0


def _save(accelerator, checkpoint: Path, settings: Settings) -> None:
    """The old checkpoint goes only when the new one is whole: every process has written its part."""
    new, old = checkpoint.with_name("checkpoint.new"), checkpoint.with_name("checkpoint.old")
    accelerator.save_state(str(new), safe_serialization=True)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (new / "settings.json").write_text(json.dumps(asdict(settings)))
        if checkpoint.is_dir():
            checkpoint.rename(old)
        new.rename(checkpoint)
        shutil.rmtree(old, ignore_errors=True)
    accelerator.wait_for_everyone()


def _check_settings(checkpoint: Path, settings: Settings, done: int) -> None:
    """Refuses settings that would not lead where the checkpoint was going."""
    saved = Settings(**json.loads((checkpoint / "settings.json").read_text()))
    free = {"save_every": 0, "sheet_every": 0}
    if done <= min(saved.flat_until, settings.flat_until):
        free |= {"steps": 0, "cooldown": 0.0}  # neither run's rate has begun to fall
    if replace(saved, **free) != replace(settings, **free):
        raise ValueError(f"{checkpoint} was made with other settings ({saved}): use those, or another folder.")
