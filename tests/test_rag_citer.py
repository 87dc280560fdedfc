"""What is certain of an answer that is still being written, and that it does not change."""

from __future__ import annotations

import pytest
from fake_chat import HITS, analyzer
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.citations import Citer, cite
from rag.marks import MarkReader, parse_marks
from rag.refusal import may_become_refusal, refusal_text
from rag.sentences import SentenceReader, sentence_spans


def citer(question: str = "How heavy is it?") -> Citer:
    return Citer(HITS, analyzer=analyzer(), question=question)


def shown(*pieces: str) -> list[str]:
    """What each piece made certain, and last what was left to the end."""
    made = citer()
    certain = [made.feed(piece) for piece in pieces]
    answer = made.finish()
    assert answer.text.startswith("".join(certain))
    return [*certain, answer.text[len("".join(certain)) :]]


def test_a_sentence_is_shown_when_its_marks_are_known() -> None:
    assert shown("The pump weighs 18,600 g", " [", "1", "]", ".", " It", " is red.") == [
        "", "", "", "", "", "The pump weighs 18,600 g. [1]", "", " It is red.",
    ]  # fmt: skip
    assert shown("The pump weighs 18,600 g.", " [1]", " [2]", " And", " more")[3:] == [
        "The pump weighs 18,600 g. [1]", "", " And more",
    ]  # fmt: skip
    assert shown("年假为12天。", "【", "2", "】", "陪", "产假为15天【2】。") == [
        "", "", "", "", "年假为12天。[1]", "", "陪产假为15天。[2]",
    ]  # fmt: skip


@pytest.mark.parametrize("begun", ["[", " [", "[1", "[1, ", "[1-", "[1][", "【", "［2 ", "[" * 30])
def test_what_may_be_a_mark_is_held_back(begun: str) -> None:
    made = citer()
    assert made.feed("The pump weighs 18,600 g." + begun) == ""
    assert made.feed("x. ") == "" or begun[-1] in " [【"


def test_an_abbreviation_waits_for_its_next_word() -> None:
    assert shown("See etc.", " Th", "e end", ". Now")[:3] == ["", "", "See etc."]
    assert shown("See etc.", " Thus", "ly Inc. ", "Now go")[:3] == ["", "", ""]
    assert shown("It is.", " Th", "e end")[:2] == ["", "It is."]


def test_lines_and_rows() -> None:
    assert shown("# Pumps", "\n", "- red", "\n", "- blue", "\n\n", "|a. B|", "\n", "x") == [
        "", "", "# Pumps", "", "\n- red", "", "\n- blue", "", "\n\n|a. B|", "\nx",
    ]  # fmt: skip


def test_nothing_is_shown_while_it_may_be_a_refusal() -> None:
    refusal = refusal_text("en")
    assert shown(*refusal.split(" "), " ")[-1] == refusal
    # Unsupported words behind it leave it a refusal ...
    assert shown(refusal, " I am", " sorry. ", "Ask the plant.")[:-1] == ["", "", "", ""]
    # ... a supported sentence does not,
    *_, fourth, last = shown(refusal, " But", " its rated flow is 40 m³/h [1]. ", "Yes.")
    assert (fourth, last) == (f"{refusal} But its rated flow is 40 m³/h. [1]", " Yes.")
    # and what only begins like one is shown with its first sentence.
    assert shown("The documents hold", " much. ", "We")[:3] == ["", "", "The documents hold much."]


@pytest.mark.parametrize("language", ["en", "zh", "zh-Hant"])
def test_every_beginning_may_become_a_refusal(language: str) -> None:
    refusal = refusal_text(language)  # type: ignore[arg-type]
    assert all(may_become_refusal(f"**{refusal[:end]}") for end in range(len(refusal) + 1))
    assert may_become_refusal(refusal + " Sorry.")
    assert not may_become_refusal("The pump")


def test_what_the_next_character_decides() -> None:
    assert shown("A [1]", "and B. ", "C")[-1] == "A and B. C"
    wide = "wide " * 14
    for pieces in (
        [f"{wide}\n", "-", " item"],
        [f"{wide}\n", "=", "==", "\nx"],
        [wide, "\n", "#", " B"],
    ):
        reader = SentenceReader()
        spans = [span for piece in pieces for span in reader.feed(piece)]
        assert spans + reader.finish() == sentence_spans("".join(pieces))
        assert len(sentence_spans("".join(pieces))) >= 2


# -- properties ------------------------------------------------------------------------------------

_PARTS = st.sampled_from(
    [
        "The pump weighs 18,600 g", "年假为 12 天", "[1]", "[2]", "【1-2】", "[9]", "[", "]", "1",
        ". ", ".", "。", " ", "\n", "\n\n", '"dry"', "“", "|", "\ud800", "- ", "1. ", ",", "-",
        "Its rated flow is 40 m³/h", " Dr", " etc", " No", "the", "The", "[a]", "# ", "---", ")",
        "'", "…", "!", "：", "x" * 60, refusal_text("en"), refusal_text("zh"), "The documents",
    ]
)  # fmt: skip
_TEXTS = st.one_of(st.text(), st.lists(_PARTS, max_size=25).map("".join))
_CUTS = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def cut(text: str, lengths: list[int]) -> list[str]:
    """Cut a text into pieces of the given lengths, again and again."""
    pieces, at, turn = [], 0, 0
    while at < len(text):
        pieces.append(text[at : at + lengths[turn % len(lengths)]])
        at, turn = at + len(pieces[-1]), turn + 1
    return pieces


@settings(deadline=None)
@given(_TEXTS, _CUTS)
def test_the_answer_does_not_depend_on_the_pieces(text: str, lengths: list[int]) -> None:
    whole = cite(text, HITS, analyzer=analyzer(), question="?")
    made = citer("?")
    certain = "".join(map(made.feed, cut(text, lengths)))
    assert made.finish() == whole
    assert whole.text.startswith(certain)
    cited = {n for _, numbers in parse_marks(certain).marks for n in numbers}
    assert cited <= set(range(1, len(whole.citations) + 1))


@given(_TEXTS, _CUTS)
def test_marks_do_not_depend_on_the_pieces(text: str, lengths: list[int]) -> None:
    whole, reader = parse_marks(text), MarkReader()
    assert "".join(map(reader.feed, cut(text, lengths))) + reader.finish() == whole.text
    assert reader.marks == whole.marks


@given(_TEXTS.map(lambda text: text.replace("\t", " ")), _CUTS)
def test_sentences_do_not_depend_on_the_pieces(text: str, lengths: list[int]) -> None:
    reader = SentenceReader()
    spans = [span for piece in cut(text, lengths) for span in reader.feed(piece)]
    assert spans + reader.finish() == sentence_spans(text)


@pytest.mark.parametrize(
    "text",
    [
        "[", "[1]", "[1, ", "a.[1-9] ", "【", "。", "。\n", "a", '"', "。)", "\n=", "A. B", "a.a.",
        "'.", "[a", " ", "No. ",
    ],
)  # fmt: skip
def test_degenerate_output_is_harmless(text: str) -> None:
    made = citer()
    for char in (text * 30_000)[:30_000]:
        made.feed(char)
    assert made.finish().citations == ()
