"""From a prompt to what the UNet reads: pieces, ids, vectors with a position, and the text encoder's states.

    "a red apple" ─▶ [49406, 320, 736, 3055, 49407, ...] ─▶ token row + position row ─▶ causal transformer ─▶ (77, D)

CLIP reads at most 77 tokens, of which the first and the last are marks; what does not fit is cut off, with a warning.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .schedule import whole_number

if TYPE_CHECKING:
    from .model import StableDiffusion


@dataclass(frozen=True)
class Tokens:
    """What the tokenizer makes of one prompt, marks included and padding left out."""

    pieces: tuple[str, ...]  # the vocabulary's entries; "</w>" ends a word
    ids: tuple[int, ...]  # their rows in the token table
    lost: str  # the text beyond the last token that fits, "" if all fits


def tokens(sd: StableDiffusion, prompt: str) -> Tokens:
    """The pieces, ids and loss of one prompt (CLIP's byte-pair encoding, Radford et al. 2021)."""
    words = _ids(sd, prompt)
    room = sd.tokenizer.model_max_length - 2
    ids = (sd.tokenizer.bos_token_id, *words[:room], sd.tokenizer.eos_token_id)
    pieces = tuple(sd.tokenizer.convert_ids_to_tokens(list(ids)))
    return Tokens(pieces, ids, sd.tokenizer.decode(words[room:]).strip())


def token_ids(sd: StableDiffusion, prompts: str | Sequence[str]) -> Tensor:
    """(B, 77) token ids: start mark, the prompt's tokens, end mark, padding. Warns with the words that do not fit."""
    return torch.tensor([row for prompt in as_texts("prompt", prompts) for row in _rows(sd, _ids(sd, prompt), 1)])


def token_embeddings(sd: StableDiffusion, ids: Tensor) -> Tensor:
    """(B, L) ids to the rows of the token table, (B, L, D)."""
    table = sd.text_encoder.get_input_embeddings()
    return table(ids.to(table.weight.device))


def position_embeddings(sd: StableDiffusion) -> Tensor:
    """The learned position table, (77, D): row k is added to whatever token stands at place k."""
    return _transformer(sd).embeddings.position_embedding.weight.detach()


@torch.no_grad()
def queries_keys_values(sd: StableDiffusion, rows: Tensor, layer: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """What each row looks for, offers and hands on in one layer of the encoder: three tensors (heads, L, D / heads).

    rows: what that layer reads, (L, D); for the first one the sums of token and position rows.
    """
    layer = _transformer(sd).encoder.layers[layer]
    rows = layer.layer_norm1(rows.to(layer.layer_norm1.weight))
    heads = sd.text_encoder.config.num_attention_heads
    attention = layer.self_attn
    parts = (attention.q_proj(rows), attention.k_proj(rows), attention.v_proj(rows))
    queries, keys, values = (part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in parts)
    return queries, keys, values


@torch.no_grad()
def encode_embeddings(sd: StableDiffusion, embeddings: Tensor) -> Tensor:
    """The text encoder's output (B, 77, D) for given sums of token and position rows (B, 77, D).

    This is where token surgery starts: mix, swap or move rows, and see what the picture does.
    """
    table = sd.text_encoder.get_input_embeddings().weight
    ids = torch.full(embeddings.shape[:2], sd.tokenizer.eos_token_id, device=table.device)
    return _with_rows(sd.text_encoder, embeddings.to(table))(ids).last_hidden_state


class _Rows(torch.nn.Module):
    """Stands where the encoder looks ids up in its tables, and has the sums already."""

    def __init__(self, rows: Tensor):
        super().__init__()
        self.rows = rows

    def forward(self, *_, **__) -> Tensor:
        return self.rows


def _with_rows(encoder: torch.nn.Module, rows: Tensor) -> torch.nn.Module:
    # The encoder takes ids only. So another one is made of its very layers, with the library's own causal mask and
    # final norm, and the one that other threads may be using stays as it is.
    twin = copy.copy(encoder)
    outer = "text_model" in encoder._modules  # transformers before 5.6
    layer = {"text_model": _with_rows(encoder.text_model, rows)} if outer else {"embeddings": _Rows(rows)}
    twin._modules = encoder._modules | layer
    return twin


@torch.no_grad()
def encode_ids(sd: StableDiffusion, ids: Tensor, clip_skip: int | None = None) -> Tensor:
    """The text encoder's states (B, 77, D) for (B, 77) ids.

    clip_skip: take the states that many layers before the last, through the final norm (diffusers' meaning).
    """
    skip = whole_number("clip_skip", clip_skip or 0, 0, sd.text_encoder.config.num_hidden_layers - 1)
    ids = ids.to(sd.text_encoder.device)
    mask = None
    if getattr(
        sd.text_encoder.config, "use_attention_mask", False
    ):  # trained with the padding after the end mark hidden
        ends = (ids == sd.tokenizer.eos_token_id).int()
        mask = (ends.cumsum(dim=1) - ends == 0).long()
    output = sd.text_encoder(ids, attention_mask=mask, output_hidden_states=bool(skip))
    if not skip:
        return output.last_hidden_state
    return _transformer(sd).final_layer_norm(output.hidden_states[-(skip + 1)])


def encode_prompt(
    sd: StableDiffusion, prompts: str | Sequence[str], *, clip_skip: int | None = None, long_prompt: bool = False,
    prompt_weights: bool = False,
) -> Tensor:  # fmt: skip
    """The states that the UNet's cross-attention reads, (B, 77, D), or (B, 77 n, D) for long prompts.

    long_prompt: split what does not fit into chunks of 75 tokens, encode each by itself and put the states in a row.
    prompt_weights: read "(word:1.3)", "(word)" for 1.1 and "[word]" for 1 / 1.1 as emphasis. A token's states are moved
        away from the empty prompt's (or towards it): z = z_empty + weight * (z - z_empty). A backslash keeps a bracket.
    """
    prompts = as_texts("prompt", prompts)
    room = sd.tokenizer.model_max_length - 2
    words, weights = zip(*(_weighted_tokens(sd, prompt, prompt_weights) for prompt in prompts), strict=True)
    chunks = max(1, *(-(-len(ids) // room) for ids in words)) if long_prompt else 1
    rows = [row for ids in words for row in _rows(sd, ids, chunks)]
    states = encode_ids(sd, torch.tensor(rows), clip_skip)  # (B * chunks, 77, D)
    if any(weight != 1 for row in weights for weight in row):
        empty = encode_ids(sd, token_ids(sd, ""), clip_skip)
        filled = [[*row, *[1.0] * (chunks * room - len(row))][: chunks * room] for row in weights]
        scale = torch.nn.functional.pad(torch.tensor(filled).reshape(-1, room), (1, 1), value=1.0).to(states)
        states = states + (scale[..., None] - 1) * (states - empty)
    return states.reshape(len(prompts), -1, states.shape[-1])


def _weighted_tokens(sd, prompt: str, prompt_weights: bool) -> tuple[list[int], list[float]]:
    spans = parse_weights(prompt) if prompt_weights else [(prompt, 1.0)]
    weighted = [(token, weight) for text, weight in spans for token in _ids(sd, text)]
    return [token for token, _ in weighted], [weight for _, weight in weighted]


def parse_weights(prompt: str) -> list[tuple[str, float]]:
    """A prompt with emphasis marks as spans of (text, weight); nested marks multiply.

    Raises ValueError for a bracket that is never closed or never opened.
    """
    spans: list[tuple[str, float]] = []
    marks: list[tuple[str, int]] = []  # brackets that are open, and the span each starts at
    for mark in re.finditer(r"\\[()\[\]\\]|:\s*([+-]?\d*\.?\d+)\s*\)|[()\[\]]|[^\\()\[\]:]+|.", prompt, re.DOTALL):
        text = mark.group()
        if text in ("(", "["):
            marks.append((text, len(spans)))
        elif text in (")", "]") or mark.group(1):
            sign = text[-1]
            opening, usual = {")": ("(", 1.1), "]": ("[", 1 / 1.1)}[sign]
            if not marks or marks[-1][0] != opening:
                sentence = f"The prompt closes a {sign!r} that it never opened"
                raise ValueError(f"{sentence}; write \\{sign} for the sign itself.")
            weight, start = float(mark.group(1) or usual), marks.pop()[1]
            spans[start:] = [(inner, outer * weight) for inner, outer in spans[start:]]
        else:
            spans.append((text[1:] if text[0] == "\\" and len(text) == 2 else text, 1.0))
    if marks:
        sign = marks[-1][0]
        raise ValueError(f"The prompt opens a {sign!r} that it never closes; write \\{sign} for the sign itself.")
    runs = groupby(spans, key=itemgetter(1))
    return [("".join(text for text, _ in run), weight) for weight, run in runs] or [("", 1.0)]


def as_texts(name: str, value: str | Iterable[str]) -> tuple[str, ...]:
    """One text or several as a tuple; an error names what is no text."""
    found = (value,) if isinstance(value, str | bytes) or not isinstance(value, Iterable) else tuple(value)
    for text in found:
        if not isinstance(text, str):
            raise TypeError(f"A {name.replace('_', ' ')} is a string, not {type(text).__name__}: {text!r}.")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ValueError(f"The {name} {text!r} holds half a character (a lone surrogate); read its file as UTF-8.")
    if not found:
        raise ValueError(f"The list of {name} is empty; give at least one (the empty string is a prompt).")
    return found


def _ids(sd, text: str) -> list[int]:
    # verbose=False: the tokenizer's own remark on length names no words; ours does.
    return list(sd.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids)


def _rows(sd, words: Sequence[int], chunks: int) -> list[list[int]]:
    """That many rows of 77 ids, each with its marks and padding. Warns with the words beyond the last one."""
    room = sd.tokenizer.model_max_length - 2
    if words[chunks * room :]:
        lost = f"drops the rest of this prompt: {sd.tokenizer.decode(words[chunks * room :]).strip()!r}"
        warnings.warn(f"CLIP reads {room} tokens and {lost}. Shorten it, or pass long_prompt=True.", stacklevel=3)
    parts = [words[c * room : (c + 1) * room] for c in range(chunks)]
    begin, end, pad = sd.tokenizer.bos_token_id, sd.tokenizer.eos_token_id, sd.tokenizer.pad_token_id
    return [[begin, *part, end, *[pad] * (room - len(part))] for part in parts]


def _transformer(sd):
    # transformers before 5.6 kept CLIP's layers one level down.
    return getattr(sd.text_encoder, "text_model", sd.text_encoder)
