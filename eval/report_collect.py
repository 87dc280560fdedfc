"""Runs the measurements of a report. It is the only part of it that knows sets and stores."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from eval.answers import Asked, holds_answer, read_questions
from eval.data import RetrievalSet, read_set
from eval.metrics import METRICS, means, query_values
from eval.refusal_metrics import calibration
from eval.report_data import (
    AnswersResult,
    FoundText,
    RelevantText,
    Report,
    SystemResult,
    WorstQuery,
    WrongAnswer,
)  # fmt: skip
from eval.report_facts import (
    command_line,
    file_facts,
    setting_facts,
    version_facts,
    without_secrets,
)
from eval.report_stats import recall_curve
from eval.report_text import beginning
from eval.retrieval import TOP_K, opened_set
from rag.build import OpenStore, Rag
from rag.config import LoadedSettings
from rag.errors import YoujuError
from rag.retrieve import System
from rag.schema import Answer
from rag.terminal import Advance, Progress

TIMED = 200
"""Queries of which the latency is taken, at most."""

_QUERIES_AT_ONCE = 512
_SHOWN_RELEVANT, _SHOWN_FOUND = 10, 5
_TEXT, _QUERY, _TITLE = 300, 600, 120
_FAILURES_IN_A_ROW = 5

Run = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a report is to hold.

    Attributes:
        data: A folder in BEIR layout.
        systems: At least one, none twice.
        split: Which judgements.
        limit: Only the first so many judged queries, >= 1; None: all.
        worst: Queries and wrong answers that are shown, >= 0.
        answers: Whether questions are answered, where the set has right answers.
        seed: Of the draw of the queries that are timed.
    """

    data: Path
    systems: tuple[System, ...]
    split: str = "test"
    limit: int | None = None
    worst: int = 10
    answers: bool = True
    seed: int = 0


def collect(
    rag: Rag,
    loaded: LoadedSettings,
    wanted: Wanted,
    *,
    arguments: Sequence[str],
    environ: Mapping[str, str],
    progress: Advance = lambda _progress: None,
) -> Report:
    """Measure all systems and the answers; what fails is told in the report.

    Args:
        rag: The parts to measure; its own stores are not touched.
        loaded: The settings they are made of.
        wanted: What to measure.
        arguments: Of `youju`, which repeat it.
        environ: The environment that the settings were read from.
        progress: Called before each batch and question.

    Raises:
        EvalDataError: If the set is not as it should be.
    """
    found = read_set(wanted.data, wanted.split, wanted.limit)
    questions = _questions(found, wanted)
    results: list[SystemResult] = []
    runs: dict[str, Run] = {}
    for system in wanted.systems:
        label = f"{system}+{rag.settings.reranker}" if rag.settings.reranker != "none" else system
        try:
            run, latencies = _rank(rag, found, system, wanted.seed, progress)
        except YoujuError as error:
            results.append(SystemResult(label, {}, failure=without_secrets(str(error), loaded)))
            continue
        runs[label] = run
        results.append(_scored(label, found, run, latencies))
    report = Report(
        data=found.name,
        split=wanted.split,
        queries=len(found.queries),
        texts=len(found.corpus),
        made_at=datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        seed=wanted.seed,
        command=command_line(arguments, loaded, environ),
        systems=tuple(results),
        answers=_answers(rag, loaded, found, questions, wanted.worst, progress)
        if questions
        else None,
        without_answers=_without(wanted),
        settings=setting_facts(loaded),
        versions=version_facts(),
        files=file_facts(wanted.data, wanted.split),
    )
    return _with_worst(report, found, runs, wanted.worst)


# -- retrieval -------------------------------------------------------------------------------------


