"""Office files as containers: what a ZIP package or an OLE file must be before it is parsed.

It looks at directories and sizes only; it does not know what the parts mean.
"""

from __future__ import annotations

import lzma
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

from ingest.discover import printable
from ingest.xml_tree import Element, read_tree
from rag.errors import DocumentRejected

if TYPE_CHECKING:
    from olefile import OleFileIO

OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""The first bytes of old Office files and of encrypted new ones."""

MAX_UNPACKED = 512 << 20
"""Bytes the XML members of a package may take when unpacked; pictures are never unpacked."""

_TEXTUAL = (".xml", ".rels", ".vml")
OLE_ERRORS = (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error)
"""What olefile raises on damaged containers, and struct on records that are cut off."""

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
    unpacked = sum(
        entry.file_size for name, entry in entries.items() if name.lower().endswith(_TEXTUAL)
    )
    if unpacked > MAX_UNPACKED:
        raise DocumentRejected(
            f"The {kind.what} unpacks to {unpacked:,} bytes; the limit is {MAX_UNPACKED:,}.",
            reason="too-large",
            do="Split it.",
        )
    return entries


class PackageReader:
    """Reads the parts of a package that `check_package` has let through.

    Args:
        data: The file.
        kind: What it is.

    Raises:
        DocumentRejected: As `check_package`.
    """

    def __init__(self, data: bytes, kind: Package) -> None:
        self._entries = check_package(data, kind)
        self._archive = zipfile.ZipFile(BytesIO(data))
        self._what = kind.what
        self._left = MAX_UNPACKED

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        """Return the names of all parts."""
        return list(self._entries)

    def read(self, name: str) -> bytes:
        """Unpack a part.

        Raises:
            DocumentRejected: reason "damaged" when it is missing or its checksum is wrong,
                "too-large" when all that was unpacked passes MAX_UNPACKED.
        """
        try:
            with self._archive.open(self._entries[name]) as part:
                content = part.read(self._left + 1)
        except (*_UNZIP_ERRORS, RuntimeError, zlib.error, lzma.LZMAError, KeyError) as error:
            raise DocumentRejected(
                f"The {self._what} is damaged: {printable(name[:80])} in it cannot be unpacked.",
                reason="damaged",
                do="Get the file again.",
            ) from error
        self._left -= len(content)
        if self._left < 0:
            raise DocumentRejected(
                f"The {self._what} unpacks to more than {MAX_UNPACKED:,} bytes.",
                reason="too-large",
                do="Split it.",
            )
        return content

    def tree(self, name: str) -> Element:
        """Unpack a part and parse it as XML; refusals as for `read` and `read_tree`."""
        return read_tree(self.read(name), f"{printable(name[:80])} in the {self._what}")

    def related(self, part: str) -> dict[str, tuple[str, str]]:
        """Return the parts that a part of an OOXML package refers to.

        Returns:
            Relation id to (last word of its type, name of the part that exists).
        """
        folder, _, file = part.rpartition("/")
        rels = f"{folder}/_rels/{file}.rels" if folder else f"_rels/{file}.rels"
        if rels not in self:
            return {}
        found: dict[str, tuple[str, str]] = {}
        for relation in self.tree(rels).elements("Relationship"):
            target = relation.attrs.get("Target", "")
            path = posixpath.normpath(posixpath.join("/", folder, target)).lstrip("/")
            if relation.attrs.get("TargetMode") != "External" and path in self:
                kind = relation.attrs.get("Type", "").rpartition("/")[2]
                found[relation.attrs.get("Id", "")] = (kind, path)
        return found

    def title(self) -> str:
        """Return the title in an OOXML package's properties, "" if it has none."""
        if "docProps/core.xml" not in self:
            return ""
        title = self.tree("docProps/core.xml").first("title")
        return title.text().strip() if title is not None else ""

    def holds_macros(self) -> bool:
        """Whether a VBA project lies in the package."""
        return any(name.rpartition("/")[2] == "vbaProject.bin" for name in self._entries)


MACROS = "It holds macros, which were not run."
"""The warning for files with macros."""


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


def ole_names(data: bytes, what: str) -> list[str]:
    """List the first part of each name in an OLE container.

    Raises:
        DocumentRejected: reason "damaged" when its directory cannot be read.
    """
    with open_ole(data, what) as container:
        return [path[0] for path in container.listdir(streams=True, storages=True)]


def open_ole(data: bytes, what: str) -> OleFileIO:
    """Open an OLE container to be used as a context manager.

    Raises:
        DocumentRejected: reason "damaged" when its directory cannot be read.
    """
    import olefile

    try:
        return olefile.OleFileIO(BytesIO(data))
    except OLE_ERRORS as error:
        raise DocumentRejected(
            f"The {what} is truncated or damaged: its directory cannot be read.",
            reason="damaged",
            do="Get the file again.",
        ) from error
