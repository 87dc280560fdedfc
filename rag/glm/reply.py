"""What ChatGLM3 answered: plain text and tool calls, read while they are written.

An answer is one or more assistant turns; a turn is a first line, which names a tool or is blank,
and its content. A call is parsed as data, by `json` or `ast.literal_eval`: nothing is ever run.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from rag.errors import ToolCallError
from rag.glm.pieces import StopStrings, TextPieces
from rag.glm.tokenizer import ChatGLM3Tokenizer

MOST_CALL_CHARS = 100_000
"""A longer tool call is not read."""

MOST_NAME = 64
"""Characters of a tool's name; a longer first line is text."""

_NAME = re.compile(r"\w[\w.-]{0,63}")
_FENCED = re.compile(r"\A```[^\n`]*\n(.*?)\n?```\Z", re.DOTALL)
_FENCE = re.compile(r"```[^\n`]*\n\s*")
_FENCE_BEGUN = re.compile(r"`{0,2}|```[^\n`]*")
_WRITTEN = "tool_call("


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call as the model wrote it.

    Attributes:
        name: The tool's, as written.
        source: Its parameters as written, unparsed.
        known: Whether there is a tool of that name.
        cut: Whether the answer's limit was reached before its turn ended.
    """

    name: str
    source: str
    known: bool = True
    cut: bool = False

    def parameters(self) -> dict[str, Any]:
        """Return the parameters, as JSON has them.

        Raises:
            ToolCallError: If there is no such tool, it was cut off, or they cannot be read.
        """
        if not self.known:
            raise ToolCallError(f"The model called an unknown tool: {self.name!r}.")
        if self.cut:
            raise ToolCallError(
                f"The model's call of {self.name!r} was cut off: the answer reached its limit.",
                do="Raise max_tokens, or shorten the prompt.",
            )
        return parse_call(self.source)


def parse_call(source: str) -> dict[str, Any]:
    """Read the parameters of a tool call.

    Args:
        source: `tool_call(name=literal, ...)` or a JSON object, perhaps quoted as Markdown code.

    Returns:
        Parameters by name, all of which JSON can hold; tuples are lists.

    Raises:
        ToolCallError: If it is anything else. Nothing in it is evaluated but literals.
    """
    if len(source) > MOST_CALL_CHARS:
        raise _unreadable(source, f"it has {len(source):,} characters")
    bare = source.strip()
    if fenced := _FENCED.match(bare):
        bare = fenced[1].strip()
    try:
        found = json.loads(bare) if bare.startswith("{") else _arguments(bare)
        # Once through JSON: what comes out is what a tool on the other side would be sent.
        plain = json.dumps(found, allow_nan=False, ensure_ascii=False)
        found = json.loads(plain.encode("utf-8", "replace"))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise _unreadable(source, str(error) or type(error).__name__) from error
    if not isinstance(found, dict):
        raise _unreadable(source, "its parameters have no names")
    return found


class ReplyReader:
    """Reads an answer id by id.

    Args:
        tokenizer: As `load_tokenizer` gives it.
        tools: Names of the tools the model was told of; with none, everything is text.
        stops: Strings that end the text; they do not look into tool calls.

    Attributes:
        calls: Tool calls, complete after `end`.

    Turns that hold text are told apart by a line break. With tools, a turn is held back as long as
    it may become a call: its first line while it may be a name, and behind a name that was not told
    what may be the beginning of `tool_call(`.
    """

    def __init__(
        self,
        tokenizer: ChatGLM3Tokenizer,
        *,
        tools: Collection[str] = (),
        stops: Sequence[str] = (),
    ) -> None:
        self._pieces = TextPieces(tokenizer, skip_control=True)
        self._assistant = tokenizer.control["<|assistant|>"]
        self._tools = frozenset(tools)
        self._stops = StopStrings(stops)
        self._head: str | None = "" if tools else None  # the turn so far; None: it is known what
        self._name = ""  # of the tool that is being called
        self._call = ""
        self._blank = ""  # white space that is shown only if something follows
        self._text = False  # whether the turn has text
        self._begun = False  # whether it has shown some
        self._joint = ""  # put between the texts of two turns
        self.calls: list[Call] = []

    @property
    def stopped(self) -> str | None:
        """The stop string that ended the text, or None."""
        return self._stops.found

    def push(self, id_: int) -> str:
        """Return the text that is certain with this id, perhaps ""."""
        if id_ != self._assistant:
            return self._read(self._pieces.push(id_))
        text = self.end()
        self._head = "" if self._tools else None
        self._text, self._begun, self._blank = False, False, ""
        return text

    def end(self, *, cut: bool = False) -> str:
        """Return what was held back; the turn is complete.

        Args:
            cut: Whether it is not, and ends here because a limit was reached.
        """
        text = self._read(self._pieces.end()) + self._end_turn(cut)
        return text + self._trimmed(self._stops.end())

    def _read(self, text: str) -> str:
        if self._name:
            self._call += text
            return ""
        if self._head is None:
            return self._shown(text)
        self._head += text
        line, ended, rest = self._head.partition("\n")
        name = line.strip()
        if not ended:
            if len(line) <= 2 * MOST_NAME and self._may_name(name):
                return ""
        elif name in self._tools or (_NAME.fullmatch(name) and _is_written(rest)):
            self._head, self._name, self._call = None, name, rest
            return ""
        elif _NAME.fullmatch(name) and _may_be_written(rest):
            return ""
        whole, self._head = self._head, None
        return self._shown(whole)

    def _may_name(self, begun: str) -> bool:
        """Whether a first line that is not complete may name a tool, told or not."""
        named = not begun or _NAME.fullmatch(begun) is not None
        return named or any(tool.startswith(begun) for tool in self._tools)

    def _end_turn(self, cut: bool) -> str:
        """Settle what a turn was, at its end."""
        if self._head is not None:
            text, self._head = self._head, None
            return self._shown(text)
        if self._name:
            self.calls.append(Call(self._name, self._call, self._name in self._tools, cut))
            self._name = self._call = ""
        return ""

    def _shown(self, text: str) -> str:
        if not self._text:  # what is left out cannot end the text: a turn begins with a line break
            text = text.lstrip()
            self._text = bool(text)
        return self._trimmed(self._stops.push(text))

    def _trimmed(self, text: str) -> str:
        """Leave out the white space around a turn's text, as the official code does."""
        text = self._blank + text
        if text and not self._begun:
            self._begun = True
            text, self._joint = self._joint + text, "\n"
        kept = text.rstrip()
        self._blank = text[len(kept) :]
        return kept


