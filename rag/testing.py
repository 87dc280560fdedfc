"""Fakes, and the suites that every implementation of a protocol must pass.

For tests, ours and those of anyone who writes another index: the suites take a way to make the
object, use nothing but its protocol, and raise AssertionError naming what does not hold. The suite
for embedders is rag.embed.conformance.
"""

from __future__ import annotations

import re
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from rag.answering import DEFAULT_OPTIONS, Answerer, AnswerOptions, AnswerPiece, TextDelta
from rag.index.allowed import checked
from rag.marks import parse_marks
from rag.prompt import Message
from rag.protocols import DenseIndex, LexicalIndex
from rag.schema import Answer, FloatArray, Hit, IntArray, Ranking

_WORD = re.compile(r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+")


class FakeTokens:
    """Implements `Tokens`: a word is a run of letters and digits, or one Han character.

    Args:
        max_tokens: What `max_tokens` says; nothing is cut.
        unread: Characters that count as unknown to the model, for `coverage`.
    """

    def __init__(self, max_tokens: int = 256, unread: str = "") -> None:
        self._max_tokens = max_tokens
        self._unread = frozenset(unread)

    @property
    def max_tokens(self) -> int:
        """Tokens of one text; see `Tokens`."""
        return self._max_tokens

    def count(self, texts: Sequence[str]) -> list[int]:
        """Words of each text."""
        return [len(_words(text)) for text in texts]

    def coverage(self, texts: Sequence[str]) -> FloatArray:
        """Share of each text's words that hold no unread character; 1 where there are none."""
        shares = []
        for text in texts:
            words = _words(text)
            known = sum(1 for word in words if not self._unread & set(word))
            shares.append(known / len(words) if words else 1.0)
        return np.array(shares, np.float32)


class FakeEmbedder:
    """Implements `Embedder`: counts of hashed words, scaled to unit length.

    Texts that share words are near each other; the same text is the same vector, always.

    Args:
        dim: Length of a vector.
        name: Goes into the fingerprint, and moves every vector.
    """

    def __init__(self, dim: int = 64, name: str = "fake") -> None:
        self._dim = dim
        self._name = name
        self.encoded: list[str] = []
        """Every text ever encoded, so that a test can tell what was not."""

    @property
    def fingerprint(self) -> str:
        """Name and dimension."""
        return f"{self._name}:{self._dim}"

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._dim

    @property
    def tokens(self) -> FakeTokens:
        """Its view of text."""
        return FakeTokens()

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Return (n, dim) float32 unit rows."""
        return self.encode_passages(texts)

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return (n, dim) float32 unit rows."""
        self.encoded += texts
        found = np.zeros((len(texts), self._dim), np.float32)
        for row, text in zip(found, texts, strict=True):
            for word in _words(text) or [""]:
                row[zlib.crc32(f"{self._name}\n{word}".encode()) % self._dim] += 1
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return found


class FakeLexicalIndex:
    """Implements `LexicalIndex` in memory: the score is the number of words in common."""

    def __init__(self) -> None:
        self._texts: dict[int, frozenset[str]] = {}
        self._seq = 0
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def seq(self) -> int:
        """The number given to the last `apply`."""
        return self._seq

    def apply(self, add: Sequence[tuple[int, str]], remove: Sequence[int], seq: int) -> None:
        """Remove, then add."""
        with self._lock:
            for gone in remove:
                self._texts.pop(gone, None)
            self._texts.update({found: frozenset(_words(text)) for found, text in add})
            self._seq = seq

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other threads from writing."""
        with self._lock:
            yield

    def compact(self) -> None:
        """Do nothing: removed texts leave no trace."""

    def reset(self) -> None:
        """Forget everything."""
        self._texts, self._seq = {}, 0

    def search(
        self, queries: Sequence[str], top_k: int, allowed: IntArray | None = None
    ) -> list[Ranking]:
        """Best first, ties by id."""
        kept = self._texts.keys() if allowed is None else set(checked(allowed).tolist())
        texts = {key: text for key, text in self._texts.items() if key in kept}
        rankings = []
        for query in queries:
            words = set(_words(query))
            scored = [(key, float(len(words & text))) for key, text in texts.items()]
            hits = sorted(
                (pair for pair in scored if pair[1]), key=lambda pair: (-pair[1], pair[0])
            )
            rankings.append(hits[:top_k])
        return rankings


def check_dense_index(make: Callable[[int], DenseIndex], tolerance: float = 1e-3) -> None:
    """Check what `DenseIndex` promises.

    Args:
        make: Makes an empty index for vectors of the given length.
        tolerance: Largest difference of a score from the cosine.

    Raises:
        AssertionError: If a promise is not kept.
    """
    dim = 32
    index = make(dim)
    vectors = _unit_rows(50, dim)
    ids: IntArray = np.arange(1, 51, dtype=np.int64) * 3
    queries = vectors[:4] * np.float32(0.8) + vectors[10:14] * np.float32(0.6)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)

    assert len(index) == 0, "a new index is not empty"
    assert index.search(queries, 5) == [[], [], [], []], "an empty index finds something"
    assert index.remove(ids) == 0, "an empty index removes something"
    index.add(ids[:0], vectors[:0])
    index.add(ids[:30], vectors[:30])
    index.add(ids[30:], vectors[30:])
    assert len(index) == 50, "len is not the number of vectors added"
    assert index.search(queries[:0], 5) == [], "no queries give no rankings"
    for top_k in (1, 7, 50, 60):
        _check_rankings(index.search(queries, top_k), queries, ids, vectors, top_k, tolerance)
    one_by_one = [index.search(query[None], 7)[0] for query in queries]
    assert [[hit for hit, _ in ranking] for ranking in one_by_one] == [
        [hit for hit, _ in ranking] for ranking in index.search(queries, 7)
    ], "a batch finds other neighbours than its queries one by one"

    assert index.search(queries, 5, ids[:0]) == [[], [], [], []], "found where none is allowed"
    for some in (ids[::7], ids[3:4], ids):
        allowed: IntArray = np.union1d(some, [2, 100_000])  # two that were never added
        here = np.isin(ids, some)
        for top_k in (1, 7, 60):
            found_here = index.search(queries, top_k, allowed)
            _check_rankings(found_here, queries, ids[here], vectors[here], top_k, tolerance)
    _must_refuse(lambda: index.search(queries, 5, ids[::-1]), "an allowed set out of order")
    _must_refuse(lambda: index.search(queries, 5, ids[[0, 0]]), "an allowed id given twice")

    bad = np.full((1, dim), np.nan, np.float32)
    _must_refuse(lambda: index.add(np.array([7]), vectors[:1, :-1]), "a vector of another length")
    _must_refuse(lambda: index.add(np.array([7]), vectors[:2]), "more vectors than ids")
    _must_refuse(lambda: index.add(ids[:1], vectors[:1]), "an id that is there already")
    _must_refuse(lambda: index.add(np.array([7, 7]), vectors[:2]), "an id given twice")
    _must_refuse(lambda: index.add(np.array([7]), bad), "a vector of NaN")
    _must_refuse(lambda: index.search(queries[:, :-1], 5), "a query of another length")
    _must_refuse(lambda: index.search(bad, 5), "a query of NaN")
    _must_refuse(lambda: index.search(queries, 0), "top_k 0")
    assert len(index) == 50, "a refused call changed the index"

    gone = np.array([3, 9, 150, 4, 9999], np.int64)
    assert index.remove(gone) == 3, "remove does not count what was there"
    assert index.remove(gone) == 0, "remove counts what is gone already"
    kept = ~np.isin(ids, gone)
    _check_rankings(index.search(queries, 60), queries, ids[kept], vectors[kept], 60, tolerance)
    index.add(np.array([9], np.int64), vectors[2:3])
    found = index.search(vectors[2:3], 1)[0][0]
    assert found[0] == 9, f"an id added again is not found by its vector, but {found}"


def check_answerer(
    answerer: Answerer,
    question: str,
    hits: Sequence[Hit],
    history: Sequence[Message] = (),
    *,
    options: AnswerOptions = DEFAULT_OPTIONS,
) -> Answer:
    """Check what `Answerer` promises, for one question.

    Args:
        answerer: It must answer the same question the same way every time.
        question: The question.
        hits: Its passages, best first.
        history: Earlier turns.
        options: How to answer.

    Returns:
        The answer.

    Raises:
        AssertionError: If a promise is not kept.
    """
    whole = answerer.answer(question, hits, history, options=options)
    pieces = list(answerer.stream(question, hits, history, options=options))
    assert pieces, "the stream is empty"
    assert replace(whole, timings={}) == check_pieces(pieces), "the stream gives another answer"
    texts = {hit.chunk.file: (hit.chunk.start, hit.chunk.text) for hit in hits}
    for cited in whole.citations:
        offset, text = texts[cited.file]
        assert text[cited.start - offset : cited.end - offset] == cited.quote, (
            "a quote is not exact"
        )
    if hits:
        early: Any = answerer.stream(question, hits, history, options=options)
        with closing(early):
            next(early)
        again = answerer.answer(question, hits, history, options=options)
        assert replace(again, timings={}) == replace(whole, timings={}), "it fails after a stop"
    return whole


def check_pieces(pieces: Sequence[AnswerPiece]) -> Answer:
    """Check that pieces are a streamed answer, and return it without its timings.

    Raises:
        AssertionError: If they are not.
    """
    *deltas, answer = pieces
    assert isinstance(answer, Answer), "the last piece is no Answer"
    shown = ""
    for delta in deltas:
        assert isinstance(delta, TextDelta), "a piece before the last is no TextDelta"
        shown += delta.text
        marks = [number for _, numbers in parse_marks(shown).marks for number in numbers]
        firsts = list(dict.fromkeys(marks))
        assert firsts == list(range(1, len(firsts) + 1)), "marks do not count from 1"
        assert len(firsts) <= len(answer.citations), "a mark is shown that has no citation"
    assert shown == answer.text, "the deltas are not the text"
    assert not (answer.refused and answer.citations), "a refusal has citations"
    return replace(answer, timings={})


def check_lexical_index(make: Callable[[], LexicalIndex], *, durable: bool = True) -> None:
    """Check what `LexicalIndex` promises.

    Args:
        make: Opens the index, an empty one; called again it opens the same index as it then is.
        durable: Whether it is kept when opened again; False for a fake in memory.

    Raises:
        AssertionError: If a promise is not kept.
    """
    index = make()
    assert (len(index), index.seq) == (0, 0), "a new index is not empty, or its seq is not 0"
    assert index.search(["pump", ""], 3) == [[], []], "an empty index finds something"
    assert index.search([], 3) == [], "no queries give no rankings"
    texts = [
        (3, "The pump needs oil every month."),
        (5, "Oil the pump; check the pump seal."),
        (8, "年假为十五天。"),
        (9, "Vacation is fifteen days a year."),
    ]
    index.apply(texts, [], 7)
    assert (len(index), index.seq) == (4, 7), "apply did not add the texts or record seq"
    found = index.search(["pump", "年假", "xylophone", "", "  \n", 'oil) OR "x: ^~*\\ [a TO b'], 10)
    hits = [{hit for hit, _ in ranking} for ranking in found]
    assert hits[0] == {3, 5}, f"'pump' finds {hits[0]}, not exactly the texts that hold it"
    assert hits[1] == {8}, f"'年假' finds {hits[1]}, not exactly the text that holds it"
    assert hits[2:5] == [set(), set(), set()], "a query without a known word finds something"
    assert {3, 5} <= hits[5], "a query with operators is not read as plain words"
    assert len(index.search(["oil pump"], 1)[0]) == 1, "more than top_k are returned"
    for ranking in found:
        scores = [score for _, score in ranking]
        assert scores == sorted(scores, reverse=True), "a ranking is not best first"
        assert all(score > 0 for score in scores), "a score is not above 0"
        assert len({hit for hit, _ in ranking}) == len(ranking), "a ranking repeats an id"

    _check_allowed_texts(index)

    for _twice in range(2):  # a change may be applied again
        index.apply([(5, "Nothing of the kind."), (11, "A spare pump.")], [3, 3, 4040], 9)
    assert (len(index), index.seq) == (4, 9), "replacing, removing or repeating miscounts"
    assert [hit for hit, _ in index.search(["pump"], 9)[0]] == [11], "old text is still found"
    index.apply([], [], 10)
    assert index.seq == 10, "apply without changes does not record seq"
    if durable:
        again = make()
        assert (len(again), again.seq) == (4, 10), "what was applied is gone when opened again"
        assert [hit for hit, _ in again.search(["pump"], 9)[0]] == [11], "and so are its texts"
    with index.exclusive():
        index.apply([], [], 11)
        assert index.seq == 11, "apply does not work for the holder of exclusive()"
    index.reset()
    assert (len(index), index.seq) == (0, 0), "reset leaves something"
    assert index.search(["vacation"], 3) == [[]], "a text is found after reset"
    index.apply(texts[:1], [], 1)
    assert [hit for hit, _ in index.search(["pump"], 9)[0]] == [3], "unusable after reset"


def _check_allowed_texts(index: LexicalIndex) -> None:
    """Check the search among some of the texts 3, 5, 8 and 9 of `check_lexical_index`."""
    asked = ["oil pump seal", "vacation days", "年假"]
    everything = index.search(asked, 10)
    for some in ([], [4], [3], [5], [3, 8], [2, 5, 9, 1000], [3, 5, 8, 9]):
        allowed: IntArray = np.array(some, np.int64)
        for top_k in (1, 10):
            for ranking, all_hits in zip(
                index.search(asked, top_k, allowed), everything, strict=True
            ):
                expected = [(hit, score) for hit, score in all_hits if hit in some][:top_k]
                assert [hit for hit, _ in ranking] == [hit for hit, _ in expected], (
                    f"among {some} {ranking} is found, not the full ranking {all_hits} without "
                    "the others"
                )
                for (_, score), (_, alone) in zip(ranking, expected, strict=True):
                    assert abs(score - alone) < 1e-3, "a score depends on what is allowed"
    falling: IntArray = np.array([8, 3], np.int64)
    _must_refuse(lambda: index.search(asked, 1, falling), "an allowed set out of order")
    repeating: IntArray = np.array([3, 3], np.int64)
    _must_refuse(lambda: index.search(asked, 1, repeating), "an allowed id given twice")


def _check_rankings(
    rankings: Sequence[Ranking],
    queries: FloatArray,
    ids: IntArray,
    vectors: FloatArray,
    top_k: int,
    tolerance: float,
) -> None:
    assert len(rankings) == len(queries), "not one ranking a query"
    for ranking, cosines in zip(rankings, queries @ vectors.T, strict=True):
        true = dict(zip(ids.tolist(), cosines.tolist(), strict=True))
        found = [hit for hit, _ in ranking]
        scores = [score for _, score in ranking]
        assert len(found) == len(set(found)) == min(top_k, len(ids)), "wrong number of hits"
        assert scores == sorted(scores, reverse=True), "a ranking is not best first"
        for hit, score in ranking:
            assert hit in true, f"id {hit} was never added, or has been removed"
            assert abs(score - true[hit]) <= tolerance, f"score {score} is not the cosine"
        best = sorted(true.values(), reverse=True)[: len(scores)]
        worst = max(abs(a - b) for a, b in zip(scores, best, strict=True))
        assert worst <= tolerance, "a nearer vector was left out"


def _must_refuse(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except ValueError:
        return
    raise AssertionError(f"{what} is not refused with a ValueError")


def _unit_rows(count: int, dim: int) -> FloatArray:
    """Return random unit vectors that float16 holds exactly enough, the same ones every time."""
    rows = np.random.default_rng(1).normal(size=(count, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
