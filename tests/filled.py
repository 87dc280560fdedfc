"""Fills a vector store of a live server through the official client, as a user would."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openai import OpenAI

POLL_MS = 30

PUMPS: Mapping[str, tuple[str, dict[str, str | float | bool]]] = {
    "d40.md": (
        "# D40 pump\n\nThe D40 weighs 185 kg without its motor. "
        "The gear oil of the D40 is changed every 2000 hours.\n",
        {"year": 2024, "product": "D40", "public": True, "score": 1.5},
    ),
    "d60.md": (
        "# D60 pump\n\nThe D60 weighs 240 kg without its motor. "
        "The gear oil of the D60 is changed every 3000 hours.\n",
        {"year": 2025, "product": "D60", "public": False, "score": 2.5},
    ),
    "假期.md": (
        "# 假期制度\n\n公司员工的年假为 12 天。陪产假为 15 天，须在配偶生产前后六十天内使用。\n",
        {"year": 2023, "product": "人事", "public": True},
    ),
    "plain.txt": ("Visitors must wear the orange helmet in the pump depot.\n", {}),
}


@dataclass(frozen=True)
class Filled:
    """A store; `ids` has the ids of its files by their names."""

    id: str
    name: str
    ids: Mapping[str, str]


def upload(client: OpenAI, name: str, text: str | bytes) -> str:
    """Upload a file; return its id."""
    data = text.encode() if isinstance(text, str) else text
    return client.files.create(file=(name, data), purpose="assistants").id


def fill(
    client: OpenAI,
    name: str,
    files: Mapping[str, tuple[str, dict[str, str | float | bool]]] = PUMPS,
) -> Filled:
    """Make a store of files with attributes, and wait until all of them are in it."""
    store = client.vector_stores.create(name=name)
    ids = {file: upload(client, file, text) for file, (text, _) in files.items()}
    batch = client.vector_stores.file_batches.create(
        store.id,
        files=[{"file_id": ids[file], "attributes": held} for file, (_, held) in files.items()],
    )
    done = client.vector_stores.file_batches.poll(
        batch.id, vector_store_id=store.id, poll_interval_ms=POLL_MS
    )
    assert done.file_counts.completed == len(files), done
    return Filled(store.id, name, ids)


def parsed(client: OpenAI, store_id: str, file_id: str) -> str:
    """Return the parsed text of a file, into which citations count."""
    (part,) = client.vector_stores.files.content(file_id, vector_store_id=store_id).data
    assert part.text is not None
    return part.text
