"""Model folders: one to read must be there, one to write is there complete, or not at all."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from rag.errors import CheckpointError, PathError, StorageError

MANIFEST = "youju_glm.json"
"""Beside a model that was written here: what it was made from, how, and with which versions."""


STALE_S = 3600
"""Seconds without a change after which a half-written folder belongs to no run any more."""

LFS_POINTER = b"version https://git-lfs"
"""With which a file begins that Git LFS has not fetched yet."""


def lfs_pointer(path: Path) -> CheckpointError:
    """Return the error for a file of which only Git LFS's pointer is there."""
    return CheckpointError(
        f"{path} is a Git LFS pointer, not the file itself.",
        do="Run `git lfs pull` in the repository it was cloned from.",
    )


def require_folder(folder: Path, what: str = "folder") -> None:
    """Refuse what is no folder, or one that may not be read.

    Args:
        folder: A path as it was given.
        what: What it should be, for the message: "model folder", "adapter".

    Raises:
        PathError: Saying which of these it is.
    """
    try:
        mode = folder.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        name = str(folder)
        hub = (
            ""
            if folder.is_absolute() or name.count("/") != 1
            else (" Only `youju glm convert` takes a name on the hub.")
        )
        raise PathError(
            f"There is no {what} {name}.", do=f"Give the path of a folder.{hub}"
        ) from error
    except OSError as error:
        raise unreadable(folder, error) from error
    if not stat.S_ISDIR(mode):
        raise PathError(f"{folder} is a file, no {what}.", do="Give the folder it is in.")
    if not os.access(folder, os.R_OK | os.X_OK):
        raise unreadable(folder, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def unreadable(path: Path, error: OSError) -> PathError:
    """Return the error for a file or folder that is there and cannot be read."""
    return PathError(
        f"Cannot read {path}: {error.strerror or error}.",
        do="Check who may read it and the folders above it (`ls -l`).",
    )


@contextmanager
def new_folder(target: Path, needed: int = 0) -> Iterator[Path]:
    """Yield an empty folder that takes the name `target` when the block ends without an error.

    What a run that was killed left beside it more than an hour ago is removed.

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
        _remove_stale(target)
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


def _remove_stale(target: Path) -> None:
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{8}}\.partial")
    for folder in target.parent.iterdir():
        if not name.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        written = max(path.lstat().st_mtime for path in (folder, *folder.iterdir()))
        if time.time() - written > STALE_S:
            shutil.rmtree(folder, ignore_errors=True)


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
