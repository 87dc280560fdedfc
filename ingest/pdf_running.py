"""Which lines of the pages of a PDF are running heads, feet and page numbers."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from ingest.pdf_layout import Line

_PAGE_NUMBER = re.compile(
    r"(?:page\s*|第\s*|[-–—]\s*|p\.\s*)?\d{1,4}(?:\s*页)?(?:\s*[-–—]|\s*(?:/|of|，?\s*共)\s*\d{1,4}(?:\s*页)?)?",
    re.I,
)
_EDGE = 2
_NEAR = 3.0
_LEAST = 3
_ROW = 4


def without_running_lines(pages: Sequence[Sequence[Line]]) -> list[list[Line]]:
    """Drop page numbers, and headers and footers that repeat, from the edges of pages.

    A line repeats when, digits aside, it stands in the first or last two lines of at least three
    pages, at the same height; where heights are unknown, of half of the pages, too. Turned lines
    are edges wherever they stand. A row of four cells or more may be the header of a table that
    runs on: its first appearance is kept. Single pages are left alone.
    """
    filled = sum(bool(page) for page in pages)
    if filled < 2:
        return [list(page) for page in pages]
    edges = [_edges(page) for page in pages]
    heights: dict[str, list[float]] = {}
    unknown: dict[str, int] = {}
    for page, places in zip(pages, edges, strict=True):
        for key in {_key(page[i].text) for i in places if not page[i].fixed}:
            unknown[key] = unknown.get(key, 0) + 1
        for key, y in {(_key(page[i].text), page[i].y) for i in places if page[i].fixed}:
            heights.setdefault(key, []).append(y)
    for ys in heights.values():
        ys.sort()
    rows: set[str] = set()
    kept: list[list[Line]] = []
    for page, places in zip(pages, edges, strict=True):
        drop: set[int] = set()
        for index in places:
            line = page[index]
            key = _key(line.text)
            if line.fixed:
                ys = heights[key]
                same = bisect_right(ys, line.y + _NEAR) - bisect_left(ys, line.y - _NEAR)
                repeats = same >= _LEAST
            else:
                repeats = unknown[key] >= max(_LEAST, filled / 2)
            first_row = line.cells >= _ROW and key not in rows
            if _PAGE_NUMBER.fullmatch(line.text) or (repeats and not first_row):
                drop.add(index)
            rows.add(key)
        kept.append([line for index, line in enumerate(page) if index not in drop])
    return kept


def _edges(page: Sequence[Line]) -> list[int]:
    """Return the places of the lines at the edges of a page; tables are none."""
    straight = [index for index, line in enumerate(page) if not line.turned]
    edges = {*straight[:_EDGE], *straight[-_EDGE:]}
    edges |= {index for index, line in enumerate(page) if line.turned}
    return sorted(index for index in edges if not page[index].rows)


def _key(line: str) -> str:
    return re.sub(r"\d+", "#", line).strip()
