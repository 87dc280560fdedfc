"""CPU seconds of `youju ingest` against bare embedding of the same texts, in one run.

    python -m bench.ingest [--files 2000] [--words 150]

Both are whole processes (start-up included) that use the same converted model; the texts are
sentences of the English sample documents in random order, one file each.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path

from bench.process import run

ROOT = Path(__file__).resolve().parents[1]
EMBED = """
import sys
from pathlib import Path
from rag.build import build_rag
from rag.config import load_settings
texts = [path.read_text("utf-8") for path in sorted(Path(sys.argv[1]).iterdir())]
print(len(build_rag(load_settings().settings).embedder.encode_passages(texts)))
"""


def write_files(folder: Path, files: int, words: int, seed: int = 0) -> None:
    """Write `files` text files of about `words` words each."""
    source = [
        path.read_text("utf-8")
        for path in sorted((ROOT / "samples/corpus").rglob("*-en.*"))
        if path.suffix in (".md",) or path.name.startswith(("leave", "incident"))
    ]
    sentences = [line.split() for text in source for line in text.splitlines() if len(line) > 60]
    random_ = random.Random(seed)
    for number in range(files):
        text: list[str] = []
        while len(text) < words:
            text += random_.choice(sentences)
        (folder / f"{number:05}.txt").write_text(" ".join(text[:words]) + "\n", "utf-8")


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--words", type=int, default=150)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home, texts = Path(scratch) / "home", Path(scratch) / "texts"
        texts.mkdir()
        write_files(texts, options.files, options.words)
        environment = {"YOUJU_HOME": str(home)}
        first = next(texts.iterdir())
        run(["-m", "youju", "ingest", str(first), "-s", "warm"], environment)
        bare = run(["-c", EMBED, str(texts)], environment)
        ingest = run(["-m", "youju", "ingest", str(texts), "-s", "bench"], environment)
        again = run(["-m", "youju", "ingest", str(texts), "-s", "bench"], environment)
    print(
        json.dumps(
            {
                "files": options.files,
                "bare_embedding_cpu_s": round(bare.cpu_s, 1),
                "ingest_cpu_s": round(ingest.cpu_s, 1),
                "ratio": round(ingest.cpu_s / bare.cpu_s, 3),
                "ingest_wall_s": round(ingest.wall_s, 1),
                "again_unchanged_cpu_s": round(again.cpu_s, 1),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
