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

import numpy as np
from numpy.typing import NDArray

from rag.candidates import Candidates
from rag.language import Language
from rag.schema import Hit

_REFUSALS: dict[Language, str] = {
    "en": "The documents hold no answer to this question.",
    "zh": "文档中没有这个问题的答案。",
    "zh-Hant": "文件中沒有這個問題的答案。",
}
THRESHOLD = 0.47
"""Evidence from which on a question is answered."""

READABLE = 0.8
"""Share of a question that the embedder must read for cosines to count."""

FACTS = ("support", "pair_support", "certainty", "cosine", "lost_codes")

# Fitted by `python -m eval.calibrate SETS`; a constant and one weight for each fact that counts.
# Only lost_codes was fitted lower, at -1.1 and -1.4: the sets hardly tell, see the decision page.
_WITH_COSINE: dict[str, float] = {
    "constant": -4.416, "support": 3.029, "certainty": 2.893, "cosine": 4.532,
    "lost_codes": -2.0,
}  # fmt: skip
_WITHOUT_COSINE: dict[str, float] = {
    "constant": -3.505, "support": 4.301, "pair_support": 4.995, "certainty": 1.531,
    "lost_codes": -2.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for the passages holding the answer. All are in [0, 1] but the cosine.

    The first two are means over all pieces, weighted by how probably each holds the answer.

    Attributes:
        support: Share of the question's terms, weighted by rarity, that a piece holds together
            with its neighbours, its heading and the passage's context.
        pair_support: The same share of the question's pairs of Chinese characters.
        certainty: How probably the likeliest sentence is the one, the same sentence of several
            documents counting as one.
        cosine: The highest cosine of a hit, in [-1, 1]; None if no hit has one.
        lost_codes: Share of the question's numbers and codes that no hit mentions.
    """

    support: float
    pair_support: float
    certainty: float
    cosine: float | None
    lost_codes: float


def refusal_text(language: Language) -> str:
    """Return the sentence that refuses, in the given language.

    It is also the sentence that a model is told to refuse with.
    """
    return _REFUSALS[language]


def is_refusal(text: str) -> bool:
    """Whether a generated answer is a refusal: the sentence in any language, marks aside."""
    bare = _bare(text)
    return any(bare.startswith(_bare(refusal)) for refusal in _REFUSALS.values())


def may_become_refusal(text: str) -> bool:
    """Whether an answer that begins with the text is a refusal, or may still become one."""
    bare = _bare(text)
    return is_refusal(text) or any(
        _bare(refusal).startswith(bare) for refusal in _REFUSALS.values()
    )


def _bare(text: str) -> str:
    return "".join(char for char in text.casefold() if char.isalnum())


def gather_evidence(
    candidates: Candidates, hits: Sequence[Hit], probabilities: NDArray[np.float64]
) -> Evidence:
    """Read the facts off the pieces of the hits.

    Args:
        candidates: At least one piece.
        hits: Those the candidates were cut from.
        probabilities: Of each piece, that it holds the answer; they sum to 1.
    """
    cosines = [hit.cosine for hit in hits if hit.cosine is not None]
    sentences: dict[str, float] = {}
    for piece, probability in zip(candidates.pieces, probabilities.tolist(), strict=True):
        text = hits[piece.hit].chunk.text[piece.start : piece.end]
        sentences[text] = sentences.get(text, 0.0) + probability
    return Evidence(
        support=float(probabilities @ candidates.support),
        pair_support=float(probabilities @ candidates.pair_support),
        certainty=min(1.0, max(sentences.values())),
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
