"""What the routes work with: made once for a process, passed in, closed at the end."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeAlias, TypeVar

import anyio
from fastapi import Request

from api.faults import told
from api.observing import log
from ingest.file_job import Report
from ingest.folder_job import interrupted
from rag.build import Rag
from rag.errors import IndexMismatch, StorageError, UnknownStore
from rag.opened import OpenStores
from rag.purge import Purger
from rag.store.answers import Responses
from rag.store.blobs import Blobs
from rag.store.files import Files
from rag.store.projects import Keys
from rag.store.store_files import StoreFiles
from rag.store.uploads import Uploads
from rag.store.vector_stores import VectorStores

if TYPE_CHECKING:
    from api.access import Doorman
    from api.batching import SearchBatcher
    from api.observing import Meters
    from api.tracing import Tracing

P = ParamSpec("P")
T = TypeVar("T")

_MIB = 1024 * 1024
_WARM_UP_S = 60.0
_RETRY_S = 2.0
_LONGEST_RETRY_S = 60.0


class Jobs(Protocol):
    """Who ingests the files that are put into stores."""

    def start(self) -> None:
        """Begin."""

    def ring(self) -> None:
        """Take note that there is something to do."""

    def close(self) -> None:
        """End; what is not finished is left to the next."""


MakeJobs: TypeAlias = Callable[[Rag, Callable[[], bool], Report], Jobs]
"""Makes one of the parts, of whether there is something to do, and of whom to tell."""


def _child(rag: Rag, wanted: Callable[[], bool], report: Report) -> Jobs:
    from api.job_child import JobChild

    return JobChild(rag.settings, wanted, report)


class Service:
    """The collaborators of all routes.

    Args:
        rag: The parts.
        meters: Where numbers go.
        tracing: Where traces go; closed with this.
        make_jobs: Makes who ingests files; None: a process beside this one.
    """

    def __init__(
        self, rag: Rag, meters: Meters, tracing: Tracing, make_jobs: MakeJobs | None = None
    ) -> None:
        from api.access import Doorman
        from api.batching import SearchBatcher

        settings = rag.settings
        self.rag = rag
        self.settings = settings
        self.meters = meters
        self.tracing = tracing
        quota = int(settings.project_quota_mib * _MIB) or None
        self.max_file_bytes = int(settings.max_file_mib * _MIB)
        self.files = Files(rag.db, Blobs(settings.blobs_folder), quota=quota)
        self.uploads = Uploads(rag.db, self.files)
        self.stores = VectorStores(rag.db)
        self.store_files = StoreFiles(rag.db)
        self.responses = Responses(rag.db)
        self.keys = Keys(rag.db)
        self.opened = OpenStores(rag)
        self.doorman: Doorman = Doorman(self.keys, settings.rate_limit)
        self.batcher: SearchBatcher = SearchBatcher(rag, self.opened, meters, tracing)
        self.jobs = (make_jobs or _child)(rag, self._has_jobs, self._on_ingested)
        self.purger = Purger(rag, self.opened.glance, self._on_purge_failed)
        self._reads = anyio.CapacityLimiter(12)
        self._writes = anyio.CapacityLimiter(6)  # they may wait for each other, no reader for them
        self._gate = anyio.CapacityLimiter(2)
        self._long = anyio.CapacityLimiter(settings.max_answers)
        self._loading = "the embedder"
        self._fault = ""
        self._warm = threading.Event()
        self._stop = threading.Event()
        self._warming = threading.Thread(target=self._warm_up, name="warm-up", daemon=True)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run something that reads the database or the disk, off the event loop."""
        return await anyio.to_thread.run_sync(
            lambda: function(*args, **kwargs), limiter=self._reads, abandon_on_cancel=False
        )

    async def write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run something that changes the database or the disk, off the event loop."""
        return await anyio.to_thread.run_sync(
            lambda: function(*args, **kwargs), limiter=self._writes, abandon_on_cancel=False
        )

    async def at_the_gate(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what every request needs before anything else, off the event loop."""
        return await anyio.to_thread.run_sync(
            lambda: function(*args, **kwargs), limiter=self._gate, abandon_on_cancel=False
        )

    async def run_long(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run something that computes, off the event loop."""
        return await anyio.to_thread.run_sync(
            lambda: function(*args, **kwargs), limiter=self._long, abandon_on_cancel=False
        )

    def start(self) -> None:
        """Warm the models up and look for files to ingest, both beside the event loop."""
        self._warming.start()
        self.purger.start()
        if self.settings.jobs_in_server:
            self.jobs.start()

    def close(self) -> None:
        """Stop what runs beside the event loop; a process cannot end while a model is loaded."""
        self._stop.set()
        if self._warming.is_alive():
            self._warming.join(_WARM_UP_S)
        self.purger.close()
        self.jobs.close()
        try:
            self.opened.save()
        finally:
            self.tracing.close()

    def not_ready(self) -> dict[str, str]:
        """Return what is not ready yet, and why; {} when everything is."""
        waiting: dict[str, str] = {}
        if not self._warm.is_set():
            fault, loading = self._fault, self._loading
            waiting["models"] = fault or f"loading {loading}"
        try:
            self.keys.exist()
        except Exception as error:  # noqa: BLE001  whatever it is, it is not ready
            log.error("not ready", reason=told(error))
            waiting["database"] = f"cannot be read ({type(error).__name__}); see the server's log"
        return waiting

    def _warm_up(self) -> None:
        """Load everything; try until that can be done: what is missing may be put there."""
        wait = _RETRY_S
        while not self._loaded():
            if self._stop.wait(wait):
                return
            wait = min(2 * wait, _LONGEST_RETRY_S)
        gc.collect()
        gc.freeze()  # what is loaded now stays: looking through it again takes a tenth of a second
        self._warm.set()

    def _loaded(self) -> bool:
        steps: list[tuple[str, Callable[[], object]]] = [
            ("the embedder", lambda: self.rag.embedder.encode_queries(["warm up 预热"])),
            ("the analyzer", lambda: self.rag.analyzer.query("warm up 预热")),
            ("the answerer", lambda: self.rag.answerer),
        ]
        for self._loading, load in steps:
            try:
                load()
            except Exception as error:  # noqa: BLE001  whatever it is, it must be told
                kind = type(error).__name__
                self._fault = f"{self._loading} cannot be loaded ({kind}); see the server's log"
                log.error("not ready", what=self._loading, reason=told(error))
                return False
        return True

    def _on_purge_failed(self, message: str) -> None:
        log.error("purge failed", reason=message)

    def _has_jobs(self) -> bool:
        return self.store_files.waiting() > 0 or bool(interrupted(self.settings.jobs_folder))

    def _bring_up(self, store_id: str) -> None:
        """Bring a store's indexes up to date now, so that the next search need not."""
        row = self.stores.find(store_id)
        if row is None:
            return
        opened = self.opened.get(self.stores.open(row))
        try:
            opened.lexical.refresh()
            opened.dense.refresh()
        except (UnknownStore, IndexMismatch):
            self.opened.drop(store_id)  # deleted or embedded anew meanwhile
        except StorageError as error:  # the next search tries again
            log.info("not indexed", store=store_id, reason=str(error))

    def _on_ingested(
        self, store_id: str, file_id: str, status: str, seconds: float, message: str
    ) -> None:
        self.meters.files.labels(status).inc()
        if status == "completed" and store_id:
            self._bring_up(store_id)
        if file_id:
            self.tracing.past(
                "ingest file", seconds, "failed" if status == "failed" else "",
                store=store_id, file=file_id, status=status,
            )  # fmt: skip
        log.info(
            "ingested", store=store_id, file=file_id, status=status, s=round(seconds, 3),
            reason=message,
        )  # fmt: skip


async def service_of(request: Request) -> Service:
    """Return the service of the application that answers a request.

    Asynchronous, as all dependencies are here: others would each be run in a thread.
    """
    service: Service = request.app.state.service
    return service
