"""Test sets in other layouts than BEIR's: what is read, and one line for what is off."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.corpus import CorpusText
from eval.data import JudgedQuery, LeftOut, RetrievalSet
from eval.formats import DataSource, read_data
from rag.errors import EvalDataError


def read(path: Path | str, **options: Any) -> RetrievalSet:
    return read_data(DataSource(str(path), **options))


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    rows = [{"_id": "d1", "text": "One."}, {"_id": "d2", "title": "T", "text": "二。"}]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    return written(tmp_path / "texts.jsonl", "".join(lines))


# -- SQuAD, DRCD, CMRC -----------------------------------------------------------------------------


def question(id_: str, text: str, *answers: str, **more: Any) -> dict[str, Any]:
    return {"id": id_, "question": text, "answers": [{"text": a} for a in answers], **more}


SQUAD: dict[str, Any] = {
    "data": [
        {
            "title": "Pumps",
            "paragraphs": [
                {"context": "Oil it.", "qas": [question("a", "What?", "Oil", "Oil", "it", " ")]},
                {
                    "context": "Rest.",
                    "qas": [
                        question("b", "Why?", "Rest"),
                        question("c", "Who?", is_impossible=True),
                        question("d", "Who?", "Rest", is_impossible=True),
                    ],
                },
                {"context": "Oil it.", "qas": [question("e", "Where?", "it")]},
            ],
        }
    ]
}


def test_squad(tmp_path: Path) -> None:
    found = read(written(tmp_path / "dev.json", "\ufeff" + json.dumps(SQUAD)))

    assert (found.name, found.left_out) == ("dev", LeftOut(unanswerable=2))
    assert tuple(found.corpus) == (
        CorpusText("p1", "Pumps", "Oil it."),
        CorpusText("p2", "Pumps", "Rest."),
    )
    assert found.queries == (
        JudgedQuery("a", "What?"),
        JudgedQuery("b", "Why?"),
        JudgedQuery("e", "Where?"),
    )
    assert found.qrels == {"a": {"p1": 1}, "b": {"p2": 1}, "e": {"p1": 1}}
    assert found.answers == {"a": ("Oil", "it"), "b": ("Rest",), "e": ("it",)}
    assert list(read(tmp_path / "dev.json", limit=2).answers) == ["a", "b"]


def test_cmrc_in_its_own_layout(tmp_path: Path) -> None:
    rows = [
        {
            "context_id": "1",
            "title": "泵",
            "context_text": "每月加油。",
            "qas": [{"query_id": "1-1", "query_text": "多久？", "answers": ["每月", "每月"]}],
        }
    ]
    found = read(written(tmp_path / "cmrc.json", json.dumps(rows)))

    assert tuple(found.corpus) == (CorpusText("p1", "泵", "每月加油。"),)
    assert (found.qrels, found.answers) == ({"1-1": {"p1": 1}}, {"1-1": ("每月",)})


def changed(path: list[str | int], value: Any) -> str:
    content = json.loads(json.dumps(SQUAD))
    place: Any = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(content)


FIRST: list[str | int] = ["data", 0, "paragraphs", 0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("7", "got 7"),
        ("{}", "got no data"),
        (changed(["data", 0], 7), "article 1: got 7"),
        (changed([*FIRST, "context"], None), "article 1, paragraph 1: got context None"),
        (changed([*FIRST, "qas"], {}), "got qas {}"),
        (changed([*FIRST, "qas", 0, "id"], 5), "paragraph 1, question 1: got id 5"),
        (changed([*FIRST, "qas", 0, "id"], "b"), "paragraph 2, question 1: id 'b' occurred"),
        (changed([*FIRST, "qas", 0, "question"], " "), "the query is empty"),
        (changed([*FIRST, "qas", 0, "answers"], "x"), "got answers 'x'"),
        (changed([*FIRST, "qas", 0, "answers"], [{"text": 1}]), "got text 1"),
        (changed(["data"], []), "no question with an answer"),
        (b'{"data": "\xff"}', "line 1: not UTF-8"),
    ],
)
def test_squad_that_is_off(tmp_path: Path, content: str | bytes, words: str) -> None:
    with pytest.raises(EvalDataError) as caught:
        read(written(tmp_path / "dev.json", content))

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- TREC ------------------------------------------------------------------------------------------

TOPICS = """
<top>
<num> Number: 301
<title> International
Organized Crime
<desc> Description:
Who does it, and <where>?
</top>
<top><num>302</num><title>Topic: Pumps</title></top>
<top>
<NUM> Number: 303 <TITLE>
Unjudged
</top>
"""
TREC_QRELS = "301 0 d1 2\n301 0 d2 -2\n302 Q0 d2\t1\n"


def test_topics(tmp_path: Path, texts: Path) -> None:
    topics = written(tmp_path / "topics.301-303", TOPICS)
    qrels = written(tmp_path / "qrels.txt", TREC_QRELS)

    found = read(topics, qrels=qrels, corpus=texts)

    assert found.queries == (
        JudgedQuery("301", "International Organized Crime"),
        JudgedQuery("302", "Pumps"),
    )
    assert found.qrels == {"301": {"d1": 2, "d2": 0}, "302": {"d2": 1}}
    assert found.left_out == LeftOut(unjudged=1)
    assert [text.id for text in found.corpus] == ["d1", "d2"]


def test_topics_in_two_columns_and_beir_judgements(tmp_path: Path, texts: Path) -> None:
    topics = written(tmp_path / "topics.tsv", "\ufeffq1\tWhat?\r\n\r\nq2\tWhy?\n")
    qrels = written(tmp_path / "q.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t0\nq2\td2\t1\n")

    found = read(topics, qrels=qrels, corpus=texts)

    assert found.queries == (JudgedQuery("q2", "Why?"),)
    assert found.left_out == LeftOut(nothing_relevant=1)


@pytest.mark.parametrize(
    ("topics", "words"),
    [
        ("", "holds no queries"),
        ("q1 What?\n", "line 1: got 'q1 What?'"),
        ("q1\tWhat?\tx\n", "line 1: got"),
        ("q1\tWhat?\nq1\tWhy?\n", "line 2: id 'q1' occurred before"),
        ("q1\t \n", "line 1: the query is empty"),
        ("\tWhat?\n", "line 1: got id ''"),
        (b"q1\tWhat?\nq2\t\xb5\n", "line 2: not UTF-8 (byte 0xb5)"),
        ("<top>\n<num>1\n<title>a\n", "line 1: the topic is not closed"),
        ("<top>\n<num>1\n</top>\n", "line 1: the topic has no <title>"),
        ("<top>\n<title>x\n</top>\n", "line 1: the topic has no <num>"),
        ("<top><num>1<title>\n</top>\n", "line 1: the query is empty"),
        ("<top><num>1<title>a<num>2</top>\n", "line 1: got <num> out of place"),
        ("<top>\n<top>\n", "line 2: got <top> out of place"),
        ("<top>\n</top>\nhello\n", "line 1: the topic has no <num>"),
        ("hello\n<top>\n", "line 1: got 'hello' outside of a topic"),
    ],
)
def test_topics_that_are_off(tmp_path: Path, texts: Path, topics: str | bytes, words: str) -> None:
    qrels = written(tmp_path / "qrels.txt", "q1 0 d1 1\n")
    with pytest.raises(EvalDataError) as caught:
        read(written(tmp_path / "t.txt", topics), qrels=qrels, corpus=texts)

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("qrels", "words"),
    [
        ("", "line 1: got ''"),
        ("301 d1 1\n", "line 1: got '301 d1 1'"),
        ("301 0 d1 1.5\n", "line 1: got score '1.5'"),
        ("301 0 d1 -1001\n", "line 1: got score '-1001'"),
        ("301 0 d1 1\n301 1 d1 0\n", "line 2: query '301' and text 'd1' are judged twice"),
        ("301 0 d1 1\n999 0 d1 1\n", "line 2: unknown query '999'"),
        ("301 0 d1 1\n301 0 d9 0\n", "line 2: unknown text 'd9'. Expected an _id of texts.jsonl"),
        ("301 0 d1 -1\n", "judges no text as relevant"),
        (b"301 0 d1 1\n\xff\n", "line 2: not UTF-8"),
    ],
)
def test_trec_judgements_that_are_off(
    tmp_path: Path, texts: Path, qrels: str | bytes, words: str
) -> None:
    with pytest.raises(EvalDataError) as caught:
        read(
            written(tmp_path / "t.txt", TOPICS),
            qrels=written(tmp_path / "qrels.txt", qrels),
            corpus=texts,
        )

    assert words in str(caught.value)


# -- tables ----------------------------------------------------------------------------------------


def test_a_table_over_texts(tmp_path: Path, texts: Path) -> None:
    table = written(
        tmp_path / "qa.csv",
        "\ufeffsource,note,question,answer\r\n"
        'd1,x,"How many,\r\n\r\nplease?",One\r\n'
        "二。,,几个？,\n"
        "\n"
        "d2,,几个？,二\n"
        ",,Why?,Because\n",
    )

    found = read(table, corpus=texts)

    assert found.queries == (
        JudgedQuery("q1", "How many,\n\nplease?"),
        JudgedQuery("q2", "几个？"),
    )
    assert found.qrels == {"q1": {"d1": 1}, "q2": {"d2": 1}}
    assert found.answers == {"q1": ("One",), "q2": ("二",)}
    assert found.left_out == LeftOut(unanswerable=1)


def test_a_table_of_json_lines_over_a_folder(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    for name in ("a.txt", "hr/leave.md", "it/a.txt"):
        (docs / name).parent.mkdir(parents=True, exist_ok=True)
        (docs / name).write_text(name)
    rows: list[dict[str, Any]] = [
        {"question": "Leave?", "answer": ["15", "fifteen"], "source": "leave.md"},
        {"question": "Both?", "answer": "", "source": ["it/a.txt", "a.txt"]},
    ]
    table = written(tmp_path / "qa.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    found = read(table, corpus=docs)

    assert found.qrels == {"q1": {"hr/leave.md": 1}, "q2": {"it/a.txt": 1, "a.txt": 1}}
    assert found.answers == {"q1": ("15", "fifteen"), "q2": ()}
    (docs / "a.txt").rename(docs / "hr" / "a.txt")
    with pytest.raises(EvalDataError, match=r"line 2: 2 files are called 'a\.txt'"):
        read(table, corpus=docs)


CELLS = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=12
).map(str.strip)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(CELLS.filter(bool), CELLS, min_size=1, max_size=6))
def test_any_table_is_read_as_it_was_written(
    tmp_path: Path, texts: Path, rows: dict[str, str]
) -> None:
    with (tmp_path / "qa.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["answer", "question", "source"])
        writer.writerows([answer, question, "d1"] for question, answer in rows.items())
    with (tmp_path / "qa.jsonl").open("w", encoding="utf-8", newline="\n") as handle:
        for question, answer in rows.items():
            row = {"question": question, "answer": answer, "source": "d1"}
            handle.write(json.dumps(row, ensure_ascii=False) + "\n")

    for name in ("qa.csv", "qa.jsonl"):
        found = read(tmp_path / name, corpus=texts)
        assert [query.text for query in found.queries] == list(rows)
        assert list(found.answers.values()) == [(a,) if a else () for a in rows.values()]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("qa.csv", "", "line 1: got the columns ''"),
        ("qa.csv", "question,answer\nWhat?,x\n", "got the columns 'question, answer'"),
        ("qa.csv", "question,answer,source,source\n", "Expected the columns question, answer"),
        ("qa.csv", "question,answer,source\nWhat?,a,b,d1\n", "line 2: got 4 cells. Expected 3"),
        ("qa.csv", "question,answer,source\nWhat?,a\n", "line 2: got 2 cells"),
        ("qa.csv", 'question,answer,source\n"What?,a,d1\n', "line 2: not CSV"),
        ("qa.csv", "question,answer,source\n ,a,d1\n", "line 2: the query is empty"),
        ("qa.csv", "question,answer,source\nWhat?,a,d9\n", "line 2: the source 'd9' is not in"),
        ("qa.csv", "question,answer,source\nWhat?,a,\n", "no question with a source"),
        ("qa.csv", "question,answer,source\nA?,a,d1\nA?,a,d1\n", "line 3: the row occurred"),
        ("qa.csv", b"question,answer,source\nA?,a,d1\n\xff?,a,d1\n", "line 3: not UTF-8"),
        ("qa.jsonl", '{"question": "A?", "answer": "a"}\n', "line 1: got no source"),
        ("qa.jsonl", '{"question": 1, "answer": "a", "source": "d1"}\n', "got question 1"),
        ("qa.jsonl", '{"question": "A", "answer": [1], "source": "d1"}\n', "got answer [1]"),
        ("qa.jsonl", '{"question": "A", "answer": "a", "source": ["\\ud800"]}\n', "half a char"),
        ("qa.jsonl", "[]\n", "Expected a JSON object"),
    ],
)
def test_tables_that_are_off(
    tmp_path: Path, texts: Path, name: str, content: str | bytes, words: str
) -> None:
    with pytest.raises(EvalDataError) as caught:
        read(written(tmp_path / name, content), corpus=texts)

    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# -- what belongs to what --------------------------------------------------------------------------


def test_what_is_missing_or_too_much_is_said(tmp_path: Path, texts: Path) -> None:
    topics = written(tmp_path / "t.txt", TOPICS)
    table = written(tmp_path / "qa.csv", "question,answer,source\nA?,a,d1\n")
    squad = written(tmp_path / "dev.json", json.dumps(SQUAD))
    for path, options, words in (
        (topics, {"corpus": texts}, "Add --qrels FILE"),
        (topics, {"qrels": topics}, r"TREC topics \(t\.txt\) needs texts to search"),
        (table, {}, r"A table of questions \(qa\.csv\) needs texts"),
        (table, {"corpus": texts, "qrels": topics}, "--qrels does not go with a table"),
        (squad, {"corpus": texts}, r"--corpus does not go with a \.json file"),
        (tmp_path, {"qrels": topics}, "--qrels does not go with a folder"),
        (table, {"corpus": tmp_path / "none"}, "Give --corpus a file or a folder"),
        (tmp_path / "none", {}, "none is not a folder"),
    ):
        with pytest.raises(EvalDataError, match=words):
            read(path, **options)


# -- the hub ---------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """A hub with the set "me/tiny" and its judgements; returns what is asked of it."""
    import huggingface_hub

    main, judged = tmp_path / "hub" / "tiny", tmp_path / "hub" / "tiny-qrels"
    for folder in (main, judged):
        folder.mkdir(parents=True)
    written(main / "corpus.jsonl", '{"_id": "d1", "text": "One."}\n')
    written(main / "queries.jsonl", '{"_id": "q1", "text": "What?"}\n')
    written(judged / "test.tsv", "query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    asked: list[tuple[str, bool]] = []
    here: set[str] = set()

    def snapshot(name: str, *, repo_type: str, local_files_only: bool, **_rest: Any) -> str:
        asked.append((name, local_files_only))
        if repo_type != "dataset" or not (tmp_path / "hub" / name.removeprefix("me/")).is_dir():
            raise OSError("404 Client Error\nmore")
        if local_files_only and name not in here:
            raise FileNotFoundError("not here")
        here.add(name)
        return str(tmp_path / "hub" / name.removeprefix("me/"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return asked


def test_nothing_is_fetched_that_was_not_asked_for(hub: list[tuple[str, bool]]) -> None:
    with pytest.raises(EvalDataError, match=r"me/tiny is no folder .* add --download") as caught:
        read("me/tiny")

    assert hub == [("me/tiny", True)]
    assert "\n" not in str(caught.value)


def test_a_set_of_the_hub(hub: list[tuple[str, bool]]) -> None:
    found = read("me/tiny", download=True)

    assert (found.name, found.qrels) == ("tiny", {"q1": {"d1": 1}})
    assert hub == [("me/tiny", False), ("me/tiny-qrels", False)]
    assert read("me/tiny").qrels == found.qrels
    assert hub[2:] == [("me/tiny", True), ("me/tiny-qrels", True)]
    with pytest.raises(EvalDataError, match=r"no split 'train' .*: test"):
        read("me/tiny", split="train")


def test_a_hub_that_does_not_have_it(hub: list[tuple[str, bool]]) -> None:
    with pytest.raises(EvalDataError, match="Cannot get the data set me/other: 404") as caught:
        read("me/other", download=True)

    assert "\n" not in str(caught.value)


def test_no_set_of_that_name_is_on_this_machine(tmp_path: Path) -> None:
    """The real library, its cache empty: nothing leaves the machine."""
    with pytest.raises(EvalDataError, match="add --download"):
        read("nobody/has-this-set")
