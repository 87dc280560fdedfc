"""A store of made-up passages with random vectors, for benches that search and embed nothing."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import numpy as np

from rag.build import Rag
from rag.schema import Document, Passage
from rag.store.changelog import NewDocument

_SAMPLES = Path(__file__).resolve().parents[1] / "samples"
_PASSAGES_A_FILE = 50


def fill(rag: Rag, name: str, passages: int, *, words: int = 100, seed: int = 0) -> None:
    """Make a store of that many passages of English words, Zipf-distributed, and random vectors."""
    from ingest.job import make_chunker

    pick, numbers = random.Random(seed), np.random.default_rng(seed)
    vocabulary = _vocabulary(pick)
    weights = [1 / rank for rank in range(1, len(vocabulary) + 1)]
    store = rag.writable(name, make_chunker(rag).fingerprint)
    for first in range(0, passages, _PASSAGES_A_FILE):
        count = min(_PASSAGES_A_FILE, passages - first)
        texts = [" ".join(pick.choices(vocabulary, weights, k=words)) for _ in range(count)]
        vectors = numbers.standard_normal((count, store.dim)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        whole = "\n\n".join(texts)
        places, at = [], 0
        for text in texts:
            places.append(Passage(at, at + len(text), text))
            at += len(text) + 2
        name_of_file = f"made-{first // _PASSAGES_A_FILE:05d}.txt"
        store.commit(
            [
                NewDocument(
                    name=name_of_file,
                    root="",
                    sha256=f"{first:064x}",
                    size=len(whole),
                    document=Document(text=whole),
                    passages=places,
                    vectors=vectors,
                )
            ]
        )
    rag.open(name).refresh()


def questions() -> list[str]:
    """Return the English questions of the sample set."""
    lines = (_SAMPLES / "qa.jsonl").read_text(encoding="utf-8").splitlines()
    return [asked for line in lines if (asked := json.loads(line)["question"]).isascii()]


def _vocabulary(pick: random.Random) -> list[str]:
    """Return the words of the sample corpus, those that are frequent first, then made-up ones."""
    found: Counter[str] = Counter()
    for path in sorted((_SAMPLES / "corpus").rglob("*.md")):
        found.update(re.findall(r"[a-z]{2,}", path.read_text(encoding="utf-8").lower()))
    syllables = "ba ce di fo gu ha ke li mo nu pa re si to vu wa xe yi zo an el in or us".split()
    made = {"".join(pick.choices(syllables, k=pick.randint(2, 4))) for _ in range(20_000)}
    return [word for word, _ in found.most_common()] + sorted(made - found.keys())
