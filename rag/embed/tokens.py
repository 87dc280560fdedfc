"""An embedder's view of text, from its tokenizer.json alone: no weights, no engine.

Counts tokens, says where they lie, and how much of a text the vocabulary can read. It does not
decide what to do about text that it cannot read.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rag.errors import ModelError
from rag.schema import FloatArray

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

WORD_PIECES = 50
"""A script is read if the vocabulary holds so many pieces of two or more of its letters ..."""
LETTERS = 1000
"""... or so many different letters of it (ideographs are words by themselves)."""
WINDOW = 16_384
"""Characters tokenized at once; a longer text is cut, at white space where there is any."""
CHARS_PER_TOKEN = 40
"""An embedder looks at no more characters than this times its `max_tokens`."""

_BLANK_SEARCH = 1024
_BATCH_CHARS = 262_144
_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
_UNREAD, _READ, _MUTE = 0, 1, 2


def well_formed(text: str) -> str:
    """Return `text` with each lone surrogate replaced by U+FFFD; the length stays the same."""
    return _SURROGATE.sub("\ufffd", text)


class TokenizerTokens:
    """`Tokens` (rag.protocols) read from a tokenizer.json.

    Text that spells a special token ("[SEP]", "</s>") is read as ordinary characters. A text longer
    than `WINDOW` characters is tokenized in windows, so time grows linearly and memory not at all;
    where a window has to end inside a word, that word counts as two.

    Args:
        source: The tokenizer.json: its path, or its text.
        max_tokens: Tokens of one text the embedder reads, special tokens included; >= 3.

    Raises:
        ModelError: If the file is missing or is not a tokenizer.
        ValueError: If `max_tokens` leaves no room beside the special tokens.
    """

    def __init__(self, source: Path | str, max_tokens: int) -> None:
        self._tokenizer = _read_tokenizer(source)
        self._max_tokens = max_tokens
        probe = [encoding.ids for encoding in self._pair("a")]
        self._before, self._after = _around(*probe)
        if max_tokens <= len(self._before) + len(self._after):
            raise ValueError(
                f"max_tokens {max_tokens} leaves no room beside "
                f"{len(self._before) + len(self._after)} special tokens"
            )

    @property
    def max_tokens(self) -> int:
        """Tokens of one text the embedder reads (special tokens included); the rest is cut."""
        return self._max_tokens

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return the tokens of each text, special tokens not counted."""
        counts = [0] * len(texts)
        for place, _, encoding in self._encodings(texts):
            counts[place] += len(encoding)
        return counts

    def coverage(self, texts: Sequence[str]) -> FloatArray:
        """Return (n,) float32 in [0, 1]: the share of each text's tokens the model can read.

        Tokens without a letter or digit (punctuation) do not count. Unread are the unknown token,
        pieces of bytes, and pieces with a letter of a script of which the vocabulary holds
        neither `WORD_PIECES` pieces of several letters nor `LETTERS` different letters: the
        isolated Chinese, Greek or Arabic characters in an English vocabulary stand for no word.
        A text without any letter or digit has coverage 1.
        """
        read = np.zeros(len(texts))
        counted = np.zeros(len(texts))
        for place, _, encoding in self._encodings(texts):
            kinds = self._kinds[encoding.ids]
            read[place] += np.count_nonzero(kinds == _READ)
            counted[place] += np.count_nonzero(kinds != _MUTE)
        share = np.divide(read, counted, out=np.ones(len(texts)), where=counted > 0)
        return share.astype(np.float32)

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Return where each token lies: (start, end) in characters of `text`, end exclusive.

        In order; tokens made of one character (Korean syllables, emoji) share its place.
        """
        return [
            (start + first, start + last)
            for _, start, encoding in self._encodings([text], offsets=True)
            for first, last in encoding.offsets
        ]

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return what the model reads of each text: token ids with the special ones.

        Each has at most `max_tokens` ids. Of a text longer than `CHARS_PER_TOKEN` * `max_tokens`
        characters the rest is never looked at.
        """
        room = self._max_tokens - len(self._before) - len(self._after)
        found: list[list[int]] = [[] for _ in texts]
        for place, _, encoding in self._encodings([self.readable(text) for text in texts]):
            if len(found[place]) < room:
                found[place] += encoding.ids
        return [
            np.array([*self._before, *ids[:room], *self._after], dtype=np.int64) for ids in found
        ]

    def readable(self, text: str) -> str:
        """Return the beginning of `text` beyond which the embedder never looks."""
        return well_formed(text[: self._max_tokens * CHARS_PER_TOKEN])

    def _pair(self, text: str) -> list[Encoding]:
        """Tokenize one text without and with special tokens."""
        return [self._tokenizer.encode(text, add_special_tokens=flag) for flag in (False, True)]

    def _encodings(
        self, texts: Sequence[str], *, offsets: bool = False
    ) -> Iterator[tuple[int, int, Encoding]]:
        """Yield (place of the text, start of the window, encoding), windows in order."""
        encode = self._tokenizer.encode_batch if offsets else self._tokenizer.encode_batch_fast
        batch: list[tuple[int, int, str]] = []
        chars = 0
        for place, text in enumerate(texts):
            for start, window in _windows(text):
                batch.append((place, start, well_formed(window)))
                chars += len(window) + 1
                if chars >= _BATCH_CHARS:
                    yield from _run(encode, batch)
                    batch, chars = [], 0
        yield from _run(encode, batch)

    @cached_property
    def _kinds(self) -> NDArray[np.int8]:
        """Whether each token id is read, unread or mute (no letter, no digit); shape (ids,)."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        if type(self._tokenizer.decoder).__name__ == "ByteLevel":
            pieces = {ident: _from_bytes(piece) for piece, ident in vocabulary.items()}
        else:
            pieces = {ident: piece for piece, ident in vocabulary.items()}
        scripts = _scripts_read(pieces.values())
        kinds = np.full(max(pieces, default=0) + 1, _UNREAD, dtype=np.int8)
        for ident, piece in pieces.items():
            kinds[ident] = _kind(piece, scripts)
        unknown = vocabulary.get(getattr(self._tokenizer.model, "unk_token", None) or "")
        if unknown is None:  # a Unigram model does not name its unknown token
            unknown = vocabulary.get("<unk>", vocabulary.get("[UNK]"))
        if unknown is not None:
            kinds[unknown] = _UNREAD
        return kinds


def _read_tokenizer(source: Path | str) -> Tokenizer:
    from tokenizers import Tokenizer

    what = f"The tokenizer {source}" if isinstance(source, Path) else "The model's tokenizer"
    do = "Install or copy the model again."
    try:
        text = source if isinstance(source, str) else source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{what} cannot be read: {error}.", do=do) from error
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises nothing narrower
        raise ModelError(f"{what} is damaged: {error}.", do=do) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _around(plain: list[int], special: list[int]) -> tuple[list[int], list[int]]:
    """Return the special ids before and after a text's own."""
    for start in range(len(special) - len(plain) + 1):
        if special[start : start + len(plain)] == plain:
            return special[:start], special[start + len(plain) :]
    raise ModelError("The tokenizer changes a text's tokens when it adds special ones.")


