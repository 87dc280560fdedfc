"""Answers that may be long: written in a worker thread, so that nobody else waits for them.

The framework would check and write them on the event loop. They are written item by item: Python
lets other threads run between two items, not in the middle of one.
"""

from __future__ import annotations

from collections.abc import Iterable

from fastapi import Response
from pydantic import BaseModel


def written(rest: BaseModel, data: Iterable[BaseModel]) -> bytes:
    """Return the JSON of an object with a long list `data`; call it in a worker thread.

    Args:
        rest: The object, all but its `data`.
        data: The items of `data`, made one by one.
    """
    head = rest.model_dump_json(exclude={"data"}).removesuffix("}")
    items = ",".join(item.model_dump_json() for item in data)
    return f'{head},"data":[{items}]}}'.encode()


def json_answer(body: bytes) -> Response:
    """Return a response of JSON that is written already."""
    return Response(body, media_type="application/json")
