"""Checks what a model wrote against the passages it cites, and points to the exact characters.

A sentence counts as supported if a passage that it cites holds most of its telling words, all of
its numbers and codes, and everything it puts in quotation marks. This is a check of words, not of
meaning: it catches invented sources, figures and quotes, not a "not" that was left out, and a
sentence in another language than its passage does not pass. A model's output is untrusted: any
string is harmless here, and the time it takes is linear in its length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from rag.candidates import cut_pieces, is_wrapped
from rag.index.analyze import Analyzer
from rag.language import is_chinese, question_language
from rag.question import telling
from rag.refusal import is_refusal, refusal_text
from rag.schema import Answer, Chunk, Citation, Hit
from rag.sentences import sentence_spans

MIN_OVERLAP = 0.5
"""Share of a sentence's telling words that its passage must hold."""

MAX_ANSWER_CHARS = 200_000
"""What a model wrote beyond this is cut off."""

MAX_MARKS = 12
"""Passages that one sentence may cite; further marks are ignored."""

_WIDER = 0.15
_NUMBER = r"[0-9]{1,9}+"
_MARKS = re.compile(
    rf" ?[\[【［]\s?({_NUMBER}(?:\s?[,，、;；–—~～-]\s?{_NUMBER}){{0,40}}+)\s?[\]】］]"
)
_PARENTHESES = str.maketrans("[【［]】］", "((()))")
_RANGE = re.compile(rf"({_NUMBER})(?:\s?[–—~～-]\s?({_NUMBER}))?")
_QUOTES = re.compile(
    r"\"([^\"\n]{2,400})\"|“([^”\n]{2,400})”|「([^」\n]{2,400})」|『([^』\n]{2,400})』"
)
_SPACES = re.compile(r"[^\S\n]+")
_BLANK_LINES = re.compile(r"\n\s*\n")
_HAS_DIGIT = re.compile(r"[0-9]")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_CODE_HYPHEN = re.compile(r"(?<=[A-Za-z])-(?=[0-9])")
_UNIT = re.compile(r"(?<!\w)([0-9]+)(?=[A-Za-z]+(?!\w))")


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
    text = _BLANK_LINES.sub("\n\n", _SPACES.sub(" ", text[:MAX_ANSWER_CHARS]))
    parts: list[str] = []
    marks: list[tuple[int, list[int]]] = []
    length = last = 0
    for match in _MARKS.finditer(text):
        part = text[last : match.start()]
        parts.append(part)
        length += len(part)
        marks.append((length, _numbers(match[1])))
        last = match.end()
        if text[match.start()] == " " and text[last : last + 1].isalnum():
            parts.append(" ")
            length += 1
    parts.append(text[last:])
    # "[[1]1]" has become "[1]": whatever still looks like a mark is none.
    return MarkedText(_MARKS.sub(_disarmed, "".join(parts)), marks)


def _disarmed(match: re.Match[str]) -> str:
    return match[0].translate(_PARENTHESES)


def _numbers(inside: str) -> list[int]:
    numbers: list[int] = []
    for match in _RANGE.finditer(inside):
        first = int(match[1])
        last = int(match[2]) if match[2] else first
        numbers += range(first, last + 1) if 0 <= last - first < MAX_MARKS else [first]
    return numbers


def cite(text: str, hits: Sequence[Hit], *, analyzer: Analyzer, question: str) -> Answer:
    """Turn what a model wrote into an answer whose citations are checked.

    Args:
        text: The model's output; mark [n] means hits[n - 1].
        hits: The passages the model was shown, in that order.
        analyzer: The lexical index's.
        question: Decides the language of a refusal; its numbers may be repeated unsupported.

    Returns:
        The text with marks counting the citations from 1. `unsupported` lists, as they stand in
        the text, the sentences without a mark, with a mark to no passage, or whose passages do
        not support them. If the model refused and nothing is supported, a refusal.
    """
    marked = parse_marks(text)
    checker = _Checker([_Source(hit.chunk, analyzer) for hit in hits], analyzer, question)
    spans = sentence_spans(marked.text)
    numbers = _by_sentence(spans, marked.marks)
    citations: list[Citation] = []
    known: dict[tuple[str, int, int], int] = {}
    unsupported: list[str] = []
    parts: list[str] = []
    last = 0
    for (start, end), cited in zip(spans, numbers, strict=True):
        sentence = marked.text[start:end]
        parts += [marked.text[last:start], sentence]
        last = end
        found = checker.support(sentence, cited)
        if not found and any(map(str.isalnum, sentence)):
            unsupported.append(sentence)
        shown: list[int] = []
        for citation in found:
            key = (citation.file_id or citation.file, citation.start, citation.end)
            if key not in known:
                citations.append(citation)
                known[key] = len(citations)
            shown.append(known[key])
        marks = "".join(f"[{number}]" for number in dict.fromkeys(shown))
        parts.append(f" {marks}" if marks and not is_chinese(sentence) else marks)
    if not citations and is_refusal(marked.text):
        return Answer(refusal_text(question_language(question)), refused=True)
    parts.append(marked.text[last:])
    return Answer(
        "".join(parts).strip(), False, citations=tuple(citations), unsupported=tuple(unsupported)
    )


