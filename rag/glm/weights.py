"""Reads the tensors of a model folder one at a time: safetensors, or PyTorch files without code.

It knows files, not models: which tensors there should be is keys.py's and source.py's business.
Files are mapped, and mapped anew after each 64 MiB read from them, so that what was read no longer
counts as memory of the process.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from rag.errors import CheckpointError
from rag.glm.config import read_json
from rag.glm.folder import LFS_POINTER, lfs_pointer, unreadable

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLE = ("model.safetensors", "pytorch_model.bin")
_PLAIN_NAME = re.compile(r"[\w][\w.\- ]*\.(safetensors|bin|pt)", re.ASCII)
_REMAP_BYTES = 2**26
_TORN = (
    RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError,
    AssertionError, struct.error, ArithmeticError, MemoryError,
)  # fmt: skip
"""What torch.load raises for bytes that were changed or are missing."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor is and what it is like.

    Attributes:
        file: Its file.
        shape: Its shape.
        dtype: Its type, as PyTorch calls it: "float16", "int8", ...
    """

    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        count = 1
        for size in self.shape:
            count *= size
        width: int = getattr(torch, self.dtype).itemsize
        return count * width


class Weights:
    """The tensors of a folder. Open it with `open_weights`.

    Attributes:
        files: The weight files, in the order of their names.
        tensors: Name of a tensor -> where it is and what it is like.
    """

    def __init__(self, files: list[Path], tensors: Mapping[str, TensorInfo]) -> None:
        self.files = files
        self.tensors = tensors
        self._mapped: tuple[Path, Mapping[str, torch.Tensor] | None] = (Path(), None)
        self._read = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.tensors.values())

    def read(self, name: str) -> torch.Tensor:
        """Return a tensor; it stays mapped from its file, so copy what is to be kept or changed.

        Raises:
            CheckpointError: If its file cannot be read any more.
            KeyError: If there is none of that name.
        """
        info = self.tensors[name]
        if info.file.suffix == ".safetensors":
            with _reading(info.file), safe_open(info.file, framework="pt") as file:
                return file.get_tensor(name)
        file_, content = self._mapped
        if content is None or file_ != info.file or self._read >= _REMAP_BYTES:
            self._mapped, self._read = (Path(), None), 0
            content = load_pickle(info.file)
            self._mapped = (info.file, content)
        self._read += info.nbytes
        return content[name].detach()

    def close(self) -> None:
        """Let go of the file that is mapped."""
        self._mapped = (Path(), None)


def open_weights(folder: Path) -> Weights:
    """Look through the weight files of a folder: safetensors if there are any, else PyTorch's.

    Args:
        folder: With an index and its shards, or a single file.

    Raises:
        CheckpointError: If there are no weights, a shard is missing, cut off, holds code, or
            does not hold what the index says.
    """
    for index_name, single in zip(_INDEXES, _SINGLE, strict=True):
        if (folder / index_name).is_file():
            return _sharded(folder, index_name)
        if (folder / single).is_file():
            path = folder / single
            return Weights([path], _contents(path))
    raise CheckpointError(
        f"{folder} holds no weights: none of {', '.join((*_SINGLE, *_INDEXES))}.",
        do="Copy the model's folder again, completely.",
    )


def weight_file(folder: Path, names: Sequence[str]) -> Weights:
    """Look through the first of some files that is there.

    Raises:
        CheckpointError: If none is there, or it is damaged or holds code.
    """
    for name in names:
        if (folder / name).is_file():
            return Weights([folder / name], _contents(folder / name))
    raise CheckpointError(
        f"{folder} holds none of {', '.join(names)}.", do="Copy the folder again, completely."
    )


def file_hashes(files: list[Path]) -> dict[str, str]:
    """Return the SHA-256 of each file by its name."""
    hashes = {}
    for path in files:
        with path.open("rb") as handle:
            hashes[path.name] = hashlib.file_digest(handle, "sha256").hexdigest()
    return hashes


def load_pickle(path: Path) -> Mapping[str, torch.Tensor]:
    """Map a PyTorch file of tensors; nothing in it is executed.

    Raises:
        CheckpointError: If it holds anything but named tensors, code above all, or is damaged.
    """
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            content = torch.load(path, map_location="cpu", weights_only=True)  # an older format
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is refused: it is no plain file of tensors, and may hold code.",
            do="Get the weights as safetensors, from a source you trust.",
        ) from error
    except _TORN as error:
        raise CheckpointError(
            f"{path} is damaged or cut off.", do="Copy the file again, and compare its size."
        ) from error
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and _is_plain(value) for name, value in content.items()
    ):
        raise CheckpointError(
            f"{path} holds something else than named tensors.",
            do="Expected a file of weights, not a training state.",
        )
    return content


def _is_plain(value: Any) -> bool:  # noqa: ANN401
    if not isinstance(value, torch.Tensor):
        return False
    return bool(value.layout == torch.strided and value.device.type == "cpu")


def _sharded(folder: Path, index_name: str) -> Weights:
    listed = read_json(folder / index_name).get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(f, str) for f in listed.values()):
        raise CheckpointError(
            f"{folder / index_name} has no weight_map.", do="Copy the model's folder again."
        )
    names = sorted(set(listed.values()))
    for name in names:
        if not _PLAIN_NAME.fullmatch(name):
            raise CheckpointError(
                f"{index_name} names the file {name!r:.100}, which is no weight file beside it.",
                do="Get the folder from a source you trust.",
            )
        if not (folder / name).is_file():
            raise CheckpointError(
                f"{folder} lacks the shard {name}, one of {len(names)}.",
                do="Copy the missing file; downloads are often cut short.",
            )
    found: dict[str, TensorInfo] = {}
    for name in names:
        for key, info in _contents(folder / name).items():
            if listed.get(key) != name:
                where = listed.get(key, "nowhere")
                raise CheckpointError(
                    f"{name} holds {key}, which the index puts {where}.",
                    do="The shards are not of one model; copy the folder again.",
                )
            found[key] = info
    if missing := sorted(listed.keys() - found.keys()):
        raise CheckpointError(
            f"{listed[missing[0]]} does not hold {missing[0]}, as the index says.",
            do="The shards are not of one model; copy the folder again.",
        )
    return Weights([folder / name for name in names], found)


def _contents(path: Path) -> dict[str, TensorInfo]:
    try:
        with path.open("rb") as file:
            begins = file.read(len(LFS_POINTER))
    except OSError as error:
        raise unreadable(path, error) from error
    if begins == LFS_POINTER:
        raise lfs_pointer(path)
    if path.suffix == ".safetensors":
        with _reading(path), safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            return {
                name: TensorInfo(
                    path, tuple(part.get_shape()), _DTYPES.get(part.get_dtype(), part.get_dtype())
                )
                for name, part in slices.items()
            }
    return {
        name: TensorInfo(path, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
        for name, tensor in load_pickle(path).items()
    }


_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what safetensors raises for a damaged file into a CheckpointError."""
    try:
        yield
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut off ({error}).",
            do="Copy the file again, and compare its size.",
        ) from error
