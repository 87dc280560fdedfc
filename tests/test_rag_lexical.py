from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import StorageError
from rag.index.analyze import Analyzer
from rag.index.bm25 import GRAM_WEIGHT, MAX_QUERY_TERMS
from rag.index.lexical import REWRITE_SHARE, TantivyIndex
from rag.schema import Ranking
from rag.testing import check_lexical_index

ANALYZER = Analyzer()
WORDS = [f"w{n}x" for n in range(30)]
TEXTS = [
    (1, "The pump needs oil every month."),
    (2, "Check the seal of the pump; oil the pump."),
    (3, "水泵每月需要加油。"),
    (4, "员工年假为十五天。"),
    (5, "Vacation is fifteen days a year."),
]


def opened(folder: Path) -> TantivyIndex:
    return TantivyIndex.open(folder, analyzer=ANALYZER, lock_timeout_s=0.1)


@pytest.fixture
def index(tmp_path: Path) -> TantivyIndex:
    found = opened(tmp_path / "lexical")
    found.apply(TEXTS, [], 1)
    return found


def ids(ranking: Ranking) -> list[int]:
    return [id_ for id_, _ in ranking]


def test_conformance(tmp_path: Path) -> None:
    check_lexical_index(lambda: opened(tmp_path / "lexical"))


def test_the_score_is_bm25(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.apply([(1, "red red blue"), (2, "red green"), (3, "grey")], [], 1)

    def bm25(frequency: int, length: int, holding: int) -> float:
        idf = math.log(1 + (3 - holding + 0.5) / (holding + 0.5))
        return idf * frequency * 2.2 / (frequency + 1.2 * (0.25 + 0.75 * length / 2))

    [ranking] = index.search(["red blue red"], 10)
    assert ids(ranking) == [1, 2]
    assert ranking[0][1] == pytest.approx(bm25(2, 3, 2) + bm25(1, 3, 1), abs=1e-4)
    assert ranking[1][1] == pytest.approx(bm25(1, 2, 2), abs=1e-4)


def test_pairs_count_a_quarter(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.apply([(1, "员"), (2, "员工"), (3, "天")], [], 1)
    [[(id_, score)]] = index.search(["员工"], 5)
    idf = math.log(1 + 2.5 / 1.5)
    word = idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 1 / 1))
    pair = idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * 2 / (4 / 3)))
    assert id_ == 2
    assert score == pytest.approx(word + GRAM_WEIGHT * pair, abs=1e-4)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_the_weight_of_pairs(tmp_path: Path, weight: float) -> None:
    opened(tmp_path).apply([(1, "员"), (2, "员工"), (3, "天")], [], 1)
    plain = opened(tmp_path).search(["员工"], 5)[0][0][1]
    weighted = TantivyIndex.open(tmp_path, analyzer=ANALYZER, gram_weight=weight)
    silent = TantivyIndex.open(tmp_path, analyzer=ANALYZER, gram_weight=0)

    [[(id_, score)]] = weighted.search(["员工"], 5)
    [[(_, words)]] = silent.search(["员工"], 5)

    assert id_ == 2
    assert score == pytest.approx(words + weight / GRAM_WEIGHT * (plain - words), abs=1e-3)
    assert ids(weighted.search(["员"], 5)[0]) == ([1, 2] if weight else [1])


def test_a_lone_character_is_found_in_every_word(index: TantivyIndex) -> None:
    assert ids(index.search(["泵"], 5)[0]) == [3]
    assert ids(index.search(["假？"], 5)[0]) == [4]
    assert ids(index.search(["天"], 5)[0]) == [4]
    assert index.search(["龘"], 5) == [[]]


def test_traditional_finds_simplified(index: TantivyIndex) -> None:
    assert ids(index.search(["員工年假幾天"], 5)[0])[0] == 4


def test_ties_are_broken_by_id_wherever_they_lie(tmp_path: Path) -> None:
    index = opened(tmp_path)
    for part in ([90, 40], [70, 20], [30, 60], [10, 80, 50]):
        index.apply([(n, "same words here") for n in part], [], 1)
    for top_k in (1, 3, 9, 20):
        assert ids(index.search(["words"], top_k)[0]) == list(range(10, 100, 10))[:top_k]


def test_many_ties_for_the_last_place(tmp_path: Path) -> None:
    index = opened(tmp_path)
    index.apply([(n, "same words") for n in range(200, 0, -1)], [], 1)
    assert ids(index.search(["same"], 5)[0]) == [1, 2, 3, 4, 5]


def test_no_limit_no_hits(index: TantivyIndex) -> None:
    assert index.search(["pump"], 0) == [[]]


def test_a_long_query_keeps_its_rarest_terms(tmp_path: Path) -> None:
    index = opened(tmp_path)
    common = [f"c{n}z" for n in range(MAX_QUERY_TERMS)]
    index.apply([(n, " ".join(common)) for n in (1, 2, 3)] + [(4, "rare")], [], 1)
    found = index.search([" ".join([*common, "rare"])], 4)[0]
    assert ids(found)[-1] == 4
    assert len(found) == 4
    assert found[0][1] == found[1][1]
    least = index.search([" ".join(common[1:])], 1)[0][0][1]
    assert found[0][1] == least < index.search([" ".join(common)], 1)[0][0][1]


