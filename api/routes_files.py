"""/v1/files: upload, list, look at, download, delete."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse

from api.access import Reader, Writer
from api.errors import ApiError, not_found
from api.forms import read_form
from api.long import json_answer, written
from api.names import checked_name
from api.observing import note_content
from api.schemas import After, Deleted, Listing, Order
from api.schemas_files import FileShown, Purpose, show_file
from api.service import Service, service_of
from rag.errors import IndexMismatch, UnknownStore
from rag.store.files import NewFile
from rag.store.pages import Slice
from rag.store.service_tables import FileRow

router = APIRouter(prefix="/v1/files", tags=["Files"])
ServiceOf = Annotated[Service, Depends(service_of)]

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["file", "purpose"],
                    "dependentRequired": {
                        "expires_after[anchor]": ["expires_after[seconds]"],
                        "expires_after[seconds]": ["expires_after[anchor]"],
                    },
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "purpose": {"type": "string", "enum": ["assistants", "user_data"]},
                        "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                        "expires_after[seconds]": {
                            "type": "integer",
                            "minimum": 3600,
                            "maximum": 2_592_000,
                        },
                    },
                    "examples": [{"file": "# Pump\n\n...", "purpose": "assistants"}],
                },
                "encoding": {
                    "file": {
                        "contentType": "text/markdown",
                        "headers": {
                            "Content-Disposition": {
                                "description": "Says by the file's name of which kind it is.",
                                "schema": {"type": "string"},
                                "example": 'form-data; name="file"; filename="pump.md"',
                            }
                        },
                    }
                },
            }
        },
    }
}
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_PURPOSES = ("assistants", "user_data")
_FIELDS = frozenset({"purpose", "expires_after[anchor]", "expires_after[seconds]"})


@router.post("", openapi_extra=_FORM)
async def create_file(request: Request, access: Writer, service: ServiceOf) -> FileShown:
    """Upload a file. It is on disk when this answers."""
    with await service.write(service.files.blobs.receive) as incoming:
        form = await read_form(
            request,
            incoming,
            file_field="file",
            max_bytes=service.max_file_bytes,
            run=service.run,
        )
        name, kind = checked_name(form.filename)
        note_content(request.scope, files=[name])
        purpose = _purpose(form.fields)
        new = NewFile(access.project_id, name, purpose, kind, _expiry(form.fields))
        return show_file(await service.write(service.files.add, new, incoming))


@router.get("", response_model=Listing[FileShown])
async def list_files(
    access: Reader,
    service: ServiceOf,
    after: After = "",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Order = "desc",
    purpose: Purpose | None = None,
) -> Response:
    """List the files."""
    part = Slice(limit=limit, order=order, after=after)
    return json_answer(await service.run(_list, service, access.project_id, part, purpose))


@router.get("/{file_id}")
async def get_file(file_id: str, access: Reader, service: ServiceOf) -> FileShown:
    """Return what is known of a file."""
    return show_file(await owned_file(service, access.project_id, file_id))


@router.get(
    "/{file_id}/content",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "Its bytes."}},
)
async def get_file_content(
    file_id: str, request: Request, access: Reader, service: ServiceOf
) -> FileResponse:
    """Return the bytes of a file as they were uploaded; of one range, if the header asks."""
    row = await owned_file(service, access.project_id, file_id)
    if not row.kept:
        raise ApiError(
            404,
            "The bytes of this file are not kept: it was read from a folder of the server.",
            code="content_not_kept",
            param="file_id",
        )
    _check_range(request.headers.get("range"), row.bytes)
    return FileResponse(
        service.files.blobs.path(row.sha256),
        stat_result=await service.run(service.files.blobs.stat, row.sha256),
        media_type="application/octet-stream",
        headers={"content-disposition": f"attachment; filename*=UTF-8''{quote(row.filename)}"},
    )


@router.delete("/{file_id}")
async def delete_file(file_id: str, access: Writer, service: ServiceOf) -> Deleted:
    """Delete a file, and take it out of every vector store."""
    row = await owned_file(service, access.project_id, file_id)
    await service.write(forget_file, service, row.id)
    return Deleted(id=row.id, object="file")


async def owned_file(service: Service, project_id: str, file_id: str) -> FileRow:
    """Return a file of a project.

    Raises:
        ApiError: 404 if there is none of that id.
    """
    row = await service.run(service.files.get, project_id, file_id)
    if row is None:
        raise not_found("file", file_id)
    return row


def forget_file(service: Service, file_id: str) -> None:
    """Take a file out of all stores, then delete it."""
    while not service.files.delete(file_id):  # it may be put into another meanwhile
        for store_id in service.files.stores_of(file_id):
            row = service.stores.find(store_id)
            if row is not None:
                # A store that goes or is embedded anew in this moment is looked at once more.
                with suppress(UnknownStore, IndexMismatch):
                    service.stores.open(row).remove_file(file_id)


def _list(service: Service, project_id: str, part: Slice, purpose: str | None) -> bytes:
    """Read and write a list, which may be long."""
    page = service.files.page(project_id, part, purpose)
    ids = [row.id for row in page.items]
    rest = Listing[FileShown](
        data=[],
        first_id=ids[0] if ids else None,
        last_id=ids[-1] if ids else None,
        has_more=page.has_more,
    )
    return written(rest, map(show_file, page.items))


def _check_range(given: str | None, size: int) -> None:
    """Refuse a header Range that is not one range inside the file.

    Raises:
        ApiError: 416 telling how long the file is.
    """
    if given is None:
        return
    found = _RANGE.fullmatch(given)
    first, last = found.groups() if found else ("", "")
    begin = int(first) if first else size - int(last or 0)
    if begin >= size or (first and last and int(last) < begin):
        raise ApiError(
            416,
            f"Range: expected one range of bytes inside the {size:,} of the file.",
            code="range_not_satisfiable",
            headers={"content-range": f"bytes */{size}"},
        )


def _purpose(fields: dict[str, str]) -> str:
    unknown = sorted(fields.keys() - _FIELDS)
    if unknown:
        raise ApiError(
            400,
            f"Unknown field {unknown[0][:80]!r}. See /docs.",
            code="unknown_parameter",
            param=unknown[0][:80],
        )
    purpose = fields.get("purpose")
    if purpose not in _PURPOSES:
        got = "nothing" if purpose is None else repr(purpose[:80])
        raise ApiError(
            400,
            f"purpose: got {got}, expected one of {', '.join(_PURPOSES)}.",
            code="invalid_parameter" if purpose else "missing_parameter",
            param="purpose",
        )
    return purpose


def _expiry(fields: dict[str, str]) -> int | None:
    anchor = fields.get("expires_after[anchor]")
    seconds = fields.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    good = seconds is not None and seconds.isascii() and seconds.isdecimal() and len(seconds) < 9
    if anchor != "created_at" or not good or not 3600 <= int(seconds or 0) <= 2_592_000:
        raise ApiError(
            400,
            "expires_after: expected anchor 'created_at' and seconds from 3,600 to 2,592,000.",
            code="invalid_parameter",
            param="expires_after",
        )
    return int(seconds or 0)
