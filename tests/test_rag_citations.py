from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.citations import cite, parse_marks
from rag.index.analyze import Analyzer
from rag.refusal import refusal_text
from rag.schema import Answer, Chunk, Hit

MANUAL = (
    "Keep the room dry. The JL-200 pump weighs 18,600 g without its motor. Its rated flow is "
    "40 m³/h.\n\n| Code | Cause |\n|---|---|\n| E-104 | Overheating |\n| E-105 | Dry running |"
)
HANDBOOK = "年假为 12 天。陪产假为 15 天，须在配偶生产前后六十天内使用。"
HITS = [
    Hit(Chunk(1, "manual.md", 100, 100 + len(MANUAL), MANUAL, "Manual", 4), 0.9),
    Hit(Chunk(2, "hr.docx", 0, len(HANDBOOK), HANDBOOK), 0.5),
]


@pytest.fixture(scope="module")
def analyzer() -> Analyzer:
    return Analyzer()


def ask(text: str, analyzer: Analyzer, question: str = "How heavy is it?") -> Answer:
    return cite(text, HITS, analyzer=analyzer, question=question)


@pytest.mark.parametrize(
    ("text", "bare", "numbers"),
    [
        ("A is b [1].", "A is b.", [[1]]),
        ("A is b.[1][2] C.", "A is b. C.", [[1], [2]]),
        ("A [1, 2] b", "A b", [[1, 2]]),
        ("甲是乙【1】。", "甲是乙。", [[1]]),
        ("甲是乙［1，3］。", "甲是乙。", [[1, 3]]),
        ("A [1-3].", "A.", [[1, 2, 3]]),
        ("A [3-1].", "A.", [[3]]),
        ("A [1-999999].", "A.", [[1]]),
        ("A [1]and", "A and", [[1]]),
        ("A [123456789012].", "A [123456789012].", []),
        ("A [x] [] [1", "A [x] [] [1", []),
        ("A [[1]2].", "A (2).", [[1]]),
    ],
)
def test_marks(text: str, bare: str, numbers: list[list[int]]) -> None:
    marked = parse_marks(text)
    assert marked.text == bare
    assert [found for _, found in marked.marks] == numbers


def test_a_supported_sentence_is_cited_exactly(analyzer: Analyzer) -> None:
    answer = ask("The JL200 weighs 18600g [1].", analyzer)
    (citation,) = answer.citations
    assert citation.quote == "The JL-200 pump weighs 18,600 g without its motor."
    assert MANUAL[citation.start - 100 : citation.end - 100] == citation.quote
    assert (citation.file, citation.page) == ("manual.md", 4)
    assert answer.text == "The JL200 weighs 18600g. [1]"
    assert answer.unsupported == ()
    assert not answer.refused


def test_chinese_and_table_rows(analyzer: Analyzer) -> None:
    answer = ask("陪产假是15天【2】。E-104 means overheating [1].", analyzer, "陪产假几天？")
    assert [c.quote for c in answer.citations] == [
        "陪产假为 15 天，须在配偶生产前后六十天内使用。",
        "| E-104 | Overheating |",
    ]
    assert answer.text == "陪产假是15天。[1]E-104 means overheating. [2]"


@pytest.mark.parametrize(
    "text",
    [
        "The JL-200 pump weighs 18,600 g.",  # no mark
        "The JL-200 pump weighs 18,600 g [3].",  # no such passage
        "The JL-200 pump weighs 18,600 g [0].",
        "The JL-200 pump weighs 18,600 g [2].",  # another passage's fact
        "The JL-200 pump weighs 19,600 g [1].",  # another figure
        "Bananas are yellow and sweet [1].",
        'The pump "weighs about nothing" without its motor [1].',  # not its words
        "Yes [1].",  # nothing to check
    ],
)
def test_what_is_not_supported_is_marked_so(text: str, analyzer: Analyzer) -> None:
    answer = ask(text, analyzer)
    assert answer.citations == ()
    assert answer.unsupported == (answer.text,)
    assert not answer.refused


def test_a_quote_must_be_verbatim_but_for_white_space(analyzer: Analyzer) -> None:
    answer = ask('It says "without  its motor": the pump weighs 18,600 g [1].', analyzer)
    assert answer.unsupported == ()
    assert "without its motor" in answer.citations[0].quote


def test_numbers_of_the_question_may_be_repeated(analyzer: Analyzer) -> None:
    text = "After 3 years the pump still weighs 18,600 g without motor [1]."
    assert ask(text, analyzer).unsupported
    assert not ask(text, analyzer, "How heavy is the pump after 3 years?").unsupported


def test_marks_are_renumbered_and_repeats_share_one(analyzer: Analyzer) -> None:
    text = "年假为12天[2]。The rated flow is 40 m³/h [1]. 一年的年假是12天[2]。"
    answer = ask(text, analyzer)
    assert [c.file for c in answer.citations] == ["hr.docx", "manual.md"]
    assert answer.text == "年假为12天。[1]The rated flow is 40 m³/h. [2] 一年的年假是12天。[1]"


def test_a_refusal_is_recognised(analyzer: Analyzer) -> None:
    answer = ask(f"{refusal_text('en')} [1]", analyzer, "泵多重？")
    assert answer == Answer(refusal_text("zh"), refused=True)


def test_a_refusal_followed_by_a_supported_answer_is_none(analyzer: Analyzer) -> None:
    answer = ask(f"{refusal_text('en')} Its rated flow is 40 m³/h [1].", analyzer)
    assert not answer.refused
    assert answer.unsupported == (refusal_text("en"),)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[1]" * 50_000,
        "[1,2" * 40_000,
        "a.[1-9] " * 5_000,
        "【" * 99_999,
        "\n \n" * 60_000,
        '"' * 99_999,
    ],
)
def test_degenerate_output_is_harmless(text: str, analyzer: Analyzer) -> None:
    assert ask(text, analyzer).citations == ()


_PARTS = st.sampled_from(
    [
        "The pump weighs 18,600 g", "年假为 12 天", "[1]", "[2]", "【1-2】", "[9]", "[", "]",
        "1", ". ", "。", " ", "\n", '"dry"', "“", "|", "\ud800",
    ]
)  # fmt: skip


@settings(deadline=None)
@given(st.one_of(st.text(), st.lists(_PARTS, max_size=25).map("".join)))
def test_every_citation_is_exact_and_every_mark_has_one(text: str) -> None:
    answer = cite(text, HITS, analyzer=_shared(), question="?")
    texts = {hit.chunk.file: (hit.chunk.start, hit.chunk.text) for hit in HITS}
    for citation in answer.citations:
        offset, source = texts[citation.file]
        assert source[citation.start - offset : citation.end - offset] == citation.quote
        assert 0 < citation.score <= 1
    marks = {n for _, numbers in parse_marks(answer.text).marks for n in numbers}
    if not answer.refused:
        assert marks == set(range(1, len(answer.citations) + 1))
        assert all(sentence in answer.text for sentence in answer.unsupported)


_ANALYZERS: list[Analyzer] = []


def _shared() -> Analyzer:
    if not _ANALYZERS:
        _ANALYZERS.append(Analyzer())
    return _ANALYZERS[0]
