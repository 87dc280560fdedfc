"""/openapi.json tells the truth: schemathesis finds no answer outside it, and it is complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from conformance import Outcome, Target, conform
from jsonschema_rs import Draft202012Validator
from openai import OpenAI
from schemathesis.specs.openapi.definitions import OPENAPI_31_VALIDATOR
from served import serving

from api.examples import BATCH_ID, FILE_ID, PART_ID, RESPONSE_ID, STORE_ID, UPLOAD_ID
from rag.build import build_rag
from rag.config import Settings
from rag.store.projects import Keys

TEXT = "# Pump\n\nThe D40 weighs 185 kg and needs 230 V. D40 水泵重 185 公斤。\n".encode()
CHECKS = {
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "use_after_free",
    "ensure_resource_availability",
    "ignored_auth",
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, converted_models: Path) -> Iterator[Target]:
    """A server that wants a key, and holds one object of every kind."""
    home = tmp_path_factory.mktemp("closed")
    (home / "models").symlink_to(converted_models, target_is_directory=True)
    rag = build_rag(Settings(home=home))
    _, key = Keys(rag.db).create("conformance", scope="admin")
    rag.db.close()
    with serving(home) as server:
        made = Target(server.url, key, {})
        yield replace(made, ids=_objects(made.client()))


def _objects(client: OpenAI) -> dict[str, str]:
    """Make the objects that the examples name; return their ids by the examples' ids."""
    file = client.files.create(file=("pump.md", TEXT), purpose="assistants")
    store = client.vector_stores.create(name="handbook")
    batch = client.vector_stores.file_batches.create_and_poll(
        store.id, file_ids=[file.id], poll_interval_ms=50
    )
    assert batch.file_counts.completed == 1
    answer = client.responses.create(model="youju:handbook", input="How much does the D40 weigh?")
    upload = client.uploads.create(
        bytes=len(TEXT), filename="pump.md", mime_type="text/markdown", purpose="assistants"
    )
    part = client.uploads.parts.create(upload.id, data=TEXT)
    return {
        FILE_ID: file.id,
        STORE_ID: store.id,
        BATCH_ID: batch.id,
        RESPONSE_ID: answer.id,
        UPLOAD_ID: upload.id,
        PART_ID: part.id,
    }


@pytest.fixture(scope="module")
def described(target: Target) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{target.url}/openapi.json").json()
    return found


def test_a_few_requests_to_every_route_are_answered_as_the_schema_says(target: Target) -> None:
    outcome = conform(target, phases=["examples", "fuzzing"], examples=2)
    _nothing_wrong(outcome)
    print(f"{outcome.cases:,} cases {dict(outcome.phases)} {dict(outcome.statuses)}")  # noqa: T201
    assert outcome.cases >= 100, outcome.phases


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_thousands_of_requests_are_answered_as_the_schema_says(target: Target) -> None:
    phases = ["examples", "coverage", "fuzzing", "stateful"]
    outcome = conform(target, phases=phases, examples=30)
    print(f"\n{outcome.cases:,} cases {dict(outcome.phases)} {dict(outcome.statuses)}")  # noqa: T201
    print(f"let pass {dict(outcome.let_pass)}")  # noqa: T201
    _nothing_wrong(outcome)
    assert outcome.cases >= 2000, outcome.phases
    assert set(outcome.phases) == set(phases)
    assert outcome.checks >= CHECKS
    # each of the first two ends what another request has ended before, and the third puts in what
    # another has put in with other chunks; the next test sees it answered
    assert outcome.unanswered <= {
        "POST /v1/uploads/{upload_id}/complete",
        "DELETE /v1/vector_stores/{store_id}/files/{file_id}",
        "POST /v1/vector_stores/{store_id}/files",
    }


@pytest.mark.slow
def test_objects_that_stay_are_shown_as_the_schema_says(target: Target) -> None:
    made = replace(target, ids=_objects(target.client()))
    outcome = conform(made, phases=["examples", "fuzzing"], examples=30, alive=True)
    print(f"\n{outcome.cases:,} cases {dict(outcome.statuses)}")  # noqa: T201
    _nothing_wrong(outcome)
    assert not outcome.unanswered


def test_a_wrong_answer_is_found(described: dict[str, Any], target: Target) -> None:
    told = deepcopy(described)
    kept = ("/v1/files/{file_id}", "/v1/models/{model_id}")
    told["paths"] = {path: told["paths"][path] for path in kept}
    del told["paths"]["/v1/files/{file_id}"]["get"]["responses"]["404"]
    told["components"]["schemas"]["ModelShown"]["properties"]["created"]["minimum"] = 1
    for operation in _operations(told):
        operation["responses"]["200"].pop("links", None)
    outcome = conform(replace(target, ids={}), phases=["fuzzing"], examples=3, told=told)
    found = {failure.split(": ")[0] for failure in outcome.failures}
    assert found >= {"status_code_conformance", "response_schema_conformance"}


