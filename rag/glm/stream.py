"""Ids to text as they come: pieces that join to exactly what decoding everything at once gives.

A character whose bytes are not all there is held back, and so is whatever may become a stop string.
It knows no model.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from rag.glm.tokenizer import ChatGLM3Tokenizer, printable_bytes

_SPACE = "▁"


class StreamDecoder:
    """Decodes one answer id by id. Not to be shared between threads.

    Args:
        tokenizer: As `load_tokenizer` gives it.
    """

    def __init__(self, tokenizer: ChatGLM3Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytes = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._at_start = True

    def push(self, id_: int) -> str:
        """Return the text that is certain with this id; "" if more ids are needed.

        Raises:
            ValueError: If the id is negative.
        """
        if id_ < 0:
            raise ValueError(f"an id is at least 0, got {id_}")
        if id_ >= len(self._tokenizer.pieces):  # a control token: a new segment begins
            rest = self.finish()
            self._at_start = True
            return rest
        piece = self._tokenizer.pieces[id_]
        if piece.kind == "byte":
            self._at_start = False
            return printable_bytes(self._bytes.decode(bytes([int(piece.text[3:5], 16)])))
        rest = self.finish()
        if piece.kind == "normal":
            text = piece.text.removeprefix(_SPACE) if self._at_start else piece.text
            self._at_start = False
            return rest + text.replace(_SPACE, " ")
        if piece.kind == "unknown":
            self._at_start = False
            return rest + self._tokenizer.decode([id_])
        return rest

    def finish(self) -> str:
        """Return what was held back: bytes that form no character, one U+FFFD each."""
        rest = printable_bytes(self._bytes.decode(b"", final=True))
        self._bytes.reset()
        return rest


class StopStrings:
    """Cuts a text at the first stop string, also when it comes in pieces.

    Args:
        stops: Each not empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise ValueError("a stop string must not be empty")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """Return what can be shown of the text so far; `stopped` tells whether it ends there."""
        if self.stopped:
            return ""
        self._held += text
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            shown, self._held = self._held[: min(found)], ""
            return shown
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        shown, self._held = self._held[:cut], self._held[cut:]
        return shown

    def finish(self) -> str:
        """Return what was held back because a stop string might have begun with it."""
        shown, self._held = self._held, ""
        return shown

    def _overlap(self, stop: str) -> int:
        """Length of the longest end of the text with which the stop string begins."""
        most = min(len(stop) - 1, len(self._held))
        return next((n for n in range(most, 0, -1) if self._held.endswith(stop[:n])), 0)
