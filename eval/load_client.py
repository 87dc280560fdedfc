"""Sends searches and questions to a server's REST API, as `eval.load` needs them sent.

What the server answers is read to its end, within a limit, and looked at only as far as needed to
tell an answer from a failure.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from eval.jsonl import string, text_lines
from eval.load import TURNED_AWAY, Ask, Reply
from rag.errors import ConfigError, EvalDataError, UnknownStore, UsageError, YoujuError

if TYPE_CHECKING:
    import httpx

Kind = Literal["search", "answer"]

LARGEST_ANSWER: Final = 16 * 1024 * 1024
"""Bytes of an answer; a longer one counts as failed and is not read on."""

_IDLE_S = 4.0  # servers close an idle connection after 5 seconds or later
_PROBE_S = 30.0
_PAGES_MOST = 1_000
_DELTA, _FAILED = "response.output_text.delta", "response.failed"
_DONE = ("response.completed", "response.incomplete")
_READ = tuple(kind.encode() for kind in (_DELTA, _FAILED, *_DONE))


class Connections:
    """Connections to a server, made when needed; who asks for one gets the one used last.

    Each is a client of its own: one client's pool looks through all its connections at every
    request, and with hundreds of them this program would be what is slow.
    """

    def __init__(self, make: Callable[[], httpx.AsyncClient]) -> None:
        self._make = make
        self._idle: list[httpx.AsyncClient] = []
        self._all: list[httpx.AsyncClient] = []

    @contextmanager
    def one(self) -> Iterator[httpx.AsyncClient]:
        """Yield a connection that nobody else uses meanwhile."""
        if not self._idle:
            self._all.append(self._make())
            self._idle.append(self._all[-1])
        client = self._idle.pop()
        try:
            yield client
        finally:
            self._idle.append(client)

    async def close(self) -> None:
        """Close them all."""
        for client in self._all:
            await client.aclose()


@asynccontextmanager
async def connected(url: str, api_key: str) -> AsyncIterator[Connections]:
    """Yield connections to a server, which use no proxy and follow no redirect.

    Args:
        url: As "http://host:8000", with or without "/v1".
        api_key: "" sends none.

    Raises:
        UsageError: If the URL is none.
        ConfigError: If the key cannot be sent.
    """
    import httpx

    base = url.strip().rstrip("/").removesuffix("/v1")
    try:
        parsed = httpx.URL(base)
    except httpx.InvalidURL:
        parsed = httpx.URL("")
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise UsageError(f"Got --url {url!r:.80}.", do="Expected one as http://host:8000.")
    if not (api_key.isascii() and api_key.isprintable()):
        raise ConfigError("OPENAI_API_KEY holds more than plain characters.", do="Set it again.")
    limits = httpx.Limits(max_connections=1, keepalive_expiry=_IDLE_S)
    headers = {"accept-encoding": "identity"}
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    trusted = httpx.create_ssl_context()  # takes longer than all the rest, so once for all

    def make() -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=base,
            headers=headers,
            timeout=None,  # noqa: S113 - the load times each request as a whole
            transport=httpx.AsyncHTTPTransport(verify=trusted, limits=limits),
        )

    connections = Connections(make)
    try:
        yield connections
    finally:
        await connections.close()


async def find_store(connections: Connections, wanted: str) -> str:
    """Return the id of the store of that id or name.

    Raises:
        UnknownStore: If there is none, or several have the name.
        ConfigError: If the server refuses the key.
        YoujuError: If the server cannot be reached or is none of ours.
    """
    with connections.one() as client:
        return await _find_store(client, wanted)


async def _find_store(client: httpx.AsyncClient, wanted: str) -> str:
    named: list[str] = []
    query: dict[str, str] = {"limit": "100"}
    for _ in range(_PAGES_MOST):
        page = await _get(client, "/v1/vector_stores", query)
        rows = page.get("data")
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise YoujuError(f"{client.base_url} answers no list of stores.", do="Check --url.")
        if any(row.get("id") == wanted for row in rows):
            return wanted
        named += [str(row.get("id")) for row in rows if row.get("name") == wanted]
        if not rows or not page.get("has_more"):
            break
        query["after"] = str(rows[-1].get("id"))
    if len(named) == 1:
        return named[0]
    if named:
        raise UnknownStore(
            f"{len(named)} stores are named {wanted!r:.80}.", do=f"Give one's id: {named[0]}, ..."
        )
    raise UnknownStore(f"{client.base_url} has no store {wanted!r:.80}.", do="Check --store.")


def asker(connections: Connections, kind: Kind, store: str) -> Ask:
    """Return what sends a search or a question over a store; it raises nothing but TimeoutError.

    Args:
        connections: From `connected`.
        kind: "search", or "answer" for a streamed response that the server does not keep.
        store: Id of the store.
    """
    import httpx

    tool = {"type": "file_search", "vector_store_ids": [store]}

    async def send(query: str, text_came: Callable[[], None]) -> Reply:
        if kind == "search":
            path = f"/v1/vector_stores/{store}/search"
            body: dict[str, Any] = {"query": query}
        else:
            path = "/v1/responses"
            body = {"model": "youju", "input": query, "tools": [tool]}
            body |= {"stream": True, "store": False}
        status = 0
        try:
            with connections.one() as client:
                async with client.stream("POST", path, json=body) as response:
                    status = response.status_code
                    if status != httpx.codes.OK:
                        await _read(response)
                        return Reply(status, "" if status == TURNED_AWAY else f"status {status}")
                    if kind == "search":
                        return _found(status, await _read(response))
                    return await _streamed(status, response, text_came)
        except _TooLarge:
            return Reply(status, "too_large")
        except httpx.TimeoutException:
            raise TimeoutError from None
        except httpx.ConnectError:
            return Reply(status, "connect")
        except httpx.HTTPError:
            return Reply(status, "broken")

    return send


def read_queries(data: bytes, name: str) -> list[str]:
    """Return the queries of a file: JSON lines with "text" or "question", or a query a line.

    Args:
        data: The file's bytes.
        name: The file's name; if it ends in .jsonl the lines are JSON.

    Raises:
        EvalDataError: If the file is not UTF-8, a line is not as expected, or there is none.
    """
    queries = []
    for at, line in text_lines(Path(name), data):
        if not name.endswith(".jsonl"):
            queries.append(line.strip())
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise EvalDataError(f"{at}: no JSON object.", do='Expected {"text": query}.')
        queries.append(string(row, "question" if "question" in row else "text", at))
    if not any(queries):
        raise EvalDataError(f"{name} holds no query.", do="Expected one a line.")
    return queries


class _TooLarge(Exception):
    """An answer is longer than LARGEST_ANSWER."""


async def _pieces(response: httpx.Response) -> AsyncIterator[bytes]:
    total = 0
    async for piece in response.aiter_bytes():
        total += len(piece)
        if total > LARGEST_ANSWER:
            raise _TooLarge
        yield piece


async def _read(response: httpx.Response) -> bytes:
    return b"".join([piece async for piece in _pieces(response)])


def _found(status: int, body: bytes) -> Reply:
    whole = body.lstrip().startswith(b"{") and b'"data"' in body
    return Reply(status, "" if whole else "unexpected_answer")


async def _streamed(status: int, response: httpx.Response, text_came: Callable[[], None]) -> Reply:
    clock = asyncio.get_running_loop().time
    first = last = 0.0
    characters = 0
    async for event in _events(response):
        kind = event.get("type")
        if kind == _DELTA and isinstance(event.get("delta"), str) and event["delta"]:
            last = clock()
            first = first or last
            text_came()
            characters += len(event["delta"])
        elif kind == _FAILED:
            return Reply(status, "stream_failed")
        elif kind in _DONE:
            return Reply(
                status, tokens=_tokens(event), characters=characters, writing_s=last - first
            )
    return Reply(status, "stream_cut")


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Yield the data of server-sent events; what need not be read, or is no JSON, is passed over.

    Most of a stream's bytes are other events, the passages found among them: reading them all
    would take this program longer than the rest of its work.
    """
    rest = b""
    async for piece in _pieces(response):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if not line.startswith(b"data:") or not any(kind in line for kind in _READ):
                continue
            try:
                event = json.loads(line[5:])
            except (ValueError, RecursionError):
                continue
            if isinstance(event, dict):
                yield event


def _tokens(event: dict[str, Any]) -> int | None:
    response = event.get("response")
    usage = response.get("usage") if isinstance(response, dict) else None
    tokens = usage.get("output_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) else None


async def _get(client: httpx.AsyncClient, path: str, query: dict[str, str]) -> dict[str, Any]:
    import httpx

    try:
        response = await client.get(path, params=query, timeout=_PROBE_S)
        body = response.json() if response.status_code == httpx.codes.OK else {}
    except (httpx.HTTPError, ValueError) as error:
        why = str(error) or type(error).__name__
        raise YoujuError(f"Cannot use {client.base_url}: {why:.200}.", do="Check --url.") from None
    if response.status_code in (401, 403):
        raise ConfigError(
            f"{client.base_url} refuses the key ({response.status_code}).",
            do="Set OPENAI_API_KEY to one from `youju keys create`.",
        )
    if response.status_code != httpx.codes.OK or not isinstance(body, dict):
        raise YoujuError(
            f"{client.base_url} answers {path} with status {response.status_code}.",
            do="Check that `youju serve` runs there.",
        )
    return body
