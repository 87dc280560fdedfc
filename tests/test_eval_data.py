"""Reading BEIR folders: what is read, and one line naming file and place for what is off."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from eval.data import CorpusText, JudgedQuery, read_set
from rag.errors import EvalDataError

HEADER = "query-id\tcorpus-id\tscore\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three texts, four queries; q4 has no judgement, q3 none above 0."""
    made = tmp_path / "tiny"
    (made / "qrels").mkdir(parents=True)
    rows = [
        {"_id": "d1", "title": "Pumps", "text": "One.\u2028Two.\x85Three."},
        {"_id": "d2", "text": "年假十五天。", "metadata": {"x": 1}},
        {"_id": "d 3", "title": "", "text": ""},
    ]
    write(made, "corpus.jsonl", *(json.dumps(row, ensure_ascii=False) for row in rows))
    queries = [{"_id": f"q{number}", "text": f"question {number}"} for number in (2, 1, 3, 4)]
    write(made, "queries.jsonl", *map(json.dumps, queries))
    (made / "qrels" / "test.tsv").write_text(
        HEADER + "q1\td1\t1\nq1\td2\t0\nq2\td2\t2\nq2\td 3\t1\nq3\td1\t0\n"
    )
    return made


def write(folder: Path, name: str, *lines: str) -> None:
    (folder / name).write_bytes("".join(line + "\n" for line in lines).encode())


def test_a_set_is_read_in_file_order(folder: Path) -> None:
    found = read_set(folder)

    assert found.name == "tiny"
    assert tuple(found.corpus) == (
        CorpusText("d1", "Pumps", "One.\u2028Two.\x85Three."),
        CorpusText("d2", "", "年假十五天。"),
        CorpusText("d 3", "", ""),
    )
    content = (folder / "corpus.jsonl").read_bytes()
    assert found.corpus.sha256 == hashlib.sha256(content).hexdigest()


def test_only_queries_with_something_relevant_are_kept(folder: Path) -> None:
    found = read_set(folder)

    assert found.queries == (JudgedQuery("q2", "question 2"), JudgedQuery("q1", "question 1"))
    assert found.qrels == {"q2": {"d2": 2, "d 3": 1}, "q1": {"d1": 1, "d2": 0}}


@pytest.mark.parametrize(("limit", "kept"), [(1, ["q2"]), (2, ["q2", "q1"]), (9, ["q2", "q1"])])
def test_limit_takes_the_first_in_file_order(folder: Path, limit: int, kept: list[str]) -> None:
    found = read_set(folder, limit=limit)

    assert [query.id for query in found.queries] == kept
    assert list(found.qrels) == kept
    assert len(found.corpus) == 3


def test_limit_must_be_positive(folder: Path) -> None:
    with pytest.raises(ValueError, match="limit 0"):
        read_set(folder, limit=0)


def test_another_split_can_be_named(folder: Path) -> None:
    (folder / "qrels" / "dev.tsv").write_text(HEADER + "q4\td1\t1\n")

    assert [query.id for query in read_set(folder, split="dev").queries] == ["q4"]


def test_byte_order_marks_blank_lines_and_crlf_do_no_harm(folder: Path) -> None:
    expected = read_set(folder)
    texts = list(expected.corpus)
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n") + b"\r\n\n")

    found = read_set(folder)

    assert (tuple(found.corpus), found.queries, found.qrels) == (
        tuple(texts),
        expected.queries,
        expected.qrels,
    )


CORPUS, QUERIES, QRELS = "corpus.jsonl", "queries.jsonl", "qrels/test.tsv"


