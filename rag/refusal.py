"""How much evidence the passages hold for a question, and the sentence that refuses.

The score is a logistic model over a few plain facts, calibrated on questions with and without an
answer; it recognises that a topic or a code is missing, not that a passage on the very topic
happens to lack one detail. How it was calibrated, and what it gives:
docs/decisions/0007-refusal-threshold.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rag.candidates import FEATURES, Candidates
from rag.language import Language
from rag.schema import Hit

_REFUSALS: dict[Language, str] = {
    "en": "The documents hold no answer to this question.",
    "zh": "文档中没有这个问题的答案。",
    "zh-Hant": "文件中沒有這個問題的答案。",
}
THRESHOLD = 0.5
"""Evidence from which on a question is answered."""

READABLE = 0.8
"""Share of a question that the embedder must read for cosines to count."""

FACTS = ("support", "cover", "grams", "cosine", "lost_codes")

# Fitted by `python -m eval.calibrate SETS`; a constant and one weight for each fact that counts.
_WITH_COSINE: dict[str, float] = {
    "constant": -3.44, "support": 4.47, "cosine": 4.49, "lost_codes": -2.74,
}  # fmt: skip
_WITHOUT_COSINE: dict[str, float] = {
    "constant": -3.06, "support": 6.4, "grams": 3.19, "lost_codes": -1.54,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for the passages holding the answer. All are in [0, 1] but the cosine.

    Attributes:
        support: Share of the question's terms, weighted by rarity, that the likeliest piece holds
            together with its neighbours, its heading and the passage's title.
        cover: The highest such share of a piece by itself.
        grams: The highest share of the question's pairs of Chinese characters in one piece.
        cosine: The highest cosine of a hit, in [-1, 1]; None if no hit has one.
        lost_codes: Share of the question's numbers and codes that no hit mentions.
    """

    support: float
    cover: float
    grams: float
    cosine: float | None
    lost_codes: float


def refusal_text(language: Language) -> str:
    """Return the sentence that refuses, in the given language.

    It is also the sentence that a model is told to refuse with.
    """
    return _REFUSALS[language]


def is_refusal(text: str) -> bool:
    """Whether a generated answer is a refusal: the sentence in any language, marks aside."""
    bare = "".join(char for char in text.casefold() if char.isalnum())
    return any(
        bare.startswith("".join(char for char in refusal.casefold() if char.isalnum()))
        for refusal in _REFUSALS.values()
    )


def gather_evidence(candidates: Candidates, hits: Sequence[Hit], likeliest: int) -> Evidence:
    """Read the facts off the pieces of the hits.

    Args:
        candidates: At least one piece.
        hits: Those the candidates were cut from.
        likeliest: Index of the piece that most probably holds the answer.
    """
    cosines = [hit.cosine for hit in hits if hit.cosine is not None]
    return Evidence(
        support=float(candidates.support[likeliest]),
        cover=float(candidates.features[:, FEATURES.index("cover")].max()),
        grams=float(candidates.features[:, FEATURES.index("grams")].max()),
        cosine=max(cosines) if cosines else None,
        lost_codes=candidates.lost_codes,
    )


def evidence_score(evidence: Evidence, *, readable: float = 1.0) -> float:
    """Weigh the facts: 1 / (1 + exp(-(constant + sum of weight * fact))), in [0, 1].

    Args:
        evidence: The facts.
        readable: Share of the question that the embedder can read, in [0, 1]; below READABLE
            the cosine is left out and other weights are used.
    """
    reads = readable >= READABLE and evidence.cosine is not None
    weights = _WITH_COSINE if reads else _WITHOUT_COSINE
    total = weights["constant"]
    for fact in FACTS:
        total += weights.get(fact, 0.0) * (getattr(evidence, fact) or 0.0)
    return 1 / (1 + math.exp(-total))