def _rank(
    rag: Rag, found: RetrievalSet, system: System, seed: int, progress: Advance
) -> tuple[Run, tuple[float, ...]]:
    """Return the ids of the texts found for each query, and the latencies of some, ms."""
    texts = [query.text for query in found.queries]
    with opened_set(rag, found, progress, with_vectors=system != "bm25") as opened:
        retriever = opened.retriever(system)
        retriever.rank_many(texts[:1], TOP_K)  # loads what is loaded on first use
        rankings = []
        for first in range(0, len(texts), _QUERIES_AT_ONCE):
            progress(Progress(first, len(texts), f"searching, {system}"))
            rankings += retriever.rank_many(texts[first : first + _QUERIES_AT_ONCE], TOP_K)
        chunks = opened.store.chunks(list({id_ for ranking in rankings for id_, _ in ranking}))
        timed = random.Random(seed).sample(texts, min(TIMED, len(texts)))
        latencies = []
        for done, text in enumerate(timed):
            progress(Progress(done, len(timed), f"timing, {system}"))
            begin = time.perf_counter()
            retriever.search(text, rag.settings.top_k)
            latencies.append(1000 * (time.perf_counter() - begin))
    run = {
        query.id: list(dict.fromkeys(chunks[id_].file for id_, _ in ranking if id_ in chunks))
        for query, ranking in zip(found.queries, rankings, strict=True)
    }
    return run, tuple(latencies)


def _scored(
    label: str, found: RetrievalSet, run: Run, latencies: tuple[float, ...]
) -> SystemResult:
    values = query_values(found.qrels, run)
    mean = means(values)
    return SystemResult(
        name=label,
        metrics={name: mean[name] for name in METRICS},
        recall=recall_curve(found.qrels, run, TOP_K),
        ndcg=tuple(values[query.id]["nDCG@10"] for query in found.queries),
        latencies_ms=latencies,
    )


def _with_worst(report: Report, found: RetrievalSet, runs: Mapping[str, Run], most: int) -> Report:
    """Return the report with the best system's worst queries."""
    best = report.best
    if best is None:
        return report
    run = runs[best.name]

    def badness(place: int) -> tuple[float, int]:
        query = found.queries[place].id
        relevant = _relevant(found, query)
        ranks = [rank for rank, text in enumerate(run[query]) if text in relevant]
        return best.ndcg[place], -min(ranks, default=TOP_K)

    bad = [place for place in range(len(found.queries)) if best.ndcg[place] < 1 - 1e-9]
    places = sorted(bad, key=badness)[:most]
    needed: set[str] = set()
    for place in places:
        id_ = found.queries[place].id
        needed |= {*_relevant(found, id_)[:_SHOWN_RELEVANT], *run[id_][:_SHOWN_FOUND]}
    texts = {text.id: (text.title, text.text) for text in found.corpus if text.id in needed}

    def shown(id_: str) -> tuple[str, str, str]:
        title, text = texts.get(id_, ("", ""))
        return id_, beginning(title, _TITLE), beginning(text, _TEXT)

    worst = []
    for place in places:
        query = found.queries[place]
        relevant = _relevant(found, query.id)
        grades = found.qrels[query.id]
        worst.append(
            WorstQuery(
                id=query.id,
                text=beginning(query.text, _QUERY),
                scores={system.name: system.ndcg[place] for system in report.measured},
                relevant=tuple(
                    RelevantText(
                        *shown(id_), grades[id_],
                        {name: _rank_of(id_, ranked[query.id]) for name, ranked in runs.items()},
                    )
                    for id_ in relevant[:_SHOWN_RELEVANT]
                ),
                relevant_in_all=len(relevant),
                found=tuple(
                    FoundText(rank, *shown(id_), grades.get(id_, 0))
                    for rank, id_ in enumerate(run[query.id][:_SHOWN_FOUND], 1)
                ),
            )
        )  # fmt: skip
    return replace(report, worst=tuple(worst))


def _relevant(found: RetrievalSet, query: str) -> list[str]:
    """Return the ids of the texts that should be found, the highest grade first."""
    grades = found.qrels[query]
    return sorted((id_ for id_ in grades if grades[id_] > 0), key=lambda id_: -grades[id_])


