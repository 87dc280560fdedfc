"""A live server for tests: the real application behind uvicorn, in a thread of this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import structlog
import uvicorn
from inline_jobs import InlineJobs
from openai import OpenAI

from api.app import application
from api.server import SlowHeadersClosed
from api.tracing import Tracing
from rag.build import build_rag
from rag.config import Settings


@dataclass(frozen=True)
class Served:
    """A server that runs, at `url`; `home` is its folder, `database` its database's URL."""

    url: str
    home: Path
    database: str
    _clients: list[OpenAI] = field(default_factory=list)

    def client(self, key: str = "none", **options: Any) -> OpenAI:
        """Return the official client, which refuses any answer that is not of its own types."""
        client = OpenAI(
            base_url=f"{self.url}/v1",
            api_key=key,
            max_retries=0,
            _strict_response_validation=True,
            **options,
        )
        self._clients.append(client)
        return client

    def close_clients(self) -> None:
        """Close the connections of all clients, which would otherwise warn when they go."""
        for client in self._clients:
            client.close()

    def http(self, key: str = "") -> httpx.Client:
        """Return a plain HTTP client."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)


@contextmanager
def serving(home: Path, tracing: Tracing | None = None, **settings: Any) -> Iterator[Served]:
    """Serve a home folder for the length of a `with` block, once it is ready."""
    if not structlog.is_configured():  # a test that reads the log runs a server of its own
        structlog.configure(
            processors=[structlog.processors.KeyValueRenderer()],
            logger_factory=structlog.ReturnLoggerFactory(),
            cache_logger_on_first_use=False,
        )
    loaded = Settings(home=home, **settings)
    app = application(build_rag(loaded), tracing, make_jobs=InlineJobs)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = uvicorn.Config(
        app, http=SlowHeadersClosed, ws="none", log_config=None, access_log=False,
        timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        _wait_until_ready(url, thread)
        running = Served(url, home, loaded.url)
        try:
            yield running
        finally:
            running.close_clients()
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


def _wait_until_ready(url: str, thread: threading.Thread) -> None:
    end = time.monotonic() + 60
    while thread.is_alive() and time.monotonic() < end:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError("the server did not become ready")
