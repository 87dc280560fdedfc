"""ZIP, TAR and gzip -> Document: the members that can be read, one after another.

Nothing is ever written to disk. Members are unpacked one at a time, in memory, and counted against
the file's Allowance as they grow; what an archive says about their sizes is not believed. Links,
devices and names that lead outside are left out.
"""

from __future__ import annotations

import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from typing import IO

from ingest.allowance import Allowance, AllowanceSpent
from ingest.discover import SUPPORTED, media_type, printable
from ingest.encoding import decode
from ingest.members import Members, failed
from ingest.zip_aes import AES, read_aes
from rag.errors import DocumentRejected
from rag.schema import Document

_BLOCK = 1 << 20
_MAX_RATIO = 200
_SMALL = 4 << 20  # bytes up to which the ratio does not matter
_UTF8_NAME = 0x800
_ENCRYPTED = 0x1
_UNZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    EOFError,
    OSError,
    NotImplementedError,
    struct.error,
    IndexError,
    lzma.LZMAError,
)
_UNTAR_ERRORS = (tarfile.TarError, gzip.BadGzipFile, zlib.error, ValueError, EOFError, OSError)
_JUNK = ("__macosx", "thumbs.db", "desktop.ini")


class _Locked(DocumentRejected):
    """A member is encrypted: who locked a part of an archive is asked, the rest is not guessed."""


def zip_document(data: bytes, allowance: Allowance) -> Document:
    """Read a ZIP archive.

    Args:
        data: The file, known to begin like one.
        allowance: Its limits; the passwords are tried on encrypted members.

    Raises:
        DocumentRejected: As `Members.finish`; "damaged" without a directory, "limit" for bombs,
            "encrypted" if no password opens one of the documents in it.
    """
    with allowance.container():
        members = Members(allowance)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                entries = archive.infolist()
                for entry in entries:
                    _add_zipped(archive, entry, data, members, allowance)
        except _UNZIP_ERRORS as error:
            raise DocumentRejected(
                "The ZIP archive is truncated or damaged: its directory cannot be read.",
                reason="damaged",
                do="Get the file again.",
            ) from error
        return members.finish(SUPPORTED[".zip"])


def tar_document(data: bytes, allowance: Allowance) -> Document:
    """Read a TAR archive that is not compressed; see `zip_document`."""
    with allowance.container():
        members = Members(allowance)
        _untar(io.BytesIO(data), members, allowance)
        return members.finish(SUPPORTED[".tar"])


def gzip_document(data: bytes, allowance: Allowance) -> Document:
    """Read a gzip file: a TAR archive, or one file without a name; see `zip_document`."""
    with allowance.container():
        members = Members(allowance)
        unpacked = _Counted(gzip.GzipFile(fileobj=io.BytesIO(data)), len(data), allowance)
        try:
            head = unpacked.read(512)
        except _UNTAR_ERRORS as error:
            raise _torn("gzip file") from error
        if len(head) == 512 and head[257:262] == b"ustar":
            unpacked.push_back(head)
            _untar(unpacked, members, allowance)
        else:
            allowance.member()
            try:
                content = head + unpacked.read(allowance.bytes_left + 1)
            except _UNTAR_ERRORS as error:
                raise _torn("gzip file") from error
            members.add(_gzip_name(data), content)
        return members.finish(SUPPORTED[".gz"])


def _add_zipped(
    archive: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    data: bytes,
    members: Members,
    allowance: Allowance,
) -> None:
    name = _zip_name(entry)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if entry.is_dir() or kind == stat.S_IFDIR or _is_junk(name):
        return
    allowance.member()
    try:
        _check_name(name)
        if kind not in (0, stat.S_IFREG):
            raise _special("a link" if kind == stat.S_IFLNK else "a device")
        if media_type(name) is None:
            raise _format_unknown()
        content = _unzip(archive, entry, data, allowance)
    except (AllowanceSpent, _Locked):
        raise
    except DocumentRejected as error:
        members.refuse(name, error)
    except _UNZIP_ERRORS:
        what = "The member is damaged or compressed in an unknown way."
        members.refuse(name, DocumentRejected(what, reason="damaged"))
    except MemoryError as error:  # a dictionary of gigabytes, say
        members.refuse(name, failed(error))
    else:
        members.add(name, content)


def _unzip(
    archive: zipfile.ZipFile, entry: zipfile.ZipInfo, data: bytes, allowance: Allowance
) -> bytes:
    if not entry.flag_bits & _ENCRYPTED:
        with archive.open(entry) as source:
            return _bounded(source, entry.compress_size, allowance)
    for password in allowance.passwords:
        for coded in dict.fromkeys((password.encode(), password.encode("gb18030"))):
            if entry.compress_type == AES:
                stored = read_aes(data, entry, coded)
                if stored is not None:
                    return _inflated(stored, allowance)
                continue
            try:
                with archive.open(entry, pwd=coded) as source:
                    return _bounded(source, entry.compress_size, allowance)
            except (RuntimeError, *_UNZIP_ERRORS):
                continue  # the wrong password, or one that only looked right
    raise _Locked(
        f"The ZIP archive is encrypted: {printable(_zip_name(entry)[-80:])} in it opens with a "
        "password only.",
        reason="encrypted",
        do="Give the password in the setting document_passwords.",
    )