def _is_written(source: str) -> bool:
    """Whether it begins as a call does."""
    return _unfenced(source).startswith(_WRITTEN)


def _may_be_written(source: str) -> bool:
    """Whether it may yet begin as a call does."""
    if len(source) > 2 * MOST_NAME:
        return False
    begun = _FENCE_BEGUN.fullmatch(source.lstrip()) is not None
    return begun or _WRITTEN.startswith(_unfenced(source))


def _unfenced(source: str) -> str:
    bare = source.lstrip()
    fence = _FENCE.match(bare)
    return bare[fence.end() :] if fence else bare


def _arguments(source: str) -> dict[str, Any]:
    tree = ast.parse(source, mode="eval").body
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name) or tree.args:
        raise ValueError("it is not tool_call(name=value, ...)")
    if tree.func.id != "tool_call":
        raise ValueError(f"it calls {tree.func.id!r}")
    found: dict[str, Any] = {}
    for keyword in tree.keywords:
        if keyword.arg is None:
            raise ValueError("a parameter has no name")
        if keyword.arg in found:
            raise ValueError(f"the parameter {keyword.arg!r} is given twice")
        found[keyword.arg] = ast.literal_eval(keyword.value)
    return found


def _unreadable(source: str, why: str) -> ToolCallError:
    return ToolCallError(
        f"The model's tool call cannot be read: {' '.join(why.split())[:200]}: {source!r:.120}",
        do="Ask again, or describe the tool's parameters more plainly.",
    )
