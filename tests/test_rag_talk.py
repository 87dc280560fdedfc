"""A chat with the generator alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_chat import FakeChat
from glm_serving import scripted, write_chatty

from rag.answering import AnswerOptions, TextDelta
from rag.build import build_rag
from rag.chat_models import ChatGLM3
from rag.config import Settings
from rag.errors import ModelError, UsageError
from rag.prompt import Message
from rag.talk import Said, Talker

CHAT = [Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "And you?")]


def test_what_is_said_comes_in_pieces_and_whole() -> None:
    model = FakeChat(pieces=["I am", "", " well", " [1]."], finish="length")
    *deltas, said = Talker(model).stream(CHAT)
    assert deltas == [TextDelta("I am"), TextDelta(" well"), TextDelta(" [1].")]
    assert said == Said("I am well [1].", "length", {"input": 7, "output": 3})
    assert Talker(model).say(CHAT) == said
    assert [turn.content for turn in model.asked[0][0]] == ["Hi", "Hello", "And you?"]


def test_silence_is_said_too() -> None:
    assert list(Talker(FakeChat(pieces=[])).stream(CHAT)) == [
        Said("", "stop", {"input": 7, "output": 3})
    ]


def test_instructions_go_first() -> None:
    model = FakeChat(pieces=["Arr."])
    talker = Talker(model, max_tokens=20)
    options = AnswerOptions(" Be a pirate. \ud800", max_tokens=90, seed=3)
    list(talker.stream(CHAT, options))
    talker.say([Message("system", "Be kind."), *CHAT], options)
    talker.say([Message("user", "Hi\ud800")], AnswerOptions(" \n"))
    (first, given), (second, _), (third, _) = model.asked
    assert [(turn.type, turn.content) for turn in first[:2]] == [
        ("system", "Be a pirate. \ufffd"), ("human", "Hi"),
    ]  # fmt: skip
    assert second[0].content == "Be a pirate. \ufffd\n\nBe kind."
    assert given == {"max_tokens": 20, "seed": 3}
    assert third[0].content == "Hi\ufffd"


def test_faults_are_wrapped_and_the_consumers_are_not() -> None:
    @contextmanager
    def errors() -> Iterator[None]:
        try:
            yield
        except ConnectionError as error:
            raise ModelError("The line is dead.") from error

    model = FakeChat(pieces=["a", "b"], fails_after=1)
    stream: Any = Talker(model, errors=errors).stream(CHAT)
    assert next(stream) == TextDelta("a")
    with pytest.raises(ModelError, match="dead"):
        next(stream)
    assert model.open == 0
    stream = Talker(model, errors=errors).stream(CHAT)
    next(stream)
    with pytest.raises(ConnectionError, match="mine"):
        stream.throw(ConnectionError("mine"))
    assert model.open == 0


def test_stopping_early_closes_the_models_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []  # so that it is not the garbage collector that closes it

    def keep(self: FakeChat, *given: Any, **more: Any) -> Any:
        kept.append(super(FakeChat, self).stream(*given, **more))
        return kept[-1]

    monkeypatch.setattr(FakeChat, "stream", keep, raising=False)
    model = FakeChat(pieces=["a"] * 9)
    stream: Any = Talker(model).stream(CHAT)
    next(stream)
    stream.close()
    assert (model.open, model.said) == (0, 1)


def test_chatglm3_talks(tmp_path: Path) -> None:
    loaded, _ = scripted(tmp_path, "\nI am well.")
    model = ChatGLM3.of(loaded)
    *deltas, said = Talker(model).stream(CHAT)
    assert isinstance(said, Said)
    assert "".join(delta.text for delta in deltas) == said.text == "I am well."
    assert said.finish == "stop"
    assert Talker(model).say(CHAT) == said
    assert Talker(model).say(CHAT, AnswerOptions(max_tokens=3)).finish == "length"
    model.close()


def test_the_settings_name_who_talks(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"extractive.*Set generator"):
        _ = build_rag(Settings(home=tmp_path)).talker
    folder = write_chatty(tmp_path / "model")
    rag = build_rag(
        Settings(
            home=tmp_path,
            generator="chatglm3",
            generator_model=str(folder),
            generator_max_tokens=9,
            generator_device="cpu",
        )
    )
    said = rag.talker.say(CHAT, AnswerOptions(max_tokens=500))
    assert (said.finish, said.tokens["output"]) == ("length", 9)
    assert rag.talker._model is rag.answerer._talker._model  # type: ignore[attr-defined]
    rag.talker._model.close()