def _inflated(stored: tuple[int, bytes], allowance: Allowance) -> bytes:
    method, packed = stored
    if method == zipfile.ZIP_STORED:
        return _bounded(io.BytesIO(packed), len(packed), allowance)
    if method != zipfile.ZIP_DEFLATED:
        raise NotImplementedError("compression below AES")
    inflater = zlib.decompressobj(-15)
    content = inflater.decompress(packed, min(allowance.bytes_left, _most(len(packed))) + 1)
    return _bounded(io.BytesIO(content), len(packed), allowance)


def _bounded(source: IO[bytes], packed: int, allowance: Allowance) -> bytes:
    """Read a member whole, within the limits on its size and on how much it grows."""
    blocks: list[bytes] = []
    size = 0
    while block := source.read(_BLOCK):
        size += len(block)
        allowance.unpack(len(block))
        if size > _most(packed):
            raise DocumentRejected(
                f"It unpacks to more than {_MAX_RATIO} times its size, as a bomb would.",
                reason="limit",
            )
        blocks.append(block)
    return b"".join(blocks)


def _most(packed: int) -> int:
    return max(_SMALL, packed * _MAX_RATIO)


class _Counted(io.RawIOBase):
    """A stream that counts what is read from it against an Allowance, skipped parts, too."""

    def __init__(
        self, source: IO[bytes] | gzip.GzipFile, packed: int, allowance: Allowance
    ) -> None:
        self._source = source
        self._most = _most(packed)
        self._allowance = allowance
        self._head = b""
        self._size = 0

    def push_back(self, data: bytes) -> None:
        """Let the next reads begin with `data`, which was counted before."""
        self._head = data + self._head

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Read `size` bytes, fewer only at the end.

        Raises:
            AllowanceSpent: If more is unpacked than may be.
        """
        blocks = [self._head[:size]] if size >= 0 else [self._head]
        self._head = self._head[len(blocks[0]) :]
        left = size - len(blocks[0])
        while left > 0 and (block := self._source.read(min(left, _BLOCK))):
            left -= len(block)
            self._size += len(block)
            self._allowance.unpack(len(block))
            if self._size > self._most:
                raise AllowanceSpent(
                    f"It unpacks to more than {_MAX_RATIO} times its size, as a bomb would.", ""
                )
            blocks.append(block)
        return b"".join(blocks)


def _untar(source: IO[bytes] | _Counted, members: Members, allowance: Allowance) -> None:
    """Read a TAR archive from front to back, never seeking."""
    try:
        with tarfile.open(fileobj=source, mode="r|") as archive:
            while (entry := archive.next()) is not None:
                _add_tarred(archive, entry, members, allowance)
    except AllowanceSpent:
        raise
    except _UNTAR_ERRORS as error:
        torn = _torn("TAR archive")
        members.refuse("The rest of the archive", torn)
        torn.__cause__ = error


def _add_tarred(
    archive: tarfile.TarFile, entry: tarfile.TarInfo, members: Members, allowance: Allowance
) -> None:
    if entry.isdir() or _is_junk(entry.name):
        return
    allowance.member()
    try:
        _check_name(entry.name)
        if entry.issym() or entry.islnk():
            raise _special("a link")
        if not entry.isreg() or entry.issparse():
            raise _special("a device or a sparse file")
        if media_type(entry.name) is None:
            raise _format_unknown()
        source = archive.extractfile(entry)  # as large as in the archive: no sparse files
        content = source.read() if source is not None else b""
    except AllowanceSpent:
        raise
    except DocumentRejected as error:
        members.refuse(entry.name, error)
    else:
        members.add(entry.name, content)


def _zip_name(entry: zipfile.ZipInfo) -> str:
    """Return a member's name; one not marked as UTF-8 is in the encoding of where it was made."""
    name = entry.filename
    if not entry.flag_bits & _UTF8_NAME and not name.isascii():
        try:
            name = decode(name.encode("cp437")).text
        except (UnicodeEncodeError, DocumentRejected):
            name = entry.filename
    return name.replace("\\", "/")


def _gzip_name(data: bytes) -> str:
    """Return the name that a gzip file keeps of what is in it, else one that says it is text."""
    if len(data) > 10 and data[3] & 0x1C == 0x08:
        kept = data[10 : data.find(b"\0", 10)][:255].decode("utf-8", "replace")
        if media_type(kept) is not None:
            return kept.replace("\\", "/").rsplit("/", 1)[-1]
    return "content.txt"


def _is_junk(name: str) -> bool:
    """Whether a member is one that a folder would pass over: hidden, or a system's leftovers."""
    parts = [part for part in name.lower().replace("\\", "/").split("/") if part not in ("", ".")]
    return any(part in _JUNK or (part[0] == "." and part != "..") for part in parts)


def _check_name(name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if parts[0] == "" or ".." in parts or parts[0][1:2] == ":":
        raise DocumentRejected("Its name leads outside the archive.", reason="outside")


def _special(what: str) -> DocumentRejected:
    return DocumentRejected(f"It is {what}, not a file.", reason="outside")


def _format_unknown() -> DocumentRejected:
    return DocumentRejected("Format not supported.", reason="unsupported")


def _torn(what: str) -> DocumentRejected:
    return DocumentRejected(
        f"The {what} is truncated or damaged.", reason="damaged", do="Get the file again."
    )