def _by_sentence(
    spans: Sequence[tuple[int, int]], marks: Sequence[tuple[int, list[int]]]
) -> list[list[int]]:
    """The numbers that each sentence cites: a mark belongs to the sentence it follows or is in."""
    numbers: list[list[int]] = [[] for _ in spans]
    index = 0
    for position, cited in marks:
        while index + 1 < len(spans) and spans[index + 1][0] < position:
            index += 1
        if spans:
            numbers[index] += cited
    return [list(dict.fromkeys(cited))[:MAX_MARKS] for cited in numbers]


@dataclass(slots=True)
class _Source:
    """A passage, analysed when it is first cited."""

    chunk: Chunk
    analyzer: Analyzer
    _words: set[str] | None = None
    _pieces: list[tuple[int, int, set[str]]] = field(default_factory=list)

    def words(self) -> set[str]:
        """All terms of the passage and its context."""
        if self._words is None:
            text = self.chunk.text
            self._pieces = [
                (piece.start, piece.end, self._terms(text[piece.start : piece.end]))
                for piece in cut_pieces(
                    text, context=self.chunk.context, wrapped=is_wrapped(self.chunk.file)
                )
            ] or [(0, len(text), self._terms(text))]
            self._words = self._terms(self.chunk.indexed_text)
        return self._words

    def pieces(self) -> list[tuple[int, int, set[str]]]:
        """Its sentences, list items and table rows: start, end, terms."""
        self.words()
        return self._pieces

    def _terms(self, text: str) -> set[str]:
        return set(self.analyzer.passage(text).words)


class _Checker:
    """Checks sentences against numbered sources."""

    def __init__(self, sources: Sequence[_Source], analyzer: Analyzer, question: str) -> None:
        self._sources = sources
        self._analyzer = analyzer
        self._asked = set(analyzer.passage(question).words)
        self._question = _folded(question)[0]

    def support(self, sentence: str, cited: Sequence[int]) -> list[Citation]:
        """The stretches of the cited passages that support a sentence; [] if none does."""
        words = set(telling(self._analyzer.query(_respelled(sentence)).words))
        if not words:
            return []
        codes = {word for word in words if _HAS_DIGIT.search(word)} - self._asked
        quotes = [
            _folded(next(filter(None, match.groups())))[0].strip()
            for match in _QUOTES.finditer(sentence)
        ]
        quotes = [quote for quote in quotes if quote and quote not in self._question]
        found = []
        for number in cited:
            if 1 <= number <= len(self._sources):
                citation = _check(self._sources[number - 1], words, codes, quotes)
                if citation is not None:
                    found.append(citation)
        return found


def _check(
    source: _Source, words: set[str], codes: set[str], quotes: Sequence[str]
) -> Citation | None:
    """The stretch of one passage that supports the words, codes and quotes; None if none does."""
    held = source.words()
    if not codes <= held or len(words & held) < MIN_OVERLAP * len(words):
        return None
    places = [_find(source.chunk.text, quote) for quote in quotes]
    if None in places:
        return None
    pieces = source.pieces()
    allowed = range(len(pieces))
    if places and places[0] is not None:
        left, right = places[0]
        within = [i for i in allowed if pieces[i][0] < right and left < pieces[i][1]]
        best = max(within or allowed, key=lambda i: len(words & pieces[i][2]))
    else:
        best = max(allowed, key=lambda i: (len(codes & pieces[i][2]), len(words & pieces[i][2])))
    first = last = best
    terms = pieces[best][2]
    for neighbour in (best - 1, best + 1):
        if 0 <= neighbour < len(pieces):
            more = terms | pieces[neighbour][2]
            if len(words & more) - len(words & terms) > _WIDER * len(words):
                first, last, terms = min(first, neighbour), max(last, neighbour), more
    chunk, start, end = source.chunk, pieces[first][0], pieces[last][1]
    return Citation(
        file=chunk.file,
        page=chunk.page,
        start=chunk.start + start,
        end=chunk.start + end,
        quote=chunk.text[start:end],
        score=round(len(words & terms) / len(words), 4),
        file_id=chunk.file_id,
    )


def _respelled(sentence: str) -> str:
    """Write figures so that each of their terms is one of the passage's, however it spells them.

    The analyzer gives a passage's "18,600", "E-104" and "30m" whole and in parts.
    """
    sentence = _CODE_HYPHEN.sub("", _THOUSANDS.sub("", sentence))
    return _UNIT.sub(r"\1 ", sentence)


def _find(text: str, quote: str) -> tuple[int, int] | None:
    """Where a folded quote stands in a text, white space and width of characters aside."""
    folded, places = _folded(text)
    at = folded.find(quote)
    return None if at < 0 else (places[at], places[at + len(quote) - 1] + 1)


def _folded(text: str) -> tuple[str, list[int]]:
    """Fold case, width and white space; with the index in `text` of each folded character."""
    chars: list[str] = []
    places: list[int] = []
    for index, char in enumerate(text):
        for part in unicodedata.normalize("NFKC", char).casefold():
            if part.isspace():
                if not chars or chars[-1] == " ":
                    continue
                part = " "
            chars.append(part)
            places.append(index)
    return "".join(chars), places
