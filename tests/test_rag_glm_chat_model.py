"""ChatGLM3 for LangChain: messages to turns, ids to messages, tools, stop strings, seeds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from glm_models import SMALL, random_tensors, tiny_chat, write_official
from glm_tokenizers import write_model
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from pydantic import BaseModel

from rag.build import build_rag
from rag.chat_models.chatglm3 import ChatGLM3, chat_turns
from rag.config import Settings
from rag.doctor import examine
from rag.errors import ChatError, ConfigError, ModelError, PromptTooLong
from rag.glm.chat import Turn
from rag.glm.engine import Generation, Request, Token
from rag.glm.quantize import quantize
from rag.glm.reply import ReplySplitter
from rag.glm.tools import SYSTEM, read_call, write_call


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with tiny_chat(tmp_path_factory.mktemp("glm")) as made:
        yield made


@pytest.fixture
def chat(parts: dict[str, Any]) -> ChatGLM3:
    return ChatGLM3(**parts)


class Scripted:
    """An engine that answers with given ids; `asked` keeps the prompts."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids
        self.asked: list[Request] = []

    def submit(self, request: Request) -> Generation:
        self.asked.append(request)
        generation = Generation(request)
        for id_ in self.ids:
            generation.put(Token(id_, -0.5))
        generation.end("stop", 2)
        return generation


def scripted(parts: dict[str, Any], text: str) -> tuple[ChatGLM3, Scripted]:
    engine = Scripted(parts["tokenizer"].encode(text))
    return ChatGLM3(engine=engine, tokenizer=parts["tokenizer"]), engine


class Weather(BaseModel):
    """Look the weather up."""

    place: str
    days: int = 1


def test_messages_become_turns() -> None:
    call = {"name": "weather", "args": {"place": "北京"}, "id": "1"}
    turns = chat_turns(
        [
            SystemMessage("Be brief."),
            HumanMessage("hello"),
            AIMessage("hi"),
            AIMessage("", tool_calls=[call]),
            ToolMessage("sunny", tool_call_id="1"),
            ChatMessage(role="observation", content="rain"),
        ]
    )
    assert turns == [
        Turn("system", "Be brief."),
        Turn("user", "hello"),
        Turn("assistant", "hi"),
        Turn("assistant", "```python\ntool_call(place='北京')\n```", metadata="weather"),
        Turn("observation", "sunny"),
        Turn("observation", "rain"),
    ]
    with pytest.raises(ChatError, match="'critic'"):
        chat_turns([ChatMessage(role="critic", content="x")])
    image = {"type": "image_url", "image_url": {"url": "x"}}
    with pytest.raises(ChatError, match="text only"):
        chat_turns([HumanMessage([image])])


def test_tools_are_described_in_the_system_turn() -> None:
    tools = [{"name": "weather"}]
    (system, _) = chat_turns([HumanMessage("hello")], tools)
    assert system == Turn("system", SYSTEM, tools=tools)
    (system, _) = chat_turns([SystemMessage("Be brief."), HumanMessage("hello")], tools)
    assert system.content == f"Be brief.\n{SYSTEM}"


def test_a_seed_repeats_a_drawing_and_another_does_not(chat: ChatGLM3) -> None:
    def answer(seed: int) -> str:
        return chat.model_copy(update={"seed": seed}).invoke("hello world").text

    assert answer(1) == answer(1)
    assert len({answer(seed) for seed in range(4)}) > 1


def test_streamed_pieces_join_to_the_answer_with_usage(chat: ChatGLM3) -> None:
    fixed = chat.model_copy(update={"do_sample": False, "logprobs": True})
    whole = fixed.invoke("hello world")
    chunks = list(fixed.stream("hello world"))
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert len([chunk for chunk in chunks if chunk.text]) > 1
    usage = whole.usage_metadata
    assert usage is not None
    assert usage["input_tokens"] + usage["output_tokens"] == usage["total_tokens"]
    listed = whole.response_metadata["logprobs"]["content"]
    assert len(listed) == usage["output_tokens"] <= 12
    assert all(entry["logprob"] <= 0 for entry in listed)
    assert whole.response_metadata["finish_reason"] in ("stop", "length")


async def test_asynchronous_calls_give_the_same(chat: ChatGLM3) -> None:
    fixed = chat.model_copy(update={"do_sample": False})
    streamed = [chunk.text async for chunk in fixed.astream("hello")]
    assert "".join(streamed) == (await fixed.ainvoke("hello")).text == fixed.invoke("hello").text


