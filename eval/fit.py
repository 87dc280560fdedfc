"""Fits two small models: a softmax over the pieces of a question, and a logistic one.

Plain NumPy on standardised inputs, deterministic. It knows nothing of sets, text or retrieval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from rag.schema import FloatArray

Vector: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Example:
    """The pieces read for one question: (n, features), and which of them hold the answer."""

    features: FloatArray
    right: NDArray[np.bool_]


def fit_softmax(examples: Sequence[Example], *, penalty: float = 1e-3, steps: int = 600) -> Vector:
    """Fit weights that give right pieces the most probability.

    Minimises the mean of -ln(sum of the softmax over right pieces), plus penalty times the squared
    weights of the standardised features, by Adam with a falling step.

    Args:
        examples: Each with a right and a wrong piece, at least one.
        penalty: >= 0.
        steps: Passes over all examples.

    Returns:
        (len(FEATURES),) weights of the features as they are.
    """
    stacked = np.concatenate([example.features for example in examples]).astype(np.float64)
    right = np.concatenate([example.right for example in examples])
    sizes = np.array([len(example.right) for example in examples])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    spread = stacked.std(axis=0) + 1e-9
    inputs = (stacked - stacked.mean(axis=0)) / spread

    def slope(weights: Vector) -> Vector:
        scores = inputs @ weights
        odds = np.exp(scores - np.repeat(np.maximum.reduceat(scores, starts), sizes))
        every = odds / np.repeat(np.add.reduceat(odds, starts), sizes)
        odds = np.where(right, odds, 0.0)
        wanted = odds / np.repeat(np.add.reduceat(odds, starts) + 1e-300, sizes)
        gradient: Vector = inputs.T @ (every - wanted) / len(examples)
        return gradient + 2 * penalty * weights

    fitted: Vector = _adam(slope, inputs.shape[1], steps) / spread
    return fitted


def fit_logistic(
    facts: Vector,
    answerable: NDArray[np.bool_],
    importance: Vector,
    *,
    penalty: float = 1e-4,
    steps: int = 3000,
) -> Vector:
    """Fit a logistic model by Adam with a falling step.

    Args:
        facts: (n, d).
        answerable: (n,) labels.
        importance: (n,) weights of the examples, > 0.
        penalty: Of the squared weights, >= 0.
        steps: Passes over all examples.

    Returns:
        (1 + d,): the constant, then the weights.
    """
    inputs = np.hstack([np.ones((len(facts), 1)), facts])
    share = importance / importance.sum()

    def slope(weights: Vector) -> Vector:
        given = 1 / (1 + np.exp(-(inputs @ weights)))
        gradient: Vector = inputs.T @ (share * (given - answerable))
        return gradient + 2 * penalty * weights

    return _adam(slope, inputs.shape[1], steps)


def _adam(slope: Callable[[Vector], Vector], size: int, steps: int) -> Vector:
    """Minimise from 0 by Adam (Kingma and Ba 2015, arXiv:1412.6980), step 0.1 falling to 0."""
    weights, mean, square = np.zeros(size), np.zeros(size), np.zeros(size)
    for step in range(1, steps + 1):
        gradient = slope(weights)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        rate = 0.1 * (1 - step / steps)
        corrected = np.sqrt(square / (1 - 0.999**step)) + 1e-9
        weights = weights - rate * mean / (1 - 0.9**step) / corrected
    return weights
