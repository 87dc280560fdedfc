"""Reads an answer that had to be a tool call; what cannot be read as one is an error, not None."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage
from langchain_core.output_parsers import PydanticToolsParser
from langchain_core.output_parsers.openai_tools import (
    JsonOutputKeyToolsParser,
    JsonOutputToolsParser,
)
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.utils.pydantic import is_basemodel_subclass

from rag.errors import ToolCallError


def call_parser(schema: dict[str, Any] | type) -> JsonOutputToolsParser:
    """Return what makes of a message an object of the schema's class, or a dict.

    Args:
        schema: As `with_structured_output` takes it.

    Returns:
        A parser that raises ToolCallError for a message whose call cannot be read, or that makes
        none.
    """
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return _ToObject(tools=[schema], first_tool_only=True)
    name = convert_to_openai_tool(schema)["function"]["name"]
    return _ToDict(key_name=name, first_tool_only=True)


class _ToObject(PydanticToolsParser):
    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:  # noqa: ANN401
        _require_call(result, partial)
        return super().parse_result(result, partial=partial)


class _ToDict(JsonOutputKeyToolsParser):
    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:  # noqa: ANN401
        _require_call(result, partial)
        return super().parse_result(result, partial=partial)


def _require_call(result: list[Generation], partial: bool) -> None:
    message = result[0].message if isinstance(result[0], ChatGeneration) else None
    if not isinstance(message, AIMessage) or message.tool_calls:
        return
    if partial and getattr(message, "chunk_position", None) != "last":
        return
    # A streamed message has the reasons in its metadata.
    reasons = [call["error"] for call in message.invalid_tool_calls if call["error"]]
    reasons += message.response_metadata.get("invalid_tool_calls", [])
    raise ToolCallError(
        reasons[0] if reasons else "The model called no tool, though it had to.",
        do="" if reasons else "Ask again, or raise max_tokens.",
    )
