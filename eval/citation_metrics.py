"""Measures citations: do they point to where the answer stands, has every sentence support.

Gold is either whole passages (a set's judgements) or stretches of one passage (evidence that
people marked). Pure functions; what a citation claims is checked against the set's own texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rag.marks import parse_marks
from rag.schema import Answer, Citation
from rag.sentences import sentence_spans, strip_span


@dataclass(frozen=True, slots=True)
class PassageCitations:
    """How one answer cites, where whole passages are gold; all in [0, 1].

    Attributes:
        precision: Share of its citations that lie inside a gold passage, word for word.
        recall: Share of its sentences that have support (see `supported_share`).
        gold: 1 if a citation lies inside a gold passage, else 0.
    """

    precision: float
    recall: float
    gold: float


@dataclass(frozen=True, slots=True)
class SpanCitations:
    """How one answer cites, where stretches of a text are gold; all in [0, 1], by characters.

    Attributes:
        precision: Share of the cited characters that are gold.
        recall: Share of the gold characters that are cited.
        f1: 2 P R / (P + R).
    """

    precision: float
    recall: float
    f1: float


def passage_citations(answer: Answer, gold: Mapping[str, str]) -> PassageCitations:
    """Judge the citations of an answer.

    Args:
        answer: Given, not refused; one without citations scores 0 throughout.
        gold: Name -> text of the passages that hold the answer.
    """
    right = [lies_in(cited, gold) for cited in answer.citations]
    return PassageCitations(
        precision=sum(right) / len(right) if right else 0.0,
        recall=supported_share(answer),
        gold=float(any(right)),
    )


def lies_in(cited: Citation, texts: Mapping[str, str]) -> bool:
    """Whether a citation's stretch is one of a named text and holds what it quotes."""
    text = texts.get(cited.file)
    if text is None or not 0 <= cited.start < cited.end <= len(text):
        return False
    return text[cited.start : cited.end] == cited.quote


def supported_share(answer: Answer) -> float:
    """Return the share of an answer's sentences that have support, 0 if it has none.

    A sentence has support if it is, letter for letter, a sentence that a citation quotes; or if it
    carries the mark of a citation, and the check of citations did not find it unsupported.
    """
    marked = parse_marks(answer.text)
    text = marked.text
    quoted = {
        _letters(cited.quote[start:end])
        for cited in answer.citations
        for start, end in sentence_spans(cited.quote)
    }
    unsupported = {_letters(sentence) for sentence in answer.unsupported}
    sentences = supported = 0
    begin = 0
    for start, end in sentence_spans(text):
        letters = _letters(text[start:end])
        following = strip_span(text, end, len(text))[0]
        numbers = {n for at, some in marked.marks if begin <= at <= following for n in some}
        begin = following + 1
        if not letters:
            continue
        sentences += 1
        has_mark = any(1 <= number <= len(answer.citations) for number in numbers)
        supported += letters in quoted or (has_mark and letters not in unsupported)
    return supported / sentences if sentences else 0.0


def span_citations(answer: Answer, file: str, gold: Sequence[tuple[int, int]]) -> SpanCitations:
    """Compare what is cited with the best fitting of several gold stretches.

    Args:
        answer: Given, not refused.
        file: The text in which the stretches lie; characters cited elsewhere are not gold.
        gold: (start, end) of stretches, each of which alone is right; at least one.

    Raises:
        ValueError: If there is none, or an empty one.
    """
    if not gold or any(start >= end for start, end in gold):
        raise ValueError(f"got gold stretches {gold}, expected at least one, none empty")
    cited = {
        (item.file, place) for item in answer.citations for place in range(item.start, item.end)
    }
    return max((_overlap(cited, file, start, end) for start, end in gold), key=lambda s: s.f1)


def _overlap(cited: set[tuple[str, int]], file: str, start: int, end: int) -> SpanCitations:
    common = len(cited & {(file, place) for place in range(start, end)})
    if not common:
        return SpanCitations(0.0, 0.0, 0.0)
    precision, recall = common / len(cited), common / (end - start)
    return SpanCitations(precision, recall, 2 * precision * recall / (precision + recall))


def _letters(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalnum())
