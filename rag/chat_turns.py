"""LangChain's messages and tools as ChatGLM3's turns.

What a turn becomes for the model is rag.glm.chat's business. Importing it loads no PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.utils.function_calling import convert_to_openai_tool

from rag.errors import ChatError, ConfigError

if TYPE_CHECKING:
    from rag.glm.chat import Turn

TOOLS_PROMPT = (
    "Answer the following questions as best as you can. You have access to the following tools:"
)
"""What the official demos write before the tools."""


def described(tools: Sequence[Any]) -> list[dict[str, Any]]:
    """Return each tool's name, description and parameters, as the model is told them.

    Raises:
        ConfigError: If something is no tool, or has no name.
    """
    found = []
    for tool in tools:
        try:
            function = convert_to_openai_tool(tool)["function"]
            named = isinstance(function["name"], str) and function["name"].strip()
        except (ValueError, TypeError, LookupError) as error:
            raise _no_tool(tool) from error
        if not named:
            raise _no_tool(tool)
        found.append(function)
    return found


def _no_tool(tool: object) -> ConfigError:
    return ConfigError(
        f"{tool!r:.120} is no tool with a name.",
        do='Expected a function, a class, or {"type": "function", "function": {"name": ...}}.',
    )


def chosen(
    tools: Sequence[dict[str, Any]], choice: str | dict[str, Any] | bool | None
) -> tuple[Sequence[dict[str, Any]], list[str]]:
    """Return the tools to tell of, and the names of those one of which must be called.

    Raises:
        ConfigError: If the choice names none of them.
    """
    names = [tool["name"] for tool in tools]
    if isinstance(choice, dict):
        choice = str(choice.get("function", choice).get("name", ""))
    if choice == "none":
        return [], []
    if choice in ("any", "required", True):
        return tools, names
    if choice in names:
        return tools, [str(choice)]
    if choice in (None, "auto", False):
        return tools, []
    raise ConfigError(
        f"tool_choice {choice!r} is no tool.",
        do=f"Expected auto, any, none or one of {', '.join(names)}.",
    )


def to_turns(
    messages: Sequence[BaseMessage], tools: Sequence[Mapping[str, Any]] = ()
) -> list[Turn]:
    """Translate LangChain's messages into ChatGLM3's turns.

    Args:
        messages: Oldest first. A ChatMessage may have any of ChatGLM3's roles.
        tools: Descriptions; they go behind the first system message's text, or a new one's.

    Raises:
        ChatError: If a message's role is another, or it holds something else than text.
    """
    from rag.glm.chat import Turn
    from rag.glm.data import tool_call as written

    turns: list[Turn] = []
    for message in messages:
        text = _text(message)
        if isinstance(message, SystemMessage):
            turns.append(Turn("system", text))
        elif isinstance(message, HumanMessage):
            turns.append(Turn("user", text))
        elif isinstance(message, ToolMessage):
            turns.append(Turn("observation", text))
        elif isinstance(message, AIMessage):
            if text or not message.tool_calls:
                turns.append(Turn("assistant", text))
            turns += [
                Turn("assistant", written(call["args"]), metadata=call["name"])
                for call in message.tool_calls
            ]
        else:
            role = message.role if isinstance(message, ChatMessage) else message.type
            turns.append(Turn(role, text))  # type: ignore[arg-type]  # an unknown one is refused
    if tools:
        first = turns[0].content if turns and turns[0].role == "system" else ""
        told = Turn("system", f"{first}\n{TOOLS_PROMPT}".lstrip(), tools=list(tools))
        turns = [told, *(turns[1:] if turns and turns[0].role == "system" else turns)]
    return turns


def _text(message: BaseMessage) -> str:
    if isinstance(message.content, str):
        return message.content
    parts = []
    for block in message.content:
        if isinstance(block, str):
            parts.append(block)
        elif block.get("type") == "text" and isinstance(block.get("text"), str):
            parts.append(block["text"])
        elif block.get("type") not in ("tool_use", "tool_call", "reasoning", "thinking"):
            # Calls are in tool_calls as well; what another model thought is not said.
            raise ChatError(
                f"A message holds {block.get('type')!r}; ChatGLM3 reads text.",
                do="Send text only.",
            )
    return "".join(parts)
