"""Keeps stores open between requests, so that each search need not read the indexes anew."""

from __future__ import annotations

import threading
from collections import OrderedDict

from rag.build import OpenStore, Rag
from rag.errors import IndexMismatch, UnknownStore
from rag.store.corpus import Store

MOST = 64
"""Stores kept open; the one not used for longest is let go."""


class OpenStores:
    """Open stores by their id. Safe to share between threads.

    Args:
        rag: The parts.
        most: How many are kept open, >= 1.
    """

    def __init__(self, rag: Rag, most: int = MOST) -> None:
        self._rag = rag
        self._most = most
        self._lock = threading.Lock()
        self._open: OrderedDict[str, OpenStore] = OrderedDict()

    def get(self, store: Store) -> OpenStore:
        """Return a store, opened now if it is not, or if it was embedded anew meanwhile."""
        with self._lock:
            found = self._open.get(store.id)
            if found is None or found.store.embedder != store.embedder:
                found = self._open[store.id] = OpenStore(self._rag, store)
                if len(self._open) > self._most:
                    self._open.popitem(last=False)
            self._open.move_to_end(store.id)
            return found

    def glance(self, store: Store) -> OpenStore:
        """Return a store, open already or opened now; the latter is not kept."""
        with self._lock:
            found = self._open.get(store.id)
        if found is None or found.store.embedder != store.embedder:
            return OpenStore(self._rag, store)
        return found

    def drop(self, store_id: str) -> None:
        """Let a store go, because it was deleted."""
        with self._lock:
            self._open.pop(store_id, None)

    def save(self) -> None:
        """Write the snapshots of those that have changed; let go of those that are no more.

        Raises:
            StorageError: If one cannot be written; nothing is lost, they are caches.
        """
        with self._lock:
            opened = list(self._open.values())
        for store in opened:
            try:
                store.save()
            except (UnknownStore, IndexMismatch):  # deleted, or embedded anew, by another process
                with self._lock:
                    if self._open.get(store.store.id) is store:
                        del self._open[store.store.id]
