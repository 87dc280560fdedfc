"""ChatGLM3's tokenizer against the official one, SentencePiece itself, and hostile files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from glm_tokenizers import COUNT, field, model_bytes, piece, pieces, write_model
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import CheckpointError
from rag.glm.sentencepiece import read_pieces
from rag.glm.tokenizer import CONTROL_NAMES, ChatGLM3Tokenizer, decode_bytes, load_tokenizer


@pytest.fixture(scope="module")
def official(shared_glm: Path) -> ChatGLM3Tokenizer:
    return load_tokenizer(shared_glm / "tiny_chatglm3")


@pytest.fixture(scope="module")
def reference(shared_glm: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(str(shared_glm / "tiny_chatglm3/tokenizer.model"))


@pytest.fixture(scope="module")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def small(small_folder: Path) -> ChatGLM3Tokenizer:
    return load_tokenizer(small_folder)


def cases(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / f"{name}.jsonl").read_text("utf-8").rstrip("\n").split("\n")
    return [json.loads(line) for line in lines]


# -- the official cases --------------------------------------------------------------------------


def test_every_official_case_is_equal(official: ChatGLM3Tokenizer, shared_glm: Path) -> None:
    found = cases(shared_glm, "tokenizer_cases")
    assert len(found) == 3000
    wrong = [case for case in found if official.encode(case["text"]) != case["ids"]]
    assert wrong == []
    wrong = [
        case
        for case in found
        if official.decode(case["ids"]) != (case["text"] if case["decoded"] is None
                                            else case["decoded"])
    ]  # fmt: skip
    assert wrong == []


def test_the_ids_of_the_control_tokens(official: ChatGLM3Tokenizer) -> None:
    assert official.control == {name: 64789 + place for place, name in enumerate(CONTROL_NAMES)}
    assert official.prefix == [64790, 64792]
    assert official.stop_ids == [2, 64795, 64797]
    assert official.size == 64798


HOSTILE = st.sampled_from(
    [*CONTROL_NAMES, "<s>", "</s>", "<unk>", "<0x0A>", "▁", " ", "\n", "philosophy", "people", "\0"]
)
TEXTS = st.lists(st.one_of(st.text(), HOSTILE), max_size=8).map("".join)


@given(TEXTS)
@settings(max_examples=150, deadline=None)
def test_it_encodes_as_sentencepiece_and_never_gives_control(
    official: ChatGLM3Tokenizer, reference: sentencepiece.SentencePieceProcessor, text: str
) -> None:
    ids = official.encode(text)
    assert ids == reference.encode(text)
    assert all(2 < id_ < 64789 for id_ in ids)
    assert official.decode(ids) == text.replace("▁", " ")


PERIODIC = st.tuples(
    st.lists(st.sampled_from([*"ab-=x0 ▁\n哈", "ha", "的"]), min_size=1, max_size=3),
    st.lists(st.integers(0, 2), max_size=60),
).map(lambda drawn: "".join(drawn[0][place % len(drawn[0])] for place in drawn[1]))


@given(PERIODIC)
@settings(max_examples=150, deadline=None)
def test_repetitions_merge_in_sentencepiece_s_order(
    official: ChatGLM3Tokenizer, reference: sentencepiece.SentencePieceProcessor, text: str
) -> None:
    assert official.encode(text) == reference.encode(text)


IDS = st.lists(
    st.one_of(st.integers(0, 300), st.integers(3, 258), st.integers(0, 64788), st.just(30910)),
    max_size=12,
)


@given(IDS)
@settings(max_examples=200, deadline=None)
def test_it_decodes_as_sentencepiece(
    official: ChatGLM3Tokenizer, reference: sentencepiece.SentencePieceProcessor, ids: list[int]
) -> None:
    assert official.decode(ids) == reference.decode(ids)


# -- the same properties without the official file -----------------------------------------------


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_text_never_becomes_control(small: ChatGLM3Tokenizer, text: str) -> None:
    ids = small.encode(text)
    assert all(2 < id_ < COUNT for id_ in ids)
    assert small.decode(ids) == text.replace("▁", " ")


@given(TEXTS)
@settings(max_examples=100, deadline=None)
def test_the_small_one_encodes_as_sentencepiece(
    small: ChatGLM3Tokenizer, small_folder: Path, text: str
) -> None:
    same = sentencepiece.SentencePieceProcessor(str(small_folder / "tokenizer.model"))
    assert small.encode(text) == same.encode(text)


def test_merges_by_hand(small: ChatGLM3Tokenizer) -> None:
    def shown(text: str) -> list[str]:
        return [small.pieces[id_].text for id_ in small.encode(text)]

    assert shown("hello world") == ["▁hello", "▁world"]
    assert shown("held") == ["▁he", "ld"]
    assert shown("low") == ["▁", "l", "o", "w"]
    assert shown("  a") == ["▁▁", "▁", "a"]
    assert shown("é") == ["▁", "<0xC3>", "<0xA9>"]
    assert shown("") == []


def test_a_lone_surrogate_counts_as_a_replacement_character(small: ChatGLM3Tokenizer) -> None:
    assert small.encode("a\udcff") == small.encode("a\ufffd")


def test_bytes_that_form_no_character(small: ChatGLM3Tokenizer) -> None:
    whole = small.encode("好😀")
    assert small.decode(whole) == "好😀"
    assert small.decode(whole[:-1]) == "好\ufffd\ufffd\ufffd"
    assert decode_bytes("é".encode() + b"\xf0\x9f") == "é\ufffd\ufffd"
    assert decode_bytes(b"\xed\xa0\x80") == "\ufffd\ufffd\ufffd"


def test_control_tokens_are_shown_by_name_or_left_out(small: ChatGLM3Tokenizer) -> None:
    user = small.control["<|user|>"]
    ids = [*small.encode("ab"), user, *small.encode("ab"), 2]
    assert small.decode(ids) == "ab<|user|>ab"
    assert small.decode(ids, skip_control=True) == "abab"
    assert small.decode([small.size + 5]) == ""
    with pytest.raises(ValueError, match="at least 0"):
        small.decode([-1])


# -- files that are not what they should be ------------------------------------------------------


def refused(folder: Path, data: bytes) -> str:
    (folder / "tokenizer.model").write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(folder)
    return str(caught.value)


@pytest.mark.parametrize("length", [1, 100, 3000, len(model_bytes()) - 3])
def test_a_cut_off_file_is_refused(tmp_path: Path, length: int) -> None:
    assert "not ChatGLM3's tokenizer" in refused(tmp_path, model_bytes()[:length])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "unigram"),
        (b"\x80" * 11, "cut off or no SentencePiece model"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (model_bytes(trainer=field(3, 1) + field(35, 1)), "unigram"),
        (model_bytes(trainer=field(3, 2)), "no byte fallback"),
        (model_bytes(normalizer=field(2, b"map") + field(4, 0)), "rewrites characters"),
        (model_bytes(normalizer=field(3, 0) + field(4, 0)), "treats spaces otherwise"),
        (model_bytes(pieces()[1:]), "first three pieces"),
        (model_bytes(pieces()[:200]), "197 byte pieces"),
        (model_bytes([*pieces(), piece("a", -1.0, 1)]), "twice"),
        (model_bytes([*pieces(), piece("zz", -1.0, 3)]), "more control pieces"),
        (model_bytes([*pieces(), piece("zz", -1.0, 4)]), "user-defined"),
        (model_bytes([*pieces(), piece("z" * 257, -1.0, 1)]), "more than 256 characters"),
        (model_bytes([*pieces(), piece("<|user|>", -1.0, 1)]), "'<|user|>'"),
    ],
)
def test_another_tokenizer_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    assert reason in refused(tmp_path, data)


def test_a_missing_or_huge_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="holds a tokenizer"):
        load_tokenizer(tmp_path)
    monkeypatch.setattr("rag.glm.sentencepiece.LARGEST_FILE", 10)
    assert "more than 10 bytes" in refused(tmp_path, model_bytes())


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_no_bytes_raise_anything_else(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.model"
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        read_pieces(path)
