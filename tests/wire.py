"""What is sent to a server in attacks, raw or as JSON, and the shape that errors must have."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
from served import Served

from api.schemas import ErrorShown

JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=b"}
FILE = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.md"\r\n\r\ntext\r\n'
FIELD = b'--b\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n'
PURPOSE = FIELD % (b"purpose", b"user_data")
END = b"--b--\r\n"


def shown(answer: httpx.Response, status: int, code: str = "") -> dict[str, Any]:
    """Check an error's shape; return what is in it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    error: dict[str, Any] = ErrorShown.model_validate(answer.json()).error.model_dump()
    assert error["message"]
    assert "Traceback" not in error["message"]
    assert not code or error["code"] == code, error
    return error


def connect(served: Served) -> socket.socket:
    host, port = served.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def raw(served: Served, text: str) -> bytes:
    """Send bytes; return what comes until the server closes or is silent for a second."""
    with connect(served) as connection:
        connection.sendall(text.encode("latin-1"))
        connection.settimeout(1)
        return rest(connection)


def rest(connection: socket.socket) -> bytes:
    got = b""
    try:
        while data := connection.recv(65536):
            got += data
    except TimeoutError:
        pass
    return got


def until(holds: Callable[[], bool], timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def texts_in(text: str, store: str) -> list[tuple[str, dict[str, Any]]]:
    """Return requests that have a text in every field that takes one."""
    ask = {"model": "youju:attacked", "input": "x"}
    search = f"/v1/vector_stores/{store}/search"
    condition = {"name": "n", "comparison_operator": "is", "value": text}
    dify = {"knowledge_id": store, "query": "x", "retrieval_setting": {"top_k": 1}}
    chat = {"model": "youju:attacked", "messages": [{"role": "user", "content": "x"}]}
    upload = {"bytes": 1, "filename": "a.md", "mime_type": "x", "purpose": "user_data"}
    return [
        ("/v1/vector_stores", {"name": text}),
        ("/v1/vector_stores", {"description": text}),
        ("/v1/vector_stores", {"metadata": {"a": text}}),
        ("/v1/vector_stores", {"metadata": {text: "a"}}),
        ("/v1/vector_stores", {"file_ids": [text]}),
        ("/v1/uploads", {**upload, "filename": text + ".md"}),
        ("/v1/uploads", {**upload, "mime_type": text}),
        (f"/v1/vector_stores/{store}/files", {"file_id": text}),
        (f"/v1/vector_stores/{store}/files", {"file_id": "x", "attributes": {text: text}}),
        (search, {"query": text}),
        (search, {"query": ["x", text]}),
        (search, {"query": "x", "filters": {"type": "eq", "key": text, "value": text}}),
        (search, {"query": "x", "filters": {"type": text}}),
        (search, {"query": "x", "filters": {"type": "eq", "key": "a", "value": 1, text: 1}}),
        ("/v1/responses", {**ask, "model": text}),
        ("/v1/responses", {**ask, "model": "youju:" + text}),
        ("/v1/responses", {**ask, "input": text}),
        ("/v1/responses", {**ask, "input": [{"role": "user", "content": text}]}),
        ("/v1/responses", {**ask, "input": [{"role": text, "content": "x"}]}),
        ("/v1/responses", {**ask, "instructions": text}),
        ("/v1/responses", {**ask, "previous_response_id": text}),
        ("/v1/responses", {**ask, "metadata": {"a": text}}),
        ("/v1/responses", {**ask, "reasoning": {text: text}}),
        ("/v1/responses", {**ask, "user": text}),
        ("/v1/responses", {**ask, text: text}),
        ("/v1/chat/completions", {**chat, "model": text}),
        ("/v1/chat/completions", {**chat, "messages": [{"role": "user", "content": text}]}),
        ("/v1/chat/completions", {**chat, "stop": [text]}),
        ("/v1/chat/completions", {**chat, "stream": True, "reasoning_effort": text}),
        ("/v1/embeddings", {"model": "all-MiniLM-L6-v2", "input": text}),
        ("/v1/embeddings", {"model": text, "input": "x"}),
        ("/v1/responses/x/feedback", {"rating": "up", "comment": text}),
        ("/retrieval", {**dify, "query": text}),
        ("/retrieval", {**dify, "knowledge_id": text}),
        ("/retrieval", {**dify, "metadata_condition": {"conditions": [condition]}}),
    ]
