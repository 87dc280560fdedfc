"""Several rankings into one: pure functions, no index, model or text.

`hybrid_fusion` is what the default search uses; `reciprocal_rank_fusion` is there to be compared
with. How they were chosen and what they give: docs/decisions/0005-fusion.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rag.schema import Ranking

BM25_WEIGHT = 0.4
"""Worth of one point of BM25 in mean excesses of the cosine; 0.3 to 0.5 measured alike."""

LEAST_COVERAGE = 0.1
"""Even of a text that the embedder cannot read it counts this much: it settles ties."""

RRF_K = 60
"""Damping constant of reciprocal rank fusion, as in its paper."""

_HALF_WAY = 10.0
"""The evidence that gives a score of one half; only scales the score, never the order."""


@dataclass(frozen=True, slots=True)
class FusionWeights:
    """The constants of both fusions, as the settings fusion_* name them.

    Attributes:
        bm25: Worth of one point of BM25 in mean excesses of the cosine, >= 0.
        least_coverage: Weight of vectors for a query that the embedder cannot read, in [0, 1].
        rrf_k: Damping constant of reciprocal rank fusion, > 0.
    """

    bm25: float = BM25_WEIGHT
    least_coverage: float = LEAST_COVERAGE
    rrf_k: int = RRF_K


DEFAULT_WEIGHTS = FusionWeights()


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[int]], k: int = RRF_K
) -> list[tuple[int, float]]:
    """Fuse rankings by reciprocal rank (Cormack et al., SIGIR 2009, doi:10.1145/1571941.1572114).

    score(d) = sum over rankings of 1 / (k + rank(d)), rank counted from 1.

    Args:
        rankings: Each a list of unique ids, best first; may be empty.
        k: Damping constant, > 0; 60 in the paper. Larger flattens the top ranks.

    Returns:
        (id, score), highest first, ties by id; 0 < score <= len(rankings) / (k + 1).

    Raises:
        ValueError: If k <= 0 or a ranking repeats an id.
    """
    if k <= 0:
        raise ValueError(f"expected k > 0, got {k}")
    scores: dict[int, float] = {}
    for ranking in rankings:
        _check_unique(ranking)
        for rank, id_ in enumerate(ranking, start=1):
            scores[id_] = scores.get(id_, 0.0) + 1 / (k + rank)
    return best_first(scores.items())


def hybrid_fusion(
    dense: Ranking,
    lexical: Ranking,
    coverage: float,
    weights: FusionWeights = DEFAULT_WEIGHTS,
) -> Ranking:
    """Add the evidence of both sides, each in units that say how sure it is.

    evidence(d) = max(coverage, weights.least_coverage)
                  * (cos(d) - cos_last) / mean over the list of (cos - cos_last)
                  + weights.bm25 * bm25(d)
    score(d) = evidence / (evidence + 10)

    The dense side counts by how far a passage stands out from the query's own background (the
    mean excess is the scale of an exponential tail, so the unit is the same for every embedder,
    however narrow its cosines); a flat list adds little. BM25 is used as it is, not stretched to
    its best hit: it is a sum of term weights, small where few or common words match. A passage
    that one side did not return has no evidence from it.

    Args:
        dense: (id, cosine), best first, the nearest 100 or so; [] if there is no dense side.
        lexical: (id, BM25 score > 0), best first; [] if no word matches.
        coverage: In [0, 1], the share of the query that the embedder can read.
        weights: Its constants.

    Returns:
        (id, score) of every id of either side, best first, ties by id; 0 <= score < 1.

    Raises:
        ValueError: If coverage is outside [0, 1] or a ranking repeats an id.
    """
    if not 0 <= coverage <= 1:
        raise ValueError(f"expected coverage in [0, 1], got {coverage}")
    for side in (dense, lexical):
        _check_unique([id_ for id_, _ in side])
    evidence: dict[int, float] = {}
    if dense:
        last = min(cosine for _, cosine in dense)
        mean = sum(cosine - last for _, cosine in dense) / len(dense)
        weight = max(coverage, weights.least_coverage) / mean if mean > 0 else 0.0
        evidence = {id_: weight * (cosine - last) for id_, cosine in dense}
    for id_, score in lexical:
        evidence[id_] = evidence.get(id_, 0.0) + weights.bm25 * score
    return [(id_, found / (found + _HALF_WAY)) for id_, found in best_first(evidence.items())]


def best_first(scores: Iterable[tuple[int, float]]) -> Ranking:
    """Sort (id, score) pairs, highest score first, ties by id."""
    return sorted(scores, key=lambda pair: (-pair[1], pair[0]))


def _check_unique(ids: Sequence[int]) -> None:
    if len(set(ids)) != len(ids):
        raise ValueError("a ranking repeats an id")
