"""Drafting a test set from a store, reviewing it, scoring with it."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from command import Run
from hypothesis import given
from hypothesis import strategies as st

from eval.data import read_set
from eval.drafts import GAP, cloze, generated, heading
from eval.make import DRAFTS, accept, draft_set
from rag.build import build_rag
from rag.config import Settings
from rag.errors import EvalDataError, ModelError, PathError, UsageError


def rows_of(folder: Path) -> list[dict[str, str]]:
    text = (folder / DRAFTS).read_text("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def keep(folder: Path, **by_id: str) -> None:
    """Fill the column keep, as a spreadsheet would save it."""
    rows = rows_of(folder)
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, rows[0])
    writer.writeheader()
    writer.writerows([{**row, "keep": by_id.get(row["id"], "")} for row in rows])
    (folder / DRAFTS).write_text(out.getvalue(), "utf-8-sig", newline="")


@pytest.fixture
def drafted(samples_home: Path, tmp_path: Path) -> Path:
    rag = build_rag(Settings(home=samples_home))
    made = draft_set(rag.catalog.get("samples"), tmp_path / "set", questions=12)
    rag.db.close()
    assert sum(made.questions.values()) == 12
    assert set(made.questions) == {"cloze", "heading"}
    return tmp_path / "set"


# -- one draft -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        (
            "The pump weighs 38 kg when it is dry. Call us.",
            'What fills the gap in "The pump weighs ____ when it is dry."?',
            "38 kg",
        ),
        (
            "2. Enter the rated current in parameter P12 now.",
            'What fills the gap in "Enter the rated current in parameter ____ now."?',
            "P12",
        ),
        (
            "每台旧泵最多可以抵扣 300 元货款。",
            "“每台旧泵最多可以抵扣 ____货款。”一句中，空格处是什么？",
            "300 元",
        ),
        (
            "請於開課前 20 天把報名表寄給我們。",
            "「請於開課前 ____把報名表寄給我們。」一句中，空格處是什麼？",
            "20 天",
        ),
        (
            "A report was written by Mary Jane Smith about the leak.",
            'What fills the gap in "A report was written by ____ about the leak."?',
            "Mary Jane Smith",
        ),
    ],
)  # fmt: skip
def test_a_gap_takes_the_place_of_what_says_most(text: str, question: str, answer: str) -> None:
    draft = cloze(text)
    assert draft is not None
    assert (draft.question, draft.answer) == (question, answer)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It rains.",
        "The pump weighs 38 kg and holds 38 kg of oil in it.",
        "| pump | weighs 38 kg |",
    ],
)
def test_no_gap_without_a_sentence_and_one_answer(text: str) -> None:
    assert cloze(text) is None


@given(st.text(max_size=400))
def test_a_gaps_answer_is_in_the_text_once_and_not_in_the_question(text: str) -> None:
    draft = cloze(text)
    if draft is not None:
        assert text.count(draft.answer) == 1
        assert GAP in draft.question
        assert draft.answer in " ".join(text.split())


@pytest.mark.parametrize(
    ("context", "question"),
    [
        ("Manual > 3. Kits", 'What does "Manual" say about Kits?'),
        ("休假制度 > 第三章 > 二、病假", "《休假制度》里关于“病假”是怎么说的？"),
        ("Manual > Parts\n| a | b |", 'What does "Manual" say about Parts?'),
    ],
)
def test_a_heading_is_asked_about(context: str, question: str) -> None:
    draft = heading(context)
    assert draft is not None
    assert (draft.question, draft.answer) == (question, "")


@pytest.mark.parametrize("context", ["", "Manual", "Manual > Manual", "Manual > 3."])
def test_a_heading_that_says_nothing_is_not(context: str) -> None:
    assert heading(context) is None


PASSAGE = "The bund holds 220 litres."


@pytest.mark.parametrize(
    "reply",
    [
        '{"question": "How much fits?", "answer": "220 litres"}',
        'Sure:\n```json\n{"question": "How  much fits?", "answer": " 220 litres"}\n```',
    ],
)
def test_a_models_question_is_read(reply: str) -> None:
    draft = generated(PASSAGE, lambda _prompt: reply)
    assert draft is not None
    assert (draft.question, draft.answer) == ("How much fits?", "220 litres")


@pytest.mark.parametrize(
    "reply",
    [
        "", "How much fits?", "{}", "[]", '{"question": "How much?", "answer": "221 litres"}',
        '{"question": "", "answer": "220"}', '{"question": "How?", "answer": ""}',
        '{"question": 1, "answer": "220"}', "} {", '{"question": "a", "answer": "220"} and }',
    ],
)  # fmt: skip
def test_a_reply_that_is_no_question_with_its_answer_is_unusable(reply: str) -> None:
    assert generated(PASSAGE, lambda _prompt: reply) is None


# -- a set -----------------------------------------------------------------------------------------


def test_what_is_kept_becomes_a_set(drafted: Path, run: Run) -> None:
    rows = rows_of(drafted)
    assert {row["keep"] for row in rows} == {""}
    assert len({row["file"] for row in rows}) == 12  # files in turns
    keep(drafted, q0001="yes", q0003="是", q0004="No")
    assert accept(drafted) == 2
    found = read_set(drafted)
    assert [query.id for query in found.queries] == ["q0001", "q0003"]
    texts = {text.id: text.text for text in found.corpus}
    for row in rows:
        if row["id"] in found.qrels:
            assert set(found.qrels[row["id"]]) == set(row["source"].split())
            assert row["answer"] in texts[row["source"].split()[0]]
    assert accept(drafted, unreviewed=True) == 11
    done = run("eval", "accept", str(drafted), "--unreviewed", "--json")
    assert json.loads(done.out) == {"questions": 11}


def test_the_same_seed_draws_the_same(samples_home: Path, tmp_path: Path) -> None:
    rag = build_rag(Settings(home=samples_home))
    store = rag.catalog.get("samples")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        draft_set(store, tmp_path / name, questions=5, seed=seed)
    rag.db.close()
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b") != rows_of(tmp_path / "c")


def test_a_model_drafts_and_what_is_unusable_is_counted(samples_home: Path, tmp_path: Path) -> None:
    rag = build_rag(Settings(home=samples_home))

    def say(prompt: str) -> str:
        passage = prompt.split("-" * 10)[1].strip()
        bad = "pump" in passage
        return "no" if bad else json.dumps({"question": f"{passage[:9]}?", "answer": passage[:5]})

    made = draft_set(rag.catalog.get("samples"), tmp_path, questions=20, say=say)
    rag.db.close()
    assert made.questions == {"generator": 20}
    assert made.unusable > 0
    assert {row["kind"] for row in rows_of(tmp_path)} == {"generator"}


def test_a_model_that_fails_is_no_set(samples_home: Path, tmp_path: Path) -> None:
    rag = build_rag(Settings(home=samples_home))

    def say(_prompt: str) -> str:
        raise ModelError("It is away.")

    with pytest.raises(ModelError):
        draft_set(rag.catalog.get("samples"), tmp_path / "set", questions=2, say=say)
    rag.db.close()
    assert not (tmp_path / "set").exists()


def test_corrections_are_not_overwritten(drafted: Path, samples_home: Path) -> None:
    rag = build_rag(Settings(home=samples_home))
    with pytest.raises(PathError, match="there already"):
        draft_set(rag.catalog.get("samples"), drafted, questions=1)
    rag.db.close()


def test_cells_are_no_formulas(drafted: Path) -> None:
    rows = rows_of(drafted)
    rows[0] |= {"keep": "yes", "question": "'=1+1 is what?", "answer": "'=2"}
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    (drafted / DRAFTS).write_text(out.getvalue(), "utf-8", newline="")
    accept(drafted)
    assert json.loads((drafted / "queries.jsonl").read_text())["text"] == "=1+1 is what?"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("keep,id", "kept,id", "lacks the column keep"),
        ("\r\n,q0002", "\r\nmaybe,q0002", "got keep 'maybe'"),
        ("q0002,", "q0001,", "occurs once"),
        ("\r\n,q0001", "\r\nno,q0001", ""),
    ],
)
def test_a_table_that_is_off_is_named(drafted: Path, old: str, new: str, told: str) -> None:
    path = drafted / DRAFTS
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())
    if not told:
        assert accept(drafted, unreviewed=True) == 11
        return
    with pytest.raises(EvalDataError, match=told):
        accept(drafted, unreviewed=True)


def test_other_faults_are_one_line(drafted: Path, tmp_path: Path) -> None:
    with pytest.raises(EvalDataError, match="No row"):
        accept(drafted)
    path = drafted / DRAFTS
    text = path.read_text("utf-8-sig")
    path.write_text(text.replace("p000", "x000"), "utf-8")
    with pytest.raises(EvalDataError, match="got source"):
        accept(drafted, unreviewed=True)
    path.write_bytes(text.encode("gb18030"))
    with pytest.raises(EvalDataError, match="not UTF-8"):
        accept(drafted)
    with pytest.raises(PathError, match=r"Cannot read .*drafts.csv"):
        accept(tmp_path)


def test_an_empty_store_has_nothing_to_ask(tmp_path: Path) -> None:
    rag = build_rag(Settings(home=tmp_path))
    store = rag.writable("empty", "none")
    with pytest.raises(UsageError, match="holds no passages"):
        draft_set(store, tmp_path / "set", questions=1)
    rag.db.close()


def test_from_a_store_to_a_score(samples: Path, tmp_path: Path, run: Run) -> None:
    made = run("eval", "make", "--out", str(tmp_path / "set"), "--questions", "9", "--json")
    assert json.loads(made.out)["unusable"] == 0
    assert run("eval", "accept", str(tmp_path / "set"), "--unreviewed").status == 0
    data = str(tmp_path / "set")
    scored = run("eval", "retrieval", "--data", data, "--system", "bm25", "--json")
    assert json.loads(scored.out)["queries"] == 9
    assert json.loads(scored.out)["metrics"]["recall@10"] > 0.5
    assert samples.is_dir()
