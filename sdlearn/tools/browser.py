"""The model for the browser, where the site's playground draws with it.

    networks     ONNX, the numbers stored in half precision and computed in single
    samplers     what each solver makes of the network's answers, as plain coefficients
    text         the tokenizer's merges, the token rows that carry something, and which of them are alike
    few          the LoRA for few steps, to be added to the UNet's weights by the page
    levels       how much of the picture and of the noise there is at each training timestep

The page has no sampler, no schedule and no size of its own: all of it is read from here, so that what it draws is what
Python draws. Every big file is gzipped, since few hosts do that by themselves, and named by its content, so that a
browser may keep it for ever.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import takewhile
from pathlib import Path

import numpy as np
import torch
from packaging.version import Version
from torch import Tensor, nn

from .. import attention, text
from ..batch import Settings
from ..hub import checkpoints
from ..model import StableDiffusion
from ..samplers import SAMPLERS, Plan, Prediction, Sampler
from ..schedule import NoiseSchedule

MOST = 50  # steps of a run
SMALL = 1024  # numbers: what has fewer is stored as it is computed
OPSET = 18
FEW, FEW_HOW = "few-steps", {"num_inference_steps": 4, "guidance_scale": 1, "sampler": "lcm"}  # the LoRA, and its use
FLAT = 64  # flat latents, whose colours tell what colour a latent is


def export(sd: StableDiffusion, folder: Path) -> Path:
    """Write what the page needs of a model into the folder, and model.json, which names it; returns that file.

    Raises OSError without the packages of the extra `book`, and ValueError for a model of another kind.
    """
    if sentence := missing():
        raise OSError(sentence)
    if sd.unet.config.in_channels != sd.latent_channels or getattr(sd.text_encoder.config, "use_attention_mask", False):
        raise ValueError(f"The playground draws from words alone, and {sd.name} wants more; take another model.")
    folder.mkdir(parents=True, exist_ok=True)
    live = live_rows(sd)
    made = networks(sd, live)
    files = {name: store(folder, f"{name}.onnx", data) for name, data in made.items()}
    if few := lora(sd, made["unet"]):
        files["few"] = store(folder, "few.bin", few)
    files["merges"] = store(folder, "merges.txt", merges(sd).encode())
    for name, table in {"near": near(sd, live), "levels": levels(sd.schedule)}.items():
        files[name] = store(folder, f"{name}.json", json.dumps(table, separators=(",", ":")).encode())
    samplers = {}
    for name, sampler in SAMPLERS.items():
        if found := recipes(sd.schedule, sampler):
            data = json.dumps(found, separators=(",", ":")).encode()
            samplers[name] = store(folder, f"{name.replace('+', 'p')}.json", data) | {"most": max(found)}
    manifest = {
        "settings": Settings("").by(sd).written(),
        "latent": sd.latent_shape(),
        "width": sd.width,
        "height": sd.height,
        "attention": finest(sd),
        "tokens": marks(sd) | {"live": live if len(live) < len(sd.tokenizer) else None},
        "colours": colours(sd),
        "samplers": samplers,
        "few": {"lora": FEW, **FEW_HOW} if few else None,
        "files": files,
        "load": "sdlearn.load()" if sd.name == checkpoints.DEFAULT else f"sdlearn.load({sd.name!r})",
    }
    path = folder / "model.json"
    path.write_text(json.dumps(manifest), encoding="utf-8")
    return path


def missing() -> str:
    """What the export lacks here, in a sentence with the cure; "" for nothing."""
    absent = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if absent:
        return f"The model is written for browsers with {' and '.join(absent)}: pip install -e '.[book]'."
    if Version(torch.__version__) < Version("2.6"):
        return f"torch {torch.__version__} is too old to write a model for browsers: pip install 'torch>=2.6'."
    return ""


def store(folder: Path, name: str, data: bytes) -> dict:
    """Write the data gzipped, under a name that changes with it; returns its path and how many bytes are fetched."""
    stem, ending = name.rsplit(".", 1)
    path = folder / f"{stem}-{hashlib.sha256(data).hexdigest()[:10]}.{ending}.gz"
    path.write_bytes(gzip.compress(data, 9, mtime=0))
    return {"path": path.name, "bytes": path.stat().st_size}


# -- networks ----------------------------------------------------------------------------------------------------------


def networks(sd: StableDiffusion, live: list[int]) -> dict[str, bytes]:
    """The model's networks as ONNX files, by name, one picture at a time at the model's own size.

    text: rows (1, 77) of the live token table, int32 -> states (1, 77, D).
    unet: x (1, C, h, w) on unit scale, t (1,), states -> output (1, C, h, w), and attention (77, h', w'), each token's
        share at every place, the mean over heads and layers, at the size of the finest layer.
    decoder: scaled latents (1, C, h, w) -> picture (1, 3, H, W).
    encoder: picture -> mean and std (1, C, h, w) of its scaled latents.
    """
    latents = torch.zeros(1, *sd.latent_shape())
    rows = torch.zeros(1, sd.tokenizer.model_max_length, dtype=torch.int32)
    states = torch.zeros(1, rows.shape[1], sd.unet.config.cross_attention_dim)
    picture = torch.zeros(1, 3, sd.height, sd.width)
    return {
        "text": _onnx(_Text(sd, live), {"rows": rows}, ["states"]),
        "unet": _onnx(_Network(sd), {"x": latents, "t": torch.zeros(1), "states": states}, ["output", "attention"]),
        "decoder": _onnx(_Decoder(sd), {"latents": latents}, ["picture"]),
        "encoder": _onnx(_Encoder(sd), {"picture": picture}, ["mean", "std"]),
    }


class _Part(nn.Module):
    """One of a model's networks on the CPU in single precision, with what stands around it in the loop."""

    def __init__(self, sd: StableDiffusion):
        super().__init__()
        if sd.device.type != "cpu" or {sd.dtype, sd.vae.dtype} != {torch.float32}:
            raise ValueError("Load the model with device='cpu' and dtype='float32' to write it for browsers.")
        self.sd = sd


