"""/v1/uploads: files that arrive in parts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Request

from api.access import Writer
from api.admission import PART_BYTES
from api.errors import ApiError, not_found
from api.forms import read_form
from api.names import checked_name
from api.observing import note_content
from api.schemas_files import (
    PartShown,
    UploadComplete,
    UploadCreate,
    UploadShown,
    show_upload,
)
from api.service import Service, service_of
from rag.errors import TooLarge, UsageError
from rag.store.files import NewFile
from rag.store.ids import new_id
from rag.store.uploads import UploadState

router = APIRouter(prefix="/v1/uploads", tags=["Uploads"])
ServiceOf = Annotated[Service, Depends(service_of)]

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["data"],
                    "properties": {"data": {"type": "string", "format": "binary"}},
                    "examples": [{"data": "# Pump\n\n..."}],
                }
            }
        },
    }
}


@router.post("")
async def create_upload(
    body: UploadCreate, request: Request, access: Writer, service: ServiceOf
) -> UploadShown:
    """Announce a file; its parts are to come within an hour."""
    name, kind = checked_name(body.filename)
    note_content(request.scope, files=[name])
    if body.bytes > service.max_file_bytes:
        raise TooLarge(
            f"bytes: got {body.bytes:,}; a file may have {service.max_file_bytes:,}.",
            do="Split it, or ask who runs the server to allow more.",
        )
    life = body.expires_after.seconds if body.expires_after else None
    new = NewFile(access.project_id, name, body.purpose, kind, life)
    return show_upload(await service.write(service.uploads.create, new, body.bytes))


@router.post("/{upload_id}/parts", openapi_extra=_FORM)
async def add_part(
    upload_id: str, request: Request, access: Writer, service: ServiceOf
) -> PartShown:
    """Add a part of at most 64 MiB. Parts may arrive in any order, and at the same time."""
    upload = await _pending(service, access.project_id, upload_id)
    part_id = new_id("part_")
    with await service.write(service.files.blobs.receive, part_id) as incoming:
        await read_form(request, incoming, file_field="data", max_bytes=PART_BYTES, run=service.run)
        async with _in_time(service, access.project_id, upload_id):
            row = await service.write(service.uploads.add_part, upload, part_id, incoming)
    return PartShown(id=row.id, created_at=row.created_at, upload_id=upload_id)


@router.post("/{upload_id}/complete")
async def complete_upload(
    upload_id: str, body: UploadComplete, access: Writer, service: ServiceOf
) -> UploadShown:
    """Join the parts, in the order given, to a file."""
    upload = await _pending(service, access.project_id, upload_id)
    async with _in_time(service, access.project_id, upload_id):
        await service.write(service.uploads.complete, upload, body.part_ids, body.md5)
    return show_upload(await _owned(service, access.project_id, upload_id))


@router.post("/{upload_id}/cancel")
async def cancel_upload(upload_id: str, access: Writer, service: ServiceOf) -> UploadShown:
    """Give an upload up."""
    upload = await _pending(service, access.project_id, upload_id)
    async with _in_time(service, access.project_id, upload_id):
        await service.write(service.uploads.cancel, upload)
    return show_upload(await _owned(service, access.project_id, upload_id))


async def _owned(service: Service, project_id: str, upload_id: str) -> UploadState:
    found = await service.run(service.uploads.get, project_id, upload_id)
    if found is None:
        raise not_found("upload", upload_id)
    return found


async def _pending(service: Service, project_id: str, upload_id: str) -> UploadState:
    found = await _owned(service, project_id, upload_id)
    if found.status != "pending":
        raise ApiError(
            409,
            f"The upload is {found.status} and takes nothing more. Start a new one.",
            code="upload_not_pending",
            param="upload_id",
        )
    return found


@asynccontextmanager
async def _in_time(service: Service, project_id: str, upload_id: str) -> AsyncIterator[None]:
    """Refuse as `_pending` does what another request was quicker to end."""
    try:
        yield
    except UsageError:
        await _pending(service, project_id, upload_id)
        raise
