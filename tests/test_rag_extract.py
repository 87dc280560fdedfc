from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.candidates import (
    FEATURES,
    MAX_PIECE,
    MAX_WORDS,
    clause_spans,
    cut_pieces,
    gather,
    length_share,
)
from rag.extract import CODE_BONUS, MAX_SENTENCES, ExtractiveAnswerer, answer_probabilities, show
from rag.index.analyze import Analyzer
from rag.language import question_language
from rag.question import analyze_question
from rag.refusal import Evidence, evidence_score, refusal_text
from rag.schema import Answer, Chunk, Hit
from rag.testing import FakeTokens

PUMP = (
    "The JL-200 pump was designed in 1998. Its rated flow is 40 cubic metres an hour. "
    "The bearings must be greased every 2,000 hours with lithium grease. "
    "Never run the pump dry, because the seal would be damaged within a minute."
)
LEAVE = (
    "本制度适用于全体员工。员工每年享有十二天带薪年休假。"
    "陪产假为 15 天，须在配偶生产前后六十天内使用。病假须提交医院证明。"
)
CODES = (
    "Alarm codes\n\n| Code | Cause | Remedy |\n| --- | --- | --- |\n"
    "| E-104 | Motor overheated | Let it cool down |\n"
    "| E-105 | Dry running | Open the suction valve |"
)


_SENTENCES = st.sampled_from(
    [
        "The pump weighs 18 kg. ", "年假为十二天。", "| E1 | Hot |\n",
        "| Code | Cause |\n|---|---|\n", "word " * 70, "没有标点的长句" * 30, "一，" * 100,
        "- item\n", "# Head\n", "[1] ", "\ud800", "\x00\n", "a" * 700,
        "\t", "1,2; " * 90, "“", "Fig. ", "\u3000\n\n",
    ]
)  # fmt: skip
_TEXTS = st.one_of(st.text(max_size=300), st.lists(_SENTENCES, max_size=8).map("".join))


def hits(*texts: str, context: str = "", file: str = "f{}.md") -> list[Hit]:
    return [
        Hit(
            Chunk(n, file.format(n), 1000 * n, 1000 * n + len(text), text, context, n),
            1 / n,
            bm25=10.0 / n,
            cosine=0.6 / n,
        )
        for n, text in enumerate(texts, 1)
    ]


@pytest.fixture(scope="module")
def analyzer() -> Analyzer:
    return Analyzer()


@pytest.fixture(scope="module")
def answerer(analyzer: Analyzer) -> ExtractiveAnswerer:
    return ExtractiveAnswerer(analyzer)


def check_citations(answer: Answer, found: list[Hit]) -> None:
    for citation in answer.citations:
        chunks = [hit.chunk for hit in found if hit.chunk.file == citation.file]
        assert any(
            chunk.text[citation.start - chunk.start : citation.end - chunk.start] == citation.quote
            and citation.page == chunk.page
            for chunk in chunks
        )
        assert citation.quote
        assert 0 <= citation.score <= 1
    for number in range(1, len(answer.citations) + 1):
        assert f"[{number}]" in answer.text


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("What is the rated flow of the JL-200 pump?", "40 cubic metres an hour"),
        ("How often must the bearings be greased?", "every 2,000 hours"),
        ("Why should the pump never run dry?", "the seal would be damaged"),
        ("When was the JL-200 pump designed?", "1998"),
        ("陪产假有多少天？", "15 天"),
        ("員工每年有幾天帶薪年休假？", "十二天"),
        ("What does alarm code E-104 mean?", "Motor overheated"),
        ("What is the remedy for alarm code E105?", "Open the suction valve"),
    ],
)
def test_the_right_sentence_is_in_the_answer(
    question: str, expected: str, answerer: ExtractiveAnswerer
) -> None:
    found = hits(PUMP, LEAVE, CODES)
    answer = answerer.answer(question, found)
    assert not answer.refused
    assert expected in answer.text
    assert answer.unsupported == ()
    check_citations(answer, found)
    assert any(expected in citation.quote for citation in answer.citations)


def test_a_table_row_is_shown_with_its_column_names(answerer: ExtractiveAnswerer) -> None:
    answer = answerer.answer("What does alarm code E-104 mean?", hits(CODES))
    assert answer.text.startswith(
        "Code: E-104; Cause: Motor overheated; Remedy: Let it cool down [1]"
    )
    assert answer.citations[0].quote == "| E-104 | Motor overheated | Let it cool down |"


def test_a_table_continued_in_a_chunk_takes_the_header_from_its_context() -> None:
    row = "| E-104 | Motor overheated |"
    (piece,) = cut_pieces(row, context="Codes > Alarms\n| Code | Cause |")
    assert show(row, piece) == "Code: E-104; Cause: Motor overheated"
    (bare,) = cut_pieces(row)
    assert show(row, bare) == "E-104 | Motor overheated"


