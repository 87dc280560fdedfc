"""Projects and their API keys: create, list, revoke, and tell whom a key belongs to.

A key is `sk-youju-` and 43 random characters; only its SHA-256 is stored. That is enough: a key of
256 random bits cannot be guessed, so there is nothing for a slow hash to protect.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from rag.errors import UnknownKey, UsageError
from rag.store.database import Database
from rag.store.ids import new_id
from rag.store.service_tables import KeyRow, ProjectRow

Scope: TypeAlias = Literal["read", "write", "admin"]

KEY_PREFIX = "sk-youju-"
_MAX_DAYS = 36_500


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What may be shown of a key. Times are Unix seconds; `hint` is its last characters."""

    id: str
    name: str
    project: str
    scope: Scope
    hint: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None


@dataclass(frozen=True, slots=True)
class Access:
    """Who asks, and what they may do: "read" asks, "write" also changes, "admin" everything.

    Attributes:
        project_id: Whose stores, files and answers they see.
        scope: What they may do there.
        key_id: The key they came with; "" for none.
    """

    project_id: str
    scope: Scope
    key_id: str = ""


class Keys:
    """The keys of a database."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def create(
        self,
        name: str,
        *,
        project: str = "default",
        scope: Scope = "write",
        days: int | None = None,
    ) -> tuple[KeyInfo, str]:
        """Make a key; the project is made if it does not exist.

        Args:
            name: To tell keys apart, 1 to 100 printable characters.
            project: Name of the project, likewise.
            scope: What the key allows.
            days: Days until it expires, 1 to 36,500; None: never.

        Returns:
            What can be shown later, and the key itself, which cannot.

        Raises:
            UsageError: If a name cannot be one, or the days are out of range.
        """
        if days is not None and not 1 <= days <= _MAX_DAYS:
            raise UsageError(
                f"Got {days} days until the key expires.", do=f"Give 1 to {_MAX_DAYS:,}."
            )
        for what, text in (("key", name), ("project", project)):
            if not text.strip() or len(text) > 100 or not text.isprintable():
                raise UsageError(
                    f"Name {text[:120]!r} for a {what} is not usable.",
                    do="Give 1 to 100 printable characters.",
                )
        now = int(time.time())
        project_id = self._project(project, now)
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        row = KeyRow(
            id=new_id("key_"),
            project_id=project_id,
            name=name,
            digest=_digest(key),
            hint=key[-4:],
            scope=scope,
            created_at=now,
            expires_at=None if days is None else now + days * 86_400,
        )
        with self._db.write() as session:
            session.add(row)
            session.flush()
            return _info(row, project), key

    def _project(self, name: str, now: int) -> str:
        for _attempt in range(2):
            with self._db.read() as session:
                found = session.scalar(select(ProjectRow.id).where(ProjectRow.name == name))
            if found is not None:
                return found
            row = ProjectRow(id=new_id("proj_"), name=name, created_at=now)
            try:
                with self._db.write() as session:
                    session.add(row)
                    session.flush()
                    return row.id
            except IntegrityError:  # another process made it in between
                continue
        raise AssertionError("unreachable: the second look finds it")

    def list(self) -> list[KeyInfo]:
        """Return every key, oldest first."""
        with self._db.read() as session:
            rows = session.execute(
                select(KeyRow, ProjectRow.name)
                .join(ProjectRow, ProjectRow.id == KeyRow.project_id)
                .order_by(KeyRow.created_at, KeyRow.id)
            )
            return [_info(row, project) for row, project in rows]

    def revoke(self, key_id: str) -> None:
        """Make a key worthless, at once and for good.

        Raises:
            UnknownKey: If there is none of that id.
        """
        with self._db.write() as session:
            # a database may refuse to look for what no id holds
            row = session.get(KeyRow, key_id) if key_id.isprintable() else None
            if row is None:
                raise UnknownKey(f"No key has the id {key_id!r}.", do="See `youju keys list`.")
            row.revoked_at = row.revoked_at or int(time.time())

    def usable(self) -> int:
        """Return how many keys are neither revoked nor expired."""
        with self._db.read() as session:
            query = select(func.count()).select_from(KeyRow).where(KeyRow.revoked_at.is_(None))
            now = int(time.time())
            query = query.where(KeyRow.expires_at.is_(None) | (KeyRow.expires_at > now))
            return session.scalar(query) or 0

    def exist(self) -> bool:
        """Whether a key was ever made: from then on every request needs one."""
        with self._db.read() as session:
            return session.scalar(select(KeyRow.id).limit(1)) is not None

    def access(self, key: str) -> Access | None:
        """Return what a key allows; None if it is unknown, revoked or expired."""
        with self._db.read() as session:
            row = session.scalar(select(KeyRow).where(KeyRow.digest == _digest(key)))
            if row is None or row.revoked_at is not None:
                return None
            if row.expires_at is not None and row.expires_at <= time.time():
                return None
            return Access(row.project_id, cast(Scope, row.scope), row.id)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _info(row: KeyRow, project: str) -> KeyInfo:
    return KeyInfo(
        id=row.id,
        name=row.name,
        project=project,
        scope=cast(Scope, row.scope),
        hint=row.hint,
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
    )
