"""P-Tuning v2: keys and values of virtual tokens, put before every text.

The official code keeps these keys unrotated and starts real tokens at position 0. A cache of the
native model holds rotated keys and its real tokens start at position P, behind the P virtual ones.
Rotary attention sees differences of positions only, so keys rotated to position P are the same
thing, exactly: at every padding, as long as real tokens count from P.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rag.errors import CheckpointError
from rag.glm.adapters import ADAPTER_CONFIG, mismatch, read_adapter_config, require_base
from rag.glm.config import ROPE_BASE, GlmShape, read_json, read_official
from rag.glm.folder import new_folder, write_json, write_manifest
from rag.glm.keys import DROPPED, PREFIX_KEYS, table
from rag.glm.shards import save_tensors
from rag.glm.weights import Weights, file_hashes, open_weights, weight_file

if TYPE_CHECKING:
    from transformers import DynamicCache

_EMBEDDING = "embedding.weight"
_PROJECTION = ("trans.0.weight", "trans.0.bias", "trans.2.weight", "trans.2.bias")
FILES = ("adapter_model.safetensors", "adapter_model.bin")
_PROMPT = "prompt_embeddings"
_SUPPORTED: dict[str, tuple[object, ...]] = {
    "peft_type": ("PREFIX_TUNING",),
    "task_type": ("CAUSAL_LM", None),
    "prefix_projection": (False, None),
    "num_transformer_submodules": (1, None),
    **dict.fromkeys(
        ("num_virtual_tokens", "token_dim", "num_layers", "num_attention_heads", "inference_mode",
         "encoder_hidden_size", "base_model_name_or_path", "revision", "peft_version",
         "auto_mapping"), ()
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Prefix:
    """A P-Tuning v2 prefix for the native model.

    Attributes:
        keys: (layers, groups, P, head_dim) float32, rotated to position P.
        values: The same shape.
        trained_on: What it says its base is; "" if nothing.
        hashes: SHA-256 of the files it was read from.
    """

    keys: torch.Tensor
    values: torch.Tensor
    trained_on: str
    hashes: Mapping[str, str]

    @property
    def tokens(self) -> int:
        """P, the number of virtual tokens."""
        return int(self.keys.shape[2])

    def cache(
        self, batch: int, dtype: torch.dtype, device: str | torch.device = "cpu"
    ) -> DynamicCache:
        """Return a fresh cache that holds the prefix for each text of a batch.

        Args:
            batch: Number of texts.
            dtype: The model's.
            device: The model's.
        """
        from transformers import DynamicCache

        pairs = zip(self.keys, self.values, strict=True)
        return DynamicCache(
            [
                tuple(
                    side[None].to(device=device, dtype=dtype).repeat(batch, 1, 1, 1)
                    for side in pair
                )
                for pair in pairs
            ]
        )

    def inputs(self, attention_mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mask and the positions for a forward pass behind the prefix.

        Args:
            attention_mask: (batch, tokens), 1 for a real token; padded on either side.

        Returns:
            (batch, P + tokens) mask, and (batch, tokens) position_ids, of which real tokens count
            from P. The next token's position is the last one's plus 1.
        """
        ones = attention_mask.new_ones(attention_mask.shape[0], self.tokens)
        positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0) + self.tokens
        return torch.cat([ones, attention_mask], dim=1), positions

    def generate_inputs(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        dtype: torch.dtype,
    ) -> dict[str, Any]:
        """Return what `model.generate` takes; its output begins with P ids to be cut off.

        Args:
            input_ids: (batch, tokens), padded on the left.
            attention_mask: (batch, tokens).
            dtype: The model's.
        """
        mask, _ = self.inputs(attention_mask)
        stand_in = input_ids.new_zeros(input_ids.shape[0], self.tokens)
        return {
            "input_ids": torch.cat([stand_in, input_ids], dim=1),
            "attention_mask": mask,
            "past_key_values": self.cache(input_ids.shape[0], dtype, input_ids.device),
        }


def read_prefix(folder: Path, shape: GlmShape, model: str = "") -> Prefix:
    """Read a P-Tuning v2 prefix for a model: an official checkpoint, or a converted one.

    Args:
        folder: Official: config.json with pre_seq_len, and weights whose prefix is taken (others
            of the model may be there). Converted: what `write_prefix` wrote.
        shape: Of the model it is for.
        model: The model's published name, to compare with what the prefix says.

    Raises:
        CheckpointError: If it is incomplete, damaged or holds code.
        AdapterMismatch: If it was trained on another model.
    """
    if (folder / ADAPTER_CONFIG).is_file():
        return _read_native(folder, shape, model)
    theirs = read_official(read_json(folder / "config.json"), folder)
    require_base(folder, theirs.name, model, shape)
    for field in ("layers", "hidden", "heads", "groups", "head_dim", "vocabulary", "rope_ratio"):
        got, expected = getattr(theirs, field), getattr(shape, field)
        if got != expected:
            raise mismatch(folder, theirs.name, f"the number of {field}", got, expected)
    weights = open_weights(folder)
    state = _prefix_tensors(folder, weights, theirs)
    flat = state[_EMBEDDING]
    if theirs.prefix_projection:
        first, first_bias, second, second_bias = (state[name] for name in _PROJECTION)
        flat = torch.tanh(flat @ first.T + first_bias) @ second.T + second_bias
    keys, values = _split(flat, shape)
    weights.close()
    return Prefix(
        rotate(keys, theirs.prefix_tokens, shape), values, theirs.name, file_hashes(weights.files)
    )


