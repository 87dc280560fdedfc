"""TREC runs: what is written is read back in the same order, by us and by trec_eval's rules."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.files import check_writable
from eval.trec import read_run, write_run
from rag.errors import EvalDataError, PathError

IDS = st.text(min_size=1, max_size=8).filter(
    lambda text: text.split() == [text] and text.isprintable()
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.trec"


def test_the_lines(path: Path) -> None:
    write_run(path, {"q1": ["d2", "d1"], "问": ["文"]}, tag="hybrid")

    assert path.read_bytes().decode() == (
        "q1 Q0 d2 1 2 hybrid\nq1 Q0 d1 2 1 hybrid\n问 Q0 文 1 1 hybrid\n"
    )


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(IDS, st.lists(IDS, min_size=1, max_size=20, unique=True), max_size=5))
def test_written_and_read_is_the_same(path: Path, run: dict[str, list[str]]) -> None:
    write_run(path, run, tag="t")

    assert read_run(path) == run


def test_trec_eval_s_own_reader_agrees(path: Path) -> None:
    import ir_measures

    run = {"q": [f"d{number}" for number in (3, 9, 1, 7)]}
    write_run(path, run, tag="t")

    found = sorted(ir_measures.read_trec_run(str(path)), key=lambda row: -row.score)

    assert [row.doc_id for row in found] == run["q"]


def test_equal_scores_are_ordered_as_trec_eval_does(path: Path) -> None:
    path.write_text("q Q0 a 1 5 t\nq Q0 c 2 5 t\nq Q0 b 3 5.0 t\nq Q0 z 4 9e0 t\n")

    assert read_run(path) == {"q": ["z", "c", "b", "a"]}


def test_scores_are_compared_as_trec_eval_keeps_them(path: Path) -> None:
    """In 32 bits 1.00000001 is 1; what is beyond them is without end."""
    path.write_text("q Q0 a 1 1.00000001 t\nq Q0 b 2 1 t\nq Q0 c 3 1e40 t\nq Q0 d 4 -inf t\n")

    assert read_run(path) == {"q": ["c", "b", "a", "d"]}


@pytest.mark.parametrize("bad", ["", " ", "a b", "a\tb", "a\n", "\u3000", "a\u00a0b", "a\x85b"])
def test_ids_with_white_space_are_refused(path: Path, bad: str) -> None:
    for run, tag in (({bad: ["d"]}, "t"), ({"q": ["d", bad]}, "t"), ({"q": ["d"]}, bad)):
        with pytest.raises(EvalDataError, match="white space"):
            write_run(path, run, tag=tag)
    assert not path.exists()


@pytest.mark.parametrize(
    "line",
    ["q Q0 d 1 5", "q Q0 d 1 5 t u", "q Q0 d 1 high t", "q Q0 d 1 nan t", "q Q0 seen 1 5 t", "q"],
)
def test_lines_that_are_off_are_named(path: Path, line: str) -> None:
    path.write_text(f"q Q0 seen 1 9 t\n\n{line}\n")

    with pytest.raises(EvalDataError, match=r"run\.trec, line 3: got"):
        read_run(path)


def test_files_that_cannot_be_read(path: Path) -> None:
    with pytest.raises(PathError, match="No such file"):
        read_run(path)
    path.write_bytes(b"q Q0 d 1 9 t\nq Q0 \xff 1 9 t\n")
    with pytest.raises(EvalDataError, match="line 2: not UTF-8"):
        read_run(path)


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "none" / "run", tmp_path / "file" / "run"):
        with pytest.raises(PathError, match="Cannot write"):
            check_writable(path)
        with pytest.raises(PathError, match="Cannot write"):
            write_run(path, {"q": ["d"]}, tag="t")
    check_writable(tmp_path / "run")
    assert sorted(os.listdir(tmp_path)) == ["file"]


def test_a_full_disk_leaves_the_old_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(path, {"q": ["d"]}, tag="t")

    def full(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(PathError, match="No space left"):
        write_run(path, {"q": ["e"]}, tag="t")
    assert read_run(path) == {"q": ["d"]}
    assert os.listdir(path.parent) == ["run.trec"]
