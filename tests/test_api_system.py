"""Whether the server lives, its numbers over several processes, and refusals told in our words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import Served
from served_process import ROOT
from wire import shown

from api.wording import shown as in_words


@pytest.fixture
def http(served: Served) -> Iterator[httpx.Client]:
    with served.http() as client:
        yield client


# -- alive -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_probe_may_ask_for_the_head_alone(http: httpx.Client, path: str) -> None:
    head, whole = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(whole.content))
    refused = http.put(path)
    shown(refused, 405, "method_not_allowed")
    assert refused.headers["allow"] == "GET, HEAD"


# -- numbers -----------------------------------------------------------------------------------

_WORKER = """
from prometheus_client import CollectorRegistry
from api.observing import Meters
meters = Meters(CollectorRegistry())
meters.running.inc(7)
meters.answers.labels("refused").inc(3)
print("ready", flush=True)
input()
"""


def _worker(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(
        [sys.executable, "-c", _WORKER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
    )  # fmt: skip
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    return started


def _number(http: httpx.Client, name: str) -> float:
    lines = [line.split() for line in http.get("/metrics").text.splitlines()]
    return sum(float(line[1]) for line in lines if line[0] == name)


def test_what_a_dead_process_was_doing_is_not_being_done(
    http: httpx.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with _worker(tmp_path) as worker:
        assert _number(http, "youju_requests_running") == 7
        worker.kill()
        worker.communicate()
    assert _number(http, "youju_requests_running") == 0
    assert _number(http, 'youju_answers_total{outcome="refused"}') == 3  # that has been done


# -- refusals ----------------------------------------------------------------------------------

_ASK: dict[str, Any] = {"model": "youju", "input": "x"}
_CHAT: dict[str, Any] = {"model": "youju", "messages": [{"role": "user", "content": "x"}]}
_SIZE = {"max_chunk_size_tokens": 5, "chunk_overlap_tokens": 0}


@pytest.mark.parametrize(
    ("path", "body", "param", "message"),
    [
        ("/v1/responses", _ASK | {"truncation": "never"}, "truncation",
         "expected 'auto' or 'disabled', got 'never'"),
        ("/v1/responses", _ASK | {"service_tier": 7}, "service_tier",
         "expected 'auto', 'default', 'flex' or 'priority', got 7"),
        ("/v1/responses", _ASK | {"tools": [{"type": "web_search"}]}, "tools.0.type",
         "expected 'file_search', got 'web_search'"),
        ("/v1/responses", _ASK | {"temperature": 3}, "temperature",
         "expected a number of at most 2, got 3"),
        ("/v1/responses", _ASK | {"max_output_tokens": 1.5}, "max_output_tokens",
         "expected a whole number, got 1.5"),
        ("/v1/responses", _ASK | {"max_output_tokens": "5"}, "max_output_tokens",
         "expected a number, got '5'"),
        ("/v1/responses", _ASK | {"background": 3}, "background",
         "expected true or false, got 3"),
        ("/v1/chat/completions", _CHAT | {"top_p": 0}, "top_p",
         "expected a number above 0, got 0"),
        ("/v1/chat/completions", _CHAT | {"n": 2}, "n", "expected 1, got 2"),
        ("/v1/vector_stores", {"chunking_strategy": {"type": "big"}}, "chunking_strategy.type",
         "expected 'auto' or 'static', got 'big'"),
        ("/v1/vector_stores", {"chunking_strategy": {"type": "static", "static": _SIZE}},
         "chunking_strategy.static.max_chunk_size_tokens",
         "expected a number of at least 100, got 5"),
        ("/v1/uploads/x/complete", {"part_ids": ["x"], "md5": "z"}, "md5",
         "expected a text that matches ^[0-9a-fA-F]{32}$, got 'z'"),
        ("/v1/responses/x/feedback", {"rating": "x" * 1000}, "rating",
         f"expected 'up' or 'down', got '{'x' * 80}'..."),
    ],
    ids=range(13),
)  # fmt: skip
def test_a_wrong_value_is_told_with_what_was_expected(
    http: httpx.Client, path: str, body: dict[str, Any], param: str, message: str
) -> None:
    error = shown(http.post(path, json=body), 400, "invalid_parameter")
    assert error["param"] == param
    assert error["message"] == f"{param}: {message}."


def test_a_wrong_value_in_the_url_and_a_form_that_is_not_named(http: httpx.Client) -> None:
    for query, message in (
        ("order=up", "order: expected 'asc' or 'desc', got 'up'."),
        ("limit=x", "limit: expected a number, got 'x'."),
        ("limit=101", "limit: expected a number of at most 100, got '101'."),
    ):
        error = shown(http.get(f"/v1/vector_stores?{query}"), 400, "invalid_parameter")
        assert error["message"] == message
    body: dict[str, Any] = {"chunking_strategy": {"static": {}}}
    error = shown(http.post("/v1/vector_stores", json=body), 400, "missing_parameter")
    assert error["param"] == "chunking_strategy.type"


@given(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())
)
def test_a_value_is_shown_in_few_characters(value: object) -> None:
    said = in_words(value)
    assert said
    assert len(said) <= 1000
    assert "\n" not in said
    assert in_words(10**4300 if value is None else value)