def _rank_of(id_: str, ranking: Sequence[str]) -> int | None:
    return ranking.index(id_) + 1 if id_ in ranking else None


# -- answers ---------------------------------------------------------------------------------------


def _has_answers(data: Path) -> bool:
    return (data / "answers.jsonl").is_file()


def _without(wanted: Wanted) -> str:
    if not wanted.answers:
        return "Not measured: --no-answers was given."
    if not _has_answers(wanted.data):
        return "Not measured: the set has no answers.jsonl."
    return "None of the queries measured has an answer in the set's answers.jsonl."


def _questions(found: RetrievalSet, wanted: Wanted) -> list[Asked]:
    """Return those of the judged queries that have right answers."""
    if not wanted.answers or not _has_answers(wanted.data):
        return []
    judged = {query.id for query in found.queries}
    return [question for question in read_questions(wanted.data) if question.id in judged]


def _answers(
    rag: Rag,
    loaded: LoadedSettings,
    found: RetrievalSet,
    questions: Sequence[Asked],
    most: int,
    progress: Advance,
) -> AnswersResult:
    settings = rag.settings
    given: list[tuple[Asked, Answer]] = []
    latencies: list[float] = []
    failure = ""
    try:
        with opened_set(rag, found, progress, with_vectors=settings.system != "bm25") as opened:
            failure = _ask(opened, questions, given, latencies, progress)
    except YoujuError as error:
        failure = failure or str(error)
    right = [
        not answer.refused and holds_answer(answer.text, asked.answers) for asked, answer in given
    ]
    told = [not answer.refused for _, answer in given]
    return AnswersResult(
        answerer=settings.generator,
        system=settings.system,
        questions=len(questions),
        right=sum(right),
        refused=len(given) - sum(told),
        failed=len(questions) - len(given),
        cited=sum(_cites(found, asked, answer) for asked, answer in given),
        citations=sum(len(answer.citations) for _, answer in given),
        latencies_ms=tuple(latencies[1:]),  # the first one loads what is loaded on first use
        calibration=calibration(
            [
                (answer.confidence, each)
                for (_, answer), each in zip(given, right, strict=True)
                if not answer.refused
            ]
        ),
        wrong=_wrong([pair for pair, each in zip(given, right, strict=True) if not each], most),
        failure=without_secrets(failure, loaded),
    )


def _ask(
    opened: OpenStore,
    questions: Sequence[Asked],
    given: list[tuple[Asked, Answer]],
    latencies: list[float],
    progress: Advance,
) -> str:
    """Ask all questions; return the first error, or "". Many in a row end it."""
    failure, in_a_row = "", 0
    for done, question in enumerate(questions):
        progress(Progress(done, len(questions), "asking"))
        begin = time.perf_counter()
        try:
            answer = opened.ask(question.text)
        except YoujuError as error:
            failure, in_a_row = failure or str(error), in_a_row + 1
            if in_a_row == _FAILURES_IN_A_ROW:
                return f"Stopped when {in_a_row} in a row had failed. The first error: {failure}"
            continue
        in_a_row = 0
        latencies.append(1000 * (time.perf_counter() - begin))
        given.append((question, answer))
    return failure


def _cites(found: RetrievalSet, asked: Asked, answer: Answer) -> bool:
    relevant = _relevant(found, asked.id)
    return any(citation.file in relevant for citation in answer.citations)


def _wrong(pairs: Sequence[tuple[Asked, Answer]], most: int) -> tuple[WrongAnswer, ...]:
    ordered = sorted(pairs, key=lambda pair: (pair[1].refused, -pair[1].confidence))
    return tuple(
        WrongAnswer(
            id=asked.id,
            question=beginning(asked.text, _TEXT),
            expected=tuple(beginning(text, _TITLE) for text in asked.answers[:3]),
            given=beginning(answer.text, _TEXT),
            confidence=answer.confidence,
            refused=answer.refused,
        )
        for asked, answer in ordered[:most]
    )
