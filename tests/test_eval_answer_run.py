"""Evaluations of answers end to end: tiny sets through the real chain, and the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from chat_endpoint import Endpoint, listening
from command import Run, assert_one_line

from eval.answer_run import METRICS, OF_ANSWERS, Wanted, evaluate, parse_metrics, parse_ratios
from eval.given import ask_given, read_evidence
from rag.build import Rag, build_rag
from rag.config import load_settings
from rag.errors import EvalDataError, ModelError, PathError, StorageError, UsageError
from rag.schema import Answer
from rag.testing import FakeEmbedder

TEXTS = {
    "pump": "Oil the D40 pump every month. It weighs 185 kg.",
    "leave": "正式员工每年享有十五天带薪年假。试用期员工没有年假。",
    "gate": "Visitors sign the book at the gate and wear a red badge.",
}
QUESTIONS = {
    "q-pump": ("How much does the D40 pump weigh?", ["185 kg"], "pump"),
    "q-leave": ("正式员工每年享有几天带薪年假？", ["十五天"], "leave"),
    "q-wrong": ("What do visitors wear at the gate?", ["a blue hat"], "gate"),
    "q-none": ("zxqj", ["nothing"], "gate"),
}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text("".join(lines), encoding="utf-8")


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "tiny"
    (folder / "qrels").mkdir(parents=True)
    write(folder / "corpus.jsonl", [{"_id": key, "text": text} for key, text in TEXTS.items()])
    write(folder / "queries.jsonl", [{"_id": k, "text": q[0]} for k, q in QUESTIONS.items()])
    write(folder / "answers.jsonl", [{"_id": k, "answers": q[1]} for k, q in QUESTIONS.items()])
    judged = "".join(f"{key}\t{q[2]}\t1\n" for key, q in QUESTIONS.items())
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + judged)
    rows = [
        {"_id": key, "positive": [q[2]], "noise": [id_ for id_ in TEXTS if id_ != q[2]]}
        for key, q in QUESTIONS.items()
    ]
    write(folder / "noise.jsonl", rows)
    fake = {"_id": "f", "question": "How much does the D40 pump weigh?", "true_answer": "185 kg",
            "fake_answer": "950 kg", "positive": ["pump"],
            "positive_wrong": ["The D40 pump weighs 950 kg."]}  # fmt: skip
    write(folder / "counterfactual.jsonl", [fake])
    return folder


@pytest.fixture
def evidence(tmp_path: Path) -> Path:
    folder = tmp_path / "proof"
    folder.mkdir()
    rows = [
        {"_id": key, "question": question, "context": TEXTS[id_], "answers": answers,
         "evidences": [TEXTS[id_][:16]]}
        for key, (question, answers, id_) in QUESTIONS.items()
    ]  # fmt: skip
    write(folder / "some.jsonl", rows)
    return folder


@pytest.fixture
def rag() -> Rag:
    made = build_rag(load_settings({"refusal_threshold": 0.05}).settings)
    made.embedder = cast(Any, FakeEmbedder())
    return made


class Scripted:
    """An answerer that says what a test says, and keeps what it was asked."""

    def __init__(self, reply: str = "It weighs 185 kg. [1]") -> None:
        self.reply = reply
        self.asked: list[str] = []
        self.fails: dict[str, Exception] = {}

    def answer(self, question: str, hits: Any, *_: object, **__: object) -> Answer:
        self.asked.append(question)
        if question in self.fails:
            raise self.fails[question]
        return Answer(self.reply, False, confidence=0.75)


def test_a_set_is_measured_over_all_its_questions(rag: Rag, beir: Path, tmp_path: Path) -> None:
    out = tmp_path / "each.jsonl"
    found = evaluate(rag, beir, Wanted(per_question=out)).to_json()
    assert (found["data"], found["questions"], found["correct"]) == ("tiny", 4, 2)
    assert (found["accuracy"], found["refused"], found["failed"]) == (0.5, 1, 0)
    assert list(found["metrics"]) == ["exact_match", "f1", "rouge_l", "bleu"]
    assert found["citations"]["questions"] == 4
    assert found["citations"]["gold_cited"] == 0.75
    assert found["calibration"]["answers"] == 3
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [row["_id"] for row in rows] == list(QUESTIONS)
    for name, mean in found["metrics"].items():
        if name != "bleu":
            total = sum(row["scores"][name] for row in rows)
            assert total / 4 == pytest.approx(mean, abs=1e-5)
    assert [row["scores"]["contains"] for row in rows] == [1, 1, 0, 0]
    assert rows[3]["refused"] is True
    assert set(rows[3]["scores"].values()) == {0}
    assert not list((rag.settings.home / "eval").glob("answers-*"))


def test_a_question_that_fails_counts_as_wrong_and_is_told(rag: Rag, evidence: Path) -> None:
    scripted = Scripted()
    scripted.fails = {QUESTIONS["q-leave"][0]: ModelError("It is down.", do="Start it.")}
    rag.answerer = scripted  # type: ignore[assignment]
    found = evaluate(rag, evidence, Wanted(metrics=("f1", "citations"))).to_json()
    assert (found["questions"], found["correct"], found["failed"]) == (4, 1, 1)
    assert found["faults"] == ["It is down. Start it."]
    assert found["metrics"] == {"f1": round(2 * (2 / 4) / (1 + 2 / 4) / 4, 5)}  # it weighs 185 kg
    assert found["citations"]["evidence_f1"] == 0


def test_a_run_that_broke_off_asks_only_the_rest(rag: Rag, evidence: Path) -> None:
    scripted = Scripted()
    rag.answerer = scripted  # type: ignore[assignment]
    scripted.fails = {QUESTIONS["q-wrong"][0]: StorageError("full")}
    with pytest.raises(StorageError):
        evaluate(rag, evidence, Wanted(metrics=("f1",)))
    assert len(scripted.asked) == 3
    scripted.asked.clear()
    scripted.fails = {}
    found = evaluate(rag, evidence, Wanted(metrics=("exact_match",)))
    assert scripted.asked == [QUESTIONS["q-wrong"][0], QUESTIONS["q-none"][0]]
    assert found.to_json()["correct"] == 1
    evaluate(rag, evidence, Wanted(metrics=("exact_match",), limit=1))
    assert len(scripted.asked) == 3  # what is done is asked anew


def test_robustness_asks_of_what_is_given(rag: Rag, beir: Path, tmp_path: Path) -> None:
    out = tmp_path / "each.jsonl"
    metrics = ("noise", "counterfactual")
    wanted = Wanted(metrics, ratios=(0.0, 1.0), passages=1, per_question=out)
    found = evaluate(rag, beir, wanted).to_json()
    assert "questions" not in found
    clean, noisy = found["noise"]
    assert (clean["ratio"], clean["questions"], clean["any"]) == (0.0, 4, 2)
    assert (noisy["ratio"], noisy["any"]) == (1.0, 0)
    half, all_false = found["counterfactual"]
    assert (half["short"], all_false["misled"], all_false["right"]) == (1, 1, 0)
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [(row["task"], row["ratio"]) for row in rows] == [
        *[("noise", 0.0)] * 4, *[("noise", 1.0)] * 4, ("counterfactual", 0.5),
        ("counterfactual", 1.0),
    ]  # fmt: skip
    with pytest.raises(EvalDataError, match="task integration"):
        evaluate(rag, beir, Wanted(("integration",)))
    assert cast(Any, rag.embedder).encoded == []


def test_evidence_is_held_against_what_is_cited(rag: Rag, evidence: Path) -> None:
    found = evaluate(rag, evidence, Wanted(limit=2)).to_json()
    assert (found["data"], found["questions"], found["correct"]) == ("proof", 2, 2)
    # "It weighs 185 kg." is cited or all of it; the Chinese evidence is the first sentence.
    assert 0 < found["citations"]["evidence_recall"] <= 1
    assert found["citations"]["citation_recall"] == 1
    same = evaluate(rag, evidence / "some.jsonl", Wanted(limit=2)).to_json()
    assert {**same, "data": "proof", "seconds": 0} == {**found, "seconds": 0}
    with pytest.raises(EvalDataError, match="no set for noise"):
        evaluate(rag, evidence, Wanted(("noise",)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"evidences": []}, "got evidences"),
        ({"evidences": ["not there"]}, "got evidences"),
        ({"evidences": [""]}, "got evidences"),
        ({"answers": []}, "no right answer"),
        ({"context": None}, "got context None"),
    ],
)
def test_bad_evidence_is_named(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    row = {"_id": "1", "question": "q", "context": "abc", "answers": ["a"], "evidences": ["b"]}
    write(tmp_path / "x.jsonl", [{**row, **change}])
    with pytest.raises(EvalDataError, match=complaint):
        read_evidence(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_text("")
    with pytest.raises(EvalDataError, match="no questions"):
        read_evidence(tmp_path / "x.jsonl")


def test_given_passages_are_cited_by_name(rag: Rag) -> None:
    answer = ask_given(rag, "How much does the D40 pump weigh?", [("a", "No."), *TEXTS.items()])
    assert {cited.file for cited in answer.citations} == {"pump"}
    assert ask_given(rag, "How much?", []).refused


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with listening() as made:
        yield made


def test_a_judge_s_verdicts_are_kept_and_counted(
    rag: Rag, evidence: Path, endpoint: Endpoint, tmp_path: Path
) -> None:
    settings = load_settings({"generator_url": endpoint.url, "generator_model": "m"}).settings
    judging = Rag(settings)
    judging.embedder = cast(Any, FakeEmbedder())
    scripted = Scripted("185 kg")
    scripted.fails = {QUESTIONS["q-leave"][0]: ModelError("down")}
    judging.answerer = scripted  # type: ignore[assignment]
    endpoint.reply = "CORRECT"
    out = tmp_path / "each.jsonl"
    found = evaluate(judging, evidence, Wanted((*OF_ANSWERS,), 3, per_question=out, judge=True))
    assert found.to_json()["judge"] == {
        "accuracy": 0.66667, "correct": 2, "incorrect": 0, "unclear": 0, "failed": 0,
        "not_asked": 1,
    }  # fmt: skip
    rows = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [row.get("judge") for row in rows] == [
        {"verdict": "correct", "raw": "CORRECT"}, None, {"verdict": "correct", "raw": "CORRECT"}
    ]  # fmt: skip
    endpoint.reply = "CORRECT, I think"
    again = evaluate(judging, evidence, Wanted(("contains",), 1, judge=True)).to_json()
    assert (again["judge"]["unclear"], again["judge"]["accuracy"]) == (1, 0)
    with pytest.raises(UsageError, match="--judge needs"):
        evaluate(rag, evidence, Wanted(judge=True))


def test_choices_are_read_strictly() -> None:
    assert parse_metrics(None) == OF_ANSWERS
    assert parse_metrics(" f1,noise,f1,") == ("f1", "noise")
    assert parse_metrics(",".join(METRICS)) == METRICS
    for bad in ("", ",", "f1,recall"):
        with pytest.raises(UsageError, match="Expected some of contains"):
            parse_metrics(bad)
    assert parse_ratios(None) == ()
    assert parse_ratios("0, 0.5,1") == (0, 0.5, 1)
    for bad in ("", "x", "0.5;1", "1.1", "nan", "-0.1"):
        with pytest.raises(UsageError, match="0 to 1"):
            parse_ratios(bad)


def test_a_place_that_cannot_be_written_is_said_before_the_work(
    rag: Rag, evidence: Path, tmp_path: Path
) -> None:
    scripted = Scripted()
    rag.answerer = scripted  # type: ignore[assignment]
    with pytest.raises(PathError, match="--per-question"):
        evaluate(rag, evidence, Wanted(per_question=tmp_path / "none" / "x.jsonl"))
    assert scripted.asked == []


def test_the_command_prints_json_and_tables(run: Run, evidence: Path) -> None:
    options = ["eval", "answers", "--data", str(evidence)]
    found = run(*options, "--json").json
    assert list(found)[:7] == [
        "data", "questions", "correct", "accuracy", "refused", "failed", "mean_words"
    ]  # fmt: skip
    shown = run(*options, "--metrics", "calibration").out
    assert "accuracy" in shown
    assert "calibration.expected_calibration_error" in shown
    assert_one_line(run(*options, "--metrics", "x"), 2, "Unknown metric 'x'", "f1")
    assert_one_line(run("eval", "answers", "--data", str(evidence / "no")), 2, "answers.jsonl")


def test_refusal_wants_one_kind_of_input(run: Run, tmp_path: Path) -> None:
    assert_one_line(run("eval", "refusal", "--qa", str(tmp_path)), 2, "--qa and --corpus")
    assert_one_line(run("eval", "refusal"), 2, "--data and --unanswerable")


@pytest.mark.slow
def test_refusal_is_measured_on_a_set(run: Run, beir: Path, tmp_path: Path, home: Path) -> None:
    write(tmp_path / "none.jsonl", [{"_id": "u", "question": "Who painted the Mona Lisa?"}])
    found = run(
        "eval", "refusal", "--data", str(beir), "--unanswerable", str(tmp_path / "none.jsonl"),
        "--json",
    ).json  # fmt: skip
    assert (found["answerable"], found["unanswerable"], found["refused"]) == (4, 1, 1)
    assert found["recall"] == 1
    assert found["precision"] == 1 / (1 + len(found["wrongly_refused"]))