class _Text(_Part):
    def __init__(self, sd: StableDiffusion, live: list[int]):
        super().__init__(sd)
        self.encoder = sd.text_encoder
        self.table = nn.Parameter(text.token_embeddings(sd, torch.tensor(live)), requires_grad=False)
        self.places = nn.Parameter(text.position_embeddings(sd)[: sd.tokenizer.model_max_length], requires_grad=False)

    def forward(self, rows: Tensor) -> Tensor:
        return text.encode_embeddings(self.sd, nn.functional.embedding(rows, self.table) + self.places)


class _Network(_Part):
    def __init__(self, sd: StableDiffusion):
        super().__init__(sd)
        self.unet = sd.unet

    def forward(self, x: Tensor, t: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
        means = []  # of every layer, (1, tokens, h', w')

        def see(layer: str, step: int, shares: Tensor) -> None:
            h, w = x.shape[2:]
            while h * w > shares.shape[2]:
                h, w = -(-h // 2), -(-w // 2)
            means.append(shares.mean(1).unflatten(1, (h, w)).permute(0, 3, 1, 2))

        with attention.watch(self.unet, see):
            (output,) = self.unet(x, t, encoder_hidden_states=states, return_dict=False)
        size = max((mean.shape[2:] for mean in means), key=lambda shape: shape[0])
        same = [mean if mean.shape[2:] == size else nn.functional.interpolate(mean, size=size) for mean in means]
        return output, torch.stack(same).mean(0)[0]


class _Decoder(_Part):
    def __init__(self, sd: StableDiffusion):
        super().__init__(sd)
        self.vae = sd.vae
        self.shift = getattr(sd.vae.config, "shift_factor", None) or 0.0

    def forward(self, latents: Tensor) -> Tensor:
        return self.vae.decode(latents / self.sd.scaling_factor + self.shift).sample


class _Encoder(_Decoder):
    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        found, scale = self.vae.encode(picture).latent_dist, self.sd.scaling_factor
        return (found.mean - self.shift) * scale, found.std * scale


def _onnx(part: nn.Module, inputs: dict[str, Tensor], outputs: list[str]) -> bytes:
    """A network as an ONNX file."""
    with torch.no_grad(), _silence():
        program = torch.onnx.export(
            part.eval(), tuple(inputs.values()), dynamo=True, input_names=list(inputs), output_names=outputs,
            opset_version=OPSET,
        )  # fmt: skip
    return in_half(program.model_proto).SerializeToString()


@contextmanager
def _silence() -> Iterator[None]:
    """Without the exporter's progress and its remarks on libraries that nobody here uses."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def in_half(model):
    """The ONNX model with its large tables stored in half precision, each followed by a cast back to single.

    The runtime carries the casts out once, when it loads the file. The shipped model's weights lose nothing: they are
    half-precision numbers.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph, casts = model.graph, []
    for table in graph.initializer:
        if table.data_type != TensorProto.FLOAT or np.prod(table.dims) < SMALL:
            continue
        name, numbers = table.name, numpy_helper.to_array(table)
        if np.abs(numbers).max() > np.finfo(np.float16).max:  # a mask
            continue
        table.CopyFrom(numpy_helper.from_array(numbers.astype(np.float16), f"{name}.half"))
        casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    for thing in (model, graph, *nodes, *graph.initializer):  # where each was in the source, file by file
        del thing.metadata_props[:]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return model


@torch.no_grad()
def lora(sd: StableDiffusion, unet: bytes) -> bytes | None:
    """What the page adds to the tables of the UNet's file to have the LoRA FEW in it; None for a model without it.

    A length (4 bytes, little endian), JSON of that length, and half-precision numbers. The JSON lists tables: at which
    byte of the file its numbers begin, its rows and columns, and its rank r; the numbers are, one table after another,
    its left factor (rows, r) and its right factor (r, columns), whose product is added.
    """
    from safetensors.torch import load_file

    from ..hub.lora import FILE, loras

    if FEW not in loras(sd.path):
        return None
    factors, tables, numbers = load_file(sd.path / "lora" / FEW / FILE), [], []
    for name in sorted(name for name in factors if name.endswith("lora_A.weight")):
        a, b = (factors[name.replace("lora_A", f"lora_{side}")].float().flatten(1).numpy() for side in "AB")
        scale = float(factors.get(name.replace("lora_A.weight", "alpha"), len(a))) / len(a)
        weight = sd.unet.get_parameter(name.removeprefix("unet.").replace("lora_A.weight", "weight")).flatten(1).numpy()
        # A matrix stands in the file as it is, or turned for the product that it is used in.
        for table, left, right in ((weight, scale * b, a), (weight.T, scale * a.T, b.T)):
            at = unet.find(table.astype(np.float16).tobytes())
            if at >= 0:
                tables.append([at, *table.shape, len(a)])
                numbers += [left, right]
                break
        else:
            raise ValueError(f"The LoRA {FEW!r} changes {name}, which the UNet's file does not hold as it is.")
    head = json.dumps(tables, separators=(",", ":")).encode()
    head += b" " * (len(head) % 2)
    body = b"".join(np.ascontiguousarray(part, dtype="<f2").tobytes() for part in numbers)
    return len(head).to_bytes(4, "little") + head + body


@torch.no_grad()
def finest(sd: StableDiffusion) -> list[int]:
    """The height and width of the attention maps."""
    x, states = torch.zeros(1, *sd.latent_shape()), torch.zeros(1, 1, sd.unet.config.cross_attention_dim)
    return list(_Network(sd)(x, torch.zeros(1), states)[1].shape[1:])


def colours(sd: StableDiffusion) -> list[list[float]]:
    """What colour a latent is, roughly: red, green and blue in [-1, 1], each as factors of the channels and a constant.

    The least-squares fit through the decoded pictures of flat latents.
    """
    draws = torch.randn(FLAT, sd.latent_channels, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        decoder = _Decoder(sd)
        flat = [decoder(draw[None, :, None, None].expand(1, *sd.latent_shape())).mean((2, 3)) for draw in draws]
    factors = torch.linalg.lstsq(torch.cat([draws, torch.ones(FLAT, 1)], 1), torch.cat(flat)).solution
    return [[_short(number) for number in row] for row in factors.T.tolist()]


# -- text --------------------------------------------------------------------------------------------------------------


def live_rows(sd: StableDiffusion) -> list[int]:
    """The ids whose rows of the token table are not zero, after one whose row is, which stands for all such."""
    table = sd.text_encoder.get_input_embeddings().weight
    live = table.ne(0).any(1)
    return [*(~live).nonzero()[:1, 0].tolist(), *live.nonzero()[:, 0].tolist()]


def near(sd: StableDiffusion, live: list[int], count: int = 3) -> dict[int, list[int]]:
    """For each id whose row is not zero, marks left out, the ids of those whose rows point most nearly the same way."""
    ids = torch.tensor([number for number in live[1:] if number not in sd.tokenizer.all_special_ids])
    rows = nn.functional.normalize(sd.text_encoder.get_input_embeddings().weight.detach().float()[ids], dim=1)
    cosines = (rows @ rows.T).fill_diagonal_(-1)
    found = ids[cosines.topk(min(count, len(ids))).indices]
    return dict(zip(ids.tolist(), found.tolist(), strict=True))


def levels(schedule: NoiseSchedule) -> list[dict[str, float]]:
    """The factors of the picture and of the noise at each training timestep."""
    pairs = zip(schedule.signal.tolist(), schedule.noise.tolist(), strict=True)
    return [{"signal": _short(signal), "noise": _short(noise)} for signal, noise in pairs]


def marks(sd: StableDiffusion) -> dict[str, int]:
    """The ids that stand before, after and beyond a prompt, and how many the model reads."""
    ids = {"begin": sd.tokenizer.bos_token_id, "end": sd.tokenizer.eos_token_id, "pad": sd.tokenizer.pad_token_id}
    return ids | {"length": sd.tokenizer.model_max_length}


def merges(sd: StableDiffusion) -> str:
    """The tokenizer's merges, one a line. Its vocabulary follows from them: bytes, bytes that end words, merges, marks.

    Raises ValueError for a tokenizer that is not CLIP's.
    """
    fast = getattr(sd.tokenizer, "backend_tokenizer", None)  # transformers 5 has no other
    found = json.loads(fast.to_str())["model"]["merges"] if fast else sd.tokenizer.bpe_ranks
    pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in found]
    found = sd.tokenizer.convert_ids_to_tokens([512, 512 + len(pairs) - 1, 512 + len(pairs)])
    first, last = (pair.replace(" ", "") for pair in (pairs[0], pairs[-1]))
    if found != [first, last, sd.tokenizer.bos_token] or len(sd.tokenizer) != len(pairs) + 514:
        raise ValueError(f"The tokenizer of {sd.name} is not CLIP's, which the playground knows.")
    return "\n".join(pairs)


# -- samplers ----------------------------------------------------------------------------------------------------------


def recipe(plan: Plan, prediction_type: str) -> list[dict]:
    """Each question of a run and what the solver makes of the answer; one dictionary for every call of the network.

    Every solver of the course is linear in the latents and in the network's outputs, so it is asked here with unit
    vectors in the place of both, and what it answers are its coefficients:

    t, scale: what the network is asked with: the timestep, and the factor of the latents.
    signal, noise: the level.
    x0: the factors of the latents and of the output in the predicted x_0.
    x, out: the factors, in the next latents, of the latents and outputs, the newest first.
    fresh: the factor of fresh noise, where there is some.
    """
    most = 2 * len(plan) + 1  # questions; Heun asks most
    latents, outputs, fresh = np.split(np.eye(2 * most + len(plan)), [most, 2 * most])
    solver = plan.start(latents[0], fresh)
    _, level = next(solver)
    rows = []
    while level is not None:
        k = len(rows)
        p = Prediction(latents[k], outputs[k], level, prediction_type)
        try:
            after, reached = solver.send((latents[k], p))
        except StopIteration as end:
            after, reached = end.value, None
        newest = [after[k::-1], after[most : most + k + 1][::-1]]
        row = {"t": level.timestep, "scale": level.input_scale, "signal": level.signal, "noise": level.noise}
        row |= {"x0": [p.x0[k], p.x0[most + k]], "x": newest[0], "out": newest[1]}
        if renewed := after[2 * most :].sum():
            row["fresh"] = renewed
        rows.append({name: _short(value) for name, value in row.items()})
        level = reached
    return rows


def _short(value) -> float | list[float]:
    """Numbers in nine digits, more than float32 holds; a list ends with its last number that is not zero."""
    if np.ndim(value) == 0:
        return float(f"{value:.9g}")
    count = len(value) - sum(1 for _ in takewhile(lambda number: number == 0, value[::-1]))
    return [_short(number) for number in value[:count]]


def recipes(schedule: NoiseSchedule, sampler: Sampler) -> dict[int, dict]:
    """What `recipes_of` gives for every number of steps up to MOST that the sampler can take."""
    found = {n: recipes_of(schedule, sampler, n) for n in range(1, min(MOST, schedule.num_train_timesteps) + 1)}
    return {n: one for n, one in found.items() if one}


def recipes_of(schedule: NoiseSchedule, sampler: Sampler, n: int) -> dict | None:
    """The recipes of n steps, from pure noise and from every later start; None where the sampler cannot take so many.

    scale: the standard deviation of the first latents. rows: the recipe from pure noise. starts[s - 1]: of a run that
    skips s steps, the rows at its head, which know of no past yet, and how many of `rows` follow from the end.
    """
    try:
        plan = sampler.plan(schedule, n)
    except ValueError:  # too few levels for that many steps, or a schedule that the sampler cannot begin with
        return None
    rows = recipe(plan, schedule.prediction_type)
    starts = []
    for start in range(1, n):
        late = recipe(sampler.plan(schedule, n, start_step=start), schedule.prediction_type)
        same = takewhile(lambda pair: pair[0] == pair[1], zip(late[::-1], rows[::-1], strict=False))
        tail = sum(1 for _ in same)
        starts.append([late[: len(late) - tail], tail])
    return {"scale": _short(plan.init_scale), "rows": rows, "starts": starts}
