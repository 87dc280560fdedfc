"""ODT, ODS and ODP -> Document: the three share one XML, so one reader of blocks serves all.

Foot- and endnotes stand at the end, speaker notes after their slide; comments, deleted text,
tables of contents and pictures are left out. Cells are read as they are shown, which the format
stores beside their values.
"""

from __future__ import annotations

from collections.abc import Iterator

from ingest.blocks import TextWriter, clip
from ingest.packages import MACROS, Package, PackageReader
from ingest.sheets import MAX_CELLS, Row, Sheet, sheets_document, too_many_cells
from ingest.xml_tree import Element
from rag.errors import DocumentRejected
from rag.schema import Document

_TEXT = "application/vnd.oasis.opendocument.text"
_SHEETS = "application/vnd.oasis.opendocument.spreadsheet"
_SLIDES = "application/vnd.oasis.opendocument.presentation"
_LEFT_OUT = frozenset(
    "annotation note ruby-text tracked-changes table-of-content alphabetical-index notes "
    "illustration-index table-index object-index user-index bibliography".split()
)
_DRAWN = frozenset(
    "frame custom-shape rect circle ellipse line path polygon polyline connector caption g "
    "regular-polygon measure control object".split()
)
_REPEATED = 1000
"""Equal rows or cells in a run that are written; an honest sheet repeats empty ones."""

_MAX_COLUMN = 16_384


def odt_document(data: bytes) -> Document:
    """Parse an OpenDocument text: headings are sections, tables Markdown tables, notes last.

    Args:
        data: The file, known to begin like a ZIP archive.

    Raises:
        DocumentRejected: reason "encrypted", "damaged", "too-large" or "unsupported".
    """
    package, content, body = _open(data, "text document", ".odt", "text")
    writer = TextWriter()
    blocks = _Blocks(writer, content)
    blocks.write(body)
    blocks.write_notes()
    text, sections = writer.finish()
    title = clip(_title(package)) or writer.first_heading
    warnings = _macros(package)
    return Document(text, title, sections=sections, media_type=_TEXT, warnings=warnings)


def odp_document(data: bytes) -> Document:
    """Parse an OpenDocument presentation: each slide a page and a section.

    Args:
        data: The file, known to begin like a ZIP archive.

    Raises:
        DocumentRejected: As for `odt_document`.
    """
    package, content, body = _open(data, "presentation", ".odp", "presentation")
    writer = TextWriter()
    blocks = _Blocks(writer, content)
    for number, page in enumerate(body.elements("page"), start=1):
        writer.page(number)
        frames = list(page.elements())
        titles = [frame for frame in frames if frame.attrs.get(":class") == "title"]
        for frame in titles[:1]:
            lines = [_inline(paragraph) for paragraph in frame.walk("p", "h")]
            writer.heading(1, " ".join(lines))
        for frame in frames:
            if frame not in titles[:1] and frame.tag != "notes":
                blocks.write(frame)
        notes = page.first("notes")
        for frame in notes.elements("frame") if notes is not None else ():
            if frame.attrs.get(":class", "notes") == "notes":
                blocks.write(frame)
        blocks.write_notes()
    text, sections = writer.finish()
    title = clip(_title(package)) or writer.first_heading
    return Document(text, title, writer.pages(), sections, _SLIDES, _macros(package))


def ods_document(data: bytes) -> Document:
    """Parse an OpenDocument spreadsheet: each sheet a page and a section.

    Args:
        data: The file, known to begin like a ZIP archive.

    Raises:
        DocumentRejected: As for `odt_document`.
    """
    package, content, body = _open(data, "spreadsheet", ".ods", "spreadsheet")
    hidden = {
        style.attrs.get(":name", "")
        for style in content.walk("style")
        if any(part.attrs.get(":display") == "false" for part in style.elements())
    }
    sheets = (
        Sheet(
            table.attrs.get(":name", ""),
            list(_rows(table)),
            hidden=table.attrs.get(":style-name") in hidden,
        )
        for table in body.elements("table")
    )
    return sheets_document(sheets, _SHEETS, _title(package), _macros(package))


def _open(data: bytes, what: str, suffix: str, body: str) -> tuple[PackageReader, Element, Element]:
    package = PackageReader(data, Package(what, "content.xml", suffix))
    if "META-INF/manifest.xml" in package:
        manifest = package.tree("META-INF/manifest.xml")
        if next(manifest.walk("encryption-data"), None) is not None:
            raise DocumentRejected(
                f"The {what} is encrypted and opens with a password only.",
                reason="encrypted",
                do="Remove the password and try again.",
            )
    content = package.tree("content.xml")
    found = content.first("body", body)
    if found is None:
        inside = content.first("body")
        others = [child.tag for child in inside.elements()] if inside is not None else []
        raise DocumentRejected(
            f"Not a {what}: its body is {clip(others[0]) if others else 'empty'}.",
            reason="unsupported",
            do="Give the file the suffix of its real format.",
        )
    return package, content, found


def _title(package: PackageReader) -> str:
    if "meta.xml" not in package:
        return ""
    title = next(package.tree("meta.xml").walk("title"), None)
    return title.text() if title is not None else ""


def _macros(package: PackageReader) -> tuple[str, ...]:
    scripts = [name for name in package.names() if name.startswith(("Basic/", "Scripts/"))]
    holds = any(not name.endswith(("/", "script-lc.xml", "script-lb.xml")) for name in scripts)
    return (MACROS,) if holds else ()


