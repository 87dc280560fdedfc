"""Seconds and peak memory of `youju sync` of a folder in which nothing has changed.

    python -m bench.sync [--files 100000] [--characters 2000]

The store is filled directly, with random vectors, so that nothing is parsed or embedded; the sync
is a whole process, start-up included. Beside it: a sync after a tenth of the files have been moved.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np

from bench.process import Cost, run
from ingest.job import make_chunker
from ingest.pipeline import storable_path
from rag.build import Rag, build_rag
from rag.config import Settings
from rag.schema import Document, Passage
from rag.store.changelog import NewDocument
from rag.store.corpus import Store
from rag.store.stamps import Stamp

_IN_A_FOLDER = 200
_COMMITTED_TOGETHER = 1000
_HOUR_NS = 3_600_000_000_000


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--characters", type=int, default=2000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home, folder = Path(scratch) / "home", Path(scratch).resolve() / "folder"
        rag = build_rag(Settings(home=home))
        store = rag.writable("bench", make_chunker(rag).fingerprint)
        _fill(rag, store, folder, options.files, options.characters)
        rag.db.close()
        few = _sync(home, folder / "000")
        unchanged = _sync(home, folder)
        _move(folder, options.files // 10)
        moved = _sync(home, folder)
    done, after = json.loads(unchanged.output), json.loads(moved.output)
    assert (done["unchanged"], done["added"], done["deleted"]) == (options.files, [], [])
    assert (len(after["moved"]), after["added"], after["deleted"]) == (options.files // 10, [], [])
    print(
        json.dumps(
            {
                "files": options.files,
                "characters": options.characters,
                "unchanged_wall_s": round(unchanged.wall_s, 1),
                "unchanged_cpu_s": round(unchanged.cpu_s, 1),
                "unchanged_peak_mib": round(unchanged.peak_mib),
                "peak_mib_of_200_files": round(few.peak_mib),
                "a_tenth_moved_wall_s": round(moved.wall_s, 1),
            },
            indent=2,
        )
    )


def _fill(rag: Rag, store: Store, folder: Path, files: int, characters: int) -> None:
    numbers = np.random.default_rng(0)
    waiting: list[NewDocument] = []
    for number in range(files):
        path = folder / f"{number // _IN_A_FOLDER:03}" / f"file-{number:06}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (f"Valve {number} opens. " * (characters // 10))[:characters]
        path.write_text(text, "utf-8")
        old = time.time_ns() - _HOUR_NS
        os.utime(path, ns=(old, old))
        vector = numbers.standard_normal((1, store.dim)).astype(np.float32)
        info = path.stat()
        waiting.append(
            NewDocument(
                name=path.relative_to(folder).as_posix(),
                root=storable_path(folder),
                sha256=hashlib.sha256(text.encode()).hexdigest(),
                size=len(text),
                document=Document(text=text),
                passages=[Passage(0, len(text), text)],
                vectors=vector / np.linalg.norm(vector),
                source=storable_path(path),
                stamp=Stamp(info.st_mtime_ns, info.st_ctime_ns, time.time_ns()),
            )
        )
        if len(waiting) == _COMMITTED_TOGETHER or number == files - 1:
            store.commit(waiting)
            waiting = []


def _move(folder: Path, files: int) -> None:
    for number in range(files):
        path = folder / f"{number // _IN_A_FOLDER:03}" / f"file-{number:06}.txt"
        target = folder / "moved" / f"{number % 7}" / f"new-{number:06}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)


def _sync(home: Path, folder: Path) -> Cost:
    command = ["-m", "youju", "sync", str(folder), "-s", "bench", "--json"]
    return run(command, {"YOUJU_HOME": str(home)})


if __name__ == "__main__":
    main()
