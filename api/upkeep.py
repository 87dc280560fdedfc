"""What has to be done now and then: what has expired goes, broken uploads are swept."""

from __future__ import annotations

import threading
import time

from api.observing import log
from api.routes_files import forget_file
from api.service import Service
from rag.errors import YoujuError
from rag.store.vector_stores import DAY_S, has_expired

EVERY_S = 60.0


class Upkeep:
    """A thread that does it once a minute."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upkeep", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop."""
        self._stop.set()
        self._thread.join(10.0)

    def run_once(self) -> None:
        """Do all of it once."""
        service = self._service
        for _, file_id in service.files.expired():
            forget_file(service, file_id)
        for store_id in service.stores.expired():
            empty_store(service, store_id)
        now = int(time.time())
        service.uploads.forget_before(now - DAY_S)
        service.files.blobs.sweep(service.uploads.parts_in_use())
        if service.settings.response_days:
            service.responses.forget_before(now - service.settings.response_days * DAY_S)
        service.opened.save()  # and lets go of those that other processes have deleted

    def _run(self) -> None:
        while not self._stop.wait(EVERY_S):
            try:
                self.run_once()
            except YoujuError as error:
                log.error("upkeep failed", reason=str(error))


def empty_store(service: Service, store_id: str) -> None:
    """Take everything out of a store that has expired; that it was there stays known."""
    for file_id in service.store_files.all_ids(store_id):
        row = service.stores.find(store_id)
        if row is None or not has_expired(row):  # its expiry may be changed at any time
            return
        service.stores.open(row).remove_file(file_id)
