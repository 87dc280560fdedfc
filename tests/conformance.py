"""Runs schemathesis against a live server: all of its checks, over /openapi.json.

The checks are its own, and all are on. `KNOWN` lists the answers to schema-valid requests that no
schema can foresee; nothing else is let pass.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import schemathesis
from openai import OpenAI
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Ok
from schemathesis.engine import Status, events, from_schema
from schemathesis.openapi.checks import (
    EnsureResourceAvailability,
    MissingHeaderNotRejected,
    RejectedPositiveData,
)
from schemathesis.schemas import BaseSchema

from api.examples import PARAMETERS

KNOWN: dict[str, str] = {
    "invalid_cursor": "only the list itself tells which ids are in it",
    "unsupported_file_type": "a file's kind is in its name, which may have any letters",
    "invalid_filename": "of a name that is all folders and invisible characters nothing is left",
    "invalid_query": "an empty query is one without words, and its longest length is a setting",
    "no_generator": "whether there is a language model is a setting",
    "invalid_messages": "the last message must be the user's",
    "invalid_input": "the last message must be the user's",
    "invalid_filter": "how deep filters nest, and how many they are in all",
    "file_too_large": "the largest file is a setting",
    "body_too_large": "the largest body is a setting",
    "upload_mismatch": "which parts an upload has, and how many bytes they must be together",
    "malformed_form": "how long the short fields of a form may be",
}
"""Codes of answers to requests that are valid by the schema; why the schema cannot tell."""

KNOWN_PARAMS: dict[str, str] = {
    "chunking_strategy.static": "the overlap must be at most half of the chunk",
    "dimensions": "how many the embedding model has is a setting",
}
"""The same, by field, for the code that all wrong values have."""

_ENDING = ["cancel_upload", "complete_upload", "cancel_batch"]
_IN_BODY = ("file_id", "file_ids", "files")


@dataclass
class Outcome:
    """What a run found.

    Attributes:
        cases: Requests that were made.
        failures: What is wrong, each in full.
        let_pass: Answers that `KNOWN` excuses, by code.
        checks: Names of the checks that looked at an answer.
        statuses: Answers by status.
        phases: Requests by phase.
        unanswered: Operations that never answered 2xx.
    """

    cases: int = 0
    failures: list[str] = field(default_factory=list)
    let_pass: Counter[str] = field(default_factory=Counter)
    checks: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    unanswered: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Target:
    """A server to be tested.

    Attributes:
        url: Where it is.
        key: A key of it; without keys nothing could be said of authentication.
        ids: Ids of its objects by the ids in the schema's examples, in whose place they go.
    """

    url: str
    key: str
    ids: Mapping[str, str]

    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0)


def conform(
    target: Target,
    *,
    phases: Sequence[str],
    examples: int,
    alive: bool = False,
    told: dict[str, Any] | None = None,
) -> Outcome:
    """Run phases of schemathesis, and return what they found.

    Args:
        target: The server.
        phases: Of examples, coverage, fuzzing, stateful.
        examples: Requests to try for each operation and phase.
        alive: Ask only of the target's objects, and leave out what would end them; else of any.
        told: The schema to hold it to; by default the server's own.
    """
    settings: dict[str, Any] = {
        "seed": 1,
        "base-url": target.url,
        "continue-on-failure": True,
        "auth": {"openapi": {"HTTPBearer": {"bearer": target.key}}},
        "generation": {
            "max-examples": examples, "deterministic": True, "no-shrink": True, "database": "none",
        },
        "phases": {
            name: {"enabled": name in phases}
            for name in ("examples", "coverage", "fuzzing", "stateful")
        },
    }  # fmt: skip
    if alive:
        held = {f"path.{name}": target.ids.get(id_, id_) for name, id_ in PARAMETERS.items()}
        settings["parameters"] = held
    text = json.dumps(told) if told else httpx.get(f"{target.url}/openapi.json").text
    for example, real in target.ids.items():
        assert example in text, example
        text = text.replace(example, real)
    schema: BaseSchema = schemathesis.openapi.from_dict(
        json.loads(text), config=SchemathesisConfig.from_dict(settings)
    )
    if alive:
        schema = schema.exclude(method="DELETE").exclude(operation_id=_ENDING)
    outcome = Outcome()
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        outcome.unanswered.add(found.ok().label)

    def filter_failure(_context: Any, failure: Any, _case: Any, response: Any) -> bool:
        code = _excused(failure, response)
        if code:
            outcome.let_pass[code] += 1
        return not code

    schema.hook(filter_failure)
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            _take(outcome, event)
        elif isinstance(event, events.NonFatalError):
            outcome.failures.append(f"{event.label}: {event.value!r}")
        elif isinstance(event, events.FatalError):
            raise event.exception
    return outcome


def _excused(failure: Any, response: Any) -> str:
    """Return the code of an answer that `KNOWN` excuses, or ""."""
    if isinstance(failure, MissingHeaderNotRejected):  # Dify has it that a missing key is a 403
        dify = (failure.operation, response.status_code) == ("POST /retrieval", 403)
        return "missing_api_key" if dify else ""
    if not isinstance(failure, RejectedPositiveData | EnsureResourceAvailability):
        return ""
    body = json.loads(response.content)
    if "error_msg" in body:  # Dify's errors have a number for a code
        return "invalid_query" if body["error_msg"].startswith("The question") else ""
    error = body.get("error", {})
    code, param = error.get("code", ""), error.get("param") or ""
    if isinstance(failure, EnsureResourceAvailability):  # the store is there, the file is not
        return "file_not_found" if code == "file_not_found" and param in _IN_BODY else ""
    if code in KNOWN:
        return str(code)
    known = next((name for name in KNOWN_PARAMS if param.endswith(name)), "")
    return known if code == "invalid_parameter" else ""


def _take(outcome: Outcome, event: events.ScenarioFinished) -> None:
    recorder = event.recorder
    outcome.cases += len(recorder.interactions)
    outcome.phases[event.phase.value] += len(recorder.interactions)
    for case_id, interaction in recorder.interactions.items():
        if interaction.response is None:
            outcome.failures.append(f"{event.label}: no answer to {interaction.request.uri}")
            continue
        status = interaction.response.status_code
        outcome.statuses[status] += 1
        if status < 300 and case_id in recorder.cases:
            outcome.unanswered.discard(recorder.cases[case_id].value.operation.label)
    for nodes in recorder.checks.values():
        for node in nodes:
            outcome.checks.add(node.name)
            if node.status is Status.FAILURE and node.failure_info is not None:
                info = node.failure_info
                outcome.failures.append(
                    f"{node.name}: {info.failure.operation}: {info.failure}\n{info.code_sample}"
                )