def test_the_schema_is_openapi_3_1(described: dict[str, Any]) -> None:
    assert described["openapi"].startswith("3.1.")
    assert [str(error) for error in OPENAPI_31_VALIDATOR.iter_errors(described)] == []


def test_every_schema_is_a_json_schema_and_finds_the_others(described: dict[str, Any]) -> None:
    for schema in described["components"]["schemas"].values():
        Draft202012Validator({**schema, "components": described["components"]})


def test_every_operation_is_described(described: dict[str, Any]) -> None:
    every = list(_operations(described))
    ids = [operation["operationId"] for operation in every]
    assert len(set(ids)) == len(ids)
    for operation in every:
        for name in ("summary", "description", "tags"):
            assert operation[name], (operation["operationId"], name)
        for status, answer in operation["responses"].items():
            assert answer["description"], (operation["operationId"], status)
            assert "X-Request-Id" in answer["headers"]
            if status >= "4":
                assert list(answer["content"]) == ["application/json"]


def test_nothing_is_said_of_422(described: dict[str, Any]) -> None:
    assert "422" not in {
        status for operation in _operations(described) for status in operation["responses"]
    }
    assert "HTTPValidationError" not in json.dumps(described)


def test_every_body_has_an_example(described: dict[str, Any]) -> None:
    for operation in _operations(described):
        bodies = [operation["responses"]["200"]["content"]]
        if "requestBody" in operation:
            bodies.append(operation["requestBody"]["content"])
        for content in bodies:
            for media_type, body in content.items():
                place = (operation["operationId"], media_type)
                assert list(_examples(described, body)), place


def test_every_example_is_valid(described: dict[str, Any]) -> None:
    count = 0
    for schema, example in _all_examples(described):
        valid = Draft202012Validator({**schema, "components": described["components"]})
        assert [error.message for error in valid.iter_errors(example)] == [], example
        count += 1
    assert count > 60


def test_examples_are_english_and_chinese(described: dict[str, Any]) -> None:
    text = json.dumps([example for _, example in _all_examples(described)], ensure_ascii=False)
    assert "陪产假" in text
    assert "How much" in text


def test_a_link_leads_to_an_operation(described: dict[str, Any]) -> None:
    every = {operation["operationId"]: operation for operation in _operations(described)}
    links = 0
    for operation in every.values():
        for link in operation["responses"]["200"].get("links", {}).values():
            named = {parameter["name"] for parameter in every[link["operationId"]]["parameters"]}
            assert set(link["parameters"]) <= named
            links += 1
    assert links > 20


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "youju", "input": 1}, "input"),
        ({"model": "youju", "input": [{"role": "user", "content": 1}]}, "input.0.content"),
        ({"model": "youju", "input": [{"role": "user"}]}, "input.0"),
        ({"model": "youju", "input": "a", "stream": 1}, "stream"),
        ({"model": "youju", "input": "a", "top_p": "1"}, "top_p"),
        ({"model": "youju", "input": "a", "metadata": {"a\0": "b"}}, "metadata.a\0"),
        ({"model": "youju"}, "input"),
    ],
)
def test_an_error_names_the_field_of_the_body(
    target: Target, body: dict[str, Any], param: str
) -> None:
    answer = httpx.post(f"{target.url}/v1/responses", json=body, headers=target.headers())
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert "function" not in answer.text


def test_a_refused_method_is_told_the_others(target: Target) -> None:
    answer = httpx.put(f"{target.url}/v1/vector_stores/vs_0")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "DELETE, GET, POST"


def test_a_path_with_a_nul_is_refused(target: Target) -> None:
    answer = httpx.get(f"{target.url}/v1/files/a%00b", headers=target.headers())
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_url"


def _operations(described: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for path in described["paths"].values():
        yield from path.values()


def _all_examples(described: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield schemas with an example of each."""
    for schema in described["components"]["schemas"].values():
        yield from ((schema, example) for example in schema.get("examples", []))
    for operation in _operations(described):
        for parameter in operation.get("parameters", []):
            if "example" in parameter:
                yield parameter["schema"], parameter["example"]
        bodies = [operation.get("requestBody", {}), *operation["responses"].values()]
        for body in bodies:
            for content in body.get("content", {}).values():
                for example in _examples(described, content):
                    yield content.get("schema", {}), example


def _examples(described: dict[str, Any], content: dict[str, Any]) -> Iterator[Any]:
    """Yield the examples of a body, its own and those of its schema."""
    if "example" in content:
        yield content["example"]
    schema = content.get("schema", {})
    if "$ref" in schema:
        schema = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    yield from schema.get("examples", [])


def _nothing_wrong(outcome: Outcome) -> None:
    assert not outcome.failures, "\n\n".join(outcome.failures[:5])
    assert not [status for status in outcome.statuses if status >= 500]
