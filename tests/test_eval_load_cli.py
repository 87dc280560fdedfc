"""`youju eval load` against the real server, and against one that stalls and breaks off."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from command import Run, assert_one_line
from filled import Filled, fill
from served import Served

from eval import load as load_module
from eval import load_client
from eval.load_client import read_queries
from rag.errors import EvalDataError

ROOT = Path(__file__).resolve().parents[1]
STORE = {"id": "vs_1", "name": "made"}
TEXT = "response.output_text.delta"


def event(**fields: Any) -> bytes:
    return f"event: {fields['type']}\ndata: {json.dumps(fields)}\n\n".encode()


DONE = event(type="response.completed", response={"usage": {"output_tokens": 4}})


class Handler(BaseHTTPRequestHandler):
    """Answers as the test says: with its `reply`, a status and chunks with pauses between."""

    protocol_version = "HTTP/1.1"
    server: Tiny

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.keys.add(self.headers.get("authorization"))
        status, body = self.server.listing(self.path)
        self._answer(status, [json.dumps(body).encode()])

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body)
        self._answer(*self.server.reply(body.get("query") or body["input"]))

    def _answer(self, status: int, parts: list[bytes | float]) -> None:
        self.send_response(status)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for part in parts:
            if isinstance(part, float):
                time.sleep(part)
            elif part == b"BREAK":
                self.close_connection = True
                return
            else:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")


class Tiny(ThreadingHTTPServer):
    """A server that lists stores and answers as it is told."""

    request_queue_size = 512
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.keys: set[str | None] = set()
        self.asked: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.listing: Callable[[str], tuple[int, Any]] = lambda _path: (200, {"data": [STORE]})
        self.reply: Callable[[str], tuple[int, list[bytes | float]]] = lambda _query: (
            200, [b'{"data": []}'],
        )  # fmt: skip

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is no fault."""


@pytest.fixture
def tiny() -> Iterator[Tiny]:
    server = Tiny()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def ask(run: Run, tiny: Tiny) -> Run:
    return lambda *more: run("eval", "load", "--url", tiny.url, "--store", "made", *more)


@pytest.fixture(scope="module")
def pumps(served: Served) -> Filled:
    return fill(served.client(), "pumps under load")


def test_searches_of_a_real_server(run: Run, served: Served, pumps: Filled) -> None:
    command = ("eval", "load", "--url", f"{served.url}/v1/", "--store", pumps.name)

    found = run(*command, "--rate", "40", "--seconds", "1", "--json").json

    assert found["store"] == pumps.id
    assert 15 < found["arrivals"] < 70
    assert found["statuses"] == {"200": found["answered"]} == {"200": found["arrivals"]}
    assert found["errors"] == {}
    spread = [found["latency_ms"][name] for name in ("p50", "p90", "p95", "p99", "max")]
    assert 0 < spread[0]
    assert spread == sorted(spread)
    assert found["first_text_ms"] is None


def test_answers_of_a_real_server(run: Run, served: Served, pumps: Filled, tmp_path: Path) -> None:
    queries = tmp_path / "queries.jsonl"
    queries.write_text(
        '{"_id": "1", "text": "How heavy is the D40?"}\n{"text": "年假有多少天？"}\n'
    )
    command = ("eval", "load", "--url", served.url, "--store", pumps.id, "--queries", str(queries))

    done = run(*command, "--users", "20", "--think", "1", "--seconds", "1", "--kind", "answer",
               "--json")  # fmt: skip

    found = done.json
    assert done.status == 0
    assert found["asked_per_s"] == 20
    assert found["answered"] == found["arrivals"] > 5
    assert found["first_text_ms"]["count"] == found["answered"]
    assert found["first_text_ms"]["p50"] <= found["latency_ms"]["p50"]
    assert found["unit"] == "tokens"
    assert found["units"] > 5 * found["answered"]


def test_a_standstill_of_a_second_is_seen_by_all_who_arrived_in_it(ask: Run, tiny: Tiny) -> None:
    """Of 1.6 s of arrivals 1 s falls into the standstill: a closed loop tells of one slow answer.

    A share x of all waits for 1 - 1.6 x seconds or longer: a tenth for 0.84 s.
    """
    begun: list[float] = []

    def reply(_query: str) -> tuple[int, list[bytes | float]]:
        begun.append(time.monotonic())
        since = begun[-1] - begun[0]
        return 200, [1.3 - since if 0.3 <= since < 1.3 else 0.0, b'{"data": []}']

    tiny.reply = reply

    found = ask("--rate", "60", "--seconds", "1.6", "--json").json

    assert found["answered"] == found["arrivals"] > 60
    assert found["latency_ms"]["p50"] > 100
    assert found["latency_ms"]["p90"] > 700
    assert found["latency_ms"]["p99"] > 900


