"""Grapheme clusters of a text: what a reader takes for one character is never cut in two.

The rules are Unicode's (UAX 29, extended clusters), as the `regex` module knows them. Only
stretches that hold a joining character are looked at, so that ordinary text costs one scan.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import regex

_JOINING = (
    r"[\p{GCB=Extend}\p{GCB=ZWJ}\p{GCB=SpacingMark}\p{GCB=Prepend}\p{GCB=Regional_Indicator}"
    r"\p{GCB=L}\p{GCB=V}\p{GCB=T}]"
)
_STRETCH = regex.compile(rf"(?s)(?:{_JOINING}++.?)++")
_CLUSTER = regex.compile(r"\X")


class Clusters:
    """Where the clusters of more than one character lie in a text.

    Args:
        text: Any string. A line end of two characters is no cluster here.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts: list[int] = []
        self._ends: list[int] = []
        if text.isascii():
            return
        for stretch in _STRETCH.finditer(text):
            first = max(0, stretch.start() - 1)  # what a mark is set on
            for cluster in _CLUSTER.finditer(text, first, stretch.end()):
                if cluster.end() - cluster.start() > 1 and cluster.group() != "\r\n":
                    self._starts.append(cluster.start())
                    self._ends.append(cluster.end())

    def start_of(self, position: int) -> int:
        """Return the start of the cluster that a cut at `position` would cut, else `position`."""
        at = bisect_right(self._starts, position) - 1
        if at < 0 or not self._starts[at] < position < self._ends[at]:
            return position
        return self._starts[at]

    def end_of(self, position: int) -> int:
        """Return the end of the cluster that a cut at `position` would cut, else `position`."""
        at = bisect_right(self._starts, position) - 1
        if at < 0 or not self._starts[at] < position < self._ends[at]:
            return position
        return self._ends[at]

    def whole(self, spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Move the ends of spans so that no cluster is cut.

        Args:
            spans: (start, end) pairs in order that do not overlap; white space lies between.

        Returns:
            As many spans; one of which nothing is left is empty. A span may now begin with a space
            that carries a mark.
        """
        if not self._starts:
            return list(spans)
        starts = [self.start_of(start) for start, _ in spans]
        limits = [*starts[1:], len(self._text)]
        return [
            (start, self._trimmed(start, min(self.end_of(end), limit)))
            for start, (_, end), limit in zip(starts, spans, limits, strict=True)
        ]

    def _trimmed(self, start: int, end: int) -> int:
        """Move an end back over white space that is no part of a cluster."""
        while end > start and self._text[end - 1].isspace() and not self._ends_cluster(end):
            end -= 1
        return end

    def _ends_cluster(self, end: int) -> bool:
        at = bisect_right(self._ends, end) - 1
        return at >= 0 and self._ends[at] == end
