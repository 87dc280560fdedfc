"""A ChatGLM3 folder, looked through before a weight is used: the official layout or the native one.

Strict: every tensor the model needs is there with its exact shape and type, and no other. `tensors`
is the one place where official weights become native ones; converting writes what it yields,
loading puts it into a model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from rag.errors import CheckpointError
from rag.glm.adapters import ADAPTER_CONFIG, model_name
from rag.glm.config import (
    DTYPES,
    QUANTIZED_TYPE,
    Dtype,
    GlmShape,
    family,
    read_json,
    read_native,
    read_official,
)
from rag.glm.folder import require_folder
from rag.glm.keys import DROPPED, PREFIX_KEYS, SCALE_SUFFIX, Entry, packed_bits, table
from rag.glm.packing import Packed, from_official, group_count
from rag.glm.tokenizer import (
    CHATGLM3_PIECES,
    CHATGLM3_VOCABULARY,
    TOKENIZER_FILE,
    ChatGLM3Tokenizer,
    load_tokenizer,
)
from rag.glm.weights import TensorInfo, Weights, open_weights

Told = Callable[[int, int], None]
"""Called with (tensors done, all)."""


@dataclass(frozen=True, slots=True)
class Source:
    """A complete model folder. Open it with `open_source`.

    Attributes:
        folder: Where it is.
        layout: "official" or "native".
        name: Under which it was published, as far as it says; else the folder's name.
        shape: Sizes of the model.
        weights: Its tensors.
        tokenizer: None if there is no tokenizer.model.
    """

    folder: Path
    layout: Literal["official", "native"]
    name: str
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
        stored = {info.dtype for name, info in self.weights.tensors.items() if name != DROPPED}
        return next((dtype for dtype in DTYPES if stored == {dtype}), "float32")

    @property
    def exact(self) -> Dtype | None:
        """What `tensors` takes to round nothing: None, but float32 for quantised ones."""
        return "float32" if self.shape.bits else None

    @property
    def stop_ids(self) -> list[int]:
        """Ids that end an answer."""
        return self.tokenizer.stop_ids if self.tokenizer else self.shape.stop_ids

    def tensors(
        self, dtype: Dtype | None = None, told: Told | None = None, *, copied: bool = False
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every native tensor, in order of the table; one official tensor is read at a time.

        Args:
            dtype: To convert to; None leaves each tensor as it is stored, and makes numbers of the
                config's dtype from quantised ones.
            told: Called after each official tensor.
            copied: Whether each tensor must have memory of its own, free of the file and of the
                other parts of an official tensor.

        Yields:
            (native name, tensor).
        """
        kept = getattr(torch, dtype or self.dtype)
        for name, value, shared in self._walk(dtype, told):
            if isinstance(value, Packed):
                yield name, value.weight(kept)
            else:
                yield name, value.clone() if copied and shared else value

    def packed(
        self, dtype: Dtype | None = None, told: Told | None = None
    ) -> Iterator[tuple[str, torch.Tensor | Packed]]:
        """Yield as `tensors` does with `copied`, but quantised weights as they are."""
        for name, value, shared in self._walk(dtype, told):
            if isinstance(value, Packed) or not shared:
                yield name, value
            else:
                yield name, value.clone()

    def _walk(
        self, dtype: Dtype | None, told: Told | None
    ) -> Iterator[tuple[str, torch.Tensor | Packed, bool]]:
        """Yield every native tensor, and whether its memory is not its own alone."""
        entries = table(self.shape)
        for number, entry in enumerate(entries, start=1):
            yield from (self._native if self.layout == "native" else self._official)(entry, dtype)
            if told:
                told(number, len(entries))
        self.weights.close()

    def _native(
        self, entry: Entry, dtype: Dtype | None
    ) -> Iterator[tuple[str, torch.Tensor | Packed, bool]]:
        for part in entry.parts:
            stored = self.weights.read(part.name)
            if packed_bits(entry, self.shape.bits):
                scale = self.weights.read(part.name + SCALE_SUFFIX)
                yield part.name, Packed(stored, scale), True
            else:
                tensor = _cast(stored, dtype)
                yield part.name, tensor, tensor is stored

    def _official(
        self, entry: Entry, dtype: Dtype | None
    ) -> Iterator[tuple[str, torch.Tensor | Packed, bool]]:
        stored = self.weights.read(entry.name)
        if self.shape.bits and entry.quantisable:
            scale = self.weights.read(entry.name + SCALE_SUFFIX)
            whole = from_official(stored, scale, self.shape.bits)
            for part in entry.parts:
                rows = slice(part.start, part.stop)
                yield part.name, Packed(whole.numbers[rows], whole.scale[rows]), True
            return
        tensor = _cast(stored, dtype)
        shared = tensor is stored or len(entry.parts) > 1
        for part in entry.parts:
            yield part.name, tensor[part.start : part.stop], shared


def open_source(folder: Path) -> Source:
    """Look through a model folder of either layout.

    Args:
        folder: With config.json, weights and usually tokenizer.model.

    Raises:
        CheckpointError: If it is another model, incomplete, damaged, holds code, has a tensor
            that is unknown, missing or of another shape, or a vocabulary of another size.
    """
    if family(_config(folder)) == "native GLM":
        return open_native(folder)
    return open_official(folder)


