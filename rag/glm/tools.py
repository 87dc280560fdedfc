"""Tool calls as ChatGLM3 writes them: read with literals only, and written for the history.

A call is the tool's name as the turn's metadata, and as its content a block of Python that calls
`tool_call` with keyword arguments. The block is parsed, never run.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from rag.errors import ChatError

SYSTEM = (
    "Answer the following questions as best as you can. You have access to the following tools:"
)
"""The official demo's words before the descriptions of the tools."""

MAX_CALL_CHARS = 20_000
"""A longer call is refused unread."""

_FENCE = re.compile(r"```(?:python|json)?\s*\n?(.*?)(?:```|\Z)", re.DOTALL)


def read_call(content: str) -> dict[str, Any]:
    """Return the arguments of a call: literals by name.

    Args:
        content: What the model wrote behind the tool's name: `tool_call(city="北京", days=3)` or a
            JSON object, with or without a fence of backquotes.

    Raises:
        ChatError: If it is anything else.
    """
    if len(content) > MAX_CALL_CHARS:
        raise _unreadable(f"it has {len(content):,} characters")
    fenced = _FENCE.search(content)
    code = (fenced[1] if fenced else content).strip()
    try:
        found = json.loads(code) if code.startswith("{") else _keywords(code)
    except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
        raise _unreadable(type(error).__name__) from error
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise _unreadable("it is no set of named arguments")
    return found


def write_call(arguments: Mapping[str, Any]) -> str:
    """Return a call's content as the model would have written it."""
    shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    return f"```python\ntool_call({shown})\n```"


def _keywords(code: str) -> dict[str, Any]:
    call = ast.parse(code, mode="eval").body
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
        raise ValueError("expected name(argument=literal, ...)")
    found: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in found:
            raise ValueError("expected each argument by name, once")
        found[keyword.arg] = ast.literal_eval(keyword.value)
    return found


def _unreadable(why: str) -> ChatError:
    return ChatError(
        f"The model wrote a tool call that cannot be read ({why}).",
        do="Expected tool_call(name=literal, ...).",
    )
