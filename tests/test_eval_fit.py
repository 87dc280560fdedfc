from __future__ import annotations

import numpy as np
import pytest

from eval.fit import Example, fit_logistic, fit_softmax
from rag.extract import softmax


def test_softmax_weights_are_recovered() -> None:
    rng = np.random.default_rng(1)
    truth = np.array([2.0, -1.0, 0.0])
    examples = []
    for _ in range(3000):
        features = rng.normal(size=(6, 3)).astype(np.float32)
        right = np.zeros(6, bool)
        right[rng.choice(6, p=softmax(features, truth))] = True
        examples.append(Example(features, right))
    assert fit_softmax(examples, penalty=0.0) == pytest.approx(truth, abs=0.15)


def test_any_right_piece_will_do() -> None:
    features = np.array([[1.0], [1.0], [0.0]], np.float32)
    (weight,) = fit_softmax([Example(features, np.array([True, True, False]))])
    assert weight > 1


def test_logistic_weights_are_recovered() -> None:
    rng = np.random.default_rng(2)
    facts = rng.normal(size=(20_000, 2))
    truth = np.array([-0.5, 1.5, 0.0])
    given = 1 / (1 + np.exp(-(truth[0] + facts @ truth[1:])))
    labels = rng.random(20_000) < given
    fitted = fit_logistic(facts, labels, np.ones(20_000), penalty=0.0)
    assert fitted == pytest.approx(truth, abs=0.08)


def test_importance_counts_like_repetition() -> None:
    facts = np.array([[0.0], [1.0], [1.0], [0.0]])
    labels = np.array([False, True, False, True])
    weighted = fit_logistic(facts, labels, np.array([2.0, 2.0, 1.0, 1.0]))
    repeated = fit_logistic(
        np.vstack([facts, facts[:2]]), np.append(labels, labels[:2]), np.ones(6)
    )
    assert weighted == pytest.approx(repeated, abs=1e-6)
