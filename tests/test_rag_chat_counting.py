"""How many tokens a chat takes: counted with the model's own tokenizer, without its weights."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from glm_serving import scripted, write_chatty
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.messages.utils import trim_messages

from rag.chat_models import ChatGLM3
from rag.chat_turns import described, to_turns
from rag.errors import ChatError, ModelError
from rag.glm.chat import prompt_ids
from rag.glm.tokenizer import load_tokenizer

CHAT: list[BaseMessage] = [
    SystemMessage("he"),
    HumanMessage("hello world " * 20),
    AIMessage("world"),
    HumanMessage("hello"),
]


def weather(city: str) -> str:
    """The weather in a city."""
    return city


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chatty(tmp_path_factory.mktemp("model"))


@pytest.fixture
def model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ChatGLM3:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were loaded, or another tokenizer was looked for")

    monkeypatch.setattr("rag.glm.load.load_chatglm3", never)
    monkeypatch.setattr("langchain_core.language_models.base.get_tokenizer", never)
    return ChatGLM3(model=str(folder))


def test_text_is_counted_with_its_own_tokenizer(model: ChatGLM3, folder: Path) -> None:
    expected = load_tokenizer(folder).encode("hello world 你好")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert model.get_token_ids("hello world 你好") == expected
        assert model.get_num_tokens("hello world 你好") == len(expected)


def test_messages_are_counted_as_they_are_asked(model: ChatGLM3, folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    assert model.get_num_tokens_from_messages(CHAT) == len(prompt_ids(tokenizer, to_turns(CHAT)))
    told = to_turns(CHAT, described([weather]))
    with_tools = model.get_num_tokens_from_messages(CHAT, tools=[weather])
    assert with_tools == len(prompt_ids(tokenizer, told))


def test_the_count_is_that_of_the_usage(tmp_path: Path) -> None:
    model = ChatGLM3.of(scripted(tmp_path, "\nok")[0])
    said = model.invoke(CHAT)
    assert isinstance(said, AIMessage)
    assert said.usage_metadata is not None
    assert said.usage_metadata["input_tokens"] == model.get_num_tokens_from_messages(CHAT)
    model.close()


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 400))
@example(59)
def test_what_is_trimmed_fits(folder: Path, room: int) -> None:
    model = ChatGLM3(model=str(folder))
    kept = trim_messages(CHAT, max_tokens=room, token_counter=model, include_system=True)
    assert not kept or model.get_num_tokens_from_messages(kept) <= room
    # The system message and the rest are counted apart, each with the prompt's own ends.
    apart = [model.get_num_tokens_from_messages(part) for part in (CHAT[:1], CHAT[1:])]
    if room >= sum(apart):
        assert kept == CHAT


def test_a_counter_of_ones_own_is_used(folder: Path) -> None:
    model = ChatGLM3(model=str(folder), custom_get_token_ids=lambda text: [1] * len(text))
    assert model.get_num_tokens("hello") == 5


def test_a_model_that_is_not_there_counts_nothing(tmp_path: Path, model: ChatGLM3) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        ChatGLM3(model=str(tmp_path / "no")).get_num_tokens("x")
    with pytest.raises(ChatError, match="image_url"):
        model.get_num_tokens_from_messages(
            [HumanMessage([{"type": "image_url", "image_url": {"url": "data:,"}}])]
        )
