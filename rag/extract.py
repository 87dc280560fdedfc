"""The answerer that needs no language model: the sentences that best answer, cited exactly.

Every piece of the retrieved passages is scored by a linear model over plain measures
(rag.candidates), and the one to three pieces are taken that most probably hold the answer and
still fit an answer's length; room left over goes to whole clauses of the next likely ones. It
quotes and never writes: a question that wants a conclusion drawn from several places gets those
places.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rag.answering import DEFAULT_OPTIONS, AnswerOptions, AnswerPiece, TextDelta
from rag.candidates import FEATURES, Candidates, Piece, clause_spans, gather, length_share
from rag.index.analyze import Analyzer
from rag.language import is_chinese, question_language
from rag.prompt import Message
from rag.protocols import Tokens
from rag.question import Question, analyze_question
from rag.refusal import THRESHOLD, evidence_score, gather_evidence, refusal_text
from rag.schema import Answer, Citation, FloatArray, Hit

MAX_SENTENCES = 3
MIN_PROBABILITY = 0.01
"""A further sentence must be at least this likely to hold the answer."""

MIN_EXCERPT_PROBABILITY = 0.03
"""A sentence that does not fit whole must be this likely to be shown in part."""

MIN_EXCERPT_SHARE = 0.1
"""Shortest part of a sentence that is shown, as a share of the longest answer."""

MAX_HITS = 8
"""Passages read for an answer; the weights were fitted on so many."""

CODE_BONUS = 3.0
"""Weight of the feature "codes", set by hand: the sets it could be fitted on have no codes."""

_SHORTLIST = 14
_MARK = re.compile(r"\[(\d{1,3})\]")
_FOOTNOTE = re.compile(r"(?<=[.。!?！？”\"])\[\d{1,3}\]")
_BULLET = re.compile(r"(?:[-*+•·●○■□▪◆◇➢–—>]\s+|#{1,6}\s+)+")
_WRAP = re.compile(
    r"(?<=[\u2e80-\U0003ffff])\s*[\n\r\v\f\x85\u2028\u2029]\s*(?=[\u2e80-\U0003ffff])"
)
_CUT = re.compile(r"\[\d+\]|[\u3400-\u9fff]|[^\s\u3400-\u9fff\[]+|\[")
_NOT_WORD = re.compile(r"[\W_]+")

# Fitted by `python -m eval.calibrate SETS`, see docs/decisions/0006-extractive-answers.md.
_WEIGHTS_EN: dict[str, float] = {
    "cover": 10.648, "cover_squared": -2.798, "cover_before": 4.595, "cover_after": 1.057,
    "cover_passage": -0.296, "log_rank": -0.451, "top": -0.209, "bm25": 2.516, "cosine": 13.077,
    "grams": 0.0, "pairs": 3.764, "rarest": 0.763, "log_length": -0.117, "log_new": -0.072,
    "first": 0.128, "last": 0.028, "number": 1.799, "date": 2.441, "person": 0.75, "place": 0.279,
    "reason": 2.834, "number_cover": 0.297, "date_cover": -1.169, "date_number": 0.978,
    "focus": 0.184, "terms": 0.025,
}  # fmt: skip
_WEIGHTS_ZH: dict[str, float] = {
    "cover": 7.093, "cover_squared": -0.17, "cover_before": 6.543, "cover_after": 3.369,
    "cover_passage": -2.645, "log_rank": -0.568, "top": -0.082, "bm25": 8.049, "cosine": 0.0,
    "grams": 5.023, "pairs": -1.737, "rarest": 2.154, "log_length": -0.735, "log_new": 0.397,
    "first": 1.118, "last": -0.312, "number": 1.102, "date": 2.265, "person": 2.57,
    "place": 1.077, "reason": 1.007, "number_cover": 1.893, "date_cover": -0.33,
    "date_number": 2.43, "focus": 1.15, "terms": 0.106,
}  # fmt: skip


class ExtractiveAnswerer:
    """Answers from passages by quoting them. Safe to share between threads.

    Args:
        analyzer: The lexical index's.
        tokens: The embedder's view of text: cosines count as evidence only where it reads the
            question. None: they always count.
        threshold: Evidence in [0, 1] below which a question is refused; None: as calibrated.
    """

    def __init__(
        self, analyzer: Analyzer, *, tokens: Tokens | None = None, threshold: float | None = None
    ) -> None:
        self._analyzer = analyzer
        self._tokens = tokens
        self._threshold = THRESHOLD if threshold is None else threshold

    def answer(
        self,
        question: str,
        hits: Sequence[Hit],
        history: Sequence[Message] = (),
        *,
        options: AnswerOptions = DEFAULT_OPTIONS,
    ) -> Answer:
        """Answer a question from its hits.

        Args:
            question: As the user asked it; any string.
            hits: Best first; only the first MAX_HITS are read.
            history: Not read: quoting needs no conversation.
            options: Of these `standalone` and `max_tokens` are followed; tokens are the embedder's.

        Returns:
            At most MAX_SENTENCES sentences or parts of them with their [n] marks, at most 60
            words, or 120 characters where they are Chinese, marks included; or a refusal. "…"
            stands where a sentence is cut. A citation's page is the one on which its chunk
            starts; its score is the probability, among all pieces read, that it holds the
            answer, of a part by its share of the sentence.
        """
        hits = hits[:MAX_HITS]
        language = question_language(question)
        question = options.standalone or question
        asked = analyze_question(question, self._analyzer)
        candidates = gather(asked, hits, self._analyzer)
        if not candidates.pieces:
            return Answer(refusal_text(language), refused=True)
        probabilities = answer_probabilities(asked, candidates)
        readable = 1.0 if self._tokens is None else float(self._tokens.coverage([question])[0])
        evidence = gather_evidence(candidates, hits, probabilities)
        confidence = evidence_score(evidence, readable=readable)
        if confidence < self._threshold:
            return Answer(refusal_text(language), refused=True, confidence=confidence)
        likely = _options(candidates, hits, probabilities)
        chosen = _fill(_choose(likely), likely, hits)
        text, citations = _render(_merge(chosen, hits), hits)
        whole = Answer(text, refused=False, citations=citations, confidence=confidence)
        if options.max_tokens is None or self._tokens is None:
            return whole
        return shortened(whole, options.max_tokens, self._tokens)

    def stream(
        self,
        question: str,
        hits: Sequence[Hit],
        history: Sequence[Message] = (),
        *,
        options: AnswerOptions = DEFAULT_OPTIONS,
    ) -> Iterator[AnswerPiece]:
        """Yield the text of what `answer` returns, at once, then the answer."""
        answer = self.answer(question, hits, history, options=options)
        if answer.text:
            yield TextDelta(answer.text)
        yield answer


def shortened(answer: Answer, max_tokens: int, tokens: Tokens) -> Answer:
    """Return an answer cut at a word, with the citations whose marks are left in it.

    Args:
        answer: With marks [1], [2], ... in the order of its citations.
        max_tokens: Longest text, >= 1.
        tokens: Counts them.
    """
    if tokens.count([answer.text])[0] <= max_tokens:
        return answer
    ends = [match.end() for match in _CUT.finditer(answer.text)]
    low, high = 0, len(ends)
    while low < high:  # the first end that is too far
        middle = (low + high) // 2
        if tokens.count([answer.text[: ends[middle]]])[0] <= max_tokens:
            low = middle + 1
        else:
            high = middle
    text = answer.text[: ends[low - 1]] if low else ""
    kept = sum(f"[{number}]" in text for number in range(1, len(answer.citations) + 1))
    return replace(answer, text=text, citations=answer.citations[:kept], finish="length")


def answer_probabilities(question: Question, candidates: Candidates) -> NDArray[np.float64]:
    """Estimate for each piece the probability that it holds the answer.

    softmax over the pieces of the weighted sum of their features; the weights are of the
    question's language.

    Args:
        question: Decides which weights are used.
        candidates: At least one piece.

    Returns:
        (n,) probabilities that sum to 1.
    """
    weights = _WEIGHTS_EN if question.language == "en" else _WEIGHTS_ZH
    every = {**weights, "codes": CODE_BONUS}
    return softmax(candidates.features, np.array([every[name] for name in FEATURES]))


def softmax(features: FloatArray, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return exp(features @ weights), scaled to sum 1; features is (n > 0, d)."""
    scores = features.astype(np.float64) @ weights
    odds = np.exp(scores - scores.max())
    return np.asarray(odds / odds.sum(), np.float64)


