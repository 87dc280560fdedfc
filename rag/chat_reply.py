"""ChatGLM3's answers as LangChain's chunks and messages: text, tool calls, usage, probabilities.

Importing it loads no PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from langchain_core.messages import AIMessage, AIMessageChunk, message_chunk_to_message
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import invalid_tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

from rag.errors import ToolCallError

if TYPE_CHECKING:
    from rag.glm.reply import Call
    from rag.glm.sampling import Token
    from rag.glm.served import Final, Piece, ServedGlm


def chunk_of(part: Piece | Final, served: ServedGlm, model: str) -> ChatGenerationChunk:
    """Return a stretch of an answer, or its end, as LangChain streams it.

    Args:
        part: As `ServedGlm.answer` yields it.
        served: Who answered.
        model: Its name, for the metadata.
    """
    from rag.glm.served import Piece

    if isinstance(part, Piece):
        scored = [_scored(served, token) for token in part.tokens if token.logprob is not None]
        metadata = {"logprobs": {"content": scored}} if scored else {}
        message = AIMessageChunk(content=part.text, response_metadata=metadata)
        return ChatGenerationChunk(message=message)
    calls = [*map(_parsed, part.calls)]
    # LangChain keeps no reason with what is streamed, so they are told here as well.
    reasons = [error for _, _, error in calls if error]
    return ChatGenerationChunk(
        message=AIMessageChunk(
            content="",
            tool_call_chunks=[
                tool_call_chunk(name=call.name, args=args, id=_call_id(), index=index)
                for index, (call, args, _) in enumerate(calls)
            ],
            usage_metadata=UsageMetadata(
                input_tokens=part.prompt_tokens,
                output_tokens=part.new_tokens,
                total_tokens=part.prompt_tokens + part.new_tokens,
            ),
            response_metadata={
                "finish_reason": part.finish,
                "model_name": model,
                "model_provider": "chatglm3",
                **({"invalid_tool_calls": reasons} if reasons else {}),
            },
            chunk_position="last",
        )
    )


def result_of(parts: Sequence[Piece | Final], served: ServedGlm, model: str) -> ChatResult:
    """Return a whole answer as LangChain has it: the chunks together, and what calls failed."""
    chunks = [chunk_of(part, served, model) for part in parts]
    whole = chunks[0] + chunks[1:] if len(chunks) > 1 else chunks[0]
    message = message_chunk_to_message(whole.message)
    if isinstance(message, AIMessage):
        message.invalid_tool_calls = [
            invalid_tool_call(name=call.name, args=call.source, id=_call_id(), error=error)
            for call, _, error in map(_parsed, parts[-1].calls)  # type: ignore[union-attr]
            if error
        ]
    return ChatResult(generations=[ChatGeneration(message=message)])


def _scored(served: ServedGlm, token: Token) -> dict[str, Any]:
    """One token's log-probabilities, in the form of OpenAI's endpoint."""

    def entry(id_: int, logprob: float | None) -> dict[str, Any]:
        text = served.tokenizer.token_text(id_)
        return {"token": text, "logprob": logprob}

    top = [entry(id_, logprob) for id_, logprob in token.top]
    return {**entry(token.id, token.logprob), "top_logprobs": top}


def _parsed(call: Call) -> tuple[Call, str, str]:
    """A call, its arguments as JSON, and why it cannot be made ("" if it can).

    Arguments that cannot be read are quoted as code: LangChain would mend what begins like JSON.
    """
    try:
        return call, json.dumps(call.parameters(), ensure_ascii=False), ""
    except ToolCallError as error:
        quoted = call.source if call.source.lstrip().startswith("```") else f"```{call.source}```"
        return call, quoted, str(error)


def _call_id() -> str:
    return f"call_{uuid4().hex}"
