"""Evaluation end to end: a tiny set with fakes through the real store and indexes, and the CLI."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from eval.cli import app
from eval.formats import DataSource, read_data
from eval.metrics import METRICS
from eval.retrieval import evaluate_retrieval
from eval.run_scores import score_run
from eval.trec import read_run
from rag.build import Rag
from rag.config import load_settings
from rag.errors import EvalDataError, ModelError, PathError, StorageError
from rag.retrieve import Retriever, System
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

    assert list(found) == [
        "system", "data", "queries", "metrics", "seconds", "embedding_seconds", "depth", "texts",
        "latency", "index_bytes", "left_out",
    ]  # fmt: skip
    assert list(found["latency"]) == ["queries", "median_ms", "p95_ms"]
    assert found["left_out"] == {"unjudged": 1, "nothing_relevant": 0, "unanswerable": 0}
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


def test_what_it_takes_is_reported_beside_quality(data: Path) -> None:
    class Slow(FakeEmbedder):
        def encode_queries(self, texts: Any) -> Any:
            time.sleep(0.05)
            return super().encode_queries(texts)

    dense = evaluate_retrieval(with_fake(Slow()), data, system="dense")
    bm25 = evaluate_retrieval(with_fake(Slow()), data, system="bm25")

    assert 0.05 <= dense.embedding_seconds <= dense.seconds
    assert (dense.depth, dense.texts, dense.latency.queries) == (100, 5, 4)
    assert 50 <= dense.latency.median_ms <= dense.latency.p95_ms < 5000
    assert dense.index_bytes["dense"] > 0
    assert (bm25.embedding_seconds, bm25.index_bytes["dense"]) == (0, 0)
    assert bm25.index_bytes["lexical"] > 0


def test_the_sample_of_single_queries_is_spread_and_small(
    rag: Rag, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eval.retrieval.LATENCY_SAMPLE", 2)
    asked: list[str] = []
    search = Retriever.search

    def noting(self: Retriever, text: str, top_k: int) -> Any:
        asked.append(text)
        return search(self, text, top_k)

    monkeypatch.setattr(Retriever, "search", noting)

    assert evaluate_retrieval(rag, data, system="bm25").latency.queries == 2
    assert asked == [QUERIES["q-pump"][0], QUERIES["q-visit"][0]]


def test_chosen_metrics_and_those_of_each_query(rag: Rag, data: Path, tmp_path: Path) -> None:
    report = evaluate_retrieval(
        rag, data, system="bm25", metrics=("MAP", "precision@200"), per_query=tmp_path / "each"
    )

    rows = [json.loads(line) for line in (tmp_path / "each").read_text().splitlines()]
    assert [row["query"] for row in rows] == ["q-pump", "q-leave", "q-visit", "q-none"]
    assert rows[1]["metrics"] == {"MAP": 1.0, "precision@200": 2 / 200}
    assert rows[3] == {
        "query": "q-none",
        "metrics": {"MAP": 0.0, "precision@200": 0.0},
        "relevant": 1,
        "retrieved": 0,
    }
    assert (report.metrics["MAP"], report.depth) == (0.75, 200)


def test_a_saved_run_scores_the_same_by_itself(rag: Rag, data: Path, tmp_path: Path) -> None:
    for name in ("corpus.jsonl", "qrels/test.tsv"):
        content = (data / name).read_text(encoding="utf-8").replace("same leave", "leave2")
        (data / name).write_text(content, encoding="utf-8")
    run, qrels = tmp_path / "run.trec", data / "qrels" / "test.tsv"
    measured = evaluate_retrieval(rag, data, system="hybrid", run_file=run)

    scored = score_run(run, qrels)

    assert (scored.metrics, scored.system) == (measured.metrics, "hybrid")


def test_ranking_that_broke_off_goes_on(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.rankings.QUERIES_AT_ONCE", 1)
    expected = evaluate_retrieval(with_fake(FakeEmbedder()), data, system="dense")

    class Failing(FakeEmbedder):
        def encode_queries(self, texts: Any) -> Any:
            if any("visitors" in text for text in texts):
                raise ModelError("out of memory")
            return super().encode_queries(texts)

    failing, going_on, other = Failing(), FakeEmbedder(), FakeEmbedder()
    with pytest.raises(ModelError, match="out of memory"):
        evaluate_retrieval(with_fake(failing), data, system="dense")
    home = with_fake(other).settings.home
    (kept,) = (home / "eval").glob("*/rankings-*")
    assert len(list(kept.iterdir())) == 2
    evaluate_retrieval(with_fake(other), data, system="rrf")  # another system starts anew
    torn = sorted(kept.iterdir())[1]
    torn.write_bytes(torn.read_bytes()[:-20])
    monkeypatch.setattr("eval.retrieval.LATENCY_SAMPLE", 1)

    found = evaluate_retrieval(with_fake(going_on), data, system="dense")

    assert found.metrics == expected.metrics
    ranked = [text for text in going_on.encoded if text != QUERIES["q-pump"][0]]
    assert ranked == [QUERIES[key][0] for key in ("q-leave", "q-visit", "q-none")]
    assert not kept.exists()


def test_a_retriever_that_returns_nothing_for_half_of_the_queries(
    rag: Rag, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two queries left both have all they should: every score is a half."""
    rank_many = Retriever.rank_many

    def half(self: Retriever, queries: Any, top_k: int) -> Any:
        found = rank_many(self, queries, top_k)
        return [one if "pump" in query or "年假" in query else [] for query, one in zip(
            queries, found, strict=True)]  # fmt: skip

    monkeypatch.setattr(Retriever, "rank_many", half)

    assert evaluate_retrieval(rag, data, system="bm25").metrics == dict.fromkeys(METRICS, 0.5)


def test_documents_of_a_folder_are_what_is_found(rag: Rag, tmp_path: Path) -> None:
    """Chunks of a file count for the file, once, at the best rank."""
    for name, text in (("hr/leave.md", "Leave lasts. " * 400 + "Fifteen days of leave."),
                       ("pump.txt", "Oil the pump every month.")):  # fmt: skip
        (tmp_path / "docs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "docs" / name).write_text(text)
    table = tmp_path / "qa.csv"
    table.write_text(
        "question,answer,source\nHow long is leave?,15,leave.md\nOil for the pump?,,pump.txt\n"
    )
    source = DataSource(str(table), corpus=tmp_path / "docs")

    report = evaluate_retrieval(
        rag,
        read_data(source),
        system="hybrid",
        metrics=("MRR", "recall@2"),
        run_file=tmp_path / "run.trec",
    )

    assert (report.texts, report.metrics) == (2, {"MRR": 1.0, "recall@2": 1.0})
    assert sorted(read_run(tmp_path / "run.trec")["q1"])[0] == "hr/leave.md"
    again = FakeEmbedder()
    evaluate_retrieval(with_fake(again), read_data(source), system="hybrid")
    assert not [text for text in again.encoded if "lasts" in text]
    (tmp_path / "docs" / "broken.pdf").write_bytes(b"%PDF-1.4")
    with pytest.raises(EvalDataError, match=r"cannot be ingested, among them broken\.pdf"):
        evaluate_retrieval(rag, read_data(source), system="hybrid")


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
    header, row, left_out = table.stdout.splitlines()
    assert header.split() == [
        "system", "data", "queries", *METRICS, "seconds", "embedding", "median_ms", "p95_ms",
        "dense_bytes", "lexical_bytes",
    ]  # fmt: skip
    assert left_out == "Queries left out: 1 without judgements."
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
