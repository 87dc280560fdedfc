"""Fits the constants of the extractive answerer and of the refusal.

Run it as `python -m eval.calibrate SETS`, SETS holding the BEIR folders named below. It prints the
weights that stand in rag/extract.py and rag/refusal.py and what the threshold refuses. Why it is
done so: docs/decisions/0006 and 0007. Nothing here runs in service.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar

import numpy as np

from eval.answers import holds_answer, read_questions
from eval.data import CorpusText, RetrievalSet, read_set
from eval.fit import Example, fit_logistic, fit_softmax
from rag.build import build_rag
from rag.candidates import FEATURES, gather
from rag.config import load_settings
from rag.extract import MAX_HITS, answer_probabilities
from rag.index.analyze import Analyzer
from rag.index.dense import FaissIndex
from rag.index.lexical import TantivyIndex
from rag.language import question_language
from rag.protocols import Embedder, Tokens
from rag.question import analyze_question
from rag.refusal import FACTS, Evidence, gather_evidence
from rag.retrieve import Retriever
from rag.schema import Chunk, FloatArray, Hit
from rag.terminal import print_json

T = TypeVar("T")

ANSWER_SETS: dict[str, tuple[str, ...]] = {
    "en": ("squad_v1_dev",),
    "zh": ("cmrc2018_dev", "drcd_dev"),
}
"""Sets on which the sentence weights are fitted, by language."""

HELD_OUT = ("xquad_en", "xquad_zh")
"""Final checks: nothing is fitted on them, and a passage of theirs in another set is left out."""

REFUSAL_SETS: tuple[tuple[str, int, str], ...] = (
    ("squad_v1_dev", 300, "squad_v1_dev"),
    ("squad_v1_dev", 2000, "scifact"),
    ("squad2_dev", 400, "scifact"),
    ("cmrc2018_dev", 300, "cmrc2018_dev"),
    ("cmrc2018_dev", 3000, "webqa_test"),
    ("drcd_dev", 300, "drcd_dev"),
    ("webqa_test", 400, "drcd_dev"),
)
"""Corpus, passages kept of it, and the set whose questions are off its topic; the same set again
means questions about passages that were not kept."""

HELD_OUT_REFUSAL: tuple[tuple[str, int, str], ...] = (
    ("xquad_en", 240, "scifact"),
    ("xquad_zh", 240, "cmrc2018_dev"),
)

KEEP = {"with_cosine": 0.92, "without_cosine": 0.94}
"""Share of answerable questions that the threshold keeps, mean over the fitted corpora."""

Case: TypeAlias = Literal["answerable", "off_topic", "passage_removed"]


@dataclass(frozen=True, slots=True)
class Rates:
    """Share refused in one corpus, by case.

    Attributes:
        corpus: Its name and number of passages.
        held_out: Whether nothing was fitted on it.
        questions: Questions by case.
        refused: Share of them refused by case.
    """

    corpus: str
    held_out: bool
    questions: dict[Case, int]
    refused: dict[Case, float]


class Remembering:
    """An embedder that encodes no text twice; the corpora here overlap."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._queries: dict[str, FloatArray] = {}
        self._passages: dict[str, FloatArray] = {}
        self.fingerprint = embedder.fingerprint
        self.dim = embedder.dim

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Encode the texts not met before; see `Embedder`."""
        return self._recall(texts, self._queries, self._embedder.encode_queries)

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Encode the texts not met before; see `Embedder`."""
        return self._recall(texts, self._passages, self._embedder.encode_passages)

    def _recall(
        self,
        texts: Sequence[str],
        known: dict[str, FloatArray],
        encode: Callable[[Sequence[str]], FloatArray],
    ) -> FloatArray:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, encode(new), strict=True))
        return np.array([known[text] for text in texts], np.float32).reshape(len(texts), self.dim)


