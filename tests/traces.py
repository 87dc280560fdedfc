"""Looks for words in every byte of a home folder, in every shape that they may have there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path

from rag.index.analyze import Analyzer


def shapes(word: str) -> set[bytes]:
    """A word as UTF-8, UTF-16, escaped as in JSON, in capitals or not, and as the index has it."""
    terms = Analyzer().passage(word)
    spelled = {word, word.lower(), word.upper(), *terms.words, *terms.runs}
    spelled = {text for text in spelled if len(text) > 1}
    found = {text.encode(code) for text in spelled for code in ("utf-8", "utf-16-le", "utf-16-be")}
    return found | {json.dumps(text)[1:-1].encode() for text in spelled}


def traces(home: Path, words: Iterable[str], *, but: Path | None = None) -> dict[str, list[str]]:
    """Names of the files, by word, that hold it; models, and the folder `but`, left out."""
    wanted = {word: shapes(word) for word in words}
    found: dict[str, list[str]] = {}
    for path in sorted(home.rglob("*")):
        if (home / "models") in path.parents or (but is not None and but in path.parents):
            continue
        try:
            data = path.read_bytes() if path.is_file() else b""
        except FileNotFoundError:  # gone meanwhile
            continue
        for word, forms in wanted.items():
            if any(form in data for form in forms) or any(
                form in str(path).encode() for form in forms
            ):
                found.setdefault(word, []).append(str(path.relative_to(home)))
    return found


def gone_within(home: Path, words: Iterable[str], seconds: float) -> dict[str, list[str]]:
    """What is left of the words after some time at most; {} is good."""
    end = time.monotonic() + seconds
    while (left := traces(home, words)) and time.monotonic() < end:
        time.sleep(0.2)
    return left
