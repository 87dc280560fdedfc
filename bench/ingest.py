"""`youju ingest` of mixed documents against bare embedding of its chunks, and a direct pipeline.

    python -m bench.ingest [--files 500] [--words 600] [--without-direct] [--times 10]

All are whole processes (start-up included), one after the other in one run. Bare embedding reads
the very chunks that the ingest made. The direct pipeline is bench.direct on the same files. Then
`--times` as many files are ingested, and the peaks of memory compared. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from bench.mixed import write_mixed
from bench.process import run

EMBED = """
import json, sys
from rag.build import build_rag
from rag.config import load_settings
texts = json.load(open(sys.argv[1]))
print(len(build_rag(load_settings().settings).embedder.encode_passages(texts)))
"""
CHUNKS = """
import json, sys
from rag.build import build_rag
from rag.config import load_settings
rag = build_rag(load_settings().settings)
store = rag.catalog.get("bench")
ids = store.delta(0).added
json.dump([text for part in store.texts(ids) for _, text in part], open(sys.argv[1], "w"))
"""


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--words", type=int, default=600)
    parser.add_argument("--without-direct", action="store_true")
    parser.add_argument("--times", type=int, default=10, help="1: do not ingest a larger folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        print(json.dumps(measure(Path(scratch), options), indent=2))


def measure(scratch: Path, options: argparse.Namespace) -> dict[str, object]:
    """Return the figures; children are started in order of rising memory (see bench.process)."""
    home, texts, chunks = scratch / "home", scratch / "texts", scratch / "chunks.json"
    texts.mkdir()
    write_mixed(texts, options.files, options.words)
    environment = {"YOUJU_HOME": str(home)}
    run(["-m", "youju", "ingest", str(next(texts.glob("*.txt"))), "-s", "warm"], environment)
    ingest = run(["-m", "youju", "ingest", str(texts), "-s", "bench"], environment)
    again = run(["-m", "youju", "ingest", str(texts), "-s", "bench"], environment)
    run(["-c", CHUNKS, str(chunks)], environment)
    bare = run(["-c", EMBED, str(chunks)], environment)
    found: dict[str, object] = {
        "files": options.files,
        "chunks": int(bare.output),
        "bare_embedding_cpu_s": round(bare.cpu_s, 1),
        "ingest_cpu_s": round(ingest.cpu_s, 1),
        "ratio": round(ingest.cpu_s / bare.cpu_s, 3),
        "ingest_wall_s": round(ingest.wall_s, 1),
        "ingest_peak_mib": round(ingest.peak_mib),
        "again_unchanged_cpu_s": round(again.cpu_s, 1),
    }
    if options.times > 1:
        many = scratch / "many"
        many.mkdir()
        write_mixed(many, options.times * options.files, options.words, seed=1)
        larger = run(["-m", "youju", "ingest", str(many), "-s", "larger"], environment)
        found[f"peak_mib_{options.times}_times_the_files"] = round(larger.peak_mib)
        found["peak_ratio"] = round(larger.peak_mib / ingest.peak_mib, 3)
    if not options.without_direct:
        direct = run(["-m", "bench.direct", str(texts), str(scratch / "faiss")], environment)
        found["direct_chunks"] = int(direct.output.split()[-1])
        found["direct_cpu_s"] = round(direct.cpu_s, 1)
        found["direct_to_ingest"] = round(direct.cpu_s / ingest.cpu_s, 2)
        found["direct_peak_mib"] = round(direct.peak_mib)
    return found


if __name__ == "__main__":
    main()
