"""Who is alive: each process that runs jobs holds a lock file in HOME/jobs as long as it lives.

The system lets go of the lock when the process ends, however it ends. So whether a process is dead
is known at once and for certain, without clocks. Processes on several machines must share the home
folder, as they must for the uploaded files.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from rag.store.database import disk_error

_SUFFIX = ".lock"


class Slot:
    """The name of a process that runs jobs, taken as long as this object holds it.

    Attributes:
        name: "worker-1" and so on: the lowest number that is free.
        run: A name that no other process has or will have.
    """

    def __init__(self, name: str, lock: FileLock) -> None:
        self.name = name
        self.run = f"{name}.{secrets.token_hex(6)}"
        self._lock = lock

    @classmethod
    def take(cls, root: Path, kind: str) -> Slot:
        """Take the lowest free number of a kind.

        Raises:
            StorageError: If the folder cannot be written.
        """
        for number in itertools.count(1):
            lock = _lock(root, f"{kind}-{number}")
            if _acquire(root, lock):
                return cls(f"{kind}-{number}", lock)
        raise AssertionError("unreachable: the numbers do not end")

    @classmethod
    def unique(cls, root: Path, kind: str) -> Slot:
        """Take a name that was never taken before.

        Raises:
            StorageError: If the folder cannot be written.
        """
        name = f"{kind}-{secrets.token_hex(6)}"
        lock = _lock(root, name)
        _acquire(root, lock)
        return cls(name, lock)

    def release(self) -> None:
        """Let the name go."""
        self._lock.release()


@contextmanager
def held_if_dead(root: Path, name: str) -> Iterator[bool]:
    """Yield whether the process of that name is dead; if so, nobody can take it meanwhile."""
    path = root / f"{name}{_SUFFIX}"
    if not path.exists():
        yield True
        return
    lock = _lock(root, name)
    if not _acquire(root, lock):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def is_dead(root: Path, name: str) -> bool:
    """Return whether the process of that name is dead, or never was."""
    with held_if_dead(root, name) as dead:
        return dead


def sweep_locks(root: Path, kind: str) -> None:
    """Remove the lock files of dead processes of a kind whose names are never taken again."""
    for path in root.glob(f"{kind}-*{_SUFFIX}"):
        with held_if_dead(root, path.name.removesuffix(_SUFFIX)) as dead:
            if dead:
                with contextlib.suppress(OSError):
                    path.unlink()


def _lock(root: Path, name: str) -> FileLock:
    return FileLock(root / f"{name}{_SUFFIX}", timeout=0, thread_local=False)


def _acquire(root: Path, lock: FileLock) -> bool:
    try:
        root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.mkdir(mode=0o700, exist_ok=True)
        lock.acquire()
    except Timeout:
        return False
    except OSError as error:
        raise disk_error(error, root) from error
    return True
