"""The job of one uploaded file: parsed, chunked, embedded, committed, each step once.

It knows nothing of how steps are made durable: who calls it says how a step is run (ingest.jobs
does so with DBOS). One file that fails harms no other; a fault of the machine (disk full, model
missing) leaves the file waiting. A step is not begun when the file has been cancelled, taken out
or claimed by another meanwhile, and the last one changes nothing then.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ingest.chunk import is_of_this_version
from ingest.fence import ParserPool
from ingest.job import make_chunker
from ingest.similar import sketch
from ingest.spool import Spool, note_progress
from rag.build import Rag
from rag.errors import (
    ChunkerMismatch,
    DocumentRejected,
    IndexMismatch,
    StorageError,
    UnknownStore,
    YoujuError,
)
from rag.made_by import check_chunker, check_embedder
from rag.schema import Document, FloatArray, Passage
from rag.store.blobs import Blobs
from rag.store.changelog import NewDocument
from rag.store.corpus import Store
from rag.store.files import Files
from rag.store.service_tables import FileRow, StoreFileRow
from rag.store.store_files import ErrorCode, StoreFiles
from rag.store.vector_stores import VectorStores

MOST_DEATHS = 3
"""So many processes may die with a file in hand before the file is given up."""

RETRY_S = 5
"""Seconds until a file is tried again that failed through no fault of its own; then doubled."""

LONGEST_RETRY_S = 300

SLICE = 256
"""Passages embedded, kept and reported together."""

Result: TypeAlias = dict[str, Any]
"""Counts and words of a step, as JSON has them; "end" is there when the job is over."""

Step: TypeAlias = Callable[[str, Callable[[], Result]], Result]
"""Runs a step of a name, or returns what it returned when it was run before."""

Report: TypeAlias = Callable[[str, str, str, float, str], None]
"""Told what became of a file: (store id, file id, status, seconds, message)."""

_CODES: dict[str, ErrorCode] = {
    "unsupported": "unsupported_file",
    "needs-ocr": "unsupported_file",
    "encrypted": "unsupported_file",
    "blob lost": "server_error",
    "blob damaged": "server_error",
}


class Stopped(BaseException):
    """The process is to end: the job is put down where it is, for the next one to go on."""


@dataclass(frozen=True, slots=True)
class FileClaim:
    """A file to be ingested: its place in a store, under which name it is claimed, the job's id."""

    store_id: str
    file_id: str
    worker: str
    job_id: str


