"""What a model costs, from its shapes alone: numbers to store, arithmetic, memory.

    sd = costs.shapes(random_model("sd-1.4", device="meta", dtype="float16"))
    costs.parameters(sd)["UNet"]             # 859_520_964
    costs.step(sd).flops                     # 1.61e12, of one step with guidance
    costs.decoding(sd).peak / 2**30          # 0.75 GiB, while one picture is decoded

Nothing is computed. The networks run on torch's "meta" device, where tensors have a shape and no numbers, and every
operation is written down as it passes. So these are counts, not measurements: what a GPU's libraries take for
themselves comes on top.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ..model import StableDiffusion, check_model

GIB = 2**30
PARTS = {"text encoder": "text_encoder", "UNet": "unet", "autoencoder": "vae"}
# By the names that diffusers gives to a UNet's layers; the first that fits. The rest are convolutions.
KINDS = {"self-attention": ".attn1.", "cross-attention": ".attn2.", "feed-forward": ".ff.", "time": "time_emb"}


@dataclass(frozen=True)
class Cost:
    """What some calls cost.

    flops: arithmetic, a multiplication and an addition counting as two. peak: bytes of the tensors that are held at one
    time, at most, without weights and inputs. traffic: bytes read and written if every operation reads its inputs from
    memory and writes its outputs back. operations: how many there are that do more than look at a tensor otherwise.
    """

    flops: float
    peak: int
    traffic: int
    operations: int


@dataclass(frozen=True)
class Memory:
    """Bytes that a run fills: the weights of each part, the largest single layer of the UNet, and what is held besides
    for one picture while the UNet takes a step and while the decoder runs."""

    weights: dict[str, int]
    layer: int
    step: int
    decoding: int

    @property
    def each(self) -> int:
        """What every picture of a batch adds, at the worst moment of the run."""
        return max(self.step, self.decoding)

    def of(self, pictures: int = 1, *, low_memory: bool = False) -> dict[str, int]:
        """The weights that lie on the device, and "activations". low_memory: as `load` has it, with one layer of the
        UNet on the device at a time and pictures decoded one by one."""
        held = self.weights | ({"UNet": self.layer} if low_memory else {})
        return held | {"activations": max(pictures * self.step, (1 if low_memory else pictures) * self.decoding)}


def shapes(sd: StableDiffusion, dtype: str | None = None) -> StableDiffusion:
    """The same model without its numbers, on the "meta" device. dtype: another number format, such as "float16"; beside
    a float16 UNet the autoencoder is in float32, as `load` has it."""
    import diffusers
    import transformers

    check_model(sd)
    with torch.device("meta"):
        parts = {
            "text_encoder": transformers.CLIPTextModel(sd.text_encoder.config),
            "unet": diffusers.UNet2DConditionModel.from_config(dict(sd.unet.config)),
            "vae": diffusers.AutoencoderKL.from_config(dict(sd.vae.config)),
        }
    for name, part in parts.items():
        kept = getattr(torch, dtype) if dtype else next(getattr(sd, name).parameters()).dtype
        kept = torch.float32 if name == "vae" and dtype == "float16" else kept
        torch.nn.Module.to(part, kept).eval().requires_grad_(False)
    return replace(sd, **parts)


def parameters(sd: StableDiffusion) -> dict[str, int]:
    """How many numbers each part has learned: "text encoder", "UNet", "autoencoder"."""
    return {name: sum(p.numel() for p in getattr(sd, part).parameters()) for name, part in PARTS.items()}


def weights(sd: StableDiffusion) -> dict[str, int]:
    """Bytes of each part's parameters, in the number formats that the model is in."""
    return {name: sum(p.nbytes for p in getattr(sd, part).parameters()) for name, part in PARTS.items()}


def kinds(unet: nn.Module) -> dict[str, int]:
    """A UNet's parameters by what they belong to: "convolution" (with its norms), "self-attention", "cross-attention",
    "feed-forward" (of the attention blocks), "time" (what tells the blocks the timestep)."""
    count = Counter(dict.fromkeys(["convolution", *KINDS], 0))
    for name, parameter in unet.named_parameters():
        kind = next((kind for kind, part in KINDS.items() if part in f".{name}"), "convolution")
        count[kind] += parameter.numel()
    return dict(count)


