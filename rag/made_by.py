"""Refuses stores that were made by other settings than those now set."""

from __future__ import annotations

from rag.errors import ChunkerMismatch, IndexMismatch
from rag.store.corpus import Store


def check_embedder(store: Store, fingerprint: str) -> None:
    """Raise IndexMismatch if a store's vectors are of another embedder than this."""
    if store.embedder != fingerprint:
        raise IndexMismatch(
            f"Store {store.name!r} was embedded by [{store.embedder}], now set is [{fingerprint}].",
            do=f"Run `youju reindex --store {store.name}`, or set the embedder back.",
        )


def check_chunker(store: Store, fingerprint: str) -> None:
    """Raise ChunkerMismatch if a store's documents are cut up by another chunker than this."""
    if store.chunker != fingerprint:
        raise ChunkerMismatch(
            f"Store {store.name!r} was chunked by [{store.chunker}], now set is [{fingerprint}].",
            do=f"Run `youju reindex --store {store.name}`, or set the chunk settings back.",
        )