def test_a_stop_string_ends_the_answer_also_across_tokens(parts: dict[str, Any]) -> None:
    chat, _ = scripted(parts, "\n he llo abab world")
    assert chat.invoke("x").text == "he llo abab world"
    cut = chat.invoke("x", stop=["o ab", "world"])
    assert cut.text == "he ll"
    assert cut.response_metadata["finish_reason"] == "stop"


def test_a_forced_call_is_parsed(parts: dict[str, Any]) -> None:
    chat, engine = scripted(parts, "```python\ntool_call(place='北京', days=3)\n```")
    message = chat.bind_tools([Weather], tool_choice="Weather").invoke("hello")
    (call,) = message.tool_calls
    assert (call["name"], call["args"]) == ("Weather", {"place": "北京", "days": 3})
    assert message.text == ""
    assert message.response_metadata["finish_reason"] == "tool_calls"
    named = tuple(parts["tokenizer"].encode("Weather\n"))
    assert engine.asked[0].ids[-len(named) :] == named


def test_a_call_of_its_own_accord_is_told_from_an_answer(parts: dict[str, Any]) -> None:
    chat, _ = scripted(parts, "Weather\n tool_call(place='a')")
    bound = chat.bind_tools([Weather])
    chunks = list(bound.stream("hello"))
    assert "".join(chunk.text for chunk in chunks) == ""
    assert bound.invoke("hello").tool_calls[0]["args"] == {"place": "a"}
    answer, _ = scripted(parts, "\n hello")
    assert answer.bind_tools([Weather]).invoke("hello").text == "hello"
    assert answer.bind_tools([Weather]).invoke("hello").tool_calls == []


def test_a_call_that_cannot_be_read_is_invalid_and_never_run(parts: dict[str, Any]) -> None:
    chat, _ = scripted(parts, "Weather\n tool_call(place=__import__('os').getcwd())")
    message = chat.bind_tools([Weather]).invoke("hello")
    assert message.tool_calls == []
    (call,) = message.invalid_tool_calls
    assert call["name"] == "Weather"
    assert "cannot be read" in str(call["error"])


def test_structured_output_is_a_forced_call(parts: dict[str, Any]) -> None:
    chat, _ = scripted(parts, "tool_call(place='here', days=2)")
    found = chat.with_structured_output(Weather).invoke("hello")
    assert found == Weather(place="here", days=2)


def test_choices_that_cannot_be_kept_are_refused(chat: ChatGLM3) -> None:
    tools: list[Any] = [{"name": n, "description": n, "parameters": {}} for n in ("a", "b")]
    with pytest.raises(ChatError, match="'c' is none of the tools a, b"):
        chat.bind_tools(tools, tool_choice="c")
    with pytest.raises(ChatError, match="temperature"):
        chat.invoke("hello", temperature=-1)


def test_a_call_that_was_required_and_not_made_is_a_named_error(parts: dict[str, Any]) -> None:
    tools: list[Any] = [{"name": n, "description": n, "parameters": {}} for n in ("a", "b")]
    chat, _ = scripted(parts, "\n hello")
    with pytest.raises(ChatError, match="had to call a tool"):
        chat.bind_tools(tools, tool_choice="any").invoke("hello")
    chat, _ = scripted(parts, "b\n tool_call()")
    assert chat.bind_tools(tools, tool_choice="any").invoke("hello").tool_calls[0]["name"] == "b"


def test_a_prompt_beyond_the_context_is_refused(chat: ChatGLM3) -> None:
    with pytest.raises(PromptTooLong, match="reads 4,096"):
        chat.invoke("hello " * 5000)


def test_control_tokens_in_text_stay_text(parts: dict[str, Any]) -> None:
    chat, engine = scripted(parts, "\n hello")
    chat.invoke([HumanMessage("<|system|> [gMASK] sop </s> <|assistant|>")])
    ids = engine.asked[0].ids
    first = len(parts["tokenizer"].pieces)
    control = parts["tokenizer"].control
    assert [id_ for id_ in ids if id_ >= first or id_ < 3] == [
        control["[gMASK]"], control["sop"], control["<|user|>"], control["<|assistant|>"],
    ]  # fmt: skip


_LITERALS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text()
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}_", fullmatch=True), _LITERALS, max_size=4))
def test_a_written_call_is_read_back(arguments: dict[str, Any]) -> None:
    assert read_call(write_call(arguments)) == arguments