def step(sd: StableDiffusion, pictures: int = 1, *, plain_attention: bool = False) -> Cost:
    """Of one step with guidance: the UNet's call for two latents a picture, of the model's own size.

    plain_attention: as before PyTorch 2, with a matrix of every place by every other held in memory.
    """
    sd, (_, *size) = _on_meta(sd), sd.latent_shape()
    length, width = sd.tokenizer.model_max_length, sd.text_encoder.config.hidden_size
    x = torch.empty(2 * pictures, sd.unet.config.in_channels, *size, device="meta", dtype=sd.dtype)
    states = torch.empty(2 * pictures, length, width, device="meta", dtype=sd.dtype)
    return count(lambda: sd.unet(x, torch.empty((), device="meta"), states)[0], plain_attention=plain_attention)


def decoding(sd: StableDiffusion, pictures: int = 1) -> Cost:
    """Of the decoder's call for that many pictures of the model's own size."""
    sd = _on_meta(sd)
    z = torch.empty(pictures, *sd.latent_shape(), device="meta", dtype=sd.vae.dtype)
    return count(lambda: sd.vae.decode(z).sample)


def memory(sd: StableDiffusion) -> Memory:
    """What a run with this model needs, counted for one picture of the model's own size."""
    sd = _on_meta(sd)
    layers = (sum(p.nbytes for p in layer.parameters(recurse=False)) for layer in sd.unet.modules())
    return Memory(weights(sd), max(layers), step(sd).peak, decoding(sd).peak)


@torch.no_grad()
def count(call: Callable[[], Tensor], *, plain_attention: bool = False) -> Cost:
    """What a call on "meta" tensors costs. plain_attention: False counts attention as one operation that holds no
    matrix, as torch's scaled_dot_product_attention does it on a GPU."""
    ledger = _Ledger()
    with FlopCounterMode(display=False) as counter, ledger:
        if plain_attention:
            call()
        else:
            with _Fused(ledger):
                call()
    return Cost(counter.get_total_flops() + ledger.flops, ledger.peak, ledger.traffic, ledger.operations)


class _Ledger(TorchDispatchMode):
    """Writes down every operation, and which tensors are held while it runs."""

    def __init__(self):
        super().__init__()
        self.flops, self.peak, self.traffic, self.operations, self.held = 0.0, 0, 0, 0, 0
        self.known: set[int] = set()  # the ids of the storages that live

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        result = operation(*arguments, **(keywords or {}))
        given, made = list(_tensors((arguments, keywords))), list(_tensors(result))
        for tensor in given:
            self.note(tensor, new=False)
        storages = {id(tensor.untyped_storage()) for tensor in given}
        views = made and all(id(tensor.untyped_storage()) in storages for tensor in made)
        if not views or operation._schema.is_mutable:
            self.operations += 1
            self.traffic += sum(tensor.nbytes for tensor in (*given, *made))
        for tensor in made:
            self.note(tensor, new=True)
        return result

    def note(self, tensor: Tensor, new: bool) -> None:
        """Counts a storage as held until it is given back, unless it was there before this began."""
        storage = tensor.untyped_storage()
        if id(storage) not in self.known:
            self.known.add(id(storage))
            size = storage.nbytes() if new else 0
            self.held += size
            self.peak = max(self.peak, self.held)
            weakref.finalize(storage, self._given_back, id(storage), size)

    def _given_back(self, storage: int, size: int) -> None:
        self.known.discard(storage)
        self.held -= size


class _Fused(TorchFunctionMode):
    """Attention as a kernel that never holds a row of weights for each place (Dao et al. 2022; Rabe & Staats 2021)."""

    def __init__(self, ledger: _Ledger):
        super().__init__()
        self.ledger = ledger

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        if function is not torch.nn.functional.scaled_dot_product_attention:
            return function(*arguments, **(keywords or {}))
        names = dict(zip(("query", "key", "value"), arguments, strict=False)) | (keywords or {})
        query, key, value = names["query"], names["key"], names["value"]
        self.ledger.flops += 2 * query.shape[:-1].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        self.ledger.traffic += key.nbytes + value.nbytes  # those of the query and of the answer are counted next
        return query.new_empty(*query.shape[:-1], value.shape[-1])


def _on_meta(sd: StableDiffusion) -> StableDiffusion:
    return sd if next(sd.unet.parameters()).device.type == "meta" else shapes(sd)


def _tensors(values) -> Iterator[Tensor]:
    return (leaf for leaf in torch.utils._pytree.tree_leaves(values) if isinstance(leaf, Tensor))