def test_who_is_turned_away_is_counted_apart(ask: Run, tiny: Tiny) -> None:
    statuses = iter([200, 429, 500, 429] * 100)

    def reply(_query: str) -> tuple[int, list[bytes | float]]:
        return next(statuses), [b'{"data": []}']

    tiny.reply = reply

    found = ask("--rate", "60", "--seconds", "0.5", "--json").json

    counts = found["statuses"]
    assert found["turned_away"] == counts["429"] > 5
    assert found["answered"] == counts["200"] == found["latency_ms"]["count"]
    assert found["errors"] == {"status 500": counts["500"]}


@dataclass
class Case:
    """A stream, and what it counts as."""

    parts: list[bytes | float]
    errors: dict[str, int] = field(default_factory=dict)
    unit: str = "tokens"


@pytest.mark.parametrize(
    "case",
    [
        Case([event(type=TEXT, delta="ab"), 0.05, event(type=TEXT, delta="cd"), DONE]),
        Case([event(type=TEXT, delta="a")[:9], 0.02, event(type=TEXT, delta="a")[9:], DONE]),
        Case([event(type=TEXT, delta="ab"), event(type="response.incomplete")], unit="characters"),
        Case([event(type=TEXT, delta="ab")], {"stream_cut": 1}),
        Case([event(type=TEXT, delta="ab"), b"BREAK"], {"broken": 1}),
        Case([event(type="response.failed", response={})], {"stream_failed": 1}),
        Case([b"data: [1]\n\ndata: no JSON\n\n: a comment\n\n", DONE]),
        Case([b"x" * 3000], {"too_large": 1}),
    ],
    ids=lambda case: next(iter(case.errors), case.unit),
)
def test_streams(ask: Run, tiny: Tiny, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_client, "LARGEST_ANSWER", 2000)
    tiny.reply = lambda _query: (200, case.parts)

    done = ask("--rate", "30", "--seconds", "0.1", "--kind", "answer", "--json", "--seed", "3")

    found = done.json
    assert found["arrivals"] >= 1
    assert found["errors"] == {kind: found["arrivals"] for kind in case.errors}
    assert found["unit"] == case.unit
    assert done.status == bool(case.errors)
    if 0.05 in case.parts:
        assert found["units"] == 4 * found["answered"]
        assert found["ms_per_unit"]["p50"] > 10
        assert found["latency_ms"]["p50"] > found["first_text_ms"]["p50"] + 30
    sent = tiny.asked[0]
    assert sent["stream"] is True
    assert sent["store"] is False
    assert sent["tools"] == [{"type": "file_search", "vector_store_ids": ["vs_1"]}]


def test_an_answer_that_is_no_search_result(ask: Run, tiny: Tiny) -> None:
    tiny.reply = lambda _query: (200, [b"<html>Please log in</html>"])

    done = ask("--rate", "30", "--seconds", "0.1", "--json", "--seed", "3")

    assert done.json["errors"] == {"unexpected_answer": done.json["arrivals"]}
    assert done.status == 1


