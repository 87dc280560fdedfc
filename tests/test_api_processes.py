"""Real server processes: started, stopped, killed, overloaded, several on one home."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import Run, assert_one_line
from served import serving
from served_process import ROOT, ServeProcess, serve_process
from slow_model import slow_model

from rag.store.database import Database
from rag.store.projects import Keys

PUMP = b"# Pump\n\nThe D40 weighs 185 kg and needs 230 V.\n"
SAY = {"model": "slow", "messages": [{"role": "user", "content": "Speak."}]}


def _generator(url: str) -> dict[str, Any]:
    return {"generator": "openai", "generator_url": url, "generator_model": "slow"}


def _upload(http: httpx.Client, name: str, data: bytes) -> str:
    files = {"file": (name, data)}
    answer = http.post("/v1/files", files=files, data={"purpose": "user_data"})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def _until(holds: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


# -- starting ----------------------------------------------------------------------------------


def test_a_port_that_is_taken(run: Run, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_one_line(run("serve", "--port", str(port)), 2, f"port {port}", "--port")
    assert_one_line(run("serve", "--host", "no.such.host.invalid"), 2)


def test_with_a_key_it_listens_to_the_network(home: Path, converted_models: Path) -> None:
    db = Database(f"sqlite:///{home / 'youju.db'}")
    key = Keys(db).create("x")[1]
    db.close()
    with serve_process(home, "--host", "0.0.0.0", ready=False) as served:
        port = served.url.rsplit(":", 1)[1]
        headers = {"authorization": f"Bearer {key}", "host": "youju.example"}
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 401
        assert httpx.get(f"http://127.0.0.1:{port}/v1/models", headers=headers).status_code == 200
        assert served.stop() == 0


# -- ending ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_it_ends_when_told(home: Path, how: signal.Signals) -> None:
    with serve_process(home, ready=False) as served:
        begin = time.monotonic()
        assert served.stop(how) == 0
        assert time.monotonic() - begin < 15
        assert "Traceback" not in served.log
        assert "exception" not in served.log


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_is_being_answered_is_answered_to_its_end(home: Path, workers: str) -> None:
    with (
        slow_model(words=30) as model,
        serve_process(home, "--workers", workers, **_generator(model.url)) as served,
        served.http() as http,
    ):
        with http.stream("POST", "/v1/chat/completions", json={**SAY, "stream": True}) as answer:
            assert answer.status_code == 200
            lines = answer.iter_lines()
            text = next(lines)
            served.running.send_signal(signal.SIGTERM)
            begin = time.monotonic()
            text += "\n".join(lines)
        assert text.count("word ") == 30
        assert text.rstrip().endswith("data: [DONE]")
        assert served.running.wait(20) == 0
        assert time.monotonic() - begin < 20
        with pytest.raises(httpx.TransportError):
            http.get("/livez")


@pytest.mark.slow
def test_what_takes_too_long_is_cut_off(home: Path) -> None:
    with (
        slow_model(words=1000) as model,
        serve_process(home, **_generator(model.url), shutdown_timeout="2") as served,
        served.http() as http,
        http.stream("POST", "/v1/chat/completions", json={**SAY, "stream": True}) as answer,
    ):
        next(answer.iter_lines())
        begin = time.monotonic()
        assert served.stop() == 0
        assert time.monotonic() - begin < 15


# -- killed ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_while_it_ingests_nothing_is_lost(home: Path) -> None:
    with serve_process(home) as served, served.http() as http:
        store = http.post("/v1/vector_stores", json={"name": "many"}).json()["id"]
        ids = [
            _upload(http, f"{number}.md", PUMP * 200 + b"\n# Number %d\n" % number)
            for number in range(12)
        ]
        body = {"file_ids": ids}
        batch = http.post(f"/v1/vector_stores/{store}/file_batches", json=body).json()["id"]
        where = f"/v1/vector_stores/{store}/file_batches/{batch}"
        _until(lambda: http.get(where).json()["file_counts"]["completed"] > 0, 60)
        served.running.kill()
        served.running.wait()
    with serve_process(home) as served, served.http() as http:
        assert {file["id"] for file in http.get("/v1/files").json()["data"]} == set(ids)
        _until(lambda: http.get(where).json()["file_counts"]["completed"] == 12, 90)
        assert http.get(where).json()["status"] == "completed"
        found = http.post(f"/v1/vector_stores/{store}/search", json={"query": "Number 11"}).json()
        assert "11.md" in {hit["filename"] for hit in found["data"]}


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced(home: Path) -> None:
    with serve_process(home, "--workers", "2") as served:
        children = _children(served.running.pid)
        assert len(children) >= 2
        os.kill(children[-1], signal.SIGKILL)
        _until(lambda: _answers(served, 20), 60)
        assert served.stop() == 0


def _children(pid: int) -> list[int]:
    """Return the worker processes of a process, without Python's own resource tracker."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [
        int(child)
        for child in text.split()
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def _answers(served: ServeProcess, times: int) -> bool:
    try:
        return all(httpx.get(f"{served.url}/readyz").status_code == 200 for _ in range(times))
    except httpx.TransportError:
        return False


