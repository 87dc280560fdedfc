"""Runs a sync of a folder on a store: its lock, its parsers, its indexes.

This is what the command line calls; the work is in ingest.sync and ingest.watch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ingest.folder_lock import folder_lock
from ingest.job import make_ingestion, make_parsers, max_file_bytes
from ingest.sync import FolderSync, SyncReport
from ingest.watch import Totals, Watch, Watching
from rag.build import OpenStore, Rag
from rag.purge import purge
from rag.store.sources import StoreSources
from rag.terminal import Advance


@dataclass(frozen=True, slots=True)
class _Opened:
    """A folder's sync, ready to run, and what warms it up for a quick next run."""

    sync: FolderSync
    warm_up: Callable[[], None]


def sync_folder(
    rag: Rag,
    store_name: str,
    folder: Path,
    *,
    yes_delete: bool = False,
    progress: Advance = lambda _progress: None,
) -> SyncReport:
    """Make a store, made if missing, equal to a folder; see `FolderSync.run`.

    Args:
        rag: The parts.
        store_name: Which store.
        folder: Which folder.
        yes_delete: Delete also when more than half of the documents would go.
        progress: Called before each file that is new or has changed.

    Raises:
        SyncRunning: If the folder is being synced into that store already.
        FolderGone: If it is no folder, or vanishes meanwhile.
        IndexMismatch: If the store was made by another embedder or chunker.
        YoujuError: As `FolderSync.run` does.
    """
    with _opened(rag, store_name, folder, yes_delete=yes_delete) as opened:
        report = opened.sync.run(progress=progress)
        if report.changed_chunks:
            _refresh(rag, store_name)
    return report


def watch_folder(
    rag: Rag,
    store_name: str,
    folder: Path,
    watching: Watching,
    *,
    yes_delete: bool = False,
    progress: Advance = lambda _progress: None,
) -> Totals:
    """Do as `sync_folder`, then follow the folder's changes until told to stop.

    Raises:
        YoujuError: As `sync_folder` does; a fault that may pass is told and waited out.
    """
    with _opened(rag, store_name, folder, yes_delete=yes_delete) as opened:
        watch = Watch(
            opened.sync,
            watching,
            warm_up=opened.warm_up,
            changed=lambda: _index_words(rag, store_name),
            progress=progress,
        )
        totals = watch.run()
        if totals.did_something:
            _refresh(rag, store_name)
    return totals


@contextmanager
def _opened(rag: Rag, store_name: str, folder: Path, *, yes_delete: bool) -> Iterator[_Opened]:
    with make_parsers(rag) as pool:
        sync = FolderSync(
            make_ingestion(rag, store_name, pool),
            lambda store: StoreSources(rag.db, store),
            folder,
            max_bytes=max_file_bytes(rag),
            yes_delete=yes_delete,
        )

        def warm_up() -> None:
            pool.parse(b"Warm.", "warm.txt")
            rag.embedder.encode_passages(["Warm."])

        with folder_lock(rag.settings.locks_folder, store_name, sync.root):
            yield _Opened(sync, warm_up)


def _refresh(rag: Rag, store_name: str) -> None:
    """Bring the indexes up to date and save them; what was deleted leaves no trace."""
    store = rag.catalog.find(store_name)
    if store is not None:
        OpenStore(rag, store).refresh()
    purge(rag)


def _index_words(rag: Rag, store_name: str) -> None:
    """Bring the lexical index up to date.

    Whoever searches brings the dense one up to date in memory; its snapshot is written whole, and
    so not after every change.
    """
    store = rag.catalog.find(store_name)
    if store is not None:
        OpenStore(rag, store).lexical.refresh()
