"""Long answers are made in worker threads, and say the same as short ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from filled import upload
from hypothesis import given
from hypothesis import strategies as st
from served import Served

import api.routes_embeddings
import api.routes_files
from api.routes_embeddings import EmbeddingList, EmbeddingShown, EmbeddingUsage
from api.schemas import Listing
from api.schemas_files import FileShown, show_file

MODEL = "all-MiniLM-L6-v2"


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    with served.http() as client:
        yield client


class Spied:
    """A function that notes whether it is called on an event loop."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.on_loop: list[bool] = []

    def __call__(self, *given: Any, **named: Any) -> Any:
        try:
            asyncio.get_running_loop()
            self.on_loop.append(True)
        except RuntimeError:
            self.on_loop.append(False)
        return self._function(*given, **named)


def test_a_list_of_files_is_made_off_the_loop(
    served: Served, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [upload(served.client(), f"长 {number}.md", "x") for number in range(3)]
    spied = Spied(show_file)
    monkeypatch.setattr(api.routes_files, "show_file", spied)
    answer = http.get("/v1/files?order=asc")
    assert answer.headers["content-type"] == "application/json"
    listed = Listing[FileShown].model_validate(answer.json())
    assert [file.id for file in listed.data][-3:] == ids
    assert listed.last_id == ids[-1]
    assert spied.on_loop
    assert not any(spied.on_loop)
    assert http.get(f"/v1/files?order=asc&after={ids[-1]}").json() == {
        "object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False,
    }  # fmt: skip


@pytest.mark.parametrize("coding", ["float", "base64"])
def test_embeddings_are_written_off_the_loop(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch, coding: str
) -> None:
    spied = Spied(EmbeddingShown)
    monkeypatch.setattr(api.routes_embeddings, "EmbeddingShown", spied)
    body = {"model": MODEL, "input": ["a", "b", "c"], "encoding_format": coding}
    answer = EmbeddingList.model_validate(http.post("/v1/embeddings", json=body).json())
    assert [one.index for one in answer.data] == [0, 1, 2]
    assert spied.on_loop == [False] * 3


@given(
    texts=st.lists(st.text(st.characters(codec="utf-8"))),
    model=st.text(st.characters(codec="utf-8")),
)
def test_what_is_written_piece_by_piece_is_what_is_written_at_once(
    texts: list[str], model: str
) -> None:
    from api.long import written

    usage = EmbeddingUsage(prompt_tokens=1, total_tokens=1)
    data = [EmbeddingShown(index=place, embedding=text) for place, text in enumerate(texts)]
    whole = EmbeddingList(data=data, model=model, usage=usage)
    body = written(EmbeddingList(data=[], model=model, usage=usage), iter(data))
    assert EmbeddingList.model_validate_json(body) == whole
