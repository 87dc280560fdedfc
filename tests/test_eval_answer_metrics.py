"""Text metrics: hand-worked fractions, the official definitions written anew, and properties."""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from difflib import SequenceMatcher

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.answer_metrics import (
    Bleu,
    answer_f1,
    chinese_tokens,
    exact_match,
    rouge_l,
    speak_chinese,
    squad_normal,
)

WORDS = "the a An Panthers won 24 – 10, (Denver) U.S. theory it's état ' Anne 24 won Ⅷ".split()


def official_normal(text: str) -> str:
    """SQuAD's rules, in their order: lower case, punctuation, articles, white space."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def official_f1(text: str, gold: str) -> float:
    got, wanted = official_normal(text).split(), official_normal(gold).split()
    if not got or not wanted:
        return float(got == wanted)
    same = sum((Counter(got) & Counter(wanted)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(got), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def test_english_equals_squad_on_a_thousand_random_cases() -> None:
    draw = random.Random(5)

    def some(most: int) -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(0, most)))

    met = set()
    for _ in range(1000):
        text, answers = some(8), [some(5) for _ in range(draw.randint(1, 3))]
        real = [answer for answer in answers if official_normal(answer)] or [""]
        f1 = max(official_f1(text, answer) for answer in real)
        same = max(float(official_normal(text) == official_normal(answer)) for answer in real)
        assert answer_f1(text, answers, chinese=False) == pytest.approx(f1, abs=1e-9)
        assert exact_match(text, answers, chinese=False) == same
        met |= {("f1", 0 < f1 < 1), ("same", same)}
    assert met >= {("f1", True), ("f1", False), ("same", 0.0), ("same", 1.0)}


def test_chinese_f1_is_cmrcs_on_random_characters() -> None:
    """CMRC 2018: longest common stretch; found here by another algorithm (difflib)."""
    draw = random.Random(6)
    for _ in range(300):
        text, gold = ("".join(draw.choices("黑豹队二四", k=draw.randint(1, 12))) for _ in "ab")
        matcher = SequenceMatcher(None, text, gold, autojunk=False)
        common = matcher.find_longest_match().size
        precision, recall = common / len(text), common / len(gold)
        expected = 2 * precision * recall / (precision + recall) if common else 0.0
        marked = f"{text}，[1]"
        assert answer_f1(marked, [gold], chinese=True) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "answers", "chinese", "same", "f1", "rouge"),
    [
        ("The Denver Broncos! [1]", ["Denver Broncos"], False, 1, 1, 4 / 5),
        ("Denver won it", ["the Denver Broncos"], False, 0, 2 * (1 / 3) * (1 / 2) / (5 / 6), 1 / 3),
        ("won won", ["won"], False, 0, 2 / 3, 2 / 3),
        ("b a c", ["a b c"], False, 1, 1, 2 / 3),  # "a" is an article
        ("", ["x"], False, 0, 0, 0),
        ("共 308分。[1]", ["308"], True, 0, 1 / 2, 1 / 2),  # 共, 308, 分
        ("136次", ["136 次"], True, 1, 1, 1),
        ("丢了三百零八分", ["三百分"], True, 0, 2 * (2 / 7) * (2 / 3) / (20 / 21), 6 / 10),
        ("5.7％", ["5.7%"], True, 1, 1, 1),
        ("５.７％", ["5.7"], True, 0, 2 / 3, 2 / 3),
        ("红", ["蓝", "红"], True, 1, 1, 1),
        ("", ["红"], True, 0, 0, 0),
    ],
)
def test_hand_worked_fractions(
    text: str, answers: list[str], chinese: bool, same: float, f1: float, rouge: float
) -> None:
    assert exact_match(text, answers, chinese=chinese) == same
    assert answer_f1(text, answers, chinese=chinese) == pytest.approx(f1, abs=1e-12)
    assert rouge_l(text, answers, chinese=chinese) == pytest.approx(rouge, abs=1e-12)


def test_tokens() -> None:
    assert chinese_tokens("RCEP 于 1,000.5 元、《长津湖》") == [
        "rcep", "于", "1,000.5", "元", "长", "津", "湖"
    ]  # fmt: skip
    assert squad_normal("The  U.S. theory of an “A”") == "us theory of “ ”"


def test_a_word_in_no_language_is_measured_as_its_neighbours_are() -> None:
    zh = [("谁赢了？", ["黑豹队"]), ("多少分？", ["308"]), ("哪个联盟？", ["NFL"])]
    assert speak_chinese(zh) == [True, True, True]
    assert speak_chinese([("谁赢了？", ["The Panthers"]), ("多少分？", ["308"])]) == [False, False]
    assert speak_chinese([("Who won?", ["黑豹队"]), ("How many?", ["308"])]) == [True, False]
    assert speak_chinese([]) == []


TEXTS = st.text(alphabet="ab 中文一。,1", max_size=15)


@settings(max_examples=50)
@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3), st.booleans())
def test_scores_stay_in_range_and_a_right_answer_gets_all(
    text: str, answers: list[str], chinese: bool
) -> None:
    normal = chinese_tokens if chinese else squad_normal
    for measure in (exact_match, answer_f1, rouge_l):
        score = measure(text, answers, chinese=chinese)
        assert 0 <= score <= 1
        if any(map(normal, answers)):  # one more right answer never harms
            assert measure(text, [*answers, "中b中b"], chinese=chinese) >= score
    if chinese_tokens(text) and chinese:
        assert answer_f1(text, [text], chinese=True) == 1
        assert rouge_l(text, [text], chinese=True) == 1


@pytest.mark.parametrize(("tokenize", "chinese"), [("zh", True), ("13a", False)])
def test_bleu_equals_sacrebleus(tokenize: str, chinese: bool) -> None:
    import sacrebleu

    draw = random.Random(7)
    pool = list("黑豹队的防守丢了，。308分ab") if chinese else [f"{w} " for w in WORDS]

    def some() -> str:
        return "".join(draw.choices(pool, k=draw.randint(4, 14)))

    texts = [some() for _ in range(60)]
    answers = [[some(), text[:-1] + some()] for text in texts]
    streams = [list(stream) for stream in zip(*answers, strict=True)]
    expected = sacrebleu.corpus_bleu(texts, streams, tokenize=tokenize, force=True).score
    bleu = Bleu()
    assert 0 < expected < 100
    assert bleu.corpus(texts, answers, [chinese] * 60) == pytest.approx(expected, abs=1e-9)
    one = sacrebleu.sentence_bleu(texts[0], answers[0], tokenize=tokenize).score
    assert bleu.sentence(texts[0], answers[0], chinese=chinese) == pytest.approx(one, abs=1e-9)


def test_bleu_by_hand() -> None:
    bleu = Bleu()
    # p1 = 5/6, p2 = 3/5, p3 = 2/4, p4 = 1/3; no brevity penalty.
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25
    found = bleu.corpus(["一二三四六五"], [["一二三四七五"]], [True])
    assert found == pytest.approx(expected)
    # Languages and numbers of answers may be mixed; a missing answer costs brevity.
    texts, wanted = (
        ["一二三四五", "one two three four"],
        [["一二三四五", "x"], ["one two three four"]],
    )
    assert bleu.corpus(texts, wanted, [True, False]) == pytest.approx(100)
    assert bleu.corpus(["一二三四五", ""], [["一二三四五"], ["一二三四五"]], [True, True]) == (
        pytest.approx(100 * 2.718281828459045 ** (1 - 10 / 5))
    )
    assert bleu.corpus([], [], []) == 0
    with pytest.raises(ValueError, match="without a right answer"):
        bleu.corpus(["x"], [[]], [False])
