"""Tokens are drawn from the set that transformers' own cuts leave, with its probabilities."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from rag.glm.sampling import ALL, Chooser, Row, Sampling, look


def only(row: Row | None) -> Row:
    assert row is not None
    return row


@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.2, 3),
    top_p=st.floats(0.1, 1),
    top_k=st.sampled_from([0, 1, 5, 50]),
)
def test_what_may_be_drawn_is_what_transformers_leaves(
    seed: int, temperature: float, top_p: float, top_k: int
) -> None:
    logits = torch.randn(1, 80, generator=torch.Generator().manual_seed(seed)) * 3
    cuts = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        cuts.append(TopKLogitsWarper(top_k))
    cuts.append(TopPLogitsWarper(top_p))
    expected = cuts(None, logits)[0].softmax(-1)
    asked: list[torch.Tensor] = []
    draw = torch.multinomial

    def watched(shares: torch.Tensor, count: int, **more: object) -> torch.Tensor:
        asked.append(shares)
        return draw(shares, count, **more)

    chooser = Chooser(Sampling(True, temperature, top_p, top_k, seed))
    row = only(look(logits, chooser.depth)[0])
    torch.multinomial = watched
    try:
        token = chooser.choose(row)
    finally:
        torch.multinomial = draw
    got = torch.zeros(80)
    got[row.ids[: len(asked[0])]] = asked[0] / asked[0].sum()
    # A share on the very edge of top_p may fall on either side of it.
    assert float((got - expected).abs().sum()) < 1e-4 or abs(_reach(expected) - _reach(got)) <= 1
    assert got[token.id] > 0


def _reach(shares: torch.Tensor) -> int:
    return int((shares > 0).sum())


def test_equal_logits_give_the_lowest_id() -> None:
    logits = torch.zeros(1, 5000)
    logits[0, 7:4000] = 2.0
    token = Chooser(Sampling(do_sample=False), 1).choose(look(logits, 1)[0])
    assert token.id == 7
    assert token.logprob == token.top[0][1]


def test_texts_are_looked_at_one_by_one_or_together_alike() -> None:
    logits = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    logits[2, 5] = float("nan")
    together = look(logits, 6)
    assert together[2] is None
    for place in (0, 1, 3):
        one, other = only(together[place]), only(look(logits[place : place + 1], 6)[0])
        assert one.best == other.best
        assert torch.equal(one.ids, other.ids)
        assert one.log_total == other.log_total


def test_only_allowed_ids_are_seen() -> None:
    row = only(look(torch.arange(10.0)[None], ALL, [7, 2, 4])[0])
    assert (row.best, row.ids.tolist()) == (7, [7, 4, 2])
    assert row.log_total == torch.arange(10.0).logsumexp(-1).item()


def test_equal_logits_come_in_the_order_of_their_ids() -> None:
    logits = torch.randint(0, 4, (2, 500), generator=torch.Generator().manual_seed(1)).float()
    for place, row in enumerate(look(logits, 500)):
        assert row is not None
        pairs = sorted((-float(score), id_) for id_, score in enumerate(logits[place]))
        assert row.ids.tolist() == [id_ for _, id_ in pairs]
        assert row.scores.tolist() == [-score for score, _ in pairs]


def test_a_temperature_near_zero_is_greedy() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    for temperature in (1e-3, 1e-45, 5e-324):
        chooser = Chooser(Sampling(temperature=temperature, seed=1))
        assert chooser.choose(look(logits, chooser.depth)[0]).id == 1
