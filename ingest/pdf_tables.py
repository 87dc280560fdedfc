"""Tables among the pieces of a page: ruled ones, and ones whose columns line up.

A table is taken only when nothing speaks against it: the cells of a ruled one are rectangles, and
no piece crosses a line between them; one without lines has at least three columns, a header over
each, and white space between them in every row. All else stays text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from ingest.blocks import one_line
from ingest.pdf_words import PageWords, Piece, Rule

_NEAR = 3.0
_MAX_ATOMS = 5_000
_LEAST_ROWS = 4
_MAX_COLUMNS = 40
_NUMBER = re.compile(r"[\d\W]+$")
_LETTER = re.compile(r"[^\W\d_]")


@dataclass(frozen=True, slots=True)
class Table:
    """A table and where it stands.

    Attributes:
        rows: All equally long, the header first.
        pieces: Indexes of the pieces that are its cells.
        x0, y0, x1, y1: Its box, points; y grows upwards.
    """

    rows: tuple[tuple[str, ...], ...]
    pieces: frozenset[int]
    x0: float
    y0: float
    x1: float
    y1: float


def find_tables(page: PageWords) -> list[Table]:
    """Return the tables of a page, no piece in two of them."""
    found: list[Table] = []
    for group in _connected(page.rules):
        table = _ruled(page.pieces, group)
        if table is not None and not any(table.pieces & other.pieces for other in found):
            found.append(table)
    taken = frozenset[int]().union(*(table.pieces for table in found))
    found.extend(_aligned(page.pieces, taken))
    return found


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table, the first row as its header."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return lines


# --- ruled ------------------------------------------------------------------------------------


def _connected(rules: Sequence[Rule]) -> list[list[Rule]]:
    """Return groups of rules that touch each other."""
    groups: list[tuple[list[float], list[Rule]]] = []
    for rule in sorted(rules, key=lambda rule: (-rule.y1, rule.x0)):
        box = [rule.x0, rule.y0, rule.x1, rule.y1]
        members = [rule]
        apart = []
        for other, rest in groups:
            if _touch(box, other):
                box = [*map(min, box[:2], other[:2]), *map(max, box[2:], other[2:])]
                members.extend(rest)
            else:
                apart.append((other, rest))
        groups = [*apart, (box, members)]
    return [members for _, members in groups if len(members) >= 4]


def _touch(one: Sequence[float], other: Sequence[float]) -> bool:
    return (
        one[0] <= other[2] + _NEAR
        and other[0] <= one[2] + _NEAR
        and one[1] <= other[3] + _NEAR
        and other[1] <= one[3] + _NEAR
    )


def _ruled(pieces: Sequence[Piece], rules: Sequence[Rule]) -> Table | None:
    """Return the table that some rules draw, None where they draw none for certain."""
    level = [rule for rule in rules if rule.y0 == rule.y1 and rule.x1 - rule.x0 > _NEAR]
    upright = [rule for rule in rules if rule.x0 == rule.x1 and rule.y1 - rule.y0 > _NEAR]
    xs = _places([rule.x0 for rule in upright])
    ys = _places([rule.y0 for rule in level])[::-1]
    across, down = len(xs) - 1, len(ys) - 1
    if across < 2 or down < 2 or across * down > _MAX_ATOMS:
        return None
    group = _merged(xs, ys, level, upright)
    if group is None:
        return None
    wide: dict[int, tuple[int, int]] = {}
    for line in group:
        for place, cell in enumerate(line):
            first, last = wide.get(cell, (place, place))
            wide[cell] = (min(first, place), max(last, place))
    falling = [-y for y in ys]
    cells: dict[int, list[Piece]] = {}
    used: set[int] = set()
    for index, piece in enumerate(pieces):
        across_at, height = (piece.x0 + piece.x1) / 2, piece.middle
        if not (xs[0] <= across_at < xs[-1] and ys[-1] < height <= ys[0]):
            continue
        column = bisect_right(xs, across_at) - 1
        row = bisect_right(falling, -height) - 1
        cell = group[row][column]
        first, last = wide[cell]
        if piece.x0 < xs[first] - _NEAR or piece.x1 > xs[last + 1] + _NEAR:
            return None
        cells.setdefault(cell, []).append(piece)
        used.add(index)
    texts = {cell: _cell_text(members) for cell, members in cells.items()}
    rows = [[texts.get(cell, "") for cell in row] for row in group]
    for r in range(1, down):  # a cell over several columns is written once, a header over each
        for c in range(across - 1, 0, -1):
            if group[r][c] == group[r][c - 1] and group[r][c] not in group[0]:
                rows[r][c] = ""
    rows = _whole(_one_header(rows, group))
    if len(rows) < 2 or len(rows[0]) < 2 or len(texts) * 2 < len({c for row in group for c in row}):
        return None
    return Table(tuple(map(tuple, rows)), frozenset(used), xs[0], ys[-1], xs[-1], ys[0])


def _places(values: Sequence[float]) -> list[float]:
    """Return the means of values that lie close together, in order."""
    clusters: list[list[float]] = []
    for value in sorted(values):
        if clusters and value - clusters[-1][-1] <= _NEAR:
            clusters[-1].append(value)
        else:
            clusters.append([value])
    return [sum(cluster) / len(cluster) for cluster in clusters]


def _merged(
    xs: Sequence[float], ys: Sequence[float], level: Sequence[Rule], upright: Sequence[Rule]
) -> list[list[int]] | None:
    """Number the cells of a grid; None unless each is a rectangle and the frame is closed."""
    across, down = len(xs) - 1, len(ys) - 1
    walls = _Walls(xs, ys, level, upright)
    if not all(walls.level(edge, c) for edge in (0, down) for c in range(across)):
        return None
    number = [[r * across + c for c in range(across)] for r in range(down)]
    for r in range(down):
        for c in range(across):
            left = c > 0 and not walls.upright(c, r)
            above = r > 0 and not walls.level(r, c)
            if left:
                number[r][c] = number[r][c - 1]
            if above and left and number[r - 1][c] != number[r][c]:
                return None
            if above and not left:
                number[r][c] = number[r - 1][c]
    return number if _rectangles(number) else None


class _Walls:
    """Knows between which cells of a grid a line is drawn."""

    def __init__(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        level: Sequence[Rule],
        upright: Sequence[Rule],
    ) -> None:
        self._xs, self._ys = xs, ys
        self._level: dict[int, list[tuple[float, float]]] = {}
        self._upright: dict[int, list[tuple[float, float]]] = {}
        for rule in level:
            self._level.setdefault(_nearest(ys, rule.y0), []).append((rule.x0, rule.x1))
        for rule in upright:
            self._upright.setdefault(_nearest(xs, rule.x0), []).append((rule.y0, rule.y1))

    def level(self, edge: int, column: int) -> bool:
        """Whether a level line of the grid is drawn over a column."""
        middle = (self._xs[column] + self._xs[column + 1]) / 2
        return any(x0 <= middle <= x1 for x0, x1 in self._level.get(edge, ()))

    def upright(self, edge: int, row: int) -> bool:
        """Whether an upright line of the grid is drawn beside a row."""
        middle = (self._ys[row] + self._ys[row + 1]) / 2
        return any(y0 <= middle <= y1 for y0, y1 in self._upright.get(edge, ()))


def _rectangles(number: Sequence[Sequence[int]]) -> bool:
    """Whether all that have one number make a rectangle."""
    seen: dict[int, list[int]] = {}
    for r, row in enumerate(number):
        for c, cell in enumerate(row):
            box = seen.setdefault(cell, [r, c, r, c, 0])
            box[:] = [min(box[0], r), min(box[1], c), max(box[2], r), max(box[3], c), box[4] + 1]
    return all((b[2] - b[0] + 1) * (b[3] - b[1] + 1) == b[4] for b in seen.values())


def _nearest(places: Sequence[float], value: float) -> int:
    return min(range(len(places)), key=lambda index: abs(places[index] - value))


def _one_header(rows: list[list[str]], group: list[list[int]]) -> list[list[str]]:
    """Make one header of the rows over which a cell of the first row reaches."""
    across = len(rows[0])
    deep = max(sum(group[r][c] == group[0][c] for r in range(len(rows))) for c in range(across))
    spread = any(group[0][c] == group[0][c - 1] for c in range(1, across))
    if not 1 < deep < len(rows) or not spread:
        return rows
    head = [" ".join(dict.fromkeys(row[c] for row in rows[:deep] if row[c])) for c in range(across)]
    return [head, *rows[deep:]]


def _whole(rows: list[list[str]]) -> list[list[str]]:
    """Drop empty rows and columns."""
    rows = [row for row in rows if any(row)]
    used = [c for c in range(len(rows[0])) if any(row[c] for row in rows)] if rows else []
    return [[row[c] for c in used] for row in rows]


def _cell_text(pieces: Sequence[Piece]) -> str:
    lines: list[list[Piece]] = []
    for piece in sorted(pieces, key=lambda piece: -piece.middle):
        if lines and abs(lines[-1][0].middle - piece.middle) < 0.5 * piece.size:
            lines[-1].append(piece)
        else:
            lines.append([piece])
    text = "\n".join(
        " ".join(piece.text for piece in sorted(line, key=lambda piece: piece.x0)) for line in lines
    )
    return one_line(text.replace("\x02\n", "").replace("\x02", "-"))


# --- without lines ----------------------------------------------------------------------------


def _aligned(pieces: Sequence[Piece], taken: frozenset[int]) -> list[Table]:
    """Return tables without lines: rows of cells under a header, one after the other."""
    rows: list[list[int]] = []
    free = [i for i, piece in enumerate(pieces) if i not in taken and piece.upright]
    for index in sorted(free, key=lambda i: (-pieces[i].y, pieces[i].x0)):
        piece = pieces[index]
        if rows and abs(pieces[rows[-1][0]].y - piece.y) < 0.3 * piece.size:
            rows[-1].append(index)
        else:
            rows.append([index])
    found = []
    start = 0
    while start < len(rows):
        end = start
        while end < len(rows) and len(rows[end]) >= 2:
            end += 1
        if end - start >= _LEAST_ROWS:
            for begin in _headers(pieces, rows[start:end], start):
                table = _under_header(pieces, rows[begin:end])
                if table is not None and not _goes_on_below(pieces, table, rows[end:]):
                    found.append(table)
                    break
        start = max(end, start + 1)
    return found


def _headers(pieces: Sequence[Piece], rows: Sequence[Sequence[int]], start: int) -> list[int]:
    """Return where a header may stand: in the first row, or in bold ones."""
    bold = [n for n, row in enumerate(rows) if n and all(pieces[i].bold for i in row)]
    return [start + n for n in [0, *bold[:10]] if len(rows) - n >= _LEAST_ROWS]


def _under_header(pieces: Sequence[Piece], rows: Sequence[Sequence[int]]) -> Table | None:
    """Return the table whose header is the first of these rows; None where one does not fit."""
    members = [[pieces[i] for i in sorted(row, key=lambda i: pieces[i].x0)] for row in rows]
    head = members[0]
    if (
        len(head) < 3
        or len({piece.bold for piece in head}) > 1
        or any(_NUMBER.match(piece.text) for piece in head)
    ):
        return None
    size = median(piece.size for row in members for piece in row)
    spans = [[piece.x0, piece.x1] for piece in head]
    for row in members[1:]:
        for piece in row:
            over = [c for c, (x0, x1) in enumerate(spans) if piece.x0 < x1 and x0 < piece.x1]
            if len(over) != 1:
                return None
            spans[over[0]] = [min(spans[over[0]][0], piece.x0), max(spans[over[0]][1], piece.x1)]
    gaps = [after[0] - before[1] for before, after in pairwise(spans)]
    if min(gaps) < 0.8 * size:
        return None
    cells = [["" for _ in spans] for _ in members]
    for r, row in enumerate(members):
        for piece in row:
            column = next(c for c, (x0, x1) in enumerate(spans) if x0 <= piece.x0 <= x1)
            if cells[r][column]:
                return None
            cells[r][column] = one_line(piece.text.replace("\x02", "-"))
    if _wrapped(cells):
        return None
    body = [cell for row in cells[1:] for cell in row if cell]
    pitch = [one[0].y - other[0].y for one, other in pairwise(members)]
    if (
        len(body) < min(len(spans) / 2, 2) * (len(cells) - 1)
        or median(map(len, body)) > 30
        or max(pitch) > 2.5 * median(pitch)
        or not _lined_up(members, spans, size)
        or not any(_LETTER.search(cell) for cell in cells[0])
    ):
        return None
    everything = [piece for row in members for piece in row]
    return Table(
        tuple(map(tuple, cells)),
        frozenset(i for row in rows for i in row),
        min(piece.x0 for piece in everything),
        members[-1][0].y - 0.3 * size,
        max(piece.x1 for piece in everything),
        members[0][0].y + size,
    )


def _wrapped(cells: Sequence[Sequence[str]]) -> bool:
    """Whether rows seem to be the lines of longer cells: many go on in small letters."""
    below = [
        (above[c], row[c])
        for above, row in pairwise(cells)
        for c in range(len(row))
        if above[c] and row[c]
    ]
    return sum(cell[0].islower() for _, cell in below) * 3 > len(below)


def _lined_up(
    members: Sequence[Sequence[Piece]], spans: Sequence[Sequence[float]], size: float
) -> bool:
    """Whether the cells of each column share their left edge, right edge or middle."""
    for x0, x1 in spans:
        inside = [p for row in members for p in row if x0 <= p.x0 <= x1]
        for edge in (
            [p.x0 for p in inside],
            [p.x1 for p in inside],
            [(p.x0 + p.x1) / 2 for p in inside],
        ):
            usual = median(edge)
            if sum(abs(value - usual) <= 0.4 * size for value in edge) * 5 >= len(edge) * 4:
                break
        else:
            return False
    return True


def _goes_on_below(pieces: Sequence[Piece], table: Table, rows: Sequence[Sequence[int]]) -> bool:
    """Whether rows below stand so close that the table does not end where it seems to."""
    if not rows:
        return False
    height = (table.y1 - table.y0) / len(table.rows)
    near = [row for row in rows[:3] if table.y0 - pieces[row[0]].y < 2.2 * height]
    return any(len(row) >= 3 for row in near)
