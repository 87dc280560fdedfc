"""DOCX -> Document, through kreuzberg's document structure, plus the notes it leaves out.

Word files have no fixed pages, so no page spans are given. Headers, footers, comments and
pictures are not part of the text.
"""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any
from xml.etree.ElementTree import ParseError, XMLParser

from ingest.blocks import TextWriter, clip
from ingest.packages import MACROS, Package, check_package
from rag.errors import DocumentRejected
from rag.schema import Document

_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
_WORD = Package("Word document", "word/document.xml", ".docx", ".doc")
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_NOTES = ("word/footnotes.xml", "word/endnotes.xml")
_MAX_NOTES = 32 << 20
_MAX_CELLS = 200_000


def docx_document(data: bytes) -> Document:
    """Parse a Word file.

    Args:
        data: The file, known to begin like a ZIP archive or an OLE container.

    Returns:
        Headings as sections, tables as Markdown tables, foot- and endnotes at the end.

    Raises:
        DocumentRejected: reason "damaged" when it cannot be read, "encrypted" or "unsupported".
    """
    check_package(data, _WORD)
    import kreuzberg

    config = kreuzberg.ExtractionConfig(
        use_cache=False,
        disable_ocr=True,
        output_format="plain",
        include_document_structure=True,
        enable_quality_processing=False,
    )
    try:
        result = kreuzberg.extract_bytes_sync(data, _MEDIA_TYPE, config)
    except (kreuzberg.KreuzbergError, RuntimeError, ValueError) as error:
        raise DocumentRejected(
            f"A Word file that cannot be read: {_reason(error)}.",
            reason="damaged",
            do="Open it in a word processor and save it again.",
        ) from error
    writer = TextWriter()
    structure: Mapping[str, Any] = result.document or {}
    _write_nodes(writer, structure.get("nodes") or [])
    notes = list(_notes(data))
    if notes:
        writer.leave_section()
    for note in notes:
        writer.paragraph(note)
    text, sections = writer.finish()
    title = clip(str(result.metadata.get("title") or "")) or writer.first_heading
    warnings = (MACROS,) if _holds_macros(data) else ()
    return Document(text, title, sections=sections, media_type=_MEDIA_TYPE, warnings=warnings)


def docm_document(data: bytes) -> Document:
    """Parse a Word file with macros, which are not run; else as `docx_document`."""
    document = docx_document(data)
    media_type = "application/vnd.ms-word.document.macroenabled.12"
    return replace(document, media_type=media_type, warnings=(MACROS,))


def _holds_macros(data: bytes) -> bool:
    """Whether a VBA project lies in the package, whatever the file is called."""
    with zipfile.ZipFile(BytesIO(data)) as archive:
        return any(name.rpartition("/")[2] == "vbaProject.bin" for name in archive.namelist())


def _write_nodes(writer: TextWriter, nodes: Sequence[Mapping[str, Any]]) -> None:
    numbers: dict[int, int] = {}
    for node in nodes:
        content: Mapping[str, Any] = node.get("content") or {}
        kind, text = content.get("node_type"), str(content.get("text") or "")
        if node.get("content_layer", "body") != "body" or kind == "footnote":
            continue
        if kind == "heading":
            writer.heading(int(content.get("level") or 1), text)
        elif kind == "list_item":
            parent = int(node.get("parent") or 0)
            numbers[parent] = numbers.get(parent, 0) + 1
            writer.item(text, f"{numbers[parent]}. " if _ordered(nodes, parent) else "- ")
        elif kind == "table":
            writer.table(_grid(content.get("grid") or {}))
        elif kind not in ("group", "list", "image"):
            writer.paragraph(text)


def _ordered(nodes: Sequence[Mapping[str, Any]], parent: int) -> bool:
    return 0 <= parent < len(nodes) and bool((nodes[parent].get("content") or {}).get("ordered"))


def _grid(grid: Mapping[str, Any]) -> list[list[str]]:
    """Return the rows of a table; a cell merged across columns is written once."""
    cells = (grid.get("cells") or [])[:_MAX_CELLS]
    rows: dict[int, dict[int, str]] = {}
    for cell in cells:
        rows.setdefault(int(cell["row"]), {})[int(cell["col"])] = str(cell.get("content") or "")
    table: list[list[str]] = []
    for _, row in sorted(rows.items()):
        values = [row.get(column, "") for column in range(max(row) + 1)]
        if len(values) > 2 and len(set(values)) == 1 and len(values[0]) > 4:
            values = values[:1] + [""] * (len(values) - 1)
        table.append(values)
    return table


def _notes(data: bytes) -> Iterator[str]:
    """Yield the text of each foot- and endnote."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            names = set(archive.namelist())
            parts = [_read_part(archive, name) for name in _NOTES if name in names]
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError, zlib.error, lzma.LZMAError):
        return
    for part in parts:
        collector = _NoteCollector()
        parser = XMLParser(target=collector)  # noqa: S314 - expat limits entity expansion
        try:
            parser.feed(part)
            parser.close()
        except ParseError:
            pass
        yield from collector.notes


def _read_part(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as part:
        return part.read(_MAX_NOTES)


class _NoteCollector:
    """An XML target that gathers the runs of text of each note; it builds no tree."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._note: list[str] | None = None
        self._in_text = False

    def start(self, tag: str, attrs: Mapping[str, str]) -> None:
        if tag in (f"{_W}footnote", f"{_W}endnote"):
            ordinary = attrs.get(f"{_W}type", "normal") == "normal"
            self._note = [] if ordinary else None
        elif self._note is not None and tag in (f"{_W}tab", f"{_W}br"):
            self._note.append(" ")
        self._in_text = tag == f"{_W}t"

    def end(self, tag: str) -> None:
        self._in_text = False
        if self._note is None:
            return
        if tag == f"{_W}p":
            self._note.append("\n")
        elif tag in (f"{_W}footnote", f"{_W}endnote"):
            self.notes.append("".join(self._note).strip())
            self._note = None

    def data(self, text: str) -> None:
        if self._in_text and self._note is not None:
            self._note.append(text)

    def close(self) -> None:
        """Nothing to do; the parser calls it at the end."""


def _reason(error: Exception) -> str:
    """Return the last clause of kreuzberg's message, on one line and bounded."""
    return " ".join(str(error).split()).rsplit("failed: ", 1)[-1][:160].rstrip(".")
