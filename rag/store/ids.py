"""Ids that clients see: a prefix, and a number that grows with time."""

from __future__ import annotations

import re
import secrets
import time


def new_id(prefix: str) -> str:
    """Return a new unique id, for example `file-019ab3...`.

    24 hexadecimal digits follow the prefix: milliseconds since 1970 (12), so that ids sort by age,
    and random ones (12).
    """
    return f"{prefix}{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"


def made_at(id_: str, prefix: str) -> int | None:
    """Return when an id was made, in Unix seconds; None if it is no id of that prefix."""
    found = re.fullmatch(f"{re.escape(prefix)}([0-9a-f]{{12}})[0-9a-f]{{12}}", id_)
    return None if found is None else int(found[1], 16) // 1000
