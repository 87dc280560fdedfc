"""The file format of a backup: a gzipped tar of plain files, written and read as a stream.

    youju-backup.json      the manifest
    youju.db               the database, always as SQLite, whatever it came from
    parts/part_...         parts of uploads that are not completed yet, by name
    blobs/ab/ab12...       uploaded files by their SHA-256, ascending
    SHA256SUMS             of everything before it, as `sha256sum --check` reads it

Anything can read it with tar and sha256sum. It is read back strictly: these names, in this order,
each once, plain files only, no extension headers; a file that was cut short or changed is refused.
The sums protect from damage, not from somebody who writes a whole archive with evil intent: what
is in the database is checked by rag.backup.restore.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, cast

from rag.errors import BackupError

MANIFEST = "youju-backup.json"
DATABASE = "youju.db"
SUMS = "SHA256SUMS"
BLOCK = 1 << 20
MANIFEST_BYTES = 1 << 20
"""Most bytes of a manifest."""

_RECORD = tarfile.BLOCKSIZE
_LEVEL = 3  # vectors hardly shrink, texts do: a higher one takes longer and gains little
_NAME = re.compile(
    rf"{re.escape(MANIFEST)}|{re.escape(DATABASE)}|parts/part_[0-9a-z]{{1,60}}"
    rf"|blobs/([0-9a-f]{{2}})/\1[0-9a-f]{{62}}|{SUMS}"
)
_PLACES = (MANIFEST, DATABASE, "parts/", "blobs/", SUMS)
_MOST_BYTES = 1 << 50
_MOST_PADDING = 1 << 16


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive; `blocks` yields its bytes once, before the next member is asked for."""

    name: str
    size: int
    blocks: Iterator[bytes]


class ArchiveWriter:
    """Writes an archive as a stream.

    Args:
        target: Where to; it stays open.
        folder: For a temporary file of the sums.
    """

    def __init__(self, target: BinaryIO, folder: Path) -> None:
        self._zip = gzip.GzipFile(fileobj=target, mode="wb", compresslevel=_LEVEL, mtime=0)
        self._sums = TemporaryFile(dir=folder)

    def add(self, name: str, size: int, blocks: Iterable[bytes]) -> None:
        """Append a file.

        Raises:
            ValueError: If its bytes are not as many as `size` says.
        """
        digest = hashlib.sha256()
        self._put(name, size, blocks, digest.update)
        self._sums.write(f"{digest.hexdigest()}  {name}\n".encode())

    def finish(self) -> None:
        """Append the sums and the end."""
        size = self._sums.tell()
        self._sums.seek(0)
        self._put(SUMS, size, iter(lambda: self._sums.read(BLOCK), b""))
        self._zip.write(bytes(2 * _RECORD))
        self._zip.close()
        self.close()

    def close(self) -> None:
        """Let go of the temporary file."""
        self._sums.close()

    def _put(
        self,
        name: str,
        size: int,
        blocks: Iterable[bytes],
        seen: Callable[[bytes], None] = lambda _block: None,
    ) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o600
        self._zip.write(info.tobuf(tarfile.GNU_FORMAT))  # a size of 8 GiB and more fits in
        written = 0
        for block in blocks:
            self._zip.write(block)
            seen(block)
            written += len(block)
        if written != size:
            raise ValueError(f"{name}: got {written} bytes, expected {size}")
        self._zip.write(bytes(-size % _RECORD))


class ArchiveReader:
    """Reads an archive as a stream.

    Args:
        source: An open file; it stays open.
        name: What to call it in messages.
    """

    def __init__(self, source: BinaryIO, name: str) -> None:
        self._zip = cast("BinaryIO", gzip.GzipFile(fileobj=source, mode="rb"))
        self._name = name
        self._left = 0

    def members(self) -> Iterator[Member]:
        """Yield the members but the sums, which are compared at the end.

        Raises:
            BackupError: If it is no backup, damaged, cut short, or holds what none does.
        """
        seen = hashlib.sha256()
        last = (-1, "")
        while True:
            member_name, size = self._header()
            place = next(i for i, prefix in enumerate(_PLACES) if member_name.startswith(prefix))
            expected = place == last[0] + 1 if place < 2 else last[0] >= 1
            if not expected or (place, member_name) <= last:
                raise self._refused(f"{member_name} is not in its place")
            last = (place, member_name)
            digest = hashlib.sha256()
            if member_name == SUMS:
                for block in self._blocks(size):
                    digest.update(block)
                if digest.digest() != seen.digest():
                    raise self._refused("its files are not those that its SHA256SUMS lists")
                self._end()
                return
            yield Member(member_name, size, self._blocks(size, digest))
            if self._left:
                raise ValueError(f"{member_name} has not been read to its end")
            seen.update(f"{digest.hexdigest()}  {member_name}\n".encode())

    def _header(self) -> tuple[str, int]:
        try:
            info = tarfile.TarInfo.frombuf(self._read(_RECORD), "ascii", "strict")
        except (tarfile.HeaderError, ValueError, OverflowError) as error:
            raise self._refused(f"a header in it is damaged ({error})") from None
        if info.type != tarfile.REGTYPE or info.linkname or not _NAME.fullmatch(info.name):
            raise self._refused(f"it holds {info.name[:100]!r}, which no backup does")
        if not 0 <= info.size <= _MOST_BYTES:
            raise self._refused(f"{info.name} would have {info.size} bytes")
        return info.name, info.size

    def _blocks(self, size: int, digest: hashlib._Hash | None = None) -> Iterator[bytes]:
        self._left = size + -size % _RECORD
        while size:
            block = self._read(min(size, BLOCK))
            size -= len(block)
            self._left -= len(block)
            if digest is not None:
                digest.update(block)
            yield block
        if any(self._read(self._left)):
            raise self._refused("there are bytes between its files")
        self._left = 0

    def _end(self) -> None:
        rest = self._read(2 * _RECORD)
        rest += self._some(_MOST_PADDING)
        if any(rest) or self._some(1):
            raise self._refused("something follows its end")

    def _read(self, size: int) -> bytes:
        parts = []
        while size:
            part = self._some(size)
            if not part:
                raise self._refused("it is cut short")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _some(self, size: int) -> bytes:
        try:
            return self._zip.read(size)
        except EOFError:
            raise self._refused("it is cut short") from None
        except gzip.BadGzipFile as error:
            raise self._refused(f"it is no gzip file, or damaged ({error})") from None
        except zlib.error:
            raise self._refused("it is damaged") from None

    def _refused(self, why: str) -> BackupError:
        return BackupError(
            f"{self._name} is no complete backup: {why}.", do="Use another copy of it."
        )
