"""The fast path: the same UNet with less to do in every step.

A step of the loop calls the UNet with new latents and a new timestep, but always with the same prompt. So what depends
on the prompt alone, the keys and values of every cross-attention, is worked out once for a run, in one matrix product.
What depends on the timestep alone, the shift that every residual block adds, is one product instead of one a block.
On a CUDA device convolutions run channels-last and the whole call is recorded once as a CUDA graph and replayed: a UNet
is some 700 small kernels, and starting them one by one takes longer than their arithmetic.

The weights are the same and so is the arithmetic but for its order: in float32 the latents of a run agree with the
plain path's to a relative error of 1e-5, in bfloat16 to 2e-2. On a CPU kernels are not slow to start and the
rearrangement gains about 5 %; torch.compile gained about a tenth there, after minutes of compiling. What is gained on a
GPU has not been measured: without one, the graphs are tested by a stand-in that replays operations on the same memory.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .model import StableDiffusion


def optimize(sd: StableDiffusion, *, compile: bool = False, graph: bool | None = None) -> StableDiffusion:
    """The same model with a faster UNet; `sd` itself stays as it was and shares its weights.

    On a CUDA device the convolutions' weights are copies in another layout, half the UNet's size or more: write
    `sd = optimize(sd)` and the first ones are freed.

    compile: let torch.compile fuse the UNet's operations as well; the first picture of each size then takes minutes.
    graph: record CUDA graphs; None where there is a CUDA device. Each size of batch and picture is recorded when it
        first comes, and keeps its memory.

    Where the UNet cannot be rearranged (its weights are offloaded, its parts are of another kind) a warning says why
    and `sd` comes back. Raises ValueError for graph=True without a CUDA device.
    """
    on_cuda = sd.device.type == "cuda"
    if graph and not on_cuda:
        raise ValueError(f"CUDA graphs need a CUDA device, and this model is on {sd.device}; leave graph out.")
    obstacle = _obstacle(sd.unet)
    if obstacle:
        warnings.warn(f"The fast path does not fit this UNet: {obstacle}. It runs as before.", stacklevel=2)
        return sd
    return replace(sd, unet=FastUNet(sd.unet, compile=compile, graph=on_cuda if graph is None else graph))


class FastUNet(nn.Module):
    """Called like the UNet it is made from, with the same answers.

    It remembers the last text states it was given, by identity: a run passes the same tensor at every step.
    """

    def __init__(self, unet: nn.Module, compile: bool = False, graph: bool = False):
        super().__init__()
        self.config = unet.config
        self.unet, self.project_text = _rearranged(unet)
        if next(unet.parameters()).device.type == "cuda":
            _to_channels_last(self.unet)
        self.plain = self.call = _asking(self.unet)
        if compile:
            self.call = torch.compile(self.plain, mode="max-autotune-no-cudagraphs", fullgraph=True)
        self.graph = graph
        self._calls: dict[tuple, Callable] = {}
        self._states: dict[int, tuple[Tensor, int | None, Tensor]] = {}

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def device(self) -> torch.device:
        return self.unet.device

    @torch.no_grad()
    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False
    ) -> tuple[Tensor]:
        """sample (B, C, h, w), timestep a tensor (), encoder_hidden_states (B, L, D); returns ((B, C, h, w),)."""
        if return_dict:
            raise ValueError("The fast UNet returns a tuple; pass return_dict=False.")
        inputs = (sample, timestep, self._text(encoder_hidden_states))
        key = tuple((x.shape, x.dtype) for x in inputs)
        if key not in self._calls:
            self._calls[key] = self._prepared(*inputs)
        return (self._calls[key](*inputs),)

    def _prepared(self, *inputs: Tensor) -> Callable:
        """The fastest call for inputs of these shapes; what fails is said, and done without from then on."""
        if self.call is not self.plain:
            try:
                self.call(*inputs)
            except RuntimeError as error:
                _warn("torch.compile", error)
                self.call = self.plain
        if self.graph:
            try:
                return _Graph(self.call, *inputs)
            except RuntimeError as error:
                _warn("a CUDA graph", error)
                self.graph = False
        return self.call

    def _text(self, states: Tensor) -> Tensor:
        """The keys and values of every cross-attention for these states, (B, L, all of them side by side)."""
        # With and without guidance a run alternates between two batches, so one of each size is kept.
        version = None if states.is_inference() else states._version  # counts changes in place
        kept = self._states.get(len(states))
        if kept is None or kept[0] is not states or kept[1] != version:
            kept = self._states[len(states)] = (states, version, self.project_text(states))
        return kept[2]


def _asking(unet: nn.Module) -> Callable:
    """A call of tensors alone. (No method of FastUNet: that would be a cycle, and gigabytes would wait for gc.)"""
    return lambda sample, timestep, text: unet(sample, timestep, encoder_hidden_states=text, return_dict=False)[0]


def _warn(feature: str, error: RuntimeError) -> None:
    lines = [line for line in str(error).splitlines() if line.strip() and not line.endswith(":")]
    said = lines[0] if lines else type(error).__name__
    warnings.warn(f"The UNet runs without {feature}, which failed: {said}", stacklevel=2)


class _Graph:
    """One recorded call for one shape: copy the inputs in, replay, copy the answer out.

    A graph repeats kernels on fixed addresses, whatever values Python saw while they were recorded. So it is recorded
    on zeros and its answer to the real inputs is compared with an ordinary call's: RuntimeError if they differ.
    """

    def __init__(self, call: Callable, *inputs: Tensor):
        with torch.inference_mode(False):  # a buffer made in inference mode could be written to only there
            self.inputs = [torch.empty_like(x).copy_(x) for x in inputs]
        self.text = None
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(inputs[0].device), _fastest_convolutions():
            stream = torch.cuda.Stream()  # a recording must not be the first call: libraries set themselves up in it
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    expected = call(*self.inputs)
            torch.cuda.current_stream().wait_stream(stream)
            for buffer in self.inputs:
                buffer.zero_()
            with torch.cuda.graph(self.graph):
                self.output = call(*self.inputs)
        error = (self(*inputs).float() - expected.float()).norm() / expected.float().norm()
        if not error <= _TOLERANCE and expected.isfinite().all():
            raise RuntimeError(f"its answer is off by {error:.1%} of an ordinary call's")

    def __call__(self, sample: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        self.inputs[0].copy_(sample)
        self.inputs[1].copy_(timestep)
        if self.text is not text:
            self.inputs[2].copy_(text)
            self.text = text
        self.graph.replay()
        return self.output.clone()  # the next replay overwrites it


_TOLERANCE = 0.02  # of a graph's answer, in relative L2 norm: the kernels are the same, but for cuDNN's choices


@contextmanager
def _fastest_convolutions():
    """Let cuDNN try its algorithms on these shapes; they come again a thousand times."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class _Columns(nn.Module):
    """Stands in for a Linear whose product is already in its input: takes its own columns out."""

    def __init__(self, start: int, end: int):
        super().__init__()
        self.start, self.end = start, end

    def forward(self, x: Tensor, *_) -> Tensor:
        return x[..., self.start : self.end]


