"""Cuts retrieved passages into pieces that could answer a question, and measures each.

A piece is a sentence, a list item, a table row, or, where a sentence exceeds the length of an
answer, a run of its clauses. The measures (`FEATURES`) are plain facts about question and piece;
what they are worth is decided in rag.extract.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rag.index.analyze import QUESTION_WORDS, Analyzer
from rag.language import is_chinese
from rag.question import Kind, Question, word_pairs
from rag.schema import FloatArray, Hit
from rag.sentences import sentence_spans, strip_span

MAX_WORDS = 60
"""Longest answer in words, marks included, where it is not Chinese."""

MAX_CHARS = 120
"""Longest answer in characters, marks included, where it is Chinese."""

MAX_PIECE = 0.9
"""Longest piece, as a share of the longest answer; longer sentences are cut at clauses."""

FEATURES = (
    "cover", "cover_squared", "cover_before", "cover_after", "cover_passage", "log_rank", "top",
    "bm25", "cosine", "grams", "pairs", "rarest", "log_length", "log_new", "first", "last",
    "number", "date", "person", "place", "reason", "number_cover", "date_cover", "date_number",
    "focus", "terms", "codes",
)  # fmt: skip

_WHOLE_LINES = (".pdf", ".docx", ".html", ".htm")
_DIGIT = re.compile(r"[0-9]")
# Never inside a number, a time or a span of years: 1,250 and 12:30 and 2019–2021 stay whole.
_CLAUSE = re.compile(r"(?:[、；;)）]|(?<![0-9])[,:，：–—]|[,:，：–—](?![0-9]))+\s*|\s*\n\s*")
_TABLE_RULE = re.compile(r"[\s|:+=-]+$")
_HEADING = re.compile(r"#{1,6}\s")
_NUMBER = re.compile(
    r"\d|[一二三四五六七八九十百千万亿两半][个個位名次年月日天岁人种種座条條件部届届场場分米元台倍]"
    r"|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty"
    r"|fifty|hundred|thousand|million|billion|half|dozen|first|second|third|single|twice|once)\b",
    re.IGNORECASE,
)
_DATE = re.compile(
    r"\b[12]\d{3}s?\b|世[纪紀]|\d ?[年月日天]|[一二三四五六七八九〇零]{2,4}年|\bcentur"
    r"|\b(?:january|february|march|april|may|june|july|august|september|october|november"
    r"|december|monday|tuesday|wednesday|thursday|friday|saturday|sunday|days|weeks|months|years)\b",
    re.IGNORECASE,
)
_NAME_EN = re.compile(r"(?<=[a-z,;:(\"'] )[A-Z][\w'-]+|[A-Z][\w'-]+ (?:[A-Z]\. )?(?=[A-Z][a-z])")
_NAME_ZH = re.compile(
    r"·|先生|女士|教授|博士|[总總]统|[总總]統|[国國]王|皇帝|[导導]演|等人|[学學]者|作家|[经經]理|工程[师師]"
)
_PLACE_ZH = re.compile(r"[省市县縣区區国國州城镇鎮村岛島洲海山河路街站厂廠楼樓室库庫]")
_REASON = re.compile(
    r"\b(?:because|due to|since|in order|as a result|so that|therefore)\b"
    r"|因[为為此]|由于|由於|为了|為了|所以|[导導]致|原因",
    re.IGNORECASE,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a retrieved passage that could be part of an answer.

    Attributes:
        hit: Index of its passage among the hits.
        start, end: Characters into the passage's text; stripped, not empty.
        order: Its number among the pieces of its passage, from 0.
        opens, closes: Whether it begins and ends where its sentence does.
        header: Where it is a table row, the table's header row if there is one, else "".
    """

    hit: int
    start: int
    end: int
    order: int
    opens: bool = True
    closes: bool = True
    header: str = ""


