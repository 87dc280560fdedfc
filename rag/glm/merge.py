"""Puts adapters to use: converts them for the native model, or adds them to its weights.

Both take a model in either layout and an adapter in either, and write a new folder.
"""

from __future__ import annotations

from pathlib import Path

import torch

from rag.errors import AdapterMismatch, CheckpointError
from rag.glm.adapters import AdapterKind, adapter_kind
from rag.glm.checkpoint import Written, told, write_native
from rag.glm.config import Dtype
from rag.glm.lora import read_lora, write_lora
from rag.glm.prefix import read_prefix, write_prefix
from rag.glm.source import open_source
from rag.terminal import Advance


def adapt(model: Path, adapter: Path, target: Path) -> AdapterKind:
    """Write an official adapter as one that plain peft puts on the native model.

    Args:
        model: The model it was trained on, official or native.
        adapter: LoRA on fused names, or a P-Tuning v2 checkpoint.
        target: A new folder.

    Returns:
        Which kind it was.

    Raises:
        AdapterMismatch: If it was trained on another model.
        CheckpointError: If model or adapter is incomplete, damaged or not supported.
        PathError: If the target is there already.
        StorageError: If it cannot be written.
    """
    kind = _kind(adapter)
    base = open_source(model)
    where = str(model.resolve())
    if kind == "LoRA":
        write_lora(read_lora(adapter, base.shape, base.name), where, target)
    else:
        write_prefix(read_prefix(adapter, base.shape, base.name), base.shape, where, target)
    return kind


def merge(
    model: Path,
    adapter: Path,
    target: Path,
    *,
    dtype: Dtype | None = None,
    progress: Advance | None = None,
) -> Written:
    """Write a native model with a LoRA adapter added to its weights.

    Args:
        model: The model it was trained on, official or native.
        adapter: LoRA, official or native.
        target: A new folder.
        dtype: Of the result; None keeps the model's.
        progress: Told after each tensor.

    Raises:
        AdapterMismatch: If it was trained on another model, or cannot be merged.
        CheckpointError: If model or adapter is incomplete, damaged or not supported.
        PathError: If the target is there already.
        StorageError: If it cannot be written.
    """
    if _kind(adapter) == "P-Tuning":
        raise AdapterMismatch(
            f"{adapter} is a P-Tuning prefix: it changes no weights and cannot be merged.",
            do="Use `youju glm adapt`, and keep the prefix beside the model.",
        )
    base = open_source(model)
    lora = read_lora(adapter, base.shape, base.name)
    result = dtype or base.dtype
    return write_native(
        base,
        lora.merged(base.tensors(base.exact, told(progress)), getattr(torch, result)),
        target,
        action="merge",
        dtype=result,
        adapter={"trained_on": lora.trained_on, "files": dict(lora.hashes)},
    )


def _kind(adapter: Path) -> AdapterKind:
    kind = adapter_kind(adapter)
    if kind is None:
        raise CheckpointError(
            f"{adapter} holds no adapter: neither adapter_config.json nor pre_seq_len.",
            do="`youju glm inspect` says what a folder holds.",
        )
    return kind
