"""Which lines of the pages of a PDF are running heads, feet and page numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

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

    A line repeats when it stands in the first or last two lines of at least three pages, at the
    same height; where heights are unknown, of half of the pages, too. Its numbers are the same or
    count on with the pages: a total at the foot of each invoice stays. Turned lines are edges
    wherever they stand. A row of four cells or more may be the header of a table that runs on: its
    first appearance is kept. Single pages are left alone, and so is a file that would be empty.
    """
    filled = sum(bool(page) for page in pages)
    if filled < 2:
        return [list(page) for page in pages]
    places: dict[tuple[str, bool], list[_Place]] = {}
    drop: set[tuple[int, int]] = set()
    for number, page in enumerate(pages):
        for index in _edges(page):
            line = page[index]
            if _PAGE_NUMBER.fullmatch(line.text):
                drop.add((number, index))
            else:
                key = (re.sub(r"\d+", "#", line.text), line.fixed)
                places.setdefault(key, []).append(_Place(line.y, number, index))
    for (_, fixed), found in places.items():
        least = _LEAST if fixed else max(_LEAST, filled / 2)
        for group in _levels(found):
            lines = [pages[place.page][place.index] for place in group]
            if len({place.page for place in group}) < least or not _counts_on(group, lines):
                continue
            first = int(lines[0].cells >= _ROW)
            drop |= {(place.page, place.index) for place in group[first:]}
    kept = [
        [line for index, line in enumerate(page) if (number, index) not in drop]
        for number, page in enumerate(pages)
    ]
    return kept if any(kept) else [list(page) for page in pages]


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    """Where a line stands: its height, the index of its page, its index there."""

    y: float
    page: int
    index: int


def _levels(places: Sequence[_Place]) -> list[list[_Place]]:
    """Group places by their height, each group in the order of the pages."""
    groups: list[list[_Place]] = []
    for place in sorted(places):
        if groups and place.y - groups[-1][-1].y <= _NEAR:
            groups[-1].append(place)
        else:
            groups.append([place])
    return [sorted(group, key=lambda place: (place.page, place.index)) for group in groups]


def _counts_on(group: Sequence[_Place], lines: Sequence[Line]) -> bool:
    """Whether each number in lines that are alike else is the same or grows with the pages.

    From four lines on, one in four may be out of line.
    """
    numbers = [[int(digits[:9]) for digits in re.findall(r"\d+", line.text)] for line in lines]
    steps = [after.page - before.page for before, after in pairwise(group)]
    for column in zip(*numbers, strict=True):
        odd = sum(
            not 0 <= after - before <= 2 * step
            for (before, after), step in zip(pairwise(column), steps, strict=True)
        )
        if odd > len(lines) // 4:
            return False
    return True


def _edges(page: Sequence[Line]) -> list[int]:
    """Return the places of the lines at the edges of a page; tables are none."""
    straight = [index for index, line in enumerate(page) if not line.turned]
    edges = {*straight[:_EDGE], *straight[-_EDGE:]}
    edges |= {index for index, line in enumerate(page) if line.turned}
    return sorted(index for index in edges if not page[index].rows)
