"""ChatGLM3's tokenizer, built from the official tokenizer.model alone.

It knows text and ids, and the names of the control tokens; what a chat looks like is chat.py's
work. Text is only ever characters: whatever it spells, `encode` gives no control token.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.errors import CheckpointError
from rag.glm.sentencepiece import Piece, read_pieces

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PAD, BOS, EOS = 0, 1, 2
"""Ids of <unk> (which also pads), <s> and </s>."""

CONTROL_NAMES = (
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
)
"""Control tokens in order of id; the first has the id that follows the last piece's."""

CHATGLM3_PIECES = 64_789
CHATGLM3_VOCABULARY = 65_024
"""Pieces of the official tokenizer.model, and rows of the official embedding (padded)."""

TOKENIZER_FILE = "tokenizer.model"

SPACE = "▁"
_REPLACEMENT = "\ufffd"
_SURROGATE = re.compile("[\ud800-\udfff]")
UNKNOWN = " ⁇ "


@dataclass(frozen=True, slots=True)
class ChatGLM3Tokenizer:
    """Text to ids and back, as the official tokenizer does it. Build it with `load_tokenizer`.

    Attributes:
        pieces: The vocabulary of tokenizer.model, in order of id.
        control: Name of a control token -> its id; see `CONTROL_NAMES`.
    """

    pieces: Sequence[Piece]
    control: Mapping[str, int]
    _backend: Tokenizer

    @property
    def size(self) -> int:
        """Number of ids, control tokens included; the embedding has at least as many rows."""
        return len(self.pieces) + len(self.control)

    @property
    def prefix(self) -> list[int]:
        """[gMASK] and sop, with which every input of the model begins."""
        return [self.control["[gMASK]"], self.control["sop"]]

    @property
    def stop_ids(self) -> list[int]:
        """Ids that end an answer: </s>, <|user|>, <|observation|>; never <|assistant|>."""
        return [EOS, self.control["<|user|>"], self.control["<|observation|>"]]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a piece of text, without prefix and control tokens.

        Each call is a segment of its own: "▁" is put before the first character, as the official
        tokenizer does, so encode(a) + encode(b) differs from encode(a + b).

        Args:
            text: Any text. A surrogate that stands alone counts as U+FFFD.

        Returns:
            Ids below len(pieces), never 0, 1 or 2; [] for "".
        """
        ids: list[int] = self._backend.encode(
            _SURROGATE.sub(_REPLACEMENT, text), add_special_tokens=False
        ).ids
        return ids

    def decode(self, ids: Iterable[int], *, skip_control: bool = False) -> str:
        """Return the text of ids, which for those of `encode` is the text with "▁" as a space.

        Bytes that form no character, as at the end of a cut-off emoji, give one U+FFFD each.

        Args:
            ids: As a model gives them. Control tokens appear by name and part the text into
                segments, each of which loses the space it was begun with.
            skip_control: Leave the names out.

        Raises:
            ValueError: If an id is negative. Ids beyond the last control token, which are the
                padding of the embedding, give nothing.
        """
        first = len(self.pieces)
        parts: list[str] = []
        segment: list[int] = []
        names = list(self.control)
        for id_ in ids:
            if id_ < 0:
                raise ValueError(f"an id is at least 0, got {id_}")
            if id_ < first:
                segment.append(id_)
                continue
            parts.append(self._decode_segment(segment))
            segment = []
            if id_ - first < len(names) and not skip_control:
                parts.append(names[id_ - first])
        parts.append(self._decode_segment(segment))
        return "".join(parts)

    def token_text(self, id_: int) -> str:
        """Return what an id stands for by itself: a piece, a byte as <0x..>, a control name."""
        if id_ < len(self.pieces):
            return self.pieces[id_].text.replace(SPACE, " ")
        names = list(self.control)
        place = id_ - len(self.pieces)
        return names[place] if place < len(names) else ""

    def _decode_segment(self, ids: Sequence[int]) -> str:
        parts: list[str] = []
        run = bytearray()
        at_start = True  # the space that encoding put before the text is still to come
        for id_ in ids:
            piece = self.pieces[id_]
            if piece.kind == "byte":
                run.append(int(piece.text[3:5], 16))
                at_start = False
                continue
            parts.append(decode_bytes(run))
            run.clear()
            if piece.kind == "normal":
                text = piece.text.removeprefix(SPACE) if at_start else piece.text
                parts.append(text.replace(SPACE, " "))
                at_start = False
            elif piece.kind == "unknown":
                parts.append(UNKNOWN)
                at_start = False
        parts.append(decode_bytes(run))
        return "".join(parts)


def decode_bytes(data: bytes | bytearray) -> str:
    """Decode UTF-8 as SentencePiece does: every byte that belongs to no character is one U+FFFD."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("utf-8", errors="surrogateescape").translate(ESCAPED)


ESCAPED = {0xDC80 + byte: _REPLACEMENT for byte in range(128)}


def load_tokenizer(path: str | Path) -> ChatGLM3Tokenizer:
    """Build the tokenizer from a folder with a tokenizer.model, or from that file.

    Args:
        path: An official or a converted ChatGLM3 folder, or the file itself.

    Raises:
        CheckpointError: If there is no such file, or it is not a tokenizer like ChatGLM3's.
    """
    path = Path(path)
    pieces = read_pieces(path / TOKENIZER_FILE if path.is_dir() else path)
    control = {name: len(pieces) + place for place, name in enumerate(CONTROL_NAMES)}
    vocabulary = {piece.text: id_ for id_, piece in enumerate(pieces)}
    if clash := sorted(vocabulary.keys() & control.keys()):
        raise CheckpointError(
            f"The tokenizer {path} has a piece {clash[0]!r} of its own: it is not ChatGLM3's.",
            do="Copy tokenizer.model from the ChatGLM3 repository.",
        )
    return ChatGLM3Tokenizer(tuple(pieces), control, bpe(vocabulary, merges(pieces)))


def merges(pieces: Sequence[Piece]) -> list[tuple[str, str]]:
    """Return the merges that SentencePiece's BPE makes, those of the highest score first.

    SentencePiece merges any two neighbours that together are a piece; so every way to part a piece
    into two pieces is a merge. Control and byte pieces take no part: text cannot spell them.
    """
    scores = {piece.text: piece.score for piece in pieces if piece.kind == "normal"}
    ranked = [
        (-score, place, text) for place, (text, score) in enumerate(scores.items()) if len(text) > 1
    ]
    ranked.sort()
    return [
        (text[:cut], text[cut:])
        for _, _, text in ranked
        for cut in range(1, len(text))
        if text[:cut] in scores and text[cut:] in scores
    ]


def bpe(vocabulary: Mapping[str, int], pairs: Sequence[tuple[str, str]]) -> Tokenizer:
    """Return a tokenizer of the `tokenizers` library without any control token.

    Spaces become "▁" and one is put before the text; without a pre-tokenizer, so that runs of
    spaces stay whole.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers

    model: Any = models.BPE(
        vocab=dict(vocabulary),
        merges=list(pairs),
        unk_token="<unk>",  # noqa: S106
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer
