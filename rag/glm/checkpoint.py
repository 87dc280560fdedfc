"""Official ChatGLM3 checkpoints to native ones and back, tensor by tensor.

`native_tensors` is the one place where official weights become native ones; converting writes what
it yields, loading (load.py) puts it into a model. Strict both ways: every tensor of the source is
used or dropped on purpose, every tensor of the result comes from exactly one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rag.errors import CheckpointError
from rag.glm.config import (
    DTYPES,
    Dtype,
    GlmShape,
    native_config,
    official_config,
    read_json,
    read_native,
    read_official,
)
from rag.glm.folder import MANIFEST, new_folder, write_json, write_manifest
from rag.glm.keys import DROPPED, PREFIX_KEYS, SCALE_SUFFIX, Entry, table
from rag.glm.quantized import dequantize, unpack
from rag.glm.saved_tokenizer import save_tokenizer
from rag.glm.shards import SHARD_BYTES, ShardWriter
from rag.glm.tokenizer import (
    CHATGLM3_PIECES,
    CHATGLM3_VOCABULARY,
    TOKENIZER_FILE,
    ChatGLM3Tokenizer,
    load_tokenizer,
)
from rag.glm.weights import Weights, file_hashes, open_weights
from rag.terminal import Advance, Progress

SAMPLING = {"do_sample": True, "temperature": 0.8, "top_p": 0.8}
"""The official demo's defaults, written to generation_config.json."""


@dataclass(frozen=True, slots=True)
class Written:
    """What a conversion or export wrote.

    Attributes:
        folder: Where.
        parameters: Of the model.
        dtype: Of its weights.
        files: Names of the weight files.
        dequantized: Bits of the quantised source, else 0.
        tokenizer: Whether the source had a tokenizer, and the result has.
    """

    folder: Path
    parameters: int
    dtype: Dtype
    files: tuple[str, ...]
    dequantized: int
    tokenizer: bool


@dataclass(frozen=True, slots=True)
class Official:
    """An official checkpoint, looked through and found complete. Open it with `open_official`."""

    folder: Path
    shape: GlmShape
    weights: Weights
    tokenizer: ChatGLM3Tokenizer | None

    @property
    def dtype(self) -> Dtype:
        """What the weights are stored as, or what the config says of quantised ones.

        float32 for a mixture, which loses nothing.
        """
        if self.shape.bits:
            return self.shape.dtype
        stored = {self.weights.tensors[entry.name].dtype for entry in table(self.shape)}
        return next((dtype for dtype in DTYPES if stored == {dtype}), "float32")

    @property
    def stop_ids(self) -> list[int]:
        """Ids that end an answer."""
        return self.tokenizer.stop_ids if self.tokenizer else self.shape.stop_ids


def open_official(folder: Path) -> Official:
    """Look through a folder in the official layout: config, tokenizer, every tensor's shape.

    Args:
        folder: With config.json, weights and usually tokenizer.model.

    Raises:
        CheckpointError: If it is another model, incomplete, damaged, holds code, has a tensor
            that is unknown, missing or of another shape, or a vocabulary of another size.
    """
    shape = read_official(read_json(folder / "config.json"), folder)
    if shape.prefix_tokens:
        raise CheckpointError(
            f"{folder} is a P-Tuning checkpoint (pre_seq_len {shape.prefix_tokens}), not a model.",
            do="Use `youju glm adapt` with the model it was trained on.",
        )
    tokenizer = load_tokenizer(folder) if (folder / TOKENIZER_FILE).is_file() else None
    if tokenizer:
        _check_vocabulary(folder, shape, len(tokenizer.pieces), tokenizer.size)
    weights = open_weights(folder)
    check_tensors(folder, shape, weights)
    return Official(folder, shape, weights, tokenizer)


