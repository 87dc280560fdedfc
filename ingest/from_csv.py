"""CSV and TSV -> Document: one Markdown table, the first row its header.

The separator is the one that cuts the first rows most evenly; quoted fields may hold line ends.
"""

from __future__ import annotations

import csv
from collections import Counter
from io import StringIO

from ingest.blocks import TextWriter
from rag.schema import Document

_CSV = "text/csv"
_TSV = "text/tab-separated-values"
_SEPARATORS = ",;\t|"
_SAMPLE_ROWS = 100
_SAMPLE = 100_000
_LONGEST_FIELD = 100_000
_NO_QUOTES = "Its quotes do not pair; every line was read as a row."


def csv_document(text: str) -> Document:
    """Read a decoded .csv file.

    Args:
        text: The file; a first line "sep=;" names the separator, as Excel has it.

    Returns:
        The rows as a Markdown table; lines where there is one column only.
    """
    first, _, rest = text.partition("\n")
    if first[:4].lower() == "sep=" and len(first.strip()) == 5:
        return _table(rest, first[4], _CSV)
    return _table(text, _separator(text), _CSV)


def tsv_document(text: str) -> Document:
    """Read a decoded .tsv file; like `csv_document`, with tabs unless there is none."""
    return _table(text, "\t" if "\t" in text else _separator(text), _TSV)


def _table(text: str, separator: str, media_type: str) -> Document:
    warnings: tuple[str, ...] = ()
    rows = _rows(text, separator)
    if rows is None:
        rows = [line.split(separator) for line in text.split("\n")]
        warnings = (_NO_QUOTES,)
    writer = TextWriter()
    writer.table(rows)
    written, _ = writer.finish()
    return Document(written, media_type=media_type, warnings=warnings)


def _rows(text: str, separator: str) -> list[list[str]] | None:
    """Cut a text into rows; None where a quote that is never closed swallows them."""
    try:
        rows = list(csv.reader(StringIO(text, newline=""), delimiter=separator))
    except csv.Error:
        return None
    if any(len(cell) > _LONGEST_FIELD for row in rows for cell in row):
        return None
    return rows


def _separator(text: str) -> str:
    """Return the separator that gives most rows the same number of columns, the more the better."""
    sample = text[:_SAMPLE]
    best, best_score = ",", 0.0
    for separator in _SEPARATORS:
        rows = _rows(sample, separator) or [line.split(separator) for line in sample.split("\n")]
        rows = [row for row in rows[:_SAMPLE_ROWS] if any(cell.strip() for cell in row)]
        if len(rows) > 1 and len(text) > _SAMPLE:
            rows.pop()  # it may be cut
        widths = Counter(len(row) for row in rows)
        width, count = max(widths.items(), key=lambda item: (item[1], item[0]), default=(1, 0))
        score = count / max(len(rows), 1) * (1 + min(width, 20) / 20) if width > 1 else 0.0
        if score > best_score:
            best, best_score = separator, score
    return best
