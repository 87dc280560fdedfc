"""The gate fails on a drop, not on noise, and a fault is no score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import Run
from hypothesis import given
from hypothesis import strategies as st

from eval import gate
from eval.gate import BASELINES, Baseline, Checked, Expected, check, chosen, read_baselines
from rag.errors import EvalDataError, PathError, UsageError

COMMAND = "youju eval retrieval --data {sets}/tiny --system bm25 --json"
ENTRY = {
    "name": "tiny bm25",
    "command": COMMAND,
    "quick": True,
    "expect": {"metrics.nDCG@10": {"value": 1.0, "tolerance": 0.001}},
}


def write(path: Path, *entries: object) -> Path:
    path.write_text(yaml.safe_dump({"baselines": list(entries)}), "utf-8")
    return path


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    folder = tmp_path / "sets/tiny"
    (folder / "qrels").mkdir(parents=True)
    texts = {"a": "The pump weighs 38 kg.", "b": "The valve is blue.", "c": "Okapis sleep here."}
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": id_, "text": text}) + "\n" for id_, text in texts.items())
    )
    (folder / "queries.jsonl").write_text(
        '{"_id": "1", "text": "colour of the valve"}\n{"_id": "2", "text": "pump weighs"}\n'
    )
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n1\tb\t1\n2\ta\t1\n")
    return tmp_path / "sets"


def test_a_score_that_holds_and_one_that_fell(
    sets: Path, tmp_path: Path, home: Path, run: Run
) -> None:
    file = write(tmp_path / "b.yaml", ENTRY)
    arguments = ["eval", "gate", "--sets", str(sets), "--baselines", str(file)]
    done = run(*arguments, "--json")
    assert done.status == 0, done.err
    (told,) = json.loads(done.out)
    assert (told["got"], told["verdict"]) == (1.0, "ok")
    (sets / "tiny/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\n1\tb\t1\n2\tc\t1\n")
    fallen = run(*arguments)
    assert fallen.status == 1
    assert "worse" in fallen.out
    assert "1 figure fell below the baseline" in fallen.err
    assert (home / "eval").is_dir()


def test_a_command_that_fails_is_a_fault_and_no_score(
    sets: Path, tmp_path: Path, home: Path, run: Run
) -> None:
    (sets / "tiny/queries.jsonl").write_text("{")
    done = run(
        "eval", "gate", "--sets", str(sets), "--baselines", str(write(tmp_path / "b.yaml", ENTRY))
    )
    assert done.status != 0
    assert "tiny bm25: youju eval retrieval" in done.err
    assert "queries.jsonl, line 1" in done.err
    assert len(done.err.splitlines()) == 1
    assert home.is_dir()


def test_a_set_that_is_not_there_is_named(tmp_path: Path) -> None:
    baselines = read_baselines(write(tmp_path / "b.yaml", ENTRY))
    with pytest.raises(UsageError, match="tiny is not there"):
        list(check(baselines, tmp_path))


@pytest.mark.parametrize("printed", [{}, {"metrics": 1}, {"metrics": {"nDCG@10": "1"}}, [], None])
def test_a_figure_that_is_missing_is_a_fault(
    sets: Path, monkeypatch: pytest.MonkeyPatch, printed: Any
) -> None:
    monkeypatch.setattr(gate, "_run", lambda _command, _name: printed)
    baseline = Baseline("x", ("youju",), True, (Expected("metrics.nDCG@10", 1, 0),))
    with pytest.raises(EvalDataError, match=r"metrics\.nDCG@10"):
        list(check([baseline], sets))


@given(value=st.floats(0, 1), tolerance=st.floats(0, 0.1), got=st.floats(0, 1))
def test_a_drop_beyond_the_tolerance_is_worse(value: float, tolerance: float, got: float) -> None:
    verdict = Checked("x", Expected("y", value, tolerance), got).verdict
    if got >= value - tolerance:
        assert verdict != "worse"
    elif got < value - tolerance - 1e-6:
        assert verdict == "worse"
    if got > value + tolerance + 1e-6:
        assert verdict == "better"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"command": "rm -rf /"}, "expected a command of youju eval"),
        ({"command": "youju eval gate --json"}, "expected a command of youju eval"),
        ({"command": COMMAND.replace("--json", "")}, "expected --json"),
        ({"command": "youju eval retrieval 'x"}, "quotation"),
        ({"command": 1}, ""),
        ({"expect": {}}, "expected a figure"),
        ({"expect": {"a": 1}}, "PATH"),
        ({"expect": {"a": {"value": 1}}}, "value and tolerance"),
        ({"expect": {"a": {"value": "x", "tolerance": 0}}}, "numbers"),
        ({"expect": {"a": {"value": 1, "tolerance": -1}}}, "numbers"),
        ({"expect": None}, ""),
        ({"name": 3}, "name"),
        ({"quick": "yes"}, "quick"),
        ({"more": 1}, "keys"),
    ],
)
def test_an_entry_that_is_off_is_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    file = write(tmp_path / "b.yaml", {**ENTRY, "name": "first"}, {**ENTRY, **change})
    with pytest.raises(EvalDataError, match=f"entry 2: .*{told}"):
        read_baselines(file)


@pytest.mark.parametrize(
    "text", ["", "a: [", "baselines: 3", "baselines: []", "- 1", "a: !!python/object:os.system x"]
)
def test_what_is_no_list_of_baselines_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(EvalDataError):
        read_baselines(tmp_path / "b.yaml")
    with pytest.raises(PathError):
        read_baselines(tmp_path / "none.yaml")
    with pytest.raises(EvalDataError, match="twice"):
        read_baselines(write(tmp_path / "b.yaml", ENTRY, ENTRY))


def test_which_are_run(tmp_path: Path) -> None:
    slow = {**ENTRY, "name": "tiny dense", "quick": False}
    baselines = read_baselines(write(tmp_path / "b.yaml", ENTRY, slow))
    assert [one.name for one in chosen(baselines, "*", quick=False)] == ["tiny bm25", "tiny dense"]
    assert [one.name for one in chosen(baselines, "*", quick=True)] == ["tiny bm25"]
    assert [one.name for one in chosen(baselines, "* dense", quick=False)] == ["tiny dense"]
    with pytest.raises(UsageError, match="tiny bm25"):
        chosen(baselines, "scifact", quick=False)


# -- the project's own -----------------------------------------------------------------------------


def test_every_set_has_a_baseline(shared_sets: Path) -> None:
    commands = [" ".join(baseline.command) for baseline in read_baselines()]
    for folder in shared_sets.iterdir():
        if (folder / "corpus.jsonl").exists():
            assert any(f"{{sets}}/{folder.name} " in command for command in commands), folder.name


def test_the_quick_ones_hold(shared_sets: Path, home: Path, run: Run) -> None:
    done = run("eval", "gate", "--sets", str(shared_sets), "--quick")
    assert done.status == 0, done.out + done.err
    assert home.is_dir()


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_all_hold(shared_sets: Path, home: Path, run: Run) -> None:
    done = run("eval", "gate", "--sets", str(shared_sets))
    assert done.status == 0, done.out + done.err
    assert BASELINES.is_file()
    assert home.is_dir()
