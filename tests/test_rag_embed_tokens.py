from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import HAN, vocabulary, write_tokenizer

from rag.embed import tokens as module
from rag.embed.packaged import packaged_folder
from rag.embed.tokens import CHARS_PER_TOKEN, WINDOW, TokenizerTokens, well_formed
from rag.errors import ModelError

MINILM = TokenizerTokens(packaged_folder() / "tokenizer.json", 256)
ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=60)


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> TokenizerTokens:
    """A vocabulary that holds 1,200 Han characters."""
    folder = tmp_path_factory.mktemp("chinese")
    return TokenizerTokens(write_tokenizer(folder, vocabulary(HAN)), 32)


def byte_level(words: list[str]) -> TokenizerTokens:
    """A byte-level BPE tokenizer that joins the bytes of each of these three-byte characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    to_char = {byte: char for char, byte in module._byte_of_char().items()}
    pieces = dict.fromkeys(to_char.values())
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        first, second, third = (to_char[byte] for byte in word.encode())
        merges |= {(first, second): None, (first + second, third): None}
        pieces |= {first + second: None, first + second + third: None}
    vocab = {piece: place for place, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return TokenizerTokens(tokenizer.to_str(), 64)


def test_count_leaves_out_special_tokens_and_counts_words_and_pieces() -> None:
    assert MINILM.count(["", "hello world", "unaffable", "工作 2024"]) == [0, 2, 3, 4]
    assert MINILM.count([]) == []
    assert MINILM.max_tokens == 256


def test_coverage_of_an_english_vocabulary() -> None:
    texts = [
        "The pump's torque is 45 Nm.",
        "主轴螺栓的扭矩是多少？",
        "Привет, мир",
        "한국어 문장",
        "torque 扭矩",
        "？！……",
        "",
        "😀",
    ]
    assert MINILM.coverage(texts).tolist() == pytest.approx([1, 0, 0, 0, 1 / 3, 1, 1, 0])
    assert MINILM.coverage([]).shape == (0,)
    assert MINILM.coverage(texts).dtype == np.float32


def test_coverage_of_real_texts_tells_the_languages_apart(shared_sets: Path) -> None:
    shares = {}
    for language in ("en", "zh"):
        lines = (shared_sets / f"xquad_{language}" / "corpus.jsonl").read_text("utf-8").split("\n")
        shares[language] = MINILM.coverage([json.loads(line)["text"] for line in lines if line])
    assert shares["en"].min() > 0.85
    assert shares["zh"].max() < 0.35


def test_coverage_of_a_vocabulary_that_holds_chinese(chinese: TokenizerTokens) -> None:
    known, unknown = HAN[3] + HAN[700], "龘"
    assert chinese.coverage([known, unknown, known + unknown]).tolist() == pytest.approx(
        [1, 0, 2 / 3]
    )


def test_coverage_of_a_byte_level_vocabulary() -> None:
    text = HAN[5] + HAN[1100] + "。"
    assert byte_level(HAN).count([text]) == [5]
    assert byte_level(HAN).coverage([text])[0] == pytest.approx(2 / 5)
    assert byte_level([*HAN, "。"]).coverage([text])[0] == 1
    assert byte_level(HAN[:100]).coverage([text])[0] == 0  # too few to be words
    assert byte_level([]).coverage([text])[0] == 0


def test_a_script_is_read_from_fifty_word_pieces_or_a_thousand_letters() -> None:
    russian = [chr(0x430 + i) + chr(0x430 + j) for i in range(10) for j in range(5)]
    assert len(russian) == module.WORD_PIECES
    assert module._scripts_read(russian) == {"CYRILLIC"}
    assert module._scripts_read(russian[1:]) == frozenset()
    assert module._scripts_read(HAN[: module.LETTERS]) == {"CJK"}
    assert module._scripts_read(HAN[: module.LETTERS - 1]) == frozenset()
    assert module._scripts_read(["ab"] * 50 + ["1"] * 2000) == {"LATIN"}


@pytest.mark.parametrize(
    ("piece", "kind"),
    [
        ("##ing", module._READ),
        ("2024", module._READ),
        ("▁the", module._READ),
        ("é", module._READ),
        ("中", module._UNREAD),
        ("a中", module._UNREAD),
        ("\ufffd", module._UNREAD),
        ("<0xE4>", module._UNREAD),
        ("<0x0A>", module._MUTE),
        ("##", module._MUTE),
        ("。", module._MUTE),
    ],
)
def test_kind_of_a_piece(piece: str, kind: int) -> None:
    assert module._kind(piece, frozenset({"LATIN"})) == kind


def test_offsets_point_into_the_text() -> None:
    text = 'Über\ud800 "die" 中文 😀 x'
    assert [text[start:end] for start, end in MINILM.offsets(text)] == [
        "Über",
        '"',
        "die",
        '"',
        "中",
        "文",
        "😀",
        "x",
    ]


@given(ANY_TEXT)
@settings(max_examples=150, deadline=None)
def test_any_text_is_read(text: str) -> None:
    (count,), (coverage,), offsets = (
        MINILM.count([text]),
        MINILM.coverage([text]),
        MINILM.offsets(text),
    )
    assert count == len(offsets)
    assert 0 <= coverage <= 1
    assert offsets == sorted(offsets)
    assert all(0 <= start <= end <= len(text) for start, end in offsets)
    (ids,) = MINILM.encode([text])
    assert (ids[0], ids[-1]) == (101, 102)
    assert len(ids) == count + 2


@given(st.lists(st.sampled_from(["pump", "a", "中文", "  ", "\n", "x1-y"]), max_size=80))
@settings(max_examples=60, deadline=None)
def test_windows_rebuild_the_text_and_change_no_count(words: list[str]) -> None:
    text = " ".join(words)
    expected, offsets = MINILM.count([text]), MINILM.offsets(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WINDOW", 20)
        patch.setattr(module, "_BLANK_SEARCH", 19)
        patch.setattr(module, "_BATCH_CHARS", 50)
        windows = list(module._windows(text))
        assert "".join(window for _, window in windows) == text
        assert all(text[start:].startswith(window) for start, window in windows)
        assert MINILM.count([text]) == expected
        assert MINILM.offsets(text) == offsets


def test_long_lines_without_spaces() -> None:
    latin, han, accents = "x" * 1_000_000, "中" * 100_000, "\u0301" * 100_000
    assert MINILM.count([latin, han, accents]) == [-(-1_000_000 // WINDOW), 100_000, 0]
    assert MINILM.coverage([latin, han, accents]).tolist() == [0, 0, 1]
    assert MINILM.offsets(han)[-1] == (99_999, 100_000)
    assert [len(ids) for ids in MINILM.encode([latin, han, accents])] == [3, 256, 2]


def test_encode_cuts_at_the_limit_and_keeps_special_tokens() -> None:
    few = TokenizerTokens(packaged_folder() / "tokenizer.json", 5)
    ids = few.encode(["", "one two", "one two three four five six"])
    assert [row.tolist() for row in ids] == [
        [101, 102],
        [101, 2028, 2048, 102],
        [101, 2028, 2048, 2093, 102],
    ]
    assert few.readable("x" * 10_000) == "x" * 5 * CHARS_PER_TOKEN


def test_text_never_becomes_a_special_token() -> None:
    ids = MINILM.encode(["[CLS] [SEP] [MASK] [PAD] [UNK]"])[0].tolist()
    assert not {0, 100, 101, 102, 103} & set(ids[1:-1])


def test_well_formed_keeps_length_and_everything_else() -> None:
    assert well_formed("a\ud800b\udfff中😀") == "a\ufffdb\ufffd中😀"
    assert unicodedata.is_normalized("NFC", well_formed("é"))


def test_a_missing_or_damaged_tokenizer_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        TokenizerTokens(tmp_path / "tokenizer.json", 16)
    for content in (b"", b"{}", b"\xff\xfe", b'{"model": 3}'):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(ModelError, match=r"tokenizer\.json"):
            TokenizerTokens(tmp_path / "tokenizer.json", 16)


def test_a_limit_without_room_for_text_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        TokenizerTokens(packaged_folder() / "tokenizer.json", 2)
