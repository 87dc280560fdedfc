"""What ChatGLM3 writes in its turn: a line of metadata, then the content. Split as it comes.

The metadata is empty, or the name of a tool that the turn calls. Nothing here knows ids or models.
"""

from __future__ import annotations


class ReplySplitter:
    """Takes the text of a turn piece by piece.

    Args:
        tools: Whether the turn may call a tool. If not, a first line that is not empty is text of
            the answer and is passed on at once.
        metadata: Of a turn whose first line was given to the model; "" if it writes it itself.
    """

    def __init__(self, *, tools: bool, metadata: str = "") -> None:
        self._tools = tools
        self._head: str | None = None if metadata else ""
        self._begun = False
        self._content: list[str] = []
        self.metadata = metadata
        """Name of the tool; known when the first line has ended."""

    @property
    def calls(self) -> bool:
        """Whether the turn calls a tool, as far as it has been read."""
        return bool(self.metadata)

    @property
    def content(self) -> str:
        """All of the content so far."""
        return "".join(self._content)

    def push(self, text: str) -> str:
        """Return what can be shown of the answer; "" for a tool call, see `content`."""
        if self._head is not None:
            self._head += text
            if not self._tools:
                text, self._head = self._head, None
            elif "\n" not in self._head:
                return ""
            else:
                first, text = self._head.split("\n", 1)
                self._head = None
                self.metadata = first.strip()
        return self._passed(text)

    def finish(self) -> str:
        """Return what was held back of a turn that has no second line: it is its content."""
        if self._head is None:
            return ""
        text, self._head = self._head, None
        return self._passed(text)

    def _passed(self, text: str) -> str:
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        self._content.append(text)
        return "" if self.calls else text
