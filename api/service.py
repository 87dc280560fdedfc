"""What the routes work with: made once for a process, passed in, closed at the end."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, ParamSpec, Protocol, TypeAlias, TypeVar

import anyio
from fastapi import Request

from ingest.file_job import Report
from ingest.folder_job import interrupted
from rag.build import Rag
from rag.errors import IndexMismatch, StorageError, UnknownStore, YoujuError
from rag.opened import OpenStores
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
        self._reads = anyio.CapacityLimiter(12)
        self._writes = anyio.CapacityLimiter(6)  # they may wait for each other, no reader for them
        self._gate = anyio.CapacityLimiter(2)
        self._long = anyio.CapacityLimiter(settings.max_answers)
        self._warm = threading.Event()
        self._warming = threading.Thread(target=self._warm_up, name="warm-up", daemon=True)
        self.fault = ""

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
        if self.settings.jobs_in_server:
            self.jobs.start()

    def close(self) -> None:
        """Stop what runs beside the event loop; a process cannot end while a model is loaded."""
        if self._warming.is_alive():
            self._warming.join(_WARM_UP_S)
        self.jobs.close()
        try:
            self.opened.save()
        finally:
            self.tracing.close()

    def not_ready(self) -> dict[str, str]:
        """Return what is not ready yet, and why; {} when everything is."""
        waiting: dict[str, str] = {}
        if self.fault:
            waiting["models"] = "cannot be loaded; see the server's log"
        elif not self._warm.is_set():
            waiting["models"] = "loading"
        try:
            self.keys.exist()
        except YoujuError:
            waiting["database"] = "cannot be read"
        return waiting

    def _warm_up(self) -> None:
        from api.observing import log

        try:
            self.rag.embedder.encode_queries(["warm up 预热"])
            _ = self.rag.analyzer.query("warm up 预热")
            _ = self.rag.answerer
        except YoujuError as error:
            self.fault = str(error)
            log.error("not ready", reason=str(error))
            return
        gc.collect()
        gc.freeze()  # what is loaded now stays: looking through it again takes a tenth of a second
        self._warm.set()

    def _has_jobs(self) -> bool:
        return self.store_files.waiting() > 0 or bool(interrupted(self.settings.jobs_folder))

    def _bring_up(self, store_id: str) -> None:
        """Bring a store's indexes up to date now, so that the next search need not."""
        from api.observing import log

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
        from api.observing import log

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
