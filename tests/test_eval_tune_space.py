"""What is tuned for which set, and within which bounds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.tune_space import TUNABLE, Knob, SetFacts, Value, default_of, make_space
from rag.config import Settings, load_settings
from rag.errors import UsageError

PLAIN = SetFacts(chinese=False, unread=False, documents=False, max_tokens=256)
ALL = SetFacts(chinese=True, unread=True, documents=True, max_tokens=256)


def settings(**values: Any) -> Settings:
    return load_settings(values, environ={}).settings


def lowest(knob: Knob) -> Value:
    return knob.choices[0] if knob.choices else knob.low


def test_what_cannot_matter_is_left_out_and_said() -> None:
    space = make_space(settings(), PLAIN)

    assert [knob.name for knob in space.knobs] == [
        "system",
        "fusion_bm25_weight",
        "fusion_rrf_k",
        "candidates",
    ]
    assert {"top_k", "refusal_threshold", "bm25 k1 and b", "bm25_gram_weight"} <= set(
        space.left_out
    )
    assert "no reranker" in space.left_out["reranker_depth"]
    assert "--corpus" in space.left_out["chunk_tokens"]


def test_a_set_with_documents_chinese_and_a_reranker_tunes_all() -> None:
    reads = settings(reranker="cross-encoder", reranker_model="x")
    space = make_space(reads, ALL)

    assert tuple(knob.name for knob in space.knobs) == TUNABLE
    sizes = next(knob.choices for knob in space.knobs if knob.name == "chunk_tokens")
    assert 220 in sizes
    assert all(isinstance(size, int) and size <= 256 for size in sizes)


def test_only_what_has_an_effect_is_drawn() -> None:
    reads = settings(reranker="cross-encoder", reranker_model="x")
    space = make_space(reads, ALL)

    def pick(system: str, reranker: str) -> set[str]:
        fixed = {"system": system, "reranker": reranker}
        return set(space.draw(lambda knob: fixed.get(knob.name, lowest(knob))))

    assert "fusion_rrf_k" not in pick("hybrid", "none")
    assert "fusion_bm25_weight" not in pick("rrf", "none")
    assert "reranker_depth" not in pick("hybrid", "none")
    assert {"reranker_depth", "fusion_rrf_k"} <= pick("rrf", "cross-encoder")


def test_the_settings_in_force_come_first_then_the_defaults() -> None:
    plain = make_space(settings(), ALL).starts()
    assert len(plain) == 1
    assert all(value == default_of(name) for name, value in plain[0].items())

    changed = make_space(settings(candidates=33, bm25_gram_weight=0.333), ALL).starts()
    assert [(start["candidates"], start["bm25_gram_weight"]) for start in changed] == [
        (33, 0.333),
        (100, 0.25),
    ]


@given(
    st.sampled_from(["hybrid", "rrf", "dense", "bm25"]),
    st.integers(1, 10_000),
    st.floats(0, 100),
    st.floats(0, 10),
    st.integers(81, 8192),
)
def test_any_settings_in_force_lie_in_the_space(
    system: str, candidates: int, weight: float, grams: float, tokens: int
) -> None:
    now = settings(
        system=system,
        candidates=candidates,
        fusion_bm25_weight=weight,
        bm25_gram_weight=grams,
        chunk_tokens=tokens,
    )
    space = make_space(now, ALL)

    for knob in space.knobs:
        value = getattr(now, knob.name)
        assert value in knob.choices or knob.low <= value <= knob.high
        assert not knob.log or knob.low > 0
    assert space.applied(space.starts()[0]) == now


def test_every_corner_is_a_valid_setting() -> None:
    space = make_space(settings(), ALL)
    for end in (lowest, lambda knob: knob.choices[-1] if knob.choices else knob.high):
        assert isinstance(space.applied(space.draw(end)), Settings)


def test_only() -> None:
    space = make_space(settings(), ALL, ["candidates"])
    assert [knob.name for knob in space.knobs] == ["candidates"]
    assert space.left_out["system"] == "not named by --only"

    with pytest.raises(UsageError, match=r"'top_q'.*candidates"):
        make_space(settings(), ALL, ["top_q"])
    with pytest.raises(UsageError, match="chunk_tokens: the set's passages are fixed"):
        make_space(settings(), replace(ALL, documents=False), ["chunk_tokens"])