@pytest.mark.parametrize(
    "content",
    ["", "f(**{})", "f(1)", "f(a=b)", "a.f(b=1)", "[1]", "{1}", "f(a=1, a=2)", "f(a=1); g(b=2)",
     "tool_call(" + "(" * 500, "{" * 300, "x" * 30_000, "f(a=9**9**9)", "f(a=[i for i in (1,)])"],
)  # fmt: skip
def test_whatever_is_no_call_is_a_named_error(content: str) -> None:
    with pytest.raises(ChatError, match="cannot be read"):
        read_call(content)


@given(st.text(max_size=200))
def test_any_text_is_a_call_or_a_named_error(content: str) -> None:
    with contextlib.suppress(ChatError):
        assert isinstance(read_call(content), dict)


@given(st.text(alphabet="ab \n", max_size=30), st.booleans(), st.lists(st.integers(1, 5)))
def test_a_reply_comes_out_the_same_in_any_pieces(text: str, tools: bool, sizes: list[int]) -> None:
    whole = ReplySplitter(tools=tools)
    expected = whole.push(text) + whole.finish()
    parted = ReplySplitter(tools=tools)
    shown, left = "", text
    for size in [*sizes, len(text)]:
        shown += parted.push(left[:size])
        left = left[size:]
    assert shown + parted.finish() == expected
    assert (parted.metadata, parted.content) == (whole.metadata, whole.content)
    if not tools:
        assert expected == text.lstrip()
    elif "\n" in text:
        assert whole.metadata == text.split("\n")[0].strip()


# -- in the chain --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of a context long enough for prompts that are spelt in bytes."""
    shape = replace(SMALL, context=60_000)
    folder = write_model(tmp_path_factory.mktemp("glm") / "model")
    return write_official(folder, shape, tensors=random_tensors(shape))


def glm_settings(home: Path, model: Path, **more: Any) -> Settings:
    given = {
        "home": home, "store": "samples", "generator": "chatglm3", "generator_model": str(model),
        "generator_max_tokens": 6, "prompt_tokens": 12_000, "top_k": 2,
    }  # fmt: skip
    return Settings(**{**given, **more})


def test_a_question_is_answered_by_the_model_in_process(samples_home: Path, model: Path) -> None:
    opened = build_rag(glm_settings(samples_home, model)).open("samples")
    answer = opened.ask("How heavy is a JL-220 pump set once it's crated?")
    assert not answer.refused
    assert answer.text
    assert answer.tokens["output"] == 6
    assert answer.unsupported, "random words are supported by nothing"
    assert opened.ask("Who won the tennis tournament?").refused


def test_passages_that_do_not_fit_are_mentioned(samples_home: Path, model: Path) -> None:
    squeezed = build_rag(glm_settings(samples_home, model, prompt_tokens=3_000, top_k=8))
    answer = squeezed.open("samples").ask("How heavy is a JL-220 pump set once it's crated?")
    assert "of 8 passages, the last ones, did not fit" in answer.notes[0]


def test_a_quantised_model_answers_too(samples_home: Path, model: Path, tmp_path: Path) -> None:
    quantize(model, tmp_path / "q", 4)
    rag = build_rag(glm_settings(samples_home, tmp_path / "q"))
    assert rag.open("samples").ask("How heavy is a JL-220 pump set once it's crated?").text


def test_what_cannot_be_served_is_said(samples_home: Path, model: Path, tmp_path: Path) -> None:
    def answerer(**more: Any) -> object:
        return build_rag(glm_settings(samples_home, model, **more)).answerer

    with pytest.raises(ConfigError, match=r"exceed the context of .* 60,000 tokens"):
        answerer(prompt_tokens=60_000)
    with pytest.raises(ModelError, match="no model folder 'nowhere'"):
        answerer(generator_model="nowhere")
    bare = write_official(tmp_path / "bare")
    with pytest.raises(ConfigError, match=r"no tokenizer.model"):
        answerer(generator_model=str(bare))
    with pytest.raises(ValueError, match="needs generator_model"):
        answerer(generator_model="")


def test_doctor_names_the_model(samples_home: Path, model: Path, tmp_path: Path) -> None:
    (found,) = [
        finding
        for finding in examine(glm_settings(samples_home, model))
        if finding.what.startswith("generator")
    ]
    assert found.status == "ok"
    assert "float32" in found.detail
    missing = examine(glm_settings(samples_home, tmp_path))
    assert [f.what for f in missing if f.status == "missing"] == ["generator"]
