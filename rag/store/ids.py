"""Ids that clients see: a prefix, and a number that grows with time."""

from __future__ import annotations

import secrets
import time


def new_id(prefix: str) -> str:
    """Return a new unique id, for example `file-019ab3...`.

    24 hexadecimal digits follow the prefix: milliseconds since 1970 (12), so that ids sort by age,
    and random ones (12).
    """
    return f"{prefix}{time.time_ns() // 1_000_000:012x}{secrets.token_hex(6)}"
