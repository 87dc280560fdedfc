"""The ingestion job: files found, parsed, chunked, embedded, committed, and the indexes brought up.

Files are worked off in groups, each committed in one transaction: a killed run has stored whole
groups and nothing else, and running it again does the rest. A refused file harms no other.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Protocol, TypeVar

from ingest.chunk import Chunker
from ingest.discover import FoundFile, discover, read_bytes
from ingest.fence import ParserPool
from ingest.similar import NearDuplicate, SimilarFiles, sketch
from rag.errors import DocumentRejected
from rag.protocols import Embedder
from rag.schema import Document, Passage
from rag.store.changelog import NewDocument
from rag.store.corpus import DocumentInfo, Outcome, Store
from rag.store.sketches import Sketch, StoreSketches
from rag.store.stamps import Stamp
from rag.terminal import Advance, Progress

_BEYOND = 1 << 63
_ESCAPED_BYTE = re.compile(r"\\u(dc[89a-f][0-9a-f])")


Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Rejection:
    """A file that was not ingested.

    Attributes:
        name: The file.
        reason: A stable word (see rag.errors.DocumentRejected).
        message: The cause and what to do, in one line.
    """

    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What a run did.

    Attributes:
        outcomes: Per file: "added", "replaced" or "unchanged".
        pruned: Names removed because their file is gone from its folder.
        rejected: Files that were refused; what the store held of them before is kept.
        skipped: Files in folders that have no supported suffix, counted by suffix.
        lost: With pruning, folders that are gone themselves and how many documents of the store
            came from each; these are kept.
        chunks: Chunks written.
        warnings: (file, sentence) pairs worth telling.
        seconds: Wall clock.
        near_duplicates: Files of this run that say nearly the same as an earlier one of it, or as
            a document that the store holds.
    """

    outcomes: dict[str, Outcome]
    pruned: tuple[str, ...]
    rejected: tuple[Rejection, ...]
    skipped: dict[str, int]
    lost: dict[str, int]
    chunks: int
    warnings: tuple[tuple[str, str], ...]
    seconds: float
    near_duplicates: tuple[NearDuplicate, ...] = ()

    def count(self, outcome: Outcome) -> int:
        """Return how many files had this outcome."""
        return sum(1 for found in self.outcomes.values() if found == outcome)


@dataclass(frozen=True, slots=True)
class _Parsed:
    name: str
    source: str
    root: str
    sha256: str
    size: int
    document: Document
    passages: list[Passage]
    stamp: Stamp | None
    sketch: Sketch
    file_id: str = ""


@dataclass(frozen=True, slots=True)
class _Same:
    """What stands for a file whose bytes the store holds already."""

    stamp: Stamp | None


@dataclass(slots=True)
class Work:
    """What became of a number of files.

    Attributes:
        outcomes: Per file: "added", "replaced" or "unchanged".
        rejected: Files that were refused.
        refused: Why, by source.
        same: By source, what those looked like whose bytes the store held already.
        chunks: Chunks written.
        warnings: (file, sentence) pairs worth telling.
    """

    outcomes: dict[str, Outcome] = field(default_factory=dict)
    rejected: list[Rejection] = field(default_factory=list)
    refused: dict[str, DocumentRejected] = field(default_factory=dict)
    same: dict[str, Stamp] = field(default_factory=dict)
    chunks: int = 0
    warnings: list[tuple[str, str]] = field(default_factory=list)


