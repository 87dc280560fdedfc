"""Decoding as it comes: pieces join to what decoding at once gives; nothing half-made is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from glm_tokenizers import COUNT, write_model
from hypothesis import given
from hypothesis import strategies as st

from rag.glm.stream import StopStrings, StreamDecoder
from rag.glm.tokenizer import ChatGLM3Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ChatGLM3Tokenizer:
    return load_tokenizer(write_model(tmp_path_factory.mktemp("tokenizer")))


def pieces_of(tokenizer: ChatGLM3Tokenizer, ids: list[int]) -> list[str]:
    decoder = StreamDecoder(tokenizer)
    return [*(decoder.push(id_) for id_ in ids), decoder.finish()]


@given(ids=st.lists(st.integers(0, COUNT + 12) | st.integers(3, 258), max_size=40))
def test_pieces_join_to_the_whole(tokenizer: ChatGLM3Tokenizer, ids: list[int]) -> None:
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids, skip_control=True)


@given(text=st.text(max_size=30))
def test_no_piece_of_a_text_holds_half_a_character(tokenizer: ChatGLM3Tokenizer, text: str) -> None:
    for piece in pieces_of(tokenizer, tokenizer.encode(text)):
        assert "\ufffd" not in piece or "\ufffd" in text
        piece.encode("utf-8")


def test_a_character_is_shown_when_it_is_whole(tokenizer: ChatGLM3Tokenizer) -> None:
    ids = tokenizer.encode("é😀")
    pieces = pieces_of(tokenizer, ids)
    assert [piece for piece in pieces if piece] == ["é", "😀"]
    cut = pieces_of(tokenizer, ids[:-1])
    assert "".join(cut) == tokenizer.decode(ids[:-1]) == "é\ufffd\ufffd\ufffd"
    assert cut[-1] == "\ufffd\ufffd\ufffd", "held back to the end"


def test_a_negative_id_is_refused(tokenizer: ChatGLM3Tokenizer) -> None:
    with pytest.raises(ValueError, match="at least 0"):
        StreamDecoder(tokenizer).push(-1)


def test_every_reference_case_streams(shared_glm: Path) -> None:
    import json

    official = load_tokenizer(shared_glm / "tiny_chatglm3")
    lines = (shared_glm / "tokenizer_cases.jsonl").read_text("utf-8").split("\n")
    for line in filter(None, lines):
        ids = json.loads(line)["ids"]
        assert "".join(pieces_of(official, ids)) == official.decode(ids)


@given(
    st.text(alphabet="abc", max_size=30),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5)),
)
def test_a_stop_string_cuts_where_it_first_stands(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    cutter = StopStrings(stops)
    shown, left = "", text
    for size in [*sizes, len(text)]:
        shown += cutter.push(left[:size])
        left = left[size:]
        assert not any(stop in shown for stop in stops)
    shown += cutter.finish()
    ends = [text.find(stop) for stop in stops if stop in text]
    if ends:
        assert cutter.stopped
        # The earliest to be complete decides; another may have begun before it.
        assert text.startswith(shown)
        assert any(text[len(shown) :].startswith(stop) for stop in stops)
    else:
        assert (shown, cutter.stopped) == (text, False)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopStrings(["a", ""])