@dataclass(frozen=True, slots=True)
class _Option:
    """A piece as it would be shown: `share` of the longest answer, its mark included."""

    piece: Piece
    probability: float
    shown: str
    share: float


def _options(
    candidates: Candidates, hits: Sequence[Hit], probabilities: NDArray[np.float64]
) -> list[_Option]:
    """The likeliest pieces, best first; the same sentence from another document only once."""
    options: dict[str, _Option] = {}
    for index in np.argsort(-probabilities, kind="stable")[: 3 * _SHORTLIST].tolist():
        piece = candidates.pieces[index]
        shown = show(hits[piece.hit].chunk.text, piece)
        key = _bare(shown) or shown
        probability = float(probabilities[index])
        if key in options:
            known = options[key]
            options[key] = replace(known, probability=known.probability + probability)
        elif len(options) < _SHORTLIST:
            options[key] = _Option(piece, probability, shown, length_share(shown + _mark(1, shown)))
    return sorted(options.values(), key=lambda option: -option.probability)


def _bare(shown: str) -> str:
    """A text's letters and digits alone, by which repeated sentences are known."""
    return _NOT_WORD.sub("", unicodedata.normalize("NFKC", shown)).casefold()


def _choose(options: list[_Option]) -> list[_Option]:
    """The up to MAX_SENTENCES options of most probability that together fit an answer."""
    likely = [option for option in options if option.probability >= MIN_PROBABILITY]
    best: tuple[_Option, ...] = ()
    best_sum = 0.0
    for size in range(1, MAX_SENTENCES + 1):
        for group in itertools.combinations(likely, size):
            total = sum(option.probability for option in group)
            if total > best_sum and _fit(group):
                best, best_sum = group, total
    return list(best) or options[:1]