@dataclass(frozen=True, slots=True)
class Parts:
    """What retrieval and answering are made of."""

    embedder: Embedder
    tokens: Tokens
    analyzer: Analyzer

    def search(
        self, texts: Sequence[CorpusText], queries: Sequence[str], folder: Path, top_k: int
    ) -> list[list[Hit]]:
        """Index texts, one chunk each with its id as file, and search them as the service does."""
        chunks = {
            number: Chunk(number, text.id, 0, len(text.text), text.text, text.title)
            for number, text in enumerate(texts, 1)
        }
        indexed = [chunk.indexed_text for chunk in chunks.values()]
        dense = FaissIndex(self.embedder.dim, device="cpu")
        dense.add(np.array(list(chunks), np.int64), self.embedder.encode_passages(indexed))
        lexical = TantivyIndex.open(folder, analyzer=self.analyzer)
        lexical.apply(list(zip(chunks, indexed, strict=True)), [], 1)
        retriever = Retriever(
            embedder=lambda: self.embedder,
            tokens=self.tokens,
            dense=dense,
            lexical=lexical,
            chunks_by_id=lambda ids: {id_: chunks[id_] for id_ in ids if id_ in chunks},
        )
        return retriever.search_many(queries, top_k)


def answer_examples(
    sets: Path, name: str, parts: Parts, limit: int, skip: frozenset[str]
) -> list[Example]:
    """Measure the pieces of the passages found for a set's questions.

    Args:
        sets: Folder of the sets.
        name: Which one.
        parts: Retrieval and analysis.
        limit: Questions, drawn at random with a fixed seed.
        skip: Texts of passages whose questions are left out.
    """
    data = read_set(sets / name)
    answers = {asked.id: asked.answers for asked in read_questions(sets / name)}
    hidden = {text.id for text in data.corpus if text.text in skip}
    queries = [
        query
        for query in data.queries
        if query.id in answers and hidden.isdisjoint(data.qrels[query.id])
    ]
    queries = _some(queries, limit)
    with tempfile.TemporaryDirectory() as folder:
        texts = [query.text for query in queries]
        found = parts.search(list(data.corpus), texts, Path(folder), MAX_HITS)
    examples = []
    for query, hits in zip(queries, found, strict=True):
        candidates = gather(analyze_question(query.text, parts.analyzer), hits, parts.analyzer)
        pieces = [hits[p.hit].chunk.text[p.start : p.end] for p in candidates.pieces]
        right = np.array([holds_answer(piece, answers[query.id]) for piece in pieces], bool)
        if right.any() and not right.all():
            examples.append(Example(candidates.features, right))
    return examples


@dataclass(frozen=True, slots=True)
class Corpus:
    """Evidence for the questions of one corpus.

    Attributes:
        name: Its set and number of passages.
        chinese: Its language.
        evidence: By case, one for each question.
    """

    name: str
    chinese: bool
    evidence: dict[Case, list[Evidence]]


