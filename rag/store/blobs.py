"""Uploaded files on disk: the same bytes once, under their SHA-256.

Layout: `<folder>/ab/abcd...` for whole blobs, `<folder>/incoming/` for what is still arriving. A
blob appears by renaming a file that is complete and on disk; no name that a client gave is ever
part of a path.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from filelock import FileLock

from rag.errors import StorageError
from rag.store.database import disk_error
from rag.store.hold import Hold, hold

_BLOCK = 1 << 20
_DIGEST = re.compile("[0-9a-f]{64}")
_ABANDONED_S = 3600.0
"""What nobody refers to for so long was left behind; whatever arrives is written to meanwhile."""
_GONE = "gone-"
_PIN_S = 60.0


class Incoming:
    """A file that is arriving; a context manager that leaves nothing behind unless it is kept.

    Attributes:
        path: Where it is written.
        size: Bytes so far.
        stays: Whether it stays where it is, as a part of an upload does.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.stays = False
        self._digest = hashlib.sha256()
        try:
            _make_folder(path.parent)
            self._handle = path.open("xb")
        except OSError as error:
            raise disk_error(error, path) from error

    def __enter__(self) -> Incoming:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()

    def write(self, data: bytes) -> None:
        """Append bytes.

        Raises:
            StorageError: If the disk is full or cannot be written.
        """
        try:
            self._handle.write(data)
        except OSError as error:
            raise disk_error(error, self.path) from error
        self._digest.update(data)
        self.size += len(data)

    def finish(self) -> str:
        """Bring everything to disk; return the SHA-256 as hexadecimal digits.

        Raises:
            StorageError: If the disk is full or cannot be written.
        """
        if self._handle.closed:
            return self._digest.hexdigest()
        try:
            self._handle.flush()
            os.fsync(self._handle.fileno())
            self._handle.close()
        except OSError as error:
            raise disk_error(error, self.path) from error
        return self._digest.hexdigest()

    def sync_name(self) -> None:
        """Bring to disk that it is there under its name, as what stays needs.

        Raises:
            StorageError: If the folder cannot be written.
        """
        try:
            _sync_folder(self.path.parent)
            _sync_folder(self.path.parent.parent)
        except OSError as error:
            raise disk_error(error, self.path) from error

    def discard(self) -> None:
        """Delete it, if it has not become a blob and is not to stay."""
        with contextlib.suppress(OSError):
            self._handle.close()
        if not self.stays:
            with contextlib.suppress(OSError):
                self.path.unlink()


