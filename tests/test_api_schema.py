"""/openapi.json tells the truth: schemathesis finds no answer outside it, and it is complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from conformance import KNOWN, KNOWN_PARAMS, Outcome, conform
from served import Served, serving

from rag.build import build_rag
from rag.config import Settings
from rag.store.projects import Keys

TEXT = "# Pump\n\nThe D40 weighs 185 kg and needs 230 V. D40 水泵重 185 公斤。\n".encode()
METHODS = {"get", "post", "delete"}
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
def closed(
    tmp_path_factory: pytest.TempPathFactory, converted_models: Path
) -> Iterator[tuple[Served, str]]:
    """A server that wants a key, and its key; the store "handbook" holds a file."""
    home = tmp_path_factory.mktemp("closed")
    (home / "models").symlink_to(converted_models, target_is_directory=True)
    rag = build_rag(Settings(home=home))
    _, key = Keys(rag.db).create("conformance", scope="admin")
    rag.db.close()
    with serving(home) as server:
        client = server.client(key)
        file = client.files.create(file=("pump.md", TEXT), purpose="assistants")
        store = client.vector_stores.create(name="handbook")
        listed = client.vector_stores.files.create_and_poll(
            file.id, vector_store_id=store.id, poll_interval_ms=50
        )
        assert listed.status == "completed"
        yield server, key


@pytest.fixture(scope="module")
def described(closed: tuple[Served, str]) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{closed[0].url}/openapi.json").json()
    return found


def test_a_few_requests_to_every_route_are_answered_as_the_schema_says(
    closed: tuple[Served, str],
) -> None:
    server, key = closed
    outcome = conform(server.url, key, phases=["examples", "fuzzing"], examples=2)
    _nothing_wrong(outcome)
    assert outcome.cases >= 100, outcome.phases


@pytest.mark.slow
def test_thousands_of_requests_are_answered_as_the_schema_says(closed: tuple[Served, str]) -> None:
    server, key = closed
    phases = ["examples", "coverage", "fuzzing", "stateful"]
    outcome = conform(server.url, key, phases=phases, examples=30)
    print(f"\n{outcome.cases:,} cases {dict(outcome.phases)} {dict(outcome.statuses)}")  # noqa: T201
    print(f"let pass {dict(outcome.let_pass)}")  # noqa: T201
    _nothing_wrong(outcome)
    assert outcome.cases >= 2000, outcome.phases
    assert set(outcome.phases) == set(phases)
    assert outcome.checks >= CHECKS
    for name in (*KNOWN, *KNOWN_PARAMS):
        assert "_" in name or "." in name or name.isalpha()


def _nothing_wrong(outcome: Outcome) -> None:
    assert not outcome.failures, "\n\n".join(outcome.failures[:5])
    assert not [status for status in outcome.statuses if status >= 500]
