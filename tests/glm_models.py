"""Tiny random ChatGLM3 checkpoints in the official layout, and an independent forward pass."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

from rag.glm.config import GlmShape, official_config
from rag.glm.keys import DROPPED, SCALE_SUFFIX, table

SMALL = GlmShape(
    layers=2,
    hidden=24,
    intermediate=20,
    heads=4,
    groups=2,
    head_dim=16,
    vocabulary=320,
    context=64,
    dtype="float32",
    name="tiny/chatglm3",
)

CHATGLM3_6B = GlmShape(28, 4096, 13696, 32, 2, 128, 65024, 8192)


def random_tensors(shape: GlmShape = SMALL, seed: int = 0) -> dict[str, torch.Tensor]:
    """Every tensor of the official layout, in the shape's dtype."""
    generator = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, shape.dtype)
    tensors = {
        entry.name: (torch.randn(entry.shape, generator=generator) * 0.5).to(dtype)
        for entry in table(shape)
    }
    half = shape.head_dim // 2
    tensors[DROPPED] = 1.0 / (10_000 ** (torch.arange(0, half, 2).to(dtype) / half))
    return tensors


def write_official(
    folder: Path,
    shape: GlmShape = SMALL,
    *,
    tensors: dict[str, torch.Tensor] | None = None,
    layout: Literal["safetensors", "bin", "old-bin"] = "safetensors",
    shards: int = 1,
    **config: Any,
) -> Path:
    """Write a checkpoint; extra keywords go into config.json, None removes a key."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = random_tensors(shape) if tensors is None else tensors
    names = list(tensors)
    suffix = "safetensors" if layout == "safetensors" else "bin"
    stem = "model" if layout == "safetensors" else "pytorch_model"
    weight_map: dict[str, str] = {}
    for number in range(shards):
        part = {name: tensors[name] for name in names[number::shards]}
        file = f"{stem}-{number + 1:05}-of-{shards:05}.{suffix}"
        if shards == 1:
            file = f"{stem}.{suffix}"
        weight_map |= dict.fromkeys(part, file)
        if layout == "safetensors":
            save_file(part, folder / file, metadata={"format": "pt"})
        else:
            torch.save(part, folder / file, _use_new_zipfile_serialization=layout == "bin")
    if shards > 1:
        index = {"metadata": {}, "weight_map": weight_map}
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))
    written = official_config(shape, shape.dtype) | config
    kept = {key: value for key, value in written.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept), encoding="utf-8")
    return folder


def quantized(
    tensors: dict[str, torch.Tensor], shape: GlmShape, bits: int
) -> dict[str, torch.Tensor]:
    """The same as official int8 or int4 tensors: the even column of int4 in the high half."""
    out = dict(tensors)
    for entry in table(shape):
        if not entry.quantisable:
            continue
        weight = tensors[entry.name].float()
        scale = (weight.abs().amax(dim=1) / (2 ** (bits - 1) - 1)).half()
        numbers = (weight / scale.float()[:, None]).round().clamp(-128, 127).to(torch.int8)
        if bits == 4:
            numbers = (numbers[:, 0::2] << 4) | (numbers[:, 1::2] & 0x0F)
        out[entry.name], out[entry.name + SCALE_SUFFIX] = numbers, scale
    return out


def official_logits(
    tensors: dict[str, torch.Tensor],
    shape: GlmShape,
    ids: torch.Tensor,
    prefix: torch.Tensor | None = None,
) -> torch.Tensor:
    """A forward pass written from the architecture's description, on the fused tensors.

    Args:
        tensors: In the official layout.
        shape: Theirs.
        ids: (tokens,).
        prefix: (P, layers * 2 * groups * head_dim): unrotated keys and values seen by every token.

    Returns:
        (tokens, vocabulary) float64.
    """
    weights = {name: tensor.double() for name, tensor in tensors.items()}
    count = len(ids)
    half = shape.head_dim // 2
    rates = (10_000 * shape.rope_ratio) ** -(torch.arange(0, half, 2).double() / half)
    turns = torch.polar(torch.ones(()).double(), torch.arange(count).double()[:, None] * rates)

    def norm(states: torch.Tensor, name: str) -> torch.Tensor:
        size = states.pow(2).mean(-1, keepdim=True) + shape.epsilon
        return states / size.sqrt() * weights[name]

    def rotate(heads: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(heads[..., :half].unflatten(-1, (-1, 2)).contiguous())
        turned = torch.view_as_real(pairs * turns[:, None]).flatten(-2)
        return torch.cat([turned, heads[..., half:]], dim=-1)

    states = weights["transformer.embedding.word_embeddings.weight"][ids]
    hidden_future = torch.ones(count, count).triu(1).bool()
    for number in range(shape.layers):
        at = f"transformer.encoder.layers.{number}."
        mixed = norm(states, at + "input_layernorm.weight")
        mixed = mixed @ weights[at + "self_attention.query_key_value.weight"].T
        mixed = mixed + weights.get(at + "self_attention.query_key_value.bias", torch.zeros(1))
        query, key, value = (
            part.unflatten(-1, (-1, shape.head_dim)) for part in mixed.split(shape.qkv_rows, -1)
        )
        query, key = rotate(query), rotate(key)
        hidden = hidden_future
        if prefix is not None:
            both = prefix.double().unflatten(-1, (shape.layers, 2, shape.groups, shape.head_dim))
            key = torch.cat([both[:, number, 0], key])
            value = torch.cat([both[:, number, 1], value])
            hidden = torch.cat([torch.zeros(count, len(prefix)).bool(), hidden], dim=1)
        spread = shape.heads // shape.groups
        key, value = key.repeat_interleave(spread, 1), value.repeat_interleave(spread, 1)
        scores = torch.einsum("qhd,khd->hqk", query, key) / shape.head_dim**0.5
        shares = scores.masked_fill(hidden, float("-inf")).softmax(-1)
        context = torch.einsum("hqk,khd->qhd", shares, value).flatten(-2)
        states = states + context @ weights[at + "self_attention.dense.weight"].T
        mixed = norm(states, at + "post_attention_layernorm.weight")
        gate, up = (mixed @ weights[at + "mlp.dense_h_to_4h.weight"].T).chunk(2, -1)
        mixed = torch.nn.functional.silu(gate) * up
        states = states + mixed @ weights[at + "mlp.dense_4h_to_h.weight"].T
    states = norm(states, "transformer.encoder.final_layernorm.weight")
    return states @ weights["transformer.output_layer.weight"].T


def with_ratio(ratio: float) -> GlmShape:
    return replace(SMALL, rope_ratio=ratio)
