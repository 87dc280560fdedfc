"""Answers through the official client: citations that hold, conversations, streams."""

from __future__ import annotations

import re
from typing import Any

import pytest
from filled import PUMPS, Filled, fill, parsed
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.types.responses import (
    EasyInputMessageParam,
    FileSearchToolParam,
    Response,
    ResponseCompletedEvent,
    ResponseContentPartAddedEvent,
    ResponseContentPartDoneEvent,
    ResponseCreatedEvent,
    ResponseFileSearchCallCompletedEvent,
    ResponseFileSearchCallInProgressEvent,
    ResponseFileSearchCallSearchingEvent,
    ResponseFileSearchToolCall,
    ResponseInProgressEvent,
    ResponseOutputItemAddedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputMessage,
    ResponseOutputText,
    ResponseOutputTextAnnotationAddedEvent,
    ResponseTextDeltaEvent,
    ResponseTextDoneEvent,
)
from served import Served

D40 = "How much does the D40 weigh without its motor?"
NOWHERE = "Who painted the ceiling of the Sistine Chapel?"


@pytest.fixture
def client(served: Served) -> OpenAI:
    return served.client()


@pytest.fixture(scope="module")
def pumps(served: Served) -> Filled:
    return fill(served.client(), "answer-pumps")


@pytest.fixture(scope="module")
def leave(served: Served) -> Filled:
    text = "# Leave\n\nEvery employee has 30 days of annual leave. Part-time staff have 20 days.\n"
    return fill(served.client(), "answer-leave", {"leave.md": (text, {"year": 2025})})


def tool(*stores: Filled, **more: Any) -> FileSearchToolParam:
    found: Any = {
        "type": "file_search", "vector_store_ids": [store.id for store in stores], **more
    }  # fmt: skip
    made: FileSearchToolParam = found
    return made


def said(response: Response) -> ResponseOutputText:
    message = response.output[-1]
    assert isinstance(message, ResponseOutputMessage)
    (part,) = message.content
    assert isinstance(part, ResponseOutputText)
    return part


def account(response: Response) -> dict[str, Any]:
    found: Any = response.to_dict()["youju"]
    assert isinstance(found, dict)
    return found


def check_citations(client: OpenAI, response: Response, *stores: Filled) -> None:
    """Every mark has its citation, and every citation is what its file says there."""
    part = said(response)
    marks = [int(number) for number in re.findall(r"\[(\d+)\]", part.text)]
    assert set(marks) == set(range(1, len(part.annotations) + 1))
    for number, cited in enumerate(part.annotations, 1):
        assert cited.type == "file_citation"
        assert part.text[cited.index :].startswith(f"[{number}]")
        evidence: Any = cited.to_dict()["youju"]
        (store,) = [store for store in stores if cited.file_id in store.ids.values()]
        assert store.ids[cited.filename] == cited.file_id
        text = parsed(client, store.id, cited.file_id)
        assert text[evidence["start"] : evidence["end"]] == evidence["quote"] != ""
        assert 0 <= evidence["score"] <= 1
        assert evidence["vector_store_id"] == store.id


def test_a_question_is_answered_with_citations(client: OpenAI, pumps: Filled) -> None:
    response = client.responses.create(model="youju", input=D40, tools=[tool(pumps)])
    assert "185 kg" in response.output_text
    assert (response.status, response.model, response.error) == ("completed", "youju", None)
    assert response.metadata == {"refused": "false"}
    call, message = response.output
    assert isinstance(call, ResponseFileSearchToolCall)
    assert (call.status, call.queries, call.results) == ("completed", [D40], None)
    assert message.type == "message"
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.usage.output_tokens > 0
    check_citations(client, response, pumps)
    assert account(response)["refused"] is False
    assert account(response)["ignored"] == []


@pytest.mark.parametrize("question", ["陪产假可以休多少天？", "When is the gear oil changed?"])
def test_the_name_of_a_store_is_a_model(client: OpenAI, pumps: Filled, question: str) -> None:
    response = client.responses.create(model=f"youju:{pumps.name}", input=question)
    assert re.search("15 天|[23]000 hours", response.output_text)
    check_citations(client, response, pumps)


def test_what_the_extractive_answerer_cannot_follow_is_told(client: OpenAI, pumps: Filled) -> None:
    response = client.responses.create(
        model="youju", input=D40, tools=[tool(pumps)], instructions="Answer as a pirate.",
        temperature=0.2, top_p=0.5, metadata={"trace": "7"}, truncation="auto", user="u1",
    )  # fmt: skip
    assert account(response)["ignored"] == ["instructions", "temperature", "top_p"]
    assert (response.instructions, response.temperature) == ("Answer as a pirate.", 0.2)
    assert response.metadata == {"trace": "7", "refused": "false"}


def test_a_question_without_evidence_is_refused(client: OpenAI, pumps: Filled) -> None:
    response = client.responses.create(model="youju", input=NOWHERE, tools=[tool(pumps)])
    assert (response.status, response.metadata) == ("completed", {"refused": "true"})
    assert said(response).annotations == []
    assert account(response)["refused"] is True


