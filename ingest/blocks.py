"""Writing a parsed text block by block while keeping its section spans exact.

Used by the HTML, DOCX and Markdown parsers. It knows headings, paragraphs, list items and
tables; it knows nothing of files, pages or passages.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ingest.encoding import plain
from rag.schema import Span

_MAX_HEADING = 120
_SMALL = 4000
_SPARSE = 50
_INVISIBLE = re.compile(
    "[\u00ad\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
_GAP = re.compile(r"[^\S\n]*\n\s*|[^\S\n]+")
_WIDE = (
    "\u2e80-\u303e\u3041-\u33ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
)
_HAN_GAP = re.compile(f"(?<=[{_WIDE}])[^\\S\n]*\n\\s*(?=[{_WIDE}])")


class SectionPath:
    """The headings above a place in a text.

    Attributes:
        spans: Finished section spans, in order, not nested.
    """

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self._open: list[tuple[int, str]] = []
        self._start = 0

    def heading(self, level: int, title: str, start: int) -> None:
        """Begin a section at character `start`; `level` counts from 1, deeper is larger."""
        self.close(start)
        while self._open and self._open[-1][0] >= level:
            self._open.pop()
        self._open.append((level, clip(title)))
        self._start = start

    def close(self, end: int) -> None:
        """End the running section at character `end`, if there is one."""
        if self._open and end > self._start:
            label = " > ".join(title for _, title in self._open)
            self.spans.append(Span(self._start, end, label))
        self._start = end

    def leave(self, end: int) -> None:
        """End the running section; what follows belongs to none until the next heading."""
        self.close(end)
        self._open.clear()


class TextWriter:
    """Collects blocks into one text, separated by blank lines; items and rows by line ends."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._length = 0
        self._tight = False
        self._fresh = False
        self._path = SectionPath()
        self._pages: list[Span] = []
        self._page: tuple[int, int] | None = None
        self.first_heading = ""

    def page(self, number: int) -> None:
        """Begin a page, a slide or a sheet, outside any section; numbers grow from 1."""
        self._end_page()
        self.leave_section()
        self._separate("\n\n")
        self._page = (number, self._length)
        self._tight = False
        self._fresh = True

    def pages(self) -> tuple[Span, ...]:
        """Return the spans of the pages that hold text; to be called at the end."""
        self._end_page()
        return tuple(self._pages)

    def _end_page(self) -> None:
        if self._page is not None and self._length > self._page[1]:
            number, start = self._page
            self._pages.append(Span(start, self._length, str(number)))
        self._page = None

    def heading(self, level: int, text: str) -> None:
        """Write a heading and begin its section."""
        text = one_line(text)
        if not text:
            return
        self._separate("\n\n")
        self._path.heading(level, text, self._length)
        self._write(text)
        self.first_heading = self.first_heading or clip(text)
        self._tight = False

    def paragraph(self, text: str) -> None:
        """Write a paragraph; line ends inside it are kept."""
        text = clean(text).strip()
        if text:
            self._separate("\n\n")
            self._write(text)
            self._tight = False

    def item(self, text: str, marker: str) -> None:
        """Write a list item after `marker`, which holds its indentation ("  - ", "1. ")."""
        text = clean(text).strip()
        if text:
            self._separate("\n" if self._tight else "\n\n")
            self._write(marker + text)
            self._tight = True

    def end_list(self) -> None:
        """The next item belongs to another list."""
        self._tight = False

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Write a Markdown table, the first row as its header; cells are put on one line each.

        Empty rows and columns are dropped. A table of one row or one column is no table, nor is a
        large one almost without cells: its cells become a paragraph, rows on lines of their own.
        """
        cells = [[one_line(cell) for cell in row] for row in rows]
        cells = [row for row in cells if any(row)]
        used = sorted({column for row in cells for column, cell in enumerate(row) if cell})
        filled = sum(len(row) - row.count("") for row in cells)
        if len(used) * len(cells) > max(_SMALL, _SPARSE * filled):
            used = []
        else:
            cells = [[row[column] if column < len(row) else "" for column in used] for row in cells]
        if len(cells) < 2 or len(used) < 2:
            self.paragraph("\n".join("  ".join(cell for cell in row if cell) for row in cells))
            return
        lines = [
            "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells
        ]
        lines.insert(1, "|" + " --- |" * len(used))
        self.paragraph("\n".join(lines))

    def leave_section(self) -> None:
        """What follows belongs to no section (notes at the end, for example)."""
        self._path.leave(self._length)

    def finish(self) -> tuple[str, tuple[Span, ...]]:
        """Return the text and its section spans."""
        self._path.close(self._length)
        return "".join(self._parts), tuple(self._path.spans)

    def _separate(self, gap: str) -> None:
        if self._parts and not self._fresh:
            self._write(gap)
        self._fresh = False

    def _write(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)


def clean(text: str) -> str:
    """Drop invisible characters: soft hyphens, zero-width, direction and tag characters.

    Control characters and no-break spaces become spaces.
    """
    return _INVISIBLE.sub("", plain(text)).replace("\xa0", " ")


def one_line(text: str) -> str:
    """Fold white space to single spaces; a line end between two Han characters disappears."""
    return fold(clean(text)).strip()


def fold(text: str) -> str:
    """Fold runs of white space to one space each, as a browser does, minding Han text."""
    return _GAP.sub(" ", _HAN_GAP.sub("", text))


def clip(title: str) -> str:
    """Cut a heading to 120 characters, ending in an ellipsis."""
    title = one_line(title)
    return title if len(title) <= _MAX_HEADING else title[: _MAX_HEADING - 1] + "…"
