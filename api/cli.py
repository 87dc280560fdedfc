"""`youju serve` and `youju keys`."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ingest.cli import JsonOption
from rag.errors import UsageError
from rag.terminal import print_json, print_table, say

if TYPE_CHECKING:
    import uvicorn

    from rag.config import Settings
    from rag.store.projects import KeyInfo, Keys

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})

keys_app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")


def serve(
    host: Annotated[
        str | None, typer.Option(help="Where to listen; else the setting `host`.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0 takes a free one; else `port`.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, max=64, help="Processes; else the setting `workers`.")
    ] = None,
) -> None:
    """Serve the REST API.

    Any OpenAI client can use it with base_url http://HOST:PORT/v1. Without API keys it listens to
    this machine only. Ctrl-C or SIGTERM ends it, after the requests in hand.
    """
    from rag.build import build_rag
    from rag.config import load_settings
    from rag.store.projects import Keys

    given = {"host": host, "port": port, "workers": workers}
    settings = load_settings(given).settings
    rag = build_rag(settings)
    closed = Keys(rag.db).exist()
    rag.db.close()
    if not closed and settings.host not in LOOPBACK:
        raise UsageError(
            f"Without API keys the server listens to this machine only, not to {settings.host}.",
            do="Make one first: youju keys create NAME",
        )
    _run(settings, closed=closed)


def _run(settings: Settings, *, closed: bool) -> None:
    import asyncio
    import logging

    import uvicorn
    from uvicorn.supervisors import Multiprocess

    from api.logs import set_up
    from api.server import SlowHeadersClosed

    config = uvicorn.Config(
        "api.app:create",
        factory=True,
        workers=settings.workers,
        http=SlowHeadersClosed,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(settings.shutdown_timeout),
    )
    with _listen(settings.host, settings.port) as listening:
        if settings.workers == 1:
            server = uvicorn.Server(config)
            with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
                runner.run(_serve(server, listening, closed=closed))
            return
        with tempfile.TemporaryDirectory(prefix="youju-metrics-") as folder:
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
            set_up()
            logging.getLogger("uvicorn.error").setLevel(logging.INFO)  # workers that die
            _announce(listening, closed=closed)
            Multiprocess(config, sockets=[listening]).run()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise UsageError(
            f"Cannot listen to {host} port {port}: {error.strerror or error}.",
            do="Give another --host or --port; --port 0 takes a free one.",
        ) from None
    # asyncio does this only for sockets that were made with the protocol's number: without it the
    # body of an answer waits some 40 ms for the client to acknowledge the headers.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listening.set_inheritable(True)
    return listening


async def _serve(server: uvicorn.Server, listening: socket.socket, *, closed: bool) -> None:
    def stop(_signal: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):  # the server raises again what it got
        signal.signal(number, stop)
    import asyncio

    running = asyncio.create_task(server.serve(sockets=[listening]))
    while not server.started and not running.done():
        await asyncio.sleep(0.02)
    if server.started:
        _announce(listening, closed=closed)
    await running


def _announce(listening: socket.socket, *, closed: bool) -> None:
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    keys = "" if closed else " No API keys yet: open to this machine only."
    say(f"Serving http://{shown}:{port}/v1 (documentation at /docs).{keys}")
    sys.stdout.flush()


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(show_default=False, help="To tell keys apart.")],
    project: Annotated[
        str, typer.Option(help="Whose files, stores and answers it opens; made if missing.")
    ] = "default",
    scope: Annotated[
        Literal["read", "write", "admin"],
        typer.Option(help="read: ask; write: also upload and delete; admin: everything."),
    ] = "write",
    days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="Days until it expires.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make an API key and show it, this once.

    From the first key on, every request needs one.
    """
    info, key = _keys().create(name, project=project, scope=scope, days=days)
    if as_json:
        print_json({**asdict(info), "key": key})
        return
    say(key)
    say(f"Keep it: it is shown only now. Id {info.id}, project {info.project}, {info.scope}.")


@keys_app.command("list")
def list_keys(as_json: JsonOption = False) -> None:
    """List the API keys."""
    found = _keys().list()
    if as_json:
        print_json({"keys": [asdict(info) for info in found]})
    elif not found:
        say("No keys yet. Make one: youju keys create NAME")
    else:
        rows = [
            [info.id, info.name, info.project, info.scope, f"…{info.hint}", _state(info)]
            for info in found
        ]
        print_table(["id", "name", "project", "scope", "key", "state"], rows)


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(show_default=False, help="An id from the list.")],
) -> None:
    """Make an API key worthless, at once and for good."""
    _keys().revoke(key_id)
    say(f"Revoked {key_id}.")


def _keys() -> Keys:
    from rag.build import build_rag
    from rag.config import load_settings
    from rag.store.projects import Keys

    return Keys(build_rag(load_settings().settings).db)


def _state(info: KeyInfo) -> str:
    if info.revoked_at is not None:
        return "revoked"
    if info.expires_at is None:
        return "valid"
    end = datetime.fromtimestamp(info.expires_at, UTC)
    word = "expired" if end <= datetime.now(UTC) else "valid until"
    return f"{word} {end:%Y-%m-%d}"
