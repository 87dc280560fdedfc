"""Vector stores, the files in them, and batches of files, as OpenAI shows them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from api.schemas import NUMBER, Attributes, Body, Metadata, ObjectId, PlainText, Shown
from ingest.job_list import FileProgress
from rag.store.service_tables import FileBatchRow, StoreFileRow
from rag.store.store_files import Counts, Entry
from rag.store.tables import StoreRow
from rag.store.vector_stores import expires_at, has_expired

MOST_FILES = 2000
"""Files in one batch, as OpenAI has it."""

StoreName = Annotated[PlainText, StringConstraints(max_length=256)]


class StaticSize(Body):
    """Sizes of chunks in tokens of the embedding model, which reads no more than it can."""

    max_chunk_size_tokens: Annotated[int, Field(ge=100, le=4096), NUMBER]
    chunk_overlap_tokens: Annotated[int, Field(ge=0), NUMBER]

    @model_validator(mode="after")
    def _half(self) -> StaticSize:
        if self.chunk_overlap_tokens * 2 > self.max_chunk_size_tokens:
            raise ValueError("chunk_overlap_tokens must be at most half of max_chunk_size_tokens")
        return self


class AutoChunking(Body):
    """Chunks as the server is set up."""

    type: Literal["auto"]


class StaticChunking(Body):
    """Chunks of a size of your own."""

    type: Literal["static"]
    static: StaticSize


Chunking = Annotated[AutoChunking | StaticChunking, Field(discriminator="type")]


class Expiry(Body):
    """A store goes so many days after it was last used."""

    anchor: Literal["last_active_at"]
    days: Annotated[int, Field(ge=1, le=365), NUMBER]


class StoreCreate(Body):
    """A new store."""

    name: StoreName | None = None
    description: Annotated[PlainText, StringConstraints(max_length=2000)] | None = None
    file_ids: Annotated[list[ObjectId], Field(max_length=MOST_FILES)] | None = None
    chunking_strategy: Chunking | None = None
    expires_after: Expiry | None = None
    metadata: Metadata | None = None


class StoreUpdate(Body):
    """What changes; null takes an expiry or the metadata away."""

    name: StoreName | None = None
    expires_after: Expiry | None = None
    metadata: Metadata | None = None


class FileCounts(Shown):
    """Files by status."""

    in_progress: int
    completed: int
    failed: int
    cancelled: int
    total: int


class ExpiryShown(Shown):
    """When a store goes."""

    anchor: Literal["last_active_at"] = "last_active_at"
    days: int


class StoreShown(Shown):
    """A vector store."""

    id: str
    object: Literal["vector_store"] = "vector_store"
    created_at: int
    name: str
    description: str | None = None
    usage_bytes: int
    file_counts: FileCounts
    status: Literal["expired", "in_progress", "completed"]
    expires_after: ExpiryShown | None = None
    expires_at: int | None = None
    last_active_at: int | None = None
    metadata: dict[str, str]


class StoreFileCreate(Body):
    """Puts a file into a store."""

    file_id: ObjectId
    attributes: Attributes | None = None
    chunking_strategy: Chunking | None = None


class StoreFileUpdate(Body):
    """Replaces a file's attributes."""

    attributes: Attributes | None


class BatchCreate(Body):
    """Puts files into a store: by ids, all alike, or one by one."""

    file_ids: Annotated[list[ObjectId], Field(min_length=1, max_length=MOST_FILES)] | None = None
    files: Annotated[list[StoreFileCreate], Field(min_length=1, max_length=MOST_FILES)] | None = (
        None
    )
    attributes: Attributes | None = None
    chunking_strategy: Chunking | None = None

    @model_validator(mode="after")
    def _one(self) -> BatchCreate:
        if (self.file_ids is None) == (self.files is None):
            raise ValueError("give either file_ids or files")
        return self


class LastError(Shown):
    """Why a file could not be ingested."""

    code: Literal["server_error", "unsupported_file", "invalid_file"]
    message: str


class StaticShown(Shown):
    """Sizes of chunks, tokens."""

    max_chunk_size_tokens: int
    chunk_overlap_tokens: int


class ChunkingShown(Shown):
    """How a file is cut up."""

    type: Literal["static"] = "static"
    static: StaticShown