def check_tensors(folder: Path, shape: GlmShape, weights: Weights) -> None:
    """Refuse a checkpoint that lacks a tensor, has one too many, or one of another shape."""
    entries = table(shape)
    left = dict(weights.tensors)
    for entry in entries:
        info = left.pop(entry.name, None)
        if info is None:
            raise CheckpointError(
                f"{folder} lacks the tensor {entry.name}.",
                do="Copy the model's folder again, completely.",
            )
        quantized = shape.bits and entry.quantisable
        expected = entry.shape
        if quantized:
            expected = (entry.shape[0], entry.shape[1] * shape.bits // 8)
            scale = left.pop(entry.name + SCALE_SUFFIX, None)
            if scale is None or scale.shape != entry.shape[:1] or scale.dtype not in DTYPES:
                raise CheckpointError(
                    f"{folder} says quantization_bit = {shape.bits}, but {entry.name} lacks its "
                    "scales.",
                    do="Set quantization_bit to 0 if the weights are not quantised.",
                )
        if info.shape != expected:
            raise CheckpointError(
                f"{entry.name} in {folder} has shape {list(info.shape)}; the config asks for "
                f"{list(expected)}.",
                do="Config and weights are not of one model; copy the folder again.",
            )
        if info.dtype not in (("int8",) if quantized else DTYPES):
            raise CheckpointError(
                f"{entry.name} in {folder} is stored as {info.dtype}.",
                do="Expected " + ("int8." if quantized else f"one of {', '.join(DTYPES)}."),
            )
    left.pop(DROPPED, None)
    if left:
        name = min(left)
        what = "of a P-Tuning prefix" if name.startswith(PREFIX_KEYS) else "unknown"
        raise CheckpointError(
            f"{folder} holds the {what} tensor {name}.".replace("the of a", "a tensor of a"),
            do="Expected the tensors of ChatGLM3 and no others.",
        )


def native_tensors(
    official: Official, dtype: Dtype | None, progress: Callable[[int, int], None] | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every native tensor, in order of the table; one official tensor is read at a time.

    Args:
        official: As `open_official` found it.
        dtype: To convert to; None leaves each tensor as it is stored, and makes numbers of the
            config's dtype from quantised ones.
        progress: Called with (official tensors done, all) after each.

    Yields:
        (native name, tensor); without conversion it may be mapped from the source file.
    """
    entries = table(official.shape)
    for number, entry in enumerate(entries, start=1):
        tensor = _read(official, entry, dtype)
        for part in entry.parts:
            yield part.name, tensor[part.start : part.stop]
        if progress:
            progress(number, len(entries))


def _read(official: Official, entry: Entry, dtype: Dtype | None) -> torch.Tensor:
    tensor = official.weights.read(entry.name)
    if official.shape.bits and entry.quantisable:
        scale = official.weights.read(entry.name + SCALE_SUFFIX)
        numbers = unpack(tensor) if official.shape.bits == 4 else tensor
        return dequantize(numbers, scale, getattr(torch, dtype or official.dtype))
    return tensor.to(getattr(torch, dtype)) if dtype else tensor


def convert(
    source: Path,
    target: Path,
    *,
    dtype: Dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    progress: Advance | None = None,
) -> Written:
    """Write a native folder that plain transformers loads, from one in the official layout.

    Args:
        source: The official folder; it is not changed.
        target: A new folder; it appears when it is complete.
        dtype: Of the weights; None keeps what is stored, bit for bit.
        shard_bytes: Most bytes of one weight file, unless a single tensor is larger.
        progress: Told after each tensor.

    Raises:
        CheckpointError: If the source is not a complete ChatGLM3; see `open_official`.
        PathError: If the target is there already.
        StorageError: If it cannot be written.
    """
    official = open_official(source)
    shape = official.shape
    written_dtype = dtype or official.dtype
    needed = shape.parameters * getattr(torch, written_dtype).itemsize
    with new_folder(target, needed) as folder:
        writer = ShardWriter(folder, shard_bytes)
        kept = written_dtype if shape.bits else dtype
        for name, tensor in native_tensors(official, kept, _told(progress)):
            writer.add(name, tensor)
        files = writer.close()
        official.weights.close()
        config = native_config(shape, stop_ids=official.stop_ids, dtype=written_dtype)
        write_json(folder / "config.json", config)
        generation = {"pad_token_id": 0, "eos_token_id": official.stop_ids, **SAMPLING}
        write_json(folder / "generation_config.json", generation)
        if official.tokenizer:
            save_tokenizer(official.tokenizer, source, folder, context=shape.context)
        write_manifest(
            folder,
            "convert",
            sources=file_hashes([*official.weights.files, *_small_files(source)]),
            name=shape.name or source.resolve().name,
            dtype=dtype,
            official_config=read_json(source / "config.json"),
        )
    return Written(
        target,
        shape.parameters,
        written_dtype,
        tuple(path.name for path in files),
        shape.bits,
        official.tokenizer is not None,
    )


def export(
    source: Path,
    target: Path,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Advance | None = None,
) -> Written:
    """Write the official layout from a native folder; the tensors are the same, bit for bit.

    The official code itself is not part of it: its .py files come from the official repository.

    Args:
        source: A native folder.
        target: A new folder; it appears when it is complete.
        shard_bytes: Most bytes of one weight file, unless a single tensor is larger.
        progress: Told after each tensor.

    Raises:
        CheckpointError: If the source is not a complete native ChatGLM3.
        PathError: If the target is there already.
        StorageError: If it cannot be written.
    """
    shape, weights = open_native(source)
    entries = table(shape)
    dtype: Any = weights.tensors["model.embed_tokens.weight"].dtype
    config = official_config(shape, dtype)
    manifest = read_json(source / MANIFEST) if (source / MANIFEST).is_file() else {}
    kept = manifest.get("official_config")
    if isinstance(kept, dict) and _same_model(kept, shape, source):
        config = {k: v for k, v in kept.items() if k != "quantization_bit"} | {"torch_dtype": dtype}
    told = _told(progress)
    with new_folder(target, weights.nbytes) as folder:
        writer = ShardWriter(folder, shard_bytes)
        for number, entry in enumerate(entries, start=1):
            parts = [weights.read(part.name) for part in entry.parts]
            writer.add(entry.name, torch.cat(parts) if len(parts) > 1 else parts[0])
            told(number, len(entries))
        writer.add(DROPPED, rotary_frequencies(shape, getattr(torch, dtype)))
        files = writer.close()
        weights.close()
        write_json(folder / "config.json", config)
        tokenizer = (source / TOKENIZER_FILE).is_file()
        if tokenizer:
            (folder / TOKENIZER_FILE).write_bytes((source / TOKENIZER_FILE).read_bytes())
            classes = ["tokenization_chatglm.ChatGLMTokenizer", None]
            settings = {
                "name_or_path": config.get("_name_or_path", ""),
                "remove_space": False,
                "do_lower_case": False,
                "tokenizer_class": "ChatGLMTokenizer",
                "auto_map": {"AutoTokenizer": classes},
            }
            write_json(folder / "tokenizer_config.json", settings)
        write_manifest(folder, "export", sources=file_hashes(weights.files))
    names = tuple(path.name for path in files)
    return Written(target, shape.parameters, dtype, names, 0, tokenizer)


def open_native(folder: Path) -> tuple[GlmShape, Weights]:
    """Look through a native folder; every tensor of the table and no other must be there.

    Raises:
        CheckpointError: If it is another model, incomplete, damaged or holds code.
    """
    shape = read_native(read_json(folder / "config.json"), folder)
    weights = open_weights(folder)
    expected = {
        part.name: (part.stop - part.start, *entry.shape[1:])
        for entry in table(shape)
        for part in entry.parts
    }
    for name, size in expected.items():
        info = weights.tensors.get(name)
        if info is None or info.shape != size or info.dtype not in DTYPES:
            found = f"{info.dtype} {list(info.shape)}" if info else "nothing"
            raise CheckpointError(
                f"{folder} holds {found} as {name}; expected {list(size)}.",
                do="Convert the official checkpoint again.",
            )
    if unknown := sorted(weights.tensors.keys() - expected.keys()):
        raise CheckpointError(
            f"{folder} holds the unknown tensor {unknown[0]}.",
            do="Convert the official checkpoint again.",
        )
    return shape, weights


def rotary_frequencies(shape: GlmShape, dtype: torch.dtype) -> torch.Tensor:
    """Return the tensor the official code stores and does not use, as it would make it."""
    half = shape.head_dim // 2
    exponents = torch.arange(0, half, 2).to(dtype) / half
    frequencies: torch.Tensor = 1.0 / (10_000**exponents)
    return frequencies


def _same_model(config: dict[str, Any], shape: GlmShape, where: Path) -> bool:
    try:
        kept = read_official(config, where)
    except CheckpointError:
        return False
    return table(kept) == table(shape) and kept.rope_ratio == shape.rope_ratio


def _check_vocabulary(folder: Path, shape: GlmShape, pieces: int, ids: int) -> None:
    official = (pieces == CHATGLM3_PIECES, shape.vocabulary == CHATGLM3_VOCABULARY)
    if ids > shape.vocabulary or official[0] != official[1]:
        raise CheckpointError(
            f"{folder} has a tokenizer of {pieces:,} pieces and a model of {shape.vocabulary:,} "
            f"rows; ChatGLM3 has {CHATGLM3_PIECES:,} and {CHATGLM3_VOCABULARY:,}.",
            do="Copy tokenizer.model and config.json from the same repository.",
        )


def _small_files(folder: Path) -> list[Path]:
    names = ("config.json", TOKENIZER_FILE)
    return [folder / name for name in names if (folder / name).is_file()]


def _told(progress: Advance | None) -> Callable[[int, int], None]:
    def tell(done: int, total: int) -> None:
        if progress:
            progress(Progress(done, total))

    return tell
