"""Sheets of a workbook -> Document: each sheet a page and a section, its blocks Markdown tables.

It knows rows and cells, not file formats. A block ends at an empty row; single cells above a
table are paragraphs; the first row of a block with more cells is the table's header, unless it
holds numbers and a table stands above it: then it goes on with that table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ingest.blocks import TextWriter, clip
from rag.errors import DocumentRejected
from rag.schema import Document

MAX_CELLS = 3_000_000
"""Cells that hold something, in one sheet at most."""

_SPARSE = 50
_SMALL = 4000
_LONG_NOTE = 16
_HEADER_ROWS = 6


@dataclass(frozen=True, slots=True)
class Row:
    """A row that holds something.

    Attributes:
        number: From 1.
        cells: Column (from 0) to the text shown, none of them empty.
        numeric: Whether a cell of it is a number or a date.
    """

    number: int
    cells: dict[int, str]
    numeric: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """A sheet: its rows in order, the comments on its cells, and whether it is hidden."""

    name: str
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    hidden: bool = False


@dataclass(slots=True)
class _Block:
    """Rows between two empty ones: lines above a table, and the table."""

    lines: list[str] = field(default_factory=list)
    table: list[Row] = field(default_factory=list)


def sheets_document(
    sheets: Iterable[Sheet], media_type: str, title: str = "", warnings: Sequence[str] = ()
) -> Document:
    """Write sheets one after the other; they are taken one at a time.

    Args:
        sheets: In the workbook's order; empty ones count as pages but leave no text.
        media_type: Of the result.
        title: Of the workbook, "" if it has none.
        warnings: About the file; those about hidden sheets are added.

    Raises:
        DocumentRejected: reason "too-large" when a sheet holds more than MAX_CELLS cells.
    """
    writer = TextWriter()
    hidden: list[str] = []
    for number, sheet in enumerate(sheets, start=1):
        if not sheet.rows and not sheet.notes:
            continue
        writer.page(number)
        writer.heading(1, sheet.name or f"Sheet {number}")
        for block in _blocks(sheet.rows):
            _write(writer, block)
        for note in sheet.notes:
            writer.paragraph(note)
        if sheet.hidden:
            hidden.append(clip(sheet.name))
    text, sections = writer.finish()
    if hidden:
        warnings = (*warnings, f"Hidden sheets were read too: {', '.join(hidden[:10])}.")
    return Document(text, clip(title), writer.pages(), sections, media_type, tuple(warnings))


def too_many_cells(name: str) -> DocumentRejected:
    """Say that a sheet is too large."""
    return DocumentRejected(
        f"The sheet {clip(name)} holds more than {MAX_CELLS:,} cells.",
        reason="too-large",
        do="Split it.",
    )


def column_letters(column: int) -> str:
    """Return the letters of a column counted from 0: A, B, ... Z, AA, ..."""
    letters = ""
    column += 1
    while column > 0:
        column, rest = divmod(column - 1, 26)
        letters = chr(65 + rest) + letters
    return letters


def _blocks(rows: Sequence[Row]) -> list[_Block]:
    blocks: list[_Block] = []
    previous = 0
    for row in rows:
        if not blocks or row.number > previous + 1:
            goes_on = blocks and blocks[-1].table and row.numeric and len(row.cells) > 1
            if not goes_on:
                blocks.append(_Block())
        previous = row.number
        block = blocks[-1]
        if block.table or len(row.cells) > 1:
            block.table.append(row)
        else:
            block.lines.extend(row.cells.values())
    return blocks


def _header(table: Sequence[Row]) -> int:
    """Return which of the first rows names the columns: the fullest one above the numbers."""
    best = 0
    for index, row in enumerate(table[:_HEADER_ROWS]):
        if row.numeric:
            break
        if 2 * len(row.cells) >= 3 * len(table[best].cells):
            best = index
    return best


def _write(writer: TextWriter, block: _Block) -> None:
    header = _header(block.table)
    lines = ["  ".join(row.cells.values()) for row in block.table[:header]]
    writer.paragraph("\n".join([*block.lines, *lines]))
    table, notes = block.table[header:], list[str]()
    while len(table) > 1 and len(table[-1].cells) == 1:
        (last,) = table[-1].cells.values()
        if len(last) < _LONG_NOTE:
            break
        notes.append(last)
        table = table[:-1]
    columns = sorted({column for row in table for column in row.cells})
    cells = sum(len(row.cells) for row in table)
    if len(columns) * len(table) > max(_SMALL, _SPARSE * cells):
        writer.paragraph(
            "\n".join(
                f"{column_letters(column)}{row.number}: {text}"
                for row in table
                for column, text in sorted(row.cells.items())
            )
        )
    elif table:
        writer.table([[row.cells.get(column, "") for column in columns] for row in table])
    writer.paragraph("\n".join(reversed(notes)))
