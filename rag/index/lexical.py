"""The lexical index of a store: BM25 on disk, by tantivy.

A cache of the database: it can be wiped and filled again at any time. It holds terms and ids and
knows nothing of stores, files or query syntax.

Folder layout: `index/` (tantivy's own files), `format.json`, `writer.lock`. Any number of
processes may read; one writes at a time; readers see each commit whole or not at all. The
sequence number is part of the commit: each passage carries that of the change which wrote it.

tantivy's statistics count removed passages until it merges them away, and merging rounds lengths.
So the index rewrites itself once one document in fifty has been removed. Until then scores may
differ a little from a fresh build's; without removals they do not differ at all, however the
passages arrived (measured in docs/decisions/0004-lexical-analysis.md).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from rag.errors import StorageError
from rag.index.allowed import checked
from rag.index.analyze import ANALYZER_VERSION, Analyzer, Terms
from rag.index.bm25 import GRAM_WEIGHT, MARKER, Commit, add_marker, add_passage, schema
from rag.schema import IntArray, Ranking

if TYPE_CHECKING:
    import tantivy

FORMAT = f"1.{ANALYZER_VERSION}"
"""Schema and analyzer version; a folder of any other is rebuilt."""

REWRITE_SHARE = 50
"""The index is rewritten when one document in so many has been removed."""

_WRITER_BYTES = 30_000_000


class TantivyIndex:
    """A `LexicalIndex` in a folder of its own. Safe to share between threads and processes.

    A folder that is empty, of another format version, torn, or damaged in a way that opening
    reveals is wiped and starts empty at `seq` 0, for the caller to fill again.

    Args:
        folder: Made if absent. Nothing outside it is touched.
        analyzer: Shared with others if given: its dictionary takes memory.
        lock_timeout_s: Seconds to wait for another writer before giving up, >= 0.
        gram_weight: Of Chinese character pairs beside words in a search, >= 0.

    Raises:
        StorageError: If the folder cannot be used, or another writer holds it too long.
    """

    def __init__(
        self,
        folder: Path,
        *,
        analyzer: Analyzer | None = None,
        lock_timeout_s: float = 30.0,
        gram_weight: float = GRAM_WEIGHT,
    ) -> None:
        self._folder = folder
        self._files = folder / "index"
        self._analyzer = analyzer or Analyzer()
        self._gram_weight = gram_weight
        self._lock = FileLock(folder / "writer.lock", timeout=lock_timeout_s)
        with self._reported("made"):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            self._commit = self._load()
        except _Unusable:
            with self.exclusive():
                try:  # another process may have just made it
                    self._commit = self._load()
                except _Unusable:
                    self._wipe()

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        analyzer: Analyzer | None = None,
        lock_timeout_s: float = 30.0,
        gram_weight: float = GRAM_WEIGHT,
    ) -> TantivyIndex:
        """Open the index in `folder`, wiping what cannot be used; see the class."""
        return cls(
            folder, analyzer=analyzer, lock_timeout_s=lock_timeout_s, gram_weight=gram_weight
        )

    def __len__(self) -> int:
        """Passages held, as of the newest commit of any process."""
        return self._newest().passages

    @property
    def seq(self) -> int:
        """The sequence number of the newest commit of any process; 0 when new."""
        return self._newest().seq

    def apply(self, add: Sequence[tuple[int, str]], remove: Sequence[int], seq: int) -> None:
        """Remove ids, add (id, text) pairs and record `seq`, durably and all at once.

        One call costs some 10 ms beside the passages' own time: add many at once.

        Args:
            add: Ids > 0; one that is present is replaced, and of a repeated one the last counts.
            remove: Ids; absent ones are ignored. An id in both is added.
            seq: At least the recorded one.

        Raises:
            StorageError: If another process writes for longer than the lock timeout, the disk is
                full or read-only, or the index is damaged; the index is then as before.
            ValueError: If an id to add is not > 0, or `seq` falls.
        """
        passages = {id_: self._analyzer.passage(text) for id_, text in add}
        if passages and min(passages) <= MARKER:
            raise ValueError(f"expected ids > 0, got {min(passages)}")
        with self.exclusive():
            commit = self._newest()
            if seq < commit.seq:
                raise ValueError(f"expected seq >= {commit.seq}, got {seq}")
            with self._reported("read"):
                gone = commit.present([*passages, *remove])
            removed = commit.removed + len(gone) + commit.marker
            if removed * REWRITE_SHARE > commit.passages + len(passages):
                self._rewrite(commit, seq, without=gone, then=passages)
                return
            with self._writer() as writer:
                for id_ in gone:
                    writer.delete_documents_by_term("id", id_)
                for id_, terms in passages.items():
                    add_passage(writer, id_, seq, terms)
                if gone or not passages:
                    writer.delete_documents_by_term("id", MARKER)
                    add_marker(writer, seq, removed)

    def compact(self) -> None:
        """Rewrite the index if anything was removed, so that scores equal a fresh build's.

        It costs a third of building it; `apply` does it by itself now and then.

        Raises:
            StorageError: As for `apply`.
        """
        with self.exclusive():
            commit = self._newest()
            if commit.marker and commit.passages:
                self._rewrite(commit, commit.seq)

    def reset(self) -> None:
        """Wipe the index: no passages, `seq` 0.

        Raises:
            StorageError: If another writer holds it too long, or the folder cannot be written.
        """
        with self.exclusive():
            self._wipe()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other writers, threads and processes, out for the length of a `with` block.

        `apply`, `compact` and `reset` may be called inside, by the same thread.

        Raises:
            StorageError: If another writer holds it for longer than the lock timeout.
        """
        with self._reported("locked for writing"):
            try:
                self._lock.acquire()
            except Timeout as error:
                raise StorageError(
                    f"Another process has been writing {self._folder} for more than "
                    f"{self._lock.timeout:g} s.",
                    do="Wait for it to finish, then try again.",
                ) from error
        try:
            yield
        finally:
            self._lock.release()

    def search(
        self, queries: Sequence[str], top_k: int, allowed: IntArray | None = None
    ) -> list[Ranking]:
        """For each query return up to `top_k` passages that share a term with it.

        Given `allowed`, (n,) int64 ids that ascend strictly, only those are returned; the
        statistics in their scores stay those of the whole index.

        Returns:
            (id, score), best first, ties by id: the order does not depend on how tantivy laid
            out its segments. The score is BM25 (k1 1.2, b 0.75, lengths rounded to one byte) of
            the words plus `gram_weight` times that of the Chinese character pairs; > 0.

        Raises:
            StorageError: If the index is damaged.
            ValueError: If `allowed` is not sorted or repeats an id.
        """
        if allowed is not None and not len(checked(allowed)):
            return [[] for _ in queries]
        commit = self._newest()
        if top_k <= 0 or not commit.passages:
            return [[] for _ in queries]
        with self._reported("searched"):
            return [
                commit.search(self._analyzer.query(query), top_k, allowed, self._gram_weight)
                for query in queries
            ]

    def _newest(self) -> Commit:
        """Return the newest commit, loading it if another process or thread made one."""
        commit = self._commit
        try:
            if commit.stamp != self._stamp():
                commit = self._commit = self._load()
        except _Unusable as error:
            raise StorageError(
                f"The word index in {self._folder} was damaged while in use: {error}.",
                do="Run the command again: it is then rebuilt.",
            ) from error
        return commit

    def _load(self) -> Commit:
        """Open what the folder holds.

        Raises:
            _Unusable: If that is nothing, of another format, or damaged.
        """
        import tantivy

        try:
            with _panics_as_value_errors():
                found = json.loads((self._folder / "format.json").read_text(encoding="utf-8"))
                if found != {"format": FORMAT}:
                    raise _Unusable(f"its format is {found}, expected {FORMAT}")
                stamp = self._stamp()
                index = tantivy.Index.open(str(self._files))
                index.config_reader("manual")  # no thread that watches the folder
                return Commit.read(index, stamp)
        except (OSError, ValueError) as error:
            raise _Unusable(str(error)) from error

    def _stamp(self) -> tuple[int, int, int]:
        """Return what changes with every commit."""
        try:
            found = (self._files / "meta.json").stat()
        except OSError as error:
            raise _Unusable(str(error)) from error
        return found.st_ino, found.st_mtime_ns, found.st_size

    def _wipe(self) -> None:
        """Start an empty index; the lock is held."""
        import tantivy

        with self._reported("emptied"):
            (self._folder / "format.json").unlink(missing_ok=True)
            # Moved away first: a reader may be making its lock file there at this moment.
            discarded = self._folder / "discarded"
            shutil.rmtree(discarded, ignore_errors=True)
            if self._files.exists():
                os.replace(self._files, discarded)
                shutil.rmtree(discarded, ignore_errors=True)
            self._files.mkdir()
            tantivy.Index(schema(), path=str(self._files))
            temporary = self._folder / "format.json.tmp"
            temporary.write_text(json.dumps({"format": FORMAT}), encoding="utf-8")
            os.replace(temporary, self._folder / "format.json")
            self._commit = self._load()

    def _rewrite(
        self,
        commit: Commit,
        seq: int,
        *,
        without: set[int] | None = None,
        then: dict[int, Terms] | None = None,
    ) -> None:
        """Replace everything by what is left, in one commit; the lock is held."""
        without, then = without or set(), then or {}
        with self._writer() as writer:
            writer.delete_all_documents()
            for id_, terms in commit.stored():
                if id_ not in without:
                    add_passage(writer, id_, seq, terms)
            for id_, terms in then.items():
                add_passage(writer, id_, seq, terms)
            if not then and commit.passages == len(without):
                add_marker(writer, seq, 0)

    @contextmanager
    def _writer(self) -> Iterator[tantivy.IndexWriter]:
        """Yield a writer whose changes become durable at the end, or not at all."""
        import tantivy

        with self._reported("written"):
            # Opened anew: another process may have written since, and tantivy cleans up only
            # after files that it knows.
            index = tantivy.Index.open(str(self._files))
            index.config_reader("manual")
            writer = index.writer(_WRITER_BYTES, 1)
            try:
                yield writer
                writer.commit()
            finally:
                writer.wait_merging_threads()  # also gives up tantivy's own lock
            self._commit = self._load()

    @contextmanager
    def _reported(self, done: str) -> Iterator[None]:
        """Turn what tantivy and the file system raise into a StorageError."""
        try:
            with _panics_as_value_errors():
                yield
        except (ValueError, OSError, _Unusable) as error:
            raise StorageError(
                f"The word index in {self._folder} cannot be {done}: {error}.",
                do="Check free space and permissions; if neither, run: youju reindex",
            ) from error


class _Unusable(Exception):
    """What the folder holds cannot serve as an index."""


@contextmanager
def _panics_as_value_errors() -> Iterator[None]:
    """Turn a Rust panic, which is no `Exception` in Python, into a ValueError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(str(error)) from error
