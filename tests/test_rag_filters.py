"""The filter language: what is read, what is refused and with which words, and what matches."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.errors import FilterError, UsageError
from rag.filters import (
    MAX_DEPTH,
    MAX_KEY_CHARS,
    MAX_NODES,
    MAX_VALUES,
    Comparison,
    Compound,
    Membership,
    matches,
    parse_filter,
)

FILE: dict[str, str | float | bool] = {
    "year": 2020.0,
    "lang": "en",
    "draft": False,
    "pages": 12,
    "code": "7",
}
ORDERS = ("gt", "gte", "lt", "lte")


def compare(type_: str, key: str, value: object) -> dict[str, object]:
    return {"type": type_, "key": key, "value": value}


def join(type_: str, *filters: object) -> dict[str, object]:
    return {"type": type_, "filters": list(filters)}


def passes(value: object, attributes: Mapping[str, Any] | None = None) -> bool:
    return matches(parse_filter(value), FILE if attributes is None else attributes)


def test_it_is_read_into_plain_values() -> None:
    found = parse_filter(
        join("and", compare("gte", "year", 2020), compare("in", "lang", ["en", "zh", "en", 1]))
    )
    assert found == Compound(
        "and",
        (Comparison("gte", "year", 2020), Membership("in", "lang", frozenset({"en", "zh", 1}))),
    )
    same = join("and", compare("gte", "year", 2020.0), compare("in", "lang", [1, "zh", "en"]))
    assert hash(found) == hash(parse_filter(same))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (compare("eq", "year", 2020), True),
        (compare("eq", "year", 2020.5), False),
        (compare("eq", "year", "2020"), False),
        (compare("ne", "year", "2020"), True),
        (compare("ne", "year", 2020), False),
        (compare("gt", "year", 2019), True),
        (compare("gt", "year", 2020), False),
        (compare("gte", "year", 2020), True),
        (compare("lt", "year", 2020), False),
        (compare("lt", "year", 2020.5), True),
        (compare("lte", "year", 2020), True),
        (compare("lte", "year", "3000"), False),
        (compare("gte", "year", ""), False),
        (compare("gt", "lang", "eN"), True),
        (compare("lt", "lang", "é"), True),
        (compare("lt", "lang", 5), False),
        (compare("eq", "lang", "EN"), False),
        (compare("eq", "draft", False), True),
        (compare("eq", "draft", 0), False),
        (compare("ne", "draft", 0), True),
        (compare("gte", "draft", 0), False),
        (compare("lt", "draft", True), True),
        (compare("eq", "code", 7), False),
        (compare("in", "year", [1999, 2020]), True),
        (compare("in", "year", ["2020"]), False),
        (compare("in", "draft", [0, 1]), False),
        (compare("nin", "draft", [0, 1]), True),
        (compare("in", "lang", []), False),
        (compare("nin", "lang", []), True),
        (compare("nin", "lang", ["en"]), False),
        (compare("nin", "lang", ["zh"]), True),
        (join("and", compare("eq", "lang", "en"), compare("lt", "year", 2000)), False),
        (join("or", compare("eq", "lang", "zh"), compare("gt", "year", 2000)), True),
        (join("or", compare("eq", "lang", "zh"), join("and", compare("eq", "pages", 12))), True),
    ],
)
def test_what_matches(value: object, expected: bool) -> None:
    assert passes(value) is expected


@pytest.mark.parametrize("value", ["en", "", 0, 1.5, True, False])
def test_a_missing_attribute_matches_ne_and_nin_only(value: str | float | bool) -> None:
    for type_ in ("eq", "ne", *ORDERS):
        assert passes(compare(type_, "owner", value)) is (type_ == "ne")
    listed = [] if isinstance(value, bool) else [value]
    assert not passes(compare("in", "owner", listed))
    assert passes(compare("nin", "owner", listed))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "filters: got null, expected an object with a type."),
        ([compare("eq", "a", 1)], "filters: got a list, expected an object"),
        ({}, "filters: got no type, expected one of eq, ne, gt, gte, lt, lte, in, nin, and, or."),
        (compare("like", "a", 1), "filters.type: got 'like', expected one of eq,"),
        ({"type": ["eq"], "key": "a", "value": 1}, "filters.type: got a list, expected one of"),
        ({"type": "eq", "key": "a"}, "filters: got no value, expected type, key, value"),
        ({"type": "and"}, "filters: got no filters, expected type, filters where type is and."),
        (
            compare("eq", "a", 1) | {"filters": []},
            "filters: got the unknown field 'filters', expected type, key, value where",
        ),
        ({"type": "eq", 7: "a"}, "filters: got the unknown field 7, expected"),
        (join("and"), "filters.filters: got an empty list, expected a list of at least one"),
        ({"type": "or", "filters": {}}, "filters.filters: got an empty object, expected a list"),
        (compare("eq", "", 1), "filters.key: got '', expected an attribute's name."),
        (compare("eq", "a", 1) | {"key": 5}, "filters.key: got 5, expected an attribute's name."),
        (compare("eq", "k" * 65, 1), "filters.key: got 65 characters, expected at most 64."),
        (compare("eq", "a", None), "filters.value: got null, expected a string, number or boo"),
        (compare("gt", "a", [1]), "filters.value: got a list, expected a string, number or boo"),
        (compare("in", "a", "x\ny" * 30), r"filters.value: got 'x\\ny.*\.\.\., expected a list"),
        (compare("in", "a", [1, True]), r"filters.value\[1\]: got true, expected a string or a n"),
        (compare("nin", "a", [[]]), r"filters.value\[0\]: got an empty list, expected a string"),
        (compare("in", "a", [1] * 1001), "filters.value: got 1001 values, expected at most 1000"),
        (compare("eq", "a", math.nan), "filters.value: got nan, expected a finite number"),
        (compare("in", "a", [-math.inf]), r"filters.value\[0\]: got -inf, expected a finite num"),
        (compare("lt", "a", 10**9999), "filters.value: got a number of too many digits, expected"),
        (compare("lt", "a", {1}), "filters.value: got a Python set, expected a string, number"),
        (
            join("and", compare("eq", "a", 1), join("or", compare("eq", "b", None))),
            r"filters.filters\[1\].filters\[0\].value: got null",
        ),
    ],
)
def test_what_is_refused(value: object, message: str) -> None:
    with pytest.raises(FilterError, match=f"^{message}") as caught:
        parse_filter(value)
    assert isinstance(caught.value, UsageError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def nested(depth: int) -> dict[str, object]:
    return compare("eq", "a", 1) if depth == 1 else join("and", nested(depth - 1))


def test_the_limits_themselves_are_allowed() -> None:
    assert passes(nested(MAX_DEPTH), {"a": 1})
    assert passes(join("and", *[compare("eq", "a", 1)] * (MAX_NODES - 1)), {"a": 1})
    assert passes(compare("in", "k" * MAX_KEY_CHARS, list(range(MAX_VALUES))), {"k" * 64: 999.0})
    assert passes(compare("lt", "a", 1.7e308), {"a": 10**308})


def test_past_the_limits_it_is_refused() -> None:
    with pytest.raises(FilterError, match=r"^filters(\.filters\[0\]){8}: got .* deeper than 8"):
        parse_filter(nested(MAX_DEPTH + 1))
    with pytest.raises(FilterError, match=r"^filters\.filters\[63\]: got more than 64 filters"):
        parse_filter(join("or", *[compare("eq", "a", 1)] * 1_000_000))
    half = join("or", *[compare("eq", "a", 1)] * 32)
    with pytest.raises(FilterError, match=r"^filters\.filters\[1\]\.filters\[29\]: got more than"):
        parse_filter(join("and", half, half))


def test_a_filter_that_holds_itself_is_refused() -> None:
    value = join("and")
    value["filters"] = [value]
    with pytest.raises(FilterError, match="deeper than 8"):
        parse_filter(value)


KEYS = st.sampled_from(["a", "b", "c"])
NUMBERS = st.integers(-2, 2) | st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]) | st.integers()
SCALARS = NUMBERS | st.booleans() | st.sampled_from(["", "0", "1", "A", "a", "é", "\U0001f600"])
LISTS = st.lists(SCALARS.filter(lambda value: not isinstance(value, bool)), max_size=4)
ATTRIBUTES = st.dictionaries(KEYS, SCALARS, max_size=3)
COMPARISONS = st.builds(compare, st.sampled_from(["eq", "ne", *ORDERS]), KEYS, SCALARS) | (
    st.builds(compare, st.sampled_from(["in", "nin"]), KEYS, LISTS)
)
FILTERS = st.recursive(
    COMPARISONS,
    lambda inner: st.builds(
        lambda type_, filters: join(type_, *filters),
        st.sampled_from(["and", "or"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=8,
).filter(lambda value: json.dumps(value).count("filters") < MAX_DEPTH)
ALMOST = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.fixed_dictionaries(
            {"type": st.sampled_from(["eq", "gt", "in", "nin"]) | inner, "key": st.text() | inner},
            optional={"value": inner | st.lists(inner, max_size=3), "filters": inner},
        )
        | st.fixed_dictionaries(
            {"type": st.sampled_from(["and", "or"]), "filters": st.lists(inner, max_size=4)}
        )
    ),
    max_leaves=15,
)
OPPOSITE = {"eq": "ne", "ne": "eq", "in": "nin", "nin": "in", "and": "or", "or": "and"}


@given(KEYS, SCALARS, ATTRIBUTES)
def test_ne_is_not_eq(key: str, value: object, attributes: dict[str, Any]) -> None:
    equal = passes(compare("eq", key, value), attributes)
    assert passes(compare("ne", key, value), attributes) is not equal


@given(KEYS, LISTS, ATTRIBUTES)
def test_in_is_eq_to_one_of_them_and_nin_is_not_in(
    key: str, values: list[object], attributes: dict[str, Any]
) -> None:
    among = passes(compare("in", key, values), attributes)
    assert among is any(passes(compare("eq", key, value), attributes) for value in values)
    assert passes(compare("nin", key, values), attributes) is not among


@given(KEYS, SCALARS, ATTRIBUTES)
def test_of_one_kind_exactly_one_of_lt_eq_gt_holds_of_two_none(
    key: str, value: str | float | bool, attributes: dict[str, Any]
) -> None:
    def holds(type_: str) -> bool:
        return passes(compare(type_, key, value), attributes)

    there = attributes.get(key)
    kinds = [(str,), (bool,), (int, float)]
    [kind] = [kind for kind in kinds[:2] if isinstance(value, kind)] or kinds[2:]
    same = isinstance(there, kind) and isinstance(there, bool) is isinstance(value, bool)
    assert [holds("lt"), holds("eq"), holds("gt")].count(True) == int(same)
    assert holds("lte") is (holds("lt") or holds("eq"))
    assert holds("gte") is (holds("gt") or holds("eq"))


def negated(value: dict[str, Any]) -> dict[str, Any]:
    """The opposite filter, by De Morgan; the orders have none, as a missing key fails both."""
    if "filters" in value:
        return join(OPPOSITE[value["type"]], *map(negated, value["filters"]))
    return value | {"type": OPPOSITE[value["type"]]}


@given(
    FILTERS.filter(lambda value: not any(f'"{order}"' in json.dumps(value) for order in ORDERS)),
    ATTRIBUTES,
)
def test_de_morgan(value: dict[str, Any], attributes: dict[str, Any]) -> None:
    assert passes(negated(value), attributes) is not passes(value, attributes)


@given(st.lists(FILTERS, min_size=1, max_size=3), ATTRIBUTES)
def test_and_is_all_and_or_is_any(filters: list[object], attributes: dict[str, Any]) -> None:
    single = [passes(value, attributes) for value in filters]
    if json.dumps(filters).count('"filters"') < MAX_DEPTH - 1:
        assert passes(join("and", *filters), attributes) is all(single)
        assert passes(join("or", *filters), attributes) is any(single)


@given(ALMOST | FILTERS)
def test_any_json_is_read_or_refused(value: object) -> None:
    try:
        found = parse_filter(value)
    except FilterError as error:
        refused = str(error)
    else:
        assert matches(found, {}) in (True, False)
        assert parse_filter(json.loads(json.dumps(value))) == found
        return
    assert refused.startswith("filters")
    assert "\n" not in refused


def test_importing_it_imports_nothing_heavy() -> None:
    code = (
        "import sys, rag.filters;"
        "heavy = {'numpy', 'pydantic', 'sqlalchemy', 'faiss', 'tantivy', 'rag.schema'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
