"""Tuning end to end: tiny sets with a fake embedder through the real store and indexes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("optuna", reason="needs the extra eval")

import eval.tune as tune_module
from eval.cli import app
from eval.data import JudgedQuery, read_set
from eval.metrics import evaluate_run
from eval.retrieval import evaluate_retrieval, opened_set
from eval.tune import TuneOptions, split_queries, tune
from eval.tune_chunks import CutCorpus, with_settings
from eval.tune_measure import Measure, Task
from rag.build import Rag
from rag.config import load_settings
from rag.errors import EvalDataError, MissingExtra, PathError, UsageError
from rag.schema import FloatArray
from rag.testing import FakeEmbedder, FakeTokens

THINGS = "pump valve seal motor belt gear shaft fan filter hose lamp badge gate desk visa".split()
ZH = ["水泵每月加油", "正式员工年假十五天", "访客在门口登记", "皮带每年更换", "灯管寿命两年"]

TRIED: list[dict[str, Any]] = [
    {},
    {"system": "rrf", "fusion_rrf_k": 3, "candidates": 40},
    {"system": "dense"},
    {"system": "bm25", "bm25_gram_weight": 1.0},
    {"fusion_bm25_weight": 2.5, "bm25_gram_weight": 0.0, "candidates": 20},
    {"fusion_bm25_weight": 0.02, "fusion_least_coverage": 0.0},
    {"fusion_bm25_weight": 0.02, "fusion_least_coverage": 1.0, "candidates": 100},
]


class NoChinese(FakeEmbedder):
    """Cannot read the Chinese texts."""

    @property
    def tokens(self) -> FakeTokens:
        return FakeTokens(unread="".join(ZH))


class Longest:
    """A reranker that likes long texts, and counts the pairs it reads."""

    def __init__(self) -> None:
        self.pairs = 0

    def rerank(self, _query: str, texts: Any) -> FloatArray:
        self.pairs += len(texts)
        return np.array([len(text) for text in texts], np.float32)


def write_set(folder: Path, texts: dict[str, str], queries: dict[str, tuple[str, str]]) -> Path:
    (folder / "qrels").mkdir(parents=True)
    rows = {
        "corpus": [{"_id": id_, "title": "", "text": text} for id_, text in texts.items()],
        "queries": [{"_id": id_, "text": text} for id_, (text, _) in queries.items()],
    }
    for name, found in rows.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    judged = "".join(f"{id_}\t{text}\t1\n" for id_, (_, text) in queries.items())
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set; its home is shared, so that it is indexed once."""
    texts = {
        f"{one}-{two}": f"The {one} and the {two} stand by the wall. Check the {two} every month."
        for one in THINGS
        for two in THINGS[:6]
        if one != two
    }
    texts |= {f"zh{number}": text for number, text in enumerate(ZH)}
    queries = {
        f"q{id_}": (f"Where is the {id_.split('-')[0]} checked beside the {id_[-3:]}?", id_)
        for id_ in list(texts)[:-5:4]
    }
    queries |= {f"qzh{number}": (text[2:] + "吗", f"zh{number}") for number, text in enumerate(ZH)}
    return write_set(tmp_path_factory.mktemp("set") / "tiny", texts, queries)


def made(data: Path, **settings: Any) -> Rag:
    rag = Rag(load_settings({"home": data.parent / "home", **settings}).settings)
    rag.embedder = cast(Any, NoChinese(dim=16))
    rag.reranker = None
    return rag


def measured(rag: Rag, data: Path, metric: str = "nDCG@10", depth: int = 100) -> Measure:
    found = read_set(data)
    task = Task(found.queries, found.qrels, metric, int(metric.split("@")[1]), depth)
    return Measure(
        rag,
        task,
        lambda settings: opened_set(with_settings(rag, settings), found),
        lambda chunk: (chunk.file,),
    )


def test_the_score_is_that_of_an_evaluation_on_its_own(data: Path) -> None:
    """Under any settings, one after another: what one trial leaves does not change the next."""
    found, measure = read_set(data), measured(made(data), data, "MRR@10")
    texts = [query.text for query in found.queries]
    with opened_set(made(data), found) as opened:
        files = {id_: chunk.file for id_, chunk in opened.store.chunks(range(1, 500)).items()}
    runs: set[str] = set()
    for values in TRIED:
        rag = made(data, **values)
        with opened_set(rag, found) as opened:
            rankings = opened.retriever().rank_many(texts, 10)
        run = {
            query.id: [files[id_] for id_, _ in ranking]
            for query, ranking in zip(found.queries, rankings, strict=True)
        }

        assert measure.run(rag.settings) == run
        runs.add(repr(run))
        score = measure.score(rag.settings)
        assert score == evaluate_run(found.qrels, run)["MRR@10"]
    assert len(runs) == len(TRIED)  # no setting of them is without effect
    report = evaluate_retrieval(rag, data)  # with the last ones: they ask as deep as it does
    assert score == pytest.approx(report.metrics["MRR@10"])
    scores = measure.scores(rag.settings)
    assert sum(scores.values()) / len(scores) == pytest.approx(score)