def test_headings_and_table_frames_are_no_pieces() -> None:
    text = "# Codes\nAlarms\n\n| Code | Cause |\n|---|:-:|\n| E1 | Hot |\n\n- Stop the pump."
    pieces = cut_pieces(text, context="Codes > Alarms")
    assert [text[piece.start : piece.end] for piece in pieces] == [
        "| E1 | Hot |",
        "- Stop the pump.",
    ]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("- Stop the **pump**.", "Stop the pump."),
        (f"• {'关闭进口阀' * 6}\n之后断电。", f"{'关闭进口阀' * 6}之后断电。"),
        ("1. Stop  it\nnow.", "1. Stop it now."),
        ("It rained.[3]", "It rained."),
        ("See a[1] there.", "See a(1) there."),
    ],
)
def test_pieces_are_shown_readable_and_without_marks(raw: str, shown: str) -> None:
    pieces = cut_pieces(raw)
    assert " ".join(show(raw, piece) for piece in pieces) == shown


def test_the_same_sentence_of_two_documents_is_shown_once(answerer: ExtractiveAnswerer) -> None:
    fact = "The bearings must be greased every 2,000 hours."
    answer = answerer.answer("How often must the bearings be greased?", hits(fact, fact, fact))
    assert answer.text == f"{fact} [1]"
    assert [citation.file for citation in answer.citations] == ["f1.md"]


def test_versions_that_differ_in_a_figure_are_both_shown(answerer: ExtractiveAnswerer) -> None:
    old, new = "The daily meal allowance is 80 yuan.", "The daily meal allowance is 100 yuan."
    both = [replace(hit, bm25=9.0, cosine=0.6) for hit in hits(old, new)]
    answer = answerer.answer("How much is the daily meal allowance?", both)
    assert len(answer.citations) == 2


def test_a_sentence_longer_than_an_answer_is_windowed(answerer: ExtractiveAnswerer) -> None:
    filler = ", ".join(f"item {n} is stored on shelf {n} of the warehouse" for n in range(30))
    text = f"{filler}, the grease gun hangs behind the green door, {filler}."
    answer = answerer.answer("Where does the grease gun hang?", hits(text))
    assert "behind the green door" in answer.text
    assert "…" in answer.text
    assert len(answer.text.split()) <= MAX_WORDS
    check_citations(answer, hits(text))


def test_neighbouring_sentences_share_a_citation(answerer: ExtractiveAnswerer) -> None:
    text = "The red pump stands in hall 3. The red pump weighs 18 kg. It was painted twice."
    answer = answerer.answer("Where is the red pump, and what does the red pump weigh?", hits(text))
    (citation,) = answer.citations
    assert citation.quote.startswith("The red pump stands in hall 3. The red pump weighs 18 kg.")
    assert answer.text == f"{citation.quote} [1]"


def test_room_left_over_holds_whole_clauses_of_the_next_sentence(
    answerer: ExtractiveAnswerer,
) -> None:
    first = (
        "驻外员工的住房补贴由人力资源部按月发放，标准每年三月公布，最高为每月三千元，"
        "随工资一同汇入员工本人的银行账户，离职当月不发，试用期内减半。"
    )
    second = (
        "住房补贴须由员工本人在每月五日之前提出申请，附上当月租金发票的复印件，"
        "经部门经理和财务部先后审核，审核通过之后与工资一并发放，逾期不补，员工离职当月不再发放。"
    )
    found = [replace(hit, bm25=9.0, cosine=0.6) for hit in hits(first, second)]
    answer = answerer.answer("住房补贴怎样发放？", found)
    check_citations(answer, found)
    shown = [citation for citation in answer.citations if citation.file == "f2.md"]
    assert len(answer.citations) == 2
    assert len(shown) == 1
    assert shown[0].quote in second
    assert not shown[0].quote.endswith("，")
    assert "…" in answer.text
    assert length_share(answer.text) <= 1


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("It cost 1,250,000 euros, and more.", ["It cost 1,250,000 euros", "and more."]),
        ("At 12:30, in 2019–2021, it ran", ["At 12:30", "in 2019–2021", "it ran"]),
        ("批准为人民币12,500,000元整，有效。", ["批准为人民币12,500,000元整", "有效。"]),
        ("时间：12：30，地点：泵房", ["时间", "12：30", "地点", "泵房"]),
        ("items 1, 2 and 3", ["items 1", "2 and 3"]),
    ],
)
def test_no_clause_ends_inside_a_number(text: str, clauses: list[str]) -> None:
    assert [text[start:end] for start, end in clause_spans(text, 0, len(text))] == clauses