class _TimeEmbedding(nn.Module):
    """The timestep's embedding and what every residual block makes of it, side by side: (B, sum of their widths)."""

    def __init__(self, embedding: nn.Module, activation: nn.Module, projection: nn.Linear):
        super().__init__()
        self.embedding, self.activation, self.projection = embedding, activation, projection

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.projection(self.activation(self.embedding(sample, condition)))


def _rearranged(unet: nn.Module) -> tuple[nn.Module, nn.Linear]:
    """A UNet that takes keys and values for its text states, and the Linear that makes them.

    Its modules are new, its tensors the original's, except the joined matrices.
    """
    tensors = [*unet.parameters(), *unet.buffers()]
    fast = copy.deepcopy(unet, {id(tensor): tensor for tensor in tensors})
    blocks = _residual_blocks(fast)
    activation = blocks[0].nonlinearity
    fast.time_embedding = _TimeEmbedding(
        fast.time_embedding, activation, _joined([(block, "time_emb_proj") for block in blocks])
    )
    for block in blocks:
        block.skip_time_act = True
    attentions = _cross_attentions(fast)
    return fast, _joined([(attention, name) for attention in attentions for name in ("to_k", "to_v")])


def _joined(places: Iterable[tuple[nn.Module, str]]) -> nn.Linear:
    """One Linear for several with the same input; each is replaced by the columns it would have computed."""
    linears = [getattr(module, name) for module, name in places]
    weight = torch.cat([linear.weight for linear in linears])
    joined = nn.Linear(weight.shape[1], weight.shape[0], bias=linears[0].bias is not None, device="meta")
    joined.weight = nn.Parameter(weight, requires_grad=False)
    if linears[0].bias is not None:
        joined.bias = nn.Parameter(torch.cat([linear.bias for linear in linears]), requires_grad=False)
    start = 0
    for (module, name), linear in zip(places, linears, strict=True):
        end = start + linear.out_features
        setattr(module, name, _Columns(start, end))
        start = end
    return joined


def _residual_blocks(unet: nn.Module) -> list[nn.Module]:
    return [module for module in unet.modules() if getattr(module, "time_emb_proj", None) is not None]


def _cross_attentions(unet: nn.Module) -> list[nn.Module]:
    return [module.attn2 for module in unet.modules() if getattr(module, "attn2", None) is not None]


def _obstacle(unet: nn.Module) -> str | None:
    """Why this UNet cannot be rearranged, or None."""
    from diffusers import UNet2DConditionModel

    if type(unet) is not UNet2DConditionModel:
        return f"it is a {type(unet).__name__}"
    if any(parameter.device.type == "meta" for parameter in unet.parameters()):
        return "its weights are kept in main memory (low_memory)"
    unusual = [name for name in _UNUSUAL if np.any(unet.config.get(name))]
    if unusual:
        return f"its config has {unusual[0]}"
    projections = [getattr(attention, name) for attention in _cross_attentions(unet) for name in ("to_k", "to_v")]
    projections += [block.time_emb_proj for block in _residual_blocks(unet)]
    if not projections or any(type(projection) is not nn.Linear for projection in projections):
        return "its projections are not plain matrices (LoRA, quantised, or fused already)"
    return None


# Options of UNet2DConditionModel that let text or timestep in by another door; Stable Diffusion has none of them.
_UNUSUAL = (
    "addition_embed_type",
    "class_embed_type",
    "cross_attention_norm",
    "dual_cross_attention",
    "encoder_hid_dim_type",
    "mid_block_only_cross_attention",
    "num_class_embeds",
    "only_cross_attention",
    "resnet_skip_time_act",
    "timestep_post_act",
)


def _to_channels_last(module: nn.Module) -> None:
    """Convolution weights in the layout that tensor cores read; new tensors, so the original keeps its own."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight.to(memory_format=torch.channels_last)
            layer.weight = nn.Parameter(weight, requires_grad=False)
