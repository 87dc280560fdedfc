"""What every embedder must do, as one function that tests call with fakes and real ones alike.

It needs no test framework: a broken promise is an AssertionError that names it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from rag.protocols import Embedder, Tokens
from rag.schema import FloatArray

AGREE = 0.999
"""Cosine above which two vectors count as the same."""

_TEXTS = (
    "The torque of the main bolts is 45 Nm.",
    "Wear goggles whenever the lid is open, and keep your hands away from the belt.",
    "Invoices are paid within thirty days.",
    "主轴螺栓的扭矩为 45 牛·米。",
    "short",
)
_HOSTILE = (
    "",
    " \n\t",
    "\x00\x01\x7f",
    "a\ud800b\udfff",
    "x" * 100_000,
    "字" * 20_000,
    "[SEP] </s>",
)


def check_embedder(embedder: Embedder, tokens: Tokens) -> None:
    """Check an embedder and its view of text against rag.protocols.

    Raises:
        AssertionError: If one of their promises is broken.
    """
    _check_identity(embedder)
    for encode in (embedder.encode_queries, embedder.encode_passages):
        assert encode([]).shape == (0, embedder.dim), "no texts: no rows, but dim columns"
        assert encode([]).dtype == np.float32, "float32 also for no texts"
        vectors = encode(_TEXTS)
        _check_unit(vectors, len(_TEXTS), embedder.dim)
        turned = encode(list(reversed(_TEXTS)))[::-1]
        assert cosine(vectors, turned).min() >= AGREE, "rows follow the order of the texts"
        alone = np.concatenate([encode([text]) for text in _TEXTS])
        assert cosine(vectors, alone).min() >= AGREE, "a vector does not depend on its batch"
        others = vectors @ vectors.T - 2 * np.eye(len(_TEXTS), dtype=np.float32)
        assert others.max() < AGREE, "different texts get different vectors"
        _check_unit(encode(_HOSTILE), len(_HOSTILE), embedder.dim)
    _check_threads(embedder)
    _check_tokens(tokens)
    _check_length(embedder, tokens)


def cosine(left: FloatArray, right: FloatArray) -> FloatArray:
    """Return the cosines of the rows of two (n, dim) arrays of unit rows, (n,)."""
    return np.asarray((left * right).sum(axis=1), dtype=np.float32)


def _check_identity(embedder: Embedder) -> None:
    assert embedder.dim > 0, "dim is positive"
    assert embedder.fingerprint, "the fingerprint is not empty"
    assert "\n" not in embedder.fingerprint, "the fingerprint is one line"
    before = embedder.fingerprint
    embedder.encode_queries(["a"])
    assert embedder.fingerprint == before, "use does not change the fingerprint"


def _check_unit(vectors: FloatArray, rows: int, dim: int) -> None:
    assert vectors.shape == (rows, dim), f"shape {vectors.shape}, expected {(rows, dim)}"
    assert vectors.dtype == np.float32, f"{vectors.dtype}, expected float32"
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.allclose(lengths, 1, atol=1e-3), f"lengths {lengths}, expected 1"


def _check_threads(embedder: Embedder) -> None:
    expected = embedder.encode_passages(_TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(embedder.encode_passages, [_TEXTS] * 8):
            assert cosine(expected, found).min() >= AGREE, "threads do not disturb each other"


def _check_tokens(tokens: Tokens) -> None:
    assert tokens.max_tokens > 2, "there is room for text"
    assert tokens.count([]) == [], "no texts, no counts"
    assert tokens.coverage([]).shape == (0,), "no texts, no coverage"
    assert tokens.count(["", "one two three"])[0] == 0, "an empty text has no tokens"
    once, twice = tokens.count(["one two three", "one two three one two three"])
    assert once > 0, "words have tokens"
    assert twice == 2 * once, "twice the words, twice the tokens"
    texts = [*_TEXTS, *_HOSTILE]
    counts, coverage = tokens.count(texts), tokens.coverage(texts)
    assert len(counts) == len(texts), "one count for each text"
    assert min(counts) >= 0, "counts are not negative"
    assert coverage.shape == (len(texts),), "one coverage for each text"
    assert coverage.dtype == np.float32, "coverage is float32"
    assert coverage.min() >= 0, "coverage is a share"
    assert coverage.max() <= 1, "coverage is a share"
    assert tokens.coverage([""])[0] == 1, "an empty text has coverage 1"


def _check_length(embedder: Embedder, tokens: Tokens) -> None:
    if tokens.max_tokens > 10_000:
        return
    long = "bolt " * tokens.max_tokens
    pair = embedder.encode_passages([long, long + "goggles invoice paint " * 20])
    assert cosine(pair[:1], pair[1:]).min() >= AGREE, "what lies beyond max_tokens is not read"
