"""Removes the traces of deleted text from the home folder, soon after every deletion.

What was deleted is no longer found at once: every search follows the change log. But tantivy keeps
removed passages until it rewrites its files, snapshots of vectors are as old as their last save,
SQLite leaves copies of moved rows, and a process may be killed between a transaction and the files
that belong to it. The database counts deletions in the transaction that makes them, so that none
is forgotten, whoever makes it.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rag.build import OpenStore, Rag
from rag.errors import IndexMismatch, StorageError, UnknownStore, YoujuError
from rag.store.blobs import Blobs
from rag.store.corpus import Store
from rag.store.database import translated
from rag.store.files import Files
from rag.store.hold import hold
from rag.store.vector_stores import VectorStores

LOOK_S = 1.0
"""Seconds between two looks for deletions."""

RARELY_S = 60.0
"""The same where the database does not count them, and after an error."""

_AGAIN_S = 10.0
_STAYS = -1  # no count of deletions: it is not set back
_SHARE = 9.0  # of ten parts of time one at most is spent on it


def purge(rag: Rag, opened: Callable[[Store], OpenStore] | None = None) -> bool:
    """Remove the traces of what was deleted, if anything was.

    Args:
        rag: The parts; nothing is embedded.
        opened: Returns the stores that are open already.

    Returns:
        Whether nothing is left to do. Another process may be at it, or a backup keep blobs.

    Raises:
        StorageError: If something cannot be read or written; the next run does it all again.
    """
    seen = rag.db.deletions()
    if seen == 0 and rag.db.file is not None:
        return True
    with translated(rag.settings.home), _alone(rag) as alone:
        if not alone:
            return False
        clean = Files(rag.db, Blobs(rag.settings.blobs_folder)).drop_orphans()
        clean = _purge_indexes(rag, opened or (lambda store: OpenStore(rag, store))) and clean
        scrubbed = rag.db.scrub(seen if clean else _STAYS)
        return clean and scrubbed


@contextmanager
def _alone(rag: Rag) -> Iterator[bool]:
    """Yield whether no other process is at it."""
    try:
        rag.settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = hold(rag.settings.home / "purge.lock", alone=True)
    except OSError as error:
        raise StorageError(f"Cannot use {rag.settings.home}: {error.strerror}.") from error
    try:
        yield taken is not None
    finally:
        if taken is not None:
            taken.close()


def _purge_indexes(rag: Rag, opened: Callable[[Store], OpenStore]) -> bool:
    stores = VectorStores(rag.db)
    for folder in rag.settings.indexes_folder.glob("*"):
        row = stores.find(folder.name)
        if row is None:
            shutil.rmtree(folder, ignore_errors=True)
            continue
        try:
            opened(stores.open(row)).purge()
        except (UnknownStore, IndexMismatch):  # deleted, or embedded anew, at this moment
            return False
    return True


class Purger:
    """A thread that does it whenever there is something to do.

    Args:
        rag: The parts.
        opened: Returns the stores that are open already.
        report: Told of errors.
    """

    def __init__(
        self,
        rag: Rag,
        opened: Callable[[Store], OpenStore],
        report: Callable[[str], None] = lambda _message: None,
    ) -> None:
        self._rag = rag
        self._opened = opened
        self._report = report
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="purge", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the run in hand."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10.0)

    def _run(self) -> None:
        pause = LOOK_S if self._rag.db.file is not None else RARELY_S
        wait = pause
        while not self._stop.wait(wait):
            begin = time.monotonic()
            try:
                least = pause if purge(self._rag, self._opened) else max(pause, _AGAIN_S)
                wait = max(least, _SHARE * (time.monotonic() - begin))
            except YoujuError as error:
                self._report(str(error))
                wait = RARELY_S
