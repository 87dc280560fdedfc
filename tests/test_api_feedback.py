"""Feedback: given, listed, exported as lines that ChatGLM3's fine-tuning reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from filled import Filled, fill
from glm_tokenizers import write_model
from openai import OpenAI
from served import Served, serving

from rag.glm.data import IGNORED, build_example
from rag.glm.tokenizer import load_tokenizer

D40 = "How much does the D40 weigh without its motor?"


@pytest.fixture(scope="module")
def rated(
    tmp_path_factory: pytest.TempPathFactory, converted_models: Path
) -> Iterator[tuple[Served, Filled]]:
    """A server of its own: an export holds all that users ever said."""
    home = tmp_path_factory.mktemp("rated")
    (home / "models").symlink_to(converted_models, target_is_directory=True)
    with serving(home) as running:
        yield running, fill(running.client(), "pumps")


def answer(client: OpenAI, question: str = D40, **more: Any) -> str:
    made: Any = client.responses.create(model="youju:pumps", input=question, **more)
    return str(made.id)


def rate(http: httpx.Client, response: str, **body: Any) -> httpx.Response:
    return http.post(f"/v1/responses/{response}/feedback", json=body)


def exported(http: httpx.Client) -> list[dict[str, Any]]:
    got = http.get("/v1/feedback/export")
    assert got.headers["content-type"].startswith("application/jsonl")
    return [json.loads(line) for line in got.text.splitlines()]


def test_feedback_is_given_listed_and_exported(
    rated: tuple[Served, Filled], tmp_path: Path
) -> None:
    served, _ = rated
    client = served.client()
    with served.http() as http:
        good, bad, wrong = (answer(client) for _ in range(3))
        first = rate(http, good, rating="up", comment="很好").json()
        assert first["object"] == "response.feedback"
        assert (first["response_id"], first["rating"], first["comment"]) == (good, "up", "很好")
        rate(http, bad, rating="down")
        rate(http, wrong, rating="down", correction="It weighs 185 kg [1].")
        listed = http.get("/v1/feedback", params={"order": "asc"}).json()
        assert [item["response_id"] for item in listed["data"]] == [good, bad, wrong]
        page = http.get("/v1/feedback", params={"rating": "down", "limit": 1}).json()
        assert [item["response_id"] for item in page["data"]] == [wrong]
        assert page["has_more"]
        rest = http.get("/v1/feedback", params={"rating": "down", "after": page["last_id"]}).json()
        assert [item["response_id"] for item in rest["data"]] == [bad]

        lines = exported(http)
        assert len(lines) == 2  # an answer rated down without a correction teaches nothing
        given = client.responses.retrieve(good).output_text
        assert [line["conversations"][-1]["content"] for line in lines] == [
            given, "It weighs 185 kg [1].",
        ]  # fmt: skip
        tokenizer = load_tokenizer(write_model(tmp_path))
        for line in lines:
            turns = line["conversations"]
            assert [turn["role"] for turn in turns][-2:] == ["user", "assistant"]
            assert any(D40 in turn["content"] for turn in turns)
            assert any("The D40 weighs 185 kg" in turn["content"] for turn in turns[:-1])
            example = build_example(tokenizer, turns)
            learnt = [label for label in example.labels if label != IGNORED]
            assert 0 < len(learnt) < len(example.labels)

        client.responses.delete(good)
        assert [line["conversations"][-1]["content"] for line in exported(http)] == [
            "It weighs 185 kg [1]."
        ]


def test_a_follow_up_is_exported_with_its_conversation(rated: tuple[Served, Filled]) -> None:
    served, _ = rated
    client = served.client()
    first = answer(client)
    second = answer(client, "And the D60?", previous_response_id=first)
    with served.http() as http:
        rate(http, second, rating="up")
        turns = exported(http)[-1]["conversations"]
    assert "And the D60?" in turns[-2]["content"]
    assert "240 kg" in turns[-1]["content"]
    assert any(D40 in turn["content"] for turn in turns[:-2])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"rating": "maybe"}, "rating"),
        ({}, "rating"),
        ({"rating": "up", "correction": ""}, "correction"),
        ({"rating": "up", "stars": 5}, "stars"),
    ],
)
def test_what_is_wrong_is_told(
    rated: tuple[Served, Filled], body: dict[str, Any], param: str
) -> None:
    served, _ = rated
    response = answer(served.client())
    with served.http() as http:
        got = rate(http, response, **body)
        assert (got.status_code, got.json()["error"]["param"]) == (400, param)
        gone = rate(http, "resp_nowhere", rating="up")
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "response_not_found")


def test_exported_marks_count_the_passages_of_the_prompt(rated: tuple[Served, Filled]) -> None:
    served, _ = rated
    with served.http() as http:
        made: Any = served.client().responses.create(model="youju:pumps", input=D40)
        cited = made.output[-1].content[0].annotations[0]
        rate(http, made.id, rating="up")
        rate(http, made.id, rating="down", correction="Marked [1], unknown [9].")
        lines = [line["conversations"] for line in exported(http)]
    (last,) = [turns for turns in lines if turns[-1]["content"].startswith("Marked ")]
    assert last[-1]["content"].endswith(", unknown.")
    number = int(last[-1]["content"].split("[")[1].split("]")[0])
    prompt = last[-2]["content"]
    passage = prompt.split(f'<passage id="{number}"')[1].split("</passage>")[0]
    assert cited.youju["quote"] in passage
    assert [turns[-1]["content"] for turns in lines].count(made.output_text) <= 1
