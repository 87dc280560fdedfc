"""Runs an evaluation of answers: which questions are asked of what, what is measured of them.

Three kinds of sets: a BEIR folder with answers (its questions are asked over all its passages),
questions with one text each and evidence in it (eval.given), and the files of the RGB benchmark
beside a BEIR folder (eval.robustness). It parses no arguments and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from eval.answer_metrics import TEXT_METRICS
from eval.answer_scores import Scores, corpus_bleu, means, passage_scores, span_scores, text_scores
from eval.answers import AnswersReport, Asked, calibrated, measure_answers, read_questions
from eval.asking import Case, Kept, Outcome, ask_all, evaluation_key, kept_answers
from eval.data import read_set
from eval.files import check_writable
from eval.given import EvidenceQuestion, ask_given, evidence_file, read_evidence
from eval.judge import Judgement, JudgeReport, judge, open_judge, summarise_judgements
from eval.question_file import question_row, write_questions
from eval.refusal_metrics import Calibration
from eval.retrieval import opened_set
from eval.rgb_data import TASKS, FalseQuestion, NoiseQuestion, Task, read_false, read_noise
from eval.robustness import (
    PASSAGES,
    RATIOS,
    RobustnessReport,
    cases_of,
    scores_of,
    summarise,
)
from rag.build import Rag
from rag.errors import EvalDataError, UsageError
from rag.prompt import Message
from rag.schema import Answer
from rag.terminal import Progress

OF_ANSWERS = ("contains", *TEXT_METRICS, "citations", "calibration")
"""Measured on one answer to each question; "contains" always is."""

METRICS = (*OF_ANSWERS, *TASKS)

Say = Callable[[list[Message]], str]
Advance = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be measured.

    Attributes:
        metrics: Of `METRICS`.
        limit: Only the first so many questions, of each task of the RGB benchmark; None: all.
        ratios: In place of those of `RATIOS`, for noise and integration.
        passages: Given with each question of the RGB benchmark, >= 1.
        per_question: Where what became of each question is written; None: nowhere.
        judge: Have the configured endpoint judge the answers.
    """

    metrics: tuple[str, ...] = OF_ANSWERS
    limit: int | None = None
    ratios: tuple[float, ...] = ()
    passages: int = PASSAGES
    per_question: Path | None = None
    judge: bool = False


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What came out; parts that were not asked for are None or empty.

    Attributes:
        data: Name of the set.
        answers: Counts and lengths.
        metrics: Means over all questions, in [0, 1], but "bleu" in [0, 100], of the corpus.
        citations: Means over the questions that have gold, each in [0, 1].
        with_gold: How many those are.
        calibration: Of the answers given.
        robustness: One of each task and ratio.
        judged: Verdicts.
        faults: Why questions failed, each reason once, in order of occurrence.
    """

    data: str
    answers: AnswersReport | None
    metrics: Scores
    citations: Scores
    with_gold: int
    calibration: Calibration | None
    robustness: tuple[RobustnessReport, ...]
    judged: JudgeReport | None
    faults: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what `youju eval answers --json` prints; its keys are part of the interface."""
        found: dict[str, Any] = {"data": self.data}
        if self.answers:
            found |= self.answers.to_json()
            found["metrics"] = _rounded(self.metrics)
        if self.citations:
            found["citations"] = {"questions": self.with_gold, **_rounded(self.citations)}
        if self.calibration:
            found["calibration"] = self.calibration.to_json()
        if self.judged:
            found["judge"] = self.judged.to_json()
        for task in TASKS:
            if rows := [report.to_json() for report in self.robustness if report.task == task]:
                found[task] = rows
        return {**found, "faults": list(self.faults)}


def parse_metrics(text: str | None) -> tuple[str, ...]:
    """Read names separated by commas; None: those of answers.

    Raises:
        UsageError: If there is none, or one is unknown.
    """
    if text is None:
        return OF_ANSWERS
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        got = f"Unknown metric {unknown[0]!r}." if unknown else "No metric is named."
        raise UsageError(got, do=f"Expected some of {', '.join(METRICS)}, with commas.")
    return names


def parse_ratios(text: str | None) -> tuple[float, ...]:
    """Read shares in [0, 1] separated by commas; None: none.

    Raises:
        UsageError: If one is none, or there is none.
    """
    if text is None:
        return ()
    try:
        found = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        found = ()
    if not found or not all(0 <= ratio <= 1 for ratio in found):
        raise UsageError(f"Got ratios {text!r}.", do="Expected numbers from 0 to 1, with commas.")
    return found


