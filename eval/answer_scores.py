"""Scores the answers to a set's questions one by one, and takes their means.

Every question counts in every mean: one that was refused or failed scores 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.answer_metrics import (
    Bleu,
    answer_f1,
    exact_match,
    holds_answer,
    rouge_l,
    speak_chinese,
)
from eval.answers import Asked
from eval.asking import Outcome
from eval.citation_metrics import passage_citations, span_citations
from eval.given import EvidenceQuestion

Scores = dict[str, float]


def text_scores(
    questions: Sequence[Asked], outcomes: Sequence[Outcome], metrics: Sequence[str]
) -> list[Scores]:
    """Return each answer's "contains" and those of `eval.answer_metrics.TEXT_METRICS` asked for.

    "bleu" is the sentence's, in [0, 100]; its mean is not the corpus's, see `corpus_bleu`.
    """
    languages = speak_chinese([(question.text, question.answers) for question in questions])
    bleu = Bleu() if "bleu" in metrics else None
    rows: list[Scores] = []
    for question, outcome, chinese in zip(questions, outcomes, languages, strict=True):
        text = outcome.given.text if outcome.given else None
        right = question.answers
        scores = {"contains": float(text is not None and holds_answer(text, right))}
        for name, measure in (
            ("exact_match", exact_match),
            ("f1", answer_f1),
            ("rouge_l", rouge_l),
        ):
            if name in metrics:
                scores[name] = 0.0 if text is None else measure(text, right, chinese=chinese)
        if bleu:
            scores["bleu"] = 0.0 if text is None else bleu.sentence(text, right, chinese=chinese)
        rows.append(scores)
    return rows


def corpus_bleu(questions: Sequence[Asked], outcomes: Sequence[Outcome]) -> float:
    """Return BLEU over all questions in [0, 100]; one without an answer is an empty text."""
    return Bleu().corpus(
        [outcome.given.text if outcome.given else "" for outcome in outcomes],
        [question.answers for question in questions],
        speak_chinese([(question.text, question.answers) for question in questions]),
    )


def passage_scores(
    questions: Sequence[Asked],
    outcomes: Sequence[Outcome],
    gold: Mapping[str, Mapping[str, str]],
) -> list[Scores]:
    """Return citation_precision, citation_recall and gold_cited of each question with gold.

    Args:
        questions: As asked.
        outcomes: One each.
        gold: Question id -> name -> text of its gold passages. A question that is not in it
            gets no scores.
    """
    rows: list[Scores] = []
    for question, outcome in zip(questions, outcomes, strict=True):
        passages = gold.get(question.id)
        if not passages:
            rows.append({})
        elif outcome.given is None:
            rows.append({"citation_precision": 0.0, "citation_recall": 0.0, "gold_cited": 0.0})
        else:
            found = passage_citations(outcome.given, passages)
            rows.append(
                {
                    "citation_precision": found.precision,
                    "citation_recall": found.recall,
                    "gold_cited": found.gold,
                }
            )
    return rows


def span_scores(questions: Sequence[EvidenceQuestion], outcomes: Sequence[Outcome]) -> list[Scores]:
    """Return evidence_precision, evidence_recall and evidence_f1 of each question."""
    rows: list[Scores] = []
    for question, outcome in zip(questions, outcomes, strict=True):
        precision = recall = f1 = 0.0
        if outcome.given is not None:
            found = span_citations(outcome.given, question.id, question.evidences)
            precision, recall, f1 = found.precision, found.recall, found.f1
        rows.append({"evidence_precision": precision, "evidence_recall": recall, "evidence_f1": f1})
    return rows


def means(rows: Sequence[Scores]) -> Scores:
    """Return the mean of each score over the rows that have scores; {} if none has."""
    scored = [row for row in rows if row]
    names = scored[0] if scored else {}
    return {name: sum(row[name] for row in scored) / len(scored) for name in names}
