"""One page of a PDF -> its text, its words with their places, and its ruled lines.

The text is PDFium's, in the order of the page's content; every word of it is in exactly one
piece. A piece is a stretch of one line without a wide gap. It decides no reading order and knows
no tables. Lengths are in points of an upright page, y growing upwards.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ingest.blocks import clean
from ingest.lines import columns as _columns

MAX_CHARS = 40_000
"""Characters of a page whose places are looked at; a longer page is read as plain text."""

_MAX_OBJECTS = 20_000
_MAX_SEGMENTS = 2_000
_MAX_RULES = 1_500
_THIN = 2.5
_HUGE = 20_000.0
_LINE = re.compile("[^\r\n\x02]+\x02?|\x02")
_LIGATURE = re.compile("(?<=[A-Za-z])\u21b5(?=[a-z-])")
_SPACE = " \xa0\u3000\t"
_END = _SPACE + "\x02"
_LOOSE = 0.8
_WORD = re.compile(r"[^ \xa0\u3000]+")
_BOLD = re.compile(r"bold|black|heavy|semib|demi|simhei|黑体|-hei|heiti", re.I)


class NoLayout(Exception):
    """The places of a page's characters are unknown or make no sense."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word and its left and right edge."""

    text: str
    x0: float
    x1: float


@dataclass(frozen=True, slots=True)
class Piece:
    r"""A stretch of one line.

    Attributes:
        text: Clean, not empty; "\x02" at its end marks a hyphen put in at a line end.
        line: Number of the line in the page's text; pieces of one line have the same.
        x0, x1: Left and right edge.
        y: Base line.
        size: Height of the font, > 0.
        bold: Whether its first and its last word are bold.
        upright: Whether it runs from left to right.
    """

    text: str
    line: int
    x0: float
    x1: float
    y: float
    size: float
    bold: bool
    upright: bool

    @property
    def middle(self) -> float:
        """Height of the middle of its letters."""
        return self.y + 0.3 * self.size


@dataclass(frozen=True, slots=True)
class Rule:
    """A straight line, level (y0 == y1) or upright (x0 == x1)."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class PageWords:
    """What a page shows.

    Attributes:
        pieces: In the order of the content.
        rules: Ruled lines and edges of rectangles; empty when there are too many.
        width, height: Of the page.
    """

    pieces: tuple[Piece, ...]
    rules: tuple[Rule, ...]
    width: float
    height: float


def page_words(page: Any, textpage: Any, text: str) -> PageWords:  # noqa: ANN401
    """Read the places of a page's words.

    Args:
        page: A pypdfium2 page.
        textpage: Its text page.
        text: What the text page holds, as `page_text` returns it.

    Raises:
        NoLayout: The text cannot be matched with places, is too long, is mostly turned, or has
            boxes or sizes that make no sense.
    """
    if len(text) > MAX_CHARS or len(text) != textpage.count_chars() or max(text) > "\uffff":
        raise NoLayout(f"{len(text)} characters for {textpage.count_chars()} places")
    reader = _Places(textpage.raw)
    tidy = _ligatures if _LIGATURE.search(text) else _plain
    pieces: list[Piece] = []
    for number, match in enumerate(_LINE.finditer(text)):
        pieces.extend(_pieces(reader, match.group(), match.start(), number, tidy))
    turned = sum(len(piece.text) for piece in pieces if not piece.upright)
    if turned * 2 > sum(len(piece.text) for piece in pieces):
        raise NoLayout("the text is turned")
    width, height = page.get_size()
    return PageWords(tuple(pieces), tuple(_rules(page)), float(width), float(height))


def page_text(textpage: Any) -> str:  # noqa: ANN401
    r"""Return the text of a text page, one character for each of its places where possible.

    "\x02" stands for a hyphen put in at a line end, "\0" for a character without a meaning.
    """
    count = textpage.count_chars()
    if count <= 0:
        return ""
    text = str(textpage.get_text_range(0, count))
    if "\ufffe" not in text or len(text) != count:
        return text.replace("\ufffe", "\x02")
    import pypdfium2.raw as pdfium

    parts = text.split("\ufffe")
    place = 0
    for index, part in enumerate(parts[:-1]):
        place += len(part)
        hyphen = pdfium.FPDFText_IsHyphen(textpage.raw, place) == 1
        parts[index] = part + ("\x02" if hyphen else "\0")
        place += 1
    return "".join(parts)


def without_layout(text: str) -> list[str]:
    """Return the lines of a page's text, clean and not empty, in the order of its content."""
    tidy = _ligatures if _LIGATURE.search(text) else _plain
    lines = (tidy(match.group()) for match in _LINE.finditer(text))
    return [line for line in lines if line]


