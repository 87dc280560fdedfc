"""Keeps the indexes of a store in step with its change log.

An index is a cache. `DenseFollower` holds vectors in memory and saves snapshots (one safetensors
file, written aside, fsynced and renamed); `LexicalFollower` drives an index that keeps itself on
disk. Both rebuild from the store whatever is missing, torn, of an older format or of another
embedder, and both may be used by any number of processes and threads at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rag.index.dense import FaissIndex
from rag.protocols import LexicalIndex
from rag.schema import FloatArray, IntArray
from rag.store.corpus import Store
from rag.store.database import disk_error

SNAPSHOT_FORMAT = "1"
_TEXTS_AT_ONCE = 5000
_ABANDONED_S = 3600.0


class DenseFollower:
    """Follows a store's log with a FAISS index.

    Args:
        store: The truth.
        folder: Where the snapshot lives; made when the first one is saved.
        make_index: Makes an empty index.
    """

    def __init__(self, store: Store, folder: Path, make_index: Callable[[], FaissIndex]) -> None:
        self._store = store
        self._path = folder / "dense.safetensors"
        self._make = make_index
        self._lock = threading.Lock()
        self._index: FaissIndex | None = None
        self._seq = 0
        self._saved_seq = 0

    def refresh(self) -> FaissIndex:
        """Return the index, up to date with the log as it is now.

        Raises:
            UnknownStore: If the store has been deleted.
            StorageError: If the database cannot be read.
        """
        with self._lock:
            return self._refreshed()

    def save(self) -> None:
        """Write a snapshot if the index has moved on since the last one.

        Raises:
            StorageError: If it cannot be written (disk full, no permission); the old one stays.
        """
        with self._lock:
            index = self._refreshed()
            if self._seq == self._saved_seq and self._path.exists():
                return
            _save_snapshot(self._path, self._label(), self._seq, *index.contents())
            self._saved_seq = self._seq

    def purge(self) -> None:
        """Save anew if there is a snapshot and it may hold vectors that were removed since.

        Raises:
            StorageError: If it cannot be written.
        """
        if self._path.exists() and _snapshot_seq(self._path) != self._store.seq():
            self.save()

    def _refreshed(self) -> FaissIndex:
        if self._index is None:
            self._index = self._make()
            snapshot = _load_snapshot(self._path, self._label())
            if snapshot is not None:
                ids, vectors, self._seq = snapshot
                self._index.add(ids, vectors)
                self._saved_seq = self._seq
        if self._store.seq() != self._seq:
            delta = self._store.delta(self._seq)
            if delta.whole and len(self._index):
                self._index = self._make()
            # A refresh that broke off half-way has added some already: those come again.
            self._index.remove(np.array(delta.removed + delta.added, np.int64))
            for ids, vectors in self._store.vectors(delta.added):
                self._index.add(ids, vectors)
            self._seq = delta.seq
        return self._index

    def _label(self) -> dict[str, str]:
        return {
            "format": SNAPSHOT_FORMAT,
            "store": self._store.id,
            "embedder": self._store.embedder,
        }


class LexicalFollower:
    """Follows a store's log with an index that keeps its own files.

    Args:
        store: The truth.
        index: Opened, possibly behind or empty.
    """

    def __init__(self, store: Store, index: LexicalIndex) -> None:
        self._store = store
        self._index = index

    def refresh(self) -> LexicalIndex:
        """Return the index, up to date with the log as it is now.

        Raises:
            UnknownStore: If the store has been deleted.
            StorageError: If the database or the index folder cannot be used.
        """
        if self._store.seq() != self._index.seq:
            with self._index.exclusive():  # an older delta must not be applied after a newer one
                self._catch_up()
        return self._index

    def _catch_up(self) -> None:
        begin = self._index.seq
        delta = self._store.delta(begin)
        if delta.seq == begin:  # another one did it while this one waited
            return
        if delta.whole and (begin or len(self._index)):
            # Also at 0: a first build that broke off may have left chunks that are gone since.
            self._index.reset()
            begin = 0
        waiting: list[tuple[int, str]] = []
        removed = delta.removed
        for texts in self._store.texts(delta.added):
            waiting += texts
            if len(waiting) >= _TEXTS_AT_ONCE:
                # The old number stays until the end: a crash in between repeats the whole delta.
                self._index.apply(waiting, removed, begin)
                waiting, removed = [], []
        self._index.apply(waiting, removed, delta.seq)


def _load_snapshot(path: Path, label: dict[str, str]) -> tuple[IntArray, FloatArray, int] | None:
    """Read a snapshot; None if it is missing, torn, or not of this store and format."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as found:
            meta = found.metadata() or {}
            if any(meta.get(key) != value for key, value in label.items()):
                return None
            ids, vectors = found.get_tensor("ids"), found.get_tensor("vectors")
    except (OSError, SafetensorError):
        return None
    if meta.get("digest") != _digest(meta.get("seq", ""), ids, vectors):
        return None
    return ids, vectors.astype(np.float32), int(meta["seq"])


def _snapshot_seq(path: Path) -> int | None:
    """Return the number that a snapshot says it is of; None if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as found:
            return int((found.metadata() or {}).get("seq", "-1"))
    except (OSError, SafetensorError, ValueError):
        return None


def _save_snapshot(
    path: Path, label: dict[str, str], seq: int, ids: IntArray, vectors: FloatArray
) -> None:
    from safetensors.numpy import save

    half = vectors.astype(np.float16)
    meta = label | {"seq": str(seq), "digest": _digest(str(seq), ids, half)}
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as handle:
            handle.write(save({"ids": ids, "vectors": half}, metadata=meta))
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise disk_error(error, path) from error
    for left in path.parent.glob(f"{path.name}.*"):  # by processes killed while saving
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _ABANDONED_S:
                left.unlink()


def _digest(seq: str, *arrays: NDArray[np.generic]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    shapes = [[str(array.dtype), *array.shape] for array in arrays]
    digest.update(json.dumps([seq, shapes]).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
