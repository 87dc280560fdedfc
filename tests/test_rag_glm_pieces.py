"""Streamed text is exactly the decoded text, whole characters only, cut exactly at stop strings."""

from __future__ import annotations

from pathlib import Path

import pytest
from glm_tokenizers import write_model
from hypothesis import given
from hypothesis import strategies as st
from test_rag_glm_tokenizer import cases

from rag.errors import ConfigError
from rag.glm.pieces import StopStrings, TextPieces
from rag.glm.tokenizer import ChatGLM3Tokenizer, load_tokenizer


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> ChatGLM3Tokenizer:
    return load_tokenizer(write_model(tmp_path_factory.mktemp("pieces")))


def streamed(tokenizer: ChatGLM3Tokenizer, ids: list[int], *, skip: bool = False) -> list[str]:
    pieces = TextPieces(tokenizer, skip_control=skip)
    return [*(pieces.push(id_) for id_ in ids), pieces.end()]


@given(ids=st.lists(st.integers(0, 310)), skip=st.booleans())
def test_pieces_are_the_decoded_text(small: ChatGLM3Tokenizer, ids: list[int], skip: bool) -> None:
    assert "".join(streamed(small, ids, skip=skip)) == small.decode(ids, skip_control=skip)


@given(st.text(st.characters(codec="utf-8")))
def test_no_character_is_emitted_in_parts(small: ChatGLM3Tokenizer, text: str) -> None:
    made = "".join(streamed(small, small.encode(text))[:-1])
    assert made == small.decode(small.encode(text))
    assert made.count("\ufffd") == text.count("\ufffd") + sum(
        "\ud800" <= c <= "\udfff" for c in text
    )


def test_a_cut_off_emoji_is_held_back_until_the_end(small: ChatGLM3Tokenizer) -> None:
    ids = small.encode("😀")
    assert len(ids) > 4  # "▁" and four bytes
    assert streamed(small, ids) == ["", "", "", "", "😀", ""]
    assert streamed(small, ids[:-1]) == ["", "", "", "", "\ufffd" * 3]


def test_the_official_cases(shared_glm: Path) -> None:
    tokenizer = load_tokenizer(shared_glm / "tiny_chatglm3")
    for case in cases(shared_glm, "tokenizer_cases"):
        expected = case["text"] if case["decoded"] is None else case["decoded"]
        assert "".join(streamed(tokenizer, case["ids"])) == expected


def test_a_negative_id(small: ChatGLM3Tokenizer) -> None:
    with pytest.raises(ValueError, match="-1"):
        TextPieces(small).push(-1)


# -- stop strings ----------------------------------------------------------------------------------


def cut(text: str, stops: list[str]) -> str:
    """The definition: up to the stop string that is complete first, the longest of those."""
    for end in range(1, len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            return text[: end - max(map(len, met))]
    return text


@given(
    pieces=st.lists(st.text(alphabet="ab\n", max_size=4), max_size=12),
    stops=st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_cut_exactly_across_pieces(pieces: list[str], stops: list[str]) -> None:
    watch = StopStrings(stops)
    made = "".join([*(watch.push(piece) for piece in pieces), watch.end()])
    assert made == cut("".join(pieces), stops)
    assert (watch.found is None) == (made == "".join(pieces))


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    watch = StopStrings(["###"])
    assert [watch.push(piece) for piece in ("a#", "b##", "c", "##", "#d", "e")] == [
        "a", "#b", "##c", "", "", "",
    ]  # fmt: skip
    assert watch.found == "###"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ConfigError, match="empty"):
        StopStrings(["x", ""])