def test_each_text_is_embedded_once_and_each_pair_reread_never(data: Path) -> None:
    rag = made(data, reranker="cross-encoder", reranker_model="x", reranker_depth=20)
    reader = Longest()
    rag.reranker = cast(Any, reader)
    measure = measured(rag, data)
    measure.score(rag.settings)
    embedded, pairs = len(cast(Any, rag.embedder).encoded), reader.pairs
    reread = measure.score(rag.settings.model_copy(update={"reranker_depth": 15}))

    assert (len(cast(Any, rag.embedder).encoded), reader.pairs) == (embedded, pairs)
    plain = measure.score(rag.settings.model_copy(update={"reranker": "none"}))
    assert plain > reread  # the longest text is hardly ever the right one


def test_queries_are_split_at_random_and_again_the_same() -> None:
    queries = [JudgedQuery(str(number), "x") for number in range(40)]
    tuning, held_out = split_queries(queries, 0.25, 3)

    assert len(tuning) == 10
    assert {query.id for query in tuning} | {query.id for query in held_out} == {
        query.id for query in queries
    }
    assert not {query.id for query in tuning} & {query.id for query in held_out}
    assert split_queries(queries, 0.25, 3) == (tuning, held_out)
    assert split_queries(queries, 0.25, 4) != (tuning, held_out)
    assert [len(half) for half in split_queries(queries[:2], 0.01, 0)] == [1, 1]
    with pytest.raises(EvalDataError, match="1 judged query"):
        split_queries(queries[:1], 0.5, 0)


def test_a_weight_that_was_spoilt_is_found_again(data: Path, tmp_path: Path) -> None:
    """In force is a setting that all but ignores words, with an embedder that knows little."""
    spoilt = {"fusion_bm25_weight": 0.001, "candidates": 100}
    out = tmp_path / "youju.toml"
    options = TuneOptions(trials=16, out=out, only=("fusion_bm25_weight", "candidates"))

    report = tune(made(data, **spoilt), data, options)

    assert report.trials == 16
    assert report.start == spoilt
    assert report.tune[1] > report.tune[0]
    assert report.taken
    assert report.held_out_gain.shown
    assert report.held_out[1] - report.held_out[0] == pytest.approx(report.held_out_gain.mean)
    better = load_settings(environ={"YOUJU_CONFIG": str(out)}).settings
    for name, value in report.best.items():
        assert getattr(better, name) == value
    assert tune(made(data, **spoilt), data, options).to_json() | {"seconds": 0} == (
        report.to_json() | {"seconds": 0}
    )


def test_the_search_never_sees_the_held_out_half(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[str]] = []

    class Watched(Measure):
        def __init__(self, rag: Rag, task: Task, *others: Any) -> None:
            seen.append({query.id for query in task.queries})
            self.searching = len(seen) == 1
            super().__init__(rag, task, *others)

        def score(self, settings: Any) -> float:
            assert self.searching
            return super().score(settings)

    monkeypatch.setattr(tune_module, "Measure", Watched)
    report = tune(made(data), data, TuneOptions(trials=2, tune_share=0.3))

    assert [len(ids) for ids in seen] == [report.tune_queries, report.held_out_queries]
    assert not seen[0] & seen[1]


def test_wrong_options_are_said_before_the_work(data: Path, tmp_path: Path) -> None:
    rag = made(data)
    (tmp_path / "mine.toml").write_text("top_k = 3\n")
    for options, error in (
        (TuneOptions(metric="luck@10"), UsageError),
        (TuneOptions(only=["luck"]), UsageError),
        (TuneOptions(out=tmp_path / "mine.toml"), PathError),
    ):
        with pytest.raises(error):
            tune(rag, data, options)
    assert cast(Any, rag.embedder).encoded == []


# -- documents that are cut ------------------------------------------------------------------------


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in THINGS[:4]:
        parts = [
            f"Part {number} of the {name}.  Its {THINGS[number]}\nis oiled in week {number}. "
            + "More is said of it here and there, as it goes. " * 3
            for number in range(10)
        ]
        (folder / f"{name}.txt").write_text("\n\n".join(parts))
    return folder