class _Blocks:
    """Writes the blocks inside an element; gathers the notes that belong to them."""

    def __init__(self, writer: TextWriter, content: Element) -> None:
        self._writer = writer
        self._notes: list[str] = []
        self._numbered = {
            (style.attrs.get(":name", ""), int(level.attrs.get(":level", "1") or 1))
            for style in content.walk("list-style")
            for level in style.elements("list-level-style-number")
            if level.attrs.get(":level", "1").isdecimal() and level.attrs.get(":num-format")
        }

    def write(self, parent: Element) -> None:
        for element in parent.elements():
            if element.tag in _LEFT_OUT:
                continue
            if element.tag == "h":
                level = element.attrs.get(":outline-level", "1")
                self._writer.heading(int(level) if level.isdecimal() else 1, _inline(element))
                self._extras(element)
            elif element.tag == "p":
                self._writer.paragraph(_inline(element))
                self._extras(element)
            elif element.tag == "list":
                self._writer.end_list()
                self._list(element, element.attrs.get(":style-name", ""), 1)
                self._writer.end_list()
            elif element.tag == "table":
                self._writer.table(list(self._cells(element)))
            else:
                self.write(element)

    def write_notes(self) -> None:
        """Write the notes gathered so far, outside any section."""
        if self._notes:
            self._writer.leave_section()
        for note in self._notes:
            self._writer.paragraph(note)
        self._notes.clear()

    def _list(self, element: Element, style: str, level: int) -> None:
        number = 0
        for item in element.elements("list-item", "list-header"):
            marker = "- "
            if item.tag == "list-item" and (style, level) in self._numbered:
                number += 1
                marker = f"{number}. "
            first = True
            for child in item.elements():
                if child.tag == "list":
                    self._list(child, child.attrs.get(":style-name", style), level + 1)
                elif child.tag in ("p", "h"):
                    lead = marker if first else " " * len(marker)
                    self._writer.item(_inline(child), "  " * min(level - 1, 8) + lead)
                    self._extras(child)
                    first = False

    def _cells(self, table: Element) -> Iterator[list[str]]:
        for row in _table_rows(table):
            line: list[str] = []
            for cell in row.elements("table-cell", "covered-table-cell"):
                paragraphs = cell.walk("p", "h") if cell.tag == "table-cell" else ()
                line.append("\n".join(_inline(paragraph) for paragraph in paragraphs))
                for paragraph in cell.walk("p", "h"):
                    self._gather(paragraph)
            yield line

    def _extras(self, paragraph: Element) -> None:
        """Write the text boxes anchored in a paragraph, and gather its notes."""
        self._gather(paragraph)
        for shape in _drawn(paragraph):
            self.write(shape)

    def _gather(self, paragraph: Element) -> None:
        for note in paragraph.walk("note"):
            body = note.first("note-body")
            if body is not None:
                self._notes.append("\n".join(_inline(line) for line in body.walk("p", "h")))


def _drawn(element: Element) -> Iterator[Element]:
    """Yield the shapes in a paragraph, not those inside other shapes."""
    for child in element.elements():
        if child.tag in _DRAWN:
            yield child
        elif child.tag not in _LEFT_OUT:
            yield from _drawn(child)


def _inline(element: Element) -> str:
    """Return the running text of a paragraph."""
    parts: list[str] = []
    for child in element.children:
        if isinstance(child, str):
            parts.append(" ".join(child.split("\n")))
        elif child.tag == "s":
            count = child.attrs.get(":c", "1")
            parts.append(" " * min(int(count) if count.isdecimal() else 1, 100))
        elif child.tag == "tab":
            parts.append("\t")
        elif child.tag == "line-break":
            parts.append("\n")
        elif child.tag not in _LEFT_OUT and child.tag not in _DRAWN:
            parts.append(_inline(child))
    return "".join(parts)


def _table_rows(table: Element) -> Iterator[Element]:
    for element in table.elements():
        if element.tag == "table-row":
            yield element
        elif element.tag in ("table-header-rows", "table-rows", "table-row-group"):
            yield from _table_rows(element)


def _rows(table: Element) -> Iterator[Row]:
    """Yield the rows of a sheet that hold something, runs of equal ones bounded."""
    number = count = 0
    for element in _table_rows(table):
        cells: dict[int, str] = {}
        numeric = False
        column = 0
        for cell in element.elements("table-cell", "covered-table-cell"):
            repeated = _times(cell, ":number-columns-repeated")
            text = "\n".join(_inline(line) for line in cell.elements("p")).strip()
            if text:
                for offset in range(min(repeated, _REPEATED)):
                    cells[column + offset] = text
                numeric = numeric or cell.attrs.get(":value-type", "string") != "string"
            column = min(column + repeated, _MAX_COLUMN)
        repeated = _times(element, ":number-rows-repeated")
        for offset in range(min(repeated, _REPEATED) if cells else 0):
            count += len(cells)
            if count > MAX_CELLS:
                raise too_many_cells(table.attrs.get(":name", ""))
            yield Row(number + offset + 1, cells, numeric)
        number += repeated


def _times(element: Element, attribute: str) -> int:
    given = element.attrs.get(attribute, "1")
    return max(1, int(given)) if given.isdecimal() and len(given) < 9 else 1
