"""The tables of the service: projects, keys, uploaded files, their places in stores, answers.

All times are Unix seconds.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from rag.store.tables import Base


class ProjectRow(Base):
    """Who owns stores, files and answers; sees nothing of another's."""

    __tablename__ = "projects"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    created_at: Mapped[int] = mapped_column(BigInteger)


class KeyRow(Base):
    """An API key; of the key itself only a digest is kept."""

    __tablename__ = "api_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(String(100))
    digest: Mapped[str] = mapped_column(String(64), unique=True)
    hint: Mapped[str] = mapped_column(String(8))
    """Its last characters, to tell keys apart."""
    scope: Mapped[str] = mapped_column(String(10))
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int | None] = mapped_column(BigInteger)
    revoked_at: Mapped[int | None] = mapped_column(BigInteger)


class FileRow(Base):
    """A file of a project: uploaded, or read from a folder by the command line."""

    __tablename__ = "files"
    __table_args__ = (
        Index("files_by_project", "project_id", "created_at", "id"),
        Index("files_by_sha256", "sha256"),
    )

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    filename: Mapped[str] = mapped_column(Text)
    bytes: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    kept: Mapped[bool] = mapped_column(Boolean)
    """Whether its bytes are in the blob folder; those read from a folder stay where they are."""
    purpose: Mapped[str] = mapped_column(String(20))
    media_type: Mapped[str] = mapped_column(String(200))
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int | None] = mapped_column(BigInteger)


class StoreFileRow(Base):
    """A file's place in a store, and how far its ingestion is."""

    __tablename__ = "store_files"
    __table_args__ = (
        Index("store_files_by_status", "status", "created_at"),
        Index("store_files_by_file", "file_id"),
        Index("store_files_by_batch", "batch_id"),
    )

    store_id: Mapped[str] = mapped_column(
        ForeignKey("stores.id", ondelete="CASCADE"), primary_key=True
    )
    file_id: Mapped[str] = mapped_column(
        ForeignKey("files.id", ondelete="CASCADE"), primary_key=True
    )
    status: Mapped[str] = mapped_column(String(12))
    """in_progress, completed, failed or cancelled."""
    error_code: Mapped[str | None] = mapped_column(String(20))
    error_message: Mapped[str | None] = mapped_column(Text)
    attributes: Mapped[dict[str, Any]] = mapped_column(JSON)
    chunk_tokens: Mapped[int | None]
    """Asked for with the file; None: as the settings say."""
    chunk_overlap: Mapped[int | None]
    usage_bytes: Mapped[int] = mapped_column(BigInteger)
    batch_id: Mapped[str | None] = mapped_column(String(40))
    """The batch that put it in last, if one did; all of them are in batch_files."""
    created_at: Mapped[int] = mapped_column(BigInteger)
    worker: Mapped[str | None] = mapped_column(String(40))
    """Who is ingesting it."""
    worker_until: Mapped[int] = mapped_column(BigInteger)
    """When another may take it over."""


class FileBatchRow(Base):
    """Files that were put into a store with one request."""

    __tablename__ = "file_batches"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    store_id: Mapped[str] = mapped_column(ForeignKey("stores.id", ondelete="CASCADE"))
    created_at: Mapped[int] = mapped_column(BigInteger)
    cancelled: Mapped[bool] = mapped_column(Boolean)


class BatchFileRow(Base):
    """A file of a batch; it may be in several."""

    __tablename__ = "batch_files"

    batch_id: Mapped[str] = mapped_column(
        ForeignKey("file_batches.id", ondelete="CASCADE"), primary_key=True
    )
    file_id: Mapped[str] = mapped_column(String(40), primary_key=True)


class UploadRow(Base):
    """A file that arrives in parts."""

    __tablename__ = "uploads"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    filename: Mapped[str] = mapped_column(Text)
    bytes: Mapped[int] = mapped_column(BigInteger)
    purpose: Mapped[str] = mapped_column(String(20))
    media_type: Mapped[str] = mapped_column(String(200))
    status: Mapped[str] = mapped_column(String(12))
    """pending, completed, cancelled; past `expires_at` a pending one has expired."""
    created_at: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(BigInteger)
    file_expires_after: Mapped[int | None] = mapped_column(BigInteger)
    """Seconds the file shall live."""
    file_id: Mapped[str | None] = mapped_column(String(40))


class UploadPartRow(Base):
    """One part; its bytes are a file of that id among the unfinished blobs."""

    __tablename__ = "upload_parts"
    __table_args__ = (Index("upload_parts_by_upload", "upload_id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    upload_id: Mapped[str] = mapped_column(ForeignKey("uploads.id", ondelete="CASCADE"))
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[int] = mapped_column(BigInteger)


class ResponseRow(Base):
    """An answer that was given, with what is needed to go on from it or to learn from it."""

    __tablename__ = "responses"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    previous_id: Mapped[str | None] = mapped_column(String(40))
    question: Mapped[str] = mapped_column(Text)
    answer: Mapped[str] = mapped_column(Text)
    refused: Mapped[bool] = mapped_column(Boolean)
    passages: Mapped[list[Any]] = mapped_column(JSON)
    """What was found: file name, page, context and text of each passage, best first."""
    turns: Mapped[list[Any]] = mapped_column(JSON)
    """The conversation up to and with this answer: [role, text] pairs, oldest first."""
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    """The object as the client got it."""
    created_at: Mapped[int] = mapped_column(BigInteger)


class FeedbackRow(Base):
    """What a user thought of an answer."""

    __tablename__ = "feedback"
    __table_args__ = (Index("feedback_by_project", "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    response_id: Mapped[str] = mapped_column(ForeignKey("responses.id", ondelete="CASCADE"))
    rating: Mapped[str] = mapped_column(String(4))
    """up or down."""
    correction: Mapped[str | None] = mapped_column(Text)
    comment: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[int] = mapped_column(BigInteger)
