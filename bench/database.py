"""CPU seconds of the same work on several databases: ingest, 5,000 passages, searches.

    python -m bench.database [URL...] [--passages 5000] [--searches 200]

SQLite comes first, then each URL, whose database must be empty: of PostgreSQL, by any driver. Only
this process and its children are counted, not PostgreSQL's own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from bench.corpus import fill, questions
from bench.process import run
from rag.build import build_rag
from rag.config import Settings

CORPUS = Path(__file__).resolve().parents[1] / "samples/corpus"


def measure(home: Path, url: str, passages: int, searches: int) -> dict[str, float | str]:
    """Return CPU seconds, and milliseconds of CPU for one search, on one database."""
    environment = {"YOUJU_HOME": str(home), "YOUJU_DATABASE_URL": url}
    warm = next(iter(sorted(CORPUS.rglob("*.md"))))
    run(["-m", "youju", "ingest", str(warm), "-s", "warm"], environment)
    ingest = run(["-m", "youju", "ingest", str(CORPUS), "-s", "samples"], environment)
    rag = build_rag(Settings(home=home, database_url=url))
    begin = time.process_time()
    fill(rag, "made", passages)
    filled = time.process_time() - begin
    asked = questions()
    store = rag.open("made")
    store.search(asked[0])
    begin, wall = time.process_time(), time.perf_counter()
    for number in range(searches):
        store.search(asked[number % len(asked)])
    spent, waited = time.process_time() - begin, time.perf_counter() - wall
    begin = time.process_time()
    for _ in range(searches):
        store.store.seq()
    once = time.process_time() - begin
    rag.db.close()
    return {
        "database": url.partition(":")[0] or "sqlite",
        "ingest_cpu_s": round(ingest.cpu_s, 2),
        "fill_cpu_s": round(filled, 2),
        "search_cpu_ms": round(1000 * spent / searches, 2),
        "search_wall_ms": round(1000 * waited / searches, 2),
        "seq_cpu_ms": round(1000 * once / searches, 3),
    }


def main() -> None:
    """Measure and print one JSON object a database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("urls", nargs="*")
    parser.add_argument("--passages", type=int, default=5000)
    parser.add_argument("--searches", type=int, default=200)
    options = parser.parse_args()
    for url in ["", *options.urls]:
        with tempfile.TemporaryDirectory() as scratch:
            found = measure(Path(scratch), url, options.passages, options.searches)
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
