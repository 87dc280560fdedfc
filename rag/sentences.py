"""Sentence boundaries with exact offsets, for Chinese and English text.

A rule-based splitter: full stops and question marks of both scripts, closing quotes and brackets,
abbreviations, decimals, wrapped lines, list items, headings and table rows. It is not a parser of
any format: it reads the plain or Markdown-like text that parsing produced, and it never fails.
"""

from __future__ import annotations

import re

_LINE = re.compile(r"[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]+")
_PARAGRAPH_GAP = re.compile(r"\n[^\S\n]*\n|[\f\u2029]|\r[^\S\r]*\r(?!\n)")
_LIST_ITEM = re.compile(
    r"[-*+–—] +\S|[•·●○■□▪◆◇➢] *\S|[(（]?[0-9]{1,3}(?:\.[0-9]{1,3}){0,4}[.)、）．] *[^\s0-9]"
    r"|[0-9]{1,3}[.)] +\S|[(（]?[a-zA-Z][.)）] +\S|[(（]?[一二三四五六七八九十百]{1,4}[、.)）．]"
    r"|第[一二三四五六七八九十百0-9]{1,4}[章节節条條款]|[①-⑳]"
)
_HEADING = re.compile(r"#{1,6}\s|={3,}$|-{3,}$|\*{3,}$|```|~~~|>")
_END = re.compile(r"[。｡！？；…!?.．]+")
_FOOTNOTE = re.compile(r"\[[^\[\]\n]{1,12}\]")
_LAST_WORD = re.compile(r"[A-Za-z][A-Za-z.]*$")
_NEXT_WORD = re.compile(r"\s*[\"'“‘(\[]*([A-Za-z]+)")

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
    spans: list[tuple[int, int]] = []
    for start, end, whole in _units(text):
        if whole:
            spans.append((start, end))
        else:
            _split_unit(text, start, end, spans)
    return spans


def _units(text: str) -> list[tuple[int, int, bool]]:
    """Join wrapped lines: (start, end, is a table row), stripped, in order."""
    units: list[tuple[int, int, bool]] = []
    last_line = (0, 0)
    for match in _LINE.finditer(text):
        start, end = strip_span(text, match.start(), match.end())
        if start == end:
            continue
        row = text[start] == "|" or "\t" in text[start:end]
        if units and not row and _continues(text, units[-1], last_line, start, end):
            units[-1] = (units[-1][0], end, False)
        else:
            units.append((start, end, row))
        last_line = (start, end)
    return units


def _continues(
    text: str, unit: tuple[int, int, bool], last: tuple[int, int], start: int, end: int
) -> bool:
    """Whether the line text[start:end] goes on with the sentence of the line `last`."""
    if unit[2] or _PARAGRAPH_GAP.search(text, last[1], start):
        return False
    if _HEADING.match(text, last[0]) and unit[0] == last[0]:
        return False
    if _HEADING.match(text, start, end) or _LIST_ITEM.match(text, start, end):
        return False
    before = text[last[1] - 1]
    if before in _TERMINATORS or before in "：:":
        return False
    if text[start].islower():
        return True
    return 50 <= _width(text, *last) <= 160


def _width(text: str, start: int, end: int) -> int:
    """Columns a line takes, ideographs counting two; lines over 200 characters count as 400."""
    if end - start > 200:
        return 400
    return sum(2 if char >= "\u2e80" else 1 for char in text[start:end])


def _split_unit(text: str, start: int, end: int, spans: list[tuple[int, int]]) -> None:
    """Cut text[start:end] at sentence ends and append the stretches to `spans`."""
    begin = start
    position = start
    quotes_seen = start
    quote_open = False
    while (match := _END.search(text, position, end)) is not None:
        if text.count('"', quotes_seen, match.start()) % 2:
            quote_open = not quote_open
        quotes_seen = match.start()
        position = _after_closers(text, match.end(), end, quote_open)
        if _is_boundary(text, begin, match, position, end, begin == start):
            stop = strip_span(text, begin, position)
            spans.append(stop)
            begin = strip_span(text, position, end)[0]
            quote_open = False
            quotes_seen = position
    if begin < end:
        spans.append((begin, end))


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
