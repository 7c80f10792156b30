"""The fast path: the same UNet with less to do in every step.

A run calls the UNet with new latents and timesteps, but always with the same prompt: the keys and values of every
cross-attention are worked out once, in one matrix product. On a CUDA device the whole call is recorded once as a CUDA
graph and replayed: a UNet is some 700 small kernels, and starting them one by one takes longer than their arithmetic.

Latents agree with the plain path's to a relative error of 1e-5 in float32, 2e-2 in bfloat16. What is gained on a GPU
has not been measured: without one, the graphs are tested by a stand-in that replays operations on the same memory.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .model import StableDiffusion


def optimize(sd: StableDiffusion, *, compile: bool = False, graph: bool | None = None) -> StableDiffusion:
    """The same model with a faster UNet; `sd` itself stays as it was and shares its weights.

    compile: let torch.compile fuse the UNet's operations as well; the first picture of each size then takes minutes.
    graph: record a CUDA graph for each size of batch and picture, which keeps its memory; None where there is CUDA.

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
        # New modules around the original's own tensors.
        self.unet = copy.deepcopy(unet, {id(tensor): tensor for tensor in (*unet.parameters(), *unet.buffers())})
        self.project_text = _join_projections(self.unet)
        self.plain = self.call = _tensors_only(self.unet)
        if compile:
            self.call = torch.compile(self.plain, mode="max-autotune-no-cudagraphs", fullgraph=True)
        self.graph = graph
        self._calls: dict[tuple, Callable] = {}
        self._states: dict[int, tuple[Tensor, int | None, Tensor]] = {}

    @torch.no_grad()
    def forward(
        self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, return_dict: bool = False
    ) -> tuple[Tensor]:
        """sample (B, C, h, w), timestep a tensor (), states (B, L, D); returns ((B, C, h, w),) in any case."""
        inputs = (sample, timestep, self._text(encoder_hidden_states))
        key = tuple((x.shape, x.dtype) for x in inputs)
        if key not in self._calls:
            self._calls[key] = self._prepared(*inputs)
        return (self._calls[key](*inputs),)

    def _text(self, states: Tensor) -> Tensor:
        """The keys and values of every cross-attention for these states, (B, L, all of them side by side)."""
        # With and without guidance a run alternates between two batches, so one of each size is kept.
        version = None if states.is_inference() else states._version  # counts changes in place
        kept = self._states.get(len(states))
        if kept is None or kept[0] is not states or kept[1] != version:
            kept = self._states[len(states)] = (states, version, self.project_text(states))
        return kept[2]

    def _prepared(self, *inputs: Tensor) -> Callable:
        """The fastest call for inputs of these shapes; what fails is warned of, and left out from then on."""
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


def _tensors_only(unet: nn.Module) -> Callable:
    """The UNet as a function of tensors. (No method of FastUNet: that cycle would keep gigabytes until gc runs.)"""
    return lambda sample, timestep, text: unet(sample, timestep, encoder_hidden_states=text, return_dict=False)[0]


def _warn(feature: str, error: RuntimeError) -> None:
    lines = [line for line in str(error).splitlines() if line.strip() and not line.endswith(":")]
    reason = lines[0] if lines else type(error).__name__
    warnings.warn(f"The UNet runs without {feature}, which failed: {reason}", stacklevel=2)


class _Graph:
    """One call recorded as a CUDA graph for inputs of one shape, and replayed with whatever they hold.

    It keeps inputs of its own, which every call fills; the text, a copy of megabytes, only when it is another tensor.
    They are zero while recording, so a value that was taken for a constant shows: RuntimeError if a replay's answer
    is not the ordinary call's.
    """

    def __init__(self, call: Callable, *inputs: Tensor):
        with torch.inference_mode(False):  # a buffer made in inference mode could be written to only there
            self.inputs = [torch.empty_like(x).copy_(x) for x in inputs]
        self.text = None
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(inputs[0].device):
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
        if not error <= 0.02 and expected.isfinite().all():  # the kernels are the same, but for cuDNN's choices
            raise RuntimeError(f"its answer is off by {error:.1%} of an ordinary call's")

    def __call__(self, sample: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        self.inputs[0].copy_(sample)
        self.inputs[1].copy_(timestep)
        if self.text is not text:
            self.inputs[2].copy_(text)
            self.text = text
        self.graph.replay()
        return self.output.clone()  # the next replay overwrites it


class _Columns(nn.Module):
    """Stands in for a Linear whose product is already in its input: takes its own columns out."""

    def __init__(self, start: int, end: int):
        super().__init__()
        self.start, self.end = start, end

    def forward(self, x: Tensor, *_) -> Tensor:
        return x[..., self.start : self.end]


def _join_projections(unet: nn.Module) -> nn.Linear:
    """One Linear that makes all keys and values at once; `unet` then takes its product in the place of text states."""
    weight = torch.cat([getattr(attention, name).weight for attention, name in _projections(unet)])
    joined = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    joined.weight = nn.Parameter(weight, requires_grad=False)
    start = 0
    for attention, name in _projections(unet):
        end = start + getattr(attention, name).out_features
        setattr(attention, name, _Columns(start, end))
        start = end
    return joined


def _projections(unet: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where keys and values are made of the text: every cross-attention, with the names of its two projections."""
    attentions = [block.attn2 for block in unet.modules() if getattr(block, "attn2", None) is not None]
    return [(attention, name) for attention in attentions for name in ("to_k", "to_v")]


def _obstacle(unet: nn.Module) -> str | None:
    """Why this UNet cannot be rearranged, or None."""
    from diffusers import UNet2DConditionModel

    if type(unet) is not UNet2DConditionModel:
        return f"it is a {type(unet).__name__}"
    if any(parameter.device.type == "meta" for parameter in unet.parameters()):
        return "its weights are kept in main memory (low_memory)"
    for name in ("addition_embed_type", "cross_attention_norm", "dual_cross_attention", "encoder_hid_dim_type",
                 "mid_block_only_cross_attention", "only_cross_attention"):  # fmt: skip
        if np.any(unet.config.get(name)):  # text comes in by another door, which Stable Diffusion has not
            return f"its config has {name}"
    linears = [getattr(attention, name) for attention, name in _projections(unet)]
    if not linears or any(type(linear) is not nn.Linear or linear.bias is not None for linear in linears):
        return "its projections are not plain matrices (LoRA, quantised, or fused already)"
    return None
