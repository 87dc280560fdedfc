"""`youju eval compare`: files in, verdict out; what cannot be compared is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from command import Run, assert_one_line

from eval.compare import compare
from eval.metrics import evaluate_run
from eval.scores import System
from eval.trec import write_run

BETTER = [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
WORSE = [0.4, 0.4, 0.5, 0.9, 0.6, 0.6]


def results(path: Path, values: Mapping[str, object], metric: str = "nDCG@10") -> Path:
    lines = [json.dumps({"query": key, "metrics": {metric: one}}) for key, one in values.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def numbered(values: list[float]) -> dict[str, object]:
    return {f"q{number}": value for number, value in enumerate(values)}


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return results(tmp_path / "a.jsonl", numbered(WORSE))


@pytest.fixture
def b(tmp_path: Path) -> Path:
    return results(tmp_path / "b.jsonl", numbered(BETTER))


def test_worked_by_hand(run: Run, a: Path, b: Path) -> None:
    """Differences in tenths: 1 2 2 -1 3 4, sum 11; of 64 sign changes 6 have at least that sum.

    All plus (13), the one of the two 1s turned (11, twice), and as many the other way.
    """
    (found,) = run("eval", "compare", str(a), str(b), "--json").json["comparisons"]

    assert found["p"] == found["p_holm"] == pytest.approx(6 / 64)
    assert found["exact"]
    assert found["mean_first"] == pytest.approx(3.4 / 6)
    assert found["mean_second"] == pytest.approx(4.5 / 6)
    assert found["difference"] == pytest.approx(1.1 / 6)
    assert found["low"] < found["difference"] < found["high"]
    assert (found["wins"], found["losses"], found["ties"]) == (5, 1, 0)
    assert [row["query"] for row in found["gains"]] == ["q5", "q4", "q1"]
    assert [row["query"] for row in found["drops"]] == ["q3"]
    assert found["drops"][0]["difference"] == pytest.approx(-0.1)


def test_the_table_says_it_too(run: Run, a: Path, b: Path) -> None:
    shown = run("eval", "compare", str(a), str(b), "--examples", "1").out

    assert "+0.1833" in shown
    assert "0.0938" in shown
    assert "5/0/1" in shown
    assert "most in favour of b\nfirst   second  query\n0.6000  1.0000  q5" in shown
    assert "all 64 sign changes" in shown
    assert "Holm" not in shown


def test_the_other_way_round(run: Run, a: Path, b: Path) -> None:
    (there,) = run("eval", "compare", str(a), str(b), "--json").json["comparisons"]
    (back,) = run("eval", "compare", str(b), str(a), "--json").json["comparisons"]

    assert back["p"] == there["p"]
    assert back["difference"] == pytest.approx(-there["difference"])
    assert back["low"] == pytest.approx(-there["high"])
    assert back["wins"] == there["losses"]
    assert [row["query"] for row in back["drops"]] == [row["query"] for row in there["gains"]]


def test_a_file_with_itself(run: Run, a: Path) -> None:
    (found,) = run("eval", "compare", str(a), str(a), "--json").json["comparisons"]

    assert (found["p"], found["difference"], found["effect"]) == (1.0, 0.0, 0.0)
    assert (found["low"], found["high"], found["ties"]) == (0.0, 0.0, 6)


def test_the_order_of_lines_does_not_matter(run: Run, tmp_path: Path, a: Path, b: Path) -> None:
    turned = tmp_path / "t/b.jsonl"
    turned.parent.mkdir()
    turned.write_text("\n".join(reversed(b.read_text().splitlines())))

    assert run("eval", "compare", str(a), str(b)) == run("eval", "compare", str(a), str(turned))


def test_three_systems_are_corrected_for(run: Run, tmp_path: Path, a: Path, b: Path) -> None:
    c = results(tmp_path / "c.jsonl", numbered([value + 0.05 for value in BETTER]))

    found = run("eval", "compare", str(a), str(b), str(c), "--json").json["comparisons"]

    assert [(one["first"], one["second"]) for one in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    smallest = min(found, key=lambda one: one["p"])
    assert smallest["p_holm"] == pytest.approx(3 * smallest["p"])
    assert "p (Holm)" in run("eval", "compare", str(a), str(b), str(c)).out


def test_several_metrics_are_corrected_for(tmp_path: Path) -> None:
    systems = [
        System(name, {"f1": {"x": 0.1, "y": low, "z": 0.0}, "em": {"x": 0.0, "y": low, "z": 1.0}})
        for name, low in (("a", 0.0), ("b", 1.0))
    ]

    found = compare(systems, ["f1", "em"])

    assert [one.metric for one in found] == ["f1", "em"]
    assert [one.p_holm for one in found] == [1.0, 1.0]


def test_runs_are_scored_as_eval_retrieval_scores_them(run: Run, tmp_path: Path) -> None:
    grades = {f"q{number}": {"d1": 1, "d2": 2} for number in range(4)}
    first = {query: ["x", "d1", "d2"] for query in grades}
    second = {query: ["d2", "x", "d1"] for query in grades} | {"q3": ["x"], "extra": ["d1"]}
    (tmp_path / "qrels.tsv").write_text(
        "query-id\tcorpus-id\tscore\n"
        + "".join(f"{q}\t{d}\t{g}\n" for q, row in grades.items() for d, g in row.items())
        + "unanswerable\td1\t0\n"
    )
    (tmp_path / "qrels.txt").write_text(
        "".join(f"{q} 0 {d} {g}\n" for q, row in grades.items() for d, g in row.items())
    )
    write_run(tmp_path / "one.run", first | {"extra": ["x"]}, "one")
    write_run(tmp_path / "two.run", second, "two")
    runs = [str(tmp_path / name) for name in ("one.run", "two.run")]

    printed = [
        run("eval", "compare", *runs, "--qrels", str(tmp_path / name), "--metric", "MRR@10",
            "--metric", "nDCG@10", "--json").json
        for name in ("qrels.tsv", "qrels.txt")
    ]  # fmt: skip

    assert printed[0] == printed[1]
    assert printed[0]["systems"][0] == {"name": "one", "unjudged": 1}
    for one in printed[0]["comparisons"]:
        assert one["mean_first"] == pytest.approx(evaluate_run(grades, first)[one["metric"]])
        del second["extra"]
        assert one["mean_second"] == pytest.approx(evaluate_run(grades, second)[one["metric"]])
        second["extra"] = []
        assert (one["queries"], one["wins"], one["losses"]) == (4, 3, 1)


def test_runs_that_lack_judged_queries(run: Run, tmp_path: Path) -> None:
    """A run has no line for a query that found nothing; whether that is so is the user's word."""
    (tmp_path / "q.txt").write_text("".join(f"q{number} 0 d 1\n" for number in range(9)))
    write_run(tmp_path / "all.run", {f"q{number}": ["d"] for number in range(9)}, "x")
    write_run(tmp_path / "two.run", {"q0": ["d"], "q8": ["d"]}, "x")
    command = ("eval", "compare", str(tmp_path / "all.run"), str(tmp_path / "two.run"), "--qrels")

    refused = run(*command, str(tmp_path / "q.txt"))
    found = run(*command, str(tmp_path / "q.txt"), "--missing-as-zero", "--json")

    assert_one_line(refused, 2, "two.run lacks 7 queries ('q1', 'q2', 'q3', 'q4', 'q5', ...)")
    assert found.json["comparisons"][0]["mean_second"] == pytest.approx(2 / 9)
    (tmp_path / "less.txt").write_text("q0 0 d 1\nq8 0 d 1\n")
    assert_one_line(run(*command, str(tmp_path / "less.txt")), 2, "has 7 queries", "another run")


