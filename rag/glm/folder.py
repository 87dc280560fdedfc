"""Writes a model folder so that it is there complete, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from rag.errors import PathError, StorageError

MANIFEST = "youju_glm.json"
"""Beside a model that was written here: what it was made from, how, and with which versions."""


@contextmanager
def new_folder(target: Path, needed: int = 0) -> Iterator[Path]:
    """Yield an empty folder that takes the name `target` when the block ends without an error.

    Args:
        target: Must not exist, or be an empty folder.
        needed: Bytes that will be written; checked against the free space at once.

    Raises:
        PathError: If `target` is a file or holds something.
        StorageError: If the disk is full or not writable.
    """
    target = target.expanduser().absolute()
    if target.is_symlink() or target.is_file():
        raise PathError(f"{target} is there already, and is no folder.", do="Name a new folder.")
    try:
        if target.is_dir() and any(target.iterdir()):
            raise PathError(f"The folder {target} is not empty.", do="Name a new folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < needed:
            raise StorageError(
                f"{target.parent} has {free:,} bytes free; {needed:,} are needed.",
                do="Make room, or write elsewhere.",
            )
        work = target.parent / f".{target.name}.{uuid4().hex[:8]}.partial"
        work.mkdir()
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        yield work
        _sync(work)
        work.rename(target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object as indented JSON, UTF-8."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_manifest(
    folder: Path, action: str, *, sources: Mapping[str, str], **facts: object
) -> None:
    """Write the manifest of a folder.

    Args:
        folder: Where the rest was written.
        action: The verb: "convert", "export", "adapt" or "merge".
        sources: SHA-256 of each file that was read, by name.
        facts: Arguments and whatever else tells how it was made.
    """
    versions = {name: version(name) for name in ("youju", "torch", "transformers", "safetensors")}
    write_json(
        folder / MANIFEST,
        {"format": 1, "action": action, **facts, "sources": dict(sources), "versions": versions},
    )


def _unwritable(target: Path, error: OSError) -> StorageError:
    return StorageError(
        f"Cannot write {target}: {error.strerror or error}.",
        do="Make room there, or name a folder that can be written.",
    )


def _sync(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
