"""Lets one sync of a folder into a store run at a time, on this machine.

The lock is the operating system's: it ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ingest.discover import printable
from rag.errors import SyncRunning
from rag.store.database import disk_error


@contextmanager
def folder_lock(locks: Path, store: str, root: Path) -> Iterator[None]:
    """Hold the lock of a folder and a store.

    Args:
        locks: Where the lock files are; made if missing.
        store: The store's name.
        root: The folder, resolved.

    Raises:
        SyncRunning: If another process, or thread, holds it.
        StorageError: If the lock file cannot be made.
    """
    key = hashlib.sha256(f"{store}\0".encode() + os.fsencode(root)).hexdigest()[:32]
    owner = locks / f"sync-{key}.owner"
    lock = FileLock(locks / f"sync-{key}.lock", timeout=0)
    try:
        locks.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise SyncRunning(
            f"Another sync of {printable(str(root))} into store {store!r} is running{_who(owner)}.",
            do="Wait until it has ended, or end it.",
        ) from None
    except OSError as error:
        raise disk_error(error, locks) from error
    try:
        with contextlib.suppress(OSError):  # it only serves the message above
            owner.write_text(str(os.getpid()))
        yield
    finally:
        with contextlib.suppress(OSError):
            owner.unlink()
        lock.release()


def _who(owner: Path) -> str:
    try:
        return f" (process {int(owner.read_text()[:20])})"
    except (OSError, ValueError):
        return ""