def test_results_come_if_they_are_asked_for(client: OpenAI, pumps: Filled) -> None:
    response = client.responses.create(
        model="youju",
        input=D40,
        tools=[tool(pumps, max_num_results=2)],
        include=["file_search_call.results"],
    )
    call = response.output[0]
    assert isinstance(call, ResponseFileSearchToolCall)
    assert call.results is not None
    assert len(call.results) == 2
    best = call.results[0]
    assert (best.file_id, best.filename) == (pumps.ids["d40.md"], "d40.md")
    assert best.attributes == PUMPS["d40.md"][1]
    assert best.text is not None
    assert "185 kg" in best.text


def test_the_tool_filters(client: OpenAI, pumps: Filled) -> None:
    only = {"type": "eq", "key": "product", "value": "D60"}
    response = client.responses.create(
        model="youju",
        input="How much does the pump weigh without its motor?",
        tools=[tool(pumps, filters=only)],
        include=["file_search_call.results"],
    )
    assert "240 kg" in response.output_text
    call = response.output[0]
    assert isinstance(call, ResponseFileSearchToolCall)
    assert {hit.filename for hit in call.results or []} == {"d60.md"}
    with pytest.raises(BadRequestError) as caught:
        client.responses.create(
            model="youju", input=D40, tools=[tool(pumps, filters={"type": "is"})]
        )
    assert caught.value.code == "invalid_filter"


def test_two_stores_are_searched_at_once(client: OpenAI, pumps: Filled, leave: Filled) -> None:
    both = [tool(pumps, leave)]
    for question, answer in ((D40, "185 kg"), ("How many days of annual leave?", "30 days")):
        response = client.responses.create(model="youju", input=question, tools=both)
        assert answer in response.output_text
        check_citations(client, response, pumps, leave)


def test_a_follow_up_is_understood_from_what_came_before(client: OpenAI, pumps: Filled) -> None:
    first = client.responses.create(model="youju", input=D40, tools=[tool(pumps)])
    second = client.responses.create(
        model="youju",
        input="And the D60?",
        previous_response_id=first.id,
        tools=[tool(pumps)],
    )
    assert second.previous_response_id == first.id
    assert "240 kg" in second.output_text
    assert "weigh" in account(second)["standalone"]
    call = second.output[0]
    assert isinstance(call, ResponseFileSearchToolCall)
    assert call.queries == [account(second)["standalone"]]
    check_citations(client, second, pumps)
    with pytest.raises(NotFoundError) as caught:
        client.responses.create(
            model="youju", input="And?", previous_response_id="resp_no", tools=[tool(pumps)]
        )
    assert caught.value.code == "previous_response_not_found"


def test_a_conversation_can_be_given_whole(client: OpenAI, pumps: Filled) -> None:
    """The client's own output objects are sent back, as OpenAI's guide does it."""
    asked: list[Any] = [EasyInputMessageParam(role="user", content=D40)]
    first = client.responses.create(
        model="youju", input=asked, tools=[tool(pumps)], include=["file_search_call.results"]
    )
    asked += first.output
    asked.append({"role": "user", "content": [{"type": "input_text", "text": "And the D60?"}]})
    second = client.responses.create(model="youju", input=asked, tools=[tool(pumps)], store=False)
    assert "240 kg" in second.output_text
    with pytest.raises(BadRequestError, match="last message must be the user's"):
        client.responses.create(model="youju", input=asked[:3], tools=[tool(pumps)])


def test_instructions_can_be_messages(client: OpenAI, pumps: Filled) -> None:
    response = client.responses.create(
        model="youju",
        input=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": D40},
        ],
        tools=[tool(pumps)],
    )
    assert account(response)["ignored"] == ["instructions"]
    assert "185 kg" in response.output_text


def test_answers_are_kept_unless_that_is_not_wanted(client: OpenAI, pumps: Filled) -> None:
    kept = client.responses.create(model="youju", input=D40, tools=[tool(pumps)])
    assert client.responses.retrieve(kept.id) == kept
    client.responses.delete(kept.id)
    passing = client.responses.create(model="youju", input=D40, tools=[tool(pumps)], store=False)
    for gone in (kept.id, passing.id):
        with pytest.raises(NotFoundError):
            client.responses.retrieve(gone)
        with pytest.raises(NotFoundError):
            client.responses.delete(gone)


def test_a_long_answer_is_cut_off(client: OpenAI, pumps: Filled) -> None:
    response = client.responses.create(
        model="youju", input=D40, tools=[tool(pumps)], max_output_tokens=3
    )
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    message = response.output[-1]
    assert isinstance(message, ResponseOutputMessage)
    assert message.status == "incomplete"
    assert response.max_output_tokens == 3


# -- streams -----------------------------------------------------------------------------------