# -- several on one home -----------------------------------------------------------------------


@pytest.mark.slow
def test_workers_and_servers_on_one_home_see_the_same(home: Path) -> None:
    with serve_process(home, "--workers", "2") as pair, serve_process(home) as single:
        urls = [pair.url] * 6 + [single.url]  # a new connection each: any of the workers

        def everywhere(text: str) -> set[bool]:
            return {
                text in httpx.post(
                    f"{url}/v1/vector_stores/{store}/search", json={"query": text}, timeout=60
                ).text.replace(f'"search_query":["{text}"]', "")
                for url in urls
            }  # fmt: skip

        with pair.http() as http, single.http() as other:
            store = http.post("/v1/vector_stores", json={"name": "both"}).json()["id"]
            for name, word in (("a", "zebra"), ("b", "giraffe")):
                id_ = _upload(http, f"{name}.md", f"# {name}\n\nThe {word} weighs 1 kg.".encode())
                other.post(f"/v1/vector_stores/{store}/files", json={"file_id": id_})
                where = f"/v1/vector_stores/{store}/files/{id_}"
                _until(lambda: other.get(where).json()["status"] == "completed", 60)  # noqa: B023
                _until(lambda: everywhere(word) == {True}, 20)  # noqa: B023
            other.delete(f"/v1/files/{id_}")
            _until(lambda: everywhere("giraffe") == {False}, 20)
            assert everywhere("zebra") == {True}
            for url in urls:
                assert httpx.get(f"{url}/v1/files/{id_}").status_code == 404
            other.delete(f"/v1/vector_stores/{store}")
            for url in urls:
                assert httpx.get(f"{url}/v1/vector_stores/{store}").status_code == 404
            assert pair.stop() == 0


# -- too many ----------------------------------------------------------------------------------


def test_too_many_at_once_are_refused_at_once(served_home: Path) -> None:
    with (
        slow_model(words=5, pause_s=0.05) as model,
        serving(served_home, max_requests=4, **_generator(model.url)) as served,
    ):

        def ask(_: int) -> tuple[int, float, str]:
            begin = time.monotonic()
            with served.http() as http:
                answer = http.post("/v1/chat/completions", json=SAY)
            return (
                answer.status_code,
                time.monotonic() - begin,
                answer.headers.get("retry-after", ""),
            )

        with concurrent.futures.ThreadPoolExecutor(40) as pool:
            told = list(pool.map(ask, range(40)))
            counts = Counter(status for status, _, _ in told)
            assert set(counts) == {200, 429}, counts
            assert counts[200] >= 4
            assert all(wait == "1" for status, _, wait in told if status == 429)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:  # every permit is back
            assert {status for status, _, _ in pool.map(ask, range(4))} == {200}
        with served.http() as http:
            assert 'refused_total{reason="overload"}' in http.get("/metrics").text


def test_a_client_that_leaves_ends_the_work(served_home: Path) -> None:
    with (
        slow_model(words=2000, pause_s=0.02) as model,
        serving(served_home, max_requests=1, **_generator(model.url)) as served,
        served.http() as http,
    ):
        with http.stream("POST", "/v1/chat/completions", json={**SAY, "stream": True}) as answer:
            next(answer.iter_lines())
        _until(lambda: model.left == 1, 20)
        with pytest.raises(httpx.ReadTimeout):
            http.post("/v1/chat/completions", json=SAY, timeout=0.5)
        _until(lambda: http.get("/v1/models").status_code == 200, 20)  # the one permit is back
        _until(lambda: model.left == 2, 30)


def _run_youju(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment: dict[str, Any] = {**os.environ, "YOUJU_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "youju", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


@pytest.mark.slow
def test_a_key_made_beside_a_running_server_closes_it(home: Path) -> None:
    with serve_process(home, ready=False) as served, served.http() as http:
        assert http.get("/v1/models").status_code == 200
        made = _run_youju(home, "keys", "create", "first")
        key = made.stdout.splitlines()[0]
        _until(lambda: http.get("/v1/models").status_code == 401, 2)
        with served.http(key) as mine:
            assert mine.get("/v1/models").status_code == 200
        assert key not in served.log