class Ingestion:
    """One run into one store.

    Args:
        store: Gives the store the documents go to, made by the same embedder and chunker; called
            when the paths have turned out to hold files, so that a mistyped path makes no store.
        chunker: Cuts documents up.
        embedder: Called only when there is something to embed, so that a run that changes
            nothing loads no model.
        pool: Parses behind a fence.
        max_bytes: Largest file accepted.
        commit_chunks: Passages embedded and committed together: enough to sort them by length,
            few enough to lose.
        sketches: Gives those of the store's documents, for what `run` tells of near duplicates.
    """

    def __init__(
        self,
        store: Callable[[], Store],
        *,
        chunker: Chunker,
        embedder: Callable[[], Embedder],
        pool: ParserPool,
        max_bytes: int,
        commit_chunks: int = 512,
        sketches: Callable[[Store], StoreSketches | None] = lambda _store: None,
    ) -> None:
        self._open_store = store
        self._chunker = chunker
        self._embedder = embedder
        self._pool = pool
        self._max_bytes = max_bytes
        self._commit_chunks = commit_chunks
        self._sketches = sketches

    def run(
        self,
        paths: Sequence[Path],
        *,
        prune: bool = False,
        progress: Advance = lambda _progress: None,
    ) -> IngestReport:
        """Ingest files and folders.

        Args:
            paths: Files and folders.
            prune: Also remove documents whose file is gone from one of the folders given.
            progress: Called before each file.

        Raises:
            PathError: If a path is missing, or nothing under it can be ingested (with `prune` an
                empty folder is taken as it is).
            StorageError: If the store cannot be written; what was committed before stays.
            ModelError: If the embedder cannot be had.
        """
        return _last(self.steps(paths, prune=prune, progress=progress))

    def steps(
        self,
        paths: Sequence[Path],
        *,
        prune: bool = False,
        progress: Advance = lambda _progress: None,
        work: Work | None = None,
    ) -> Generator[Progress, None, IngestReport]:
        """Do as `run` step by step.

        It stops when it has seen which files there are, and whenever a group of them is about to
        be committed.

        Args:
            paths: Files and folders.
            prune: Also remove documents whose file is gone from one of the folders given.
            progress: Called before each file.
            work: Filled as it goes on: what was done should it be broken off.

        Raises:
            YoujuError: As `run` does.
        """
        work = Work() if work is None else work
        begin = time.perf_counter()
        discovery = discover(paths, self._max_bytes, allow_empty=prune)
        store = self._open_store()
        known = store.sources()
        yield Progress(0, len(discovery.files))
        refused = {storable_path(item.path) for item in discovery.rejected}
        folders = tuple(path + os.sep for path in refused - known.keys())  # perhaps unlisted ones
        hidden = {source for source in known if folders and source.startswith(folders)}
        work.rejected += [
            rejection(
                item.name,
                item.error,
                kept=(path := storable_path(item.path)) in known
                or any(source.startswith(path + os.sep) for source in hidden),
            )
            for item in discovery.rejected
        ]
        similar = SimilarFiles(self._sketches(store))
        total = len(discovery.files)
        yield from self._put_steps(store, discovery.files, known, total, progress, work, similar)
        present = {storable_path(found.path) for found in discovery.files} | refused | hidden
        roots = {storable_path(root) for root in discovery.roots}
        pruned = _prune(store, roots, present) if prune else ()
        return IngestReport(
            outcomes=work.outcomes,
            pruned=pruned,
            rejected=tuple(sorted(work.rejected, key=lambda item: item.name)),
            skipped=discovery.skipped,
            lost=_lost_roots(store) if prune else {},
            chunks=work.chunks,
            warnings=tuple(work.warnings),
            seconds=time.perf_counter() - begin,
            near_duplicates=tuple(pair for pair in similar.found if pair.other not in pruned),
        )

    def open_store(self) -> Store:
        """Return the store, made now if it is missing."""
        return self._open_store()

    def put(
        self,
        store: Store,
        files: Iterable[FoundFile],
        known: Mapping[str, tuple[str, str]],
        total: int,
        progress: Advance,
    ) -> Work:
        """Parse, chunk, embed and commit files, in groups.

        Args:
            store: Where to.
            files: Taken one by one; a group is committed also when they end early.
            known: (name, sha256) of what the store holds, by source.
            total: How many files there are, for `progress`.
            progress: Called before each file.

        Raises:
            StorageError: If the store cannot be written; what was committed before stays.
            ModelError: If the embedder cannot be had.
        """
        work = Work()
        _last(self._put_steps(store, files, known, total, progress, work))
        return work

    def _put_steps(
        self,
        store: Store,
        files: Iterable[FoundFile],
        known: Mapping[str, tuple[str, str]],
        total: int,
        progress: Advance,
        work: Work,
        similar: SimilarFiles | None = None,
    ) -> Generator[Progress, None, None]:
        """Do as `put`, and stop whenever a group is about to be committed; see who is `similar`."""
        waiting: list[_Parsed] = []
        done = 0
        for done, found in enumerate(files, start=1):
            source = storable_path(found.path)
            name, sha256 = known.get(source, (found.name, None))
            progress(Progress(done - 1, total, name))
            try:
                parsed = self._parse(found, sha256)
            except DocumentRejected as error:
                work.rejected.append(rejection(name, error, kept=sha256 is not None))
                work.refused[source] = error
                continue
            if isinstance(parsed, _Same):
                work.outcomes[name] = "unchanged"
                if parsed.stamp is not None:
                    work.same[source] = parsed.stamp
                continue
            if similar is not None:
                similar.add(found.name, parsed.sketch, source)
            work.warnings += [(found.name, text) for text in parsed.document.warnings]
            waiting.append(parsed)
            if sum(len(item.passages) for item in waiting) >= self._commit_chunks:
                yield Progress(done - 1, total)
                progress(Progress(done - 1, total, "embedding"))
                self._commit(store, waiting, work)
                waiting = []
        if waiting:
            yield Progress(done, total)
            progress(Progress(done, total, "embedding"))
        self._commit(store, waiting, work)

    def _parse(self, found: FoundFile, known_sha256: str | None) -> _Parsed | _Same:
        """Return _Same if the store holds these very bytes under this name."""
        data, stamp = read_stamped(found)
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 == known_sha256:
            return _Same(stamp)
        document = self._pool.parse(data, found.name)
        passages = self._chunker.split(document)
        if not passages:
            raise DocumentRejected(
                "It holds no text.", reason="empty", do="Remove it, or add text to it."
            )
        return _Parsed(
            name=found.name,
            source=storable_path(found.path),
            root=storable_path(found.root),
            sha256=sha256,
            size=len(data),
            document=document,
            passages=passages,
            stamp=stamp,
            sketch=sketch(document.text),
        )

    def _commit(self, store: Store, waiting: Sequence[_Parsed], work: Work) -> None:
        if not waiting:
            return
        new = embed_documents(
            self._embedder(),
            waiting,
            [item.document for item in waiting],
            [item.passages for item in waiting],
        )
        work.outcomes.update(store.commit(new))
        work.chunks += sum(len(item.passages) for item in waiting)


