"""Files and uploads as OpenAI shows them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from api.schemas import NUMBER, Body, ObjectId, PlainText, Shown
from rag.store.service_tables import FileRow
from rag.store.uploads import UploadState

Purpose = Literal["assistants", "user_data"]
Filename = Annotated[PlainText, StringConstraints(min_length=1, max_length=255)]


class FileShown(Shown):
    """An uploaded file. `sha256` is an extension: the digest of its bytes."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: Literal["uploaded", "processed"] = "processed"
    expires_at: int | None = None
    sha256: str


class FileExpiry(Body):
    """When a file goes by itself: so many seconds after it was made."""

    anchor: Literal["created_at"]
    seconds: Annotated[int, Field(ge=3600, le=2_592_000), NUMBER]


class UploadCreate(Body):
    """Announces a file that comes in parts."""

    bytes: Annotated[int, Field(ge=1, description="Of the whole file."), NUMBER]
    filename: Filename
    mime_type: Annotated[PlainText, StringConstraints(max_length=200)]
    purpose: Purpose
    expires_after: FileExpiry | None = None


class UploadComplete(Body):
    """Joins parts to a file."""

    part_ids: Annotated[list[ObjectId], Field(min_length=1, max_length=10_000)]
    md5: Annotated[str, StringConstraints(pattern="^[0-9a-fA-F]{32}$")] | None = None


class UploadShown(Shown):
    """An upload; `file` is there once it is completed."""

    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileShown | None = None


class PartShown(Shown):
    """A part that has arrived and is on disk."""

    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


def show_file(row: FileRow) -> FileShown:
    """Return a file as clients see it."""
    return FileShown(
        id=row.id,
        bytes=row.bytes,
        created_at=row.created_at,
        filename=row.filename,
        purpose=row.purpose,
        expires_at=row.expires_at,
        sha256=row.sha256,
    )


def show_upload(state: UploadState) -> UploadShown:
    """Return an upload as clients see it."""
    row = state.row
    return UploadShown.model_validate(
        {
            "id": row.id,
            "bytes": row.bytes,
            "created_at": row.created_at,
            "expires_at": row.expires_at,
            "filename": row.filename,
            "purpose": row.purpose,
            "status": state.status,
            "file": show_file(state.file) if state.file else None,
        }
    )