def _plain(line: str) -> str:
    """Clean a line; the mark of a hyphen at its end stays."""
    mark = "\x02" if line.endswith("\x02") else ""
    return clean(line.removesuffix("\x02").replace("\0", "")).strip() + mark


def _ligatures(line: str) -> str:
    """Clean a line of a page on which some programs left the letters ff and ffi without meaning."""
    return _plain(re.sub("(?<=[A-Za-z])\0(?=[a-z])", "ffi", _LIGATURE.sub("ff", line)))


class _Places:
    """Asks PDFium where characters are."""

    def __init__(self, raw: Any) -> None:  # noqa: ANN401
        import pypdfium2.raw as pdfium

        self._page = raw
        self._pdfium = pdfium
        self._left, self._right, self._low, self._high = (ctypes.c_double() for _ in range(4))
        self._edges = tuple(
            ctypes.byref(value) for value in (self._left, self._right, self._low, self._high)
        )
        self._matrix = pdfium.FS_MATRIX()
        self._name = ctypes.create_string_buffer(128)
        self._flags = ctypes.c_int()
        self._bold: dict[int, bool] = {}
        self._box = pdfium.FPDFText_GetCharBox

    def span(self, index: int) -> tuple[float, float]:
        """Return the left and right edge of a character."""
        if not self._box(self._page, index, *self._edges):
            raise NoLayout("a character without a box")
        return self._left.value, self._right.value

    def stretch(self, start: int, end: int, gap: float) -> tuple[float, float] | None:
        """Return the edges of a stretch of characters; None where a gap in it is wider."""
        count = self._pdfium.FPDFText_CountRects(self._page, start, end - start)
        left, right = math.inf, -math.inf
        low, high, x0, x1 = self._low, self._high, self._left, self._right
        for index in range(count):
            self._pdfium.FPDFText_GetRect(self._page, index, x0, high, x1, low)
            if index and not -gap < x0.value - right < gap:
                return None
            left, right = min(left, x0.value), max(right, x1.value)
        return (left, right) if count > 0 else None

    def baseline(self, index: int) -> float:
        x, y = self._left, self._low
        if not self._pdfium.FPDFText_GetCharOrigin(
            self._page, index, ctypes.byref(x), ctypes.byref(y)
        ):
            raise NoLayout("a character without an origin")
        return y.value

    def size(self, index: int) -> tuple[float, bool]:
        """Return the height of a character's font and whether it stands upright."""
        if not self._pdfium.FPDFText_GetMatrix(self._page, index, self._matrix):
            raise NoLayout("a character without a matrix")
        matrix = self._matrix
        size = self._pdfium.FPDFText_GetFontSize(self._page, index)
        upright = matrix.a > 0 and abs(matrix.b) <= 0.2 * abs(matrix.a)
        return abs(size) * math.hypot(matrix.c, matrix.d), upright

    def bold(self, index: int) -> bool:
        weight = self._pdfium.FPDFText_GetFontWeight(self._page, index)
        if weight >= 600:
            return True
        length = self._pdfium.FPDFText_GetFontInfo(
            self._page, index, self._name, len(self._name), ctypes.byref(self._flags)
        )
        if not 0 < length <= len(self._name):
            return False
        return bool(_BOLD.search(self._name.raw[: length - 1].decode("utf-8", "replace")))


def _pieces(
    reader: _Places, line: str, start: int, number: int, tidy: Callable[[str], str]
) -> Iterator[Piece]:
    """Cut a line where a gap is wider than its font is high."""
    begin = start + len(line) - len(line.lstrip(_SPACE))
    end = start + len(line.rstrip(_END)) - 1
    if end < begin:
        return
    text = tidy(line)
    if not text:
        return
    size = reader.size(begin)
    whole = None if "  " in text else reader.stretch(begin, end + 1, size[0])
    if whole is not None and whole[1] - whole[0] < _columns(text) * size[0] * _LOOSE:
        yield _piece(reader, [Word(text, *whole)], number, begin, end)
        return
    words: list[Word] = []
    first = last = 0
    for match in _WORD.finditer(line):
        text = tidy(match.group())
        if not text or text == "\x02":
            continue
        begin = start + match.start()
        end = start + match.end() - 1 - match.group().endswith("\x02")
        x0, x1 = reader.span(begin)
        if end > begin:
            x1 = reader.span(end)[1]
        if words and (x0 - words[-1].x1 > size[0] or x0 < words[-1].x0 - size[0]):
            yield _piece(reader, words, number, first, last)
            words = []
        if not words:
            first = begin
            size = reader.size(begin)
        last = max(begin, end)
        words.append(Word(text, x0, max(x0, x1)))
    if words:
        yield _piece(reader, words, number, first, last)


