"""Chat completions through the official client and LangChain."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag

import pytest
from filled import Filled, fill
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import APIStatusError, OpenAI
from openai.types.chat import ChatCompletionMessageParam
from pydantic import SecretStr
from served import Served, serving

D40 = "How much does the D40 weigh without its motor?"
NOWHERE = "Who painted the ceiling of the Sistine Chapel?"


@pytest.fixture
def client(served: Served) -> OpenAI:
    return served.client()


@pytest.fixture(scope="module")
def pumps(served: Served) -> Filled:
    return fill(served.client(), "chat-pumps")


def ask(question: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": question}]


def test_a_question_is_answered_with_citations(
    served: Served, client: OpenAI, pumps: Filled
) -> None:
    made = client.chat.completions.create(model="youju:chat-pumps", messages=ask(D40))
    (choice,) = made.choices
    text = choice.message.content or ""
    assert "185 kg" in text
    assert (choice.finish_reason, made.model) == ("stop", "youju:chat-pumps")
    assert made.usage is not None
    assert made.usage.total_tokens == made.usage.prompt_tokens + made.usage.completion_tokens > 0
    annotations = choice.message.annotations or []
    assert annotations
    for number, annotation in enumerate(annotations, 1):
        cited = annotation.url_citation
        assert text[cited.start_index : cited.end_index] == f"[{number}]"
        assert cited.title == "d40.md"
        evidence: Any = annotation.to_dict()["file_citation"]
        assert evidence["youju"]["vector_store_id"] == pumps.id
        address, place = urldefrag(cited.url)
        assert address.startswith(served.url)
        with served.http() as http:
            parsed = http.get(address).json()["data"][0]["text"]
        span = re.fullmatch(r"char=(\d+),(\d+)", place)
        assert span is not None
        assert parsed[int(span[1]) : int(span[2])] == evidence["youju"]["quote"]
    assert made.to_dict()["youju"]["refused"] is False  # type: ignore[index]


def test_a_stream_says_the_same(client: OpenAI, pumps: Filled) -> None:
    whole = client.chat.completions.create(model="youju:chat-pumps", messages=ask(D40))
    chunks = list(
        client.chat.completions.create(
            model="youju:chat-pumps",
            messages=ask(D40),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    ends = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert ends[-1] == "stop"
    assert set(ends[:-1]) == {None}
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    last = chunks[-2].to_dict()
    assert last["youju"]["refused"] is False  # type: ignore[index]
    cited = chunks[-2].choices[0].delta.to_dict()["annotations"]
    assert cited == [found.to_dict() for found in whole.choices[0].message.annotations or []]


def test_the_clients_stream_gathers_the_answer(client: OpenAI, pumps: Filled) -> None:
    with client.chat.completions.stream(model="youju:chat-pumps", messages=ask(D40)) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        gathered = stream.get_final_completion()
    assert "185 kg" in text
    assert gathered.choices[0].message.content == text


def test_a_store_is_named_by_name_or_id(client: OpenAI, pumps: Filled) -> None:
    for model in ("youju:chat-pumps", f"youju:{pumps.id}"):
        made = client.chat.completions.create(model=model, messages=ask(D40))
        assert "185 kg" in (made.choices[0].message.content or "")
        assert made.model == model
    assert "youju:chat-pumps" in {model.id for model in client.models.list()}
    assert client.models.retrieve("youju:chat-pumps").owned_by == "youju"


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("youju:nowhere", 404, "vector_store_not_found"),
        ("youju:vs_nowhere", 404, "vector_store_not_found"),
        ("gpt-4o", 404, "model_not_found"),
        ("youju:chat-twins", 400, "ambiguous_store"),
    ],
)
def test_a_model_must_name_one_store(client: OpenAI, model: str, status: int, code: str) -> None:
    if model == "youju:chat-twins":
        for _ in range(2):
            client.vector_stores.create(name="chat-twins")
    with pytest.raises(APIStatusError) as caught:
        client.chat.completions.create(model=model, messages=ask(D40))
    assert (caught.value.status_code, caught.value.code) == (status, code)


def test_the_default_store_is_the_plain_model(served_home: Path) -> None:
    with serving(served_home) as running:
        client = running.client()
        with pytest.raises(APIStatusError, match="no store named 'default'"):
            client.chat.completions.create(model="youju", messages=ask(D40))
        fill(client, "default")
        made = client.chat.completions.create(model="youju", messages=ask(D40))
        assert "185 kg" in (made.choices[0].message.content or "")


def test_a_chat_goes_on(client: OpenAI, pumps: Filled) -> None:
    messages: list[Any] = [{"role": "system", "content": "Be brief."}, *ask(D40)]
    first = client.chat.completions.create(model="youju:chat-pumps", messages=messages)
    messages += [first.choices[0].message, *ask("And the D60?")]
    second = client.chat.completions.create(model="youju:chat-pumps", messages=messages)
    assert "240 kg" in (second.choices[0].message.content or "")
    account: Any = second.to_dict()["youju"]
    assert "weigh" in account["standalone"]
    assert account["ignored"] == ["system messages"]


def test_a_question_without_evidence_is_refused(client: OpenAI, pumps: Filled) -> None:
    made = client.chat.completions.create(model="youju:chat-pumps", messages=ask(NOWHERE))
    assert made.choices[0].message.annotations == []
    assert made.to_dict()["youju"]["refused"] is True  # type: ignore[index]


def test_what_has_no_effect_is_told(client: OpenAI, pumps: Filled) -> None:
    made = client.chat.completions.create(
        model="youju:chat-pumps", messages=ask(D40), temperature=0.5, seed=7, top_p=0.9,
        presence_penalty=0.5, n=1, user="u", max_completion_tokens=3,
    )  # fmt: skip
    assert made.choices[0].finish_reason == "length"
    account: Any = made.to_dict()["youju"]
    assert account["ignored"] == ["presence_penalty", "temperature", "top_p", "seed"]


@pytest.mark.parametrize(
    "options",
    [
        {"n": 2},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"response_format": {"type": "json_object"}},
        {"logprobs": True},
        {"stop": ["x"]},
        {"messages": [{"role": "assistant", "content": "Hi"}]},
        {"messages": []},
    ],
)
def test_what_is_not_possible_is_refused(
    client: OpenAI, pumps: Filled, options: dict[str, Any]
) -> None:
    asked = {"model": "youju:chat-pumps", "messages": ask(D40)} | options
    with pytest.raises(APIStatusError) as caught:
        client.chat.completions.create(**asked)
    assert caught.value.status_code == 400
    assert (caught.value.param or "").split(".")[0] == next(iter(options))


# -- LangChain ---------------------------------------------------------------------------------


def langchain(served: Served, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="youju:chat-pumps",
        base_url=f"{served.url}/v1",
        api_key=SecretStr("none"),
        max_retries=0,
        **options,
    )


def test_langchain_invokes(served: Served, pumps: Filled) -> None:
    reply = langchain(served).invoke(D40)
    assert "185 kg" in str(reply.text)
    assert reply.response_metadata["finish_reason"] == "stop"
    assert reply.usage_metadata is not None
    assert reply.usage_metadata["total_tokens"] > 0


def test_langchain_streams(served: Served, pumps: Filled) -> None:
    chunks = list(langchain(served, stream_usage=True).stream(D40))
    assert "".join(str(chunk.text) for chunk in chunks) == langchain(served).invoke(D40).text
    assert any(chunk.usage_metadata for chunk in chunks)


def test_langchain_chats(served: Served, pumps: Filled) -> None:
    model = langchain(served)
    turns = [SystemMessage("Be brief."), HumanMessage(D40)]
    first = model.invoke(turns)
    assert isinstance(first, AIMessage)
    assert "240 kg" in str(model.invoke([*turns, first, HumanMessage("And the D60?")]).text)


def test_langchain_uses_the_responses_too(served: Served, pumps: Filled) -> None:
    model = langchain(served, use_responses_api=True)
    assert "185 kg" in str(model.invoke(D40).text)
    assert "185 kg" in "".join(str(chunk.text) for chunk in model.stream(D40))


def test_langchain_embeds(served: Served) -> None:
    model = OpenAIEmbeddings(
        model="all-MiniLM-L6-v2",
        openai_api_base=f"{served.url}/v1",
        openai_api_key=SecretStr("none"),
        check_embedding_ctx_length=False,
        max_retries=0,
    )
    texts = ["A pump is serviced.", "An invoice is paid."]
    vectors = model.embed_documents(texts)
    assert [len(vector) for vector in vectors] == [384, 384]
    assert model.embed_query(texts[0]) == pytest.approx(vectors[0], abs=1e-2)
