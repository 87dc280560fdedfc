"""Finds out which documents have moved: the same bytes at another path, and not at the old one.

It compares names, sizes and digests that it is given, and touches neither files nor the store.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from ingest.discover import FoundFile, media_type
from rag.store.sources import Origin


@dataclass(frozen=True, slots=True)
class Pairing:
    """Who went where.

    Attributes:
        moves: (document id, its file now), no file and no document twice.
        overwritten: Documents whose place a moved file has taken, their bytes being nowhere else.
        gone: Documents whose bytes are nowhere any more and whose place is empty.
    """

    moves: tuple[tuple[int, FoundFile], ...]
    overwritten: tuple[int, ...]
    gone: tuple[int, ...]


def pair_moves(
    gone: Sequence[Origin],
    new: Sequence[FoundFile],
    changed: Mapping[FoundFile, Origin],
    digest: Callable[[FoundFile], str | None],
) -> Pairing:
    """Pair documents whose file is gone with new and changed files that hold the same bytes.

    A document whose own place is taken by a moved file is looked for in turn, so that a rotation
    (b to c, a to b) is two moves. A file that is still where it was, with other bytes, stays the
    same document; a copy of what is still there is a new one.

    Args:
        gone: Documents without a file.
        new: Files without a document.
        changed: Files that may hold other bytes than their document.
        digest: Returns a file's sha256 in hex, None if it cannot be read now; called only for a
            file of the same size and format as a document that is looked for.
    """

    def digest_if_new(found: FoundFile) -> str | None:
        sha256 = digest(found)  # one that only may have changed has not moved in either
        return None if found in changed and changed[found].sha256 == sha256 else sha256

    files = _Unclaimed([*new, *changed], digest_if_new)
    exact = deque(sorted(gone, key=lambda origin: origin.source))
    renamed: deque[Origin] = deque()
    empty = {origin.id for origin in gone}
    moves: list[tuple[int, FoundFile]] = []
    overwritten: list[int] = []
    lost: list[int] = []
    while exact or renamed:
        same_name = bool(exact)
        origin = exact.popleft() if same_name else renamed.popleft()
        match = files.claim(origin, same_name=same_name)
        if match is not None:
            moves.append((origin.id, match))
            if match in changed:
                exact.append(changed[match])
        elif same_name:
            renamed.append(origin)
        else:
            (lost if origin.id in empty else overwritten).append(origin.id)
    return Pairing(tuple(moves), tuple(overwritten), tuple(lost))


class _Unclaimed:
    """Files that documents may have moved to, by size and format, then by digest and name."""

    def __init__(
        self, files: Sequence[FoundFile], digest: Callable[[FoundFile], str | None]
    ) -> None:
        self._digest = digest
        self._unread: dict[tuple[int, str | None], list[FoundFile]] = defaultdict(list)
        for found in files:
            self._unread[found.size, media_type(found.path.name)].append(found)
        self._read: dict[tuple[str, str | None, str | None], deque[FoundFile]] = defaultdict(deque)
        self._claimed: set[FoundFile] = set()

    def claim(self, origin: Origin, *, same_name: bool) -> FoundFile | None:
        """Take a file with a document's bytes, one of its name or any; None if none is left."""
        path = PurePath(origin.source)
        kind = media_type(path.name)
        for found in sorted(self._unread.pop((origin.size, kind), ()), key=lambda f: f.name):
            sha256 = self._digest(found)
            if sha256 is not None:
                self._read[sha256, kind, found.path.name].append(found)
                self._read[sha256, kind, None].append(found)
        waiting = self._read.get((origin.sha256, kind, path.name if same_name else None))
        while waiting:
            found = waiting.popleft()
            if found not in self._claimed:
                self._claimed.add(found)
                return found
        return None
