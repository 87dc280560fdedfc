"""Evaluation end to end: a tiny set with fakes through the real store and indexes, and the CLI."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from eval.cli import app
from eval.metrics import METRICS
from eval.retrieval import evaluate_retrieval
from eval.trec import read_run
from rag.build import Rag
from rag.config import load_settings
from rag.errors import EvalDataError, ModelError, PathError, StorageError
from rag.retrieve import System
from rag.terminal import Progress
from rag.testing import FakeEmbedder

SYSTEMS: tuple[System, ...] = ("hybrid", "dense", "bm25", "rrf")
TEXTS = {
    "pump": ("Pump", "Oil the pump every month and check its seal."),
    "leave": ("假期", "正式员工每年享有十五天带薪年假。"),
    "same leave": ("假期", "正式员工每年享有十五天带薪年假。"),
    "visit": ("", "Visitors sign the book at the gate and wear a badge."),
    "nothing": ("", ""),
}
QUERIES = {
    "q-pump": ("How often does the pump need oil?", {"pump": 1}),
    "q-leave": ("员工每年有几天年假？", {"leave": 1, "same leave": 1}),
    "q-visit": ("What do visitors wear at the gate?", {"visit": 2, "pump": 0}),
    "q-none": ("zxqj", {"visit": 1}),
    "q-unjudged": ("Who cares?", {}),
}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    texts = [{"_id": key, "title": row[0], "text": row[1]} for key, row in TEXTS.items()]
    queries = [{"_id": key, "text": row[0]} for key, row in QUERIES.items()]
    for name, rows in (("corpus", texts), ("queries", queries)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    judged = [f"{q}\t{d}\t{grade}\n" for q, row in QUERIES.items() for d, grade in row[1].items()]
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    return folder


def with_fake(embedder: FakeEmbedder) -> Rag:
    rag = Rag(load_settings().settings)
    rag.embedder = cast(Any, embedder)
    return rag


@pytest.fixture
def rag() -> Rag:
    return with_fake(FakeEmbedder())


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_is_measured(rag: Rag, data: Path, system: System) -> None:
    report = evaluate_retrieval(rag, data, system=system)

    assert (report.system, report.data, report.queries) == (system, "tiny", 4)
    assert tuple(report.metrics) == METRICS
    if system == "bm25":  # three found at the top, "zxqj" not at all
        assert report.metrics == pytest.approx(dict.fromkeys(METRICS, 0.75))
    else:  # dense finds something for everything
        assert report.metrics["recall@5"] == 1
        assert 0.75 <= report.metrics["nDCG@10"] < 1
    assert report.seconds > 0


def test_the_json_is_as_documented(rag: Rag, data: Path) -> None:
    found = evaluate_retrieval(rag, data, system="bm25").to_json()

    assert list(found) == ["system", "data", "queries", "metrics", "seconds"]
    assert list(found["metrics"]) == [
        "nDCG@10",
        "recall@5",
        "recall@10",
        "recall@100",
        "MRR@10",
    ]
    assert json.loads(json.dumps(found)) == found


def test_bm25_embeds_nothing(rag: Rag, data: Path) -> None:
    evaluate_retrieval(rag, data, system="bm25")

    assert cast(Any, rag.embedder).encoded == []


def test_the_second_system_finds_the_index_ready(data: Path) -> None:
    first, second = FakeEmbedder(), FakeEmbedder()
    evaluate_retrieval(with_fake(first), data, system="dense")
    passages = [f"{title}\n{text}" if title else text for title, text in TEXTS.values()]
    assert [text for text in first.encoded if text in passages] == passages

    evaluate_retrieval(with_fake(second), data, system="hybrid")
    assert set(second.encoded) == {text for key, (text, _) in QUERIES.items() if "un" not in key}

    other = FakeEmbedder(name="other")
    evaluate_retrieval(with_fake(other), data, system="dense")
    assert set(passages) <= set(other.encoded)


def test_a_changed_corpus_is_indexed_anew(rag: Rag, data: Path) -> None:
    before = evaluate_retrieval(rag, data, system="bm25")
    corpus = data / "corpus.jsonl"
    corpus.write_text(corpus.read_text(encoding="utf-8").replace("Oil the pump", "Rest"))

    after = evaluate_retrieval(rag, data, system="bm25")

    assert after.metrics["MRR@10"] <= before.metrics["MRR@10"]
    assert len(list((rag.settings.home / "eval").iterdir())) == 2


def test_indexing_that_broke_off_goes_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.indexed._TEXTS_AT_ONCE", 2)

    class Failing(FakeEmbedder):
        def encode_passages(self, texts: Any) -> Any:
            if any("Visitors" in text for text in texts):
                raise ModelError("out of memory")
            return super().encode_passages(texts)

    with pytest.raises(ModelError, match="out of memory"):
        evaluate_retrieval(with_fake(Failing()), data, system="dense")
    going_on = FakeEmbedder()

    assert evaluate_retrieval(with_fake(going_on), data, system="dense").metrics["recall@5"] == 1
    assert "Pump\nOil the pump every month and check its seal." not in going_on.encoded


def test_the_product_s_own_stores_are_not_touched(rag: Rag, data: Path) -> None:
    evaluate_retrieval(rag, data, system="rrf")

    assert rag.catalog.stores() == []
    assert not rag.settings.indexes_folder.exists()


def test_the_run_holds_the_rankings_measured(rag: Rag, data: Path, tmp_path: Path) -> None:
    renamed = (data / "corpus.jsonl").read_text(encoding="utf-8").replace("same leave", "leave2")
    (data / "corpus.jsonl").write_text(renamed, encoding="utf-8")
    judged = (data / "qrels" / "test.tsv").read_text().replace("same leave", "leave2")
    (data / "qrels" / "test.tsv").write_text(judged)

    evaluate_retrieval(rag, data, system="bm25", run_file=tmp_path / "run.trec")

    run = read_run(tmp_path / "run.trec")
    assert run["q-pump"][0] == "pump"
    assert run["q-leave"] == ["leave", "leave2"]
    assert "q-none" not in run
    assert (tmp_path / "run.trec").read_text().split("\n")[0].endswith(" bm25")


def test_a_run_that_cannot_be_written_is_said_before_the_work(
    rag: Rag, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(EvalDataError, match=r"'same leave'.*white space"):
        evaluate_retrieval(rag, data, run_file=tmp_path / "run.trec")
    with pytest.raises(PathError):
        evaluate_retrieval(rag, data, run_file=tmp_path / "none" / "run.trec")
    assert cast(Any, rag.embedder).encoded == []


def test_limit_and_split(rag: Rag, data: Path) -> None:
    (data / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq-unjudged\tvisit\t1\n")

    assert evaluate_retrieval(rag, data, system="bm25", limit=2).queries == 2
    dev = evaluate_retrieval(rag, data, system="bm25", split="dev")
    assert (dev.queries, dev.metrics["recall@100"]) == (1, 0)


def test_a_reranker_is_part_of_what_is_measured(rag: Rag, data: Path) -> None:
    class Backwards:
        def rerank(self, _query: str, texts: Any) -> Any:
            import numpy as np

            return np.array([-1.0 if "pump" in text else 0.0 for text in texts], np.float32)

    plain = evaluate_retrieval(rag, data, system="dense", limit=1)
    rag.settings = rag.settings.model_copy(update={"reranker": "cross-encoder"})
    rag.reranker = Backwards()
    reranked = evaluate_retrieval(rag, data, system="dense", limit=1)

    assert (plain.metrics["MRR@10"], reranked.metrics["MRR@10"]) == (1, 0.2)
    assert reranked.system == "dense+cross-encoder"


def test_progress_goes_up(rag: Rag, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.indexed._TEXTS_AT_ONCE", 2)
    monkeypatch.setattr("eval.rankings.QUERIES_AT_ONCE", 3)
    seen: list[Progress] = []

    evaluate_retrieval(rag, data, system="rrf", progress=seen.append)

    assert [(step.name, step.done, step.total) for step in seen] == [
        *[("indexing", done, 5) for done in (0, 2, 4)],
        *[("searching", done, 4) for done in (0, 3)],
    ]


def test_a_home_that_cannot_be_used(data: Path, rag: Rag) -> None:
    rag.settings.home.mkdir(exist_ok=True)
    (rag.settings.home / "eval").write_text("in the way")

    with pytest.raises(StorageError, match="eval"):
        evaluate_retrieval(rag, data, system="bm25")


# -- the command -----------------------------------------------------------------------------------


def test_the_command_prints_a_table_or_json(data: Path) -> None:
    arguments = ["retrieval", "--data", str(data), "--system", "bm25"]

    table = CliRunner().invoke(app, arguments, prog_name="eval")
    as_json = CliRunner().invoke(app, [*arguments, "--limit", "2", "--json"])

    assert table.exit_code == 0, table.output
    header, row = table.stdout.splitlines()
    assert header.split() == ["system", "data", "queries", *METRICS, "seconds"]
    assert row.split()[:8] == ["bm25", "tiny", "4", *["0.7500"] * 5]
    found = json.loads(as_json.stdout)
    assert (found["system"], found["queries"], found["metrics"]["MRR@10"]) == ("bm25", 2, 1.0)


def test_errors_reach_the_caller_as_they_are(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["retrieval", "--data", str(tmp_path / "none")])

    assert isinstance(result.exception, EvalDataError)


@pytest.mark.parametrize(
    "wrong", [["--system", "magic"], ["--limit", "0"], ["--limit", "x"], ["--nonsense"], []]
)
def test_wrong_usage_has_exit_status_2(data: Path, wrong: list[str]) -> None:
    arguments = ["retrieval", "--data", str(data), *wrong] if wrong else ["retrieval"]

    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_the_module_of_the_command_imports_nothing_heavy() -> None:
    code = (
        "import sys, eval.cli\n"
        "heavy = {'numpy', 'sqlalchemy', 'faiss', 'tantivy', 'jieba', 'openvino', 'torch',"
        " 'ir_measures', 'pydantic', 'langchain_core'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.slow
def test_a_public_set_is_found_well(shared_sets: Path) -> None:
    rag = Rag(load_settings().settings)

    found = {
        system: evaluate_retrieval(rag, shared_sets / "xquad_en", system=system, limit=200)
        for system in SYSTEMS
    }

    scores = {system: report.metrics["nDCG@10"] for system, report in found.items()}
    assert {report.queries for report in found.values()} == {200}
    assert min(scores.values()) > 0.9
    assert scores["hybrid"] >= max(scores.values()) - 0.005
