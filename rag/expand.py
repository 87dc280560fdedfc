"""Small to big: passages are found small and read with what stands around them.

Each passage grows by whole neighbouring chunks of its section, in turn behind and before it;
passages that come to overlap become one. Offsets stay exact, so that a citation into a widened
passage points where it should. It opens no database: a function gives the surroundings.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rag.schema import Chunk, Hit

_CHARS_PER_TOKEN = 8  # at most, nearly everywhere


@dataclass(frozen=True, slots=True)
class Around:
    """What stands around a chunk within its section.

    Attributes:
        document: Which document, the same for all chunks of one.
        start: Where `text` begins in the document.
        text: The stretch, the chunk included.
        chunks: (start, end) in the document of the chunks that lie whole in it, by start.
        pages: (start, number) of the document's pages, by start.
    """

    document: int
    start: int
    text: str
    chunks: tuple[tuple[int, int], ...]
    pages: tuple[tuple[int, int], ...] = ()


@dataclass(slots=True)
class _Wide:
    """A passage that grows. `text` begins at `offset` of the document and may reach further."""

    hit: Hit
    document: int
    start: int
    end: int
    offset: int
    text: str
    pages: tuple[tuple[int, int], ...]


def expand_hits(
    hits: Sequence[Hit],
    *,
    around: Callable[[Chunk, int], Around | None],
    count_tokens: Callable[[Sequence[str]], list[int]],
    tokens: int,
    budget: int,
) -> list[Hit]:
    """Widen passages within their sections.

    Args:
        hits: Best first.
        around: Gives what stands within so many characters of a chunk; None for one that is gone.
        count_tokens: Tokens of texts.
        tokens: That a passage grows by at most, >= 0.
        budget: Tokens of all passages together; what they leave of it is spent best first. Found
            passages are never cut.

    Returns:
        Best first. `Chunk.text` is exactly the document's stretch from `start` to `end`; ids,
        scores and contexts are the found passage's, of merged ones the best one's.
    """
    rank = {hit.chunk.id: place for place, hit in enumerate(hits)}
    left = budget - sum(count_tokens([hit.chunk.text for hit in hits]))
    wide: list[_Wide] = []
    for hit in hits:
        chunk = hit.chunk
        found = around(chunk, tokens * _CHARS_PER_TOKEN)
        if found is None:
            wide.append(_Wide(hit, -chunk.id, chunk.start, chunk.end, chunk.start, chunk.text, ()))
            continue
        room = max(0, min(tokens, left))
        start, end, spent = _grown(chunk, found, room, count_tokens)
        left -= spent
        new = _Wide(hit, found.document, start, end, found.start, found.text, found.pages)
        apart: list[_Wide] = []
        for other in wide:
            if _overlap(other, new):
                better, worse = sorted((other, new), key=lambda one: rank[one.hit.chunk.id])
                new = _union(better, worse)
            else:
                apart.append(other)
        wide = [*apart, new]
    return [_as_hit(one) for one in sorted(wide, key=lambda one: rank[one.hit.chunk.id])]


def _grown(
    chunk: Chunk, found: Around, room: int, count_tokens: Callable[[Sequence[str]], list[int]]
) -> tuple[int, int, int]:
    """The widened stretch, and the tokens that it takes in addition."""
    start, end, spent = chunk.start, chunk.end, 0
    behind = [span for span in found.chunks if span[0] > chunk.start and span[1] > chunk.end]
    before = [span for span in found.chunks if span[0] < chunk.start and span[1] < chunk.end]
    before.reverse()
    sides = [behind, before]
    while any(sides):
        for side in sides:
            if not side:
                continue
            left, right = side.pop(0)
            new = (min(left, start), max(right, end))
            added = (new[0], start) if new[0] < start else (end, new[1])
            cost = count_tokens([found.text[added[0] - found.start : added[1] - found.start]])[0]
            if spent + cost > room:
                side.clear()
                continue
            start, end, spent = *new, spent + cost
    return start, end, spent


def _overlap(one: _Wide, other: _Wide) -> bool:
    return one.document == other.document and one.start < other.end and other.start < one.end


def _union(better: _Wide, other: _Wide) -> _Wide:
    """Two stretches that overlap, as one."""
    first, second = sorted((better, other), key=lambda one: one.start)
    text = first.text[first.start - first.offset : first.end - first.offset]
    if second.end > first.end:
        text += second.text[first.end - second.offset : second.end - second.offset]
    end = max(first.end, second.end)
    return replace(better, start=first.start, end=end, offset=first.start, text=text)


def _as_hit(wide: _Wide) -> Hit:
    chunk = wide.hit.chunk
    text = wide.text[wide.start - wide.offset : wide.end - wide.offset]
    page = chunk.page
    if page is not None and wide.pages and wide.start < chunk.start:
        at = bisect_right([start for start, _ in wide.pages], wide.start) - 1
        page = wide.pages[max(0, at)][1]
    return replace(
        wide.hit, chunk=replace(chunk, start=wide.start, end=wide.end, text=text, page=page)
    )
