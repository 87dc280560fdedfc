"""Stretches of a text that belong together: sentences, table rows, cells, and slices of monsters.

It knows no tokens and no passages; ingest.chunk prices what is found here and packs it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from ingest.clusters import Clusters
from rag.sentences import sentence_spans, strip_span

_MAX_HEADER_CHARS = 300
_CUT_AFTER = re.compile(r"[\s，、；：。！？,;:.!?)）】\]}>/\\|_-]")
_RULE = re.compile(r"\|(?:\s*:?-+:?\s*\|)+$")
_CELL_END = re.compile(r"(?<!\\)\|")


def sentences(
    text: str, start: int, end: int, *, headed: bool, wrapped: bool
) -> list[tuple[int, int]]:
    """Return the sentences of text[start:end].

    Args:
        text: The whole text.
        start: First character of the stretch.
        end: One past its last.
        headed: Whether its first line is a heading, which never runs into what follows.
        wrapped: Whether a sentence may go on in the next line; elsewhere parsing has joined what
            belongs together, and a line end is an end.
    """
    lines: list[tuple[int, int]] = []
    while start < end:
        line_end = text.find("\n", start, end)
        stop = end if line_end < 0 or (wrapped and (lines or not headed)) else line_end
        lines.append((start, stop))
        start = stop + 1
    spans: list[tuple[int, int]] = []
    for begin, stop in lines:
        spans += [(begin + a, begin + b) for a, b in sentence_spans(text[begin:stop])]
    return spans


def headers(text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """Return for each span the header row of the Markdown table whose body it belongs to."""
    found: list[str] = []
    header = ""
    for index, (start, end) in enumerate(spans):
        if text[start] != "|":
            header = ""
        elif index and _RULE.match(text[start:end]) and text[spans[index - 1][0]] == "|":
            found.append("")
            before = spans[index - 1]
            header = shortened_row(text[before[0] : before[1]], _MAX_HEADER_CHARS)
            continue
        found.append(header)
    return found


def shortened_row(row: str, length: int) -> str:
    """Return the first cells of a row that fit `length` characters; "" if none does."""
    if len(row) <= length:
        return row
    ends = [match.end() for match in _CELL_END.finditer(row, 1, max(1, length))]
    return row[: ends[-1]] if ends else ""


def smaller(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Cut a table row at its cells, a cell or anything else at its sentences.

    Returns:
        Spans in order that cover what text[start:end] shows; only itself if it cannot be cut so.
    """
    mark = "|" if text[start] == "|" else "\t"
    if mark == "|":
        cuts = [match.start() for match in _CELL_END.finditer(text, start + 1, end)]
        cuts = [cut for cut in cuts if text[cut + 1 : end].strip()]  # the last one closes the row
    else:
        cuts = [match.start() for match in re.compile("\t").finditer(text, start, end)]
    if cuts:
        edges = [start, *cuts, end]
        spans = [strip_span(text, a, b) for a, b in pairwise(edges)]
        return [(a, b) for a, b in spans if a < b]
    inner = start + 1 if text[start] == "|" else start
    spans = [(inner + a, inner + b) for a, b in sentence_spans(text[inner:end])]
    return [(start, spans[0][1]), *spans[1:]] if spans else [(start, end)]


def slices(
    text: str, start: int, end: int, size: int, clusters: Clusters | None
) -> list[tuple[int, int]]:
    """Cut text[start:end] into stretches of about `size` characters, stripped, none empty.

    Args:
        text: The whole text.
        start: First character of the stretch.
        end: One past its last.
        size: Characters, >= 1.
        clusters: What is never cut; a longer cluster becomes a slice of its own. None: anything
            may be cut.
    """
    found: list[tuple[int, int]] = []
    first = start
    while start < end:
        stop = min(start + size, end)
        if stop < end:
            stop = _good_cut(text, start, stop)
            if clusters is not None:
                whole = clusters.start_of(stop)
                stop = whole if whole > start else min(clusters.end_of(stop), end)
        begin, tail = strip_span(text, start, stop)
        if begin < tail:
            found.append((begin, tail))
        start = stop
    if clusters is None:
        return found
    inside = [(max(begin, first), min(stop, end)) for begin, stop in clusters.whole(found)]
    return [(begin, stop) for begin, stop in inside if begin < stop]


def _good_cut(text: str, start: int, stop: int) -> int:
    """Move a cut back to after punctuation or a space in the last quarter."""
    for position in range(stop, stop - max(1, (stop - start) // 4), -1):
        if _CUT_AFTER.match(text[position - 1]):
            return position
    return stop
