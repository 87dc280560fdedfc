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
from rag.marks import MAX_MARKS, MarkedText, MarkReader, parse_marks
from rag.question import telling
from rag.refusal import is_refusal, may_become_refusal, refusal_text
from rag.schema import Answer, Chunk, Citation, Hit
from rag.sentences import SentenceReader, strip_span

__all__ = ["Citer", "MarkedText", "cite", "parse_marks"]

MIN_OVERLAP = 0.5
"""Share of a sentence's telling words that its passage must hold."""

_WIDER = 0.15
_LONGEST_OPENING = 200
"""Letters and digits from which a refusal is known."""

_QUOTES = re.compile(
    r"\"([^\"\n]{2,400})\"|“([^”\n]{2,400})”|「([^」\n]{2,400})」|『([^』\n]{2,400})』"
)
_HAS_DIGIT = re.compile(r"[0-9]")
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_CODE_HYPHEN = re.compile(r"(?<=[A-Za-z])-(?=[0-9])")
_UNIT = re.compile(r"(?<!\w)([0-9]+)(?=[A-Za-z]+(?!\w))")


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
    citer = Citer(hits, analyzer=analyzer, question=question)
    citer.feed(text)
    return citer.finish()


class Citer:
    """Does what `cite` does with a text that is still being written, sentence by sentence.

    What it shows is certain: the answer's text begins with it. Held back are the sentence that is
    not finished, with what may still be a mark behind it, and everything while the answer may
    still turn out to be a refusal. It shows the same however the text is cut into pieces, but for
    when.

    Args:
        hits: The passages the model was shown; mark [n] means hits[n - 1].
        analyzer: The lexical index's.
        question: As in `cite`.
    """

    def __init__(self, hits: Sequence[Hit], *, analyzer: Analyzer, question: str) -> None:
        self._question = question
        self._checker = _Checker([_Source(hit.chunk, analyzer) for hit in hits], analyzer, question)
        self._marks = MarkReader()
        self._marks_read = 0
        self._sentences = SentenceReader()
        self._end = 0  # of the last sentence that was checked
        self._citations: list[Citation] = []
        self._numbers: dict[tuple[str, int, int], int] = {}
        self._unsupported: list[str] = []
        self._parts: list[str] = []
        self._shown = 0  # so many of the parts
        self._opening = ""  # letters and digits, while they may be a refusal's
        self._may_refuse = True

    def feed(self, text: str) -> str:
        """Take what the model wrote next; return what is certain of the answer's text now."""
        self._check(self._sentences.feed(self._marks.feed(text)))
        if self._may_refuse:
            return ""
        certain = "".join(self._parts[self._shown :])
        self._shown = len(self._parts)
        return certain

    def finish(self) -> Answer:
        """Return the answer: its text begins with all that `feed` returned, in order."""
        self._check(self._sentences.finish(self._marks.finish()))
        if self._may_refuse and is_refusal(self._opening):
            return Answer(refusal_text(question_language(self._question)), refused=True)
        return Answer(
            "".join(self._parts),
            refused=False,
            citations=tuple(self._citations),
            unsupported=tuple(self._unsupported),
        )

    def _check(self, spans: Sequence[tuple[int, int]]) -> None:
        """Check sentences and write them down with their marks."""
        text = self._sentences.text
        for start, end in spans:
            sentence = text[start:end]
            found = self._checker.support(sentence, self._cited(end))
            if not found and any(map(str.isalnum, sentence)):
                self._unsupported.append(sentence)
            shown: list[int] = []
            for citation in found:
                key = (citation.file_id or citation.file, citation.start, citation.end)
                if key not in self._numbers:
                    self._citations.append(citation)
                    self._numbers[key] = len(self._citations)
                shown.append(self._numbers[key])
            if self._parts:
                self._parts.append(text[self._end : start])
            marks = "".join(f"[{number}]" for number in dict.fromkeys(shown))
            self._parts += [sentence, f" {marks}" if marks and not is_chinese(sentence) else marks]
            self._end = end
            if self._may_refuse:
                opening = self._opening + "".join(filter(str.isalnum, sentence))
                self._opening = opening[:_LONGEST_OPENING]
                self._may_refuse = not self._citations and may_become_refusal(self._opening)

    def _cited(self, end: int) -> list[int]:
        """The numbers that the sentence up to `end` cites: of the marks in it and behind it."""
        text, marks = self._sentences.text, self._marks.marks
        following = strip_span(text, end, len(text))[0]
        cited: dict[int, None] = {}
        while self._marks_read < len(marks) and marks[self._marks_read][0] <= following:
            cited.update(dict.fromkeys(marks[self._marks_read][1]))
            self._marks_read += 1
        return list(cited)[:MAX_MARKS]


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
