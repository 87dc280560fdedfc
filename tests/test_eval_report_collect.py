"""A report's measurements: the same figures as the other commands give, and no failure dropped."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, cast, get_args

import pytest
from typer.testing import CliRunner

from eval.cli import app
from eval.report import render_html, render_markdown
from eval.report_cli import SystemName
from eval.report_collect import Wanted, collect
from eval.report_data import Report
from eval.report_facts import command_line, setting_facts
from eval.retrieval import evaluate_retrieval
from rag.build import OpenStore, Rag
from rag.config import load_settings
from rag.errors import ModelError
from rag.retrieve import System
from rag.schema import Answer, Citation
from rag.terminal import Progress
from rag.testing import FakeEmbedder

TEXTS = {
    "pump": ("Pump", "Oil the pump every month and check its seal."),
    "leave": ("假期", "正式员工每年享有十五天带薪年假。"),
    "visit": ("", "Visitors sign the book at the gate and wear a <badge>."),
    "nothing": ("", ""),
}
QUERIES = {
    "q-pump": ("How often does the pump need oil?", {"pump": 1}, ["every month"]),
    "q-leave": ("员工每年有几天年假？", {"leave": 1}, ["十五天"]),
    "q-visit": ("What do visitors wear at the gate?", {"visit": 2, "pump": 0}, ["hat"]),
    "q-none": ("zxqj", {"visit": 1}, []),
}
THREE: tuple[System, ...] = ("bm25", "dense", "hybrid")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    files: dict[str, list[dict[str, Any]]] = {
        "corpus": [{"_id": key, "title": row[0], "text": row[1]} for key, row in TEXTS.items()],
        "queries": [{"_id": key, "text": row[0]} for key, row in QUERIES.items()],
        "answers": [{"_id": key, "answers": row[2]} for key, row in QUERIES.items()],
    }
    for name, rows in files.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    judged = [f"{q}\t{d}\t{grade}\n" for q, row in QUERIES.items() for d, grade in row[1].items()]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    return folder


def with_fake(embedder: FakeEmbedder | None = None) -> Rag:
    rag = Rag(load_settings().settings)
    rag.embedder = cast(Any, embedder or FakeEmbedder())
    return rag


def made(rag: Rag, wanted: Wanted, **more: Any) -> Report:
    return collect(rag, load_settings(), wanted, arguments=["eval", "report"], environ={}, **more)


def replies(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Answer | Exception]) -> None:
    def ask(_self: OpenStore, question: str) -> Answer:
        found = answers[question]
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(OpenStore, "ask", ask)


def test_the_figures_are_those_of_the_other_commands(data: Path) -> None:
    report = made(with_fake(), Wanted(data, THREE, answers=False))

    assert [system.name for system in report.systems] == list(THREE)
    for system in report.systems:
        other = evaluate_retrieval(with_fake(), data, system=cast(System, system.name))
        assert system.metrics == pytest.approx(other.metrics)
        assert sum(system.ndcg) / 4 == pytest.approx(other.metrics["nDCG@10"])
        assert system.recall[9] == pytest.approx(other.metrics["recall@10"])
        assert (len(system.recall), len(system.latencies_ms)) == (100, 4)
    assert (report.queries, report.texts, report.data) == (4, 4, "tiny")
    assert report.answers is None
    assert "--no-answers" in report.without_answers


def test_the_worst_query_comes_with_what_should_have_been_found(data: Path) -> None:
    report = made(with_fake(), Wanted(data, ("bm25",), worst=1, answers=False))

    (worst,) = report.worst
    assert (worst.id, worst.text, worst.scores, worst.found) == ("q-none", "zxqj", {"bm25": 0}, ())
    (relevant,) = worst.relevant
    assert (relevant.id, relevant.grade, relevant.ranks) == ("visit", 1, {"bm25": None})
    assert relevant.beginning == TEXTS["visit"][1]


def test_what_was_found_says_what_is_relevant(data: Path) -> None:
    judged = "query-id\tcorpus-id\tscore\nq-pump\tnothing\t2\nq-pump\tpump\t1\n"
    (data / "qrels" / "test.tsv").write_text(judged)

    (worst,) = made(with_fake(), Wanted(data, ("bm25",), answers=False)).worst

    assert [text.id for text in worst.relevant] == ["nothing", "pump"]
    assert [text.ranks["bm25"] for text in worst.relevant] == [None, 1]
    assert (worst.found[0].id, worst.found[0].rank, worst.found[0].grade) == ("pump", 1, 1)


def test_a_system_that_fails_is_told(data: Path) -> None:
    class Failing(FakeEmbedder):
        def encode_passages(self, texts: Any) -> Any:
            raise ModelError("The model is damaged, says https://me:word@example.org/v1?key=abc.")

    report = made(with_fake(Failing()), Wanted(data, THREE))

    bm25, dense, hybrid = report.systems
    assert (bm25.failure, report.best) == ("", bm25)
    assert dense.failure == hybrid.failure
    assert "The model is damaged, says https://***@example.org/v1?***" in dense.failure
    assert dense.metrics == {}
    assert report.answers is not None
    assert "The model is damaged" in report.answers.failure
    assert report.answers.failed == report.answers.questions == 3


def test_answers_are_counted(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cited = (Citation("pump", None, 0, 1, "O", 1.0), Citation("visit", None, 0, 1, "V", 1.0))
    replies(monkeypatch, {
        QUERIES["q-pump"][0]: Answer("Every month. [1]", False, cited, confidence=0.91),
        QUERIES["q-leave"][0]: Answer("没有。", True, confidence=0.2),
        QUERIES["q-visit"][0]: Answer("A badge. [1]", False, cited[:1], confidence=0.99),
    })  # fmt: skip

    answers = made(with_fake(), Wanted(data, ("bm25",))).answers

    assert answers is not None
    assert (answers.questions, answers.given, answers.right, answers.refused) == (3, 2, 1, 1)
    assert (answers.cited, answers.citations, answers.failed, answers.failure) == (1, 3, 0, "")
    assert [(each.count, each.right) for each in answers.calibration.bins][-1] == (2, 1)
    assert [wrong.id for wrong in answers.wrong] == ["q-visit", "q-leave"]
    assert answers.wrong[0].expected == ("hat",)
    assert len(answers.latencies_ms) == 2


def test_a_question_that_fails_is_told(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replies(monkeypatch, {
        QUERIES["q-pump"][0]: ModelError("It timed out."),
        QUERIES["q-leave"][0]: Answer("十五天。", False, confidence=0.9),
        QUERIES["q-visit"][0]: ModelError("It hung up."),
    })  # fmt: skip

    answers = made(with_fake(), Wanted(data, ("bm25",))).answers

    assert answers is not None
    assert (answers.right, answers.failed, answers.failure) == (1, 2, "It timed out.")
    monkeypatch.setattr("eval.report_collect._FAILURES_IN_A_ROW", 1)
    stopped = made(with_fake(), Wanted(data, ("bm25",))).answers
    assert stopped is not None
    assert (stopped.right, stopped.failed) == (0, 3)
    assert stopped.failure == "Stopped when 1 in a row had failed. The first error: It timed out."


def test_a_set_without_answers(data: Path) -> None:
    (data / "answers.jsonl").unlink()

    report = made(with_fake(), Wanted(data, ("bm25",), limit=2))

    assert (report.queries, report.answers) == (2, None)
    assert "no answers.jsonl" in report.without_answers


def test_the_extractive_answerer_is_asked(data: Path) -> None:
    steps: list[Progress] = []

    answers = made(with_fake(), Wanted(data, ("bm25",), limit=2), progress=steps.append).answers

    assert answers is not None
    assert (answers.answerer, answers.system, answers.questions) == ("extractive", "hybrid", 2)
    assert answers.failure == ""
    assert {"asking", "searching, bm25", "timing, bm25"} <= {step.name for step in steps}


def test_no_secret_is_shown(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib", reason="the figures need the extra `eval`")
    variables = {
        "YOUJU_GENERATOR_API_KEY": "sk-hush1",
        "YOUJU_DOCUMENT_PASSWORDS": '["hush2", "hush3"]',
        "YOUJU_DATABASE_URL": "postgresql://me:hush4@db/x?password=hush5",
        "YOUJU_RERANKER_URL": "https://hush6@rerank.example/v1#hush7",
        "YOUJU_TOP_K": "5",
        "YOUJU_STORE": "it's mine",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    loaded = load_settings()
    rag = with_fake()
    command = command_line(["eval", "report"], loaded, variables)

    report = collect(
        rag, loaded, Wanted(data, ("bm25",), answers=False),
        arguments=["eval", "report"], environ=variables,
    )  # fmt: skip

    for text in (render_html(report), render_markdown(report), command):
        assert "hush" not in text
    shown = {fact.name: (fact.value, fact.more) for fact in setting_facts(loaded)}
    assert shown["generator_api_key"] == ("(set, not shown)", "YOUJU_GENERATOR_API_KEY")
    assert shown["document_passwords"][0] == "(set, not shown)"
    assert shown["reranker_api_key"] == ("", "default")
    assert shown["database_url"][0] == "postgresql://***@db/x?***"
    assert shlex.split(command)[-5:] == [
        "YOUJU_STORE=it's mine", "YOUJU_TOP_K=5", "youju", "eval", "report",
    ]  # fmt: skip


# -- the command -----------------------------------------------------------------------------------


def test_the_systems_of_the_command_are_all_there_are() -> None:
    assert tuple(name.value for name in SystemName) == get_args(System)


def test_the_command_writes_both_files(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the figures need the extra `eval`")
    out = tmp_path / "report.html"
    arguments = ["report", "--data", str(data), "--out", str(out), "--no-answers"]

    table = CliRunner().invoke(app, [*arguments, "--system", "bm25", "--system", "bm25"])
    as_json = CliRunner().invoke(app, [*arguments, "--system", "bm25", "--limit", "2", "--json"])

    assert table.exit_code == 0, table.output
    assert table.stdout.splitlines()[1].split()[:3] == ["bm25", "4", "0.7500"]
    found = json.loads(as_json.stdout)
    assert (found["html"], found["markdown"]) == (str(out), str(tmp_path / "report.md"))
    assert found["systems"][0]["metrics"]["nDCG@10"] == 1
    assert (found["queries"], found["answers"]) == (2, None)
    for path in (out, tmp_path / "report.md"):
        text = path.read_text("utf-8")
        assert "eval report --data" in text
        assert "--no-answers" in text
        assert "1.0000" in text


def test_a_failure_is_an_exit_status(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="the figures need the extra `eval`")

    class Failing(FakeEmbedder):
        def encode_queries(self, texts: Any) -> Any:
            raise ModelError("out of memory")

    monkeypatch.setattr("rag.build.build_rag", lambda _settings: with_fake(Failing()))
    out = tmp_path / "report.html"

    done = CliRunner().invoke(
        app, ["report", "--data", str(data), "--out", str(out), "--no-answers"]
    )

    assert done.exit_code == 1
    assert "dense failed: out of memory" in done.stdout
    assert "dense could not be measured: out of memory" in out.read_text("utf-8")


def test_a_place_that_cannot_be_written_is_said_first(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the figures need the extra `eval`")
    out = tmp_path / "none" / "report.html"

    done = CliRunner().invoke(app, ["report", "--data", str(data), "--out", str(out)])

    assert type(done.exception).__name__ == "PathError"
    assert not (tmp_path / "home").exists()
