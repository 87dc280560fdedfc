"""ChatGLM3 in this process as a LangChain chat model.

LangChain's messages become turns and ids, and the ids that the engine makes become messages: text,
tool calls, usage, log-probabilities. It runs no model itself; importing it imports PyTorch.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict, Field

from rag.errors import ChatError, ConfigError, ModelError
from rag.glm.chat import Turn, prompt_ids
from rag.glm.config import Dtype
from rag.glm.engine import Engine, Generation, Request
from rag.glm.hub import find_checkpoint
from rag.glm.load import load_chatglm3
from rag.glm.reply import ReplySplitter
from rag.glm.sampling import Sampling
from rag.glm.source import open_source
from rag.glm.stream import StopStrings, StreamDecoder
from rag.glm.tools import SYSTEM as TOOLS_SYSTEM
from rag.glm.tools import read_call, write_call

if TYPE_CHECKING:
    from rag.config import Settings


class ChatGLM3(BaseChatModel):
    """ChatGLM3 in this process, for LangChain.

    Several may share an engine, with other settings each; calls from any thread join its batch.
    Messages become ids segment by segment: no text, whoever wrote it, becomes a control token.

    Attributes:
        engine: Runs the model; whoever made it closes it.
        tokenizer: The model's.
        model_name: For metadata.
        max_tokens: Most new tokens of an answer, >= 1.
        do_sample, temperature, top_p: The official defaults; see rag.glm.sampling.
        seed: Makes sampling repeatable; None: it is not.
        stop: Strings that end an answer and are not part of it.
        logprobs: Whether response_metadata has the log-probability of each token.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())

    engine: Any = Field(exclude=True)
    tokenizer: Any = Field(exclude=True)
    model_name: str = "chatglm3"
    max_tokens: int = Field(default=512, ge=1)
    do_sample: bool = True
    temperature: float = Field(default=0.8, ge=0)
    top_p: float = Field(default=0.8, gt=0, le=1)
    seed: int | None = None
    stop: list[str] | None = None
    logprobs: bool = False

    @property
    def _llm_type(self) -> str:
        return "chatglm3"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, "temperature": self.temperature}

    def _get_ls_params(
        self,
        stop: list[str] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = "chatglm3"
        params["ls_model_name"] = str(kwargs.get("model") or self.model_name)
        return params

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Return the model with tools it may call.

        Args:
            tools: Anything that LangChain can describe.
            tool_choice: "auto" or None leaves it to the model. A tool's name makes it call that
                one; "any", "required" or True the only one there is. Where there are several, the
                model chooses, and a reply that calls none of them is a ChatError.
            kwargs: Passed on.

        Raises:
            ChatError: If the choice names no tool.
        """
        described = [convert_to_openai_tool(tool)["function"] for tool in tools]
        names = [tool["name"] for tool in described]
        forced = ""
        required = tool_choice in ("any", "required", True)
        if required:
            forced = names[0] if len(names) == 1 else ""
        elif tool_choice not in (None, False, "auto", "none"):
            forced = str(tool_choice)
            if forced not in names:
                raise ChatError(
                    f"tool_choice {forced!r} is none of the tools {', '.join(names)}.",
                    do="Name one of them.",
                )
        if tool_choice == "none":
            described = []
        choice = {"glm_forced": forced, "glm_required": required}
        return self.bind(glm_tools=described, **choice, **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> ChatResult:
        whole: ChatGenerationChunk | None = None
        for chunk in self._stream(messages, stop, run_manager, **kwargs):
            whole = chunk if whole is None else whole + chunk
        if whole is None:
            raise ModelError("The model gave no reply.", do="Run `youju doctor`.")
        message = whole.message
        if not isinstance(message, AIMessageChunk):
            raise TypeError(f"expected an AIMessageChunk, got {type(message).__name__}")
        made = AIMessage(
            content=message.content,
            tool_calls=message.tool_calls,
            invalid_tool_calls=message.invalid_tool_calls,
            usage_metadata=message.usage_metadata,
            response_metadata=message.response_metadata,
        )
        return ChatResult(generations=[ChatGeneration(message=made)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Iterator[ChatGenerationChunk]:
        tools, forced = kwargs.pop("glm_tools", []), kwargs.pop("glm_forced", "")
        required = kwargs.pop("glm_required", False)
        own = self.model_copy(update=_settings(kwargs))
        ids = prompt_ids(self.tokenizer, chat_turns(messages, tools))
        if forced:
            ids += self.tokenizer.encode(f"{forced}\n")
        sampling = Sampling(
            do_sample=own.do_sample and own.temperature > 0,
            temperature=own.temperature or 1.0,
            top_p=own.top_p,
            seed=own.seed,
        )
        generation = self.engine.submit(Request(tuple(ids), own.max_tokens, sampling))
        try:
            for chunk in self._chunks(
                generation,
                ReplySplitter(tools=bool(tools), metadata=forced),
                StopStrings(stop if stop is not None else own.stop or []),
                logprobs=own.logprobs,
                run_manager=run_manager,
            ):
                if required and chunk.text:
                    raise ChatError(
                        "The model answered in words where it had to call a tool.",
                        do="Name the tool in tool_choice, and it is called.",
                    )
                yield chunk
        finally:
            generation.cancel()

    def _chunks(
        self,
        generation: Generation,
        reply: ReplySplitter,
        stops: StopStrings,
        *,
        logprobs: bool,
        run_manager: CallbackManagerForLLMRun | None,
    ) -> Iterator[ChatGenerationChunk]:
        decoder = StreamDecoder(self.tokenizer)
        chances: list[dict[str, Any]] = []
        made = 0

        def shown(text: str) -> Iterator[ChatGenerationChunk]:
            if text:
                chunk = ChatGenerationChunk(message=AIMessageChunk(content=text))
                if run_manager:
                    run_manager.on_llm_new_token(text, chunk=chunk)
                yield chunk

        for token in generation:
            made += 1
            if logprobs:
                text = self.tokenizer.decode([token.id])
                chances.append({"token": text, "id": token.id, "logprob": token.logprob})
            yield from shown(reply.push(stops.push(decoder.push(token.id))))
            if stops.stopped:
                generation.cancel()
                break
        if not stops.stopped:
            rest = stops.push(decoder.finish()) + stops.finish()
            yield from shown(reply.push(rest))
        yield from shown(reply.finish())
        reason = "stop" if stops.stopped else generation.finish_reason
        metadata: dict[str, Any] = {"model_name": self.model_name, "finish_reason": reason}
        if logprobs:
            metadata["logprobs"] = {"content": chances}
        if reply.calls:
            metadata["finish_reason"] = "tool_calls"
        read = len(generation.request.ids)
        last = AIMessageChunk(
            content="",
            usage_metadata=UsageMetadata(
                input_tokens=read, output_tokens=made, total_tokens=read + made
            ),
            response_metadata=metadata,
            chunk_position="last",
            **(_calls(reply) if reply.calls else {}),
        )
        yield ChatGenerationChunk(message=last)


def chatglm3_chat_model(settings: Settings) -> ChatGLM3:
    """Load the model that the settings name and start its engine.

    Greedy, so that the same question gets the same answer.

    Raises:
        CheckpointError: If a folder is another model, incomplete or damaged.
        AdapterMismatch: If the adapter was trained on another model.
        ConfigError: If the model has no tokenizer, or prompt and answer do not fit its context.
        ModelError: If there is no such model here, or memory does not suffice.
    """
    device = settings.generator_device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = find_checkpoint(settings.generator_model, download=settings.generator_download)
    quantized = bool(open_source(folder).shape.bits)
    dtype: Dtype = "float32" if quantized and device == "cpu" else "bfloat16"
    if settings.generator_dtype != "auto":
        dtype = settings.generator_dtype
    glm = load_chatglm3(folder, dtype, device, adapter=settings.generator_adapter or None)
    if glm.tokenizer is None:
        raise ConfigError(
            f"{glm.name} has no tokenizer.model.", do="Copy it into the folder from the repository."
        )
    engine = Engine(glm, batch_size=settings.generator_batch, queue_size=settings.generator_queue)
    if settings.prompt_tokens + settings.generator_max_tokens > engine.context:
        raise ConfigError(
            f"prompt_tokens {settings.prompt_tokens:,} and generator_max_tokens "
            f"{settings.generator_max_tokens:,} exceed the context of {glm.name}, "
            f"{engine.context:,} tokens.",
            do="Lower one of them.",
        )
    return ChatGLM3(
        engine=engine,
        tokenizer=glm.tokenizer,
        model_name=glm.name,
        max_tokens=settings.generator_max_tokens,
        do_sample=False,
    )


def chat_turns(messages: Sequence[BaseMessage], tools: Sequence[Any] = ()) -> list[Turn]:
    """Return LangChain's messages as ChatGLM3's turns.

    The descriptions of tools go into the system turn, behind the official words for them.

    Raises:
        ChatError: If a message is of an unknown kind, or holds something else than text.
    """
    turns: list[Turn] = []
    for message in messages:
        text = message.text
        if isinstance(message.content, list) and any(
            isinstance(block, dict) and block.get("type") not in ("text", "tool_use", "tool_call")
            for block in message.content
        ):
            raise ChatError("A message holds more than text.", do="ChatGLM3 reads text only.")
        if isinstance(message, AIMessage):
            if text or not message.tool_calls:
                turns.append(Turn("assistant", text))
            turns += [
                Turn("assistant", write_call(call["args"]), metadata=call["name"])
                for call in message.tool_calls
            ]
        elif isinstance(message, ToolMessage):
            turns.append(Turn("observation", text))
        elif isinstance(message, SystemMessage):
            turns.append(Turn("system", text))
        elif isinstance(message, HumanMessage):
            turns.append(Turn("user", text))
        else:
            role: Any = getattr(message, "role", message.type)
            turns.append(Turn(role, text))
    if not tools:
        return turns
    first = turns[0] if turns and turns[0].role == "system" else None
    words = f"{first.content}\n{TOOLS_SYSTEM}" if first else TOOLS_SYSTEM
    return [Turn("system", words, tools=tools), *(turns[1:] if first else turns)]


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """What a call sets anew; LangChain passes more names than this model knows."""
    known = ("max_tokens", "do_sample", "temperature", "top_p", "seed", "logprobs")
    found = {name: given[name] for name in known if given.get(name) is not None}
    ranges = {"max_tokens": (1, 10**6), "temperature": (0, 100), "top_p": (1e-9, 1)}
    for name, (least, most) in ranges.items():
        if name in found and not least <= found[name] <= most:
            raise ChatError(f"Got {name} {found[name]!r}.", do=f"Expected {least:g} to {most:g}.")
    return found


def _calls(reply: ReplySplitter) -> dict[str, Any]:
    """The tool call of a reply: with its arguments, or invalid with the reason."""
    name, key = reply.metadata, f"call_{uuid4().hex[:24]}"
    try:
        arguments = read_call(reply.content)
    except ChatError as error:
        bad = {"name": name, "args": reply.content, "id": key, "error": str(error)}
        return {"invalid_tool_calls": [{**bad, "type": "invalid_tool_call"}]}
    chunk = {
        "name": name,
        "args": json.dumps(arguments, ensure_ascii=False, default=repr),
        "id": key,
        "index": 0,
        "type": "tool_call_chunk",
    }
    return {"tool_call_chunks": [chunk]}