@pytest.mark.parametrize("query", ["x" * 100_000, "年" * 20_000, "a b " * 25_000, "\ud800", "\x00"])
def test_hostile_queries_are_just_words(index: TantivyIndex, query: str) -> None:
    assert index.search([query, "pump"], 5)[1]


def test_refused_changes_change_nothing(index: TantivyIndex) -> None:
    with pytest.raises(ValueError, match="ids > 0, got 0"):
        index.apply([(0, "x")], [1], 2)
    with pytest.raises(ValueError, match="seq >= 1, got 0"):
        index.apply([(9, "x")], [1], 0)
    assert (len(index), index.seq) == (5, 1)


def test_removing_everything_leaves_the_number(index: TantivyIndex) -> None:
    index.apply([], [1, 2, 3, 4, 5], 9)
    assert (len(index), index.seq) == (0, 9)
    assert index.search(["pump"], 5) == [[]]
    index.compact()
    assert (len(index), index.seq) == (0, 9)
    index.apply([(6, "pump")], [], 10)
    assert (len(index), index.seq, ids(index.search(["pump"], 5)[0])) == (1, 10, [6])


Change = tuple[dict[int, list[str]], set[int]]
CHANGES = st.lists(
    st.tuples(
        st.dictionaries(
            st.integers(1, 12), st.lists(st.sampled_from(WORDS[:8]), max_size=60), max_size=6
        ),
        st.sets(st.integers(1, 12), max_size=4),
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=12)
@given(changes=CHANGES)
def test_changes_one_by_one_equal_a_fresh_build(
    tmp_path_factory: pytest.TempPathFactory, changes: list[Change]
) -> None:
    folder = tmp_path_factory.mktemp("lexical")
    index = opened(folder / "changed")
    texts: dict[int, str] = {}
    for seq, (add, remove) in enumerate(changes, start=1):
        rows = [(id_, " ".join(words)) for id_, words in add.items()]
        index.apply(rows, sorted(remove), seq)
        texts = {id_: text for id_, text in texts.items() if id_ not in remove} | dict(rows)
    index.compact()
    fresh = opened(folder / "fresh")
    fresh.apply(sorted(texts.items()), [], len(changes))
    queries = [*WORDS[:8], " ".join(WORDS[:5])]
    assert (len(index), index.seq) == (len(texts), len(changes))
    assert index.search(queries, 20) == fresh.search(queries, 20)
    assert opened(folder / "changed").search(queries, 20) == fresh.search(queries, 20)


def test_it_rewrites_itself_when_enough_was_removed(tmp_path: Path) -> None:
    texts = [(n, f"common {WORDS[n % 30]} " * (1 + n % 7)) for n in range(1, 4 * REWRITE_SHARE)]
    index, fresh = opened(tmp_path / "a"), opened(tmp_path / "b")
    index.apply(texts, [], 1)
    index.apply([], [2], 2)
    fresh.apply([row for row in texts if row[0] != 2], [], 2)
    assert index.search(WORDS, 20) != fresh.search(WORDS, 20), "one removal rewrote it"
    index.apply([(500, "common w1x")], [3, 4, 5], 3)
    fresh.reset()
    fresh.apply([row for row in texts if not 2 <= row[0] <= 5] + [(500, "common w1x")], [], 3)
    assert index.search(WORDS, 20) == fresh.search(WORDS, 20)
    assert (len(index), index.seq) == (len(fresh), fresh.seq)


def test_one_writer_at_a_time(index: TantivyIndex, tmp_path: Path) -> None:
    other = opened(tmp_path / "lexical")
    with index.exclusive():
        index.apply([(6, "pump")], [], 2)
        with pytest.raises(StorageError, match=r"writing .* for more than 0\.1 s"):
            other.apply([(7, "pump")], [], 3)
        assert other.seq == 2, "readers are not kept out"
    other.apply([(7, "pump")], [], 3)
    assert (index.seq, len(index)) == (3, 7)
    assert ids(index.search(["pump"], 9)[0]) == [6, 7, 2, 1]


def test_threads_take_turns(tmp_path: Path) -> None:
    index = TantivyIndex.open(tmp_path / "lexical", analyzer=ANALYZER, lock_timeout_s=30)

    def write(n: int) -> None:
        index.apply([(n, f"pump {n}")], [], 1)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(1, 9)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert len(index.search(["pump"], 20)[0]) <= 8
    assert ids(index.search(["pump"], 20)[0]) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_change_that_fails_half_way_changes_nothing(
    index: TantivyIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    before = index.search(["pump", "年假"], 5)
    with monkeypatch.context() as patched:
        patched.setattr("rag.index.lexical.add_passage", fail)
        with pytest.raises(StorageError, match="cannot be written: No space left"):
            index.apply([(6, "pump")], [1], 2)
        with pytest.raises(StorageError, match="cannot be written: No space left"):
            index.apply([(6, "pump")], [1, 2, 3, 4], 2)
    assert (len(index), index.seq, index.search(["pump", "年假"], 5)) == (5, 1, before)
    index.apply([(6, "pump")], [1], 2)
    assert (len(index), index.seq) == (5, 2)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    code = """
import resource, sys
from pathlib import Path
from rag.errors import StorageError
from rag.index.lexical import TantivyIndex
index = TantivyIndex.open(Path(sys.argv[1]))
index.apply([(1, "pump")], [], 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    index.apply([(n, f"pump {n} {n * n} {n ** 3}") for n in range(2, 5000)], [], 2)
except StorageError as error:
    print(str(error).count(chr(10)), len(index), index.seq)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["0", "1", "1"]
    assert opened(tmp_path).search(["pump"], 5)[0][0][0] == 1


def test_killed_at_any_moment_it_is_as_before_or_after(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from rag.index.lexical import TantivyIndex
index = TantivyIndex.open(Path(sys.argv[1]))
print("ready", flush=True)
seq = index.seq
while True:
    seq += 1
    index.apply([(seq * 10 + n, f"pump {seq}") for n in range(10)], [seq * 10 - 15], seq)
"""
    folder = tmp_path / "lexical"
    for pause in (0.0, 0.02, 0.05, 0.11, 0.17):
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(pause)
        process.kill()
        process.wait()
        process.stdout.close()
        index = opened(folder)
        seq = index.seq
        expected = {s * 10 + n for s in range(1, seq + 1) for n in range(10)}
        expected -= {s * 10 - 15 for s in range(1, seq + 1)}
        assert len(index) == len(expected)
        assert set(ids(index.search(["pump"], 10_000)[0])) == expected


def _files(folder: Path, ending: str) -> list[Path]:
    return [path for path in (folder / "index").iterdir() if path.name.endswith(ending)]


@pytest.mark.parametrize("ending", [".term", ".idx", ".pos", ".store", ".fast", "meta.json"])
@pytest.mark.parametrize("damage", ["torn", "missing"])
def test_a_damaged_folder_starts_empty(
    index: TantivyIndex, tmp_path: Path, ending: str, damage: str
) -> None:
    folder = tmp_path / "lexical"
    for path in _files(folder, ending):
        if damage == "torn":
            half = path.read_bytes()[: path.stat().st_size // 2]
            path.unlink()  # never cut a file that `index` has mapped
            path.write_bytes(half)
        else:
            path.unlink()
    found = opened(folder)
    assert (len(found), found.seq, found.search(["pump"], 5)) == (0, 0, [[]])
    found.apply(TEXTS, [], 4)
    assert (len(found), found.seq) == (5, 4)


def test_a_folder_of_another_format_starts_empty(index: TantivyIndex, tmp_path: Path) -> None:
    folder = tmp_path / "lexical"
    (folder / "format.json").write_text(json.dumps({"format": "0.9"}))
    (folder / "mine.txt").write_text("not the index's")
    assert opened(folder).seq == 0
    assert (folder / "mine.txt").read_text() == "not the index's"


def test_damage_under_an_open_index_is_said(index: TantivyIndex, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "lexical" / "index")
    with pytest.raises(StorageError, match="damaged while in use"):
        index.search(["pump"], 5)


def test_a_reset_elsewhere_is_noticed(index: TantivyIndex, tmp_path: Path) -> None:
    opened(tmp_path / "lexical").reset()
    assert (len(index), index.seq, index.search(["pump"], 5)) == (0, 0, [[]])


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "lexical").write_text("")
    with pytest.raises(StorageError, match="cannot be made") as caught:
        opened(tmp_path / "lexical")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write all")
def test_a_read_only_folder_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="cannot be"):
        opened(tmp_path / "lexical")
    tmp_path.chmod(0o700)


@pytest.mark.parametrize(("name", "least"), [("xquad_zh", 0.952), ("xquad_en", 0.955)])
def test_ndcg_on_public_sets(shared_sets: Path, tmp_path: Path, name: str, least: float) -> None:
    def rows(file: str) -> list[dict[str, str]]:
        lines = (shared_sets / name / file).read_text(encoding="utf-8").split("\n")
        return [json.loads(line) for line in lines if line]

    corpus, queries = rows("corpus.jsonl"), rows("queries.jsonl")
    [qrels] = (shared_sets / name / "qrels").glob("*.tsv")
    relevant = dict(line.split("\t")[:2] for line in qrels.read_text().split("\n")[1:] if line)
    index = opened(tmp_path)
    index.apply(
        [(n, f"{row['title']}\n{row['text']}") for n, row in enumerate(corpus, start=1)], [], 1
    )
    gains = []
    rankings = index.search([row["text"] for row in queries], 10)
    for row, ranking in zip(queries, rankings, strict=True):
        found = [corpus[id_ - 1]["_id"] for id_ in ids(ranking)]
        gold = relevant[row["_id"]]  # these two sets judge one passage a question
        gains.append(1 / math.log2(found.index(gold) + 2) if gold in found else 0.0)
    assert sum(gains) / len(gains) >= least