BEFORE = [
    ResponseCreatedEvent,
    ResponseInProgressEvent,
    ResponseOutputItemAddedEvent,
    ResponseFileSearchCallInProgressEvent,
    ResponseFileSearchCallSearchingEvent,
    ResponseFileSearchCallCompletedEvent,
    ResponseOutputItemDoneEvent,
    ResponseOutputItemAddedEvent,
    ResponseContentPartAddedEvent,
]
AFTER = [
    ResponseTextDoneEvent,
    ResponseContentPartDoneEvent,
    ResponseOutputItemDoneEvent,
    ResponseCompletedEvent,
]


def test_a_stream_has_the_standard_events_in_order(client: OpenAI, pumps: Filled) -> None:
    events = list(
        client.responses.create(model="youju", input=D40, tools=[tool(pumps)], stream=True)
    )
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [type(event) for event in events]
    deltas = [event for event in events if isinstance(event, ResponseTextDeltaEvent)]
    cited = [event for event in events if isinstance(event, ResponseOutputTextAnnotationAddedEvent)]
    assert deltas
    assert cited
    assert kinds == [
        *BEFORE,
        *[ResponseTextDeltaEvent] * len(deltas),
        *[ResponseOutputTextAnnotationAddedEvent] * len(cited),
        *AFTER,
    ]
    end = events[-1]
    assert isinstance(end, ResponseCompletedEvent)
    whole = end.response
    assert "".join(event.delta for event in deltas) == whole.output_text
    assert "185 kg" in whole.output_text
    done = events[-4]
    assert isinstance(done, ResponseTextDoneEvent)
    assert done.text == whole.output_text
    annotations = [annotation.to_dict() for annotation in said(whole).annotations]
    streamed: list[Any] = [event.annotation for event in cited]
    assert [annotation.to_dict() for annotation in streamed] == annotations
    assert [event.annotation_index for event in cited] == list(range(len(cited)))
    added = [event for event in events if isinstance(event, ResponseOutputItemAddedEvent)]
    assert [event.output_index for event in added] == [0, 1]
    assert [event.item.id for event in added] == [item.id for item in whole.output]
    assert {event.item_id for event in deltas} == {whole.output[1].id}
    check_citations(client, whole, pumps)
    assert client.responses.retrieve(whole.id) == whole


@pytest.mark.parametrize("question", [D40, "陪产假可以休多少天？", NOWHERE])
def test_the_clients_stream_gathers_the_same_answer(
    client: OpenAI, pumps: Filled, question: str
) -> None:
    whole = client.responses.create(model="youju", input=question, tools=[tool(pumps)])
    with client.responses.stream(model="youju", input=question, tools=[tool(pumps)]) as stream:
        text = "".join(
            event.delta for event in stream if event.type == "response.output_text.delta"
        )
        gathered = stream.get_final_response()
    assert text == gathered.output_text == whole.output_text
    assert [part.to_dict() for part in said(gathered).annotations] == [
        part.to_dict() for part in said(whole).annotations
    ]


def test_a_stream_that_is_cut_off_ends_as_incomplete(client: OpenAI, pumps: Filled) -> None:
    events = list(
        client.responses.create(
            model="youju", input=D40, tools=[tool(pumps)], stream=True, max_output_tokens=3
        )
    )
    assert events[-1].type == "response.incomplete"
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == events[-1].response.output_text


async def test_the_asynchronous_client_streams_too(served: Served, pumps: Filled) -> None:
    async with AsyncOpenAI(
        base_url=f"{served.url}/v1", api_key="none", _strict_response_validation=True
    ) as client:
        stream = await client.responses.create(
            model="youju", input=D40, tools=[tool(pumps)], stream=True
        )
        kinds = [event.type async for event in stream]
    assert kinds[-1] == "response.completed"


def test_a_wrong_request_is_refused_before_the_stream(client: OpenAI, pumps: Filled) -> None:
    with pytest.raises(BadRequestError) as caught:
        client.responses.create(model="youju", input="  ", tools=[tool(pumps)], stream=True)
    assert caught.value.code == "invalid_query"


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"model": "gpt-4o"}, 404, "model_not_found"),
        ({"model": "youju:nowhere"}, 404, "vector_store_not_found"),
        ({"tools": [{"type": "web_search"}]}, 400, "invalid_parameter"),
        ({"tools": [{"type": "file_search", "vector_store_ids": ["vs_no"]}]}, 404, None),
        ({"tool_choice": "none"}, 400, "no_generator"),
        ({"background": True}, 400, "invalid_parameter"),
        ({"text": {"format": {"type": "json_object"}}}, 400, "invalid_parameter"),
        ({"extra_body": {"nonsense": 1}}, 400, "unknown_parameter"),
    ],
)
def test_what_is_not_possible_is_refused(
    client: OpenAI, pumps: Filled, options: dict[str, Any], status: int, code: str | None
) -> None:
    from openai import APIStatusError

    asked = {"model": f"youju:{pumps.name}", "input": D40} | options
    with pytest.raises(APIStatusError) as caught:
        client.responses.create(**asked)
    assert caught.value.status_code == status
    assert caught.value.code == (code or "vector_store_not_found")
