"""Makes a store equal to a folder: adds, replaces, follows moves, deletes, and leaves be.

A file whose size and times are those of its last look is not opened. Documents that came from
elsewhere than the folder are not touched. What the folder does not show for certain (it cannot be
listed, read or parsed, or it changes meanwhile) stays in the store as it was.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ingest.discover import FoundFile, RefusedFile, printable
from ingest.moves import pair_moves
from ingest.pipeline import (
    Ingestion,
    Rejection,
    is_gone,
    read_stamped,
    rejection,
    storable_path,
    unescaped,
)
from ingest.scan import FolderScan
from rag.errors import DocumentRejected, PathError
from rag.store.corpus import Store
from rag.store.sources import KnownFile, Move, StoreSources
from rag.store.stamps import Stamp
from rag.terminal import Advance

RACY_NS = 3_000_000_000
"""A file changed less than so long before it was read may change again with no later time: the
clocks of file systems tick, FAT's every two seconds."""

MANY = 20
"""So many documents may be deleted, even if they are more than half of all."""

_DELETED_TOGETHER = 1000
_LASTING = frozenset({"unreadable", "changing", "outside"})


@dataclass(frozen=True, slots=True)
class SyncReport:
    """What a sync did.

    Attributes:
        added, changed, deleted: Names.
        moved: (old name, new name) of each document that followed its file.
        unchanged: How many files hold what the store has.
        held: Names of documents whose file is gone and which were kept, because they are too many.
        refused: Files that were not taken; what the store held of them before is kept.
        skipped: Files of unsupported formats, counted by suffix.
        chunks: Chunks written.
        warnings: (file, sentence) pairs worth telling.
        seconds: Wall clock.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    moved: tuple[tuple[str, str], ...]
    deleted: tuple[str, ...]
    unchanged: int
    held: tuple[str, ...]
    refused: tuple[Rejection, ...]
    skipped: dict[str, int]
    chunks: int
    warnings: tuple[tuple[str, str], ...]
    seconds: float

    @property
    def did_something(self) -> bool:
        """Whether the store is not what it was."""
        return bool(self.moved) or self.changed_chunks

    @property
    def changed_chunks(self) -> bool:
        """Whether the indexes have something to follow."""
        return bool(self.added or self.changed or self.deleted)


class FolderGone(PathError):
    """The folder is missing, or not the one it was a moment ago."""


@dataclass(slots=True)
class _Seen:
    """What a look at the folder has found, compared with what the store knows.

    Attributes:
        new: Files the store does not hold.
        changed: Files that may hold other bytes than the store has of them.
        refused: What cannot be taken.
        kept: Sources of those that the store has an earlier version of, or documents from below.
        unchanged: Number of files that are as they were.
        left: What the store knows and the look has not found, by source.
        shown: Whether anything at all was found.
        uncertain: Whether only a look at everything can tell what became of some.
    """

    new: list[FoundFile]
    changed: list[tuple[FoundFile, KnownFile]]
    refused: list[RefusedFile]
    kept: set[str]
    unchanged: int
    left: dict[str, KnownFile]
    shown: bool
    uncertain: bool


class FolderSync:
    """Syncs one folder into one store, any number of times.

    Args:
        ingestion: Parses, embeds and commits.
        sources: Gives the files of a store.
        root: The folder; a link to it is followed once, now.
        max_bytes: Larger files are refused; > 0.
        yes_delete: Delete also when more than half of the documents would go.

    Raises:
        FolderGone: If it is no folder.
    """

    def __init__(
        self,
        ingestion: Ingestion,
        sources: Callable[[Store], StoreSources],
        root: Path,
        *,
        max_bytes: int,
        yes_delete: bool = False,
    ) -> None:
        self.root = Path(os.path.realpath(root))
        self.identity()
        self._ingestion = ingestion
        self._sources = sources
        self._max_bytes = max_bytes
        self._yes_delete = yes_delete
        self._refusals: dict[str, tuple[FoundFile, int, Rejection]] = {}
        self._whole = 0
        self._deleted = 0

    def identity(self) -> tuple[int, int]:
        """Return what tells the folder from another one at the same path.

        Raises:
            FolderGone: If it is missing, cannot be reached, or is no folder.
        """
        name = printable(str(self.root))
        try:
            info = self.root.stat()
        except OSError as error:
            raise FolderGone(
                f"{name}: {error.strerror}.",
                do="The store keeps what came from it; `youju delete --under` removes that.",
            ) from error
        if not stat.S_ISDIR(info.st_mode):
            raise FolderGone(f"{name} is no folder.", do="Give a folder; `youju ingest` for files.")
        return info.st_dev, info.st_ino

    def run(
        self,
        parts: Sequence[str] | None = None,
        *,
        stopped: Callable[[], bool] = lambda: False,
        progress: Advance = lambda _progress: None,
    ) -> SyncReport:
        """Bring the store up to date with the folder, or with parts of it.

        Args:
            parts: Files and folders inside it, parts joined by "/", none inside another; None: all.
            stopped: Asked before each file: whether to leave the rest for another time.
            progress: Called before each file that is new or has changed.

        Raises:
            FolderGone: If the folder is missing, or vanishes meanwhile; nothing is deleted then.
            PathError: If it cannot be listed.
            StorageError: If the store cannot be written; what was committed before stays.
            ModelError: If the embedder cannot be had.
        """
        begin = time.perf_counter()
        identity = self.identity()
        store = self._ingestion.open_store()
        sources = self._sources(store)
        scan = FolderScan(self.root, self._max_bytes)
        folder = storable_path(self.root)
        if parts is None:
            self._whole, self._deleted = sources.count_below(folder), 0
        seen = self._look(scan, sources, parts)
        gone, sure = self._gone(scan, seen, whole=parts is None)
        self._still(identity)
        if parts is not None and (seen.uncertain or not sure):
            return self.run(stopped=stopped, progress=progress)
        known = sources.origins([file.id for _, file in seen.changed] + [f.id for f in gone])
        changed = {found: known[file.id] for found, file in seen.changed if file.id in known}
        seen.new += [found for found, file in seen.changed if file.id not in known]
        digests = _Digests()
        pairing = pair_moves(
            [known[file.id] for file in gone if file.id in known], seen.new, changed, digests.sha256
        )
        self._still(identity)  # what is gone with the whole folder is not gone
        held = self._held(pairing.gone, seen, whole=parts is None)
        deletions = [] if held else list(pairing.gone)
        moved, deleted = self._follow(sources, pairing.moves, pairing.overwritten, digests)
        for first in range(0, len(deletions), _DELETED_TOGETHER):
            deleted += sources.follow([], deletions[first : first + _DELETED_TOGETHER])[1]
        self._deleted += len(deletions)

        taken = {found for _, found in pairing.moves}
        todo = [found for found in (*changed, *seen.new) if found not in taken]
        refused = self._known_refusals(todo)
        work = self._ingestion.put(
            store,
            itertools.takewhile(
                lambda _found: not stopped(), (f for f in todo if f.path not in refused)
            ),
            {origin.source: (origin.name, origin.sha256) for origin in changed.values()},
            len(todo) - len(refused),
            progress,
        )
        if work.rejected:
            self._still(identity)
        ids = {storable_path(found.path): origin.id for found, origin in changed.items()}
        sources.restamp({ids[source]: stamp for source, stamp in work.same.items()})
        self._remember(todo, work.refused, work.rejected, whole=parts is None)
        rejected = [
            rejection(item.name, item.error, kept=storable_path(item.path) in seen.kept)
            for item in seen.refused
        ]
        rejected += refused.values()
        rejected += [
            told
            for source, told in zip(work.refused, work.rejected, strict=True)
            if told.reason != "unreadable" or not is_gone(source)  # gone since the look at it
        ]
        names = work.outcomes.items()
        return SyncReport(
            added=tuple(name for name, outcome in names if outcome == "added"),
            changed=tuple(name for name, outcome in names if outcome == "replaced"),
            moved=tuple(moved),
            deleted=tuple(sorted(deleted)),
            unchanged=seen.unchanged + sum(outcome == "unchanged" for _, outcome in names),
            held=tuple(sorted(known[i].name for i in held)),
            refused=tuple(sorted(rejected, key=lambda item: item.name)),
            skipped=dict(scan.skipped.most_common()),
            chunks=work.chunks,
            warnings=tuple(work.warnings),
            seconds=time.perf_counter() - begin,
        )

    # -- looking ---------------------------------------------------------------------------------

    def _look(self, scan: FolderScan, sources: StoreSources, parts: Sequence[str] | None) -> _Seen:
        """Compare what the folder shows with what the store knows."""
        seen = _Seen([], [], [], set(), 0, {}, shown=False, uncertain=False)
        now_ns = time.time_ns()
        for part in [""] if parts is None else parts:
            known = sources.below(storable_path(self.root / part))
            for entry in self._entries(scan, part):
                seen.shown = True
                source = storable_path(entry.path)
                file = known.pop(source, None)
                if isinstance(entry, RefusedFile):
                    seen.refused.append(entry)
                    if file is not None:
                        seen.kept.add(source)
                elif file is None:
                    seen.new.append(entry)
                elif is_unchanged(file, entry, now_ns):
                    seen.unchanged += 1
                else:
                    seen.changed.append((entry, file))
            seen.left |= known
        _spare_refused_folders(seen)
        seen.shown = seen.shown or bool(scan.skipped)
        seen.uncertain = scan.links and parts is not None
        return seen

    def _entries(self, scan: FolderScan, part: str) -> Iterator[FoundFile | RefusedFile]:
        try:
            for entry in scan.entries(part):
                if entry.path == self.root and isinstance(entry, RefusedFile):
                    raise entry.error
                yield entry
        except DocumentRejected as error:
            self.identity()
            name = printable(str(self.root))
            raise PathError(f"{name}: {error.message}", do=error.do) from error

    def _gone(self, scan: FolderScan, seen: _Seen, *, whole: bool) -> tuple[list[KnownFile], bool]:
        """Return what is not in the folder any more, and whether that is all.

        What is there but was not found is either ignored now, and so not in the folder for us, or
        has come a moment ago.
        """
        gone: list[KnownFile] = []
        sure = True
        for source, file in seen.left.items():
            if is_gone(source):
                gone.append(file)
            elif not whole:
                sure = False
            elif not any(scan.would_take(label) for label in self._labels(source)):
                gone.append(file)
        return gone, sure

    def _labels(self, source: str) -> set[str]:
        """Return the paths inside the folder that a source can stand for."""
        paths = {Path(source), Path(unescaped(source))}
        return {
            path.relative_to(self.root).as_posix()
            for path in paths
            if path.is_relative_to(self.root) and os.path.lexists(path)
        }

    def _still(self, identity: tuple[int, int]) -> None:
        """Raise FolderGone unless the folder is the one it was."""
        if self.identity() != identity:
            raise FolderGone(
                f"{printable(str(self.root))} has been replaced by another folder meanwhile; "
                "nothing more was done.",
                do="Run it again.",
            )

    # -- doing -----------------------------------------------------------------------------------

    def _held(self, gone: Sequence[int], seen: _Seen, *, whole: bool) -> Sequence[int]:
        """Return the documents that are not to be deleted: all or none of those that are gone."""
        if self._yes_delete or not gone:
            return ()
        number = self._deleted + len(gone)
        empty = number == self._whole and not seen.new and (not whole or not seen.shown)
        return gone if empty or (number > MANY and number * 2 > self._whole) else ()

    def _follow(
        self,
        sources: StoreSources,
        moves: Sequence[tuple[int, FoundFile]],
        overwritten: Sequence[int],
        digests: _Digests,
    ) -> tuple[list[tuple[str, str]], list[str]]:
        """Move documents to where their files are now."""
        if not moves:
            return [], []
        places = [
            Move(
                id=document,
                name=found.name,
                source=storable_path(found.path),
                root=storable_path(found.root),
                stamp=digests.stamps[found],
            )
            for document, found in moves
        ]
        return sources.follow(places, overwritten)

    def _known_refusals(self, todo: Iterable[FoundFile]) -> dict[Path, Rejection]:
        """Return those that were refused the last time and have not changed since."""
        known: dict[Path, Rejection] = {}
        for found in todo:
            before = self._refusals.get(storable_path(found.path))
            if before is not None and before[0] == found and found.mtime_ns < before[1] - RACY_NS:
                known[found.path] = before[2]
        return known

    def _remember(
        self,
        todo: Iterable[FoundFile],
        errors: dict[str, DocumentRejected],
        rejections: Iterable[Rejection],
        *,
        whole: bool,
    ) -> None:
        """Note what was refused for what it holds, so that it is not parsed again as it is."""
        by_source = {storable_path(found.path): found for found in todo}
        if whole:
            held = self._refusals.items()
            self._refusals = {source: note for source, note in held if source in by_source}
        now_ns = time.time_ns()
        for (source, error), told in zip(errors.items(), rejections, strict=True):
            if error.reason not in _LASTING:
                self._refusals[source] = (by_source[source], now_ns, told)


class _Digests:
    """Digests of files that may be moved documents, each read once."""

    def __init__(self) -> None:
        self.stamps: dict[FoundFile, Stamp | None] = {}

    def sha256(self, found: FoundFile) -> str | None:
        """Return a file's sha256 in hex, None if it cannot be read now."""
        try:
            data, self.stamps[found] = read_stamped(found)
        except DocumentRejected:  # it is told when the file's own turn comes
            return None
        return hashlib.sha256(data).hexdigest()


def is_unchanged(known: KnownFile, found: FoundFile, now_ns: int) -> bool:
    """Whether a file surely holds the bytes that it held when it was last read.

    Args:
        known: How it was then.
        found: How it is now.
        now_ns: This machine's clock, nanoseconds since 1970.
    """
    then = known.stamp
    return (
        then is not None
        and known.size == found.size
        and then.mtime_ns == found.mtime_ns
        and then.ctime_ns == found.ctime_ns
        and then.mtime_ns < then.seen_ns - RACY_NS
        and then.seen_ns <= now_ns  # else the clock has been put back: nothing is known
    )


def _spare_refused_folders(seen: _Seen) -> None:
    """Take what came from folders that cannot be looked into off the list of the missing."""
    refused = {storable_path(item.path) for item in seen.refused}
    if not refused:
        return
    for source in list(seen.left):
        folder = os.path.dirname(source)
        while folder not in refused and os.path.dirname(folder) != folder:
            folder = os.path.dirname(folder)
        if folder in refused:
            seen.kept.add(folder)
            del seen.left[source]
