from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.sentences import sentence_spans


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in sentence_spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("他来了。她走了！然后呢？", ["他来了。", "她走了！", "然后呢？"]),
        ("“你好！”她说：“走吧。”再见", ["“你好！”", "她说：“走吧。”", "再见"]),
        ("关泵；泄压；断电。", ["关泵；", "泄压；", "断电。"]),
        ("他想了想……好吧。", ["他想了想……", "好吧。"]),
        ("It costs 3.14 dollars. Go to a.example.com now!", None),
        ("Dr. Smith left. He is back.", ["Dr. Smith left.", "He is back."]),
        ("See Fig. 3. Then see No. 5 below.", ["See Fig. 3.", "Then see No. 5 below."]),
        ("The answer is no. He left.", ["The answer is no.", "He left."]),
        ("The U.S. Army came. It left the U.S. The end.", None),
        ("J. S. Bach wrote it. Yes.", ["J. S. Bach wrote it.", "Yes."]),
        ('He said "Stop." Then he left.', ['He said "Stop."', "Then he left."]),
        ("It rained.[1] It snowed.[2]", ["It rained.[1]", "It snowed.[2]"]),
        ("Really... yes. Really?! Yes", ["Really... yes.", "Really?!", "Yes"]),
        ("电机功率为 7.5 kW。型号见 2.1 节。", ["电机功率为 7.5 kW。", "型号见 2.1 节。"]),
    ],
)
def test_sentences(text: str, expected: list[str] | None) -> None:
    two = {
        "It costs 3.14 dollars. Go to a.example.com now!": [
            "It costs 3.14 dollars.",
            "Go to a.example.com now!",
        ],
        "The U.S. Army came. It left the U.S. The end.": [
            "The U.S. Army came.",
            "It left the U.S.",
            "The end.",
        ],
    }
    assert sentences(text) == (expected or two[text])


def test_lists_headings_and_tables_are_units() -> None:
    text = (
        "# Start-up\n1. Open the valve. Wait.\n2. Start\n- item one\n- item two\n\n"
        "| Code | Cause. Remedy |\n|---|---|\n| E1 | Hot. Stop! |\nName\tPrice\nA. B\t3.50"
    )
    assert sentences(text) == [
        "# Start-up", "1. Open the valve.", "Wait.", "2. Start", "- item one", "- item two",
        "| Code | Cause. Remedy |", "|---|---|", "| E1 | Hot. Stop! |", "Name\tPrice", "A. B\t3.50",
    ]  # fmt: skip


def test_wrapped_lines_are_one_sentence_and_short_lines_are_not() -> None:
    wrapped = (
        "The pump must not run dry, because the\nseal would be damaged within a minute. Stop it."
    )
    assert sentences(wrapped) == [wrapped[:-9], "Stop it."]
    assert sentences("Voltage: 380 V\nPower: 7.5 kW") == ["Voltage: 380 V", "Power: 7.5 kW"]
    chinese = (
        "本手册适用于本公司生产的单级端吸离心泵用于输送清水和软化\n水以及不含固体颗粒的液体。完"
    )
    assert sentences(chinese) == [chinese[:-1], "完"]


def test_blank_lines_end_a_sentence() -> None:
    text = "a paragraph that is long enough to look as if it were wrapped\n\nand another one"
    assert len(sentences(text)) == 2


_ALPHABET = st.sampled_from(
    [*"ab Z1.。！？；…!?\"'”’」）)([]|#-*\n\r\t\u2028\u3000，：，:、中文字\ud800\x00\x85",
     "e.g. ", "1. ", "\n\n"]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(_ALPHABET, max_size=80).map("".join)))
def test_spans_cover_everything_but_white_space(text: str) -> None:
    last = 0
    for start, end in sentence_spans(text):
        assert last <= start < end <= len(text)
        assert text[last:start].strip() == ""
        assert text[start:end] == text[start:end].strip()
        last = end
    assert text[last:].strip() == ""


@pytest.mark.parametrize(
    "text",
    [
        "a" * 300_000,
        "。" * 300_000,
        "\n \n" * 100_000,
        'x."' * 100_000,
        "[." * 150_000,
        " " * 300_000,
    ],
)
def test_long_degenerate_texts_are_cut_completely(text: str) -> None:
    spans = sentence_spans(text)
    assert sum(end - start for start, end in spans) >= len("".join(text.split()))
