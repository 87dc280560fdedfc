"""Searching a vector store through the official client: filters, queries, thresholds."""

from __future__ import annotations

from typing import Any

import pytest
from filled import PUMPS, Filled, fill, parsed
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from openai import BadRequestError, NotFoundError, OpenAI
from served import Served

from rag.filters import matches, parse_filter

ANY = "pump weight 年假 helmet"
"""Finds all of the files, if no filter keeps them out."""


@pytest.fixture
def client(served: Served) -> OpenAI:
    return served.client()


@pytest.fixture(scope="module")
def pumps(served: Served) -> Filled:
    return fill(served.client(), "search-pumps")


def names(client: OpenAI, store: Filled, **options: Any) -> set[str]:
    wanted: Any = {"query": ANY, "max_num_results": 50} | options
    return {hit.filename for hit in client.vector_stores.search(store.id, **wanted)}


def test_a_passage_has_its_place(client: OpenAI, pumps: Filled) -> None:
    page = client.vector_stores.search(pumps.id, query="How much does the D40 weigh?")
    best = page.data[0]
    assert (best.filename, best.file_id) == ("d40.md", pumps.ids["d40.md"])
    assert best.attributes == PUMPS["d40.md"][1]
    text = parsed(client, pumps.id, best.file_id)
    place = best.to_dict()["place"]
    assert isinstance(place, dict)
    assert text[place["start"] : place["end"]] == best.content[0].text
    assert "D40 pump" in place["section"]
    assert [hit.score for hit in page.data] == sorted(
        (hit.score for hit in page.data), reverse=True
    )
    assert all(0 <= hit.score <= 1 for hit in page.data)
    assert not page.has_next_page()


def test_all_files_are_found_without_a_filter(client: OpenAI, pumps: Filled) -> None:
    assert names(client, pumps) == set(PUMPS)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"type": "eq", "key": "year", "value": 2024}, {"d40.md"}),
        ({"type": "eq", "key": "public", "value": True}, {"d40.md", "假期.md"}),
        ({"type": "eq", "key": "product", "value": "人事"}, {"假期.md"}),
        ({"type": "ne", "key": "year", "value": 2024}, {"d60.md", "假期.md", "plain.txt"}),
        ({"type": "gt", "key": "year", "value": 2024}, {"d60.md"}),
        ({"type": "gte", "key": "year", "value": 2024}, {"d40.md", "d60.md"}),
        ({"type": "lt", "key": "score", "value": 2}, {"d40.md"}),
        ({"type": "lte", "key": "year", "value": 2023}, {"假期.md"}),
        ({"type": "in", "key": "product", "value": ["D40", "人事"]}, {"d40.md", "假期.md"}),
        ({"type": "nin", "key": "year", "value": [2023, 2024]}, {"d60.md", "plain.txt"}),
        (
            {
                "type": "and",
                "filters": [
                    {"type": "eq", "key": "public", "value": True},
                    {
                        "type": "or",
                        "filters": [
                            {"type": "eq", "key": "year", "value": 2023},
                            {"type": "eq", "key": "year", "value": 2025},
                        ],
                    },
                ],
            },
            {"假期.md"},
        ),
        ({"type": "eq", "key": "year", "value": 1900}, set()),
    ],
)
def test_every_kind_of_filter(
    client: OpenAI, pumps: Filled, found: dict[str, Any], expected: set[str]
) -> None:
    assert names(client, pumps, filters=found) == expected


