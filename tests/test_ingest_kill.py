"""Kills an ingest at random moments, many times, and compares what is left with a fresh build."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from rag.build import build_rag
from rag.config import Settings
from rag.store.tables import ChunkRow, DocumentRow

KILLS = [1, pytest.param(20, marks=pytest.mark.slow)]
FILES = 24
STORE = "killed"
WORDS = "泵 阀门 轴承 压力 温度 密封 pump valve bearing pressure seal motor torque".split()


def write_corpus(folder: Path, seed: int) -> None:
    """Write FILES files; another seed changes two thirds of them."""
    folder.mkdir(exist_ok=True)
    for number in range(FILES):
        words = random.Random(number if number % 3 == 0 else seed * FILES + number)
        text = " ".join(words.choice(WORDS) for _ in range(120))
        (folder / f"{number:03}.txt").write_text(f"Part {number}. {text}.\n", "utf-8")


def ingest(corpus: Path, home: Path) -> subprocess.Popen[bytes]:
    """Start an ingest that commits often."""
    environment = {**os.environ, "YOUJU_HOME": str(home), "YOUJU_COMMIT_CHUNKS": "4"}
    return subprocess.Popen(
        [sys.executable, "-m", "youju", "ingest", str(corpus), "--store", STORE, "--prune"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    """Wait for an ingest that must succeed."""
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def contents(home: Path) -> dict[str, Any]:
    """Everything that a store holds and finds, without what may differ (ids, times)."""
    rag = build_rag(Settings(home=home))
    opened = rag.open(STORE)
    opened.refresh()
    with rag.db.read() as session:
        rows = session.execute(
            select(
                DocumentRow.name,
                DocumentRow.sha256,
                ChunkRow.id,
                ChunkRow.start,
                ChunkRow.end,
                ChunkRow.text,
                ChunkRow.vector,
            ).join(ChunkRow, ChunkRow.document_id == DocumentRow.id)
        ).all()
    ids = {row.id for row in rows}
    dense = opened.dense.refresh()
    assert set(dense.contents()[0].tolist()) == ids
    assert len(opened.lexical.refresh()) == len(ids)
    found = {
        query: sorted(
            (hit.chunk.file, hit.chunk.start, round(hit.score, 3))
            for hit in opened.search(query, top_k=100)
        )
        for query in ("轴承温度", "pressure seal", "Part 7")
    }
    rag.db.close()
    return {
        "rows": sorted((r.name, r.sha256, r.start, r.end, r.text) for r in rows),
        "found": found,
    }


@pytest.mark.timeout(400)
@pytest.mark.parametrize("wanted", KILLS)
@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
def test_a_killed_ingest_loses_and_doubles_nothing(
    tmp_path: Path, converted_models: Path, wanted: int
) -> None:
    corpus, home = tmp_path / "corpus", tmp_path / "killed"
    for name in ("timing", "killed", "fresh"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "models").symlink_to(converted_models, target_is_directory=True)
    write_corpus(corpus, seed=0)
    begin = time.monotonic()
    finish(ingest(corpus, tmp_path / "timing"))
    whole = time.monotonic() - begin
    moments = random.Random(2026)
    kills = 0
    for seed in range(1, 3 * wanted + 6):
        write_corpus(corpus, seed)
        process = ingest(corpus, home)
        try:
            process.wait(timeout=whole * moments.uniform(0.3, 0.95))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        assert process.stderr is not None
        process.stderr.close()
        if kills == wanted:
            break
    assert kills == wanted
    finish(ingest(corpus, home))
    finish(ingest(corpus, tmp_path / "fresh"))
    left, expected = contents(home), contents(tmp_path / "fresh")
    assert len({row[0] for row in left["rows"]}) == FILES
    assert left == expected