def write_prefix(prefix: Prefix, shape: GlmShape, model: str, target: Path) -> None:
    """Write a prefix in peft's layout, its keys rotated.

    Plain peft computes the same for single texts; in left-padded batches it misplaces real tokens,
    which `Prefix.inputs` does not.

    Args:
        prefix: As read.
        shape: Of the model.
        model: Path or name of the native model, for adapter_config.json.
        target: A new folder.

    Raises:
        PathError: If the target is there already.
        StorageError: If it cannot be written.
    """
    both = torch.stack([prefix.keys, prefix.values], dim=1)  # (layers, 2, groups, P, head_dim)
    flat = both.permute(3, 0, 1, 2, 4).reshape(prefix.tokens, -1).contiguous()
    with new_folder(target) as folder:
        save_tensors({_PROMPT: flat}, folder / FILES[0])
        write_json(
            folder / ADAPTER_CONFIG,
            {
                "peft_type": "PREFIX_TUNING",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": model,
                "num_virtual_tokens": prefix.tokens,
                "token_dim": shape.groups * shape.head_dim,
                "num_layers": shape.layers,
                "num_attention_heads": shape.groups,
                "num_transformer_submodules": 1,
                "encoder_hidden_size": shape.hidden,
                "prefix_projection": False,
                "inference_mode": True,
            },
        )
        write_manifest(folder, "adapt", sources=prefix.hashes, trained_on=prefix.trained_on)


def rotate(keys: torch.Tensor, position: int, shape: GlmShape) -> torch.Tensor:
    """Rotate keys from position 0 to another, as the model does: neighbours are a pair.

    Args:
        keys: (..., head_dim).
        position: In tokens.
        shape: The model's; the first half of a head is rotated.
    """
    half = shape.head_dim // 2
    steps = torch.arange(0, half, 2, dtype=torch.float64) / half
    angles = position / (ROPE_BASE * shape.rope_ratio) ** steps
    turn = torch.polar(torch.ones_like(angles), angles)
    pairs = torch.view_as_complex(keys[..., :half].double().unflatten(-1, (-1, 2)).contiguous())
    turned = torch.view_as_real(pairs * turn).flatten(-2).to(keys.dtype)
    return torch.cat([turned, keys[..., half:]], dim=-1)


def _split(flat: torch.Tensor, shape: GlmShape) -> tuple[torch.Tensor, torch.Tensor]:
    """(P, layers * 2 * groups * head_dim) -> keys and values, (layers, groups, P, head_dim)."""
    both = flat.unflatten(-1, (shape.layers, 2, shape.groups, shape.head_dim))
    keys, values = both.permute(2, 1, 3, 0, 4).contiguous()
    return keys, values


def _prefix_tensors(folder: Path, weights: Weights, theirs: GlmShape) -> dict[str, torch.Tensor]:
    width = theirs.layers * 2 * theirs.groups * theirs.head_dim
    sizes: dict[str, tuple[int, ...]] = {_EMBEDDING: (theirs.prefix_tokens, width)}
    if theirs.prefix_projection:
        hidden = (theirs.hidden, width), (theirs.hidden,), (width, theirs.hidden), (width,)
        sizes |= dict(zip(_PROJECTION, hidden, strict=True))
    base = {entry.name for entry in table(theirs)} | {DROPPED}
    if unknown := sorted(weights.tensors.keys() - base - {PREFIX_KEYS + name for name in sizes}):
        raise CheckpointError(
            f"{folder} holds the unknown tensor {unknown[0]}.",
            do="Expected a P-Tuning v2 prefix; check prefix_projection in its config.json.",
        )
    state = {}
    for name, size in sizes.items():
        info = weights.tensors.get(PREFIX_KEYS + name)
        if info is None or info.shape != size:
            found = list(info.shape) if info else "nothing"
            raise CheckpointError(
                f"{folder} holds {found} as {PREFIX_KEYS + name}; expected {list(size)}.",
                do="Check pre_seq_len and prefix_projection in its config.json.",
            )
        state[name] = weights.read(PREFIX_KEYS + name).to(torch.float32, copy=True)
    return state


def _read_native(folder: Path, shape: GlmShape, model: str) -> Prefix:
    config = read_adapter_config(folder, _SUPPORTED)
    trained_on = str(config.get("base_model_name_or_path") or "")
    require_base(folder, trained_on, model, shape)
    weights = weight_file(folder, FILES)
    width = shape.layers * 2 * shape.groups * shape.head_dim
    expected = (config.get("num_virtual_tokens"), width)
    info = weights.tensors.get(_PROMPT)
    if info is None or info.shape != expected or len(weights.tensors) != 1:
        found = list(info.shape) if info else sorted(weights.tensors)[:3]
        raise mismatch(folder, trained_on, _PROMPT, found, list(expected))
    keys, values = _split(weights.read(_PROMPT).to(torch.float32, copy=True), shape)
    weights.close()
    return Prefix(keys, values, trained_on, file_hashes(weights.files))