class ProgressShown(Shown):
    """How far a file is that is being ingested. An extension: OpenAI has none."""

    phase: Literal["queued", "waiting", "parsing", "chunking", "embedding", "committing"]
    bytes: int | None = None
    pages: int | None = None
    chunks_done: int = 0
    chunks_total: int | None = None
    seconds_left: float | None = None
    reason: str | None = None
    retry_at: int | None = None


class StoreFileShown(Shown):
    """A file of a store."""

    id: str
    object: Literal["vector_store.file"] = "vector_store.file"
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "failed", "cancelled"]
    usage_bytes: int
    last_error: LastError | None = None
    attributes: dict[str, bool | int | float | str]
    chunking_strategy: ChunkingShown
    progress: ProgressShown | None = None
    """An extension: how far it is, while it is in progress."""


class BatchShown(Shown):
    """A batch of files."""

    id: str
    object: Literal["vector_store.files_batch"] = "vector_store.files_batch"
    created_at: int
    vector_store_id: str
    status: Literal["in_progress", "completed", "cancelled", "failed"]
    file_counts: FileCounts


class ParsedText(Shown):
    """The text of a file as it was parsed; every span of characters counts into it."""

    type: Literal["text"] = "text"
    text: str


class ParsedContent(Shown):
    """The parsed text, in the page shape that SDKs expect."""

    object: Literal["vector_store.file_content.page"] = "vector_store.file_content.page"
    data: list[ParsedText]
    has_more: bool = False
    next_page: str | None = None


def show_store(row: StoreRow, counts: Counts) -> StoreShown:
    """Return a store as clients see it."""
    status = "in_progress" if counts.in_progress else "completed"
    days = row.expires_days
    return StoreShown.model_validate(
        {
            "id": row.id,
            "created_at": row.created_at,
            "name": row.title,
            "description": row.description or None,
            "usage_bytes": counts.usage_bytes,
            "file_counts": _show_counts(counts),
            "status": "expired" if has_expired(row) else status,
            "expires_after": None if days is None else ExpiryShown(days=days),
            "expires_at": expires_at(row),
            "last_active_at": row.last_active_at,
            "metadata": row.details,
        }
    )


def show_store_file(
    row: StoreFileRow, auto: tuple[int, int], progress: FileProgress | None = None
) -> StoreFileShown:
    """Return a file of a store as clients see it.

    Args:
        row: Its place in the store.
        auto: Tokens of a chunk and of the overlap where the client gave none.
        progress: How far it is, while it is in progress.
    """
    size, overlap = auto if row.chunk_tokens is None else (row.chunk_tokens, row.chunk_overlap or 0)
    error = None
    if row.error_code is not None:
        error = {"code": row.error_code, "message": row.error_message or ""}
    return StoreFileShown.model_validate(
        {
            "id": row.file_id,
            "created_at": row.created_at,
            "vector_store_id": row.store_id,
            "status": row.status,
            "usage_bytes": row.usage_bytes,
            "last_error": error,
            "attributes": row.attributes,
            "chunking_strategy": {
                "static": {"max_chunk_size_tokens": size, "chunk_overlap_tokens": overlap}
            },
            "progress": None if progress is None else _show_progress(progress),
        }
    )


def _show_progress(progress: FileProgress) -> dict[str, object]:
    told = "The server cannot ingest it now and will try again."  # why is for its log
    return {**asdict(progress), "reason": told if progress.phase == "waiting" else None}


def show_batch(row: FileBatchRow, counts: Counts) -> BatchShown:
    """Return a batch as clients see it: completed when no file waits any more."""
    status = "in_progress" if counts.in_progress else "completed"
    if row.cancelled:
        status = "cancelled"
    elif counts.total and counts.failed == counts.total:
        status = "failed"
    return BatchShown.model_validate(
        {
            "id": row.id,
            "created_at": row.created_at,
            "vector_store_id": row.store_id,
            "status": status,
            "file_counts": _show_counts(counts),
        }
    )


def entry(
    file_id: str, attributes: dict[str, bool | int | float | str] | None, chunking: Chunking | None
) -> Entry:
    """Return how a file is to be put into a store."""
    if not isinstance(chunking, StaticChunking):
        return Entry(file_id, attributes)
    size = chunking.static
    return Entry(file_id, attributes, size.max_chunk_size_tokens, size.chunk_overlap_tokens)


def _show_counts(counts: Counts) -> FileCounts:
    return FileCounts(
        in_progress=counts.in_progress,
        completed=counts.completed,
        failed=counts.failed,
        cancelled=counts.cancelled,
        total=counts.total,
    )