@dataclass(frozen=True, slots=True)
class Candidates:
    """The pieces of all hits, in the order of the hits, with their measures.

    Attributes:
        pieces: n pieces.
        features: (n, len(FEATURES)) float32.
        support: (n,) share of the question's terms, weighted by rarity, that the piece together
            with its neighbours, its heading and the passage's context holds; in [0, 1].
        pair_support: (n,) the same share of the question's pairs of Chinese characters, unweighted.
        coverage: Of each hit, the same share for the whole passage.
        lost_codes: Share of the question's terms with a digit that no hit holds; 0 if it has none.
    """

    pieces: list[Piece]
    features: FloatArray
    support: FloatArray
    pair_support: FloatArray
    coverage: list[float]
    lost_codes: float


def length_share(text: str) -> float:
    """Length of a text as a share of the longest answer in its language, >= 0.

    A word counts for at least a tenth of its characters: an unbroken run of them is not one word.
    """
    if is_chinese(text):
        return len(text) / MAX_CHARS
    return max(len(text.split()), len(text) / 10) / MAX_WORDS


def cut_pieces(text: str, hit: int = 0, context: str = "", *, wrapped: bool = True) -> list[Piece]:
    """Cut a passage into pieces, leaving out headings and table frames.

    Args:
        text: The passage.
        hit: Goes into the pieces.
        context: The passage's context: a line of the text that repeats a part of it is a heading,
            and a last line that is a table row heads the table that the text continues.
        wrapped: Whether a sentence may go on in the next line.

    Returns:
        Pieces in order, not overlapping.
    """
    headings, continued = _read_context(context)
    spans = sentence_spans(text) if wrapped else _line_sentences(text)
    pieces: list[Piece] = []
    header = continued
    for number, (start, end) in enumerate(spans):
        if text[start] != "|":
            header = ""
        elif _TABLE_RULE.match(text, start, end):
            continue
        elif number + 1 < len(spans) and _is_rule(text, spans[number + 1]):
            header = text[start:end]
            continue
        if _HEADING.match(text, start, end) or text[start:end] in headings:
            continue
        windows = _windows(text, start, end)
        for index, (left, right) in enumerate(windows):
            opens, closes = index == 0, index + 1 == len(windows)
            pieces.append(Piece(hit, left, right, len(pieces), opens, closes, header))
    return pieces