class Blobs:
    """The blobs of a folder, which is made when the first one arrives.

    Args:
        folder: Nothing else may lie in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._incoming = folder / "incoming"

    def receive(self, name: str = "") -> Incoming:
        """Start a file, under a name of our own choice if one is given.

        Raises:
            StorageError: If the folder cannot be written.
        """
        return Incoming(self._incoming / (name or secrets.token_hex(16)))

    def arrived(self, name: str) -> Path:
        """Return the path of what was received under a name."""
        return self._incoming / name

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold while a blob is kept or dropped and the database told so."""
        try:
            _make_folder(self._folder)
            lock = FileLock(self._folder / "lock")
            lock.acquire()
        except OSError as error:
            raise disk_error(error, self._folder) from error
        try:
            yield
        finally:
            lock.release()

    def keep(self, incoming: Incoming, sha256: str) -> None:
        """Make a finished file the blob of that digest; call it inside `exclusive`.

        Raises:
            StorageError: If the folder cannot be written.
        """
        path = self.path(sha256)
        try:
            path.parent.mkdir(exist_ok=True)
            _sync_folder(self._folder)
            os.replace(incoming.path, path)
            _sync_folder(path.parent)
        except OSError as error:
            raise disk_error(error, path) from error

    def drop(self, sha256: str) -> None:
        """Delete a blob, or leave it to `orphans` while pinned; call it inside `exclusive`."""
        with self._unless_pinned() as free:
            if free:
                with contextlib.suppress(FileNotFoundError):
                    self.path(sha256).unlink()

    def drop_arrived(self, name: str) -> None:
        """Delete what was received under a name, or put it aside for `sweep` while pinned."""
        with self._unless_pinned() as free, contextlib.suppress(FileNotFoundError):
            if free:
                self.arrived(name).unlink()
            else:
                os.replace(self.arrived(name), self._incoming / (_GONE + name))

    def pin(self) -> Hold:
        """Keep whatever is here from being deleted until the hold that is returned is closed.

        Raises:
            StorageError: If the folder cannot be written.
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            pinned = hold(self._folder / "pin", alone=False, wait_s=_PIN_S)
        except OSError as error:
            raise disk_error(error, self._folder) from error
        if pinned is None:
            raise StorageError(f"{self._folder} is being changed all the time.", do="Try again.")
        return pinned

    @contextmanager
    def _unless_pinned(self) -> Iterator[bool]:
        """Yield whether files may be deleted; nobody can pin them inside."""
        try:
            taken = hold(self._folder / "pin", alone=True)
        except FileNotFoundError:  # no folder: nothing to delete
            yield True
            return
        except OSError as error:
            raise disk_error(error, self._folder) from error
        try:
            yield taken is not None
        finally:
            if taken is not None:
                taken.close()

    def orphans(self, wanted: Callable[[Sequence[str]], set[str]]) -> bool:
        """Delete blobs that no file has: a process may be killed between the one and the other.

        Args:
            wanted: Of some digests returns those that files have; asked again under the lock.

        Returns:
            Whether none is left; while pinned they stay.
        """
        clean = True
        for folder in self._folder.glob("[0-9a-f][0-9a-f]"):
            found = [path.name for path in folder.iterdir()]
            suspects = set(found) - wanted(found)
            if not suspects:
                continue
            with self.exclusive(), self._unless_pinned() as free:
                clean = clean and free
                for sha256 in suspects - wanted(sorted(suspects)) if free else ():
                    self.path(sha256).unlink(missing_ok=True)
        return clean

    def left_over(self, name: str) -> Path:
        """Return the path of what was received under a name, also if it was dropped while pinned.

        Raises:
            FileNotFoundError: If it is not there.
        """
        for path in (self.arrived(name), self._incoming / (_GONE + name)):
            if path.exists():
                return path
        raise FileNotFoundError(name)

    def path(self, sha256: str) -> Path:
        """Return where the blob of a digest is, or would be."""
        return self._folder / sha256[:2] / sha256

    def stat(self, sha256: str) -> os.stat_result:
        """Return the size and times of a blob.

        Raises:
            StorageError: If it is not there.
        """
        try:
            return self.path(sha256).stat()
        except OSError as error:
            raise disk_error(error, self.path(sha256)) from error

    def read(self, sha256: str) -> bytes:
        """Return a blob.

        Raises:
            StorageError: If it is not there, cannot be read, or is not what it was.
        """
        path = self.path(sha256)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise disk_error(error, path) from error
        if hashlib.sha256(data).hexdigest() != sha256:
            raise StorageError(
                f"The stored file {sha256[:12]} is damaged.", do="Restore it from a backup."
            )
        return data

    def join(self, parts: Iterable[Path], into: Incoming) -> None:
        """Append whole files to one that is arriving.

        Raises:
            StorageError: If one cannot be read, or the disk is full.
        """
        for part in parts:
            try:
                with part.open("rb") as handle:
                    while block := handle.read(_BLOCK):
                        into.write(block)
            except OSError as error:
                raise disk_error(error, part) from error

    def sweep(self, wanted: Iterable[str] = ()) -> int:
        """Delete what broken uploads left behind an hour ago; return how many files there were.

        Args:
            wanted: Names of parts that are still needed.
        """
        keep = set(wanted)
        swept = 0
        with self._unless_pinned() as free:
            for path in self._incoming.glob("*") if free else ():
                with contextlib.suppress(OSError):
                    old = time.time() - path.stat().st_mtime > _ABANDONED_S
                    if path.name.startswith(_GONE) or (path.name not in keep and old):
                        path.unlink()
                        swept += 1
        return swept

    def old(self, among: Iterable[str] | None = None) -> list[str]:
        """Return the digests of the blobs that have been there for an hour.

        Args:
            among: Which are looked at; None: all.
        """
        limit = time.time() - _ABANDONED_S
        every = self._folder.glob("[0-9a-f][0-9a-f]/*") if among is None else map(self.path, among)
        found = []
        for path in every:
            with contextlib.suppress(OSError):
                if _DIGEST.fullmatch(path.name) and path.stat().st_mtime < limit:
                    found.append(path.name)
        return found


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, all of it on disk."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for made in reversed(missing):
        made.mkdir(exist_ok=True)
        _sync_folder(made.parent)


def _sync_folder(folder: Path) -> None:
    """Bring a name in a folder to disk: a new one, or one that was changed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