def test_ctrl_c_shows_what_was_measured(tiny: Tiny) -> None:
    command = ["eval", "load", "--url", tiny.url, "--store", "made", "--rate", "100"]
    running = subprocess.Popen(
        [sys.executable, "-m", "youju", *command, "--seconds", "600", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    end = time.monotonic() + 60
    while len(tiny.asked) < 10 and time.monotonic() < end:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)

    assert running.returncode == 130, err
    found = json.loads(out)
    assert found["interrupted"]
    assert 2 <= found["answered"]
    assert found["seconds"] < 120


def test_the_table(ask: Run, tiny: Tiny) -> None:
    shown = ask("--rate", "30", "--seconds", "0.2", "--kind", "search").out

    assert "Asked for 30 a second" in shown
    assert "latency, ms" in shown
    assert "generator late, ms" in shown
    assert "turned away with 429: 0" in shown
    tiny.reply = lambda _query: (200, [event(type=TEXT, delta="ab"), DONE])
    shown = ask("--rate", "30", "--seconds", "0.2", "--kind", "answer").out
    assert "first text, ms" in shown
    assert "ms per token" in shown


def test_the_key_comes_from_the_environment(
    ask: Run, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    ask("--rate", "30", "--seconds", "0.1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    done = ask("--rate", "30", "--seconds", "0.1")

    assert tiny.keys == {None, "Bearer sk-secret"}
    assert "sk-secret" not in done.out + done.err
    monkeypatch.setenv("OPENAI_API_KEY", "sk-é")
    assert_one_line(ask("--rate", "1"), 2, "OPENAI_API_KEY")


def test_stores_are_found_on_later_pages(ask: Run, tiny: Tiny) -> None:
    def listing(path: str) -> tuple[int, Any]:
        if "after=vs_0" in path:
            return 200, {"data": [STORE], "has_more": False}
        return 200, {"data": [{"id": "vs_0", "name": "other"}], "has_more": True}

    tiny.listing = listing

    assert ask("--rate", "30", "--seconds", "0.1", "--json").json["store"] == "vs_1"


@pytest.mark.parametrize(
    ("status", "body", "code", "said"),
    [
        (200, {"data": []}, 2, "has no store 'made'"),
        (200, {"data": [STORE, {"id": "vs_2", "name": "made"}]}, 2, "2 stores are named"),
        (401, {}, 2, "OPENAI_API_KEY"),
        (404, {}, 1, "status 404"),
        (200, [1], 1, "status 200"),
        (200, {"data": [1]}, 1, "no list of stores"),
        (200, {"object": "x"}, 1, "no list of stores"),
    ],
)
def test_no_such_store(
    ask: Run, tiny: Tiny, status: int, body: object, code: int, said: str
) -> None:
    tiny.listing = lambda _path: (status, body)

    assert_one_line(ask("--rate", "1"), code, said)
    assert tiny.asked == []


def test_nobody_listens(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    done = run("eval", "load", "--url", f"http://127.0.0.1:{port}", "--store", "x", "--rate", "1")

    assert_one_line(done, 1, "Cannot use http://127.0.0.1", "Check --url.")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--rate and --users"),
        (["--rate", "1", "--users", "1"], "--rate and --users"),
        (["--rate", "0"], "rate"),
        (["--rate", "nan"], "rate"),
        (["--users", "1", "--think", "0"], "--think"),
        (["--rate", "1", "--seconds", "-1"], "--seconds"),
        (["--rate", "1", "--timeout", "0"], "--timeout"),
        (["--rate", "1", "--queries", "missing.txt"], "missing.txt"),
        (["--rate", "1", "--url", "localhost:8000"], "--url"),
        (["--rate", "1", "--url", "http://[::1"], "--url"),
    ],
)
def test_wrong_options(ask: Run, tiny: Tiny, options: list[str], said: str) -> None:
    assert_one_line(ask(*options), 2, said)
    assert tiny.asked == []


def test_files_of_queries() -> None:
    assert read_queries("\ufeffone\n\n 二 \n".encode(), "q.txt") == ["one", "二"]
    rows = b'{"_id": "a", "text": "one"}\n{"id": "b", "question": "two", "answers": []}\n'
    assert read_queries(rows, "q.jsonl") == ["one", "two"]
    for data, name in (
        (b"", "q.txt"), (b"\xff", "q.txt"), (b"one", "q.jsonl"), (b"[1]", "q.jsonl"),
        (b'{"text": 1}', "q.jsonl"), (b'{"text": ""}', "q.jsonl"),
    ):  # fmt: skip
        with pytest.raises(EvalDataError):
            read_queries(data, name)


def test_the_commands_of_the_page_run(
    run: Run, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs/evaluation.md").read_text("utf-8")
    section = page.split("## Load")[1].split("\n## ")[0]
    commands = re.findall(r"^youju (eval load .*)$", section, re.M)
    assert len(commands) == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "queries.jsonl").write_text('{"text": "How heavy is the D40?"}\n')
    tiny.listing = lambda _path: (200, {"data": [STORE | {"name": "handbook"}]})
    whole = [b'{"data": []}'], [event(type=TEXT, delta="ab"), DONE]
    for command, parts in zip(commands, whole, strict=True):
        tiny.reply = lambda _query, parts=parts: (200, parts)  # type: ignore[misc]
        shorter = command.replace("http://127.0.0.1:8000", tiny.url).replace(" --seconds 60", "")
        assert run(*shorter.split(), "--seconds", "0.3", "--seed", "4").status == 0
    assert tiny.asked[-1]["input"] == "How heavy is the D40?"


def test_the_errors_of_the_page_are_those_there_are() -> None:
    root = Path(__file__).resolve().parents[1]
    page = (root / "docs/evaluation.md").read_text("utf-8").split("| error | meaning |")[1]
    named = set(re.findall(r"`([a-z_]+)`", "\n".join(re.findall(r"^\|([^|]*)\|", page, re.M))))
    made = {load_module.TIMEOUT, load_module.NOT_SENT}
    made |= set(re.findall(r'Reply\(status, "(\w+)"\)', (root / "eval/load_client.py").read_text()))
    assert named == made | {"unexpected_answer"}
