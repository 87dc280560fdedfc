"""/v1/vector_stores/{id}/files and /file_batches: what is in a store, and how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from api.access import Reader, Writer
from api.errors import ApiError, not_found
from api.routes_stores import add_files, check_files, owned_store, usable_store
from api.schemas import After, Before, Deleted, Limit, Listing, Order
from api.schemas_stores import (
    BatchCreate,
    BatchShown,
    ParsedContent,
    ParsedText,
    StoreFileCreate,
    StoreFileShown,
    StoreFileUpdate,
    entry,
    show_batch,
    show_store_file,
)
from api.service import Service, service_of
from ingest.job_list import progress_of
from ingest.jobs import file_base
from rag.store.pages import Page, Slice
from rag.store.service_tables import FileBatchRow, StoreFileRow
from rag.store.store_files import Counts

router = APIRouter(prefix="/v1/vector_stores/{store_id}", tags=["Files of a vector store"])
ServiceOf = Annotated[Service, Depends(service_of)]
Filter = Annotated[
    Literal["in_progress", "completed", "failed", "cancelled"] | None,
    Query(description="Only those of this status."),
]


@router.post("/files")
async def add_file(
    store_id: str, body: StoreFileCreate, access: Writer, service: ServiceOf
) -> StoreFileShown:
    """Put a file into the store. It is ingested from now on, also if the server is restarted."""
    row = await usable_store(service, access.project_id, store_id)
    await check_files(service, access.project_id, [body.file_id], "file_id")
    wanted = entry(body.file_id, body.attributes, body.chunking_strategy)
    await add_files(service, row.id, [wanted])
    return await _show(service, await _listed(service, row.id, body.file_id))


@router.get("/files")
async def list_store_files(
    store_id: str,
    access: Reader,
    service: ServiceOf,
    limit: Limit = 20,
    order: Order = "desc",
    after: After = "",
    before: Before = "",
    filter: Filter = None,  # noqa: A002  the parameter's name in the API
) -> Listing[StoreFileShown]:
    """List the files of the store."""
    row = await owned_store(service, access.project_id, store_id)
    part = Slice(limit=limit, order=order, after=after, before=before)
    page = await service.run(service.store_files.page, row.id, part, status=filter)
    return await _listing(service, page)


@router.get("/files/{file_id}")
async def get_store_file(
    store_id: str, file_id: str, access: Reader, service: ServiceOf
) -> StoreFileShown:
    """Return how far a file is."""
    row = await owned_store(service, access.project_id, store_id)
    return await _show(service, await _listed(service, row.id, file_id))


@router.post("/files/{file_id}")
async def update_store_file(
    store_id: str, file_id: str, body: StoreFileUpdate, access: Writer, service: ServiceOf
) -> StoreFileShown:
    """Replace a file's attributes; searches see them at once."""
    row = await usable_store(service, access.project_id, store_id)
    await _listed(service, row.id, file_id)
    await service.write(service.store_files.set_attributes, row.id, file_id, body.attributes or {})
    return await _show(service, await _listed(service, row.id, file_id))


@router.delete("/files/{file_id}")
async def remove_file(store_id: str, file_id: str, access: Writer, service: ServiceOf) -> Deleted:
    """Take a file out of the store. The file itself stays."""
    row = await owned_store(service, access.project_id, store_id)
    await _listed(service, row.id, file_id)
    await service.write(service.stores.open(row).remove_file, file_id)
    return Deleted(id=file_id, object="vector_store.file.deleted")


@router.get("/files/{file_id}/content")
async def get_parsed_text(
    store_id: str, file_id: str, access: Reader, service: ServiceOf
) -> ParsedContent:
    """Return the text of a file as it was parsed, into which citations count."""
    row = await owned_store(service, access.project_id, store_id)
    listed = await _listed(service, row.id, file_id)
    text = await service.run(service.stores.open(row).text_of_file, file_id)
    if text is None:
        raise ApiError(
            409,
            f"The file is {listed.status}, not completed; there is no text.",
            code="file_not_completed",
            param="file_id",
        )
    return ParsedContent(data=[ParsedText(text=text)])


@router.post("/file_batches")
async def create_batch(
    store_id: str, body: BatchCreate, access: Writer, service: ServiceOf
) -> BatchShown:
    """Put many files into the store with one request."""
    row = await usable_store(service, access.project_id, store_id)
    if body.files is not None:
        wanted = {
            file.file_id: entry(file.file_id, file.attributes, file.chunking_strategy)
            for file in body.files
        }
    else:
        wanted = {
            file_id: entry(file_id, body.attributes, body.chunking_strategy)
            for file_id in body.file_ids or []
        }
    param = "files" if body.files is not None else "file_ids"
    await check_files(service, access.project_id, list(wanted), param)
    batch = await service.write(service.store_files.new_batch, row.id, list(wanted.values()))
    service.jobs.ring()
    return show_batch(*await _batch(service, row.id, batch.id))


@router.get("/file_batches/{batch_id}")
async def get_batch(store_id: str, batch_id: str, access: Reader, service: ServiceOf) -> BatchShown:
    """Return how far a batch is."""
    row = await owned_store(service, access.project_id, store_id)
    return show_batch(*await _batch(service, row.id, batch_id))


@router.post("/file_batches/{batch_id}/cancel")
async def cancel_batch(
    store_id: str, batch_id: str, access: Writer, service: ServiceOf
) -> BatchShown:
    """Give up those files of a batch that are not completed."""
    row = await owned_store(service, access.project_id, store_id)
    await _batch(service, row.id, batch_id)
    await service.write(service.store_files.cancel_batch, batch_id)
    return show_batch(*await _batch(service, row.id, batch_id))


@router.get("/file_batches/{batch_id}/files")
async def list_batch_files(
    store_id: str,
    batch_id: str,
    access: Reader,
    service: ServiceOf,
    limit: Limit = 20,
    order: Order = "desc",
    after: After = "",
    before: Before = "",
    filter: Filter = None,  # noqa: A002  the parameter's name in the API
) -> Listing[StoreFileShown]:
    """List the files of a batch."""
    row = await owned_store(service, access.project_id, store_id)
    await _batch(service, row.id, batch_id)
    part = Slice(limit=limit, order=order, after=after, before=before)
    page = await service.run(
        service.store_files.page, row.id, part, status=filter, batch_id=batch_id
    )
    return await _listing(service, page)


async def _listed(service: Service, store_id: str, file_id: str) -> StoreFileRow:
    row = await service.run(service.store_files.get, store_id, file_id)
    if row is None:
        raise not_found("file", file_id)
    return row


async def _batch(service: Service, store_id: str, batch_id: str) -> tuple[FileBatchRow, Counts]:
    found = await service.run(service.store_files.batch, store_id, batch_id)
    if found is None:
        raise not_found("file batch", batch_id)
    return found


async def _show(service: Service, row: StoreFileRow) -> StoreFileShown:
    return (await _show_all(service, [row]))[0]


async def _show_all(service: Service, rows: Sequence[StoreFileRow]) -> list[StoreFileShown]:
    settings = service.settings
    progress = {}
    if any(row.status == "in_progress" for row in rows):
        progress = await service.run(progress_of, settings.jobs_folder, rows)
    auto = (settings.chunk_tokens, settings.chunk_overlap)
    return [
        show_store_file(row, auto, progress.get(file_base(row.store_id, row.file_id)))
        for row in rows
    ]


async def _listing(service: Service, page: Page[StoreFileRow]) -> Listing[StoreFileShown]:
    data = await _show_all(service, page.items)
    return Listing(
        data=data,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
        has_more=page.has_more,
    )
