"""Embeddings through the official client: the vectors that stores have."""

from __future__ import annotations

import math
from typing import Any

import pytest
from openai import APIResponseValidationError, APIStatusError, OpenAI
from served import Served

MODEL = "all-MiniLM-L6-v2"
TEXTS = ["The pump weighs 185 kg.", "年假为 12 天。", "The weight of the pump is 185 kg."]


@pytest.fixture
def client(served: Served) -> OpenAI:
    return served.client()


def dot(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


def test_texts_become_unit_vectors_in_their_order(client: OpenAI) -> None:
    made = client.embeddings.create(model=MODEL, input=TEXTS, encoding_format="float")
    assert (made.model, [item.index for item in made.data]) == (MODEL, [0, 1, 2])
    assert made.usage.prompt_tokens == made.usage.total_tokens > 10
    vectors = [item.embedding for item in made.data]
    assert all(len(vector) == 384 for vector in vectors)
    assert all(math.isclose(dot(vector, vector), 1, abs_tol=1e-5) for vector in vectors)
    assert dot(vectors[0], vectors[2]) > 0.9 > dot(vectors[0], vectors[1])


def test_one_text_is_a_batch_of_one(client: OpenAI) -> None:
    (item,) = client.embeddings.create(model=MODEL, input=TEXTS[0], encoding_format="float").data
    (again,) = client.embeddings.create(
        model=MODEL, input=[TEXTS[0]], encoding_format="float", dimensions=384, user="u"
    ).data
    assert item.embedding == again.embedding


def test_base64_says_the_same(served: Served) -> None:
    """It is what the client asks for by itself; then it decodes what it gets."""
    client = OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0)
    packed = client.embeddings.create(model=MODEL, input=TEXTS[:2])
    plain = client.embeddings.create(model=MODEL, input=TEXTS[:2], encoding_format="float")
    assert [item.embedding for item in packed.data] == [item.embedding for item in plain.data]


def test_the_strict_client_refuses_its_own_default(client: OpenAI) -> None:
    """Its type has only numbers, so with strict validation encoding_format must be given."""
    with pytest.raises(APIResponseValidationError):
        client.embeddings.create(model=MODEL, input=TEXTS)


def test_queries_can_be_told_from_passages(client: OpenAI) -> None:
    """With this model they are embedded alike."""
    found = [
        client.embeddings.create(
            model=MODEL, input=TEXTS[0], encoding_format="float", extra_body={"input_type": kind}
        ).data[0]
        for kind in ("query", "passage")
    ]
    assert found[0].embedding == pytest.approx(found[1].embedding, abs=1e-2)


@pytest.mark.parametrize(
    ("options", "status", "code", "param"),
    [
        ({"model": "text-embedding-3-small"}, 404, "model_not_found", "model"),
        ({"dimensions": 100}, 400, "invalid_parameter", "dimensions"),
        ({"input": ""}, 400, "invalid_parameter", "input"),
        ({"input": []}, 400, "invalid_parameter", "input"),
        ({"input": ["a", ""]}, 400, "invalid_parameter", "input"),
        ({"input": [1, 2]}, 400, "invalid_parameter", "input"),
    ],
)
def test_what_is_not_possible_is_refused(
    client: OpenAI, options: dict[str, Any], status: int, code: str, param: str
) -> None:
    asked = {"model": MODEL, "input": TEXTS, "encoding_format": "float"} | options
    with pytest.raises(APIStatusError) as caught:
        client.embeddings.create(**asked)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert (caught.value.param or "").split(".")[0] == param
