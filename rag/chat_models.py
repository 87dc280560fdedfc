"""LangChain chat models: ChatGLM3 in this process, and any OpenAI-compatible endpoint.

This module answers as LangChain asks; chat_turns.py makes turns of its messages, and chat_reply.py
messages of what is answered. What is asked, and what becomes of the answer, is rag.prompt's and
rag.citations' business; an endpoint's faults are endpoint_errors.py's; how ChatGLM3 generates is
rag.glm's. Importing it loads no model and no PyTorch.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.base import LangSmithParams, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from rag.chat_reply import chunk_of, result_of
from rag.chat_turns import chosen, described, to_turns
from rag.errors import ConfigError, EngineClosed

if TYPE_CHECKING:
    from rag.config import Settings
    from rag.glm.chat import Turn
    from rag.glm.load import LoadedGlm
    from rag.glm.served import Ask, Found, ServedGlm
    from rag.glm.tokenizer import ChatGLM3Tokenizer


def openai_chat_model(settings: Settings) -> BaseChatModel:
    """Return a client of the endpoint that the settings name; nothing is sent yet."""
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    return ChatOpenAI(
        model=settings.generator_model,
        base_url=settings.generator_url,
        # Local servers want no key, the client insists on one.
        api_key=settings.generator_api_key
        if settings.generator_api_key.get_secret_value()
        else SecretStr("none"),
        timeout=settings.generator_timeout,
        max_retries=1,
        temperature=0,
        stream_usage=True,
        max_completion_tokens=settings.generator_max_tokens,
    )


_PER_CALL = (
    "do_sample", "temperature", "top_p", "top_k", "seed", "max_tokens", "logprobs", "top_logprobs",
    "timeout",
)  # fmt: skip
_NOT_OURS = ("ls_structured_output_format", "strict", "parallel_tool_calls", "stream_usage")
"""What LangChain passes on that changes nothing here."""
_METHODS = ("function_calling", "json_schema", "json_mode")
"""Ways to structured output that LangChain's users ask for."""


