"""Stores as a project's clients see them: created, listed, changed, expired, deleted."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import BigInteger, Select, cast, select, update
from sqlalchemy.exc import IntegrityError

from rag.store.catalog import SHADOW_PREFIX, delete_rows
from rag.store.corpus import Store
from rag.store.database import Database, retried
from rag.store.ids import new_id
from rag.store.pages import Page, Slice, read_page
from rag.store.service_tables import StoreFileRow
from rag.store.store_files import Entry, add_within
from rag.store.tables import DEFAULT_PROJECT, StoreRow

DAY_S = 86_400
_TOUCH_S = 60
"""Use of a store that expires is recorded once in so many seconds."""


@dataclass(frozen=True, slots=True)
class NewStore:
    """What a client wants to have.

    Attributes:
        title: What it calls the store; need not be unique.
        description: For people.
        details: What the API calls metadata.
        expires_days: Days without use until it expires; None: never.
    """

    title: str = ""
    description: str = ""
    details: Mapping[str, str] = field(default_factory=dict)
    expires_days: int | None = None


@dataclass(frozen=True, slots=True)
class Maker:
    """What a store's vectors and chunks are made by."""

    embedder: str
    dim: int
    chunker: str


class VectorStores:
    """The stores of all projects."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def create(
        self, project_id: str, new: NewStore, maker: Maker, entries: Sequence[Entry] = ()
    ) -> StoreRow:
        """Make a store, with files in it that are to be ingested.

        On the command line a store of the default project has the title for its name, if that can
        be one and is free; any other has one with its id, so that no project can take a name that
        the command line is going to use.

        Args:
            project_id: Its owner.
            new: What a client wants to have.
            maker: What its vectors and chunks are made by.
            entries: The files.

        Raises:
            UnknownFile: If a file has been deleted; there is no store then.
        """
        try:
            return self._create(project_id, new, maker, entries)
        except IntegrityError:  # another store took the name in between
            return self._create(project_id, new, maker, entries)

    @retried
    def _create(
        self, project_id: str, new: NewStore, maker: Maker, entries: Sequence[Entry]
    ) -> StoreRow:
        now = int(time.time())
        store_id = new_id("vs_")
        title = new.title.strip()
        with self._db.write() as session:
            name = title or store_id
            taken = session.scalar(select(StoreRow.id).where(StoreRow.name == name))
            fit = len(name) <= 100 and name.isprintable() and not name.startswith(SHADOW_PREFIX)
            if taken is not None or not fit or project_id != DEFAULT_PROJECT:
                shown = "".join(c for c in title if c.isprintable()).lstrip(SHADOW_PREFIX + " ")
                name = f"{shown[:60]} ({store_id})".strip()
            row = StoreRow(
                id=store_id,
                name=name,
                embedder=maker.embedder,
                dim=maker.dim,
                chunker=maker.chunker,
                created_at=now,
                project_id=project_id,
                title=new.title,
                description=new.description,
                details=dict(new.details),
                expires_days=new.expires_days,
                last_active_at=now,
            )
            session.add(row)
            session.flush()
            add_within(session, store_id, entries)
            session.refresh(row)
            session.expunge(row)
        return row

    def get(self, project_id: str, store_id: str) -> StoreRow | None:
        """Return a store that the project owns, or None."""
        with self._db.read() as session:
            row = session.get(StoreRow, store_id)
            if row is None or row.project_id != project_id or row.name.startswith(SHADOW_PREFIX):
                return None
            session.expunge(row)
            return row

    def find(self, store_id: str) -> StoreRow | None:
        """Return a store of any project, or None."""
        with self._db.read() as session:
            row = session.get(StoreRow, store_id)
            session.expunge_all()
            return row

    def many(self, store_ids: Sequence[str]) -> dict[str, StoreRow]:
        """Return the stores that exist of some ids, of any project."""
        with self._db.read() as session:
            query = select(StoreRow).where(StoreRow.id.in_(store_ids))
            found = {row.id: row for row in session.scalars(query)}
            session.expunge_all()
            return {
                id_: row for id_, row in found.items() if not row.name.startswith(SHADOW_PREFIX)
            }

    def titled(self, project_id: str, title: str) -> list[StoreRow]:
        """Return the stores of a project that have a title, oldest first."""
        query = _of(project_id).where(StoreRow.title == title)
        with self._db.read() as session:
            rows = list(session.scalars(query.order_by(StoreRow.created_at, StoreRow.id)))
            session.expunge_all()
            return rows

    def page(self, project_id: str, part: Slice) -> Page[StoreRow]:
        """Return a page of a project's stores.

        Raises:
            CursorError: If the page's cursor is no store of the project.
        """
        with self._db.read() as session:
            age = (StoreRow.created_at, StoreRow.id)
            found = read_page(session, _of(project_id), age, part, prefix="vs_")
            session.expunge_all()
            return found

    def change(self, store_id: str, values: Mapping[str, object]) -> None:
        """Set columns of a store: title, details, expires_days."""
        with self._db.write() as session:
            session.execute(update(StoreRow).where(StoreRow.id == store_id).values(**values))

    def open(self, row: StoreRow) -> Store:
        """Return the store itself."""
        return Store(self._db, row)

    def touch(self, row: StoreRow) -> None:
        """Record that a store that expires is in use."""
        now = int(time.time())
        if row.expires_days is not None and now - row.last_active_at >= _TOUCH_S:
            self.change(row.id, {"last_active_at": now})

    @retried
    def delete(self, store_id: str) -> int:
        """Delete a store with all that is in it; return how many documents it held."""
        with self._db.write() as session:
            return delete_rows(session, store_id)

    def expired(self) -> list[str]:
        """Return the ids of the stores whose time has passed and that still hold files."""
        row = StoreRow
        held = select(StoreFileRow.file_id).where(StoreFileRow.store_id == row.id)
        with self._db.read() as session:
            query = select(row.id).where(
                row.expires_days.is_not(None),
                row.last_active_at + cast(row.expires_days, BigInteger) * DAY_S <= int(time.time()),
                held.exists(),
            )
            return list(session.scalars(query))


def expires_at(row: StoreRow) -> int | None:
    """Return when a store expires if it is not used before, Unix seconds; None: never."""
    return None if row.expires_days is None else row.last_active_at + row.expires_days * DAY_S


def has_expired(row: StoreRow) -> bool:
    """Whether a store's time has passed."""
    end = expires_at(row)
    return end is not None and end <= time.time()


def _of(project_id: str) -> Select[StoreRow]:
    return select(StoreRow).where(
        StoreRow.project_id == project_id, ~StoreRow.name.startswith(SHADOW_PREFIX)
    )
