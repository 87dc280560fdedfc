"""LoRA adapters: those trained with the official code, on fused projections, and native ones.

The fused projection's product B A splits exactly: queries, keys and values share A and each take
their rows of B. Nothing is approximated and no rank grows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from rag.errors import CheckpointError
from rag.glm.adapters import ADAPTER_CONFIG, mismatch, read_adapter_config, require_base
from rag.glm.config import GlmShape
from rag.glm.folder import new_folder, write_json, write_manifest
from rag.glm.keys import module_table
from rag.glm.shards import save_tensors
from rag.glm.weights import TensorInfo, file_hashes, weight_file

_KEY = re.compile(r"base_model\.model\.(?P<module>[\w.]+)\.lora_(?P<side>[AB])\.weight")
FILES = ("adapter_model.safetensors", "adapter_model.bin")
_SUPPORTED: dict[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", None),
    "task_type": ("CAUSAL_LM", None),
    **dict.fromkeys(
        ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "inference_mode",
         "base_model_name_or_path", "revision", "megatron_core", "peft_version", "auto_mapping",
         "layers_to_transform", "layers_pattern", "qalora_group_size"), ()
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA adapter in terms of the native model.

    Attributes:
        rank: Of every product.
        alpha: As trained; see `scale`.
        rslora: Whether the scale is alpha / sqrt(rank).
        dropout: While training.
        trained_on: What the adapter says its base is; "" if nothing.
        pairs: Native module -> A (rank, inputs) and B (outputs, rank).
        hashes: SHA-256 of the file it was read from.
    """

    rank: int
    alpha: float
    rslora: bool
    dropout: float
    trained_on: str
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    hashes: Mapping[str, str]

    @property
    def scale(self) -> float:
        """What B A is multiplied with before it is added to the weight."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    def merged(
        self, tensors: Iterator[tuple[str, torch.Tensor]], dtype: torch.dtype
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the tensors with the adapter added: W + scale B A, in float32, rounded once.

        Args:
            tensors: The model's, not rounded before.
            dtype: Of what is yielded.
        """
        for name, tensor in tensors:
            pair = self.pairs.get(name.removesuffix(".weight"))
            if pair is not None:
                low, high = (side.to(torch.float32) for side in pair)
                product = self.scale * (high @ low)
                tensor = tensor.to(torch.float32) + product
            yield name, tensor.to(dtype)


def read_lora(folder: Path, shape: GlmShape, model: str = "") -> Lora:
    """Read a LoRA adapter for a model, official or native.

    Args:
        folder: With adapter_config.json and adapter_model.safetensors or .bin.
        shape: Of the model it is for.
        model: The model's published name, to compare with what the adapter says.

    Raises:
        CheckpointError: If the adapter is incomplete, damaged, or uses an unsupported feature.
        AdapterMismatch: If it was trained on another model.
    """
    config = read_adapter_config(folder, _SUPPORTED)
    trained_on = str(config.get("base_model_name_or_path") or "")
    require_base(folder, trained_on, model, shape)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or not isinstance(alpha, int | float) or rank < 1:
        raise CheckpointError(
            f"The adapter {folder} has r = {rank!r} and lora_alpha = {alpha!r}.",
            do="Copy the adapter's folder again.",
        )
    weights = weight_file(folder, FILES)
    layout = _layout(shape)
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for module in _modules(folder, weights.tensors, layout, trained_on):
        parts = layout[module]
        rows, columns = parts[-1][2], _columns(shape, parts[0][0])
        sides = [weights.tensors[_name(module, side)] for side in "AB"]
        for side, size in zip(sides, ((rank, columns), (rows, rank)), strict=True):
            if side.shape != size:
                raise mismatch(folder, trained_on, f"LoRA of {module}", [*side.shape], [*size])
        low, high = (weights.read(_name(module, side)).clone() for side in "AB")
        for name, start, stop in parts:
            pairs[name] = (low, high[start:stop].clone())
    weights.close()
    return Lora(
        rank,
        float(alpha),
        bool(config.get("use_rslora")),
        float(config.get("lora_dropout") or 0),
        trained_on,
        pairs,
        file_hashes(weights.files),
    )


def write_lora(lora: Lora, model: str, target: Path) -> None:
    """Write the adapter so that plain peft puts it on the native model.

    Args:
        lora: As read.
        model: Path or name of the native model, for adapter_config.json.
        target: A new folder.

    Raises:
        PathError: If the target is there already.
        StorageError: If it cannot be written.
    """
    layers = sorted({int(name.split(".")[2]) for name in lora.pairs})
    every = layers == list(range(len(layers)))
    with new_folder(target) as folder:
        tensors = {}
        for name, pair in lora.pairs.items():
            for side, tensor in zip("AB", pair, strict=True):
                tensors[_name(name, side)] = tensor.clone()
        save_tensors(tensors, folder / FILES[0])
        write_json(
            folder / ADAPTER_CONFIG,
            {
                "peft_type": "LORA",
                "task_type": "CAUSAL_LM",
                "base_model_name_or_path": model,
                "r": lora.rank,
                "lora_alpha": lora.alpha,
                "lora_dropout": lora.dropout,
                "use_rslora": lora.rslora,
                "target_modules": sorted({name.rpartition(".")[2] for name in lora.pairs}),
                "layers_to_transform": None if every else layers,
                "layers_pattern": None if every else "layers",
                "bias": "none",
                "fan_in_fan_out": False,
                "inference_mode": True,
            },
        )
        write_manifest(folder, "adapt", sources=lora.hashes, trained_on=lora.trained_on)


def _layout(shape: GlmShape) -> dict[str, tuple[tuple[str, int, int], ...]]:
    """Official and native modules -> the native modules and rows they stand for."""
    layout: dict[str, tuple[tuple[str, int, int], ...]] = {}
    for number in range(shape.layers):
        for official, parts in module_table(shape, number).items():
            layout[official] = parts
            layout |= {name: ((name, 0, stop - start),) for name, start, stop in parts}
    return layout


def _modules(
    folder: Path,
    tensors: Mapping[str, TensorInfo],
    layout: Mapping[str, object],
    trained_on: str,
) -> list[str]:
    found: dict[str, set[str]] = {}
    for key in tensors:
        match = _KEY.fullmatch(key)
        if match is None or match["module"] not in layout:
            raise mismatch(
                folder, trained_on, "a tensor", key, "LoRA of a linear layer this model has"
            )
        found.setdefault(match["module"], set()).add(match["side"])
    if half := sorted(module for module, sides in found.items() if sides != {"A", "B"}):
        raise CheckpointError(
            f"The adapter {folder} has only one half of {half[0]}.",
            do="Copy the adapter's folder again.",
        )
    if not found:
        raise CheckpointError(f"The adapter {folder} is empty.", do="Copy its folder again.")
    return list(found)


def _columns(shape: GlmShape, native: str) -> int:
    """Inputs of a native linear module."""
    if native.endswith("o_proj"):
        return shape.qkv_rows[0]
    return shape.intermediate if native.endswith("down_proj") else shape.hidden


def _name(module: str, side: str) -> str:
    return f"base_model.model.{module}.lora_{side}.weight"
