"""Sentence boundaries with exact offsets, for Chinese and English text.

A rule-based splitter: full stops and question marks of both scripts, closing quotes and brackets,
abbreviations, decimals, wrapped lines, list items, headings and table rows. It is not a parser of
any format: it reads the plain or Markdown-like text that parsing produced, and it never fails.
"""

from __future__ import annotations

import re

_LINE_END = re.compile(r"[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_PARAGRAPH_GAP = re.compile(r"\n[^\S\n]*\n|[\f\u2029]|\r[^\S\r]*\r(?!\n)")
_LIST_ITEM = re.compile(
    r"[-*+–—] +\S|[•·●○■□▪◆◇➢] *\S|[(（]?[0-9]{1,3}(?:\.[0-9]{1,3}){0,4}[.)、）．] *[^\s0-9]"
    r"|[0-9]{1,3}[.)] +\S|[(（]?[a-zA-Z][.)）] +\S|[(（]?[一二三四五六七八九十百]{1,4}[、.)）．]"
    r"|第[一二三四五六七八九十百0-9]{1,4}[章节節条條款]|[①-⑳]"
)
_LONGEST_ITEM = 24
"""Characters, blanks aside, that tell whether a line begins a list item."""
_HEADING = re.compile(r"#{1,6}\s|={3,}$|-{3,}$|\*{3,}$|```|~~~|>")
_END = re.compile(r"[。｡！？；…!?.．]+")
_FOOTNOTE = re.compile(r"\[[^\[\]\n]{1,12}\]")
_OPEN_FOOTNOTE = re.compile(r"\[[^\[\]\n]{0,12}")
_LAST_WORD = re.compile(r"[A-Za-z][A-Za-z.]*$")
_NEXT_WORD = re.compile(r"\s*[\"'“‘(\[]*([A-Za-z]+)")
_OPEN_WORD = re.compile(r"\s*[\"'“‘(\[]*[A-Za-z]*")

_ALWAYS_ENDS = frozenset("。｡！？；")
_TERMINATORS = frozenset("。｡！？；…!?.．")
_CLOSERS = frozenset("”’」』）)】》〉］]｝}*_")
_GOES_ON = frozenset("，、,;:：)）")

_TITLES = frozenset(
    "mr mrs ms messrs dr prof st rev gen col maj sgt capt cpt lt cmdr gov sen rep hon mt ft "
    "e.g i.e cf vs ca approx viz".split()
)
_BEFORE_NUMBER = frozenset(
    "no nos fig figs eq eqs vol vols p pp sec sect ch art cl par para tab app ver rev item "
    "jan feb mar apr jun jul aug sep sept oct nov dec".split()
)
_MAY_END = frozenset("etc inc ltd co corp jr sr al a.m p.m dept est ed eds bros esq ph.d".split())
_STARTERS = frozenset(
    "the a an it its this that these those there he she they we you i in on at for from by with "
    "as if when while after before since although however but and so his her their our your all "
    "some many most one two three each no not during under over to of what who where why how "
    "then thus also both such another according".split()
)


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Find the sentences of a text.

    Headings, list items and the rows of Markdown or tab-separated tables begin a span of their
    own; a table row is never cut. A line break inside a wrapped paragraph does not end a sentence.

    Args:
        text: Any string, also one with lone surrogates or control characters.

    Returns:
        (start, end) pairs in order. Spans do not overlap, `text[start:end]` is not empty and has
        no white space at either end, and what lies between spans is white space only.
        Takes time linear in len(text).
    """
    return SentenceReader().finish(text)


class SentenceReader:
    """Finds the sentences of a text that is still being written: those of `sentence_spans`.

    A sentence is given as soon as no continuation of the text can change it, which takes its
    successor's first character, or word after an abbreviation. Only a tab comes too late if
    sentences before it in its line were given already: write blanks instead. Takes time linear in
    the length of the text, however it is cut; for that, what cannot be decided yet is looked at
    again only when a 64th of it is new.
    """

    def __init__(self) -> None:
        self.text = ""
        """What was read so far; the spans count into it."""
        self._new: list[str] = []
        self._new_chars = 0
        self._unit = -1  # where the present unit (wrapped lines, list item, row) begins; -1: none
        self._line = 0  # and its last line
        self._line_seen = 0  # where to look on for that line's end
        self._row = False
        self._begin = 0  # of the sentence that is not found yet
        self._scan = 0  # where to look on for its end
        self._quotes_seen = 0
        self._quote_open = False

    def feed(self, text: str) -> list[tuple[int, int]]:
        """Take the next stretch of the text; return the spans that are certain now."""
        self._new.append(text)
        self._new_chars += len(text)
        length = len(self.text)
        if 64 * self._new_chars < length - self._scan + length / 64:
            return []
        return self._read(whole=False)

    def finish(self, text: str = "") -> list[tuple[int, int]]:
        """Take the last stretch of the text; return the spans that are left."""
        self._new.append(text)
        return self._read(whole=True)

    def _read(self, *, whole: bool) -> list[tuple[int, int]]:
        self.text += "".join(self._new)
        self._new, self._new_chars = [], 0
        spans: list[tuple[int, int]] = []
        text = self.text
        while True:
            if self._unit < 0:
                first = strip_span(text, self._scan, len(text))[0]
                self._scan = first
                if first == len(text):
                    return spans
                self._begin_unit(first)
            end, closed = self._line_end(self._line_seen, whole)
            self._line_seen = end
            end = strip_span(text, self._line, end)[1]
            self._row = self._row or (self._unit == self._line and _is_row(text, self._line, end))
            following = strip_span(text, end, len(text))[0] if closed else len(text)
            goes_on = False if whole else None
            if following < len(text):
                goes_on = self._goes_on(end, following, whole)
            if goes_on is not False and not whole:
                self._split(end, spans, last=False)
            if goes_on is None:
                return spans
            if goes_on:
                self._line = self._line_seen = following
                continue
            self._split(end, spans, last=True)
            if self._begin < end:
                spans.append((self._begin, end))
            self._unit, self._scan = -1, end

    def _begin_unit(self, start: int) -> None:
        self._unit = self._line = self._line_seen = self._begin = self._scan = start
        self._quotes_seen, self._quote_open, self._row = start, False, False

    def _line_end(self, start: int, whole: bool) -> tuple[int, bool]:
        """Where the line that holds `start` ends, and whether it is known to."""
        match = _LINE_END.search(self.text, start)
        return (match.start(), True) if match else (len(self.text), whole)

    def _goes_on(self, end: int, start: int, whole: bool) -> bool | None:
        """Whether the line at `start` goes on with the line up to `end`; None: not known yet."""
        text, line = self.text, self._line
        if self._row or _PARAGRAPH_GAP.search(text, end, start):
            return False
        if line == self._unit and _HEADING.match(text, line):
            return False
        if text[end - 1] in _TERMINATORS or text[end - 1] in "：:":
            return False
        stop, closed = self._line_end(start, whole)
        stop = strip_span(text, start, stop)[1]
        if _is_row(text, start, stop) or _LIST_ITEM.match(text, start, stop):
            return False
        known = "".join(text[start : min(stop, start + 96)].split())
        if not closed and (len(known) < _LONGEST_ITEM or not known.strip("=-*")):
            return None
        if _HEADING.match(text, start, stop):
            return False
        return text[start].islower() or 50 <= _width(text, line, end) <= 160

    def _split(self, end: int, spans: list[tuple[int, int]], *, last: bool) -> None:
        """Cut the unit, known up to `end`, at sentence ends; `last`: it goes no further."""
        text = self.text
        if self._row:
            self._scan = end
            return
        while (match := _END.search(text, self._scan, end)) is not None:
            odd = text.count('"', self._quotes_seen, match.start()) % 2 == 1
            quote_open = self._quote_open != odd
            position = _after_closers(text, match.end(), end, quote_open)
            if not last and _undecided(text, self._begin, match, position, end):
                self._scan = match.start()
                return
            self._scan, self._quotes_seen, self._quote_open = position, match.start(), quote_open
            first = self._begin == self._unit
            if _is_boundary(text, self._begin, match, position, end, first):
                spans.append(strip_span(text, self._begin, position))
                self._begin = strip_span(text, position, end)[0]
                self._quotes_seen, self._quote_open = position, False
        self._scan = max(self._scan, end)


def _is_row(text: str, start: int, end: int) -> bool:
    return text[start] == "|" or text.find("\t", start, end) >= 0


def _undecided(text: str, begin: int, match: re.Match[str], position: int, end: int) -> bool:
    """Whether what follows `end` may decide if the terminator run `match` ends a sentence."""
    if position >= end:
        return True
    note = _OPEN_FOOTNOTE.match(text, position, end)
    if note and note.end() == end:
        return True
    following = _OPEN_WORD.match(text, position, position + 40)
    if following is None or following.end() < len(text) or match[0] not in (".", "．"):
        return False
    word = _LAST_WORD.search(text, max(begin, match.start() - 12), match.start())
    if word is None:
        return False
    initial = len(word[0]) == 1 and word[0].isupper()
    return initial or "." in word[0] or word[0].lower() in _BEFORE_NUMBER | _MAY_END


def _width(text: str, start: int, end: int) -> int:
    """Columns a line takes, ideographs counting two; lines over 200 characters count as 400."""
    if end - start > 200:
        return 400
    return sum(2 if char >= "\u2e80" else 1 for char in text[start:end])


def _after_closers(text: str, position: int, end: int, quote_open: bool) -> int:
    """Skip closing quotes, brackets, footnote marks and further terminators."""
    while position < end:
        char = text[position]
        if char in _CLOSERS or char in _TERMINATORS:
            position += 1
        elif char == '"' and quote_open:
            position += 1
            quote_open = False
        elif char == "'" and (position + 1 == end or text[position + 1].isspace()):
            position += 1
        elif char == "[" and (note := _FOOTNOTE.match(text, position, end)):
            position = note.end()
        else:
            break
    return position


def _is_boundary(
    text: str, begin: int, match: re.Match[str], position: int, end: int, first: bool
) -> bool:
    """Whether the terminator run `match`, closed at `position`, ends the sentence at `begin`."""
    if position >= end:
        return False  # the end of the unit closes the sentence anyway
    run = text[match.start() : min(position, match.start() + 16)]
    following = strip_span(text, position, min(end, position + 64))[0]
    after = text[following] if following < end else ""
    if after in _GOES_ON:
        return False
    if not _ALWAYS_ENDS.isdisjoint(run):
        return True
    if not text[position].isspace() and text[position] < "\u2e80":
        return False  # 3.14, example.com, "what?!x"
    if after.islower():
        return False
    if run[0] in ".．" and len(match[0]) == 1:
        return _full_stop_ends(text, begin, match.start(), position, first)
    return True


def _full_stop_ends(text: str, begin: int, stop: int, position: int, first: bool) -> bool:
    """Whether the "." at `stop` is more than the mark of an abbreviation or a list number."""
    if first and stop - begin <= 6 and _LIST_ITEM.match(text, begin, position + 16):
        return text[begin:stop].strip("(（") == ""
    word = _LAST_WORD.search(text, max(begin, stop - 12), stop)
    if word is None:
        return True
    token = word[0].lower()
    if token in _TITLES:
        return False
    upcoming = _NEXT_WORD.match(text, position, position + 40)
    if token in _BEFORE_NUMBER and upcoming is None:
        return not text[position : position + 3].strip()[:1].isdigit()
    if len(word[0]) == 1 and word[0].isupper() and word[0] != "I":
        return upcoming is not None and upcoming[1].lower() in _STARTERS - {"a", "i"}
    if "." in token or token in _MAY_END:
        return upcoming is None or upcoming[1].lower() in _STARTERS
    return True


def strip_span(text: str, start: int, end: int) -> tuple[int, int]:
    """Narrow [start, end) until neither end is white space."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
