"""Runs ingestion, deletion and re-indexing on a store, and brings its indexes up to date.

This is what the command line (and later the API) calls; the work is in ingest.pipeline.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ingest.chunk import Chunker
from ingest.fence import ParserPool
from ingest.pipeline import Ingestion, IngestReport, embed_documents, storable_path
from rag.build import OpenStore, Rag
from rag.errors import StorageError, UnknownFile
from rag.purge import purge
from rag.store.catalog import SHADOW_PREFIX
from rag.store.changelog import used_bytes
from rag.store.corpus import Store
from rag.store.sketches import StoreSketches
from rag.store.store_files import StoreFiles
from rag.terminal import Advance, Progress

_REINDEX_GROUP = 32  # documents embedded and committed together
_REINDEX_TRIES = 3
_SHADOW_LIFE_S = 86_400  # what a killed reindex left behind is cleared away after a day


@dataclass(frozen=True, slots=True)
class ReindexReport:
    """What a reindex did; `embedder` is the fingerprint the store now has."""

    documents: int
    chunks: int
    embedder: str


def make_chunker(rag: Rag, tokens: int | None = None, overlap: int | None = None) -> Chunker:
    """Return the chunker that the settings ask for, or one for the sizes given.

    Args:
        rag: The parts.
        tokens: Tokens of a passage at most, >= 16; None: as the settings say.
        overlap: Tokens that passages may share, >= 0 and < tokens, None is 0; used with `tokens`.

    Raises:
        ValueError: If a size is out of range.
    """
    if tokens is not None:
        return Chunker(rag.tokens, tokens, overlap or 0)
    return Chunker(rag.tokens, rag.settings.chunk_tokens, rag.settings.chunk_overlap)


def make_parsers(rag: Rag, workers: int = 1) -> ParserPool:
    """Return a fence with the settings' limits; nothing starts before the first file.

    Args:
        rag: The parts.
        workers: Files parsed at once, >= 1.
    """
    settings = rag.settings
    return ParserPool(
        workers=workers,
        timeout_s=settings.parse_timeout,
        memory_mib=settings.parse_memory_mib,
        unpacked_mib=settings.max_unpacked_mib,
        passwords=[password.get_secret_value() for password in settings.document_passwords],
        ocr=settings.ocr != "off",
        ocr_timeout_s=settings.ocr_timeout,
        ocr_pages=settings.ocr_pages,
    )


def make_ingestion(rag: Rag, store_name: str, pool: ParserPool) -> Ingestion:
    """Return what ingests files into a store, which is made when the first run needs it."""
    chunker = make_chunker(rag)
    return Ingestion(
        lambda: rag.writable(store_name, chunker.fingerprint),
        chunker=chunker,
        embedder=lambda: rag.embedder,
        pool=pool,
        max_bytes=max_file_bytes(rag),
        commit_chunks=rag.settings.commit_chunks,
        sketches=lambda store: StoreSketches(rag.db, store.id),
    )


def max_file_bytes(rag: Rag) -> int:
    """Return the size of the largest file that is taken, bytes."""
    return int(rag.settings.max_file_mib * 1024 * 1024)


def ingest_paths(
    rag: Rag,
    store_name: str,
    paths: Sequence[Path],
    *,
    prune: bool = False,
    progress: Advance = lambda _progress: None,
) -> IngestReport:
    """Ingest files and folders into a store, made if missing; see `Ingestion.run`.

    Raises:
        IndexMismatch: If the store was made by another embedder or chunker.
        YoujuError: As `Ingestion.run` does.
    """
    with make_parsers(rag) as pool:
        ingestion = make_ingestion(rag, store_name, pool)
        report = ingestion.run(paths, prune=prune, progress=progress)
    refresh_indexes(rag, store_name)
    return report


def refresh_indexes(rag: Rag, store_name: str) -> None:
    """Bring a store's indexes up to date, if there is such a store, and save them.

    Raises:
        StorageError: If they cannot be written; nothing is lost, they are caches.
    """
    store = rag.catalog.find(store_name)
    if store is not None:
        OpenStore(rag, store).refresh()
    purge(rag)


def delete_files(rag: Rag, store_name: str, files: Sequence[str]) -> int:
    """Delete files from a store and its indexes; return how many.

    Raises:
        UnknownStore: If there is no such store.
        UnknownFile: If one of them is not there; nothing is deleted then.
    """
    names = list(dict.fromkeys(files))
    store = rag.catalog.get(store_name)
    store.delete(names)
    OpenStore(rag, store).refresh()  # whatever its embedder: nothing is embedded
    purge(rag)
    return len(names)


def files_under(rag: Rag, store_name: str, folder: Path) -> list[str]:
    """Return the names of the documents that came from a folder, whether it still exists or not.

    Raises:
        UnknownStore: If there is no such store.
        UnknownFile: If none came from there.
    """
    path = storable_path(folder.resolve())
    infos = rag.catalog.get(store_name).documents()
    names = [info.name for info in infos if Path(info.source).is_relative_to(path)]
    if not names:
        raise UnknownFile(
            f"No document of store {store_name!r} came from {path}.",
            do=f"`youju files --store {store_name} --json` names where each came from.",
        )
    return names


def delete_store(rag: Rag, store_name: str) -> int:
    """Delete a store with its indexes; return how many files it held.

    Raises:
        UnknownStore: If there is no such store.
    """
    store = rag.catalog.get(store_name)
    deleted = rag.catalog.delete(store_name)
    shutil.rmtree(rag.index_folder(store), ignore_errors=True)
    purge(rag)
    return deleted


def reindex_store(
    rag: Rag, store_name: str, *, progress: Advance = lambda _progress: None
) -> ReindexReport:
    """Chunk and embed every document of a store again and swap the result in, in one step.

    Files that were put in with chunk sizes of their own keep these. Until the swap the store
    answers as before; a killed run leaves it as it was.

    Raises:
        UnknownStore: If there is no such store.
        StorageError: If other processes keep changing the store meanwhile.
    """
    store = rag.catalog.get(store_name)
    rag.catalog.delete_shadows(_SHADOW_LIFE_S)
    for _ in range(_REINDEX_TRIES):
        begin = store.seq()
        shadow, used = _copy(rag, store, progress)
        if store.replace_all(shadow, begin, used):
            shutil.rmtree(rag.index_folder(store), ignore_errors=True)
            OpenStore(rag, store).refresh()
            purge(rag)
            documents = store.documents()
            return ReindexReport(
                len(documents), sum(info.chunks for info in documents), store.embedder
            )
        rag.catalog.delete(shadow.name)
    raise StorageError(
        f"Store {store_name!r} kept changing while it was reindexed; nothing was changed.",
        do="Run it again when no ingest is running.",
    )


def _copy(rag: Rag, store: Store, progress: Advance) -> tuple[Store, dict[str, int]]:
    """Copy the documents of `store` into a new hidden store, chunked and embedded afresh.

    Returns:
        The new store, and the bytes that each document takes there, by its file's id.
    """
    chunker = make_chunker(rag)
    shadow = rag.catalog.create(
        f"{SHADOW_PREFIX}{store.name[:60]} {secrets.token_hex(8)}",
        embedder=rag.embedder.fingerprint,
        dim=rag.embedder.dim,
        chunker=chunker.fingerprint,
    )
    infos = store.documents()
    used: dict[str, int] = {}
    sizes = StoreFiles(rag.db).chunk_sizes(store.id)
    with_own = [info.file_id for info in infos if info.file_id in sizes]
    own = {file_id: make_chunker(rag, *sizes[file_id]) for file_id in with_own}
    for first in range(0, len(infos), _REINDEX_GROUP):
        group = infos[first : first + _REINDEX_GROUP]
        progress(Progress(first, len(infos), group[0].name))
        documents = [store.document(info.name) for info in group]
        passages = [
            own.get(info.file_id, chunker).split(document)
            for info, document in zip(group, documents, strict=True)
        ]
        copies = embed_documents(rag.embedder, group, documents, passages)
        shadow.commit(copies)
        used |= {new.file_id: used_bytes(new) for new in copies}
    return shadow, used
