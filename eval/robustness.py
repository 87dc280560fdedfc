"""Measures what bad passages do to answers, in the manner of the RGB benchmark.

Chen et al., Benchmarking Large Language Models in Retrieval-Augmented Generation, AAAI 2024.
Passages are given with each question: some that hold the answer, some about it that do not
(noise), some falsified. What asks is passed in; the sampling is fixed by the questions' ids.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from eval.answer_metrics import bare_text, holds_answer
from eval.asking import Case, Outcome
from eval.rgb_data import FalseQuestion, NoiseQuestion, Parts, Passage, Task
from rag.language import is_chinese
from rag.schema import Answer

RATIOS: dict[Task, tuple[float, ...]] = {
    "noise": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    "integration": (0.0, 0.2, 0.4),
    "counterfactual": (0.5, 1.0),
}
"""Noise ratios as in the paper, 1 being its negative rejection; counterfactual: falsified share."""

PASSAGES = 5
"""Passages given with a question, as in the paper."""

Ask: TypeAlias = Callable[[str, Sequence[Passage]], Answer]


@dataclass(frozen=True, slots=True)
class RobustnessReport:
    """How one task came out at one ratio; shares are of all its questions.

    Attributes:
        ratio: Share of noise, or of falsified passages.
        questions: Number asked.
        short: Questions for which the data hold too few passages of a kind for the ratio; they
            got others, or fewer.
        failed: Questions that failed; they count as neither right nor refused.
        refused: Questions refused.
        counts: By name, further counts of questions.
        parts: Mean share of the answers held, in integration; else None.
    """

    task: Task
    ratio: float
    questions: int
    short: int
    failed: int
    refused: int
    counts: dict[str, int]
    parts: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return counts and their shares of all questions."""
        shares = {
            f"{name}_rate": round(count / max(1, self.questions), 5)
            for name, count in {**self.counts, "refused": self.refused}.items()
        }
        parts = {} if self.parts is None else {"parts": round(self.parts, 5)}
        return {
            "ratio": self.ratio,
            "questions": self.questions,
            "short": self.short,
            "failed": self.failed,
            "refused": self.refused,
            **self.counts,
            **shares,
            **parts,
        }


def mix(
    question: NoiseQuestion, ratio: float, passages: int = PASSAGES, *, cover: bool = False
) -> tuple[list[Passage], bool]:
    """Choose passages for a question at a noise ratio, always the same ones.

    ceil(passages * ratio) are noise, the rest hold the answer. Where one kind runs out, the other
    fills up, but for ratio 1: nothing that holds the answer is given there. What is chosen at a
    lower ratio of noise begins with what is chosen at a higher one, so that ratios compare.

    Args:
        question: What there is.
        ratio: In [0, 1].
        passages: How many, >= 1.
        cover: Take first passages that together hold as many of the answers as possible.

    Returns:
        The passages in an order drawn at random, and whether a kind ran out.

    Raises:
        ValueError: If the ratio or the number is out of range.
    """
    if not 0 <= ratio <= 1 or passages < 1:
        raise ValueError(f"got ratio {ratio} and {passages} passages, expected 0 to 1 and >= 1")
    draw = random.Random(f"youju:{question.id}")
    right, noise = list(question.positive), list(question.noise)
    draw.shuffle(right)
    draw.shuffle(noise)
    if cover:
        right = _covering(right, question.answers)
    wanted_noise = math.ceil(round(passages * ratio, 9))
    wanted_right = passages - wanted_noise
    rightful = 0
    noisy = min(len(noise), passages)
    if ratio < 1:
        noisy = min(len(noise), passages - min(len(right), wanted_right))
        rightful = min(len(right), passages - noisy)
    given = right[:rightful] + noise[:noisy]
    short = len(right) < wanted_right or len(noise) < wanted_noise
    random.Random(f"youju:{question.id}:{ratio}").shuffle(given)
    return given, short


def mix_false(
    question: FalseQuestion, ratio: float, passages: int = PASSAGES
) -> tuple[list[Passage], bool]:
    """Choose true and falsified passages, always the same ones; no passage in both forms.

    Args:
        question: What there is.
        ratio: Share of falsified ones, in (0, 1].
        passages: How many at most, >= 1.

    Returns:
        The passages in an order drawn at random, and whether there were too few.
    """
    if not 0 < ratio <= 1 or passages < 1:
        raise ValueError(f"got ratio {ratio} and {passages} passages, expected above 0, and >= 1")
    draw = random.Random(f"youju:{question.id}")
    places = list(range(min(len(question.positive), len(question.wrong))))
    draw.shuffle(places)
    chosen = places[:passages]
    false = math.ceil(round(len(chosen) * ratio, 9))
    given = [question.wrong[place] for place in chosen[:false]]
    given += [question.positive[place] for place in chosen[false:]]
    short = len(chosen) < passages or (ratio < 1 and false == len(chosen))
    random.Random(f"youju:{question.id}:{ratio}").shuffle(given)
    return given, short