def _fit(group: Sequence[_Option]) -> bool:
    """Whether the options together are no longer than an answer, in its language's measure."""
    if sum(option.share for option in group) > 1:
        return False
    return length_share(_join([option.shown for option in group])) <= 1


def _fill(chosen: list[_Option], options: list[_Option], hits: Sequence[Hit]) -> list[_Option]:
    """Add parts of the next likely sentences while there is room for them."""
    filled = list(chosen)
    for option in options:
        if len(filled) == MAX_SENTENCES or option.probability < MIN_EXCERPT_PROBABILITY:
            break
        if option not in chosen and (part := _excerpt(option, filled, hits)):
            filled.append(part)
    return filled


def _excerpt(option: _Option, beside: list[_Option], hits: Sequence[Hit]) -> _Option | None:
    """The longest run of whole clauses of a sentence that fits beside the others, if any does."""
    if 1 - sum(other.share for other in beside) < MIN_EXCERPT_SHARE:
        return None
    text = hits[option.piece.hit].chunk.text
    clauses = clause_spans(text, option.piece.start, option.piece.end)
    best: _Option | None = None
    last = 0
    for first in range(len(clauses)):
        last = max(last, first)
        while last < len(clauses):
            part = _part(option, text, clauses[first][0], clauses[last][1])
            if not _fit([*beside, part]):
                break  # nor does a longer run from here
            if any(_bare(part.shown) in _bare(other.shown) for other in beside):
                pass  # said already
            elif best is None or part.share > best.share:
                best = part
            last += 1
    return best if best and best.share >= MIN_EXCERPT_SHARE else None


