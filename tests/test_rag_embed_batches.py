from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rag.embed.batches import ROUND, batches, padded_width


def test_a_worked_example() -> None:
    # Widths 16, 16, 8, 8: two texts of 16 fill 32 tokens, and so do up to four of 8.
    assert list(batches([3, 16, 8, 9], 32)) == [[1, 3], [2, 0]]
    assert list(batches([100, 1], 32)) == [[0], [1]]
    assert list(batches([], 32)) == []


@given(st.lists(st.integers(0, 300), max_size=60), st.integers(1, 600))
def test_every_text_once_within_the_budget_longest_first(lengths: list[int], budget: int) -> None:
    found = list(batches(lengths, budget))
    flat = [place for batch in found for place in batch]
    assert sorted(flat) == list(range(len(lengths)))
    assert [lengths[place] for place in flat] == sorted(lengths, reverse=True)
    for batch in found:
        assert len(batch) == 1 or len(batch) * padded_width(lengths[batch[0]]) <= budget


@given(st.integers(0, 5000))
def test_width_is_the_next_multiple(tokens: int) -> None:
    width = padded_width(tokens)
    assert width % ROUND == 0
    assert tokens <= width < tokens + 2 * ROUND