def _piece(reader: _Places, words: list[Word], number: int, first: int, last: int) -> Piece:
    size, upright = reader.size(first)
    size = max(size, reader.size(last)[0])
    y = reader.baseline(first)
    if not 0.5 <= size < 1000:
        raise NoLayout(f"a font of {size:g} points")
    bold = reader.bold(first) and reader.bold(last)
    left, right = min(word.x0 for word in words), max(word.x1 for word in words)
    if not (-_HUGE < left <= right < _HUGE and -_HUGE < y < _HUGE):
        raise NoLayout("a box outside every page")
    text = " ".join(word.text for word in words)
    return Piece(text, number, left, right, y, size, bold, upright)


def _rules(page: Any) -> list[Rule]:  # noqa: ANN401
    """Return the straight lines of a page's paths; none when it draws too much."""
    import pypdfium2.raw as pdfium

    rules: list[Rule] = []
    count = pdfium.FPDFPage_CountObjects(page.raw)
    if not 0 < count <= _MAX_OBJECTS:
        return []
    edges = [ctypes.c_float() for _ in range(4)]
    for index in range(count):
        item = pdfium.FPDFPage_GetObject(page.raw, index)
        if pdfium.FPDFPageObj_GetType(item) != pdfium.FPDF_PAGEOBJ_PATH:
            continue
        segments = pdfium.FPDFPath_CountSegments(item)
        if segments <= 6:
            if pdfium.FPDFPageObj_GetBounds(item, *edges):
                rules.extend(_edges_of(*(edge.value for edge in edges)))
        elif segments <= _MAX_SEGMENTS:
            rules.extend(_segments(item, segments))
        if len(rules) > _MAX_RULES:
            return []
    return rules


def _edges_of(x0: float, y0: float, x1: float, y1: float) -> list[Rule]:
    """Return a thin box as one line, another as its four edges."""
    if not all(-_HUGE < value < _HUGE for value in (x0, y0, x1, y1)):
        return []
    if y1 - y0 <= _THIN and x1 - x0 <= _THIN:
        return []
    if y1 - y0 <= _THIN:
        return [Rule(x0, (y0 + y1) / 2, x1, (y0 + y1) / 2)]
    if x1 - x0 <= _THIN:
        return [Rule((x0 + x1) / 2, y0, (x0 + x1) / 2, y1)]
    return [Rule(x0, y0, x1, y0), Rule(x0, y1, x1, y1), Rule(x0, y0, x0, y1), Rule(x1, y0, x1, y1)]


def _segments(item: Any, count: int) -> Iterator[Rule]:  # noqa: ANN401
    """Yield the level and upright segments of a path; a curve in it makes it a picture."""
    import pypdfium2.raw as pdfium

    matrix = pdfium.FS_MATRIX()
    if not pdfium.FPDFPageObj_GetMatrix(item, matrix):
        return
    x, y = ctypes.c_float(), ctypes.c_float()
    found: list[Rule] = []
    before = begin = (0.0, 0.0)
    for index in range(count):
        segment = pdfium.FPDFPath_GetPathSegment(item, index)
        kind = pdfium.FPDFPathSegment_GetType(segment)
        if kind == pdfium.FPDF_SEGMENT_BEZIERTO or not pdfium.FPDFPathSegment_GetPoint(
            segment, x, y
        ):
            return
        point = (
            matrix.a * x.value + matrix.c * y.value + matrix.e,
            matrix.b * x.value + matrix.d * y.value + matrix.f,
        )
        if kind == pdfium.FPDF_SEGMENT_MOVETO:
            begin = point
        else:
            found.append(_box(before, point))
        if pdfium.FPDFPathSegment_GetClose(segment):
            found.append(_box(point, begin))
        before = point
    for rule in found:
        if rule.x1 - rule.x0 <= _THIN or rule.y1 - rule.y0 <= _THIN:
            yield from _edges_of(rule.x0, rule.y0, rule.x1, rule.y1)


def _box(one: tuple[float, float], other: tuple[float, float]) -> Rule:
    (x0, x1), (y0, y1) = sorted((one[0], other[0])), sorted((one[1], other[1]))
    return Rule(x0, y0, x1, y1)