def refusal_corpus(
    sets: Path, name: str, keep: int, off_topic: str, parts: Parts, limit: int, skip: frozenset[str]
) -> Corpus:
    """Measure the evidence for questions with and without an answer in a corpus.

    Args:
        sets: Folder of the sets.
        name: The set that the corpus is drawn from, whole articles at a time.
        keep: About how many passages.
        off_topic: The set whose questions have no answer here; questions about an article of
            the corpus are left out.
        parts: Retrieval and analysis.
        limit: Questions of each case.
        skip: Texts of passages whose questions are left out.
    """
    data = read_set(sets / name)
    texts = _articles(data, keep)
    held = {text.id for text in texts}
    hidden = {text.id for text in texts if text.text in skip}
    inside = [
        query
        for query in data.queries
        if held & data.qrels[query.id].keys() and hidden.isdisjoint(data.qrels[query.id])
    ]
    other = data if off_topic == name else read_set(sets / off_topic, "test")
    titles = {text.title for text in texts if text.title}
    title_of = {text.id: text.title for text in other.corpus}
    outside = [
        query
        for query in other.queries
        if not any(
            (other is data and id_ in held) or title_of[id_] in titles
            for id_ in other.qrels[query.id]
        )
    ]
    near, far = _some(inside, limit), _some(outside, limit)
    with tempfile.TemporaryDirectory() as folder:
        asked = [query.text for query in [*near, *far]]
        found = parts.search(texts, asked, Path(folder), MAX_HITS + 4)
    evidence: dict[Case, list[Evidence]] = {
        "answerable": [], "off_topic": [], "passage_removed": []
    }  # fmt: skip
    for query, hits in zip([*near, *far], found, strict=True):
        gold = data.qrels.get(query.id, {}) if query in near else {}
        case: Case = "answerable" if gold else "off_topic"
        evidence[case].append(_evidence(query.text, hits, parts.analyzer))
        if gold:
            without = [hit for hit in hits if hit.chunk.file not in gold]
            evidence["passage_removed"].append(_evidence(query.text, without, parts.analyzer))
    chinese = question_language(near[0].text) != "en"
    return Corpus(f"{name} ({len(texts)} passages)", chinese, evidence)


def _evidence(question: str, hits: Sequence[Hit], analyzer: Analyzer) -> Evidence:
    asked = analyze_question(question, analyzer)
    candidates = gather(asked, hits[:MAX_HITS], analyzer)
    if not candidates.pieces:
        return Evidence(0.0, 0.0, 0.0, 0.0, 0.0)
    return gather_evidence(candidates, hits[:MAX_HITS], answer_probabilities(asked, candidates))


def fit_evidence(corpora: Sequence[Corpus], facts: Sequence[str]) -> dict[str, float]:
    """Fit the weights of the facts; each case of each corpus counts alike, answerable double.

    Returns:
        "constant" and each of `facts`.
    """
    rows: list[list[float]] = []
    labels: list[bool] = []
    importance: list[float] = []
    for corpus in corpora:
        for case, found in corpus.evidence.items():
            for evidence in found:
                rows.append([_fact(evidence, fact) for fact in facts])
                labels.append(case == "answerable")
                importance.append((2 if case == "answerable" else 1) / len(found))
    fitted = fit_logistic(np.array(rows), np.array(labels), np.array(importance))
    return dict(zip(["constant", *facts], map(float, fitted), strict=True))


def _fact(evidence: Evidence, fact: str) -> float:
    return float(getattr(evidence, fact) or 0.0)


def shift_to_keep(
    corpora: Sequence[Corpus], weights: dict[str, float], keep: float
) -> dict[str, float]:
    """Move the constant so that the score 0.5 keeps the share `keep` of answerable questions.

    The share is the mean over corpora.
    """
    scores = [
        np.sort([_logit(evidence, weights) for evidence in corpus.evidence["answerable"]])
        for corpus in corpora
    ]
    low, high = min(s[0] for s in scores), max(s[-1] for s in scores)
    for _ in range(60):
        middle = (low + high) / 2
        kept = np.mean([(s >= middle).mean() for s in scores])
        low, high = (middle, high) if kept >= keep else (low, middle)
    return {**weights, "constant": weights["constant"] - float(low)}


def _logit(evidence: Evidence, weights: dict[str, float]) -> float:
    return sum(
        weight * (1.0 if fact == "constant" else _fact(evidence, fact))
        for fact, weight in weights.items()
    )


def rates(corpus: Corpus, weights: dict[str, float], *, held_out: bool) -> Rates:
    """Count what the score 0.5 refuses."""
    refused: dict[Case, float] = {}
    for case, found in corpus.evidence.items():
        if found:
            refused[case] = float(np.mean([_logit(item, weights) < 0 for item in found]))
    sizes = {case: len(found) for case, found in corpus.evidence.items()}
    return Rates(corpus.name, held_out, sizes, refused)


