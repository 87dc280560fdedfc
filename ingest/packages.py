"""Office files as containers: what a ZIP package or an OLE file must be before it is parsed.

It looks at directories and sizes only; it does not know what the parts mean.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from ingest.discover import printable
from rag.errors import DocumentRejected

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""The first bytes of old Office files and of encrypted new ones."""

MAX_UNPACKED = 1 << 30
"""Bytes all members of a package may take when unpacked."""

_UNZIP_ERRORS = (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError)


@dataclass(frozen=True, slots=True)
class Package:
    """A kind of ZIP package.

    Attributes:
        what: Its name, without an article, for example "Word document".
        part: The member without which it is none.
        suffix: Of files of this kind, for example ".docx".
        old_suffix: Of the OLE files of the same purpose, "" if there are none.
    """

    what: str
    part: str
    suffix: str
    old_suffix: str = ""


def check_package(data: bytes, kind: Package) -> dict[str, zipfile.ZipInfo]:
    """Refuse what is not a complete, unencrypted package of a kind, before anything is unpacked.

    Args:
        data: The file, known to begin like a ZIP archive or an OLE container.
        kind: What it is meant to be.

    Returns:
        Its members by name.

    Raises:
        DocumentRejected: reason "encrypted", "damaged" (no directory, or a package without its
            main part), "too-large" (unpacked) or "unsupported" (something else).
    """
    if data.startswith(OLE):
        raise _ole(data, kind)
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
    except _UNZIP_ERRORS as error:
        raise DocumentRejected(
            f"The {kind.what} is truncated or damaged: its ZIP directory cannot be read.",
            reason="damaged",
            do="Get the file again.",
        ) from error
    if any(entry.flag_bits & 1 for entry in entries.values()):
        raise DocumentRejected(f"The {kind.what} is an encrypted ZIP.", reason="encrypted")
    if kind.part not in entries:
        raise DocumentRejected(
            f"Not a {kind.what}: the ZIP archive holds no {kind.part}{_inside(list(entries))}.",
            reason="damaged" if "[Content_Types].xml" in entries else "unsupported",
            do=f"Save it as {kind.suffix} in the program it comes from.",
        )
    unpacked = sum(entry.file_size for entry in entries.values())
    if unpacked > MAX_UNPACKED:
        raise DocumentRejected(
            f"The {kind.what} unpacks to {unpacked:,} bytes; the limit is {MAX_UNPACKED:,}.",
            reason="too-large",
            do="Split it.",
        )
    return entries


def _ole(data: bytes, kind: Package) -> DocumentRejected:
    if "EncryptedPackage".encode("utf-16-le") in data:
        return DocumentRejected(
            f"The {kind.what} is encrypted and opens with a password only.",
            reason="encrypted",
            do="Remove the password and try again.",
        )
    old = f"a {kind.what} of the old {kind.old_suffix} kind" if kind.old_suffix else "an old one"
    return DocumentRejected(
        f"Not a {kind.suffix}: it is {old}.",
        reason="unsupported",
        do=f"Save it as {kind.suffix}.",
    )


def _inside(names: Sequence[str]) -> str:
    for prefix, what in (
        ("word/", "a Word document"),
        ("xl/", "a workbook"),
        ("ppt/", "a presentation"),
    ):
        if any(name.startswith(prefix) for name in names):
            return f" (it is {what})"
    return f" (it begins with {printable(names[0][:60])})" if names else " (it is empty)"
