"""Corpora are read a text at a time: in little memory, each id once, from every layout."""

from __future__ import annotations

import gzip
import json
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval.corpus import CorpusText, FileCorpus, HeldCorpus, check_corpus, check_folder, read_texts
from eval.sources import TextSource
from rag.errors import EvalDataError, MissingExtra, PathError

TEXTS = (CorpusText("d1", "T", "one\u2028two"), CorpusText("d2", "", "三"))


def jsonl(path: Path, *texts: CorpusText) -> Path:
    rows = [{"_id": text.id, "title": text.title, "text": text.text} for text in texts]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("lines", [20_000, pytest.param(200_000, marks=pytest.mark.slow)])
def test_a_large_corpus_takes_a_few_bytes_a_line(tmp_path: Path, lines: int) -> None:
    """A line has 280 bytes; holding the texts, or only the ids as strings, breaks the bound."""
    path = tmp_path / "corpus.jsonl"
    text = "x" * 240
    with path.open("w") as handle:
        handle.writelines(f'{{"_id": "doc-{n}", "text": "{text} {n}"}}\n' for n in range(lines))
    wanted = [f"doc-{number}" for number in range(0, lines, 1000)] + ["stranger"]

    check_corpus(jsonl(tmp_path / "small.jsonl", *TEXTS), [])  # imports what it needs
    tracemalloc.start()
    checked = check_corpus(path, wanted)
    _, reading = tracemalloc.get_traced_memory()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    passed = sum(1 for _ in checked.corpus)
    passing = tracemalloc.get_traced_memory()[1] - held
    tracemalloc.stop()

    assert reading < 32 * lines
    assert passing < 100_000
    assert (passed, len(checked.corpus), len(checked.present)) == (lines, lines, lines // 1000)


ANY = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
IDS = ANY.filter(lambda text: text.strip() and not set(text) & set("\t\n\0"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(IDS, st.tuples(ANY, ANY), min_size=1, max_size=8), st.booleans())
def test_any_texts_are_read_as_they_were_written(
    tmp_path: Path, rows: dict[str, tuple[str, str]], escaped: bool
) -> None:
    path = tmp_path / "c.jsonl"
    with path.open("w", encoding="utf-8", newline="\n") as handle:
        for id_, (title, text) in rows.items():
            row = {"_id": id_, "title": title, "text": text}
            handle.write(json.dumps(row, ensure_ascii=escaped) + "\n")

    checked = check_corpus(path, rows)

    assert list(checked.corpus) == [CorpusText(id_, *row) for id_, row in rows.items()]
    assert checked.present == rows.keys()


def test_ids_that_repeat_are_found_and_named(tmp_path: Path) -> None:
    texts = [CorpusText(f"d{number % 70}", "", "") for number in range(100)]
    path = jsonl(tmp_path / "corpus.jsonl", *texts)

    with pytest.raises(EvalDataError, match=r"line 71: _id 'd0' occurred before"):
        check_corpus(path, [])


def test_an_equal_hash_is_no_equal_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eval.corpus.hash", lambda _id: 7, raising=False)

    assert len(check_corpus(jsonl(tmp_path / "c.jsonl", *TEXTS), []).corpus) == 2
    with pytest.raises(EvalDataError, match="line 3"):
        check_corpus(jsonl(tmp_path / "c.jsonl", *TEXTS, TEXTS[0]), [])


def test_packed_and_tabbed_files(tmp_path: Path) -> None:
    plain = jsonl(tmp_path / "c.jsonl", *TEXTS)
    packed = tmp_path / "c.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    tabbed = tmp_path / "c.tsv"
    tabbed.write_text("d1\tone\nd2\t\n")

    assert tuple(check_corpus(plain, []).corpus) == TEXTS
    assert tuple(check_corpus(packed, []).corpus) == TEXTS
    assert check_corpus(packed, []).corpus.sha256 == check_corpus(plain, []).corpus.sha256
    assert [text for _, text in read_texts(tabbed)] == [
        CorpusText("d1", "", "one"),
        CorpusText("d2", "", ""),
    ]
    packed.write_bytes(packed.read_bytes()[:-12])
    with pytest.raises(EvalDataError, match=r"c\.jsonl\.gz is damaged"):
        check_corpus(packed, [])
    packed.write_bytes(b"text")
    with pytest.raises(EvalDataError, match=r"Cannot read .*Not a gzipped file"):
        check_corpus(packed, [])
    tabbed.write_text("d1\tone\ttwo\n")
    with pytest.raises(EvalDataError, match=r"line 1: got 'd1"):
        check_corpus(tabbed, [])


def test_a_file_changed_between_two_passes_is_noticed(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "c.jsonl", *TEXTS)
    corpus = check_corpus(path, []).corpus
    jsonl(path, TEXTS[0], CorpusText("d2", "", "四"))

    assert isinstance(corpus, FileCorpus)
    with pytest.raises(EvalDataError, match="was changed while it was read"):
        list(corpus)


def test_whole_texts_can_be_looked_for(tmp_path: Path) -> None:
    found = check_corpus(jsonl(tmp_path / "c.jsonl", *TEXTS), ["d1", "x"], ["三", "x"])

    assert (set(found.present), dict(found.by_text)) == ({"d1"}, {"三": "d2"})


def test_held_texts_are_told_apart_by_their_digest() -> None:
    split = HeldCorpus((CorpusText("d1", "a", "b"),))

    assert split.sha256 == HeldCorpus((CorpusText("d1", "a", "b"),)).sha256
    assert split.sha256 != HeldCorpus((CorpusText("d1", "ab", ""),)).sha256
    assert (list(split), len(split)) == ([CorpusText("d1", "a", "b")], 1)


def test_a_folder_of_documents(tmp_path: Path) -> None:
    (tmp_path / "docs" / "sub").mkdir(parents=True)
    (tmp_path / "docs" / "a.txt").write_text("one")
    (tmp_path / "docs" / "sub" / "b.md").write_text("two")
    before = check_folder(tmp_path / "docs", 100)

    assert before.files == ("a.txt", "sub/b.md")
    assert (len(before), [text.id for text in before]) == (2, ["a.txt", "sub/b.md"])
    (tmp_path / "docs" / "a.txt").write_text("ONE")
    assert check_folder(tmp_path / "docs", 100).sha256 != before.sha256
    (tmp_path / "docs" / "sub" / "b.md").write_text("x")
    with pytest.raises(EvalDataError, match=r"1 of the files .* among them a\.txt"):
        check_folder(tmp_path / "docs", 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PathError):
        check_folder(tmp_path / "empty", 100)


def test_what_corpus_names(tmp_path: Path) -> None:
    with pytest.raises(EvalDataError, match=r"There is no .*none"):
        TextSource(tmp_path / "none", 100).read([])
    jsonl(tmp_path / "corpus.jsonl", *TEXTS)
    assert len(TextSource(tmp_path, 100).read([]).corpus) == 2
    (tmp_path / "corpus.jsonl").write_text("\n")
    with pytest.raises(EvalDataError, match="holds no texts"):
        TextSource(tmp_path, 100).read([])


# -- .parquet --------------------------------------------------------------------------------------


def test_parquet_without_its_reader_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "c.parquet").write_bytes(b"")

    with pytest.raises(MissingExtra, match=r"\.parquet files needs"):
        check_corpus(tmp_path / "c.parquet", [])


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    for part, text in enumerate(TEXTS):
        table = pyarrow.table(
            {"_id": [text.id], "title": [text.title or None], "text": [text.text]}
        )
        pq.write_table(table, tmp_path / f"corpus-{part:05d}-of-00002.parquet")

    checked = check_corpus(tmp_path, ["d2"])

    assert (tuple(checked.corpus), set(checked.present)) == (TEXTS, {"d2"})
    (tmp_path / "corpus-00001-of-00002.parquet").unlink()
    with pytest.raises(EvalDataError, match=r"holds 1 \.parquet files, .* one of 2"):
        check_corpus(tmp_path, [])
    (tmp_path / "corpus-00001-of-00002.parquet").write_bytes(b"PAR")
    with pytest.raises(EvalDataError, match=r"Cannot read .*00001-of-00002"):
        check_corpus(tmp_path, [])
