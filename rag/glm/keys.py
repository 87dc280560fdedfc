"""Which tensor of the official layout becomes which tensors of the native model.

One table, made from the model's shape: it names every tensor with its exact shape, so a key that
is not in it is unknown, and each native tensor has one source. Both directions go by it.
"""

from __future__ import annotations

from dataclasses import dataclass

from rag.glm.config import GlmShape

DROPPED = "transformer.rotary_pos_emb.inv_freq"
"""The only tensor left out on purpose: both codes compute the angles anew from the config."""

SCALE_SUFFIX = "_scale"
"""Behind the name of a quantised weight, official or native: the name of its scales."""

HEAD = "transformer.output_layer.weight"
"""Its rows decide which token comes next: native quantised folders keep it at 8 bits or more."""

PREFIX_KEYS = "transformer.prefix_encoder."
"""Start of the names of a P-Tuning v2 prefix; prefix.py reads them."""


@dataclass(frozen=True, slots=True)
class Part:
    """A native tensor: the rows start to stop of an official one."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the table.

    Attributes:
        name: In the official layout.
        shape: Of the official tensor, unquantised.
        parts: The native tensors it consists of, in order; together all its rows.
        quantisable: Whether official int8 and int4 checkpoints hold it quantised.
    """

    name: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    quantisable: bool = False


def table(shape: GlmShape) -> list[Entry]:
    """Return every tensor of a model, in the order in which it is written.

    For ChatGLM3-6B these are 199 official tensors and 311 native ones.
    """
    wide = (shape.vocabulary, shape.hidden)
    entries = [_whole("transformer.embedding.word_embeddings.weight", "model.embed_tokens.weight",
                      wide)]  # fmt: skip
    for number in range(shape.layers):
        entries += _layer(shape, number)
    return [
        *entries,
        _whole("transformer.encoder.final_layernorm.weight", "model.norm.weight", (shape.hidden,)),
        _whole(HEAD, "lm_head.weight", wide),
    ]


def packed_bits(entry: Entry, bits: int) -> int:
    """Return with how many bits a native folder quantised to `bits` stores a tensor; 0: plainly."""
    if not bits or entry.name == HEAD:
        return 8 if bits else 0
    return bits if entry.quantisable else 0


def module_table(shape: GlmShape, number: int) -> dict[str, tuple[tuple[str, int, int], ...]]:
    """Return, for a layer's linear modules, the native modules and the rows they take.

    Args:
        shape: The model's.
        number: Of the layer, from 0.

    Returns:
        Official module name -> (native module name, first row, one past the last row), ...
    """
    return {
        entry.name.removesuffix(".weight"): tuple(
            (part.name.removesuffix(".weight"), part.start, part.stop) for part in entry.parts
        )
        for entry in _layer(shape, number)
        if entry.quantisable
    }


def _layer(shape: GlmShape, number: int) -> list[Entry]:
    old, new = f"transformer.encoder.layers.{number}.", f"model.layers.{number}."
    norm, hidden = (shape.hidden,), shape.hidden

    def linear(official: str, native: str, rows: int, columns: int) -> Entry:
        return _whole(f"{old}{official}.weight", f"{new}{native}.weight", (rows, columns), True)

    qkv = [_fused(shape, old, new, "weight", (hidden,), quantisable=True)]
    if shape.qkv_bias:
        qkv.append(_fused(shape, old, new, "bias", (), quantisable=False))
    return [
        _whole(f"{old}input_layernorm.weight", f"{new}input_layernorm.weight", norm),
        *qkv,
        linear("self_attention.dense", "self_attn.o_proj", hidden, shape.qkv_rows[0]),
        _whole(
            f"{old}post_attention_layernorm.weight", f"{new}post_attention_layernorm.weight", norm
        ),
        linear("mlp.dense_h_to_4h", "mlp.gate_up_proj", 2 * shape.intermediate, hidden),
        linear("mlp.dense_4h_to_h", "mlp.down_proj", hidden, shape.intermediate),
    ]


def _fused(
    shape: GlmShape, old: str, new: str, kind: str, columns: tuple[int, ...], *, quantisable: bool
) -> Entry:
    parts = []
    start = 0
    for letter, rows in zip("qkv", shape.qkv_rows, strict=True):
        parts.append(Part(f"{new}self_attn.{letter}_proj.{kind}", start, start + rows))
        start += rows
    name = f"{old}self_attention.query_key_value.{kind}"
    return Entry(name, (start, *columns), tuple(parts), quantisable)


def _whole(official: str, native: str, shape: tuple[int, ...], quantisable: bool = False) -> Entry:
    return Entry(official, shape, (Part(native, 0, shape[0]),), quantisable)