def _line_sentences(text: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    start = 0
    for line in text.split("\n"):
        spans += [(start + left, start + right) for left, right in sentence_spans(line)]
        start += len(line) + 1
    return spans


def is_wrapped(file: str) -> bool:
    """Whether the lines of a file may be wrapped; other parsers join what belongs together."""
    return not file.lower().endswith(_WHOLE_LINES)


def _read_context(context: str) -> tuple[frozenset[str], str]:
    """The headings that a context names, and the table header it may end with."""
    path, _, header = context.partition("\n")
    return frozenset(path.split(" > ")), header if header.startswith("|") else ""


def _is_rule(text: str, span: tuple[int, int]) -> bool:
    return text[span[0]] == "|" and _TABLE_RULE.match(text, *span) is not None


def _windows(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Cut one sentence into runs of clauses, each at most MAX_PIECE long."""
    share = length_share(text[start:end])
    if share <= MAX_PIECE:
        return [(start, end)]
    target = (end - start) / math.ceil(share / MAX_PIECE)
    windows: list[tuple[int, int]] = []
    begin = last = start
    for cut in [match.end() for match in _CLAUSE.finditer(text, start, end)] + [end]:
        if cut - begin > target and last > begin:
            windows.append((begin, last))
            begin = last
        while cut - begin > 1.5 * target:
            hard = _word_end(text, begin, begin + max(1, int(target)))
            windows.append((begin, hard))
            begin = hard
        last = cut
    if begin < end:
        windows.append((begin, end))
    shortened: list[tuple[int, int]] = []
    for window in windows:
        left, right = strip_span(text, *window)
        if left < right:
            shortened += _windows(text, left, right)
    return shortened


def clause_spans(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Cut a piece at its commas, semicolons, colons and line breaks.

    Returns:
        (start, end) of the clauses in order, without the marks between them; none for the row
        of a table, and only the whole where there is nothing to cut at.
    """
    if text[start] == "|" or "\t" in text[start:end]:
        return []
    spans: list[tuple[int, int]] = []
    begin = start
    for match in _CLAUSE.finditer(text, start, end):
        # A closing bracket belongs to what it closes.
        stop = match.start() + (text[match.start()] in ")）")
        spans.append(strip_span(text, begin, stop))
        begin = match.end()
    spans.append(strip_span(text, begin, end))
    return [(left, right) for left, right in spans if left < right]


def _word_end(text: str, begin: int, stop: int) -> int:
    """The last end of a word in text[begin:stop], or `stop` where words have no ends."""
    space = text.rfind(" ", begin + 1, stop)
    return space if space > begin + (stop - begin) // 2 else stop


def gather(question: Question, hits: Sequence[Hit], analyzer: Analyzer) -> Candidates:
    """Cut the hits into pieces and measure each against the question.

    A term's rarity is counted over the pieces with their headings, so no index is asked: its
    weight in the question times ln(1 + (n + 1) / (df + 0.5)). A term of every piece still counts:
    a store may hold nothing but the answer.

    Args:
        question: Analysed with the same analyzer.
        hits: Best first.
        analyzer: The lexical index's.

    Returns:
        All pieces; empty if the hits hold no text.
    """
    passages = [_read(number, hit, analyzer) for number, hit in enumerate(hits)]
    rarity = _rarities(question, passages)
    total = sum(rarity.values()) or 1.0

    def covered(words: set[str]) -> float:
        return sum(value for word, value in rarity.items() if word in words) / total

    cosines = [hit.cosine for hit in hits if hit.cosine is not None]
    top_cosine, low_cosine = max(cosines, default=0.0), min(cosines, default=0.0)
    top_bm25 = max((hit.bm25 or 0.0 for hit in hits), default=0.0)
    rows: list[list[float]] = []
    support: list[float] = []
    pair_support: list[float] = []
    coverage: list[float] = []
    asked = _Asked.of(question)
    for rank, (hit, passage) in enumerate(zip(hits, passages, strict=True)):
        whole = covered(passage.all_words)
        coverage.append(whole)
        bm25 = (hit.bm25 or 0.0) / top_bm25 if top_bm25 > 0 else 1.0
        cosine = (low_cosine if hit.cosine is None else hit.cosine) - top_cosine
        of_passage = [whole, math.log1p(rank), float(rank == 0), bm25, cosine]
        for index in range(len(passage.pieces)):
            row, share = _measure(asked, passage, index, covered, rarity, of_passage)
            rows.append(row)
            support.append(share)
            pair_support.append(_pair_support(question, passage, index))
    features = np.array(rows, np.float32).reshape(len(rows), len(FEATURES))
    pieces = [piece for passage in passages for piece in passage.pieces]
    held = set[str]().union(*(passage.all_words for passage in passages))
    codes = [word for word in question.words if _DIGIT.search(word)]
    lost = sum(word not in held for word in codes) / max(1, len(codes))
    return Candidates(
        pieces=pieces,
        features=features,
        support=np.array(support, np.float32),
        pair_support=np.array(pair_support, np.float32),
        coverage=coverage,
        lost_codes=lost,
    )


def _pair_support(question: Question, passage: _Read, index: int) -> float:
    held = passage.context_grams.union(*passage.grams[max(0, index - 1) : index + 2])
    return len(question.grams & held) / max(1, len(question.grams))


@dataclass(frozen=True, slots=True)
class _Read:
    """A passage cut and analysed; `leads` are the words of the line that introduces each piece."""

    text: str
    pieces: list[Piece]
    words: list[list[str]]
    grams: list[set[str]]
    leads: list[set[str]]
    all_words: set[str]
    context_grams: set[str]


def _read(number: int, hit: Hit, analyzer: Analyzer) -> _Read:
    chunk = hit.chunk
    pieces = cut_pieces(chunk.text, number, chunk.context, wrapped=is_wrapped(chunk.file))
    context_terms = analyzer.passage(chunk.context)
    context = set(context_terms.words)
    words: list[list[str]] = []
    grams: list[set[str]] = []
    leads: list[set[str]] = []
    lead: set[str] = set()
    last_end = 0
    for piece in pieces:
        terms = analyzer.passage(chunk.text[piece.start : piece.end])
        between = chunk.text[last_end : piece.start]
        if between.strip():  # a heading or a table header stands between
            lead = set(analyzer.passage(between).words)
        leads.append(lead | context)
        words.append(terms.words)
        grams.append(set(terms.grams))
        if chunk.text[piece.end - 1] in ":：":
            lead = set(terms.words)
        last_end = piece.end
    everything = context.union(*words, *leads) if words else context
    context_grams = set(context_terms.grams)
    return _Read(chunk.text, pieces, words, grams, leads, everything, context_grams)


def _rarities(question: Question, passages: Sequence[_Read]) -> dict[str, float]:
    sets = [
        lead.union(words)
        for passage in passages
        for words, lead in zip(passage.words, passage.leads, strict=True)
    ]
    n = len(sets)
    rarity = {}
    for word, weight in zip(question.words, question.weights, strict=True):
        df = sum(word in piece for piece in sets)
        rarity[word] = weight * math.log(1 + (n + 1) / (df + 0.5))
    return rarity


@dataclass(frozen=True, slots=True)
class _Asked:
    """The question's side of the measures, computed once."""

    question: Question
    words: frozenset[str]
    numbers: int
    dates: int

    @classmethod
    def of(cls, question: Question) -> _Asked:
        text = question.text[:2000]
        words = frozenset(question.words) | QUESTION_WORDS
        return cls(question, words, len(_NUMBER.findall(text)), len(_DATE.findall(text)))

    def fits(self, kind: Kind, text: str) -> bool:
        """Whether `text` holds something of the kind asked for that the question does not."""
        if kind not in self.question.kinds:
            return False
        if kind == "number":
            return len(_NUMBER.findall(text)) > self.numbers
        if kind == "date":
            return len(_DATE.findall(text)) > self.dates
        if kind == "reason":
            return _REASON.search(text) is not None
        if not is_chinese(text):
            return _NAME_EN.search(text) is not None
        return (_NAME_ZH if kind == "person" else _PLACE_ZH).search(text) is not None


def _measure(
    asked: _Asked,
    passage: _Read,
    index: int,
    covered: Callable[[set[str]], float],
    rarity: dict[str, float],
    of_passage: list[float],
) -> tuple[list[float], float]:
    """The row of FEATURES of one piece, and its support."""
    piece = passage.pieces[index]
    text = passage.text[piece.start : piece.end]
    own = set(passage.words[index])
    before = own | passage.leads[index] | set(passage.words[index - 1] if index else ())
    last = index + 1 == len(passage.pieces)
    after = own if last else own | set(passage.words[index + 1])
    cover = covered(own)
    cover_before = covered(before)
    question = asked.question
    rarest = max(rarity.values(), default=0.0) or 1.0

    def share_of(wanted: frozenset[str], held: set[str]) -> float:
        total = sum(rarity[word] for word in wanted)
        return sum(rarity[word] for word in wanted & held) / total if total else 0.0

    number, date = asked.fits("number", text), asked.fits("date", text)
    digits = "date" in question.kinds and len(_NUMBER.findall(text)) > asked.numbers
    row = [
        cover,
        cover**2,
        cover_before - cover,
        covered(after) - cover,
        *of_passage,
        len(question.grams & passage.grams[index]) / max(1, len(question.grams)),
        len(question.pairs & word_pairs(passage.words[index])) / max(1, len(question.pairs)),
        max((rarity[word] for word in own if word in rarity), default=0.0) / rarest,
        math.log(length_share(text) + 0.05),
        math.log1p(len(own - asked.words)),
        float(index == 0),
        float(last),
        float(number),
        float(date),
        float(asked.fits("person", text)),
        float(asked.fits("place", text)),
        float(asked.fits("reason", text)),
        cover * number,
        cover * date,
        float(digits),
        share_of(question.focus, own),
        min(len(passage.words[index]), 120) / 40,
        share_of(question.codes, own | passage.leads[index]),
    ]
    return row, covered(before | after)
