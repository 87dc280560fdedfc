from __future__ import annotations

from pathlib import Path

import pytest

from eval.answers import (
    Asked,
    ask_refusal,
    evaluate_answers,
    evaluate_refusal,
    first_of_each,
    holds_answer,
    read_qa,
    read_questions,
    read_unanswerable,
)
from rag.errors import EvalDataError, QueryError
from rag.schema import Answer, Citation


def answer(text: str, *files: str) -> Answer:
    return Answer(text, False, tuple(Citation(file, None, 0, 1, "x", 1.0) for file in files))


REFUSED = Answer("No.", refused=True)


@pytest.mark.parametrize(
    ("text", "answers", "expected"),
    [
        ("It weighs 18 kg. [1]", ("18 kg",), True),
        ("It weighs 18 [1] kg.", ("18  kg",), True),
        ("It weighs 18\n kg", ("18 KG",), True),
        ("额定压力 １．２ＭＰａ[1]", ("1.2MPa",), True),
        ("Section [12] says so", ("12",), False),
        ("yes", ("no", "YES"), True),
        ("yes", (), False),
        ("yes", ("", " "), False),
    ],
)
def test_holds_answer(text: str, answers: tuple[str, ...], expected: bool) -> None:
    assert holds_answer(text, answers) is expected


def test_answers_are_counted_over_all_questions() -> None:
    replies = {
        "a": answer("one two three four [1]", "f"),
        "b": answer("五六七八[1][2]", "f", "g"),
        "c": REFUSED,
        "d": answer("nine", "f"),
    }
    questions = [
        Asked("1", "a", ("three",)),
        Asked("2", "b", ("七",)),
        Asked("3", "c", ("No",)),
        Asked("4", "d", ("ten",)),
    ]
    report = evaluate_answers(replies.__getitem__, questions)
    assert (report.questions, report.correct, report.refused) == (4, 2, 1)
    assert report.accuracy == 0.5
    assert (report.mean_words, report.max_words) == (3.0, 5)
    assert (report.mean_chars, report.max_chars) == (10.0, 10)
    assert report.mean_citations == pytest.approx(4 / 3)
    assert report.to_json()["accuracy"] == 0.5
    with pytest.raises(ValueError, match="no questions"):
        evaluate_answers(replies.__getitem__, [])


def test_refusals_are_counted_by_kind() -> None:
    replies = {
        "a": answer("three", "x/m.pdf"),
        "b": REFUSED,
        "c": REFUSED,
        "d": answer("hm", "x/m.pdf"),
    }
    questions = [
        Asked("1", "a", ("three",), "m.pdf"),
        Asked("2", "b", ("four",), "m.pdf"),
        Asked("3", "c", ()),
        Asked("4", "d", ()),
    ]
    done: list[int] = []
    report = evaluate_refusal(replies.__getitem__, questions, done.append)
    assert done == [1, 2, 3, 4]
    assert report.to_json() == {
        "answerable": 2, "kept": 1, "kept_rate": 0.5, "correct": 1, "cited": 1,
        "unanswerable": 2, "refused": 1, "refused_rate": 0.5,
        "precision": 0.5, "recall": 0.5, "f1": 0.5, "failed": [],
        "calibration": {
            "answers": 2, "expected_calibration_error": 0.5,
            "bins": [{"low": 0, "high": 0.1, "answers": 2, "confidence": 0, "right": 0.5}],
        },
        "wrongly_refused": ["2"], "wrongly_answered": ["4"],
    }  # fmt: skip


def test_a_fault_is_neither_a_refusal_nor_an_answer() -> None:
    def ask(text: str) -> Answer:
        if text == "refused":
            return REFUSED
        raise QueryError("Too long.")

    questions = [Asked("1", "a", ("x",)), Asked("2", "b", ()), Asked("3", "refused", ())]
    report, faults = ask_refusal(ask, questions)
    assert (report.kept, report.refused, report.failed) == (0, 1, ("1", "2"))
    assert (report.wrongly_refused, report.wrongly_answered) == ((), ())
    assert (report.refusals.precision, report.refusals.recall) == (1, 0.5)
    assert faults == ["Too long."]
    assert report.cited is None
    answered = evaluate_answers(ask, questions[:1])
    assert (answered.correct, answered.refused, answered.failed) == (0, 0, 1)


def test_the_first_of_each_kind_are_taken() -> None:
    questions = [Asked(str(n), "q", ("x",) if n % 3 else ()) for n in range(9)]
    assert [q.id for q in first_of_each(questions, 2)] == ["0", "1", "2", "3"]
    assert first_of_each(questions, None) == questions


def test_unanswerable_questions_are_read(tmp_path: Path) -> None:
    file = tmp_path / "none.jsonl"
    file.write_text('{"_id": "1", "question": "a"}\n{"_id": "2", "question": "b"}\n')
    assert read_unanswerable(file, 1) == [Asked("1", "a", ())]
    file.write_text("\n")
    with pytest.raises(EvalDataError, match="no questions"):
        read_unanswerable(file)


def test_beir_questions_are_read(tmp_path: Path) -> None:
    (tmp_path / "queries.jsonl").write_text(
        '{"_id": "1", "text": "a\u2028b"}\n\n{"_id": "2", "text": "c"}\n{"_id": "3", "text": "d"}\n'
    )
    (tmp_path / "answers.jsonl").write_text(
        '{"_id": "1", "answers": ["x", "y"]}\n{"_id": "2", "answers": []}\n'
        '{"_id": "3", "answers": ["z"]}\n'
    )
    assert read_questions(tmp_path) == [
        Asked("1", "a\u2028b", ("x", "y")),
        Asked("3", "d", ("z",)),
    ]
    assert len(read_questions(tmp_path, 1)) == 1


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"id": "1", "question": "a"', "line 2: not JSON"),
        ("[1]", "Expected a JSON object"),
        ('{"id": 1, "question": "a", "answers": []}', "string id"),
        ('{"id": "1", "question": "a", "answers": "b"}', "list of strings answers"),
        ('{"id": "1", "question": "a", "answers": [1]}', "list of strings answers"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_bad_data_is_named_by_line(tmp_path: Path, line: str, complaint: str) -> None:
    file = tmp_path / "qa.jsonl"
    file.write_text(f'{{"id": "0", "question": "q", "answers": []}}\n{line}\n')
    with pytest.raises(EvalDataError, match=complaint):
        read_qa(file)


def test_missing_or_empty_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvalDataError, match="Cannot read"):
        read_questions(tmp_path)
    (tmp_path / "answers.jsonl").write_text('{"_id": "9", "answers": ["x"]}\n')
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "a"}\n')
    with pytest.raises(EvalDataError, match="no question with an answer"):
        read_questions(tmp_path)


def test_the_samples_questions_are_read() -> None:
    questions = read_qa(Path(__file__).resolve().parents[1] / "samples" / "qa.jsonl")
    assert len(questions) == 60
    assert sum(not question.answers for question in questions) == 15
