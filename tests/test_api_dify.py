"""A vector store as an external knowledge base of Dify: its shapes, codes and conditions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from filled import PUMPS, Filled, fill, parsed
from served import Served, serving

from rag.build import build_rag
from rag.config import Settings
from rag.store.projects import Keys

ANY = "pump weight 年假 helmet"


@pytest.fixture(scope="module")
def pumps(served: Served) -> Filled:
    return fill(served.client(), "dify-pumps")


def ask(served: Served, store: str, key: str = "", **more: Any) -> httpx.Response:
    body: dict[str, Any] = {
        "knowledge_id": store,
        "query": ANY,
        "retrieval_setting": {"top_k": 20, "score_threshold": 0.0},
    }
    with served.http(key) as http:
        return http.post("/retrieval", json=body | more)


def test_passages_have_the_shape_that_dify_wants(served: Served, pumps: Filled) -> None:
    answer = ask(
        served,
        pumps.id,
        query="How much does the D40 weigh?",
        retrieval_setting={"top_k": 2, "score_threshold": 0},
    )
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["records"]
    assert len(body["records"]) == 2
    best = body["records"][0]
    assert set(best) == {"content", "score", "title", "metadata"}
    assert best["title"] == "d40.md"
    assert "185 kg" in best["content"]
    assert 0 < best["score"] <= 1
    held = best["metadata"]
    assert held.items() >= PUMPS["d40.md"][1].items()
    text = parsed(served.client(), pumps.id, held["file_id"])
    assert text[held["start"] : held["end"]] == best["content"]


def test_a_threshold_keeps_the_weak_out(served: Served, pumps: Filled) -> None:
    every = ask(served, pumps.id).json()["records"]
    bar = every[0]["score"]
    kept = ask(served, pumps.id, retrieval_setting={"top_k": 20, "score_threshold": bar})
    assert 0 < len(kept.json()["records"]) < len(every)
    assert all(record["score"] >= bar for record in kept.json()["records"])


ALL = set(PUMPS)
D40, D60, LEAVE, PLAIN = "d40.md", "d60.md", "假期.md", "plain.txt"


@pytest.mark.parametrize(
    ("name", "operator", "value", "expected"),
    [
        ("product", "contains", "4", {D40}),
        ("product", "not contains", "4", {D60, LEAVE, PLAIN}),
        ("product", "start with", "D", {D40, D60}),
        ("product", "end with", "0", {D40, D60}),
        ("product", "is", "人事", {LEAVE}),
        ("product", "is not", "D40", {D60, LEAVE, PLAIN}),
        ("product", "in", ["D40", "人事"], {D40, LEAVE}),
        ("product", "not in", ["D40", "人事"], {D60, PLAIN}),
        ("product", "empty", None, {PLAIN}),
        ("product", "not empty", None, {D40, D60, LEAVE}),
        ("year", "null", None, {PLAIN}),
        ("year", "not null", None, {D40, D60, LEAVE}),
        ("year", "=", 2024, {D40}),
        ("year", "=", "2024", {D40}),
        ("year", "≠", 2024, {D60, LEAVE, PLAIN}),
        ("year", ">", 2023, {D40, D60}),
        ("year", "<", 2025, {D40, LEAVE}),
        ("score", "≥", 2.5, {D60}),
        ("score", "≤", 1.5, {D40}),
        ("year", "before", "2024", {LEAVE}),
        ("year", "after", "2024", {D60}),
        ("public", "is", "true", {D40, LEAVE}),
        (["absent", "product"], "is", "D60", {D60}),
    ],
)
def test_every_operator(
    served: Served,
    pumps: Filled,
    name: str | list[str],
    operator: str,
    value: Any,
    expected: set[str],
) -> None:
    test = {"name": name, "comparison_operator": operator, "value": value}
    answer = ask(served, pumps.id, metadata_condition={"conditions": [test]})
    assert answer.status_code == 200, answer.text
    assert {record["title"] for record in answer.json()["records"]} == expected


@pytest.mark.parametrize(("joined", "expected"), [("and", {D40}), ("or", {D40, D60, LEAVE})])
def test_conditions_are_joined(
    served: Served, pumps: Filled, joined: str, expected: set[str]
) -> None:
    condition = {
        "logical_operator": joined,
        "conditions": [
            {"name": "year", "comparison_operator": "≥", "value": 2024},
            {"name": "public", "comparison_operator": "is", "value": True},
        ],
    }
    answer = ask(served, pumps.id, metadata_condition=condition)
    assert {record["title"] for record in answer.json()["records"]} == expected


def test_no_condition_keeps_nothing_out(served: Served, pumps: Filled) -> None:
    empty: list[Any] = [None, {"conditions": []}, {"logical_operator": "or", "conditions": []}]
    for condition in empty:
        answer = ask(served, pumps.id, metadata_condition=condition)
        assert {record["title"] for record in answer.json()["records"]} == ALL


def test_faults_have_difys_shape_and_codes(served: Served, pumps: Filled) -> None:
    missing = ask(served, "vs_nowhere")
    assert (missing.status_code, missing.json()["error_code"]) == (404, 2001)
    assert set(missing.json()) == {"error_code", "error_msg"}
    test = {"name": "year", "comparison_operator": "="}
    for wrong in (
        {"query": ""},
        {"retrieval_setting": {"top_k": 0}},
        {"metadata_condition": {"conditions": [test]}},
    ):
        answer = ask(served, pumps.id, **wrong)
        assert answer.status_code == answer.json()["error_code"] == 400
        assert answer.json()["error_msg"]


def test_keys_have_difys_codes(served_home: Path) -> None:
    rag = build_rag(Settings(home=served_home))
    _, key = Keys(rag.db).create("dify", project="default", scope="write", days=None)
    rag.db.close()
    with serving(served_home) as running:
        store = running.client(key).vector_stores.create(name="x").id
        for given, code in (("", 1001), ("sk-youju-wrong", 1002)):
            answer = ask(running, store, given)
            assert (answer.status_code, answer.json()["error_code"]) == (403, code)
        assert ask(running, store, key).json() == {"records": []}
