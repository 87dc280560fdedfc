"""The server under load: one client against 32, ten times too many, and the first streamed byte.

    python -m bench.api [--passages 5000] [--seconds 10] [--overload 60] [--workers 1]

Server and client share this machine, and the client is Python: what it takes is taken from the
server. `ratio` is the requests per second of 32 clients over those of one. In the overload ten
times as many requests arrive as 32 clients got answers: who is refused waits before asking again.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from bench.corpus import fill, questions
from bench.http_load import Connection, Load, as_json, closed_loop
from rag.build import build_rag
from rag.config import Settings

MOST = 64  # requests that the server takes at once, its default


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--overload", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rag = build_rag(Settings(home=Path(folder)))
        rag.embedder.prepare()  # converts the model, once for ever
        fill(rag, "made", options.passages)
        store = rag.catalog.get("made").id
        rag.db.close()
        with Server(folder, options.workers) as server:
            found = asyncio.run(_measure(server, store, options))
    print(json.dumps(found, indent=2))


class Server:
    """`youju serve` in a process of its own."""

    def __init__(self, home: str, workers: int) -> None:
        environ = os.environ | {"YOUJU_HOME": home}
        command = [sys.executable, "-m", "youju", "serve", "--port", "0", "--workers"]
        self._begin = time.perf_counter()
        self._process = subprocess.Popen(
            [*command, str(workers)], env=environ, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        self.url = line.split()[1].removesuffix("/v1")
        self.host, self.port = "127.0.0.1", int(self.url.rsplit(":", 1)[1])
        while httpx.get(f"{self.url}/readyz").status_code != 200:
            time.sleep(0.02)
        self.ready_s = time.perf_counter() - self._begin

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(30)

    def memory_mib(self) -> float:
        """Return the memory of the server's processes that nobody else has, MiB."""
        pids = [self._process.pid]
        for pid in pids:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            pids += [int(child) for child in children]
        total = 0
        for pid in pids:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Private_Dirty"):
                    total += int(line.split()[1])
        return total / 1024


async def _measure(server: Server, store: str, options: argparse.Namespace) -> dict[str, object]:
    search = f"/v1/vector_stores/{store}/search"
    where = (server.host, server.port, search)
    await closed_loop(*where, _bodies(), clients=4, seconds=2)
    one = await closed_loop(*where, _bodies(), clients=1, seconds=options.seconds)
    many = await closed_loop(*where, _bodies(), clients=32, seconds=options.seconds)
    again = await closed_loop(*where, _bodies(), clients=1, seconds=options.seconds)
    one_rate = (one.rate() + again.rate()) / 2
    one_median = (one.percentile(0.5) + again.percentile(0.5)) / 2
    stream = await _first_bytes(server, store, search)
    found: dict[str, object] = {
        "ready_s": round(server.ready_s, 2),
        "one_client_per_s": [round(one.rate(), 1), round(again.rate(), 1)],
        "32_clients_per_s": round(many.rate(), 1),
        "ratio": round(many.rate() / one_rate, 2),
        "one_client_median_ms": round(one_median, 1),
        "32_clients_p99_ms": round(many.percentile(0.99), 1),
        "p99_to_median": round(many.percentile(0.99) / one_median, 1),
        **stream,
    }
    if options.overload:
        found["overload"] = await _overload(server, where, options, many)
    return found


async def _first_bytes(server: Server, store: str, search: str) -> dict[str, float]:
    """Compare, in turns, the search alone with the first text of a streamed answer."""
    connection = Connection(server.host, server.port)
    searches, answers = [], []
    tool = {"type": "file_search", "vector_store_ids": [store], "max_num_results": 8}
    for asked in questions() * 4:
        begin = time.perf_counter()
        await connection.post(search, as_json(query=asked, max_num_results=8))
        searches.append(1000 * (time.perf_counter() - begin))
        body = as_json(model="youju", input=asked, tools=[tool], stream=True, store=False)
        answers.append(
            await connection.first_byte("/v1/responses", body, b"response.output_text.delta")
        )
    connection.close()
    return {
        "search_median_ms": round(statistics.median(searches), 1),
        "first_text_median_ms": round(statistics.median(answers), 1),
        "first_text_to_search": round(statistics.median(answers) / statistics.median(searches), 2),
    }


async def _overload(
    server: Server, where: tuple[str, int, str], options: argparse.Namespace, usual: Load
) -> dict[str, object]:
    before = server.memory_mib()
    load = await closed_loop(
        *where, _bodies(), clients=10 * MOST, seconds=options.overload,
        pause_s=10 * MOST / (10 * usual.rate()),
    )  # fmt: skip
    after = server.memory_mib()
    await asyncio.sleep(5)
    then = await closed_loop(*where, _bodies(), clients=32, seconds=options.seconds)
    return {
        "clients": 10 * MOST,
        "asked_per_s": round(sum(map(len, load.ms.values())) / load.seconds, 1),
        "answered_per_s": round(load.rate(), 1),
        "statuses": {status: len(times) for status, times in sorted(load.ms.items())},
        "refused_median_ms": round(load.percentile(0.5, 429), 1),
        "refused_p99_ms": round(load.percentile(0.99, 429), 1),
        "memory_mib": [round(before, 1), round(after, 1)],
        "memory_growth": round(after / before - 1, 3),
        "speed_5_s_later": round(then.rate() / usual.rate(), 2),
    }


def _bodies() -> Iterator[bytes]:
    for number in itertools.count():
        for asked in questions():
            yield as_json(query=f"{asked} ({number})", max_num_results=10)


if __name__ == "__main__":
    main()
