"""Writes tensors to safetensors files of bounded size, with the index that transformers reads."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from rag.errors import StorageError
from rag.glm.folder import write_json

LARGEST_SHARD, SMALLEST_SHARD = 2**30, 2**26
"""Bytes. No tensor of ChatGLM3-6B is larger than the first."""


def shard_size(model_bytes: int) -> int:
    """Return how large a file may become: an eighth of the model, within the bounds above.

    The open file is what a conversion holds in memory.
    """
    return min(LARGEST_SHARD, max(SMALLEST_SHARD, model_bytes // 8))


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a new safetensors file, readable for whom the umask lets read it.

    Raises:
        StorageError: If the disk is full or not writable.
    """
    try:
        path.touch()
        mode = path.stat().st_mode  # what the umask leaves; safetensors itself leaves 0600
        save_file(tensors, path, metadata={"format": "pt"})
        path.chmod(mode)
    except (SafetensorError, OSError) as error:
        raise StorageError(
            f"Cannot write {path}: {error}.", do="Make room there, or write elsewhere."
        ) from error


class ShardWriter:
    """Takes tensors in order and writes them shard by shard; call `close` at the end.

    Only the tensors of the open shard are kept in memory.
    """

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self._folder = folder
        self._limit = shard_bytes
        self._open: dict[str, torch.Tensor] = {}
        self._open_bytes = 0
        self._shards: list[list[str]] = []
        self._total = 0

    def add(self, name: str, tensor: torch.Tensor) -> None:
        """Take a tensor; it may still be mapped from another file.

        Raises:
            StorageError: If the disk is full or not writable.
        """
        size = tensor.nbytes
        if self._open and self._open_bytes + size > self._limit:
            self._flush()
        self._open[name] = tensor.contiguous()
        self._open_bytes += size
        self._total += size

    def close(self) -> list[Path]:
        """Write what is left, name the files and write the index if there are several.

        Returns:
            The files, in order.

        Raises:
            StorageError: If the disk is full or not writable.
        """
        if self._open:
            self._flush()
        count = len(self._shards)
        weight_map: dict[str, str] = {}
        files = []
        for number, names in enumerate(self._shards, start=1):
            name = f"model-{number:05}-of-{count:05}.safetensors"
            if count == 1:
                name = "model.safetensors"
            (self._folder / _unnamed(number)).rename(self._folder / name)
            files.append(self._folder / name)
            weight_map |= dict.fromkeys(names, name)
        if count > 1:
            index = {"metadata": {"total_size": self._total}, "weight_map": weight_map}
            write_json(self._folder / "model.safetensors.index.json", index)
        return files

    def _flush(self) -> None:
        self._shards.append(list(self._open))
        save_tensors(self._open, self._folder / _unnamed(len(self._shards)))
        self._open, self._open_bytes = {}, 0


def _unnamed(number: int) -> str:
    return f"part-{number}.safetensors"
