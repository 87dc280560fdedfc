"""XLSX and XLSM -> Document: cells as they are shown, with the values their formulas last had.

Sheets are read as a stream, so that only cells that exist take memory. Charts, pictures and text
boxes are not part of the text; comments on cells are. Macros are never run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ingest.number_format import BUILT_IN, show_number
from ingest.packages import MACROS, Package, PackageReader
from ingest.sheets import MAX_CELLS, Row, Sheet, sheets_document, too_many_cells
from ingest.xml_tree import Element, read_events
from rag.schema import Document

_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
_WORKBOOK = Package("workbook", "xl/workbook.xml", ".xlsx", ".xls")
_REFERENCE = re.compile(r"\$?([A-Z]{1,3})\$?(\d{1,7})$")
_ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")
_MAX_NOTES = 10_000
_MAX_COLUMN = 16_384


def xlsx_document(data: bytes) -> Document:
    """Parse a workbook.

    Args:
        data: The file, known to begin like a ZIP archive or an OLE container.

    Returns:
        Each sheet a page and a section; numbers, dates and formulas' results as shown.

    Raises:
        DocumentRejected: reason "encrypted", "damaged", "too-large" or "unsupported".
    """
    package = PackageReader(data, _WORKBOOK)
    warnings = (MACROS,) if package.holds_macros() else ()
    return sheets_document(_sheets(package), _MEDIA_TYPE, package.title(), warnings)


def xlsm_document(data: bytes) -> Document:
    """Parse a workbook with macros, which are not run; else as `xlsx_document`."""
    media_type = "application/vnd.ms-excel.sheet.macroenabled.12"
    return replace(xlsx_document(data), media_type=media_type)


@dataclass(frozen=True, slots=True)
class _Book:
    """What all sheets of a workbook share: its strings, its number formats, its calendar."""

    strings: list[str]
    formats: list[str]
    from_1904: bool


def _sheets(package: PackageReader) -> Iterator[Sheet]:
    workbook = package.tree(_WORKBOOK.part)
    related = package.related(_WORKBOOK.part)
    kinds = {kind: path for kind, path in related.values()}
    properties = workbook.first("workbookPr")
    flag = properties.attrs.get("date1904", "") if properties is not None else ""
    strings = _strings(package.read(kinds["sharedStrings"])) if "sharedStrings" in kinds else []
    formats = _formats(package.tree(kinds["styles"])) if "styles" in kinds else []
    book = _Book(strings, formats, flag in ("1", "true"))
    listed = workbook.first("sheets")
    read: set[str] = set()
    for entry in listed.elements("sheet") if listed is not None else ():
        kind, path = related.get(entry.attrs.get(":id", ""), ("", ""))
        name = entry.attrs.get("name", "")
        if kind == "worksheet" and path not in read:
            read.add(path)
            hidden = entry.attrs.get("state", "visible") != "visible"
            yield Sheet(name, _rows(package.read(path), name, book), _notes(package, path), hidden)
        else:
            yield Sheet(name, ())


def _strings(data: bytes) -> list[str]:
    """Read the shared strings; phonetic guides are left out."""
    strings: list[str] = []
    parts: list[str] = []
    inside = {"t": False, "rPh": False}

    def start(tag: str, _: dict[str, str]) -> None:
        if tag in inside:
            inside[tag] = True

    def end(tag: str) -> None:
        if tag in inside:
            inside[tag] = False
        elif tag == "si":
            strings.append(_unescape("".join(parts)))
            parts.clear()

    def text(characters: str) -> None:
        if inside["t"] and not inside["rPh"]:
            parts.append(characters)

    read_events(data, "The workbook's table of strings", start, end, text)
    return strings


def _unescape(text: str) -> str:
    """Resolve the escapes of characters that XML cannot hold, for example _x000D_."""
    if "_x" not in text:
        return text
    return _ESCAPED.sub(lambda match: chr(int(match.group(1), 16)), text)


def _formats(styles: Element) -> list[str]:
    """Return the number format of each cell style."""
    codes = dict(BUILT_IN)
    for entry in styles.walk("numFmt"):
        if entry.attrs.get("numFmtId", "").isdecimal():
            codes[int(entry.attrs["numFmtId"])] = entry.attrs.get("formatCode", "General")
    listed = styles.first("cellXfs")
    found = []
    for style in listed.elements("xf") if listed is not None else ():
        number = style.attrs.get("numFmtId", "0")
        found.append(codes.get(int(number) if number.isdecimal() else 0, "General"))
    return found


class _RowCollector:
    """Gathers the rows of a sheet from its XML events."""

    def __init__(self, name: str, book: _Book) -> None:
        self.rows: list[Row] = []
        self._name, self._book = name, book
        self._cells: dict[int, str] = {}
        self._row = self._column = self._count = 0
        self._numeric = False
        self._kind = self._style = ""
        self._value: list[str] = []
        self._in_value = self._in_phonetic = False

    def start(self, tag: str, attrs: dict[str, str]) -> None:
        if tag == "c":
            self._place(attrs.get("r", ""))
            self._kind, self._style = attrs.get("t", "n"), attrs.get("s", "0")
            self._value.clear()
        elif tag in ("v", "t"):
            self._in_value = True
        elif tag == "rPh":
            self._in_phonetic = True
        elif tag == "row":
            given = attrs.get("r", "")
            self._row = int(given) if given.isdecimal() and len(given) < 8 else self._row + 1
            self._column = -1

    def end(self, tag: str) -> None:
        if tag in ("v", "t"):
            self._in_value = False
        elif tag == "rPh":
            self._in_phonetic = False
        elif tag == "c" and self._value:
            shown = self._shown("".join(self._value))
            if shown.strip():
                self._cells[self._column] = shown
                self._count += 1
                if self._count > MAX_CELLS:
                    raise too_many_cells(self._name)
        elif tag == "row" and self._cells:
            self.rows.append(Row(self._row, self._cells, self._numeric))
            self._cells, self._numeric = {}, False

    def text(self, characters: str) -> None:
        if self._in_value and not self._in_phonetic:
            self._value.append(characters)

    def _place(self, reference: str) -> None:
        match = _REFERENCE.match(reference)
        if match is None:
            self._column = min(self._column + 1, _MAX_COLUMN)
            return
        column = 0
        for letter in match.group(1):
            column = 26 * column + ord(letter) - 64
        self._column = column - 1

    def _shown(self, value: str) -> str:
        if self._kind == "s":
            index = int(value) if value.strip().isdecimal() else -1
            strings = self._book.strings
            return strings[index] if 0 <= index < len(strings) else ""
        if self._kind == "inlineStr" or self._kind == "str":
            return _unescape(value)
        if self._kind == "b":
            return "TRUE" if value.strip() in ("1", "true") else "FALSE"
        if self._kind == "d":
            self._numeric = True
            return value.replace("T", " ").removesuffix(" 00:00:00")
        if self._kind == "e":
            return value
        try:
            number = float(value)
        except ValueError:
            return value
        self._numeric = True
        formats = self._book.formats
        style = int(self._style) if self._style.isdecimal() else 0
        code = formats[style] if style < len(formats) else "General"
        return show_number(number, code, from_1904=self._book.from_1904)


def _rows(data: bytes, name: str, book: _Book) -> list[Row]:
    collector = _RowCollector(name, book)
    read_events(data, "A sheet", collector.start, collector.end, collector.text)
    rows = {row.number: row for row in reversed(collector.rows)}
    return [rows[number] for number in sorted(rows)]


def _notes(package: PackageReader, sheet: str) -> list[str]:
    """Read the comments on a sheet's cells, each after its cell's name."""
    notes: list[str] = []
    for kind, path in package.related(sheet).values():
        if kind != "comments":
            continue
        for comment in package.tree(path).walk("comment"):
            body = comment.first("text")
            parts = body.walk("t") if body is not None else ()
            text = " ".join("".join(part.text() for part in parts).split())
            if text and len(notes) < _MAX_NOTES:
                notes.append(f"{comment.attrs.get('ref', '')}: {text}")
    return notes