def calibrate_answers(sets: Path, parts: Parts, limit: int) -> dict[str, dict[str, float]]:
    """Fit the sentence weights of each language; feature name -> weight."""
    skip = _held_out_texts(sets)
    fitted = {}
    for language, names in ANSWER_SETS.items():
        examples: list[Example] = []
        for name in names:
            examples += answer_examples(sets, name, parts, limit // len(names), skip)
        # Codes are weighed by hand; the packaged embedder reads no Chinese: its cosines are noise.
        left_out = {"codes"} if language == "en" else {"codes", "cosine"}
        for example in examples:
            example.features[:, [FEATURES.index(name) for name in left_out]] = 0
        fitted[language] = dict(zip(FEATURES, map(float, fit_softmax(examples)), strict=True))
        del fitted[language]["codes"]
    return fitted


def calibrate_refusal(
    sets: Path, parts: Parts, limit: int
) -> tuple[dict[str, dict[str, float]], list[Rates]]:
    """Fit the evidence weights, with and without cosine, and measure what they refuse."""
    skip = _held_out_texts(sets)
    corpora = [refusal_corpus(sets, *spec, parts, limit, skip) for spec in REFUSAL_SETS]
    checks = [refusal_corpus(sets, *spec, parts, limit, frozenset()) for spec in HELD_OUT_REFUSAL]
    fitted: dict[str, dict[str, float]] = {}
    table: list[Rates] = []
    for name, chinese, facts in (
        ("with_cosine", False, [fact for fact in FACTS if fact != "pair_support"]),
        ("without_cosine", True, [fact for fact in FACTS if fact != "cosine"]),
    ):
        mine = [corpus for corpus in corpora if corpus.chinese == chinese]
        weights = shift_to_keep(mine, fit_evidence(mine, facts), KEEP[name])
        fitted[name] = weights
        table += [rates(corpus, weights, held_out=False) for corpus in mine]
        table += [
            rates(corpus, weights, held_out=True) for corpus in checks if corpus.chinese == chinese
        ]
    return fitted, table


def _held_out_texts(sets: Path) -> frozenset[str]:
    return frozenset(text.text for name in HELD_OUT for text in read_set(sets / name).corpus)


def _articles(data: RetrievalSet, keep: int) -> list[CorpusText]:
    """Whole articles (texts of one title) until `keep` texts are reached, in file order."""
    articles: dict[str, list[CorpusText]] = {}
    for number, text in enumerate(data.corpus):
        articles.setdefault(text.title or f"{number // 5}", []).append(text)
    chosen: set[str] = set()
    for article in _some(list(articles.values()), len(articles)):
        if len(chosen) >= keep:
            break
        chosen.update(text.id for text in article)
    return [text for text in data.corpus if text.id in chosen]


def _some(items: Sequence[T], limit: int) -> list[T]:
    """Up to `limit` items, drawn at random with a fixed seed."""
    shuffled = list(items)
    random.Random(7).shuffle(shuffled)
    return shuffled[:limit]


def _rounded(weights: Mapping[str, float]) -> dict[str, float]:
    return {name: round(weight, 3) for name, weight in weights.items()}


def main() -> None:
    """Fit everything and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", type=Path, help="folder of the BEIR sets")
    parser.add_argument("--questions", type=int, default=4000, help="for the sentence weights")
    parser.add_argument("--refusal-questions", type=int, default=400, help="of each case")
    arguments = parser.parse_args()
    rag = build_rag(load_settings({}).settings)
    parts = Parts(Remembering(rag.embedder), rag.tokens, rag.analyzer)
    answers = calibrate_answers(arguments.sets, parts, arguments.questions)
    evidence, table = calibrate_refusal(arguments.sets, parts, arguments.refusal_questions)
    print_json(
        {
            "answers": {name: _rounded(weights) for name, weights in answers.items()},
            "evidence": {name: _rounded(weights) for name, weights in evidence.items()},
            "refused": [asdict(row) for row in table],
        }
    )


if __name__ == "__main__":
    main()
