"""Finds files that say nearly the same, by a small sketch of each text.

A sketch is the SIZE smallest hashes of the text's runs of RUN letters (bottom-k MinHash, Broder
1997): the share of them that two files have in common estimates the share of runs they have in
common. Nothing is random, nothing is deleted; memory is bounded by MAX_FILES sketches.
Documents that a store holds already are looked up there (rag.store.sketches).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag.store.sketches import StoreSketches

RUN = 6
SIZE = 128
MAX_FILES = 20_000
MIN_SIMILARITY = 0.8
_MAX_CHARS = 2_000_000  # of a text are read
_MAX_SHARING = 64  # files that are looked up by one hash
_LOOKED_UP = 16  # of a sketch; two files of MIN_SIMILARITY share none of them once in 10^11
_MIX = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two files that say nearly the same; `similarity` in [MIN_SIMILARITY, 1] is an estimate."""

    file: str
    other: str
    similarity: float


def sketch(text: str) -> NDArray[np.uint64]:
    """Return up to SIZE hashes, ascending and distinct; white space and case do not count."""
    letters = "".join(text[:_MAX_CHARS].split()).casefold()
    codes = np.frombuffer(letters.encode("utf-32-le", "surrogatepass"), np.uint32)
    if len(codes) < RUN:
        return np.zeros(0, np.uint64)
    hashes = np.zeros(len(codes) - RUN + 1, np.uint64)
    for place in range(RUN):
        hashes = (hashes ^ codes[place : place + len(hashes)]) * _MIX
        hashes ^= hashes >> np.uint64(29)
    return np.unique(hashes)[:SIZE]


def similarity(one: NDArray[np.uint64], other: NDArray[np.uint64]) -> float:
    """Estimate the Jaccard similarity of two texts from their sketches, in [0, 1]."""
    both = np.union1d(one, other)[:SIZE]
    shared = np.intersect1d(np.intersect1d(one, other, assume_unique=True), both)
    return len(shared) / len(both) if len(both) else 0.0


class SimilarFiles:
    """Compares each file with those before it.

    Args:
        stored: Also compare it with the documents that are there. Without, or before they are
            there, it is compared with the first MAX_FILES of this run only.
    """

    def __init__(self, stored: StoreSketches | None = None) -> None:
        self._stored = stored
        self.found: list[NearDuplicate] = []
        self._names: list[str] = []
        self._sketches: list[NDArray[np.uint64]] = []
        self._holders: dict[int, list[int]] = {}

    def add(self, name: str, made: NDArray[np.uint64], source: str = "") -> None:
        """Take a file; note the earlier one that is most like it, if it is like enough.

        Args:
            name: What to call it.
            made: The sketch of its text.
            source: Where it comes from: a stored document from there is its own earlier version.

        Raises:
            StorageError: If the stored ones cannot be read now.
        """
        if not len(made):
            return
        keys = [int(value) for value in made[:_LOOKED_UP]]
        meeting = Counter(at for key in keys for at in self._holders.get(key, ()))
        likely = sorted(meeting, key=lambda at: (-meeting[at], at))[:8]
        scored = [(similarity(made, self._sketches[at]), -at) for at in likely]
        best, negative = max(scored, default=(0.0, 0))
        other = self._names[-negative] if scored else ""
        for one in self._stored.likely(made, but=source) if self._stored and best < 1 else ():
            like = similarity(made, one.sketch)
            if like > best:
                best, other = like, one.name
        if best >= MIN_SIMILARITY:
            self.found.append(NearDuplicate(name, other, round(best, 3)))
        if len(self._names) >= MAX_FILES:
            return
        for key in keys:
            holders = self._holders.setdefault(key, [])
            if len(holders) < _MAX_SHARING:
                holders.append(len(self._names))
        self._names.append(name)
        self._sketches.append(made)
