from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from upload_bench import Bench

from ingest.job import ingest_paths, reindex_store
from ingest.similar import MIN_SIMILARITY, SIZE, SimilarFiles, similarity, sketch
from rag.store.sketches import KEYS


def words(count: int, seed: int) -> list[str]:
    source = random.Random(seed)
    return ["".join(source.choices("abcdefghijklmnop泵水阀", k=6)) for _ in range(count)]


def runs(text: str) -> set[str]:
    folded = "".join(text.split()).casefold()
    return {folded[place : place + 6] for place in range(len(folded) - 5)}


@pytest.mark.parametrize("changed", [0, 10, 40, 200])
def test_the_estimate_is_near_the_true_share(changed: int) -> None:
    one = words(2000, 1)
    other = [*words(changed, 2), *one[changed:]]
    texts = " ".join(one), "\n".join(other).upper()
    true = len(runs(texts[0]) & runs(texts[1])) / len(runs(texts[0]) | runs(texts[1]))
    assert abs(similarity(sketch(texts[0]), sketch(texts[1])) - true) < 0.12


def test_each_file_is_told_with_the_most_similar_one_before_it() -> None:
    files = SimilarFiles()
    one = words(500, 1)
    files.add("a", sketch(" ".join(one)))
    files.add("other", sketch(" ".join(words(500, 9))))
    files.add("b", sketch(" ".join(one[:490])))
    files.add("c", sketch(" ".join(one)))
    files.add("tiny", sketch("abc"))
    files.add("tiny too", sketch("abc"))
    assert [(pair.file, pair.other) for pair in files.found] == [("b", "a"), ("c", "a")]
    assert files.found[1].similarity == 1.0
    assert MIN_SIMILARITY <= files.found[0].similarity < 1.0


def test_many_copies_take_bounded_time_and_each_is_told() -> None:
    files = SimilarFiles()
    text = " ".join(words(200, 1))
    for number in range(300):
        files.add(str(number), sketch(text))
    assert len(files.found) == 299
    assert {pair.other for pair in files.found} == {"0"}


@given(st.text(max_size=300), st.text(max_size=300))
def test_similarity_is_symmetric_and_within_its_range(one: str, other: str) -> None:
    first, second = sketch(one), sketch(other)
    assert len(first) <= SIZE
    assert 0 <= similarity(first, second) == similarity(second, first) <= 1
    assert similarity(first, first) == (1.0 if len(first) else 0.0)


def test_texts_that_are_alike_share_one_of_the_keys_that_they_are_stored_under() -> None:
    missed = 0
    for seed in range(300):
        one = words(60, seed)
        other = [*one[:56], *words(4, seed + 1000)]
        first, second = sketch(" ".join(one)), sketch(" ".join(other))
        missed += not set(first[:KEYS].tolist()) & set(second[:KEYS].tolist())
    assert missed <= 2


# -- over the runs ---------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path: Path, empty_database: Path) -> Iterator[Bench]:
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home")
    made = Bench(tmp_path / "home")
    yield made
    made.rag.db.close()


def test_a_file_like_one_that_is_there_already_is_told(bench: Bench, tmp_path: Path) -> None:
    text = words(500, 1)
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "first.txt").write_text(" ".join(text))

    def pairs(*, prune: bool = False) -> list[tuple[str, str]]:
        found = ingest_paths(bench.rag, "s", [docs], prune=prune).near_duplicates
        return [(pair.file, pair.other) for pair in found]

    assert pairs() == []
    bench.put(bench.rag.catalog.get("s"), " ".join(words(500, 2)), "uploaded.txt")
    assert bench.drain()
    (docs / "copy.txt").write_text(" ".join(text[:490]))
    (docs / "second.txt").write_text(" ".join(words(500, 2)[:490]))
    (docs / "unlike.txt").write_text(" ".join(words(500, 3)))
    assert pairs() == [("copy.txt", "first.txt"), ("second.txt", "uploaded.txt")]

    (docs / "unlike.txt").write_text(" ".join(words(500, 3)[:490]))
    assert pairs() == [], "neither what is unchanged, nor a file's own earlier version"
    (docs / "copy.txt").rename(docs / "moved.txt")
    (docs / "first.txt").unlink()
    assert pairs(prune=True) == [], "what is like it has gone"

    reindex_store(bench.rag, "s")
    (docs / "again.txt").write_text(" ".join(text[:480]))
    assert pairs() == [("again.txt", "moved.txt")]
    assert ingest_paths(bench.rag, "other", [docs / "again.txt"]).near_duplicates == ()
