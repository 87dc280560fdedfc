"""Ingests what is put into stores in this process, without DBOS: for tests that need it soon."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable

from ingest.executors import Slot
from ingest.fence import ParserPool
from ingest.file_job import FileClaim, FileIngestion, Report, Result
from ingest.job import make_parsers
from ingest.jobs import file_base
from rag.build import Rag
from rag.errors import YoujuError
from rag.store.store_files import StoreFiles


def at_once(_name: str, work: Callable[[], Result]) -> Result:
    """Run a step and remember nothing."""
    return work()


class InlineJobs:
    """A thread that ingests what waits, one file at a time."""

    def __init__(
        self, rag: Rag, _wanted: Callable[[], bool] = lambda: True, report: Report = lambda *_: None
    ) -> None:
        self._rag = rag
        self._report = report
        self._root = rag.settings.jobs_folder
        self._listed = StoreFiles(rag.db)
        self.stop = threading.Event()
        self._bell = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inline-jobs", daemon=True)
        self._slot: Slot | None = None

    def start(self) -> None:
        self._thread.start()

    def ring(self) -> None:
        self._bell.set()

    def close(self) -> None:
        self.stop.set()
        self._bell.set()
        if self._thread.is_alive():
            self._thread.join(20)
        if self._slot is not None:
            self._slot.release()

    def run_once(self) -> bool:
        """Ingest the file that is next, if there is one; return whether there was."""
        with make_parsers(self._rag) as pool:
            return self.next(pool)

    def next(self, pool: ParserPool) -> bool:
        if self._slot is None:
            self._slot = Slot.take(self._root, "inline")
        claimed = self._listed.claim(f"{self._slot.name}.{secrets.token_hex(4)}")
        if claimed is None:
            return False
        row, _ = claimed
        files = FileIngestion(
            self._rag, pool, self._root,
            holder=self._slot.run, report=self._report, stop=self.stop,
        )  # fmt: skip
        job_id = f"{file_base(row.store_id, row.file_id)}.1"
        self.ingest(files, FileClaim(row.store_id, row.file_id, str(row.worker), job_id))
        return True

    def ingest(self, files: FileIngestion, claim: FileClaim) -> None:
        files.run(claim, at_once)

    def _run(self) -> None:
        with make_parsers(self._rag) as pool:
            while not self.stop.is_set():
                try:
                    worked = self.next(pool)
                except YoujuError:  # the database cannot be used now
                    worked = False
                if not worked:
                    self._bell.wait(0.1)
                    self._bell.clear()