def test_results_over_different_queries(run: Run, tmp_path: Path, a: Path) -> None:
    fewer = results(tmp_path / "fewer.jsonl", {"q0": 0.5, "q1": 0.5, "other": 1})

    assert_one_line(run("eval", "compare", str(a), str(fewer)), 2, "lacks 4 queries", "'q2'")
    more = results(tmp_path / "more.jsonl", numbered([*BETTER, 1.0]))
    assert_one_line(run("eval", "compare", str(a), str(more)), 2, "a lacks 1 query ('q6')")


@pytest.mark.parametrize(
    ("value", "said"),
    [(float("nan"), "nan"), (float("inf"), "inf"), (None, "None"), (True, "True"),
     ("0.5", "'0.5'"), (10**400, "1000")],
)  # fmt: skip
def test_values_that_are_no_numbers(
    run: Run, tmp_path: Path, a: Path, value: object, said: str
) -> None:
    wrong = results(tmp_path / "wrong.jsonl", numbered(BETTER) | {"q4": value})

    done = run("eval", "compare", str(a), str(wrong))

    assert_one_line(done, 2, "line 5: nDCG@10 is", said, "finite number")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"query": "q", "metrics": {"f1": 1}}', "no nDCG@10 for query 'q' (it has: f1)"),
        ('{"query": "q"}', "got metrics None"),
        ('{"query": 1, "metrics": {}}', "query 1"),
        ('{"query": "q", "metrics": {"nDCG@10": 1}}\n' * 2, "occurred before"),
        ("q Q0 d 1 1.0 tag", "--qrels"),
        ("", "no file of results"),
        ('{"query": "q", "metrics": {"nDCG@10": 1}}', "fewer than two queries"),
    ],
)
def test_files_that_are_no_results(run: Run, tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "x.jsonl").write_text(content)

    assert_one_line(run("eval", "compare", *[str(tmp_path / "x.jsonl")] * 2), 2, said)


