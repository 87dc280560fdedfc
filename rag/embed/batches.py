"""Groups texts into batches by length; pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

ROUND = 8
"""Widths are rounded up to a multiple of this, so that there are few distinct shapes."""


FEW = 4
"""Texts that a batch has at least, if there are so many, however their lengths differ."""

PADDING = 0.25
"""Texts that would be padding by more than this share of the batch's width begin another."""


def padded_width(tokens: int) -> int:
    """Return the width of a batch whose longest text has `tokens` tokens: >= `ROUND`."""
    return max(-(-tokens // ROUND) * ROUND, ROUND)


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group texts of similar length, longest first.

    Args:
        lengths: Tokens of each text, >= 0.
        budget: Most tokens of a batch, counting its texts at the padded width of the longest; a
            text longer than that makes a batch of its own.

    Yields:
        Places in `lengths`; each occurs exactly once.
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    start = 0
    while start < len(order):
        width = padded_width(lengths[order[start]])
        most = max(1, budget // width)
        size = 1
        while size < most and start + size < len(order):
            narrower = padded_width(lengths[order[start + size]]) <= (1 - PADDING) * width
            if narrower and size >= FEW:
                break
            size += 1
        yield order[start : start + size]
        start += size
