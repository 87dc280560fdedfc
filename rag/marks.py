"""Finds citation marks such as [1] or 【1-3】 in what a model writes, and takes them out.

It knows no passages: whether a number exists, and whether its passage supports anything, is
rag.citations' business. A model's output is untrusted: any string is harmless here, and the time
it takes is linear in its length, however it is cut into pieces.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_ANSWER_CHARS = 200_000
"""What a model wrote beyond this is cut off."""

MAX_MARKS = 12
"""Passages that one sentence may cite; further marks are ignored."""

_NUMBER = r"[0-9]{1,9}+"
_NUMBERS = rf"{_NUMBER}(?:\s?[,，、;；–—~～-]\s?{_NUMBER}){{0,40}}+"
_OPENER = re.compile(r" ?[\[【［]")
_MARK = re.compile(rf" ?[\[【［]\s?({_NUMBERS})\s?[\]】］]")
_BEGUN = re.compile(rf" ?[\[【［]\s?(?:{_NUMBERS}(?:\s?[,，、;；–—~～-])?\s?)?\Z")
_PARENTHESES = str.maketrans("[【［]】］", "((()))")
_RANGE = re.compile(rf"({_NUMBER})(?:\s?[–—~～-]\s?({_NUMBER}))?")
_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n\s*\n")


@dataclass(frozen=True, slots=True)
class MarkedText:
    """A text without its marks, and where they were.

    Attributes:
        text: Runs of white space are single blanks or line breaks.
        marks: (position in `text`, passage numbers as written), in order.
    """

    text: str
    marks: list[tuple[int, list[int]]]


def parse_marks(text: str) -> MarkedText:
    """Take the citation marks out of a text.

    Read are [1], [1][2], [1, 2], [1-3] and the same in full-width brackets. Of a range with more
    than MAX_MARKS numbers only the first is kept. Whether a number exists is not checked.
    """
    reader = MarkReader()
    return MarkedText(reader.finish(text), reader.marks)


class MarkReader:
    """Takes the citation marks out of a text that is still being written, as `parse_marks` does.

    It holds back white space at the end, and what may still become a mark.
    """

    def __init__(self) -> None:
        self.marks: list[tuple[int, list[int]]] = []
        """Those found so far: all that stand before a character that was given."""
        self._left = MAX_ANSWER_CHARS
        self._spaces = ""  # held back at each step
        self._marked = ""
        self._bare = ""
        self._length = 0

    def feed(self, text: str) -> str:
        """Take the next stretch; return what is certain of the text without marks."""
        return self._disarm(self._unmark(self._respace(text, whole=False), False), False)

    def finish(self, text: str = "") -> str:
        """Take the last stretch; return what is left of the text without marks."""
        return self._disarm(self._unmark(self._respace(text, whole=True), True), True)

    def _respace(self, text: str, *, whole: bool) -> str:
        """Make every run of white space a blank, a line break or two."""
        text = self._spaces + text[: self._left]
        self._left -= len(text) - len(self._spaces)
        end = len(text) if whole else len(text.rstrip())
        self._spaces = _respaced(text[end:])
        return _respaced(text[:end])

    def _unmark(self, text: str, whole: bool) -> str:
        """Take the marks out and note where they were."""
        text = self._marked + text
        marks, end = _finished_marks(text, whole)
        parts: list[str] = []
        last = 0
        for mark in marks:
            part = text[last : mark.start()]
            parts.append(part)
            self._length += len(part)
            self.marks.append((self._length, _numbers(mark[1])))
            last = mark.end()
            if text[mark.start()] == " " and text[last : last + 1].isalnum():
                parts.append(" ")
                self._length += 1
        parts.append(text[last:end])
        self._length += end - last
        self._marked = text[end:]
        return "".join(parts)

    def _disarm(self, text: str, whole: bool) -> str:
        """Put parentheses about what looks like a mark only now: "[[1]2]" has become "[2]"."""
        text = self._bare + text
        marks, end = _finished_marks(text, whole)
        parts: list[str] = []
        last = 0
        for mark in marks:
            parts += [text[last : mark.start()], mark[0].translate(_PARENTHESES)]
            last = mark.end()
        parts.append(text[last:end])
        self._bare = text[end:]
        return "".join(parts)


def _respaced(text: str) -> str:
    return _BLANK_LINES.sub("\n\n", _SPACES.sub(" ", text))


def _finished_marks(text: str, whole: bool) -> tuple[list[re.Match[str]], int]:
    """The marks in a text, and where begins what may still become one, or more of one.

    Args:
        text: It may go on, unless it is whole.
        whole: Whether this is all; then nothing is held back.
    """
    marks: list[re.Match[str]] = []
    position = 0
    while (opener := _OPENER.search(text, position)) is not None:
        mark = _MARK.match(text, opener.start())
        if mark is not None and (whole or mark.end() < len(text)):
            marks.append(mark)
            position = mark.end()
        elif not whole and (mark is not None or _BEGUN.match(text, opener.start())):
            return marks, opener.start()
        else:
            position = opener.end()
    held = not whole and position < len(text) and text[-1] == " "
    return marks, len(text) - held


def _numbers(inside: str) -> list[int]:
    numbers: list[int] = []
    for match in _RANGE.finditer(inside):
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        numbers += range(first, last + 1) if 0 <= last - first < MAX_MARKS else [first]
    return numbers