class ChatGLM3(BaseChatModel):
    """ChatGLM3 in this process, loaded when it is first asked, answering many at once.

    The sampling defaults are the official ones. Every field from `do_sample` on may also be given
    with a single call, for example `invoke(messages, seed=7)`; `max_new_tokens` is another name for
    `max_tokens` there, and a temperature given there is sampled with even where do_sample is False.

    Attributes:
        model: A folder in the official or the native layout, or a name on the hub.
        adapter: Folder of an adapter; "" for none.
        dtype: To compute in; None takes the stored one, "auto" bfloat16 in place of float16 on a
            CPU.
        device: Where it runs: "cpu", "cuda:0", or "auto" for a GPU if there is one.
        download: Fetch a named model that is not here yet.
        batch_size: Most requests that run at once.
        queue_size: Most requests that wait beside them; one more is QueueFull.
        do_sample: False, or a temperature of 0, takes the likeliest token always.
        temperature: Logits are divided by it.
        top_p: Share of the probability that is left to choose from.
        top_k: Number of tokens that are left to choose from; 0 for all.
        seed: Makes sampling repeatable.
        max_tokens: Longest answer, tokens; None for what the context leaves room for.
        stop: Strings that end an answer.
        timeout: Seconds an answer may take; None for no limit.
        logprobs: Report log-probabilities, in response_metadata["logprobs"]["content"].
        top_logprobs: Alternatives to report with each.
        streaming: `invoke` streams, too, as callbacks may want.
    """

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str = ""
    adapter: str = ""
    dtype: str | None = None
    device: str = "cpu"
    download: bool = False
    batch_size: int = 8
    queue_size: int = 32
    do_sample: bool = True
    temperature: float = 0.8
    top_p: float = 0.8
    top_k: int = 50
    seed: int | None = None
    max_tokens: int | None = None
    stop: list[str] | None = None
    timeout: float | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    streaming: bool = False

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, fields: object, read: ModelWrapValidatorHandler[Self]) -> Self:
        """Tell of a wrong field in one line, as everything else here does."""
        try:
            return read(fields)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            if first["type"] == "extra_forbidden":
                ours = [known for known in ChatGLM3.__annotations__ if known in cls.model_fields]
                raise ConfigError(
                    f"Unknown field {name!r} of ChatGLM3.", do=f"Known: {', '.join(ours)}."
                ) from error
            raise ConfigError(
                f"{name} = {first['input']!r:.80} is not allowed.", do=f"{first['msg']}."
            ) from error

    _served: ServedGlm | None = PrivateAttr(default=None)
    _given: weakref.ref[LoadedGlm] | None = PrivateAttr(default=None)  # what `of` was given
    _loading: Any = PrivateAttr(default_factory=threading.Lock)
    _counting: ChatGLM3Tokenizer | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, loaded: LoadedGlm, **fields: Any) -> ChatGLM3:  # noqa: ANN401  pydantic checks
        """Return a chat model over a model that is loaded already, and that is kept until `close`.

        After `close` it can be asked again for as long as somebody else keeps `loaded`.
        """
        from rag.glm.served import ServedGlm

        made = cls(model=loaded.name, **fields)
        made._given = weakref.ref(loaded)
        made._served = ServedGlm(loaded, batch=made.batch_size, queue=made.queue_size)
        return made

    def load(self) -> ServedGlm:
        """Load the model now, if it is not loaded yet; after a breakdown, begin anew with it.

        Raises:
            ConfigError: If no model was given, or its dtype or device is none.
            ModelError: As `load_chatglm3`.
            EngineClosed: If it was closed, and the model that `of` was given is gone.
        """
        with self._loading:
            served = self._served
            if served is None or served.engine.broken:
                from rag.glm.served import ServedGlm

                loaded = self._loaded() if served is None else served.loaded
                served = ServedGlm(loaded, batch=self.batch_size, queue=self.queue_size)
                self._served = served
            return served

    def _loaded(self) -> LoadedGlm:
        if self._given is not None:
            loaded = self._given()
            if loaded is None:
                raise EngineClosed(
                    f"{self.model} was closed, and the model it was made of is gone.",
                    do="Load it again, and make a new one with ChatGLM3.of.",
                )
            return loaded
        from rag.glm.load import load_chatglm3
        from rag.glm.served import fitting

        found = self._found()
        dtype, device = fitting(self.dtype, self.device, found.source)
        return load_chatglm3(found.folder, dtype, device, adapter=self.adapter or None)

    def close(self) -> None:
        """End all requests with EngineClosed; a later one loads the model again.

        Dropping the object frees the memory as well, though not at once.
        """
        with self._loading:
            served, self._served = self._served, None
        if served is not None:
            served.close()

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        **kwargs: object,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Tell the model of tools, in ChatGLM3's own format: JSON behind the system text.

        Args:
            tools: Anything LangChain makes a tool of.
            tool_choice: "auto" or None: the model decides; a tool's name: it is called; "any",
                "required" or True: one of them is called; "none": no tool is mentioned.
            kwargs: Bound with them.

        Raises:
            ConfigError: If something is no tool, or tool_choice names none.
        """
        told = described(tools)
        chosen(told, tool_choice)
        return self.bind(tools=told, tool_choice=tool_choice, **kwargs)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        include_raw: bool = False,
        **kwargs: Any,  # noqa: ANN401
    ) -> Runnable[LanguageModelInput, dict[str, Any] | BaseModel]:
        """Answer with an object of a schema: the model has to call a tool with its fields.

        Args:
            schema: A Pydantic class, a TypedDict, or a JSON or OpenAI schema.
            include_raw: Give {"raw", "parsed", "parsing_error"} instead.
            kwargs: `method`, as LangChain names them; each is done by a tool call here. `strict`
                changes nothing.

        Returns:
            What gives an object of a Pydantic class, else a dict. It raises ToolCallError for a
            call that cannot be read, unless include_raw is set.

        Raises:
            ConfigError: If the schema is no tool, or the method another.
        """
        from rag.chat_structured import call_parser

        for name, value in kwargs.items():
            if name != "strict" and not (name == "method" and value in (None, *_METHODS)):
                raise ConfigError(
                    f"with_structured_output of ChatGLM3 does not know {name} = {value!r}.",
                    do=f"Known: method = {', '.join(_METHODS)}.",
                )
        shown = {"kwargs": {"method": _METHODS[0]}, "schema": schema}
        asked = self.bind_tools([schema], tool_choice="any", ls_structured_output_format=shown)
        parser = call_parser(schema)
        if not include_raw:
            return asked | parser
        parsed = RunnablePassthrough.assign(
            parsed=itemgetter("raw") | parser, parsing_error=lambda _: None
        )
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=asked) | parsed.with_fallbacks(
            [failed], exception_key="parsing_error"
        )

    def get_token_ids(self, text: str) -> list[int]:
        """Return the ids of a text, without control tokens; loads no weights.

        Raises:
            ModelError: As `load_chatglm3`, if the model's folder cannot be used.
        """
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._tokenizer().encode(text)

    def get_num_tokens_from_messages(
        self, messages: list[BaseMessage], tools: Sequence[Any] | None = None
    ) -> int:
        """Return how many ids the model is asked with for these messages; loads no weights.

        Args:
            messages: Oldest first.
            tools: What is told with them.

        Raises:
            ChatError: If a message cannot be told to ChatGLM3.
            ConfigError: If something is no tool.
            ModelError: As `get_token_ids`.
        """
        from rag.glm.chat import prompt_ids

        return len(prompt_ids(self._tokenizer(), to_turns(messages, described(tools or []))))

    def _tokenizer(self) -> ChatGLM3Tokenizer:
        served, given = self._served, self._given() if self._given is not None else None
        if served is not None:
            return served.tokenizer
        if given is not None and given.tokenizer is not None:
            return given.tokenizer
        if self._counting is None:
            self._counting = self._found().tokenizer
        return self._counting

    def _found(self) -> Found:
        from rag.glm.served import look_up

        if not self.model:
            raise ConfigError(
                "ChatGLM3 was made without a model.",
                do="Give model=, a folder or a name on the hub.",
            )
        return look_up(self.model, download=self.download)

    # -- what LangChain calls ----------------------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "chatglm3"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        fields = ("model", "adapter", "dtype", "device", *_PER_CALL)
        return {name: getattr(self, name) for name in fields}

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: object) -> LangSmithParams:
        params = super()._get_ls_params(stop=stop or self.stop, **kwargs)
        params["ls_provider"] = "chatglm3"
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        served = self.load()
        turns, ask = self._asked(messages, stop, kwargs)
        return result_of(list(served.answer(turns, ask)), served, self.model)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> ChatResult:
        served = await asyncio.to_thread(self.load)
        turns, ask = self._asked(messages, stop, kwargs)
        async with aclosing(served.aanswer(turns, ask)) as answer:
            return result_of([part async for part in answer], served, self.model)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> Iterator[ChatGenerationChunk]:
        served = self.load()
        turns, ask = self._asked(messages, stop, kwargs)
        with closing(served.answer(turns, ask)) as answer:
            for part in answer:
                chunk = chunk_of(part, served, self.model)
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> AsyncIterator[ChatGenerationChunk]:
        served = await asyncio.to_thread(self.load)
        turns, ask = self._asked(messages, stop, kwargs)
        async with aclosing(served.aanswer(turns, ask)) as answer:
            async for part in answer:
                chunk = chunk_of(part, served, self.model)
                if run_manager is not None:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _asked(
        self,
        messages: Sequence[BaseMessage],
        stop: str | Sequence[str] | None,
        given: Mapping[str, Any],
    ) -> tuple[list[Turn], Ask]:
        from rag.glm.sampling import Sampling
        from rag.glm.served import Ask

        call = {key: value for key, value in given.items() if key not in _NOT_OURS}
        known = described(call.pop("tools", None) or [])
        tools, must = chosen(known, call.pop("tool_choice", None))
        stop = self.stop if stop is None else stop
        if "max_new_tokens" in call:
            call["max_tokens"] = call.pop("max_new_tokens")
        if unknown := sorted(call.keys() - set(_PER_CALL)):
            raise ConfigError(
                f"Unknown option {unknown[0]!r} for ChatGLM3.",
                do=f"Known: {', '.join(_PER_CALL)}, stop, tools, tool_choice.",
            )
        value = {name: call.get(name, getattr(self, name)) for name in _PER_CALL}
        # Who gives a temperature with a call wants it sampled with.
        samples = call.get("do_sample", self.do_sample or "temperature" in call)
        if not isinstance(samples, bool):
            raise ConfigError(
                f"do_sample = {samples!r} is not allowed.", do="Expected True or False."
            )
        sampling = Sampling(do_sample=False, seed=value["seed"])
        if samples and value["temperature"] != 0:
            sampling = Sampling(
                True, value["temperature"], value["top_p"], value["top_k"], value["seed"]
            )
        ask = Ask(
            max_new_tokens=value["max_tokens"],
            sampling=sampling,
            top_logprobs=value["top_logprobs"] if value["logprobs"] else None,
            timeout_s=value["timeout"],
            stops=[stop] if isinstance(stop, str) else stop or (),
            tools=[tool["name"] for tool in tools],
            must_call=must,
        )
        return to_turns(messages, tools), ask
