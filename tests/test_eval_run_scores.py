"""`youju eval retrieval --run FILE --qrels FILE`: another system's run, scored and told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.cli import app
from eval.metrics import METRICS
from eval.run_scores import RunReport, score_run
from rag.errors import EvalDataError, PathError

QRELS = "1 0 a 1\n1 0 b 0\n2 0 a 1\n3 0 a 1\n4 0 a 0\n"
RUN = (
    "1 Q0 b 1 2.0 them\n1 Q0 a 2 2.0 them\n2 Q0 a 9 0.5 them\n2 Q0 c 1 0.7 them\n7 Q0 a 1 1 them\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "qrels.txt").write_text(QRELS)
    (tmp_path / "run.trec").write_text(RUN)
    return tmp_path


def test_a_run_is_scored_over_every_judged_query(folder: Path) -> None:
    """1: b before a, as ties go by id downwards; 2: c before a by score; 3 and 4: nothing."""
    report = score_run(folder / "run.trec", folder / "qrels.txt", metrics=["MRR", "recall@1"])

    assert report == RunReport(
        system="them",
        data="qrels.txt",
        queries=4,
        metrics={"MRR": (1 / 2 + 1 / 2 + 0 + 0) / 4, "recall@1": 0.0},
        missing=2,
        nothing_relevant=1,
        unjudged=1,
    )


def test_judgements_in_beir_layout(folder: Path) -> None:
    rows = [line.split() for line in QRELS.splitlines()]
    lines = [f"{query}\t{text}\t{grade}\n" for query, _, text, grade in rows]
    (folder / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))

    beir, trec = (
        score_run(folder / "run.trec", folder / name) for name in ("test.tsv", "qrels.txt")
    )

    assert beir.metrics == trec.metrics


def test_each_query_is_written(folder: Path) -> None:
    out = folder / "each.jsonl"
    report = score_run(folder / "run.trec", folder / "qrels.txt", metrics=["MRR"], per_query=out)

    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0] == {"query": "1", "metrics": {"MRR": 0.5}, "relevant": 1, "retrieved": 2}
    assert rows[2] == {"query": "3", "metrics": {"MRR": 0.0}, "relevant": 1, "retrieved": 0}
    assert sum(row["metrics"]["MRR"] for row in rows) / len(rows) == report.metrics["MRR"]
    with pytest.raises(PathError, match="Cannot write"):
        score_run(folder / "none", folder / "none", per_query=folder)


def test_an_empty_run_scores_nothing(folder: Path) -> None:
    (folder / "run.trec").write_text("")

    report = score_run(folder / "run.trec", folder / "qrels.txt")

    assert (report.metrics, report.missing) == (dict.fromkeys(METRICS, 0.0), 4)


def test_a_run_of_other_queries_is_an_error(folder: Path) -> None:
    (folder / "run.trec").write_text("9 Q0 a 1 1 t\n")

    with pytest.raises(EvalDataError, match=r"No query of .*run\.trec is judged"):
        score_run(folder / "run.trec", folder / "qrels.txt")


def test_the_command(folder: Path) -> None:
    arguments = [
        "retrieval",
        "--run",
        str(folder / "run.trec"),
        "--qrels",
        str(folder / "qrels.txt"),
    ]

    as_json = CliRunner().invoke(app, [*arguments, "--metrics", "mrr,success@2", "--json"])
    table = CliRunner().invoke(app, arguments)

    assert json.loads(as_json.stdout) == {
        "system": "them",
        "data": "qrels.txt",
        "queries": 4,
        "metrics": {"MRR": 0.25, "success@2": 0.5},
        "missing": 2,
        "nothing_relevant": 1,
        "left_out": {"unjudged": 1},
    }
    lines = table.stdout.splitlines()
    assert lines[0].split() == ["system", "data", "queries", *METRICS, "missing"]
    assert lines[2:] == ["Queries left out: 1 without judgements."]


@pytest.mark.parametrize(
    "more",
    [[], ["--qrels", "q", "--data", "x"], ["--qrels", "q", "--save-run", "x"],
     ["--qrels", "q", "--system", "bm25"]],
)  # fmt: skip
def test_wrong_usage(more: list[str]) -> None:
    result = CliRunner().invoke(app, ["retrieval", "--run", "r", *more])

    assert result.exit_code == 2
    assert "--run goes with --qrels" in result.output
