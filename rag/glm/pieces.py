"""Text from ids that come one by one: whole characters only, and never beyond a stop string.

The streamed pieces together are exactly what `ChatGLM3Tokenizer.decode` gives for all ids. What a
reply is made of is reply.py's business.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from rag.errors import ConfigError
from rag.glm.tokenizer import ESCAPED, SPACE, UNKNOWN, ChatGLM3Tokenizer


class TextPieces:
    """Decodes ids one by one; bytes of a character are held back until it is whole.

    Args:
        tokenizer: As `load_tokenizer` gives it.
        skip_control: Leave the names of control tokens out.
    """

    def __init__(self, tokenizer: ChatGLM3Tokenizer, *, skip_control: bool = False) -> None:
        self._pieces = tokenizer.pieces
        self._names = [] if skip_control else list(tokenizer.control)
        self._bytes = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._at_start = True  # the space that encoding put before the text is still to come

    def push(self, id_: int) -> str:
        """Return the text that is certain with this id, perhaps "".

        Args:
            id_: The next id. One beyond the last control token gives nothing.

        Raises:
            ValueError: If it is negative.
        """
        if id_ < 0:
            raise ValueError(f"an id is at least 0, got {id_}")
        control = id_ - len(self._pieces)
        if control >= 0:
            name = self._names[control] if control < len(self._names) else ""
            return self.end() + name
        piece = self._pieces[id_]
        if piece.kind == "byte":
            self._at_start = False
            return self._decoded(bytes([int(piece.text[3:5], 16)]))
        text = self._decoded(b"", final=True)
        if piece.kind == "normal":
            own = piece.text.removeprefix(SPACE) if self._at_start else piece.text
            text += own.replace(SPACE, " ")
        elif piece.kind == "unknown":
            text += UNKNOWN
        if piece.kind in ("normal", "unknown"):
            self._at_start = False
        return text

    def end(self) -> str:
        """Return what was held back: U+FFFD for each byte of a cut-off character.

        What is pushed afterwards begins a new segment.
        """
        text = self._decoded(b"", final=True)
        self._at_start = True
        return text

    def _decoded(self, data: bytes, *, final: bool = False) -> str:
        text = self._bytes.decode(data, final).translate(ESCAPED)
        if final:
            self._bytes.reset()
        return text


class StopStrings:
    """Lets text through up to the first stop string, however it is cut into pieces.

    The first is the one that is complete first; of those, the longest. What may yet become a stop
    string is held back.

    Args:
        stops: None of them empty.

    Attributes:
        found: The one that was met, else None; after it nothing comes through.

    Raises:
        ConfigError: If one is empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if "" in stops:
            raise ConfigError("A stop string is empty.", do="Leave it out.")
        self._stops = tuple(dict.fromkeys(stops))
        self._held = ""
        self.found: str | None = None

    def push(self, text: str) -> str:
        """Return what of the text so far is certain to come before any stop string."""
        if self.found is not None:
            return ""
        text = self._held + text
        met = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if met:
            _, at, self.found = min(met)
            self._held = ""
            return text[:at]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """Return what was held back, now that no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text that is a beginning of the stop string."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