@given(_TEXTS)
def test_clauses_are_in_order_and_leave_out_only_what_separates(text: str) -> None:
    for piece in cut_pieces(text):
        last = piece.start
        for start, end in clause_spans(text, piece.start, piece.end):
            assert not any(char.isalnum() for char in text[last:start])
            assert piece.start <= last <= start < end <= piece.end
            last = end
        row = text[piece.start] == "|" or "\t" in text[piece.start : piece.end]
        assert row or not any(char.isalnum() for char in text[last : piece.end])


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("Who won the tennis tournament?", "en"),
        ("红烧肉怎么做才不腻？", "zh"),
        ("紅燒肉怎麼做才會香？", "zh-Hant"),
    ],
)
def test_off_topic_questions_are_refused(question: str, language: str, analyzer: Analyzer) -> None:
    found = [
        Hit(hit.chunk, hit.score, hit.bm25, 0.1 if hit.cosine else None)
        for hit in hits(PUMP, LEAVE, CODES)
    ]
    tokens = FakeTokens(unread="红烧肉怎么做才不腻紅燒麼會香")
    answer = ExtractiveAnswerer(analyzer, tokens=tokens).answer(question, found)
    assert question_language(question) == language
    assert answer.refused
    assert answer.citations == ()
    assert answer.text == refusal_text(question_language(question))
    kept = ExtractiveAnswerer(analyzer, tokens=tokens, threshold=0.0).answer(question, found)
    assert not kept.refused
    assert kept.confidence == answer.confidence


def test_nothing_found_is_refused(answerer: ExtractiveAnswerer) -> None:
    assert answerer.answer("How heavy is it?", []) == Answer(refusal_text("en"), refused=True)
    assert answerer.answer("How heavy is it?", hits(" \n", "")).refused


def test_each_fact_moves_the_evidence_as_it_should() -> None:
    base = Evidence(support=0.5, pair_support=0.4, certainty=0.4, cosine=0.5, lost_codes=0.5)
    for readable in (0.0, 1.0):
        score = evidence_score(base, readable=readable)
        assert 0 < score < 1
        for better in (
            replace(base, support=0.9),
            replace(base, certainty=0.9),
            replace(base, lost_codes=0.0),
        ):
            assert evidence_score(better, readable=readable) > score
    nearer = replace(base, cosine=0.9)
    assert evidence_score(nearer, readable=1.0) > evidence_score(base, readable=1.0)
    assert evidence_score(nearer, readable=0.1) == evidence_score(base, readable=0.1)
    unseen = replace(base, cosine=None)
    assert evidence_score(unseen) == evidence_score(base, readable=0.0)


def test_the_question_is_read_for_what_it_asks(analyzer: Analyzer) -> None:
    question = analyze_question("How many bolts hold the JL-220?", analyzer)
    assert question.kinds == {"number"}
    assert question.codes == {"jl220"}
    assert question.words == ("bolt", "hold", "jl220")
    assert "bolt" in question.focus
    assert analyze_question("謝先生何時退休？", analyzer).kinds == {"date"}
    assert "place" in analyze_question("泵房在哪里？", analyzer).kinds
    assert analyze_question("Why is it hot?", analyzer).kinds == {"reason"}
    assert analyze_question("几内亚的首都叫什么？", analyzer).kinds == frozenset()
    assert analyze_question("the of is?", analyzer).words


def test_words_outside_the_asking_clause_weigh_less(analyzer: Analyzer) -> None:
    question = analyze_question("老婆下个月生孩子，陪产假有多少天？", analyzer)
    weights = dict(zip(question.words, question.weights, strict=True))
    assert weights["老婆"] < weights["产假"]


def test_probabilities_sum_to_one_and_features_are_finite(analyzer: Analyzer) -> None:
    question = analyze_question("How many hours?", analyzer)
    candidates = gather(question, hits(PUMP, CODES), analyzer)
    assert candidates.features.shape == (len(candidates.pieces), len(FEATURES))
    assert bool((abs(candidates.features) < 100).all())
    assert answer_probabilities(question, candidates).sum() == pytest.approx(1)
    assert CODE_BONUS > 0


@settings(deadline=None, max_examples=60)
@given(
    st.one_of(st.text(max_size=80), st.sampled_from(["How heavy?", "年假几天？"])),
    st.lists(_TEXTS, max_size=4),
)
def test_any_answer_is_short_and_exactly_cited(question: str, texts: list[str]) -> None:
    found = hits(*texts, context="Head\n| Code | Cause |")
    answer = ExtractiveAnswerer(_shared(), threshold=0.0).answer(question, found)
    check_citations(answer, found)
    assert len(answer.citations) <= MAX_SENTENCES
    if not answer.refused:
        assert length_share(answer.text) <= 1
    for left, right in itertools.combinations(answer.citations, 2):
        assert (left.file, left.start) != (right.file, right.start)


@given(_TEXTS)
def test_pieces_are_in_order_and_short_enough(text: str) -> None:
    last = 0
    for piece in cut_pieces(text):
        assert last <= piece.start < piece.end <= len(text)
        assert text[piece.start : piece.end].strip() == text[piece.start : piece.end]
        assert length_share(text[piece.start : piece.end]) <= MAX_PIECE
        last = piece.end


_ANALYZERS: list[Analyzer] = []


def _shared() -> Analyzer:
    if not _ANALYZERS:
        _ANALYZERS.append(Analyzer())
    return _ANALYZERS[0]
