"""What the first file of a backup says of the rest, before any of that is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from rag.errors import BackupError
from rag.store.database import SCHEMA_VERSION

FORMAT = 1
"""Version of the archive's layout; raised when an older reader could not restore it."""

_SCHEMA = re.compile(r"[0-9]{4}")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is in a backup.

    Attributes:
        youju: Version of the program that wrote it.
        schema: Revision of the database's schema.
        created_at: Unix seconds.
        origin: "sqlite" or "postgresql".
        database_bytes: Size of the database as SQLite.
        database_sha256: Its digest.
        parts, part_bytes: Parts of uploads that are not completed.
        blobs, blob_bytes: Uploaded files; a few less if some prove to be damaged.
        counts: Rows of each table.
    """

    youju: str
    schema: str
    created_at: int
    origin: str
    database_bytes: int
    database_sha256: str
    parts: int
    part_bytes: int
    blobs: int
    blob_bytes: int
    counts: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """Bytes of everything, unpacked."""
        return self.database_bytes + self.part_bytes + self.blob_bytes

    def encode(self) -> bytes:
        """Return it as it stands in the archive."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=2, sort_keys=True)
        return f"{text}\n".encode()


def decode(data: bytes, name: str) -> Manifest:
    """Read a manifest.

    Args:
        data: Its bytes.
        name: What to call the archive in messages.

    Raises:
        BackupError: If it cannot be read, or is of a newer version than this program knows.
    """
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not _is_count(found.get("format")):
        raise BackupError(f"{name} is no backup of Youju: its manifest cannot be read.")
    if found["format"] > FORMAT:
        raise BackupError(
            f"{name} is a backup of format {found['format']}, written by youju "
            f"{str(found.get('youju'))[:40]!r}; this version reads formats up to {FORMAT}.",
            do="Upgrade youju, then restore it.",
        )
    manifest = _checked({key: found.get(key) for key in Manifest.__slots__})
    if manifest is None:
        raise BackupError(f"{name} is no backup of Youju: its manifest is not complete.")
    if manifest.schema > SCHEMA_VERSION:
        raise BackupError(
            f"{name} holds a database of schema {manifest.schema}, written by youju "
            f"{manifest.youju[:40]!r}; this version knows schemas up to {SCHEMA_VERSION}.",
            do="Upgrade youju, then restore it.",
        )
    return manifest


def _checked(values: dict[str, Any]) -> Manifest | None:
    """Return a manifest of these values; None if one is not what it should be."""
    texts = [values[key] for key in ("youju", "schema", "origin", "database_sha256")]
    counts = values["counts"]
    if not all(isinstance(text, str) for text in texts) or not isinstance(counts, dict):
        return None
    if not _SCHEMA.fullmatch(values["schema"]):
        return None
    return Manifest(**values) if all(map(_is_count, _numbers(values))) else None


def _numbers(values: dict[str, Any]) -> Iterator[Any]:
    for key, kind in Manifest.__annotations__.items():
        if kind == "int":
            yield values[key]
    yield from values["counts"].values()


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