@pytest.mark.parametrize(
    ("name", "line", "content", "words"),
    [
        (CORPUS, 2, b"{", "not JSON"),
        (CORPUS, 2, b"[" * 100_000, "not JSON"),
        (CORPUS, 2, b'["d9"]', "expected a JSON object"),
        (CORPUS, 2, b'{"text": "x"}', "got no _id. expected a string _id"),
        (CORPUS, 2, b'{"_id": 7, "text": "x"}', "got _id 7"),
        (CORPUS, 2, b'{"_id": "", "text": "x"}', "got _id ''"),
        (CORPUS, 2, b'{"_id": "a\\tb", "text": "x"}', "got _id 'a\\tb'"),
        (CORPUS, 2, b'{"_id": "d9"}', "got no text"),
        (CORPUS, 2, b'{"_id": "d9", "text": null}', "got text none"),
        (CORPUS, 2, b'{"_id": "d9", "title": 3, "text": "x"}', "got title 3"),
        (CORPUS, 2, b'{"_id": "d9", "text": "\\ud800"}', "lone surrogate"),
        (CORPUS, 2, b'{"_id": "d1", "text": "x"}', "'d1' occurred before"),
        (CORPUS, 2, b'{"_id": "d9", "text": "\xff"}', "not utf-8 (byte 0xff)"),
        (QUERIES, 3, b'{"_id": "q1", "text": "x"}', "'q1' occurred before"),
        (QUERIES, 3, b'{"_id": "q9"}', "got no text"),
        (QRELS, 1, b"q1\td1\t1", "expected the header query-id, corpus-id, score"),
        (QRELS, 1, b"query-id corpus-id score", "expected the header"),
        (QRELS, 3, b"q1 d1 1", "expected query id, text id and score"),
        (QRELS, 3, b"q1\td1\t1\tx", "expected query id, text id and score"),
        (QRELS, 3, b"q9\td1\t1", "unknown query 'q9'. expected an _id of queries.jsonl"),
        (QRELS, 3, b"q1\td9\t1", "unknown text 'd9'. expected an _id of corpus.jsonl"),
        (QRELS, 3, b"q1\td1\t1", "'q1' and text 'd1' are judged twice"),
        (QRELS, 3, b"q1\td2\t-1", "got score '-1'"),
        (QRELS, 3, b"q1\td2\t1.5", "got score '1.5'"),
        (QRELS, 3, b"q1\td2\t1001", "got score '1001'"),
        (QRELS, 3, b"q1\td2\t" + b"9" * 5000, "whole number from 0 to 1000"),
        (QRELS, 3, "q1\td2\t²".encode(), "got score '²'"),
        (QRELS, 3, b"q1\td2\t", "got score ''"),
    ],
)
def test_what_is_off_is_named_by_file_and_line(
    folder: Path, name: str, line: int, content: bytes, words: str
) -> None:
    lines = (folder / name).read_bytes().split(b"\n")
    lines[line - 1] = content
    (folder / name).write_bytes(b"\n".join(lines))

    with pytest.raises(EvalDataError) as caught:
        read_set(folder)

    message = str(caught.value)
    assert f"{folder / name}, line {line}: " in message
    assert words.lower() in message.lower()
    assert "\n" not in message
    assert len(message) < 600
    assert caught.value.exit_code == 2


def test_lines_are_counted_by_newlines_only(folder: Path) -> None:
    """d1's text holds two other line ends, unescaped."""
    with (folder / CORPUS).open("ab") as handle:
        handle.write(b"oops\n")

    with pytest.raises(EvalDataError, match=r"corpus\.jsonl, line 4: "):
        read_set(folder)


def test_an_unknown_split_lists_the_known_ones(folder: Path) -> None:
    for split in ("train", "../corpus", "", "test.tsv"):
        with pytest.raises(EvalDataError, match=r"\(splits in qrels/: test\)"):
            read_set(folder, split=split)


@pytest.mark.parametrize("name", [CORPUS, QUERIES, QRELS])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()

    with pytest.raises(EvalDataError, match=r"BEIR layout") as caught:
        read_set(folder)
    assert (name if name != QRELS else "qrels") in str(caught.value)


@pytest.mark.parametrize("name", [CORPUS, QUERIES, QRELS])
def test_an_empty_file_is_no_set(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")

    with pytest.raises(EvalDataError):
        read_set(folder)


def test_no_folder_an_empty_one_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for name in ("nothing", "file"):
        with pytest.raises(EvalDataError, match=f"{name} is not a folder"):
            read_set(tmp_path / name)
    with pytest.raises(EvalDataError, match=r"splits in qrels/: none.*BEIR layout"):
        read_set(tmp_path / "empty")


def test_a_folder_in_the_place_of_a_file(folder: Path) -> None:
    (folder / CORPUS).unlink()
    (folder / CORPUS).mkdir()

    with pytest.raises(EvalDataError, match=r"Cannot read .*corpus\.jsonl: Is a directory"):
        read_set(folder)


def test_nothing_relevant_at_all(folder: Path) -> None:
    (folder / QRELS).write_text(HEADER + "q1\td1\t0\n")

    with pytest.raises(EvalDataError, match=r"test\.tsv judges no text as relevant"):
        read_set(folder)


def test_the_public_sets_are_read(shared_sets: Path) -> None:
    found = read_set(shared_sets / "xquad_zh")

    assert (len(found.corpus), len(found.queries)) == (240, 1190)
    scifact = read_set(shared_sets / "scifact")
    assert (len(scifact.corpus), len(scifact.queries)) == (5183, 300)
    assert sum(map(len, scifact.qrels.values())) == 339