class Alone:
    """Lets many threads in together, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._waiting = 0

    @contextmanager
    def enter(self, *, alone: bool) -> Iterator[None]:
        """Be inside for the length of a `with` block, with nobody else if `alone`."""
        with self._changed:
            if alone:
                self._waiting += 1
                self._changed.wait_for(lambda: self._inside == 0)
                self._waiting -= 1
                self._inside = -1
            else:
                self._changed.wait_for(lambda: self._inside >= 0 and not self._waiting)
                self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside = 0 if alone else self._inside - 1
                self._changed.notify_all()


@dataclass
class _Hand:
    """What a running job has in memory."""

    claim: FileClaim
    spool: Spool
    row: StoreFileRow
    file: FileRow
    store: Store
    document: Document | None = None
    passages: list[Passage] | None = None
    pieces: list[FloatArray] = field(default_factory=list)


class FileIngestion:
    """Ingests files that have been claimed. Several threads may do so at once.

    Args:
        rag: The parts.
        pool: Parses behind a fence.
        root: Where spools are.
        holder: Under which name this process has jobs in hand; no other has or had it
            (`ingest.executors.Slot.run`).
        report: Called with what became of a file.
        stop: Set when the process is to end: jobs are put down before their next step.
    """

    def __init__(
        self,
        rag: Rag,
        pool: ParserPool,
        root: Path,
        *,
        holder: str,
        report: Report = lambda *_: None,
        stop: threading.Event | None = None,
    ) -> None:
        self._rag = rag
        self._pool = pool
        self._root = root
        self._holder = holder
        self._report = report
        self._stop = stop or threading.Event()
        self._blobs = Blobs(rag.settings.blobs_folder)
        self._files = Files(rag.db, self._blobs)
        self._listed = StoreFiles(rag.db)
        self._stores = VectorStores(rag.db)
        self._alone = Alone()
        self._said: dict[str, str] = {}  # of a job, by its id: results hold no text

    def run(self, claim: FileClaim, step: Step) -> Result:
        """Do the job, or what is left of it; return the result of its last step.

        Its "end" is "completed", "failed", "cancelled" or "waiting".

        Raises:
            Stopped: If the process is to end; the job is not over then.
            StorageError: If not even that can be written down.
        """
        begin = time.monotonic()
        spool = Spool(self._root, claim.job_id)
        suspect = spool.deaths(self._holder) > 0
        with self._alone.enter(alone=suspect):
            spool.take(self._holder)
            result = self._steps(claim, spool, step)
        if result["end"] != "waiting":
            spool.remove()
        seconds = time.monotonic() - begin
        message = self._said.pop(claim.job_id, "")
        self._report(claim.store_id, claim.file_id, str(result["end"]), seconds, message)
        return result

    def _steps(self, claim: FileClaim, spool: Spool, step: Step) -> Result:
        hand: list[_Hand] = []  # filled by the first step that is really run

        def doing(work: Callable[[_Hand], Result]) -> Callable[[], Result]:
            return lambda: self._guarded(claim, spool, hand, work)

        for name, work in (
            ("parse", self._parse),
            ("chunk", self._chunk),
            ("embed", self._embed),
            ("commit", self._commit),
        ):
            if self._stop.is_set():
                spool.put_down()
                raise Stopped
            result = step(name, doing(work))
            if "end" in result:
                return result
        raise AssertionError("unreachable: the last step ends the job")

    # -- what can go wrong ---------------------------------------------------------------------

    def _guarded(
        self, claim: FileClaim, spool: Spool, hand: list[_Hand], work: Callable[[_Hand], Result]
    ) -> Result:
        row = self._listed.get(claim.store_id, claim.file_id)
        if row is None or (row.status, row.worker) != ("in_progress", claim.worker):
            ended = row is not None and row.status in ("completed", "failed")
            return {"end": row.status if ended and row is not None else "cancelled"}
        try:
            if spool.deaths(self._holder) >= MOST_DEATHS:
                return self._poisoned(row, claim)
            if not hand:
                opened = self._open(claim, spool, row)
                if opened is None:
                    return {"end": "cancelled"}
                hand.append(opened)
            return work(hand[0])
        except DocumentRejected as error:
            if error.reason == "unreadable":  # the parser cannot be had
                return self._put_off(row, spool, str(error), error.reason)
            code = _CODES.get(error.reason, "invalid_file")
            return self._fail(row, claim, code, str(error), error.reason)
        except ChunkerMismatch as error:
            return self._fail(row, claim, "server_error", str(error), "other chunker")
        except IndexMismatch as error:
            told = (  # the error's own words tell the server's settings
                "The store was made by another embedding model than the server has now. Who runs "
                "the server can mend that with `youju reindex`."
            )
            return self._fail(row, claim, "server_error", told, "other embedder", str(error))
        except UnknownStore:
            return {"end": "cancelled"}  # the store has been deleted meanwhile
        except YoujuError as error:
            return self._put_off(row, spool, str(error), type(error).__name__)
        except Exception as error:  # noqa: BLE001  one file must not end the work on all others
            kind = type(error).__name__
            told = f"The file could not be ingested: an unexpected {kind}."
            return self._fail(row, claim, "server_error", told, kind, _place(error))

    def _fail(
        self,
        row: StoreFileRow,
        claim: FileClaim,
        code: ErrorCode,
        told: str,
        reason: str,
        logged: str = "",
    ) -> Result:
        self._listed.fail(row, code, told)
        self._said[claim.job_id] = logged or told
        return {"end": "failed", "code": code, "reason": reason}

    def _poisoned(self, row: StoreFileRow, claim: FileClaim) -> Result:
        told = (
            f"The file could not be ingested: {MOST_DEATHS} times the process that did so broke "
            "down, perhaps for want of memory. Try a smaller part of it."
        )
        return self._fail(row, claim, "server_error", told, "process died")

    def _put_off(self, row: StoreFileRow, spool: Spool, told: str, reason: str) -> Result:
        wait = min(RETRY_S * 2 ** min(spool.tries(), 20), LONGEST_RETRY_S)
        self._said[spool.job_id] = told
        self._listed.postpone(row, wait)
        try:
            spool.put_off()
        except StorageError:  # the disk is full: the file waits none the less
            spool.remove()
        note_progress(spool, phase="waiting", reason=told, until=time.time() + wait)
        return {"end": "waiting", "reason": reason}

    # -- the steps -----------------------------------------------------------------------------

    def _open(self, claim: FileClaim, spool: Spool, row: StoreFileRow) -> _Hand | None:
        found = self._stores.find(claim.store_id)
        file = self._files.find(claim.file_id)
        if found is None or file is None:
            return None
        store = self._stores.open(found)
        embedder = self._rag.embedder.fingerprint
        check_embedder(store, embedder)
        if row.chunk_tokens is None or not is_of_this_version(store.chunker):
            check_chunker(store, make_chunker(self._rag).fingerprint)
        chunker = make_chunker(self._rag, row.chunk_tokens, row.chunk_overlap)
        spool.keyed({"sha256": file.sha256, "chunker": chunker.fingerprint, "embedder": embedder})
        return _Hand(claim, spool, row, file, store)

    def _parse(self, hand: _Hand) -> Result:
        document = self._document(hand)
        return {"pages": len(document.pages), "bytes": hand.file.bytes}

    def _chunk(self, hand: _Hand) -> Result:
        return {"chunks": len(self._passages(hand))}

    def _embed(self, hand: _Hand) -> Result:
        passages = self._passages(hand)
        begin = time.monotonic()
        dim = hand.store.dim
        fresh = 0
        for number, first in enumerate(range(0, len(passages), SLICE)):
            part = passages[first : first + SLICE]
            vectors = hand.spool.vectors(number, (len(part), dim))
            if vectors is None:
                if first:
                    self._check(hand)
                rest = len(passages) - first
                left = (time.monotonic() - begin) / fresh * rest if fresh else None
                self._note(hand, "embedding", first, len(passages), left)
                vectors = self._rag.embedder.encode_passages([one.indexed_text for one in part])
                hand.spool.keep_vectors(number, np.asarray(vectors, np.float32))
                fresh += len(part)
            hand.pieces.append(vectors)
        return {"chunks": len(passages)}

    def _commit(self, hand: _Hand) -> Result:
        passages = self._passages(hand)
        if not hand.pieces:
            self._embed(hand)
        file = hand.file
        new = NewDocument(
            name=file.filename,
            source=file.id,
            root="",
            sha256=file.sha256,
            size=file.bytes,
            document=self._document(hand),
            passages=passages,
            vectors=np.concatenate(hand.pieces),
            file_id=file.id,
            sketch=sketch(self._document(hand).text),
        )
        self._note(hand, "committing", len(passages), len(passages), 0.0)
        if not hand.store.commit_file(new, hand.claim.worker):
            return {"end": "cancelled"}
        return {"end": "completed", "chunks": len(passages)}

    def _document(self, hand: _Hand) -> Document:
        if hand.document is None:
            hand.document = hand.spool.document()
        if hand.document is None:
            self._note(hand, "parsing")
            hand.document = self._pool.parse(self._bytes(hand.file), hand.file.filename)
            hand.spool.keep_document(hand.document)
        return hand.document

    def _passages(self, hand: _Hand) -> list[Passage]:
        document = self._document(hand)
        if hand.passages is None:
            hand.passages = hand.spool.passages(document)
        if hand.passages is None:
            self._note(hand, "chunking")
            row = hand.row
            chunker = make_chunker(self._rag, row.chunk_tokens, row.chunk_overlap)
            hand.passages = chunker.split(document)
            hand.spool.keep_passages(hand.passages)
        if not hand.passages:
            raise DocumentRejected(
                "It holds no text.", reason="empty", do="Remove it, or add text to it."
            )
        return hand.passages

    def _bytes(self, file: FileRow) -> bytes:
        if not file.kept:
            raise DocumentRejected(
                "Its bytes are not kept here: it was read from a folder.",
                reason="unsupported",
                do="Upload the file.",
            )
        try:
            return self._blobs.read(file.sha256)
        except StorageError as error:
            folder = self._blobs.path(file.sha256).parent.parent
            gone = isinstance(error.__cause__, FileNotFoundError) and folder.is_dir()
            if gone or error.__cause__ is None:  # none: they were read, and are others
                raise DocumentRejected(
                    f"Its bytes are {'lost' if gone else 'damaged'} on the server.",
                    reason="blob lost" if gone else "blob damaged",
                    do="Upload the file again.",
                ) from error
            raise

    def _check(self, hand: _Hand) -> None:
        """Stop between two slices if that is wanted.

        Raises:
            Stopped: If the process is to end.
            UnknownStore: If the file is given up.
        """
        if self._stop.is_set():
            hand.spool.put_down()
            raise Stopped
        row = self._listed.get(hand.claim.store_id, hand.claim.file_id)
        if row is None or (row.status, row.worker) != ("in_progress", hand.claim.worker):
            raise UnknownStore("The file has been taken out of the store.")

    def _note(
        self,
        hand: _Hand,
        phase: str,
        done: int = 0,
        total: int | None = None,
        seconds_left: float | None = None,
    ) -> None:
        pages = len(hand.document.pages) if hand.document is not None else None
        note_progress(
            hand.spool,
            phase=phase,
            bytes=hand.file.bytes,
            pages=pages,
            chunks_done=done,
            chunks_total=total,
            seconds_left=None if seconds_left is None else round(seconds_left, 1),
        )


def _place(error: Exception) -> str:
    """Say where an unexpected error was raised; its own words may quote the document."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-3:]]
    return f"unexpected {type(error).__name__} at {' > '.join(places)}"
