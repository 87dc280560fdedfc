"""Ingests the files that clients have put into stores: parsed, chunked, embedded, committed.

What is to be done is the list in the database (rag.store.store_files), so a killed process loses
nothing: its claim runs out and the work begins again. One file that fails harms no other; a fault
of the machine (disk full, model missing) leaves the file waiting and is tried again later.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from ingest.fence import ParserPool
from ingest.job import make_chunker, make_parsers
from ingest.pipeline import embed_documents
from rag.build import Rag, check_embedder
from rag.errors import DocumentRejected, IndexMismatch, StorageError, UnknownStore, YoujuError
from rag.opened import OpenStores
from rag.store.blobs import Blobs
from rag.store.corpus import Store
from rag.store.ids import new_id
from rag.store.service_tables import FileRow, StoreFileRow
from rag.store.store_files import ErrorCode, StoreFiles
from rag.store.vector_stores import VectorStores

CLAIM_S = 20
"""A worker that has died for so long is taken to be dead."""

IDLE_S = 0.3
"""Seconds between two looks for work, when nobody has rung."""

RETRY_S = 10
"""Seconds until a file is tried again that failed through no fault of its own."""

_CODES: dict[str, ErrorCode] = {
    "unsupported": "unsupported_file",
    "needs-ocr": "unsupported_file",
    "encrypted": "unsupported_file",
}


class UploadIngestion:
    """A thread that ingests what waits, one file at a time.

    Args:
        rag: The parts.
        opened: The stores that searches use, too.
        blobs: The files' bytes.
        report: Called with what became of a file: (store id, file id, status, seconds, message).
    """

    def __init__(
        self,
        rag: Rag,
        opened: OpenStores,
        blobs: Blobs,
        *,
        report: Callable[[str, str, str, float, str], None] = lambda *_: None,
    ) -> None:
        self._rag = rag
        self._opened = opened
        self._blobs = blobs
        self._report = report
        self._files = StoreFiles(rag.db)
        self._stores = VectorStores(rag.db)
        self._worker = new_id("worker_")
        self._stop = threading.Event()
        self._bell = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name="ingest", daemon=True),
            threading.Thread(target=self._keep_claim, name="ingest-claim", daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def ring(self) -> None:
        """Say that there is something to do, so that it begins at once."""
        self._bell.set()

    def close(self, timeout_s: float = 10.0) -> None:
        """Stop after the file in hand, or after so many seconds; what is not done stays waiting."""
        self._stop.set()
        self._bell.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout_s)
        try:
            self._files.release(self._worker)
        except StorageError as error:  # the claim runs out
            self._report("", "", "waiting", 0.0, str(error))

    def run_once(self) -> bool:
        """Ingest the oldest waiting file, if there is one; return whether there was."""
        with make_parsers(self._rag) as pool:
            return self._next(pool)

    def _run(self) -> None:
        unsaved = True
        with make_parsers(self._rag) as pool:
            while not self._stop.is_set():
                try:
                    worked = self._next(pool)
                except YoujuError as error:  # the database cannot be used now
                    self._report("", "", "waiting", 0.0, str(error))
                    worked = False
                    self._stop.wait(RETRY_S)
                unsaved = unsaved or worked
                if not worked:
                    if unsaved:
                        self._save()
                        unsaved = False
                    self._bell.wait(IDLE_S)
                    self._bell.clear()

    def _keep_claim(self) -> None:
        while not self._stop.wait(CLAIM_S / 4):
            try:
                self._files.extend(self._worker, CLAIM_S)
            except YoujuError as error:
                self._report("", "", "waiting", 0.0, str(error))

    def _next(self, pool: ParserPool) -> bool:
        claimed = self._files.claim(self._worker, CLAIM_S)
        if claimed is None:
            return False
        entry, file = claimed
        begin = time.monotonic()
        message = ""
        try:
            status = self._ingest(entry, file, pool)
        except DocumentRejected as error:
            status, message = "failed", str(error)
            if error.reason == "unreadable":  # the parser cannot be had
                status = "waiting"
                self._files.postpone(entry, RETRY_S)
            else:
                self._files.fail(entry, _CODES.get(error.reason, "invalid_file"), message)
        except IndexMismatch as error:
            status, message = "failed", str(error)
            told = (  # the error's own words tell the server's settings
                "The store was made by another embedding model than the server has now. Who runs "
                "the server can mend that with `youju reindex`."
            )
            self._files.fail(entry, "server_error", told)
        except UnknownStore:
            status = "cancelled"  # the store has been deleted meanwhile
        except YoujuError as error:
            status, message = "waiting", str(error)
            self._files.postpone(entry, RETRY_S)
        except Exception as error:  # noqa: BLE001  one file must not end the work on all others
            status, message = "failed", _place(error)
            told = f"The file could not be ingested: an unexpected {type(error).__name__}."
            self._files.fail(entry, "server_error", told)
        self._report(entry.store_id, entry.file_id, status, time.monotonic() - begin, message)
        return True

    def _ingest(self, entry: StoreFileRow, file: FileRow, pool: ParserPool) -> str:
        row = self._stores.find(entry.store_id)
        if row is None:
            return "cancelled"
        store = self._stores.open(row)
        check_embedder(store, self._rag.embedder.fingerprint)
        if not file.kept:
            raise DocumentRejected(
                "Its bytes are not kept here: it was read from a folder.",
                reason="unsupported",
                do="Upload the file.",
            )
        document = pool.parse(self._blobs.read(file.sha256), file.filename)
        chunker = make_chunker(self._rag, entry.chunk_tokens, entry.chunk_overlap)
        passages = chunker.split(document)
        if not passages:
            raise DocumentRejected(
                "It holds no text.", reason="empty", do="Remove it, or add text to it."
            )
        source = _Uploaded(file)
        (new,) = embed_documents(self._rag.embedder, [source], [document], [passages])
        if not store.commit_file(new, self._worker):
            return "cancelled"
        self._refresh(store)
        return "completed"

    def _refresh(self, store: Store) -> None:
        """Bring the indexes up to date now, so that the next search need not."""
        opened = self._opened.get(store)
        try:
            opened.lexical.refresh()
            opened.dense.refresh()
        except (UnknownStore, IndexMismatch):
            self._opened.drop(store.id)  # deleted or embedded anew meanwhile
        except StorageError as error:  # the next search tries again
            self._report(store.id, "", "not indexed", 0.0, str(error))

    def _save(self) -> None:
        try:
            self._opened.save()
        except StorageError as error:
            self._report("", "", "not saved", 0.0, str(error))


def _place(error: Exception) -> str:
    """Say where an unexpected error was raised; its own words may quote the document."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-3:]]
    return f"unexpected {type(error).__name__} at {' > '.join(places)}"


class _Uploaded:
    """Where an uploaded file's bytes came from: nowhere but itself."""

    def __init__(self, file: FileRow) -> None:
        self.name = file.filename
        self.source = self.file_id = file.id
        self.root = ""
        self.sha256 = file.sha256
        self.size = file.bytes