@pytest.mark.parametrize(
    "content", ["q 0 d", "q 0 d x", "q 0 d 1\nq 0 d 1", "q 0 d 99999", "q 0 d 1 2", "q 0 d 0"]
)
def test_judgements_that_are_none(run: Run, tmp_path: Path, a: Path, content: str) -> None:
    (tmp_path / "qrels.txt").write_text(content)
    write_run(tmp_path / "x.run", {"q": ["d"]}, "x")
    runs = [str(tmp_path / "x.run")] * 2

    assert_one_line(run("eval", "compare", *runs, "--qrels", str(tmp_path / "qrels.txt")), 2)


def test_wrong_options(run: Run, tmp_path: Path, a: Path, b: Path) -> None:
    both = (str(a), str(b))

    assert_one_line(run("eval", "compare", str(a)), 2, "two or more")
    assert_one_line(run("eval", "compare", *both, "--metric", "x", "--metric", "x"), 2, "twice")
    assert_one_line(run("eval", "compare", *both, "--missing-as-zero"), 2, "--qrels")
    assert_one_line(run("eval", "compare", *both, "--qrels", "no.txt"), 2, "Cannot read no.txt")
    wrong = run("eval", "compare", *both, "--qrels", str(a), "--metric", "f1")
    assert_one_line(wrong, 2, "'f1'", "nDCG@k")


def test_the_commands_of_the_page_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs/evaluation.md").read_text("utf-8")
    section = page.split("## Compare")[1].split("\n## ")[0]
    commands = re.findall(r"^youju (eval compare .*)$", section, re.M)
    assert len(commands) == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td2\t1\nq3\td3\t1\n"
    )
    write_run(tmp_path / "bm25.run", {"q1": ["d1"], "q2": ["d1", "d2"]}, "bm25")
    write_run(tmp_path / "hybrid.run", {"q1": ["d1"], "q2": ["d2"], "q3": ["d3"]}, "hybrid")
    (result,) = re.findall(r'`(\{"query".*?\}\})`', section)
    for name in ("before", "after"):
        (tmp_path / f"{name}.jsonl").write_text(f"{result}\n{result.replace('q1', 'q2')}\n")

    assert "hybrid" in run(*commands[0].split()).out
    assert len(run(*commands[1].split()).json["comparisons"]) == 2
