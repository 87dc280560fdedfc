"""Where paragraphs begin on a page, and how wide a full line is, by the places of its lines."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from ingest.lines import columns, is_item
from ingest.pdf_layout import Line

_AROUND = 5
_WIDE_GAP = 1.35


def full_widths(page: Sequence[Line]) -> list[int]:
    """Return how wide the widest line near each one is that begins at the same edge, columns.

    0 where places are unknown.
    """
    widths = [columns(line.text) if line.fixed and not line.rows else 0 for line in page]
    found = []
    for index, line in enumerate(page):
        first = max(0, index - _AROUND)
        around = zip(
            widths[first : index + _AROUND + 1], page[first : index + _AROUND + 1], strict=True
        )
        near = (width for width, other in around if abs(other.x0 - line.x0) < 3 * line.size)
        found.append(max(near, default=0) if line.fixed else 0)
    return found


def paragraph_starts(page: Sequence[Line]) -> set[int]:
    """Return the indexes of lines that begin a paragraph for certain.

    They stand further below the line before than lines do, are indented while the next one is
    not, have letters of another size, run in another direction, or are rows with wide gaps.
    """
    gaps = [
        before.y - after.y
        for before, after in pairwise(page)
        if before.fixed and after.fixed and 0 < before.y - after.y < 3 * before.size
    ]
    usual = median(gaps) if gaps else 0.0
    found: set[int] = set()
    for index in range(1, len(page)):
        before, line = page[index - 1], page[index]
        if not (before.fixed and line.fixed) or before.rows or line.rows:
            continue
        below = page[index + 1] if index + 1 < len(page) else None
        if (
            before.turned != line.turned
            or (before.cells > 1 and line.cells > 1)
            or before.y - line.y > max(_WIDE_GAP * usual, 1.2 * line.size)
            or _other_size(before, line)
            or (below is not None and _is_indented(before, line, below))
        ):
            found.add(index)
    return found


def _other_size(before: Line, line: Line) -> bool:
    smaller, larger = sorted((before.size, line.size))
    return larger > 1.1 * smaller and min(len(before.text), len(line.text)) > 20


def _is_indented(before: Line, line: Line, below: Line) -> bool:
    """Whether a line is indented, the lines before and after it being on one edge.

    The second line of a list item is not.
    """
    if is_item(before.text) or is_item(below.text):
        return False
    return (
        0.8 * line.size < line.x0 - before.x0 < 6 * line.size
        and abs(below.x0 - before.x0) < 0.3 * line.size
        and before.y > line.y > below.y
    )
