import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from chunk_checks import check_passages, packaged_tokens
from hypothesis import given
from hypothesis import strategies as st

from ingest.chunk import Chunker
from ingest.from_text import markdown_document
from rag.protocols import Tokens
from rag.schema import Document, FloatArray, Passage, Span


class FakeTokens:
    """One token for each word and each ideograph."""

    max_tokens = 64

    def count(self, texts: Sequence[str]) -> list[int]:
        return [
            len(re.findall(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+|[^\w\s]", text)) for text in texts
        ]

    def coverage(self, texts: Sequence[str]) -> FloatArray:
        return np.ones(len(texts), dtype=np.float32)


TOKENS = FakeTokens()
REAL = packaged_tokens()
MAX = 30
CHUNKER = Chunker(TOKENS, MAX, 8)


def split(text: str, **fields: object) -> list[Passage]:
    return checked(Document(text, **fields))  # type: ignore[arg-type]


def checked(
    document: Document, chunker: Chunker = CHUNKER, tokens: Tokens = TOKENS
) -> list[Passage]:
    """Split, and check what must hold for every document."""
    passages = check_passages(document, chunker, tokens, longest_cluster=4 * MAX)
    if tokens is TOKENS:
        assert all(len(passage.text) <= 8 * MAX * 2 for passage in passages)
    return passages


def sentences(count: int, words: int = 9, first: int = 0) -> str:
    numbers = range(first, first + count)
    return " ".join(f"Number {index} " + "word " * (words - 3) + "end." for index in numbers)


def test_nothing_and_little() -> None:
    assert split("") == []
    assert split(" \n\t ") == []
    assert split("  one two \n") == [Passage(2, 9, "one two")]


def test_sentences_are_packed_with_whole_ones_repeated() -> None:
    chunker = Chunker(TOKENS, MAX, 12)
    passages = checked(Document(sentences(9)), chunker)
    assert len(passages) > 3
    for before, after in pairwise(passages):
        assert before.text.endswith(".")
        assert after.text.startswith("Number")
        assert after.start < before.end
        assert TOKENS.count([document_overlap(before, after)])[0] <= 12
    assert max(TOKENS.count([passage.text for passage in passages])) <= MAX


def document_overlap(before: Passage, after: Passage) -> str:
    return before.text[after.start - before.start :]


def test_without_overlap_passages_do_not_touch() -> None:
    passages = checked(Document(sentences(9)), Chunker(TOKENS, MAX, 0))
    for before, after in pairwise(passages):
        assert before.end < after.start


def test_sections_part_passages_and_give_their_path_as_context() -> None:
    body = sentences(2)
    document = markdown_document(f"# Pump\n\n{body}\n\n## Safety\n\n{body}\n\n## Care\n\n{body}\n")
    passages = checked(document)
    assert [passage.context for passage in passages] == ["Pump", "Pump > Safety", "Pump > Care"]
    assert passages[1].text.startswith("## Safety")
    titled = Document(document.text, title="Manual", sections=document.sections)
    assert checked(titled)[1].context == "Manual > Pump > Safety"


def test_a_bare_heading_joins_what_follows_and_a_tiny_end_what_is_before() -> None:
    chunker = Chunker(TOKENS, 60, 0)
    document = markdown_document(f"# A\n\n## B\n\n{sentences(2)}\n\n## C\n\nok.\n")
    passages = checked(document, chunker)
    assert [passage.text[:3] for passage in passages] == ["# A"]
    assert passages[0].context == "A > B"


def test_a_paragraph_end_is_preferred() -> None:
    text = sentences(2) + "\n\n" + sentences(2, first=2)
    assert [passage.text for passage in checked(Document(text), Chunker(TOKENS, MAX, 0))] == [
        sentences(2),
        sentences(2, first=2),
    ]


def test_a_table_is_cut_between_rows_and_its_header_goes_into_the_context() -> None:
    rows = [f"| part {number} | {number} |" for number in range(12)]
    table = "\n".join(["| name | price |", "| --- | --- |", *rows])
    document = Document("Prices\n\n" + table, title="List", media_type="text/html")
    passages = checked(document)
    assert len(passages) > 2
    assert passages[0].text.startswith("Prices\n\n| name | price |")
    for passage in passages[1:]:
        assert passage.context == "List\n| name | price |"
        assert passage.text.split("\n")[0] in rows
        assert passage.text.split("\n")[-1] in rows
        assert "name" not in passage.text
    for passage in passages:
        assert TOKENS.count([passage.indexed_text])[0] <= TOKENS.max_tokens


@pytest.mark.parametrize("text", ["a" * 100_000, "水" * 20_000, "ab,cd;" * 5_000, "word " * 20_000])
def test_monsters_are_cut_into_small_pieces(text: str) -> None:
    passages = checked(Document(text))
    assert max(TOKENS.count([passage.text for passage in passages])) <= MAX
    assert max(len(passage.text) for passage in passages) <= 8 * MAX


def test_a_monster_is_cut_after_punctuation_and_not_before_a_combining_mark() -> None:
    for passage in checked(Document("abc,defg" * 400))[:-1]:
        assert passage.text.endswith(",")
    for passage in checked(Document("e\u0301" * 2000)):
        assert not passage.text.startswith("\u0301")


def test_pages_are_those_of_the_first_character() -> None:
    first, second = sentences(3), sentences(3, first=3)
    text = first + "\n\n" + second
    pages = (Span(0, len(first), "1"), Span(len(first) + 2, len(text), "4"))
    passages = split(text, pages=pages, media_type="application/pdf")
    assert {passage.page for passage in passages} == {1, 4}
    for passage in passages:
        assert passage.page == (1 if passage.start < len(first) else 4)
    assert split(text)[0].page is None


def test_lines_of_parsed_formats_are_ends_and_those_of_text_files_are_not() -> None:
    line = "this line is wide enough to be taken for a wrapped one and goes"
    text = "\n".join(f"{number} {line}\non here" for number in range(4))
    assert all("goes\non" in passage.text for passage in split(text))
    for passage in split(text, media_type="application/pdf"):
        assert passage.text.endswith(("goes", "on here"))


def test_a_long_context_is_shortened_and_leaves_room_for_the_text() -> None:
    label = " > ".join(["heading " * 14] * 4)
    text = sentences(8)
    passages = split(text, title="T " * 200, sections=(Span(0, len(text), label),))
    for passage in passages:
        assert len(passage.context) <= 240
        assert TOKENS.count([passage.context])[0] <= TOKENS.max_tokens // 4
        assert TOKENS.count([passage.indexed_text])[0] <= TOKENS.max_tokens


def test_the_fingerprint_follows_the_settings() -> None:
    assert CHUNKER.fingerprint == Chunker(TOKENS, MAX, 8).fingerprint
    assert len({Chunker(TOKENS, *sizes).fingerprint for sizes in ((30, 8), (31, 8), (30, 7))}) == 3


@pytest.mark.parametrize("sizes", [(15, 0), (30, 30), (30, -1)])
def test_sizes_are_checked(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Chunker(TOKENS, *sizes)


WORDS = "word|水泵|。|. |\n|\n\n| |# 标题\n|## b\n|，|1. item\n|\u3000|😀|\t"
TABLE = "| a | b |\n", "| --- | --- |\n", "| " + "cell, 水。" * 20 + " | x \\| y | z |\n"
MARKS = (
    "👩\u200d🔬",
    "🇨🇳",
    "e\u0301",
    "न्दि",
    "\u0600",
    "\u0301",
    "\ufe0f",
    "\u200d",
    "\u20e3",
    "각",
    "👍🏽",
)
LONG = "x" * 90, "A disclaimer that every page repeats at its end, word by word.\n"
PIECES = st.sampled_from([*WORDS.split("|"), *TABLE, *MARKS, *LONG])
TEXTS = st.lists(PIECES, max_size=120).map("".join)


@given(TEXTS, st.integers(0, 15), st.booleans())
def test_every_character_is_in_a_passage_and_passages_fit(
    text: str, overlap: int, wrapped: bool
) -> None:
    document = markdown_document(text)
    if not wrapped:
        document = Document(text, "Title", sections=document.sections, media_type="text/html")
    passages = checked(document, Chunker(TOKENS, MAX, overlap))
    counts = TOKENS.count([passage.text for passage in passages])
    assert max(counts, default=0) <= MAX


@given(st.text(max_size=300))
def test_any_text_can_be_cut(text: str) -> None:
    checked(Document(text))


@given(TEXTS, st.integers(16, 300))
def test_the_packaged_embedder_reads_every_passage_whole(text: str, size: int) -> None:
    """Sums of tokens are not tokens of sums: with a real tokenizer the limit must hold, too."""
    document = markdown_document(text)
    titled = Document(text, "标题 " * 9, sections=document.sections, media_type="text/html")
    checked(titled, Chunker(REAL, size, size // 5), REAL)


def test_a_row_longer_than_a_passage_is_cut_at_its_cells_and_they_at_sentences() -> None:
    cells = [f"cell {number} " + "word " * 9 + "end" for number in range(4)]
    long = "One sentence of a cell here. " * 8
    table = f"| a | b |\n| --- | --- |\n| {' | '.join(cells)} | {long}|"
    passages = checked(Document(table, media_type="text/html"))
    later = [passage.text for passage in passages[1:]]
    assert len(later) > 3
    assert {passage.context for passage in passages[1:]} == {"| a | b |"}
    assert all(text.startswith(("| cell", "One sentence")) for text in later)
    assert all(text.endswith(("end", ".", "|")) for text in later)


def test_a_header_that_is_too_long_is_repeated_in_part() -> None:
    header = "| " + " | ".join(f"name {number}" for number in range(30)) + " |"
    rows = "\n".join(f"| part {number} | {number} |" for number in range(12))
    passages = checked(Document(f"{header}\n| --- |\n{rows}", media_type="text/html"))
    assert passages[-1].context.startswith("| name 0 | name 1 |")
    assert passages[-1].context.endswith(" |")


def test_a_cluster_longer_than_a_passage_is_cut_all_the_same() -> None:
    text = "e" + "\u0301" * 4000
    passages = CHUNKER.split(Document(text))
    assert "".join(passage.text for passage in passages) == text
    assert max(len(passage.text) for passage in passages) <= 8 * MAX


def test_a_repeated_paragraph_is_indexed_once() -> None:
    notice = "This notice stands at the end of every page of the manual and says nothing at all."
    pages = [f"Chapter {word} tells of the part {word}.\n{notice}\n" for word in "abcd"]
    passages = split("".join(pages), media_type="application/pdf")
    assert sum(passage.text.count(notice) for passage in passages) == 1
    assert sum(passage.text.count("Chapter") for passage in passages) == 4
    body = sentences(2)
    document = markdown_document(f"# A\n\n{body}\n\n# B\n\n{body}\n\n# C\n\n{body}\n")
    assert [passage.text.count(body) for passage in checked(document)] == [1, 1, 1]