def open_official(folder: Path) -> Source:
    """Look through a folder in the official layout; see `open_source`."""
    config = _config(folder)
    if config.get("model_type") == QUANTIZED_TYPE:
        raise CheckpointError(
            f"{folder} was quantised by `youju glm quantize`, which cannot be undone.",
            do="Convert the official folder it was made of; this one can be loaded as it is.",
        )
    if family(config) == "native GLM":
        raise CheckpointError(
            f"{folder} is converted already.",
            do="It can be loaded as it is; `youju glm export` makes an official folder of it.",
        )
    shape = read_official(config, folder)
    if shape.prefix_tokens:
        raise CheckpointError(
            f"{folder} is a P-Tuning checkpoint (pre_seq_len {shape.prefix_tokens}), not a model.",
            do="Use `youju glm adapt` with the model it was trained on.",
        )
    tokenizer = _tokenizer(folder, shape)
    weights = open_weights(folder)
    _check_official(folder, shape, weights)
    return Source(folder, "official", model_name(folder), shape, weights, tokenizer)


def open_native(folder: Path) -> Source:
    """Look through a folder in the native layout; see `open_source`."""
    config = _config(folder)
    if family(config) == "ChatGLM3":
        raise CheckpointError(
            f"{folder} is in the official layout already.",
            do="Expected a folder that `youju glm convert` wrote.",
        )
    shape = read_native(config, folder)
    tokenizer = _tokenizer(folder, shape)
    weights = open_weights(folder)
    left = dict(weights.tensors)
    for entry in table(shape):
        bits = packed_bits(entry, shape.bits)
        for part in entry.parts:
            info = left.pop(part.name, None)
            rows, columns = part.stop - part.start, entry.shape[1:]
            if not bits:
                _require(folder, part.name, info, (rows, *columns), DTYPES)
                continue
            kind = "int8" if bits == 8 else "uint8"
            _require(folder, part.name, info, (rows, columns[0] * bits // 8), (kind,))
            groups = group_count(columns[0], 8 if bits == 8 else 4)
            scale = part.name + SCALE_SUFFIX
            _require(folder, scale, left.pop(scale, None), (rows, groups), ("float16",))
    if left:
        raise _unknown(folder, min(left))
    return Source(folder, "native", model_name(folder), shape, weights, tokenizer)


def _config(folder: Path) -> dict[str, Any]:
    require_folder(folder, "model folder")
    if (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"{folder} holds an adapter, not a model.",
            do="Use `youju glm adapt` or `merge` with the model it was trained on.",
        )
    return read_json(folder / "config.json")


def _check_official(folder: Path, shape: GlmShape, weights: Weights) -> None:
    left = dict(weights.tensors)
    for entry in table(shape):
        info = left.pop(entry.name, None)
        if not (shape.bits and entry.quantisable):
            _require(folder, entry.name, info, entry.shape, DTYPES)
            continue
        rows, columns = entry.shape
        scale = entry.name + SCALE_SUFFIX
        if info is not None and scale not in left:
            raise CheckpointError(
                f"{folder} says quantization_bit = {shape.bits}, but {entry.name} has no scales.",
                do="Set quantization_bit to 0 if the weights are not quantised.",
            )
        _require(folder, entry.name, info, (rows, columns * shape.bits // 8), ("int8",))
        _require(folder, scale, left.pop(scale, None), (rows,), DTYPES)
    left.pop(DROPPED, None)
    if left:
        raise _unknown(folder, min(left))


def _require(
    folder: Path,
    name: str,
    info: TensorInfo | None,
    size: tuple[int, ...],
    dtypes: tuple[str, ...],
) -> None:
    if info is None:
        raise CheckpointError(
            f"{folder} lacks the tensor {name}.", do="Copy the model's folder again, completely."
        )
    if info.shape != size:
        raise CheckpointError(
            f"{name} in {folder} has shape {list(info.shape)}; the config asks for {list(size)}.",
            do="Config and weights are not of one model; copy the folder again.",
        )
    if info.dtype not in dtypes:
        raise CheckpointError(
            f"{name} in {folder} is stored as {info.dtype}.",
            do=f"Expected {' or '.join(dtypes)}; see quantization_bit in config.json.",
        )


def _unknown(folder: Path, name: str) -> CheckpointError:
    if name.startswith(PREFIX_KEYS):
        return CheckpointError(
            f"{folder} holds a tensor of a P-Tuning prefix, {name}, but no pre_seq_len.",
            do="Add pre_seq_len to its config.json and use `youju glm adapt`.",
        )
    return CheckpointError(
        f"{folder} holds the unknown tensor {name}.",
        do="Expected the tensors of ChatGLM3 and no others.",
    )


def _tokenizer(folder: Path, shape: GlmShape) -> ChatGLM3Tokenizer | None:
    if not (folder / TOKENIZER_FILE).is_file():
        return None
    tokenizer = load_tokenizer(folder)
    pieces = len(tokenizer.pieces)
    official = (pieces == CHATGLM3_PIECES, shape.vocabulary == CHATGLM3_VOCABULARY)
    if tokenizer.size > shape.vocabulary or official[0] != official[1]:
        raise CheckpointError(
            f"{folder} has a tokenizer of {pieces:,} pieces and a model of {shape.vocabulary:,} "
            f"rows; ChatGLM3 has {CHATGLM3_PIECES:,} and {CHATGLM3_VOCABULARY:,}.",
            do="Copy tokenizer.model and config.json from the same repository.",
        )
    return tokenizer


def _cast(tensor: torch.Tensor, dtype: Dtype | None) -> torch.Tensor:
    return tensor.to(getattr(torch, dtype)) if dtype else tensor