def _part(option: _Option, text: str, start: int, end: int) -> _Option:
    """An option's piece cut to [start, end) of its passage."""
    whole = option.piece
    opens, closes = whole.opens and start == whole.start, whole.closes and end == whole.end
    piece = replace(whole, start=start, end=end, opens=opens, closes=closes)
    shown = show(text, piece)
    probability = option.probability * (end - start) / (whole.end - whole.start)
    return _Option(piece, probability, shown, length_share(shown + _mark(1, shown)))


def _merge(chosen: list[_Option], hits: Sequence[Hit]) -> list[_Option]:
    """Join pieces that follow each other in their passage; the rest stays best first."""
    merged: list[_Option] = []
    for option in sorted(chosen, key=lambda option: (option.piece.hit, option.piece.start)):
        last = merged[-1] if merged else None
        if last is not None and _adjoins(last.piece, option.piece, hits):
            piece = replace(last.piece, end=option.piece.end, closes=option.piece.closes)
            shown = show(hits[piece.hit].chunk.text, piece)
            probability = min(1.0, last.probability + option.probability)
            merged[-1] = _Option(piece, probability, shown, last.share + option.share)
        else:
            merged.append(option)
    return sorted(merged, key=lambda option: -option.probability)


def _adjoins(left: Piece, right: Piece, hits: Sequence[Hit]) -> bool:
    text = hits[left.hit].chunk.text
    if left.hit != right.hit or text[left.start] == "|" or text[right.start] == "|":
        return False
    between = text[left.end : right.start]
    return not between.strip() and "\n" not in between


def _render(chosen: list[_Option], hits: Sequence[Hit]) -> tuple[str, tuple[Citation, ...]]:
    """The answer's text with its marks, and the citations in their order."""
    citations: list[Citation] = []
    for option in chosen:
        chunk, piece = hits[option.piece.hit].chunk, option.piece
        citations.append(
            Citation(
                file=chunk.file,
                page=chunk.page,
                start=chunk.start + piece.start,
                end=chunk.start + piece.end,
                quote=chunk.text[piece.start : piece.end],
                score=round(min(1.0, option.probability), 4),
                file_id=chunk.file_id,
            )
        )
    return _join([option.shown for option in chosen]), tuple(citations)


def _join(shown: Sequence[str]) -> str:
    """Put pieces behind each other, each with its mark; Chinese ones without a blank between."""
    text = ""
    for number, piece in enumerate(shown, 1):
        blank = text and not (is_chinese(shown[number - 2]) and is_chinese(piece))
        text += (" " if blank else "") + piece + _mark(number, piece)
    return text


def _mark(number: int, shown: str) -> str:
    return f"[{number}]" if is_chinese(shown) else f" [{number}]"


def show(text: str, piece: Piece) -> str:
    """Make a piece readable: no bullets, no line breaks, no marks that look like ours.

    A table row gets its column names ("Code: E-104; Fault: overheating") where the table has a
    header and the result is not longer than an answer.
    """
    raw = text[piece.start : piece.end]
    if raw.startswith("|") or "\t" in raw:
        return _plain(_show_row(raw, piece))
    shown = _plain(_BULLET.sub("", raw, count=1) if _BULLET.match(raw) else raw)
    return f"{'' if piece.opens else '…'}{shown}{'' if piece.closes else '…'}"


def _show_row(raw: str, piece: Piece) -> str:
    cells = _cells(raw)
    if piece.header and piece.opens and piece.closes:
        names = _cells(piece.header)
        colon, semicolon = ("：", "；") if is_chinese(raw + piece.header) else (": ", "; ")
        named = semicolon.join(
            f"{name}{colon}{cell}" if name else cell
            for name, cell in itertools.zip_longest(names, cells, fillvalue="")
            if cell
        )
        if length_share(f"{named} [1]") <= 1:
            return named
    return " | ".join(cell for cell in cells if cell)


def _cells(row: str) -> list[str]:
    separator = "|" if row.startswith("|") else "\t"
    return [cell.strip() for cell in row.strip("|").split(separator)]


def _plain(text: str) -> str:
    text = _FOOTNOTE.sub("", text).replace("**", "")
    text = _MARK.sub(r"(\1)", text)
    return " ".join(_WRAP.sub("", text).split())
