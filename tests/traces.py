"""Looks for words in every byte of a home folder, in every shape that they may have there.

In a process of its own: SQLite's locks are POSIX locks, which a process loses as soon as it closes
any file of that name, and with them the server that runs in this one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from rag.index.analyze import Analyzer

_LOOK = """
import json, pathlib, sys
home, wanted, found = pathlib.Path(sys.argv[1]), json.load(sys.stdin), {}
for path in sorted(home.rglob("*")):
    if home / "models" in path.parents:
        continue
    try:
        data = path.read_bytes() if path.is_file() else b""
    except FileNotFoundError:  # gone meanwhile
        continue
    for word, forms in wanted.items():
        if any(bytes.fromhex(form) in data + str(path).encode() for form in forms):
            found.setdefault(word, []).append(str(path.relative_to(home)))
print(json.dumps(found))
"""


def shapes(word: str, analyzer: Analyzer) -> set[bytes]:
    """A word as UTF-8, UTF-16, escaped as in JSON, in capitals or not, and as the index has it."""
    terms = analyzer.passage(word)
    spelled = {word, word.lower(), word.upper(), *terms.words, *terms.runs}
    spelled = {text for text in spelled if len(text) > 1}
    found = {text.encode(code) for text in spelled for code in ("utf-8", "utf-16-le", "utf-16-be")}
    return found | {json.dumps(text)[1:-1].encode() for text in spelled}


def traces(home: Path, words: Iterable[str]) -> dict[str, list[str]]:
    """Names of the files, by word, that hold it in their bytes or names; models left out."""
    analyzer = Analyzer()
    wanted = {word: [form.hex() for form in shapes(word, analyzer)] for word in words}
    done = subprocess.run(
        [sys.executable, "-c", _LOOK, str(home)],
        input=json.dumps(wanted), capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def gone_within(home: Path, words: Iterable[str], seconds: float) -> dict[str, list[str]]:
    """What is left of the words after some time at most; {} is good."""
    words = list(words)
    end = time.monotonic() + seconds
    while (left := traces(home, words)) and time.monotonic() < end:
        time.sleep(0.5)
    return left