def _windows(text: str) -> Iterator[tuple[int, str]]:
    """Cut `text` into pieces of at most `WINDOW` characters that rebuild it; white space leads."""
    start = 0
    while len(text) - start > WINDOW:
        end = start + WINDOW
        cut = next((at for at in range(end, end - _BLANK_SEARCH, -1) if text[at].isspace()), end)
        yield start, text[start:cut]
        start = cut
    yield start, text[start:]


def _run(
    encode: Any,  # noqa: ANN401  a method of an untyped library
    batch: list[tuple[int, int, str]],
) -> Iterator[tuple[int, int, Encoding]]:
    if not batch:
        return
    encodings = encode([window for _, _, window in batch], add_special_tokens=False)
    for (place, start, _), encoding in zip(batch, encodings, strict=True):
        yield place, start, encoding


@lru_cache(maxsize=65_536)
def _script(char: str) -> str:
    """Return the script of a letter, "" for anything else: the first word of its Unicode name."""
    if not unicodedata.category(char).startswith("L"):
        return ""
    return unicodedata.name(char, "?").split(" ", 1)[0]


def _scripts_read(pieces: Iterable[str]) -> frozenset[str]:
    """Return the scripts for which these pieces hold words, not only isolated letters."""
    words: Counter[str] = Counter()
    letters: defaultdict[str, set[str]] = defaultdict(set)
    for piece in pieces:
        if piece.isascii():  # most of an English vocabulary, so worth a short cut
            words["LATIN"] += sum(map(str.isalpha, piece)) > 1
            continue
        found = [(script, char) for char in piece if (script := _script(char))]
        if len(found) > 1:
            words.update({script for script, _ in found})
        for script, char in found:
            letters[script].add(char)
    return frozenset(
        script
        for script in words.keys() | letters.keys()
        if words[script] >= WORD_PIECES or len(letters[script]) >= LETTERS
    )


def _kind(piece: str, scripts: frozenset[str]) -> int:
    byte = _BYTE_PIECE.fullmatch(piece)
    if byte:
        return _MUTE if int(byte[1], 16) < 0x80 else _UNREAD
    if "\ufffd" in piece:  # a fragment of a character
        return _UNREAD
    if piece.isascii():
        found = {"LATIN"} if any(map(str.isalpha, piece)) else set()
    else:
        found = {script for char in piece if (script := _script(char))}
    if found:
        return _READ if found <= scripts else _UNREAD
    return _READ if any(map(str.isalnum, piece)) else _MUTE


def _from_bytes(piece: str) -> str:
    """Return the text of a byte-level piece; U+FFFD stands for a fragment of a character."""
    table = _byte_of_char()
    if any(char not in table for char in piece):  # an added token is not written in bytes
        return piece
    return bytes(table[char] for char in piece).decode("utf-8", "replace")


@lru_cache(maxsize=1)
def _byte_of_char() -> dict[str, int]:
    """Return the byte each character stands for in a byte-level vocabulary (GPT-2's table)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    table = {chr(byte): byte for byte in shown}
    table |= {chr(256 + place): byte for place, byte in enumerate(hidden)}
    return table