def cases_of(
    task: Task,
    questions: Sequence[NoiseQuestion | FalseQuestion],
    ratio: float,
    ask: Ask,
    passages: int = PASSAGES,
) -> tuple[list[Case], int]:
    """Return what is to be asked at a ratio, and for how many questions a kind ran out."""
    cases: list[Case] = []
    shortages = 0
    for question in questions:
        if isinstance(question, FalseQuestion):
            given, short = mix_false(question, ratio, passages)
        else:
            given, short = mix(question, ratio, passages, cover=task == "integration")
        shortages += short
        cases.append(
            Case(f"{task}:{passages}:{ratio}:{question.id}", _asking(ask, question, given))
        )
    return cases, shortages


def scores_of(question: NoiseQuestion | FalseQuestion, outcome: Outcome) -> dict[str, float]:
    """Return the scores of one answer, each in [0, 1], higher being better but for "misled".

    Of a noise or integration question: "any" (the answer holds a right one), "all" (it holds all
    of them), "parts" (the share it holds). Where answers are parts of one (integration) "all" is
    what is asked for, and too strict where some are other spellings; elsewhere "any" is.

    Of a counterfactual one: "right" (it holds the true answer alone), "misled" (the false one
    alone), "both": then a reader cannot tell, and it is not right.

    A question that was refused or failed scores 0 throughout.
    """
    given = outcome.given
    if isinstance(question, FalseQuestion):
        kind = told(given.text, question) if given else ""
        return {name: float(kind == name) for name in ("right", "misled", "both")}
    held = parts_held(given.text, question.answers) if given else 0.0
    return {"any": float(held > 0), "all": float(held == 1), "parts": held}


def summarise(
    task: Task,
    ratio: float,
    scores: Sequence[dict[str, float]],
    outcomes: Sequence[Outcome],
    short: int = 0,
) -> RobustnessReport:
    """Count what `scores_of` says of every question of a task at a ratio."""
    names = ("right", "misled", "both") if task == "counterfactual" else ("any", "all")
    parts = sum(row["parts"] for row in scores) / len(scores) if task == "integration" else None
    return RobustnessReport(
        task=task,
        ratio=ratio,
        questions=len(scores),
        short=short,
        failed=sum(outcome.answer is None for outcome in outcomes),
        refused=sum(o.answer is not None and o.answer.refused for o in outcomes),
        counts={name: sum(row[name] == 1 for row in scores) for name in names},
        parts=parts,
    )


def told(text: str, question: FalseQuestion) -> Literal["right", "misled", "both", ""]:
    """Tell which of the two answers a text holds.

    One that only stands inside the other is not held: "170" does not hold "70" where 170 is the
    false answer. Where the data give the same text for both, what holds it holds both.
    """
    true, fake = question.true_answer, question.fake_answer
    holds_true, holds_fake = _holds_all(text, true), _holds_all(text, fake)
    if holds_true and holds_fake:
        alone = _holds_all(_without(text, fake, true), true)
        fake_alone = _holds_all(_without(text, true, fake), fake)
        if alone != fake_alone:
            return "right" if alone else "misled"
        return "both"
    return "right" if holds_true else "misled" if holds_fake else ""


def _holds_all(text: str, parts: Parts) -> bool:
    return all(any(_holds(text, spelling) for spelling in part) for part in parts)


def _without(text: str, outer: Parts, inner: Parts) -> str:
    """A text without the spellings of `outer` that hold one of `inner`."""
    text = _spaceless(text)
    for spelling in sorted((s for part in outer for s in part), key=len, reverse=True):
        if any(_holds(spelling, within) for part in inner for within in part):
            text = text.replace(_spaceless(spelling), "\n")
    return text


def parts_held(text: str, answers: Sequence[str]) -> float:
    """Share of the answers that a text holds; blanks do not count, as in RGB's Chinese part."""
    return sum(_holds(text, answer) for answer in answers) / len(answers)


def _asking(
    ask: Ask, question: NoiseQuestion | FalseQuestion, given: Sequence[Passage]
) -> Callable[[], Answer]:
    return lambda: ask(question.text, given)


def _holds(text: str, answer: str) -> bool:
    if holds_answer(text, [answer]):
        return True
    return is_chinese(text) and holds_answer(_spaceless(text), [_spaceless(answer)])


def _spaceless(text: str) -> str:
    return "".join(bare_text(text).split()).lower()


def _covering(passages: list[Passage], answers: Sequence[str]) -> list[Passage]:
    """Put first, for each answer in turn, a passage that holds it and is not there yet."""
    first: list[Passage] = []
    for answer in answers:
        if not any(_holds(text, answer) for _, text in first):
            first += [p for p in passages if _holds(p[1], answer)][:1]
    return first + [passage for passage in passages if passage not in first]
