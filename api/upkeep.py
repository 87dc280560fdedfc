"""What has to be done now and then: what has expired goes, broken uploads are swept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from api.faults import told
from api.observing import log
from api.routes_files import forget_file
from api.service import Service
from rag.store.vector_stores import DAY_S, has_expired

EVERY_S = 60.0
SWEEP_S = 3600.0
"""Seconds between two looks for blobs that no file has."""


class Upkeep:
    """A thread that does it once a minute.

    A step that fails is logged, and the others are done; it is tried again a minute later.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stop = threading.Event()
        self._sweep_at = 0.0
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join(10.0)

    def run_once(self) -> None:
        """Do all of it once, as far as it can be done."""
        for step in (
            self._expire_files,
            self._expire_stores,
            self._forget_uploads,
            self._sweep_parts,
            self._sweep_blobs,
            self._forget_responses,
            self._service.opened.save,  # and lets go of those that other processes have deleted
        ):
            self._guarded(step, step.__name__.strip("_"))

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            self.run_once()

    def _guarded(self, step: Callable[[], object], name: str) -> None:
        try:
            step()
        except Exception as error:  # noqa: BLE001  one fault must not end all upkeep
            log.error("upkeep failed", step=name, reason=told(error))

    def _expire_files(self) -> None:
        for _, file_id in self._service.files.expired():
            self._guarded(partial(forget_file, self._service, file_id), "expire_file")

    def _expire_stores(self) -> None:
        for store_id in self._service.stores.expired():
            self._guarded(partial(empty_store, self._service, store_id), "expire_store")

    def _forget_uploads(self) -> None:
        self._service.uploads.forget_before(int(time.time()) - DAY_S)

    def _sweep_parts(self) -> None:
        self._service.files.blobs.sweep(self._service.uploads.parts_in_use())

    def _sweep_blobs(self) -> None:
        if time.monotonic() < self._sweep_at:
            return
        swept = self._service.files.sweep()
        self._sweep_at = time.monotonic() + SWEEP_S
        if swept.deleted or swept.left:
            log.warning("blobs without a file", deleted=swept.deleted, left=swept.left)

    def _forget_responses(self) -> None:
        days = self._service.settings.response_days
        if days:
            self._service.responses.forget_before(int(time.time()) - days * DAY_S)


def empty_store(service: Service, store_id: str) -> None:
    """Take everything out of a store that has expired; that it was there stays known."""
    for file_id in service.store_files.all_ids(store_id):
        row = service.stores.find(store_id)
        if row is None or not has_expired(row):  # its expiry may be changed at any time
            return
        service.stores.open(row).remove_file(file_id)