def evaluate(
    rag: Rag, data: Path, wanted: Wanted, advance: Advance = lambda _progress: None
) -> Evaluation:
    """Ask a set's questions and measure the answers; a killed run is gone on with.

    Args:
        rag: The parts and settings to measure; its own stores are not touched.
        data: A folder of one of the three kinds, or a file of questions with evidence.
        wanted: What to measure.
        advance: Called as it goes on.

    Raises:
        EvalDataError: If the set is not as it should be, or lacks what a metric needs.
        UsageError: If there is no endpoint that could judge.
        PathError: If the per-question file cannot be written.
        ModelError: If a model is not there, or fails again and again.
        StorageError: If the home folder cannot be used, or another process does the same.
    """
    if wanted.per_question:
        check_writable(wanted.per_question, "--per-question")
    say = open_judge(rag) if wanted.judge else None
    file = data if data.is_file() else None
    if file is None and not (data / "queries.jsonl").exists():
        file = evidence_file(data)
    files = [file] if file else [*data.glob("*.jsonl"), *data.glob("qrels/*.tsv")]
    key = evaluation_key(rag.settings, files, rag.embedder.fingerprint)
    with kept_answers(rag.settings, key) as kept:
        run = _Run(rag, wanted, kept, say, advance)
        if any(name in OF_ANSWERS for name in wanted.metrics):
            if file:
                run.ask_evidence(read_evidence(file, wanted.limit))
            else:
                run.ask_set(data)
        for task in TASKS:
            if task in wanted.metrics:
                if file:
                    raise EvalDataError(f"{data} is no set for {task}.", do="Give another --data.")
                run.ask_robustness(task, data)
        if wanted.per_question:
            write_questions(wanted.per_question, run.rows)
        return run.evaluation(data.resolve().name)


