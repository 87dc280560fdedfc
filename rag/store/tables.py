"""The tables of a corpus: stores, documents, chunks, the change log.

Indexes are derived from them and may be deleted at any time; these may not. What the API keeps
beside them is in rag.store.service_tables.
"""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
)
from sqlalchemy import text as sql_text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

BigKey = BigInteger().with_variant(Integer, "sqlite")
"""SQLite gives out row ids for INTEGER keys only."""


DEFAULT_PROJECT = "proj_default"
"""Owns whatever the command line makes, and whatever is done without a key."""


class Base(DeclarativeBase):
    """Common base; its metadata is what migrations are compared with."""


class StoreRow(Base):
    """A named corpus, all of whose vectors come from one embedder."""

    __tablename__ = "stores"
    __table_args__ = (Index("stores_by_project", "project_id", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    embedder: Mapped[str] = mapped_column(Text)
    dim: Mapped[int]
    chunker: Mapped[str] = mapped_column(Text)
    seq: Mapped[int] = mapped_column(BigInteger, default=0)
    created_at: Mapped[int] = mapped_column(BigInteger, default=lambda: int(time.time()))
    """Unix seconds."""
    project_id: Mapped[str] = mapped_column(String(40), server_default=DEFAULT_PROJECT)
    title: Mapped[str] = mapped_column(Text, server_default=sql_text("''"))
    """What clients call it: unlike `name` several stores, also of one project, may share it."""
    description: Mapped[str] = mapped_column(Text, server_default=sql_text("''"))
    details: Mapped[dict[str, str]] = mapped_column(JSON, server_default="{}")
    """What the API calls metadata."""
    expires_days: Mapped[int | None]
    """Days after `last_active_at` when it expires; None: never."""
    last_active_at: Mapped[int] = mapped_column(BigInteger, server_default="0")


class DocumentRow(Base):
    """A file of a store, as parsed."""

    __tablename__ = "documents"
    __table_args__ = (
        UniqueConstraint("store_id", "name"),
        UniqueConstraint("store_id", "source"),
        Index("documents_by_file", "file_id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    store_id: Mapped[str] = mapped_column(ForeignKey("stores.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(Text)
    """What users call it; chosen when it first comes in, and kept."""
    source: Mapped[str] = mapped_column(Text)
    """What it is: the absolute path of its file, or whatever else names its origin."""
    root: Mapped[str] = mapped_column(Text)
    """Absolute folder it was found under: the one given, or its own when it was given itself."""
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int] = mapped_column(BigInteger)
    media_type: Mapped[str] = mapped_column(String(200))
    title: Mapped[str] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    pages: Mapped[list[Any]] = mapped_column(JSON)
    sections: Mapped[list[Any]] = mapped_column(JSON)
    warnings: Mapped[list[Any]] = mapped_column(JSON)
    created_at: Mapped[int] = mapped_column(BigInteger, default=lambda: int(time.time()))
    """Unix seconds."""
    file_id: Mapped[str] = mapped_column(String(40), server_default=sql_text("''"))
    """The file it was parsed from; a document that is replaced keeps it."""


class StampRow(Base):
    """What the file of a document looked like when its bytes were last read.

    A table of its own: it is read whole at every sync, and SQLite finds a column that stands
    behind a long text only by reading the text.
    """

    __tablename__ = "document_stamps"

    document_id: Mapped[int] = mapped_column(
        BigKey,
        ForeignKey("documents.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    )
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    ctime_ns: Mapped[int] = mapped_column(BigInteger)
    seen_ns: Mapped[int] = mapped_column(BigInteger)
    """This machine's clock just before it was read, nanoseconds since 1970 as the others."""


class SketchRow(Base):
    """A sketch of a document's text: up to 128 little-endian hashes of 64 bits, ascending."""

    __tablename__ = "document_sketches"

    document_id: Mapped[int] = mapped_column(
        BigKey,
        ForeignKey("documents.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    )
    sketch: Mapped[bytes] = mapped_column(LargeBinary)


class SketchKeyRow(Base):
    """One of the smallest hashes of a document's sketch, to find it by."""

    __tablename__ = "sketch_keys"
    __table_args__ = (Index("sketch_keys_by_key", "key", "document_id"),)

    document_id: Mapped[int] = mapped_column(
        BigKey,
        ForeignKey("documents.id", ondelete="CASCADE"),
        primary_key=True,
        autoincrement=False,
    )
    key: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)


class ChunkRow(Base):
    """A passage with its vector: `dim` little-endian float16 numbers of a unit vector."""

    __tablename__ = "chunks"
    __table_args__ = (
        Index("chunks_by_store", "store_id"),
        Index("chunks_by_document", "document_id"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigKey, primary_key=True)
    store_id: Mapped[str] = mapped_column(ForeignKey("stores.id", ondelete="CASCADE"))
    document_id: Mapped[int] = mapped_column(
        BigInteger, ForeignKey("documents.id", ondelete="CASCADE")
    )
    start: Mapped[int]
    end: Mapped[int]
    page: Mapped[int | None]
    context: Mapped[str] = mapped_column(Text)
    text: Mapped[str] = mapped_column(Text)
    vector: Mapped[bytes] = mapped_column(LargeBinary)


class ChangeRow(Base):
    """One line of a store's change log: chunk `chunk_id` was added (op 1) or deleted (op -1)."""

    __tablename__ = "changes"

    store_id: Mapped[str] = mapped_column(
        ForeignKey("stores.id", ondelete="CASCADE"), primary_key=True
    )
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    op: Mapped[int] = mapped_column(SmallInteger)
    chunk_id: Mapped[int] = mapped_column(BigInteger)
