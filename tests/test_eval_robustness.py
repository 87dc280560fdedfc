"""Noise, integration, counterfactual: what is given, what is counted, what is read."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.asking import Outcome, ask_all
from eval.rgb_data import FalseQuestion, NoiseQuestion, read_false, read_noise
from eval.robustness import (
    RATIOS,
    cases_of,
    mix,
    mix_false,
    parts_held,
    scores_of,
    summarise,
    told,
)
from rag.errors import EvalDataError
from rag.schema import Answer


def question(right: int, noise: int, id_: str = "q") -> NoiseQuestion:
    return NoiseQuestion(
        id_, "Who?", ("Ann", "Bob"),
        tuple((f"r{n}", f"It was {'Bob' if n == right - 1 else 'Ann'}.") for n in range(right)),
        tuple((f"n{n}", "Nothing.") for n in range(noise)),
    )  # fmt: skip


FALSE = FalseQuestion(
    "f", "多少席？", (("70",),), (("170",),), tuple((f"r{n}", "70席") for n in range(3)),
    tuple((f"w{n}", "170席") for n in range(3)),
)  # fmt: skip


def kinds(passages: list[tuple[str, str]]) -> tuple[int, int]:
    names = [name[0] for name, _ in passages]
    return names.count("r"), len(names) - names.count("r")


@pytest.mark.parametrize(
    ("right", "noise", "ratio", "expected", "short"),
    [
        (9, 9, 0.0, (5, 0), False),
        (9, 9, 0.2, (4, 1), False),
        (9, 9, 0.3, (3, 2), False),  # rounded up
        (9, 9, 0.6, (2, 3), False),
        (9, 9, 1.0, (0, 5), False),
        (2, 9, 0.0, (2, 3), True),  # noise fills up
        (9, 1, 0.8, (4, 1), True),  # so do those that hold the answer
        (9, 2, 1.0, (0, 2), True),  # but not where nothing may
        (9, 0, 1.0, (0, 0), True),
        (1, 1, 0.4, (1, 1), True),
    ],
)
def test_what_is_given(
    right: int, noise: int, ratio: float, expected: tuple[int, int], short: bool
) -> None:
    given, found = mix(question(right, noise), ratio)
    assert (kinds(given), found) == (expected, short)
    assert mix(question(right, noise), ratio) == (given, found)


@settings(max_examples=50)
@given(st.integers(0, 9), st.integers(0, 9), st.floats(0, 1), st.integers(1, 8), st.booleans())
def test_as_many_as_there_are_and_none_twice(
    right: int, noise: int, ratio: float, passages: int, cover: bool
) -> None:
    chosen, _ = mix(question(right, noise), ratio, passages, cover=cover)
    assert len({name for name, _ in chosen}) == len(chosen) <= passages
    if ratio < 1:
        assert len(chosen) == min(passages, right + noise)
    else:
        assert kinds(chosen)[0] == 0


def test_more_noise_leaves_what_was_there_before() -> None:
    before: set[str] = set()
    for ratio in reversed(RATIOS["noise"]):
        right = {name for name, _ in mix(question(9, 9), ratio)[0] if name[0] == "r"}
        assert before <= right
        before = right
    others = {tuple(mix(question(9, 9, id_), 0.4)[0]) for id_ in "abcdef"}
    assert len(others) > 1


def test_integration_gets_a_passage_for_each_answer() -> None:
    for id_ in "abcdefgh":
        chosen, _ = mix(question(9, 9, id_), 0.6, cover=True)
        texts = " ".join(text for _, text in chosen)
        assert "Ann" in texts
        assert "Bob" in texts


def test_falsified_passages() -> None:
    chosen, short = mix_false(FALSE, 1.0, 3)
    assert ({name for name, _ in chosen}, short) == ({"w0", "w1", "w2"}, False)
    chosen, short = mix_false(FALSE, 0.5, 2)
    assert (kinds(chosen), short) == ((1, 1), False)
    assert len({name[1] for name, _ in chosen}) == 2  # never the same passage in both forms
    assert mix_false(FALSE, 0.5, 5)[1]
    for ratio, passages in ((0.0, 3), (1.1, 3), (0.5, 0)):
        with pytest.raises(ValueError, match="passages"):
            mix_false(FALSE, ratio, passages)
    for ratio, passages in ((-0.1, 3), (1.1, 3), (0.5, 0)):
        with pytest.raises(ValueError, match="passages"):
            mix(question(1, 1), ratio, passages)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("共 70 席。[1]", "right"),
        ("共170席。", "misled"),  # it holds "70", too
        ("170席，又说70席", "both"),
        ("不知道", ""),
        ("[70]", ""),
    ],
)
def test_which_answer_is_told(text: str, expected: str) -> None:
    assert told(text, FALSE) == expected
    swapped = FalseQuestion("f", "", (("170",),), (("70",),), (), ())
    assert told(text, swapped) == {"right": "misled", "misled": "right"}.get(expected, expected)


def test_answers_of_parts_and_spellings() -> None:
    asked = FalseQuestion(
        "f", "", (("澳大利亚", "澳洲"), ("悉尼",)), (("中国",), ("北京",)), (), ()
    )  # fmt: skip
    assert told("在澳洲悉尼", asked) == "right"
    assert told("在澳洲", asked) == ""
    assert told("在中国北京", asked) == "misled"
    same = FalseQuestion("f", "", (("卡梅隆", "詹姆斯·卡梅隆"),), (("詹姆斯·卡梅隆",),), (), ())
    assert told("詹姆斯·卡梅隆", same) == "both"
    assert told("卡梅隆", same) == "right"


def test_blanks_do_not_count_in_chinese() -> None:
    assert parts_held("2022 年 1 月 3 日", ["2022年1月3日"]) == 1
    assert parts_held("to ken", ["token"]) == 0
    assert parts_held("Ann and Bo", ["Ann", "Bob"]) == 0.5


def test_counting_by_hand() -> None:
    asked = [question(3, 3, id_) for id_ in "abcde"]
    given = [
        Outcome("a", Answer("Ann and Bob", False)),
        Outcome("b", Answer("Ann", False)),
        Outcome("c", Answer("Zoe", False)),
        Outcome("d", Answer("Ann, Bob", refused=True)),
        Outcome("e", None, "down"),
    ]
    scores = [scores_of(q, outcome) for q, outcome in zip(asked, given, strict=True)]
    assert scores[1] == {"any": 1, "all": 0, "parts": 0.5}
    found = summarise("integration", 0.2, scores, given, 2).to_json()
    assert found == {
        "ratio": 0.2, "questions": 5, "short": 2, "failed": 1, "refused": 1, "any": 2, "all": 1,
        "any_rate": 0.4, "all_rate": 0.2, "refused_rate": 0.2, "parts": 0.3,
    }  # fmt: skip
    assert "parts" not in summarise("noise", 0.2, scores, given).to_json()
    false = [scores_of(FALSE, Outcome("f", Answer(t, False))) for t in ("70", "170", "no")]
    false.append(scores_of(FALSE, Outcome("f", None)))
    found = summarise("counterfactual", 1.0, false, given[:4]).to_json()
    assert (found["right_rate"], found["misled_rate"], found["both_rate"]) == (0.25, 0.25, 0)


def test_what_is_asked_is_what_was_mixed() -> None:
    seen: list[Any] = []

    def ask(text: str, passages: Any) -> Answer:
        seen.append((text, passages))
        return Answer("Ann", False)

    asked = [question(1, 9, "a"), question(9, 9, "b")]
    cases, short = cases_of("noise", asked, 0.4, ask)
    assert short == 1
    ask_all(cases)
    assert seen == [("Who?", mix(asked[0], 0.4)[0]), ("Who?", mix(asked[1], 0.4)[0])]
    again, _ = cases_of("noise", asked, 0.6, ask)
    assert not {case.id for case in cases} & {case.id for case in again}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    def write(name: str, *rows: dict[str, Any]) -> None:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("corpus.jsonl", *({"_id": f"p{n}", "text": f"text {n}"} for n in range(4)))
    write(
        "queries.jsonl",
        {"_id": "1", "text": "a", "part": "zh_refine"}, {"_id": "2", "text": "b", "part": "x_int"},
        {"_id": "3", "text": "c"}, {"_id": "4", "text": "d", "part": "zh_fact"},
    )  # fmt: skip
    write("answers.jsonl", *({"_id": n, "answers": ["x"]} for n in "1234"))
    write("noise.jsonl", *({"_id": n, "positive": ["p0", "p0"], "noise": ["p1"]} for n in "1234"))
    write(
        "counterfactual.jsonl",
        {"_id": "f", "question": "q", "true_answer": [["1", "one"], "3"], "fake_answer": "2",
         "positive_wrong": ["w"], "positive": ["p2"]},
    )  # fmt: skip
    return tmp_path


def test_the_files_are_read(folder: Path) -> None:
    noise = read_noise(folder, integration=False)
    assert [item.id for item in noise] == ["1", "3"]
    assert noise[0] == NoiseQuestion("1", "a", ("x",), (("p0", "text 0"),), (("p1", "text 1"),))
    assert [item.id for item in read_noise(folder, integration=True)] == ["2"]
    assert len(read_noise(folder, integration=False, limit=1)) == 1
    assert read_false(folder) == [
        FalseQuestion(
            "f", "q", (("1", "one"), ("3",)), (("2",),), (("p2", "text 2"),), (("wrong1", "w"),)
        )
    ]


@pytest.mark.parametrize(
    ("name", "old", "new", "complaint"),
    [
        ("noise.jsonl", "p1", "p9", "unknown text 'p9'"),
        ("noise.jsonl", '["p1"]', '"p1"', "list of strings noise"),
        ("queries.jsonl", "x_int", "x_fact", "no question of the task integration"),
        ("counterfactual.jsonl", '"w"', "", "is empty"),
        ("counterfactual.jsonl", '"1"', '" "', "got true_answer"),
        ("counterfactual.jsonl", '"1", "one"', "", "got true_answer"),
        ("counterfactual.jsonl", '[["1", "one"], "3"]', "[]", "got true_answer"),
        ("counterfactual.jsonl", '"2"', "2", "got fake_answer 2"),
        ("counterfactual.jsonl", '"question"', '"quest"', "no question"),
    ],
)
def test_bad_files_are_named(folder: Path, name: str, old: str, new: str, complaint: str) -> None:
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    read = read_false if name == "counterfactual.jsonl" else partial(read_noise, integration=True)
    with pytest.raises(EvalDataError, match=complaint):
        read(folder)


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "noise.jsonl").unlink()
    with pytest.raises(EvalDataError, match=r"noise\.jsonl"):
        read_noise(folder, integration=False)
    (folder / "counterfactual.jsonl").write_text("")
    with pytest.raises(EvalDataError, match="no falsified passages"):
        read_false(folder)
