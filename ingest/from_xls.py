"""XLS -> Document, through xlrd: cells as they are shown, like ingest.from_xlsx.

xlrd knows number formats, which faster readers leave out; it is plain Python, so a damaged file
raises instead of crashing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from io import StringIO
from typing import TYPE_CHECKING

from ingest.number_format import BUILT_IN, show_number
from ingest.packages import MACROS, ole_names
from ingest.sheets import MAX_CELLS, Row, Sheet, column_letters, sheets_document, too_many_cells
from rag.errors import DocumentRejected
from rag.schema import Document

if TYPE_CHECKING:
    from xlrd.book import Book
    from xlrd.sheet import Cell
    from xlrd.sheet import Sheet as XlSheet

_MEDIA_TYPE = "application/vnd.ms-excel"


def xls_document(data: bytes) -> Document:
    """Parse a workbook of Excel 2003 or older.

    Args:
        data: The file, known to begin like an OLE container.

    Returns:
        Each sheet a page and a section; numbers, dates and formulas' results as shown.

    Raises:
        DocumentRejected: reason "encrypted", "damaged", "too-large" or "unsupported".
    """
    import xlrd

    names = ole_names(data, "workbook")
    if "EncryptedPackage" in names:
        raise _encrypted()
    if not {"Workbook", "Book"} & set(names):
        raise DocumentRejected(
            "Not a workbook: the file holds no stream called Workbook.",
            reason="unsupported",
            do="Give the file the suffix of its real format.",
        )
    errors = (
        xlrd.XLRDError, xlrd.compdoc.CompDocError, struct.error, AssertionError, LookupError,
        ValueError, TypeError, AttributeError, ArithmeticError, OSError, NotImplementedError,
    )  # fmt: skip
    try:
        book = xlrd.open_workbook(
            file_contents=data,
            formatting_info=True,
            on_demand=True,
            ragged_rows=True,
            logfile=StringIO(),
        )
        warnings = (MACROS,) if "_VBA_PROJECT_CUR" in names else ()
        return sheets_document(_sheets(book), _MEDIA_TYPE, warnings=warnings)
    except errors as error:
        if "encrypted" in str(error).lower():
            raise _encrypted() from error
        why = " ".join(str(error).split())[:120].rstrip(".") or type(error).__name__
        raise DocumentRejected(
            f"A workbook that cannot be read: {why}.",
            reason="damaged",
            do="Open it in a spreadsheet program and save it again.",
        ) from error


def _encrypted() -> DocumentRejected:
    return DocumentRejected(
        "The workbook is encrypted and opens with a password only.",
        reason="encrypted",
        do="Remove the password and try again.",
    )


def _sheets(book: Book) -> Iterator[Sheet]:
    for index in range(book.nsheets):
        sheet = book.sheet_by_index(index)
        notes = [
            f"{column_letters(column)}{row + 1}: {' '.join(note.text.split())}"
            for (row, column), note in sorted(sheet.cell_note_map.items())
            if note.text.strip()
        ]
        yield Sheet(sheet.name, _rows(book, sheet), notes, sheet.visibility != 0)
        book.unload_sheet(index)


def _rows(book: Book, sheet: XlSheet) -> list[Row]:
    rows: list[Row] = []
    count = 0
    for number in range(sheet.nrows):
        cells: dict[int, str] = {}
        numeric = False
        for column, cell in enumerate(sheet.row(number)):
            shown = _shown(book, cell)
            if shown.strip():
                cells[column] = shown
                numeric = numeric or cell.ctype in (2, 3)
        count += len(cells)
        if count > MAX_CELLS:
            raise too_many_cells(sheet.name)
        if cells:
            rows.append(Row(number + 1, cells, numeric))
    return rows


def _shown(book: Book, cell: Cell) -> str:
    """Write a cell: xlrd's types are 1 text, 2 number, 3 date, 4 boolean, 5 error."""
    if cell.ctype == 1:
        return str(cell.value)
    if cell.ctype in (2, 3):
        return show_number(float(cell.value), _code(book, cell), from_1904=book.datemode == 1)
    if cell.ctype == 4:
        return "TRUE" if cell.value else "FALSE"
    if cell.ctype == 5:
        import xlrd

        return str(xlrd.error_text_from_code.get(cell.value, "#N/A"))
    return ""


def _code(book: Book, cell: Cell) -> str:
    index = cell.xf_index
    if index is None or not 0 <= index < len(book.xf_list):
        return "General"
    key = book.xf_list[index].format_key
    known = book.format_map.get(key)
    if key in BUILT_IN and (known is None or key < 164):
        return BUILT_IN[key]
    return str(known.format_str) if known is not None else "General"