def _last(steps: Generator[Progress, None, Result]) -> Result:
    """Run all steps; return what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: Result = end.value
            return result


class Source(Protocol):
    """Where a document's bytes came from (see rag.store.corpus.NewDocument)."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def root(self) -> str: ...  # noqa: D102
    @property
    def sha256(self) -> str: ...  # noqa: D102
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def file_id(self) -> str: ...  # noqa: D102


def read_stamped(found: FoundFile) -> tuple[bytes, Stamp | None]:
    """Read a file whole, and say what it looked like; raises as `read_bytes` does.

    There is no stamp of a file whose times are beyond what a database holds.
    """
    seen_ns = time.time_ns()
    data = read_bytes(found)
    times = (found.mtime_ns, found.ctime_ns, seen_ns)
    return data, Stamp(*times) if all(abs(t) < _BEYOND for t in times) else None


def embed_documents(
    embedder: Embedder,
    sources: Sequence[Source],
    documents: Sequence[Document],
    passages: Sequence[list[Passage]],
) -> list[NewDocument]:
    """Embed the passages of several documents in one call; the three sequences run parallel."""
    vectors = embedder.encode_passages([p.indexed_text for cut in passages for p in cut])
    ends = list(accumulate(len(cut) for cut in passages))
    return [
        NewDocument(
            name=source.name,
            source=source.source,
            root=source.root,
            sha256=source.sha256,
            size=source.size,
            document=document,
            passages=cut,
            vectors=vectors[end - len(cut) : end],
            file_id=source.file_id,
            stamp=source.stamp if isinstance(source, _Parsed) else None,
            sketch=source.sketch if isinstance(source, _Parsed) else sketch(document.text),
        )
        for source, document, cut, end in zip(sources, documents, passages, ends, strict=True)
    ]


def storable_path(path: Path) -> str:
    """Return a path as text that a database takes, whatever bytes it is made of."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _prune(store: Store, roots: set[str], present: set[str]) -> tuple[str, ...]:
    """Delete documents whose file is gone; one that merely cannot be seen now is kept."""
    gone = tuple(
        info.name
        for info in store.documents()
        if _inside(info, roots) and info.source not in present and is_gone(info.source)
    )
    if gone:
        store.delete(gone, missing_ok=True)
    return gone


def _inside(info: DocumentInfo, roots: set[str]) -> bool:
    """Whether a document came from one of the folders, or from anywhere below."""
    return info.root in roots or any(
        info.source.startswith(root.rstrip(os.sep) + os.sep) for root in roots
    )


def _lost_roots(store: Store) -> dict[str, int]:
    """Folders that are gone themselves, and how many documents still come from each."""
    uses = Counter(info.root for info in store.documents())
    return {root: number for root, number in sorted(uses.items()) if is_gone(root)}


def is_gone(source: str) -> bool:
    """Whether there is no file of that stored path, read literally or with its escapes undone."""
    return all(_is_missing(path) for path in {source, unescaped(source)})


def unescaped(source: str) -> str:
    """Return the path that `storable_path` made a source of, its undecodable bytes put back."""
    return _ESCAPED_BYTE.sub(lambda match: chr(int(match[1], 16)), source)


def _is_missing(path: str) -> bool:
    try:
        Path(path).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def rejection(name: str, error: DocumentRejected, *, kept: bool = False) -> Rejection:
    """Say why a file was refused, and whether the store keeps what it had of it."""
    note = " The store keeps the version it had." if kept else ""
    return Rejection(name, error.reason, f"{error}{note}")
