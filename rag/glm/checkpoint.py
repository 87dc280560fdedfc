"""Writes model folders: official checkpoints as native ones, native ones in the official layout.

Tensor by tensor, so that memory holds one open output file and not the model. What a source holds
and how its tensors map is source.py's and keys.py's business.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rag.errors import CheckpointError
from rag.glm.config import (
    QUANTIZED_TYPE,
    Dtype,
    GlmShape,
    native_config,
    official_config,
    packing_settings,
    read_json,
    read_official,
)
from rag.glm.folder import MANIFEST, new_folder, write_json, write_manifest
from rag.glm.keys import DROPPED, table
from rag.glm.saved_tokenizer import save_tokenizer
from rag.glm.shards import ShardWriter, shard_size
from rag.glm.source import Source, Told, open_native, open_official
from rag.glm.tokenizer import TOKENIZER_FILE
from rag.glm.weights import file_hashes
from rag.terminal import Advance, Progress

SAMPLING = {"do_sample": True, "temperature": 0.8, "top_p": 0.8}
"""The official demo's defaults, written to generation_config.json."""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Attributes:
        folder: Where.
        parameters: Of the model.
        dtype: Of its weights.
        files: Names of the weight files.
        dequantized: Bits of the quantised source, else 0.
        tokenizer: Whether the source had a tokenizer, and the result has.
        bits: Of its quantised matrices; 0 if it has none.
    """

    folder: Path
    parameters: int
    dtype: Dtype
    files: tuple[str, ...]
    dequantized: int
    tokenizer: bool
    bits: int = 0


def convert(
    source: Path,
    target: Path,
    *,
    dtype: Dtype | None = None,
    shard_bytes: int | None = None,
    progress: Advance | None = None,
) -> Written:
    """Write a native folder that plain transformers loads, from one in the official layout.

    Args:
        source: The official folder; it is not changed.
        target: A new folder; it appears when it is complete.
        dtype: Of the weights; None keeps what is stored, bit for bit.
        shard_bytes: Most bytes of one weight file, unless a single tensor is larger; None for a
            fitting size.
        progress: Told after each tensor.

    Raises:
        CheckpointError: If the source is not a complete ChatGLM3; see `open_source`.
        PathError: If the target is there already.
        StorageError: If it cannot be written.
    """
    opened = open_official(source)
    kept = dtype or (opened.dtype if opened.shape.bits else None)
    return write_native(
        opened,
        opened.tensors(kept, told(progress)),
        target,
        action="convert",
        dtype=dtype or opened.dtype,
        shard_bytes=shard_bytes,
    )


def write_native(
    source: Source,
    tensors: Iterator[tuple[str, torch.Tensor]],
    target: Path,
    *,
    action: str,
    dtype: Dtype,
    shard_bytes: int | None = None,
    bits: int = 0,
    **facts: object,
) -> Written:
    """Write a native folder: weights, configs, tokenizer, manifest.

    Args:
        source: What the tensors come from.
        tensors: Every native tensor by name.
        target: A new folder; it appears when it is complete.
        action: The verb, for the manifest.
        dtype: What the config says of the weights.
        shard_bytes: Most bytes of one weight file; None for a fitting size.
        bits: What the tensors are quantised to; 0 for plain ones. Every other tensor is of `dtype`.
        facts: More for the manifest.

    Raises:
        PathError: If the target is there already.
        StorageError: If it cannot be written.
    """
    shape = source.shape
    size = shape.parameters * getattr(torch, dtype).itemsize // (16 // bits if bits else 1)
    with new_folder(target, size) as folder:
        writer = ShardWriter(folder, shard_bytes or shard_size(size))
        for name, tensor in tensors:
            writer.add(name, tensor)
        files = writer.close()
        config = native_config(shape, stop_ids=source.stop_ids, dtype=dtype)
        if bits:
            config["model_type"] = QUANTIZED_TYPE
            config["quantization_config"] = packing_settings(bits)
        write_json(folder / "config.json", config)
        generation = {"pad_token_id": 0, "eos_token_id": source.stop_ids, **SAMPLING}
        write_json(folder / "generation_config.json", generation)
        if source.tokenizer:
            save_tokenizer(source.tokenizer, source.folder, folder, context=shape.context)
        small = [source.folder / name for name in ("config.json", TOKENIZER_FILE)]
        write_manifest(
            folder,
            action,
            sources=file_hashes([*source.weights.files, *(f for f in small if f.is_file())]),
            name=source.name,
            dtype=dtype,
            official_config=_official_config(source),
            **facts,
        )
    return Written(
        target,
        shape.parameters,
        dtype,
        tuple(path.name for path in files),
        shape.bits,
        source.tokenizer is not None,
        bits,
    )


def export(
    source: Path,
    target: Path,
    *,
    shard_bytes: int | None = None,
    progress: Advance | None = None,
) -> Written:
    """Write the official layout from a native folder; the tensors are the same, bit for bit.

    The official code itself is not part of it: its .py files come from the official repository.

    Args:
        source: A native folder.
        target: A new folder; it appears when it is complete.
        shard_bytes: Most bytes of one weight file, unless a single tensor is larger; None for a
            fitting size.
        progress: Told after each tensor.

    Raises:
        CheckpointError: If the source is not a complete native ChatGLM3.
        PathError: If the target is there already.
        StorageError: If it cannot be written.
    """
    opened = open_native(source)
    shape, weights, dtype = opened.shape, opened.weights, opened.dtype
    if shape.bits:
        raise CheckpointError(
            f"{source} is quantised to {shape.bits} bits, and not as the official layout does it.",
            do="Export the model that was quantised.",
        )
    kept = _official_config(opened) or official_config(shape, dtype)
    config = {k: v for k, v in kept.items() if k != "quantization_bit"} | {"torch_dtype": dtype}
    entries = table(shape)
    tell = told(progress)
    with new_folder(target, weights.nbytes) as folder:
        writer = ShardWriter(folder, shard_bytes or shard_size(weights.nbytes))
        for number, entry in enumerate(entries, start=1):
            parts = [weights.read(part.name) for part in entry.parts]
            writer.add(entry.name, torch.cat(parts) if len(parts) > 1 else parts[0])
            if tell:
                tell(number, len(entries))
        writer.add(DROPPED, rotary_frequencies(shape, getattr(torch, dtype)))
        files = writer.close()
        weights.close()
        write_json(folder / "config.json", config)
        if opened.tokenizer:
            shutil.copyfile(source / TOKENIZER_FILE, folder / TOKENIZER_FILE)
            settings = {
                "name_or_path": config.get("_name_or_path", ""),
                "remove_space": False,
                "do_lower_case": False,
                "tokenizer_class": "ChatGLMTokenizer",
                "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
            }
            write_json(folder / "tokenizer_config.json", settings)
        write_manifest(folder, "export", sources=file_hashes(weights.files), name=opened.name)
    names = tuple(path.name for path in files)
    return Written(target, shape.parameters, dtype, names, 0, opened.tokenizer is not None)


def rotary_frequencies(shape: GlmShape, dtype: torch.dtype) -> torch.Tensor:
    """Return the tensor the official code stores and does not use, as it would make it."""
    half = shape.head_dim // 2
    exponents = torch.arange(0, half, 2).to(dtype) / half
    frequencies: torch.Tensor = 1.0 / (10_000**exponents)
    return frequencies


def told(progress: Advance | None) -> Told | None:
    """Return a progress callback in the form `Source.tensors` takes."""
    if progress is None:
        return None
    return lambda done, total: progress(Progress(done, total))


def _official_config(source: Source) -> dict[str, Any] | None:
    """The config of the official checkpoint behind a source, if it still describes the model."""
    if source.layout == "official":
        return read_json(source.folder / "config.json")
    manifest = source.folder / MANIFEST
    kept = read_json(manifest).get("official_config") if manifest.is_file() else None
    if not isinstance(kept, dict):
        return None
    try:
        shape = read_official(kept, manifest)
    except CheckpointError:
        return None
    same = table(shape) == table(source.shape) and shape.rope_ratio == source.shape.rope_ratio
    return kept if same else None
