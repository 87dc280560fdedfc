"""Ingest, ask and eval open no connection beyond loopback, and leave no trace outside the home."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GUARD = '''
"""Refuses and writes down every look-up and connection that leaves the machine."""
import os, sys

LOG = os.environ["SOCKET_GUARD_LOG"]

def _local(host):
    return host in ("localhost", "", None) or str(host).startswith("127.") or host == "::1"

def _guard(event, arguments):
    if event == "socket.connect":
        address = arguments[1]
        beyond = isinstance(address, tuple) and not _local(address[0])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        beyond = not _local(arguments[0])
    elif event == "socket.sendto":
        beyond = isinstance(arguments[1], tuple) and not _local(arguments[1][0])
    else:
        return
    if beyond:
        with open(LOG, "a") as log:
            log.write(f"{event} {arguments!r}\\n")
        raise PermissionError(f"the guard refuses {event} {arguments!r}")

sys.addaudithook(_guard)
with open(LOG, "a") as log:
    log.write("guard on\\n")
'''
PROVOKED = {
    # What would make libraries call home if they were left to themselves.
    "LANGSMITH_TRACING": "true",
    "LANGCHAIN_TRACING_V2": "true",
    "LANGSMITH_API_KEY": "none",
    "HF_HUB_OFFLINE": "0",
}


@pytest.fixture
def guarded(tmp_path: Path, home: Path) -> dict[str, str]:
    """An environment in which the commands report and refuse outside connections.

    The guard sees what Python code does in the command's own process, not sockets that native
    libraries open by themselves, nor the parser's worker, which runs isolated. The model is
    converted already; that converting it opens none either is a slow test's.
    """
    site = tmp_path / "guard"
    site.mkdir()
    (site / "sitecustomize.py").write_text(GUARD)
    user = tmp_path / "user"
    user.mkdir()
    root = Path(__file__).resolve().parents[1]
    return {
        **os.environ,
        **PROVOKED,
        "PYTHONPATH": os.pathsep.join([str(site), str(root)]),
        "SOCKET_GUARD_LOG": str(tmp_path / "connections.log"),
        "YOUJU_HOME": str(home),
        "HOME": str(user),
    }


def youju(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "youju", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guard_sees_and_stops_a_connection(guarded: dict[str, str]) -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], env=guarded, capture_output=True)
    assert done.returncode != 0
    assert b"the guard refuses" in done.stderr
    assert "192.0.2.1" in Path(guarded["SOCKET_GUARD_LOG"]).read_text()


def test_nothing_phones_home(guarded: dict[str, str], tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.md").write_text("# Pump\n\nThe pump delivers 40 litres a minute.\n", "utf-8")
    (corpus / "b.html").write_text("<h1>阀门</h1><p>阀门每年检查一次。</p>", "utf-8")
    for name in ("travel-expense-2025-zh.docx", "../sales/warranty-policy-2025-en.pdf"):
        shutil.copy(Path(__file__).resolve().parents[1] / "samples/corpus/hr" / name, corpus)
    data = tmp_path / "data"
    (data / "qrels").mkdir(parents=True)
    passage = {"_id": "d1", "title": "", "text": "The pump delivers 40 litres a minute."}
    (data / "corpus.jsonl").write_text(json.dumps(passage) + "\n")
    (data / "queries.jsonl").write_text(json.dumps({"_id": "q1", "text": "pump litres"}) + "\n")
    (data / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")

    youju(guarded, "ingest", str(corpus))
    asked = json.loads(youju(guarded, "ask", "How many litres does the pump deliver?", "--json"))
    assert "40 litres" in asked["answer"]
    measured = json.loads(youju(guarded, "eval", "retrieval", "--data", str(data), "--json"))
    assert measured["metrics"]["recall@5"] == 1.0

    log = Path(guarded["SOCKET_GUARD_LOG"]).read_text().splitlines()
    assert len(log) >= 3, "the guard was not loaded"
    assert set(log) == {"guard on"}
    assert list(Path(guarded["HOME"]).rglob("*")) == []