@pytest.fixture
def cut_data(tmp_path: Path) -> Path:
    texts = {f"{name}.txt": "" for name in THINGS[:2]}
    texts |= {f"v{n}": f"Its {THINGS[n]} is oiled in week {n}." for n in range(2, 8)}
    queries = {
        f"q{name}": (f"Which part of the {name} is it?", f"{name}.txt") for name in THINGS[:2]
    }
    queries |= {f"qv{n}": (f"When is the {THINGS[n]} oiled?", f"v{n}") for n in range(2, 8)}
    return write_set(tmp_path / "cut", texts, queries)


def test_texts_are_found_in_documents_however_these_are_cut(corpus: Path, cut_data: Path) -> None:
    rag = made(cut_data, chunk_tokens=60, chunk_overlap=0)
    cut = CutCorpus(rag, corpus, read_set(cut_data))
    counts = {}
    for tokens in (16, 60, 200):
        settings = rag.settings.model_copy(update={"chunk_tokens": tokens})
        with cut.opened(with_settings(rag, settings)) as opened:
            chunks = list(opened.store.chunks(range(1, 2000)).values())
            counts[tokens] = len(chunks)
        found = {name for chunk in chunks for name in cut.names_of(chunk)}
        assert found == {*(f"{name}.txt" for name in THINGS[:2]), *(f"v{n}" for n in range(2, 8))}
        for chunk in chunks:
            for name in cut.names_of(chunk):
                if name[1:].isdigit() and tokens > 16:
                    assert "".join(f"week {name[1:]}.".split()) in "".join(chunk.text.split())
            assert (chunk.file in cut.names_of(chunk)) == (chunk.file[:-4] in THINGS[:2])
    assert counts[16] > counts[60] >= counts[200]


def test_a_way_of_cutting_is_made_once_and_follows_the_files(corpus: Path, cut_data: Path) -> None:
    def embedded() -> int:
        rag = made(cut_data, chunk_tokens=60, chunk_overlap=0)
        cut = CutCorpus(rag, corpus, read_set(cut_data))
        with cut.opened(
            with_settings(rag, made(cut_data, chunk_tokens=120, chunk_overlap=0).settings)
        ):
            return len(cast(Any, rag.embedder).encoded)

    assert embedded() > 0
    assert embedded() == 0
    (corpus / "motor.txt").write_text("Its motor is oiled in week 3. Nothing more.")
    assert 0 < embedded() < 10


def test_judged_texts_that_are_not_there_are_named(corpus: Path, cut_data: Path) -> None:
    (corpus / f"{THINGS[0]}.txt").unlink()
    with pytest.raises(EvalDataError, match=rf"1 of 8 judged texts .*{THINGS[0]}\.txt"):
        CutCorpus(made(cut_data), corpus, read_set(cut_data))


def test_chunk_sizes_are_tuned_where_documents_are_given(corpus: Path, cut_data: Path) -> None:
    report = tune(
        made(cut_data), cut_data, TuneOptions(trials=4, only=["chunk_tokens", "chunk_overlap"]),
        corpus=corpus,
    )  # fmt: skip
    assert set(report.start) == {"chunk_tokens", "chunk_overlap"}
    assert report.tune[1] >= report.tune[0]
    assert not {"chunk_tokens", "chunk_overlap"} & set(report.left_out)


# -- the command -----------------------------------------------------------------------------------


def test_the_command_prints_a_table_or_json(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rag.build.make_embedder", lambda _settings: FakeEmbedder())
    out = tmp_path / "youju.toml"
    arguments = ["tune", "--data", str(data), "--trials", "2", "--only", "candidates, system"]

    table = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    as_json = CliRunner().invoke(app, [*arguments, "--json"])

    assert table.exit_code == 0, table.output
    assert "held-out half" in table.stdout
    assert "Not tuned: top_k" in table.stdout
    assert out.read_text().startswith("# Written by")
    found = json.loads(as_json.stdout)
    assert found["queries"]["tune"] + found["queries"]["held_out"] == len(read_set(data).queries)
    assert set(found["best"]) == {"system", "candidates"}
    assert {"mean", "low", "high", "shown"} == set(found["held_out_gain"])


def test_without_optuna_it_says_what_to_install(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)

    result = CliRunner().invoke(app, ["tune", "--data", str(data)])

    assert isinstance(result.exception, MissingExtra)
    assert "pip install 'youju[eval]'" in str(result.exception)
