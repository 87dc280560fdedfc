"""/v1/vector_stores: create, list, look at, change, delete."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends

from api.access import Reader, Writer
from api.batching import expired
from api.errors import ApiError, not_found
from api.schemas import After, Before, Deleted, Limit, Listing, Order
from api.schemas_stores import (
    Chunking,
    StoreCreate,
    StoreShown,
    StoreUpdate,
    entry,
    show_store,
)
from api.service import Service, service_of
from ingest.job import make_chunker
from rag.store.pages import Slice
from rag.store.store_files import Entry
from rag.store.tables import StoreRow
from rag.store.vector_stores import Maker, NewStore, has_expired

router = APIRouter(prefix="/v1/vector_stores", tags=["Vector stores"])
ServiceOf = Annotated[Service, Depends(service_of)]


@router.post("")
async def create_store(body: StoreCreate, access: Writer, service: ServiceOf) -> StoreShown:
    """Create a store, and have files ingested into it."""
    file_ids = body.file_ids or []
    await check_files(service, access.project_id, file_ids, "file_ids")
    new = NewStore(
        title=body.name or "",
        description=body.description or "",
        details=body.metadata or {},
        expires_days=body.expires_after.days if body.expires_after else None,
    )
    entries = _entries(file_ids, body.chunking_strategy)
    row = await service.write(_create, service, access.project_id, new, entries)
    if entries:
        service.jobs.ring()
    return await _show(service, row)


@router.get("")
async def list_stores(
    access: Reader,
    service: ServiceOf,
    limit: Limit = 20,
    order: Order = "desc",
    after: After = "",
    before: Before = "",
) -> Listing[StoreShown]:
    """List the stores."""
    part = Slice(limit=limit, order=order, after=after, before=before)
    page = await service.run(service.stores.page, access.project_id, part)
    ids = [row.id for row in page.items]
    counts = await service.run(service.store_files.counts, ids)
    return Listing(
        data=[show_store(row, counts[row.id]) for row in page.items],
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
        has_more=page.has_more,
    )


@router.get("/{store_id}")
async def get_store(store_id: str, access: Reader, service: ServiceOf) -> StoreShown:
    """Return a store."""
    return await _show(service, await owned_store(service, access.project_id, store_id))


@router.post("/{store_id}")
async def update_store(
    store_id: str, body: StoreUpdate, access: Writer, service: ServiceOf
) -> StoreShown:
    """Change a store's name, metadata or expiry."""
    row = await owned_store(service, access.project_id, store_id)
    values: dict[str, object] = {}
    if body.name is not None:
        values["title"] = body.name
    if "metadata" in body.model_fields_set:
        values["details"] = body.metadata or {}
    if "expires_after" in body.model_fields_set:
        values["expires_days"] = body.expires_after.days if body.expires_after else None
    if values:
        await service.write(service.stores.change, row.id, values)
    return await _show(service, await owned_store(service, access.project_id, store_id))


@router.delete("/{store_id}")
async def delete_store(store_id: str, access: Writer, service: ServiceOf) -> Deleted:
    """Delete a store. Its files stay, until they are deleted themselves."""
    row = await owned_store(service, access.project_id, store_id)
    await service.write(forget_store, service, row.id)
    return Deleted(id=row.id, object="vector_store.deleted")


async def owned_store(service: Service, project_id: str, store_id: str) -> StoreRow:
    """Return a store of a project, expired or not.

    Raises:
        ApiError: 404 if there is none of that id.
    """
    row = await service.run(service.stores.get, project_id, store_id)
    if row is None:
        raise not_found("vector store", store_id)
    return row


async def usable_store(service: Service, project_id: str, store_id: str) -> StoreRow:
    """Return a store of a project that can be searched and added to.

    Raises:
        ApiError: 404 if there is none of that id, 409 if it has expired.
    """
    row = await owned_store(service, project_id, store_id)
    if has_expired(row):
        raise expired()
    return row


async def check_files(service: Service, project_id: str, file_ids: list[str], param: str) -> None:
    """Refuse ids that are no files of the project, or whose bytes are not kept.

    Raises:
        ApiError: 404 naming the first.
    """
    missing = await service.run(_first_missing, service, project_id, file_ids)
    if missing is not None:
        raise ApiError(
            404,
            f"{param}: no file with id {missing[:80]!r} has been uploaded.",
            code="file_not_found",
            param=param,
        )


def _first_missing(service: Service, project_id: str, file_ids: list[str]) -> str | None:
    for file_id in file_ids:
        row = service.files.get(project_id, file_id)
        if row is None or not row.kept:
            return file_id
    return None


async def add_files(service: Service, store_id: str, entries: list[Entry]) -> None:
    """Put files into a store, and say so to who ingests them."""
    await service.write(service.store_files.add, store_id, entries)
    service.jobs.ring()


def forget_store(service: Service, store_id: str) -> None:
    """Delete a store with its indexes."""
    row = service.stores.find(store_id)
    service.stores.delete(store_id)
    service.opened.drop(store_id)  # not before: a search would open it again
    if row is not None:
        folder = service.rag.index_folder(service.stores.open(row))
        shutil.rmtree(folder, ignore_errors=True)


def _create(service: Service, project_id: str, new: NewStore, entries: Sequence[Entry]) -> StoreRow:
    embedder = service.rag.embedder
    maker = Maker(embedder.fingerprint, embedder.dim, make_chunker(service.rag).fingerprint)
    return service.stores.create(project_id, new, maker, entries)


def _entries(file_ids: list[str], chunking: Chunking | None) -> list[Entry]:
    return [entry(file_id, None, chunking) for file_id in dict.fromkeys(file_ids)]


async def _show(service: Service, row: StoreRow) -> StoreShown:
    counts = await service.run(service.store_files.counts, [row.id])
    return show_store(row, counts[row.id])