class _Run:
    """Gathers what is asked and measured, part by part."""

    def __init__(
        self, rag: Rag, wanted: Wanted, kept: Kept, say: Say | None, advance: Advance
    ) -> None:
        self.rows: list[dict[str, Any]] = []
        self._rag = rag
        self._wanted = wanted
        self._kept = kept
        self._say = say
        self._advance = advance
        self._answers: AnswersReport | None = None
        self._metrics: Scores = {}
        self._citations: list[Scores] = []
        self._calibration: Calibration | None = None
        self._robustness: list[RobustnessReport] = []
        self._judged: JudgeReport | None = None
        self._faults: dict[str, None] = {}

    def ask_set(self, folder: Path) -> None:
        """Ask a BEIR folder's questions over all its passages."""
        questions = read_questions(folder, self._wanted.limit)
        found = read_set(folder)
        texts = {text.id: text.text for text in found.corpus}
        gold = {
            query: {id_: texts[id_] for id_, grade in grades.items() if grade > 0}
            for query, grades in found.qrels.items()
        }
        with opened_set(self._rag, found, self._advance) as opened:
            outcomes = self._ask("answers", _cases(opened.ask, questions))
        self._measure(questions, outcomes, lambda: passage_scores(questions, outcomes, gold))

    def ask_evidence(self, found: Sequence[EvidenceQuestion]) -> None:
        """Ask questions of their one text each."""
        questions = [Asked(item.id, item.text, item.answers) for item in found]
        cases = [
            Case(
                f"answers:{item.id}",
                partial(ask_given, self._rag, item.text, [(item.id, item.context)]),
            )
            for item in found
        ]
        outcomes = self._ask("answers", cases)
        contexts = {item.id: {item.id: item.context} for item in found}

        def cite() -> list[Scores]:
            spans = span_scores(found, outcomes)
            passages = passage_scores(questions, outcomes, contexts)
            # All is cited from the one text: only how much of the answer has support tells.
            return [
                {**span, "citation_recall": row["citation_recall"]}
                for span, row in zip(spans, passages, strict=True)
            ]

        self._measure(questions, outcomes, cite)

    def ask_robustness(self, task: Task, folder: Path) -> None:
        """Ask the questions of one task of the RGB benchmark at each ratio."""
        wanted = self._wanted
        questions = _given_questions(task, folder, wanted.limit)
        ratios = RATIOS[task]
        if wanted.ratios and task != "counterfactual":
            ratios = wanted.ratios
        for ratio in ratios:
            cases, short = cases_of(
                task, questions, ratio, partial(ask_given, self._rag), wanted.passages
            )
            outcomes = self._ask(f"{task} {ratio}", cases)
            scores = [scores_of(q, outcome) for q, outcome in zip(questions, outcomes, strict=True)]
            self._robustness.append(summarise(task, ratio, scores, outcomes, short))
            self.rows += [
                question_row(task, item.id, item.text, _right(item), outcome, row, ratio=ratio)
                for item, outcome, row in zip(questions, outcomes, scores, strict=True)
            ]

    def evaluation(self, data: str) -> Evaluation:
        """Return all that was measured."""
        return Evaluation(
            data=data,
            answers=self._answers,
            metrics=self._metrics,
            citations=means(self._citations),
            with_gold=sum(bool(row) for row in self._citations),
            calibration=self._calibration,
            robustness=tuple(self._robustness),
            judged=self._judged,
            faults=tuple(self._faults),
        )

    def _ask(self, name: str, cases: Sequence[Case]) -> list[Outcome]:
        outcomes = ask_all(
            cases, self._kept, lambda done: self._advance(Progress(done, len(cases), name))
        )
        self._faults |= dict.fromkeys(outcome.fault for outcome in outcomes if outcome.fault)
        return outcomes

    def _measure(
        self,
        questions: Sequence[Asked],
        outcomes: Sequence[Outcome],
        cite: Callable[[], list[Scores]],
    ) -> None:
        """Measure one answer to each question."""
        metrics = self._wanted.metrics
        self._answers = measure_answers(questions, outcomes)
        scores = text_scores(questions, outcomes, metrics)
        self._metrics = {name: v for name, v in means(scores).items() if name != "contains"}
        if "bleu" in metrics:
            self._metrics["bleu"] = corpus_bleu(questions, outcomes)
        if "citations" in metrics:
            self._citations = cite()
            scores = [{**row, **more} for row, more in zip(scores, self._citations, strict=True)]
        if "calibration" in metrics:
            self._calibration = calibrated(questions, outcomes)
        judgements = self._judge(questions, outcomes)
        for question, outcome, row, judgement in zip(
            questions, outcomes, scores, judgements, strict=True
        ):
            more = {"judge": judgement.to_json()} if judgement else {}
            self.rows.append(
                question_row(
                    "answers", question.id, question.text, question.answers, outcome, row, **more
                )
            )

    def _judge(
        self, questions: Sequence[Asked], outcomes: Sequence[Outcome]
    ) -> list[Judgement | None]:
        """Have every answer given judged, but those judged before the run broke off."""
        if self._say is None:
            return [None] * len(questions)
        found: list[Judgement | None] = []
        for done, (question, outcome) in enumerate(zip(questions, outcomes, strict=True), 1):
            found.append(self._judgement(self._say, question, outcome))
            self._advance(Progress(done, len(questions), "judging"))
        self._judged = summarise_judgements(found)
        self._faults |= dict.fromkeys(f.raw for f in found if f and f.verdict == "failed")
        return found

    def _judgement(self, say: Say, question: Asked, outcome: Outcome) -> Judgement | None:
        if outcome.given is None:
            return None
        id_ = f"judge:{question.id}"
        known = self._kept.get(id_)
        if known is not None and known["answer"] == outcome.given.text:
            return Judgement(known["verdict"], known["raw"])
        made = judge(say, question.text, question.answers, outcome.given.text)
        if made.verdict != "failed":
            self._kept.put(id_, {"answer": outcome.given.text, **made.to_json()})
        return made


def _cases(ask: Callable[[str], Answer], questions: Sequence[Asked]) -> list[Case]:
    return [Case(f"answers:{item.id}", partial(ask, item.text)) for item in questions]


def _given_questions(
    task: Task, folder: Path, limit: int | None
) -> Sequence[NoiseQuestion | FalseQuestion]:
    if task == "counterfactual":
        return read_false(folder, limit)
    return read_noise(folder, integration=task == "integration", limit=limit)


def _right(question: NoiseQuestion | FalseQuestion) -> Sequence[str]:
    if isinstance(question, FalseQuestion):
        return [spelling for part in question.true_answer for spelling in part]
    return question.answers


def _rounded(values: Mapping[str, float]) -> Scores:
    return {name: round(value, 5) for name, value in values.items()}
