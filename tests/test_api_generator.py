"""A server with a generator: it writes answers that are cited, and talks without documents."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from chat_endpoint import Endpoint, listening
from filled import Filled, fill, parsed
from glm_serving import write_chatty
from openai import (
    APIError,
    APIStatusError,
    APITimeoutError,
    InternalServerError,
    OpenAI,
    RateLimitError,
)
from openai.types.chat import ChatCompletionMessageParam
from served import serving

from api.answering import _pieces
from rag.glm.engine import Engine

D40 = "How much does the D40 weigh without its motor?"
HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi, who are you?"}]
WRITTEN = "The D40 weighs 185 kg without its motor [1]. It was made on the moon [1]."


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with listening() as made:
        yield made


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, converted_models: Path, endpoint: Endpoint
) -> Iterator[tuple[OpenAI, Filled]]:
    """A client of a server whose generator is the endpoint, and a store of it."""
    home = tmp_path_factory.mktemp("written")
    (home / "models").symlink_to(converted_models, target_is_directory=True)
    with serving(
        home, generator="openai", generator_url=endpoint.url, generator_model="m",
        condense="rules",
    ) as running:  # fmt: skip
        client = running.client()
        yield client, fill(client, "pumps")


@pytest.fixture
def client(written: tuple[OpenAI, Filled], endpoint: Endpoint) -> OpenAI:
    endpoint.reply, endpoint.status, endpoint.finish = WRITTEN, 200, "stop"
    endpoint.breaks_off = False
    endpoint.requests.clear()
    return written[0]


def test_a_written_answer_is_checked_and_cited(
    client: OpenAI, written: tuple[OpenAI, Filled], endpoint: Endpoint
) -> None:
    store = written[1]
    response = client.responses.create(
        model="youju:pumps", input=D40, instructions="Answer as a pirate.", temperature=0.5
    )
    assert "The D40 weighs 185 kg without its motor" in response.output_text
    account: Any = response.to_dict()["youju"]
    assert account["ignored"] == []
    assert account["unsupported"] == ["It was made on the moon."]
    (cited,) = response.to_dict()["output"][1]["content"][0]["annotations"]  # type: ignore[index]
    text = parsed(client, store.id, cited["file_id"])
    evidence = cited["youju"]
    assert text[evidence["start"] : evidence["end"]] == evidence["quote"]
    assert "185 kg" in evidence["quote"]
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens) == (7, 3)
    (asked,) = endpoint.requests
    assert asked["temperature"] == 0.5
    assert "Answer as a pirate." in str(asked["messages"])


def test_written_answers_are_streamed(client: OpenAI) -> None:
    with client.responses.stream(model="youju:pumps", input=D40) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        whole = stream.get_final_response()
    assert len(deltas) > 1
    assert "".join(deltas) == whole.output_text
    chunks = list(
        client.chat.completions.create(
            model="youju:pumps", messages=[{"role": "user", "content": D40}], stream=True
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.output_text


def test_the_generators_own_name_talks_without_documents(
    client: OpenAI, endpoint: Endpoint
) -> None:
    endpoint.reply = "I am a tiny model."
    assert "m" in {model.id for model in client.models.list()}
    made = client.chat.completions.create(
        model="m",
        messages=[{"role": "system", "content": "Be kind."}, *HI],
        temperature=0,
        max_tokens=50,
    )
    assert made.choices[0].message.content == "I am a tiny model."
    assert made.choices[0].message.annotations == []
    assert made.usage is not None
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (7, 3)
    (asked,) = endpoint.requests
    assert [turn["role"] for turn in asked["messages"]] == ["system", "user"]
    assert asked["temperature"] == 0
    chunks = list(client.chat.completions.create(model="m", messages=HI, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == "I am a tiny model."
    response = client.responses.create(model="m", input="Hi")
    assert response.output_text == "I am a tiny model."
    assert [item.type for item in response.output] == ["message"]
    again = client.responses.create(model="m", input="And?", previous_response_id=response.id)
    assert again.output_text == "I am a tiny model."
    assert [turn["role"] for turn in endpoint.requests[-1]["messages"]] == [
        "user", "assistant", "user",
    ]  # fmt: skip
    with client.responses.stream(model="m", input="Hi") as stream:
        kinds = [event.type for event in stream]
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-1] == "response.completed"


def test_an_answer_of_the_generator_is_cut_off(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.reply, endpoint.finish = "I am", "length"
    made = client.chat.completions.create(model="m", messages=HI, max_tokens=2)
    assert made.choices[0].finish_reason == "length"
    sent = endpoint.requests[-1]
    assert sent.get("max_completion_tokens", sent.get("max_tokens")) == 2
    assert client.responses.create(model="m", input="Hi").status == "incomplete"


def test_a_generator_that_fails_before_the_answer(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.status = 404  # not tried again, as a 500 would be
    for stream in (False, True):
        with pytest.raises(InternalServerError) as caught:
            client.chat.completions.create(model="m", messages=HI, stream=stream)
        assert (caught.value.status_code, caught.value.code) == (502, "model_failed")
        assert "no such model" not in str(caught.value)
    with pytest.raises(InternalServerError):
        client.responses.create(model="youju:pumps", input=D40)


def test_a_generator_that_breaks_off_in_a_stream(client: OpenAI, endpoint: Endpoint) -> None:
    endpoint.breaks_off = True
    with pytest.raises(APIError, match="model failed"):
        list(client.chat.completions.create(model="m", messages=HI, stream=True))
    events = list(client.responses.create(model="youju:pumps", input=D40, stream=True))
    end = events[-1]
    assert end.type == "response.failed"
    assert end.response.error is not None
    assert end.response.error.code == "server_error"
    with pytest.raises(APIStatusError):
        client.responses.retrieve(end.response.id)


# -- ChatGLM3 in the server's process ----------------------------------------------------------


@pytest.fixture
def slow_glm(
    served_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OpenAI]:
    """A tiny ChatGLM3 with one place, whose answers take seconds."""
    plain = Engine._decode

    def slowly(engine: Engine) -> None:
        time.sleep(0.01)
        plain(engine)

    monkeypatch.setattr(Engine, "_decode", slowly)
    with serving(
        served_home, generator="chatglm3", generator_model=str(write_chatty(tmp_path / "tiny")),
        generator_device="cpu", generator_batch=1, generator_queue=0, generator_max_tokens=900,
    ) as running:  # fmt: skip
        yield running.client()


def test_going_away_frees_the_models_place(slow_glm: OpenAI) -> None:
    name = next(model.id for model in slow_glm.models.list() if model.id == "tiny")

    refusals: list[tuple[str | None, str]] = []

    def free() -> bool:
        try:
            made = slow_glm.chat.completions.create(model=name, messages=HI, max_tokens=1)
        except RateLimitError as error:
            refusals.append((error.code, error.response.headers["retry-after"]))
            return False
        assert made.choices[0].finish_reason == "length"
        return True

    def freed(since: float) -> bool:
        while time.monotonic() < since + 4:
            if free():
                return True
            time.sleep(0.05)
        return False

    for start in (
        lambda: slow_glm.chat.completions.create(model=name, messages=HI, stream=True),
        lambda: slow_glm.responses.create(model=name, input="Hi", stream=True),
    ):
        stream: Any = start()
        for _, _ in zip(range(6), stream, strict=False):
            pass
        assert not free()
        stream.close()
        assert freed(time.monotonic())
    with pytest.raises(APITimeoutError):
        slow_glm.with_options(timeout=0.5).responses.create(model=name, input="Hi")
    assert freed(time.monotonic())
    assert set(refusals) == {("queue_full", "1")}


async def test_a_cancelled_answer_is_closed_when_its_step_ends() -> None:
    running, ended = threading.Event(), threading.Event()

    def steps() -> Iterator[int]:
        try:
            yield 1
            running.set()
            time.sleep(0.2)
            yield 2
        finally:
            ended.set()

    async def read() -> None:
        service: Any = SimpleNamespace(run_long=anyio.to_thread.run_sync)
        async for _ in _pieces(service, steps):
            pass

    task = asyncio.create_task(read())
    assert await asyncio.to_thread(running.wait, 5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
