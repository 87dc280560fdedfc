"""The empty folders that parser processes run in, and clearing away what a killed parent left.

A folder is locked as long as the process that made it lives; the kernel lets go of the lock when it
dies, however it dies. A folder nobody holds is swept at the next start.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

from ingest.worker import FOLDER_PREFIX

_YOUNG_S = 30.0
"""Seconds in which a new folder may not be locked yet."""


class WorkerFolder:
    """One folder, made when this is constructed; without one where the disk is full or read-only.

    Attributes:
        path: The folder, None where it could not be made.
    """

    def __init__(self) -> None:
        self._lock: int | None = None
        try:
            self.path: str | None = tempfile.mkdtemp(prefix=FOLDER_PREFIX)
        except OSError:
            self.path = None
            return
        self._lock = _locked(self.path)

    def remove(self) -> None:
        """Remove the folder with all that is in it; can be repeated."""
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def sweep() -> int:
    """Remove the folders that killed processes of this user left behind; return how many."""
    if os.name != "posix":
        return 0
    removed = 0
    for path in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*"):
        try:
            info = path.lstat()
        except OSError:
            continue
        mine = stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid()
        if not mine or time.time() - info.st_mtime < _YOUNG_S:
            continue
        lock = _locked(str(path))
        if lock is not None:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)
            removed += 1
    return removed


def _locked(path: str) -> int | None:
    """Return a descriptor that holds the folder's lock, None where another process holds it."""
    if os.name != "posix":
        return None
    import fcntl

    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle
