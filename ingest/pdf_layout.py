"""The pieces of a page -> its lines and tables in reading order.

The order of the content is kept where it can be read. Columns of running text are read one after
the other where the content goes back and forth between them; a page whose content jumps upwards is
put in order from top to bottom, stretches that hang together staying so. Nothing is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from ingest.lines import columns
from ingest.pdf_tables import Table, find_tables
from ingest.pdf_words import PageWords, Piece, Rule

_LETTER = re.compile(r"[^\W\d_]")
_WIDE = 0.62
_MAX_WIDTH = 5_000
_LEAST_LINES = 5
_MAX_GUTTERS = 8
_MAX_BANDS = 20


@dataclass(frozen=True, slots=True)
class Line:
    r"""A line of a page, or a table.

    Attributes:
        text: The line; "\x02" at its end marks a hyphen put in there. "" for a table.
        rows: The table's, the header first; () for a line.
        x0, x1, y, size: Edges, base line and height of the font, points; a table's y is its foot,
            its size its height.
        bold: Whether all of it is bold.
        cells: How many stretches with wide gaps between them it is made of.
        fixed: Whether its place on the page is known.
        turned: Whether it runs in another direction than the page's text.
    """

    text: str
    rows: tuple[tuple[str, ...], ...] = ()
    x0: float = 0.0
    x1: float = 0.0
    y: float = 0.0
    size: float = 0.0
    bold: bool = False
    cells: int = 1
    fixed: bool = True
    turned: bool = False

    @property
    def top(self) -> float:
        """Upper edge."""
        return self.y + self.size


@dataclass(frozen=True, slots=True)
class Band:
    """A part of a page in columns: its upper and lower end, and the middles of the gutters."""

    top: float
    foot: float
    gutters: tuple[float, ...]

    def column(self, x0: float, x1: float) -> int | None:
        """Return the column of a stretch from x0 to x1, None where it crosses a gutter."""
        number = sum(x > (x0 + x1) / 2 for x in self.gutters)
        crosses = any(x0 < x < x1 for x in self.gutters)
        return None if crosses else len(self.gutters) - number


def page_lines(page: PageWords) -> list[Line]:
    """Return the lines and tables of a page in reading order; turned text comes last."""
    tables = find_tables(page)
    taken = {index: table for table in tables for index in table.pieces}
    free = [p for i, p in enumerate(page.pieces) if p.upright and i not in taken]
    bands = find_bands(free, page.rules)
    items: list[Line] = []
    turned: list[Line] = []
    written: set[Table] = set()
    row: list[Piece] = []
    for index, piece in enumerate(page.pieces):
        table = taken.get(index)
        if row and (table or not piece.upright or _parted(row[-1], piece, bands)):
            items.append(_line(row))
            row = []
        if table is not None:
            if table not in written:
                items.append(_table(table))
            written.add(table)
        elif piece.upright:
            row.append(piece)
        else:
            turned.append(replace(_line([piece]), turned=True))
    if row:
        items.append(_line(row))
    items = _centred_head(items, free, page.height)
    return [*_in_order(items, bands), *turned]


def _parted(piece: Piece, following: Piece, bands: Sequence[Band]) -> bool:
    """Whether a line ends after a piece; raised figures and other fonts do not end it."""
    if piece.text.endswith("\x02"):
        return True
    size = max(piece.size, following.size)
    if piece.line != following.line:
        gap = following.x0 - piece.x1
        if abs(piece.y - following.y) > 0.55 * size or not -0.4 * size <= gap <= 0.6 * size:
            return True
    elif abs(piece.y - following.y) > size:
        return True
    low, high = sorted(((piece.x0 + piece.x1) / 2, (following.x0 + following.x1) / 2))
    return any(
        band.foot <= piece.y <= band.top and any(low < x < high for x in band.gutters)
        for band in bands
    )


def _line(pieces: Sequence[Piece]) -> Line:
    longest = max(pieces, key=lambda piece: len(piece.text))
    text = pieces[0].text
    cells = 1
    for before, piece in pairwise(pieces):
        touching = piece.line != before.line and piece.x0 - before.x1 < 0.12 * before.size
        text += ("" if touching else " ") + piece.text
        cells += piece.x0 - before.x1 > before.size
    return Line(
        text,
        (),
        min(piece.x0 for piece in pieces),
        max(piece.x1 for piece in pieces),
        longest.y,
        longest.size,
        all(piece.bold for piece in pieces),
        cells,
    )


def _table(table: Table) -> Line:
    return Line("", table.rows, table.x0, table.x1, table.y0, table.y1 - table.y0)


# --- columns ----------------------------------------------------------------------------------


def find_bands(pieces: Sequence[Piece], rules: Sequence[Rule]) -> list[Band]:
    """Find the parts of a page where running text stands in columns.

    What is wider than a column (a line of text, a long rule) ends such a part.
    """
    if len(pieces) < 2 * _LEAST_LINES:
        return []
    left, right = min(p.x0 for p in pieces), max(p.x1 for p in pieces)
    if not 0 < right - left < _MAX_WIDTH:
        return []
    wide = _WIDE * (right - left)
    ends = [p.middle for p in pieces if p.x1 - p.x0 > wide]
    ends += [rule.y0 for rule in rules if rule.y0 == rule.y1 and rule.x1 - rule.x0 > wide]
    found: list[Band] = []
    for run in _runs([p for p in pieces if p.x1 - p.x0 <= wide], ends):
        band = _band(run)
        if band is None:
            crossing = _crossing(run)
            rest = [p for p in run if p not in crossing]
            parts = _runs(rest, [p.middle for p in crossing]) if crossing else []
            found.extend(band for part in parts if (band := _band(part)) is not None)
        else:
            found.append(band)
    return found if len(found) <= _MAX_BANDS else []


def _runs(pieces: Iterable[Piece], ends: Iterable[float]) -> list[list[Piece]]:
    """Part pieces by their height wherever something ends."""
    events: list[tuple[float, int, Piece | None]] = [(-p.middle, 1, p) for p in pieces]
    events += [(-y, 0, None) for y in ends]
    runs: list[list[Piece]] = [[]]
    for _, _, piece in sorted(events, key=lambda event: event[:2]):
        if piece is not None:
            runs[-1].append(piece)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if len(run) >= 2 * _LEAST_LINES]


def _cover(pieces: Sequence[Piece]) -> tuple[int, list[int]]:
    """Count the pieces over each point from left to right."""
    left = int(min(p.x0 for p in pieces))
    steps = [0] * (int(max(p.x1 for p in pieces)) - left + 3)
    for piece in pieces:
        steps[int(piece.x0) - left] += 1
        steps[int(piece.x1) - left + 1] -= 1
    total = 0
    for place, step in enumerate(steps):
        total += step
        steps[place] = total
    return left, steps


def _gaps(pieces: Sequence[Piece], most: int) -> list[float]:
    """Return the middles of the gaps that at most so many pieces cross."""
    left, cover = _cover(pieces)
    narrow = 0.7 * median(p.size for p in pieces)
    found: list[float] = []
    start: int | None = None
    for place, count in enumerate(cover):
        if count <= most and start is None:
            start = place
        elif count > most and start is not None:
            if start > 0 and place - start >= narrow:
                found.append(left + (start + place) / 2)
            start = None
    return found


def _crossing(pieces: Sequence[Piece]) -> set[Piece]:
    """Return the few pieces that cross what else would be gutters."""
    gaps = _gaps(pieces, max(1, len(pieces) // 25))
    if len(gaps) > _MAX_GUTTERS:
        return set()
    return {p for p in pieces if any(p.x0 < x < p.x1 for x in gaps)}


def _band(pieces: Sequence[Piece]) -> Band | None:
    """Return the columns of a part of a page; None unless each of them is running text."""
    if len(pieces) < 2 * _LEAST_LINES:
        return None
    gutters = _gaps(pieces, 0)
    if not 0 < len(gutters) <= _MAX_GUTTERS:
        return None
    band = Band(max(p.middle for p in pieces) + 0.1, min(p.y for p in pieces) - 0.1, tuple(gutters))
    sides: list[list[Piece]] = [[] for _ in range(len(gutters) + 1)]
    for piece in pieces:
        sides[band.column(piece.x0, piece.x1) or 0].append(piece)
    if not all(_is_running(side) for side in sides):
        return None
    tops = [max(p.middle for p in side) for side in sides]
    feet = [min(p.middle for p in side) for side in sides]
    both = (min(tops), max(feet))
    if any(sum(both[1] <= p.middle <= both[0] for p in side) < _LEAST_LINES - 1 for side in sides):
        return None
    return band


def _is_running(side: Sequence[Piece]) -> bool:
    """Whether the pieces of a column are lines of running text."""
    if len(side) < _LEAST_LINES:
        return False
    width = max(p.x1 for p in side) - min(p.x0 for p in side)
    full = sum(p.x1 - p.x0 >= 0.6 * width for p in side) * 2 >= len(side)
    long = median(columns(p.text) for p in side) >= 14
    text = "".join(p.text for p in side[:40])
    worded = len(_LETTER.findall(text)) * 2 >= len(text)
    return full and long and worded


# --- order ------------------------------------------------------------------------------------


def _in_order(items: list[Line], bands: Sequence[Band]) -> list[Line]:
    """Put lines in reading order; they stay as they are where that can be read."""
    if not _jumps(items) and not _wanders(items, bands):
        return items
    if not bands:
        return _from_top(items)
    inside: list[list[list[Line]]] = [[[] for _ in range(len(b.gutters) + 1)] for b in bands]
    outside: list[Line] = []
    for item in items:
        for band, sides in zip(bands, inside, strict=True):
            column = band.column(item.x0, item.x1)
            if band.foot <= item.y <= band.top and column is not None:
                sides[column].append(item)
                break
        else:
            outside.append(item)
    done: list[Line] = []
    edge = float("inf")
    for band, sides in sorted(zip(bands, inside, strict=True), key=lambda pair: -pair[0].top):
        done.extend(_from_top([i for i in outside if band.top < i.y <= edge]))
        notes: list[Line] = []
        for side in sides:
            text, below = _with_notes(_from_top(side))
            done.extend(text)
            notes.extend(below)
        done.extend(notes)
        done.extend(_from_top([i for i in outside if band.foot <= i.y <= band.top]))
        edge = band.foot
        outside = [i for i in outside if i.y < band.foot]
    done.extend(_from_top(outside))
    return done


def _with_notes(column: Sequence[Line]) -> tuple[Sequence[Line], Sequence[Line]]:
    """Part a column from the lines in smaller letters at its foot, which are notes."""
    if not column:
        return column, []
    usual = median(line.size for line in column)
    end = len(column)
    while end > 0 and not column[end - 1].rows and column[end - 1].size < 0.93 * usual:
        end -= 1
    return column[:end], column[end:]


def _jumps(items: Sequence[Line]) -> bool:
    """Whether a line stands above the one before it, in the same column."""
    return any(
        after.y > before.y + 0.7 * max(min(before.size, after.size), 1.0) and _beside(before, after)
        for before, after in pairwise(items)
    )


def _beside(one: Line, other: Line) -> bool:
    """Whether two lines have a stretch from left to right in common."""
    return one.x0 < other.x1 and other.x0 < one.x1


def _wanders(items: Sequence[Line], bands: Sequence[Band]) -> bool:
    """Whether the content of a band goes back and forth between its columns."""
    for band in bands:
        path = [band.column(item.x0, item.x1) for item in items if band.foot <= item.y <= band.top]
        known = [column for column in path if column is not None]
        if any(after < before for before, after in pairwise(known)):
            return True
    return False


def _from_top(items: Sequence[Line]) -> list[Line]:
    """Order lines from top to bottom, keeping stretches that follow each other downwards."""
    if not _jumps(items):
        return list(items)
    return [item for stretch in _cut(_stretches(items), 0) for item in stretch]


def _stretches(items: Sequence[Line]) -> list[list[Line]]:
    """Part lines where the next one does not stand right below."""
    found: list[list[Line]] = []
    for item in items:
        before = found[-1][-1] if found else None
        if (
            before is not None
            and _beside(before, item)
            and -0.2 * before.size <= before.y - item.top <= 1.5 * before.size
        ):
            found[-1].append(item)
        else:
            found.append([item])
    return found


def _cut(parts: list[list[Line]], depth: int) -> list[list[Line]]:
    """Order stretches: what is above first, else what is left, else as they came."""
    if len(parts) < 2 or depth > 40:
        return parts
    bands = _split(parts, lambda p: (-max(i.top for i in p), -min(i.y for i in p)))
    if len(bands) == 1:
        bands = _split(parts, lambda p: (min(i.x0 for i in p), max(i.x1 for i in p)))
    if len(bands) == 1:
        return parts
    return [part for band in bands for part in _cut(band, depth + 1)]


def _split(
    parts: Sequence[list[Line]], extent: Callable[[list[Line]], tuple[float, float]]
) -> list[list[list[Line]]]:
    """Part stretches wherever none reaches over, a third of a line's height set aside."""
    spans = sorted(
        ((*extent(part), number) for number, part in enumerate(parts)), key=lambda s: s[:2]
    )
    slack = 0.35 * min(item.size for part in parts for item in part)
    groups: list[list[int]] = []
    reach = 0.0
    for start, end, number in spans:
        if groups and start < reach - slack:
            groups[-1].append(number)
            reach = max(reach, end)
        else:
            groups.append([number])
            reach = end
    return [[parts[number] for number in sorted(group)] for group in groups]


def _centred_head(items: list[Line], pieces: Sequence[Piece], height: float) -> list[Line]:
    """Keep the centred lines at the top of a page together that others stand to the sides of."""
    by_text: dict[int, list[Piece]] = {piece.line: [] for piece in pieces}
    for piece in pieces:
        by_text[piece.line].append(piece)
    rows = [row for row in by_text.values() if row[0].y > 0.8 * height]
    for above, below in pairwise(rows):
        if not (len(above) == 3 and len(below) == 1):
            continue
        left, middle, right = above
        line = below[0]
        apart = 3 * middle.size
        if (
            abs(middle.x0 + middle.x1 - line.x0 - line.x1) <= 0.6 * middle.size
            and abs(middle.x0 - line.x0) > middle.size
            and 0 < middle.y - line.y < 1.8 * middle.size
            and middle.x0 - left.x1 > apart
            and right.x0 - middle.x1 > apart
        ):
            whole = _line(above)
            following = _line(below)
            if whole in items and following in items:
                place = items.index(whole)
                items.remove(following)
                items[place : place + 1] = [
                    _line([left]),
                    _line([middle]),
                    following,
                    _line([right]),
                ]
    return items