_COMPARISONS = st.builds(
    lambda kind, key, value: {"type": kind, "key": key, "value": value},
    st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]),
    st.sampled_from(["year", "product", "public", "score", "absent"]),
    st.sampled_from([2023, 2024, 2025, 1.5, "D40", "人事", "", True, False]),
)
_FILTERS = st.recursive(
    _COMPARISONS,
    lambda inner: st.builds(
        lambda kind, filters: {"type": kind, "filters": filters},
        st.sampled_from(["and", "or"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


@hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(_FILTERS)
def test_what_passes_a_filter_is_found(
    client: OpenAI, pumps: Filled, found: dict[str, Any]
) -> None:
    test = parse_filter(found)
    expected = {file for file, (_, held) in PUMPS.items() if matches(test, held)}
    assert names(client, pumps, filters=found) == expected


def test_filters_come_before_the_ranking(client: OpenAI, pumps: Filled) -> None:
    """The best passage is kept out, and one result is still found."""
    hits = client.vector_stores.search(
        pumps.id,
        query="The D40 weighs 185 kg",
        max_num_results=1,
        filters={"type": "ne", "key": "product", "value": "D40"},
    )
    assert [hit.filename for hit in hits] == ["d60.md"]


def test_changed_attributes_are_seen_by_the_next_search(client: OpenAI) -> None:
    store = fill(client, "search-changing")
    file = store.ids["plain.txt"]
    wanted = {"type": "eq", "key": "colour", "value": "橙"}
    assert names(client, store, filters=wanted) == set()
    changed = client.vector_stores.files.update(
        file, vector_store_id=store.id, attributes={"colour": "橙"}
    )
    assert changed.attributes == {"colour": "橙"}
    assert names(client, store, filters=wanted) == {"plain.txt"}
    client.vector_stores.files.update(file, vector_store_id=store.id, attributes=None)
    assert names(client, store, filters=wanted) == set()


def test_several_queries_give_the_best_of_each(client: OpenAI, pumps: Filled) -> None:
    queries = ["How much does the D60 weigh?", "陪产假可以休多少天？"]
    page = client.vector_stores.search(pumps.id, query=queries, max_num_results=4)
    assert {"d60.md", "假期.md"} <= {hit.filename for hit in page.data}
    places = [(hit.file_id, hit.to_dict()["place"]["start"]) for hit in page.data]  # type: ignore[index]
    assert len(places) == len(set(places))
    single: dict[str, float] = {}
    for query in queries:
        for hit in client.vector_stores.search(pumps.id, query=query):
            single[hit.file_id] = max(single.get(hit.file_id, 0.0), hit.score)
    assert {hit.file_id: hit.score for hit in page.data} == pytest.approx(
        {hit.file_id: single[hit.file_id] for hit in page.data}, abs=1e-3
    )


@pytest.mark.parametrize("most", [1, 2])
def test_no_more_results_than_wanted(client: OpenAI, pumps: Filled, most: int) -> None:
    page = client.vector_stores.search(pumps.id, query=ANY, max_num_results=most)
    assert len(page.data) == most


def test_a_threshold_keeps_the_weak_out(client: OpenAI, pumps: Filled) -> None:
    every = client.vector_stores.search(pumps.id, query="D40 gear oil").data
    assert len(every) >= 2
    bar = (every[0].score + every[1].score) / 2
    kept = client.vector_stores.search(
        pumps.id, query="D40 gear oil", ranking_options={"ranker": "none", "score_threshold": bar}
    )
    assert [hit.filename for hit in kept] == [every[0].filename]


def test_a_query_is_rewritten(client: OpenAI, pumps: Filled) -> None:
    asked = "Hello, could you please tell me how much the D40 weighs?"
    with client.vector_stores.with_streaming_response.search(
        pumps.id, query=asked, rewrite_query=True
    ) as answer:
        body = answer.json()
    (searched,) = body["search_query"]  # type: ignore[index]
    assert searched != asked
    assert "how much the D40 weighs" in searched
    assert body["data"][0]["filename"] == "d40.md"  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        ({"query": ""}, "invalid_parameter", "query"),
        ({"query": []}, "invalid_parameter", "query"),
        ({"query": "  "}, "invalid_query", "empty"),
        ({"query": "x" * 5000}, "invalid_query", "4,?000"),
        ({"query": "x", "max_num_results": 51}, "invalid_parameter", "max_num_results"),
        ({"query": "x", "filters": {"type": "is"}}, "invalid_filter", "filters.type: got 'is'"),
        ({"query": "x", "extra_body": {"top": 3}}, "unknown_parameter", "top"),
    ],
)
def test_what_is_wrong_with_a_search_is_told(
    client: OpenAI, pumps: Filled, options: dict[str, Any], code: str, said: str
) -> None:
    with pytest.raises(BadRequestError, match=said) as caught:
        client.vector_stores.search(pumps.id, **options)
    assert caught.value.code == code


def test_a_store_that_is_not_there(client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as caught:
        client.vector_stores.search("vs_nowhere", query="x")
    assert caught.value.code == "vector_store_not_found"
