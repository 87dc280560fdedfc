"""One file's bytes -> a Document, by the format its name and its content agree on.

It only chooses and checks; the formats are in ingest.from_*. It trusts nothing: run it inside
ingest.fence for files of unknown origin, because the libraries below it are native code.
"""

from __future__ import annotations

import zipfile
from io import BytesIO

from ingest.discover import SUPPORTED, media_type, printable
from ingest.encoding import decode
from rag.errors import DocumentRejected
from rag.schema import Document

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive or Office document"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (_OLE, "an old or encrypted Office document"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"\x7fELF", "a program (ELF)"),
    (b"\x1f\x8b\x08", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"SQLite format 3\x00", "a SQLite database"),
    (b"{\\rtf", "an RTF document"),
    (b"%!PS", "a PostScript document"),
    (b"ID3", "an MP3 recording"),
    (b"OggS", "an Ogg recording"),
    (b"fLaC", "a FLAC recording"),
    (b"\xca\xfe\xba\xbe", "a program (Mach-O or Java)"),
    (b"\xcf\xfa\xed\xfe", "a program (Mach-O)"),
)
_WHAT = {
    "application/pdf": "a PDF",
    SUPPORTED[".docx"]: "a Word document",
    "text/html": "HTML",
    "text/plain": "text",
    "text/markdown": "text",
}


def parse(data: bytes, name: str) -> Document:
    """Parse one file.

    Args:
        data: The whole file.
        name: Its name; only the suffix matters, in any case.

    Returns:
        A Document whose text holds at least one character that is not white space.

    Raises:
        DocumentRejected: With a stable reason: "unsupported" (suffix, or content of another
            format), "empty", "not-text", "encrypted", "damaged", "needs-ocr".
    """
    kind = media_type(name)
    if kind is None:
        raise DocumentRejected(
            f"Format not supported; supported: {' '.join(sorted(SUPPORTED))}.",
            reason="unsupported",
            do="Convert it to one of them.",
        )
    if not data:
        raise DocumentRejected("The file is empty (0 bytes).", reason="empty")
    document = _parse_as(kind, data)
    if not document.text.strip():
        raise DocumentRejected("The file holds no text.", reason="empty")
    return document


def looks_like(data: bytes) -> str | None:
    """Name the binary format that the first bytes belong to, None for anything else."""
    for signature, what in _SIGNATURES:
        if data.startswith(signature):
            return what
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "a WebP image"
    if data[4:8] == b"ftyp":
        return "a video or HEIF image"
    if data[:2] == b"MZ" and b"\x00" in data[:64]:
        return "a program (Windows)"
    return None


def _parse_as(kind: str, data: bytes) -> Document:
    if kind == "application/pdf":
        if b"%PDF-" not in data[:1024]:
            raise _other_content(kind, data)
        from ingest.from_pdf import pdf_document

        return pdf_document(data)
    if kind == SUPPORTED[".docx"]:
        _check_docx(kind, data)
        from ingest.from_docx import docx_document

        return docx_document(data)
    if looks_like(data) is not None:
        raise _other_content(kind, data)
    return _text_kinds(kind, data)


def _text_kinds(kind: str, data: bytes) -> Document:
    from dataclasses import replace

    from ingest.from_text import markdown_document, text_document

    decoded = decode(data, html=kind == "text/html")
    if kind == "text/html":
        from ingest.from_html import html_document

        document = html_document(decoded.text)
    elif kind == "text/markdown":
        document = markdown_document(decoded.text)
    else:
        document = text_document(decoded.text)
    return replace(document, warnings=decoded.warnings) if decoded.warnings else document


def _check_docx(kind: str, data: bytes) -> None:
    """Refuse what is not a complete, unencrypted Word package before native code sees it."""
    if data.startswith(_OLE):
        if "EncryptedPackage".encode("utf-16-le") in data:
            raise DocumentRejected(
                "The Word document is encrypted and opens with a password only.",
                reason="encrypted",
                do="Remove the password and try again.",
            )
        raise DocumentRejected(
            "Not a .docx: it is a Word document of the old .doc kind.",
            reason="unsupported",
            do="Save it as .docx.",
        )
    if not data.startswith(b"PK"):
        raise _other_content(kind, data)
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError) as error:
        raise DocumentRejected(
            "The Word document is truncated or damaged: its ZIP directory cannot be read.",
            reason="damaged",
            do="Get the file again.",
        ) from error
    if any(entry.flag_bits & 1 for entry in entries.values()):
        raise DocumentRejected("The Word document is an encrypted ZIP.", reason="encrypted")
    if "word/document.xml" not in entries:
        raise DocumentRejected(
            "Not a Word document: the ZIP archive holds no word/document.xml"
            f"{_inside(list(entries))}.",
            reason="damaged" if "[Content_Types].xml" in entries else "unsupported",
            do="Save it as .docx in a word processor.",
        )


def _inside(names: list[str]) -> str:
    for prefix, what in (("xl/", "a workbook"), ("ppt/", "a presentation")):
        if any(name.startswith(prefix) for name in names):
            return f" (it is {what})"
    return f" (it begins with {printable(names[0][:60])})" if names else " (it is empty)"


def _other_content(kind: str, data: bytes) -> DocumentRejected:
    """Say what a file is whose content is not what its name says."""
    seen = looks_like(data)
    if seen is None and data[:256].lstrip().lower().startswith((b"<!doctype", b"<html")):
        seen = "an HTML page"
    found = f"starts like {seen}" if seen else f"starts with the bytes {data[:8].hex(' ')}"
    textual = kind.startswith("text/")
    return DocumentRejected(
        f"Not {_WHAT[kind]}: {found}.",
        reason="not-text" if textual else "unsupported",
        do="Give the file the suffix of its real format.",
    )
