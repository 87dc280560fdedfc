"""Which lines of a PDF are headings, by the size and the weight of their letters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ingest.lines import columns, number_depth
from ingest.pdf_layout import Line

_LARGER = 1.15
_MAX_COLUMNS = 90
_MAX_BOLD_COLUMNS = 70
_MAX_LINES = 3
_MAX_STYLES = 6
_NO_END = tuple("。！？；;!?，,、…")
_LETTERS = re.compile(r"[^\W\d_]")
_NO_START = re.compile(r"[a-z•·●○■◆▪➢*–—-]|[表图圖注]\s*[\d:：]|(?:Table|Figure|Fig\.)\s*\d")


@dataclass(frozen=True, slots=True)
class Headings:
    """Pages in which a heading is one line, and the levels of those.

    Attributes:
        pages: The lines.
        levels: (index of the page, index of the line) to its level from 1; 0 for the title.
        title: The title's text, "" where no line stands out as one.
    """

    pages: list[list[Line]]
    levels: dict[tuple[int, int], int]
    title: str = ""


def find_headings(pages: Sequence[Sequence[Line]]) -> Headings:
    """Find the headings of a document; none where letters do not tell them from the text.

    A heading is short and larger than most of the text, or bold where most of the text is not.
    When too much of a document would be headings, only the larger ones count, or none.
    """
    lines = [line for page in pages for line in page if line.fixed and not line.rows]
    weights: Counter[tuple[float, bool]] = Counter()
    for line in lines:
        weights[(_size(line), line.bold)] += len(line.text)
    plain = [list(page) for page in pages]
    if not weights:
        return Headings(plain, {})
    body = weights.most_common(1)[0][0]
    tables = [line.rows for page in pages for line in page if line.rows]
    count = len(lines) + sum(map(len, tables))
    total = sum(weights.values()) + sum(len(c) for rows in tables for row in rows for c in row)
    for with_bold in (True, False):
        joined, found = _candidates(pages, body, with_bold)
        chars = sum(len(joined[p][i].text) for p, i in found)
        few = len(found) <= max(3, count // 4) and chars * 5 <= total
        styles = {_style(joined[p][i]) for p, i in found}
        if found and few and len(styles) <= _MAX_STYLES:
            return _ranked(joined, found)
    return Headings(plain, {})


def _size(line: Line) -> float:
    return round(line.size * 2) / 2


def _style(line: Line) -> tuple[float, bool]:
    return -_size(line), not line.bold


def _candidates(
    pages: Sequence[Sequence[Line]], body: tuple[float, bool], with_bold: bool
) -> tuple[list[list[Line]], list[tuple[int, int]]]:
    """Join the lines of each heading; return the pages and the places of the headings."""
    joined: list[list[Line]] = []
    found: list[tuple[int, int]] = []
    for number, page in enumerate(pages):
        done: list[Line] = []
        index = 0
        while index < len(page):
            end = index + 1
            if _stands_out(page[index], body, with_bold):
                while end < len(page) and _continues(page[end - 1], page[end]):
                    end += 1
            text = _joined(page[index:end])
            if end - index <= _MAX_LINES and _is_title(text, page[index], body, with_bold):
                found.append((number, len(done)))
                done.append(replace(page[index], text=text))
            else:
                done.extend(page[index:end])
            index = end
        joined.append(done)
    return joined, found


def _stands_out(line: Line, body: tuple[float, bool], with_bold: bool) -> bool:
    if not line.fixed or line.turned or line.rows or line.cells > 1:
        return False
    return _is_large(line, body) or (
        with_bold and line.bold and not body[1] and line.size >= 0.95 * body[0]
    )


def _is_large(line: Line, body: tuple[float, bool]) -> bool:
    return line.size >= _LARGER * body[0] and line.size >= body[0] + 1


def _continues(line: Line, following: Line) -> bool:
    """Whether a line is of one kind with the line above it, and right below it."""
    return (
        not following.rows
        and _style(line) == _style(following)
        and 0 < line.y - following.y < 1.6 * line.size
        and line.x0 < following.x1
        and following.x0 < line.x1
        and number_depth(following.text) is None
    )


def _is_title(text: str, line: Line, body: tuple[float, bool], with_bold: bool) -> bool:
    """Whether a text reads like a heading."""
    if not _stands_out(line, body, with_bold) or _NO_START.match(text):
        return False
    most = _MAX_COLUMNS if _is_large(line, body) else _MAX_BOLD_COLUMNS
    if columns(text) > most * (2 if _is_large(line, body) else 1.5):
        return False
    ended = text.endswith(_NO_END) or (text.endswith(".") and not text.isupper())
    return not ended and len(_LETTERS.findall(text)) >= 2


def _joined(lines: Sequence[Line]) -> str:
    text = lines[0].text
    for line in lines[1:]:
        if text.endswith("\x02"):
            text = text.removesuffix("\x02") + line.text
        else:
            narrow = ord(text[-1]) < 0x2E80 or ord(line.text[0]) < 0x2E80
            text += " " * narrow + line.text
    return text


def _ranked(pages: list[list[Line]], found: Sequence[tuple[int, int]]) -> Headings:
    """Rank headings by their style, then by the depth of their numbers.

    One of the largest style that has no second is the title when it comes first; what stands
    right below it, not bold, belongs to it (an author, a date).
    """
    lines = {(p, i): pages[p][i] for p, i in found}
    styles = sorted({_style(line) for line in lines.values()})
    levels: dict[tuple[int, int], int] = {}
    for place, line in lines.items():
        depth = number_depth(line.text) or 0
        levels[place] = 1 + 10 * styles.index(_style(line)) + min(depth, 9)
    page, index = first = found[0]
    of_its_style = sum(_style(line) == styles[0] for line in lines.values())
    if _style(lines[first]) != styles[0] or of_its_style > 1:
        return Headings(pages, levels)
    if len(found) == 1 and index > 2:
        return Headings(pages, levels)
    levels[first] = 0
    while (page, index + 1) in levels and not pages[page][index + 1].bold:
        index += 1
        if number_depth(pages[page][index].text) is not None:
            break
        del levels[(page, index)]
    return Headings(pages, levels, lines[first].text.replace("\x02", "-"))
