"""A small HTTP/1.1 client for load: raw sockets, so that it takes little of the machine itself."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Load:
    """What came of a load: milliseconds by status, and how long it took in all."""

    ms: dict[int, list[float]] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, status: int, ms: float) -> None:
        """Count one answer."""
        self.ms.setdefault(status, []).append(ms)

    def rate(self, status: int = 200) -> float:
        """Return answers of a status per second."""
        return len(self.ms.get(status, ())) / self.seconds

    def percentile(self, share: float, status: int = 200) -> float:
        """Return the time, ms, within which that share of the answers of a status came."""
        ordered = sorted(self.ms.get(status, ()))
        if not ordered:
            return float("nan")
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Connection:
    """One keep-alive connection."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send a request, return status and body."""
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        assert self._reader is not None
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        await self._writer.drain()
        answer = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        status = int(answer[9:12])
        length = int(answer.split(b"content-length:")[1].split(b"\r\n")[0])
        text = await self._reader.readexactly(length)
        if b"connection: close" in answer:
            self.close()
        return status, text

    async def first_byte(self, path: str, body: bytes, mark: bytes) -> float:
        """Send a request, return the ms until `mark` appears in the answer; read to its end."""
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        assert self._reader is not None
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        begin = time.perf_counter()
        self._writer.write(head.encode() + body)
        await self._writer.drain()
        await self._reader.readuntil(mark)
        spent = 1000 * (time.perf_counter() - begin)
        await self._reader.readuntil(b"0\r\n\r\n")
        return spent

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None


async def closed_loop(
    host: str, port: int, path: str, bodies: Iterator[bytes], *, clients: int, seconds: float,
    pause_s: float = 0.0,
) -> Load:  # fmt: skip
    """Have so many clients ask, each as soon as it has its answer, for so long.

    With a pause, they begin spread over one, and who is refused waits that long on average, as
    long as chance will have it (exponential): so requests arrive one by one, not in waves.
    """
    load = Load()
    chance = random.Random(1)
    begin = time.perf_counter()
    end = begin + seconds

    async def client() -> None:
        connection = Connection(host, port)
        await asyncio.sleep(chance.uniform(0, pause_s))
        while time.perf_counter() < end:
            sent = time.perf_counter()
            status, _ = await connection.post(path, next(bodies))
            load.add(status, 1000 * (time.perf_counter() - sent))
            if pause_s and status != 200:
                await asyncio.sleep(chance.expovariate(1 / pause_s))
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    load.seconds = time.perf_counter() - begin
    return load


def as_json(**fields: object) -> bytes:
    """Return a body."""
    return json.dumps(fields).encode()
