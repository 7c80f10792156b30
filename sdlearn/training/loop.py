"""What every training run shares: mixed precision, several processes, EMA, checkpoints, progress, sample sheets.

A step's randomness comes from (seed, step, process) and nothing else, so a run that is stopped and started again draws
what the uninterrupted run draws: with the optimizer and the EMA restored, both end with the same weights.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import nn


@dataclass(frozen=True)
class Settings:
    """How long and how fast to learn. `batch_size` is that of one process."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int = 100               # steps of linear rise
    cooldown: float = 0.25          # share of the steps, at the end, in which the rate falls to nothing
    ema: float = 0.9995             # decay of the running mean of the weights, which is what gets exported
    weight_decay: float = 0.01
    mixed_precision: str = "bf16"   # accelerate's: "no", "bf16", "fp16"
    seed: int = 0
    save_every: int = 250           # steps between checkpoints
    sheet_every: int = 500          # steps between sample sheets


def learning_rate(step: int, settings: Settings) -> float:
    """Linear warm-up, a flat stretch, and 1 - sqrt down to nothing.

    As good as a cosine, and until the fall begins a run may still be made shorter or longer (Haegele et al. 2024,
    "Scaling laws and compute-optimal training beyond fixed training durations").
    """
    rise = min(1.0, (step + 1) / max(1, settings.warmup))
    start = settings.steps * (1 - settings.cooldown)
    fall = 1 - math.sqrt(max(0.0, step - start) / (settings.steps - start)) if settings.cooldown else 1.0
    return settings.learning_rate * min(rise, fall)


class EMA:
    """Exponential moving average of the weights that are being trained, slower as the run goes on."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.weights = {name: p.detach().float().clone() for name, p in model.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Averages in the weights after step number `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (20 + step))
        for name, parameter in model.named_parameters():
            if name in self.weights:
                self.weights[name].lerp_(parameter.detach().float(), 1 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name in self.weights:
                parameter.copy_(self.weights[name])

    def state_dict(self) -> dict:
        return self.weights

    def load_state_dict(self, weights: dict) -> None:
        for name, tensor in weights.items():
            self.weights[name].copy_(tensor)


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
    sheet: Callable[[nn.Module, Path], dict[str, float] | None] | None = None,
    minutes: float | None = None,
    until: int | None = None,
    log: Callable[[str], None] = print,
) -> bool:
    """Trains `model`, whose forward returns the loss, and leaves the EMA weights in it. True when all steps are done.

    inputs(step, process): the arguments of the model's forward at that step, made from them alone.
    folder: gets `checkpoint/` (and goes on from one that is there), `log.jsonl`, `sheet-<step>.png` from
    sheet(model, path), and in `score.jsonl` what that measured, if it returns something.
    minutes, until: stop early, with a checkpoint, after so much time or so many steps. Call again to go on.
    """
    from accelerate import Accelerator

    started, folder = time.monotonic(), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(mixed_precision=settings.mixed_precision, cpu=not torch.cuda.is_available())
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=True)
    model.to(accelerator.device)
    ema, steps = EMA(model, settings.ema), Steps()
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    accelerator.register_for_checkpointing(ema, steps)
    checkpoint, old = folder / "checkpoint", folder / "checkpoint.old"
    if old.is_dir() and not checkpoint.is_dir():  # cut off between the two renames of _save
        old.rename(checkpoint)
    if checkpoint.is_dir():
        accelerator.load_state(str(checkpoint))
        _check_settings(checkpoint, settings, steps.done)
        log(f"going on from step {steps.done}")
    first, last = steps.done, min(settings.steps, until or settings.steps)
    running = None
    while steps.done < last and not _out_of_time(accelerator, steps.done - first, started, minutes):
        step = steps.done
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        arguments = inputs(step, accelerator.process_index)
        loss = wrapped(*(a.to(accelerator.device) if torch.is_tensor(a) else a for a in arguments))
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update(model, step)
        steps.done += 1
        running = loss.detach() if running is None else running.lerp(loss.detach(), 0.05)
        if steps.done % 50 == 0 or steps.done == last:
            _report(accelerator, settings, folder, steps.done, first, started, running, log)
        if steps.done % settings.save_every == 0 and steps.done < last:
            _save(accelerator, checkpoint, settings)
        if sheet and steps.done % settings.sheet_every == 0 and accelerator.is_main_process:
            measured = _draw_sheet(model, ema, sheet, folder / f"sheet-{steps.done:06d}.png")
            if measured:
                _write_line(folder / "score.jsonl", accelerator, settings, steps.done, measured)
    if steps.done > first:
        _save(accelerator, checkpoint, settings)
    ema.copy_to(model)
    accelerator.free_memory()
    return steps.done >= settings.steps


def generator(seed: int, *place: int) -> torch.Generator:
    """A CPU generator for one place in a run, such as (step, process)."""
    import numpy as np

    return torch.Generator().manual_seed(int(np.random.SeedSequence((seed, *place)).generate_state(1)[0]))


def processes():
    """This process among those that torchrun or accelerate launched together: `is_main_process` is true in one of them,
    which writes the files. Without a GPU they meet on the CPU, which accelerate must be told."""
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available())


def mixed_precision() -> str:
    """bf16 where the processor computes in it, else full precision."""
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported() else "fp16"
    # Private names, and not in every version of torch; without them the safe answer is full precision.
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bf16" if any(check() for check in checks if check) else "no"


def _out_of_time(accelerator, done: int, started: float, minutes: float | None) -> bool:
    """Asked now and then, and answered alike in every process: none may wait for one that has left."""
    if minutes is None or done % 20:
        return False
    late = torch.tensor(float(time.monotonic() - started > 60 * minutes), device=accelerator.device)
    return accelerator.reduce(late, "sum").item() > 0


def _save(accelerator, checkpoint: Path, settings: Settings) -> None:
    """The old checkpoint goes only when the new one is whole."""
    new, old = checkpoint.with_name("checkpoint.new"), checkpoint.with_name("checkpoint.old")
    accelerator.save_state(str(new), safe_serialization=True)
    if accelerator.is_main_process:
        import shutil

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
    if all(learning_rate(done, s) == s.learning_rate for s in (saved, settings)):
        free["steps"] = 0  # neither run's rate has begun to fall
    if replace(saved, **free) != replace(settings, **free):
        raise ValueError(f"{checkpoint} was made with other settings ({saved}): use those, or another folder.")


@torch.no_grad()
def _draw_sheet(model, ema, sheet, path: Path) -> dict[str, float] | None:
    now = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    ema.copy_to(model)
    measured = sheet(model, path)
    for name, parameter in model.named_parameters():
        if name in now:
            parameter.copy_(now[name])
    return measured


def _report(accelerator, settings, folder, done, first, started, running, log) -> None:
    seconds = time.monotonic() - started
    rate = (done - first) / seconds
    loss = accelerator.reduce(running, "mean").item()
    if accelerator.is_main_process:
        per_step = settings.batch_size * accelerator.num_processes
        log(f"step {done} of {settings.steps}, loss {loss:.4f}, {rate * per_step:.0f} samples a second, "
            f"{(settings.steps - done) / rate / 60:.0f} minutes left")  # fmt: skip
        _write_line(folder / "log.jsonl", accelerator, settings, done, {"loss": loss, "seconds": seconds})


def _write_line(path: Path, accelerator, settings: Settings, done: int, measured: dict[str, float]) -> None:
    samples = done * settings.batch_size * accelerator.num_processes
    with open(path, "a") as file:
        file.write(json.dumps({"step": done, "samples": samples, **measured}) + "\n")
