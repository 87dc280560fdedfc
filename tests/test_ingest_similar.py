import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.similar import MIN_SIMILARITY, SIZE, SimilarFiles, similarity, sketch


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
    files.add("a", " ".join(one))
    files.add("other", " ".join(words(500, 9)))
    files.add("b", " ".join(one[:490]))
    files.add("c", " ".join(one))
    files.add("tiny", "abc")
    files.add("tiny too", "abc")
    assert [(pair.file, pair.other) for pair in files.found] == [("b", "a"), ("c", "a")]
    assert files.found[1].similarity == 1.0
    assert MIN_SIMILARITY <= files.found[0].similarity < 1.0


def test_many_copies_take_bounded_time_and_each_is_told() -> None:
    files = SimilarFiles()
    text = " ".join(words(200, 1))
    for number in range(300):
        files.add(str(number), text)
    assert len(files.found) == 299
    assert {pair.other for pair in files.found} == {"0"}


@given(st.text(max_size=300), st.text(max_size=300))
def test_similarity_is_symmetric_and_within_its_range(one: str, other: str) -> None:
    first, second = sketch(one), sketch(other)
    assert len(first) <= SIZE
    assert 0 <= similarity(first, second) == similarity(second, first) <= 1
    assert similarity(first, first) == (1.0 if len(first) else 0.0)
