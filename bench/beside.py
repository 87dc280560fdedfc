"""An upload to a server, alone and while a big `youju ingest` runs on the same home.

    python -m bench.beside [--files 3000] [--words 600] [--uploads 12]

`ratio` is the median time from an upload's first byte until its status is "completed", beside the
ingest over alone (before and after it). The ingest is ended when the uploads are done.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from bench.api import Server
from rag.build import build_rag
from rag.config import Settings

_WORDS = "pump valve bearing pressure seal motor torque oil month hose blue steel weld bolt".split()


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=3000)
    parser.add_argument("--words", type=int, default=600)
    parser.add_argument("--uploads", type=int, default=12)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), options), indent=2))


def measure(scratch: Path, options: argparse.Namespace) -> dict[str, object]:
    """Return the figures."""
    home, corpus = scratch / "home", scratch / "corpus"
    corpus.mkdir()
    for number in range(options.files):
        (corpus / f"{number:05}.txt").write_text(_text(options.words))
    rag = build_rag(Settings(home=home))
    rag.embedder.prepare()
    with Server(str(home), 1) as server, httpx.Client(base_url=server.url, timeout=300) as http:
        store = http.post("/v1/vector_stores", json={"name": "s"}).json()["id"]
        _uploads(http, store, 3, options.words)  # starts the process that ingests them
        before = _uploads(http, store, options.uploads, options.words)
        bulk = subprocess.Popen(
            [sys.executable, "-m", "youju", "ingest", str(corpus), "--store", "bulk"],
            env=os.environ | {"YOUJU_HOME": str(home)},
            stdout=subprocess.DEVNULL,
        )
        while not (found := rag.catalog.find("bulk")) or not found.seq():
            time.sleep(0.1)
        begin, held = time.perf_counter(), len(found.hashes())
        beside = _uploads(http, store, options.uploads, options.words)
        seconds = time.perf_counter() - begin
        stored, ended = len(found.hashes()) - held, bulk.poll() is not None
        bulk.terminate()
        bulk.wait()
        after = _uploads(http, store, options.uploads, options.words)
    rag.db.close()
    return {
        "alone_s": [_shown(before), _shown(after)],
        "beside_s": _shown(beside),
        "ratio": round(statistics.median(beside) / statistics.median(before + after), 2),
        "bulk_files_per_s": round(stored / seconds, 2),
        "bulk_ended_early": ended,
    }


def _uploads(http: httpx.Client, store: str, number: int, words: int) -> list[float]:
    return [_upload(http, store, _text(words)) for _ in range(number)]


def _upload(http: httpx.Client, store: str, text: str) -> float:
    """Upload a file and wait until it is completed; return the seconds that took."""
    begin = time.perf_counter()
    sent = {"file": ("a.txt", text.encode())}
    file = http.post("/v1/files", files=sent, data={"purpose": "assistants"}).json()["id"]
    place = f"/v1/vector_stores/{store}/files"
    shown = http.post(place, json={"file_id": file}).json()
    while shown["status"] == "in_progress":
        time.sleep(0.02)
        shown = http.get(f"{place}/{file}").json()
    assert shown["status"] == "completed", shown
    return time.perf_counter() - begin


def _shown(seconds: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(seconds), 2), "most": round(max(seconds), 2)}


def _text(words: int) -> str:
    sentence = (" ".join(random.choices(_WORDS, k=9)) + f" {random.random()}." for _ in range(999))
    return "\n\n".join(next(sentence).capitalize() for _ in range(max(1, words // 10)))


if __name__ == "__main__":
    main()
