"""The filter language: which attributes a file must have for its passages to be searched.

The JSON is that of OpenAI's vector stores, comparisons joined by "and" and "or". `parse_filter`
reads it, `matches` applies it to the attributes of one file. Where attributes are kept, and which
passages belong to a file, is the store's business.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast

from rag.errors import FilterError

Scalar: TypeAlias = str | float | bool
"""An attribute's value. Whole numbers are numbers too; truth values are not."""

Order: TypeAlias = Literal["gt", "gte", "lt", "lte"]
Choice: TypeAlias = Literal["in", "nin"]

MAX_DEPTH: Final = 8
"""Filters inside filters; a single comparison has depth 1."""

MAX_NODES: Final = 64
"""Comparisons and compounds in one filter, together."""

MAX_VALUES: Final = 1000
"""Values in the list of one "in" or "nin"."""

MAX_KEY_CHARS: Final = 64
"""OpenAI's limit for an attribute's key."""

_ORDERS: Final[dict[str, Callable[[Scalar, Scalar], bool]]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}
_SINGLE: Final = ("eq", "ne", *_ORDERS)
_CHOICES: Final = ("in", "nin")
_COMPOUNDS: Final = ("and", "or")
_TYPES: Final = ", ".join((*_SINGLE, *_CHOICES, *_COMPOUNDS))
_SHOWN_CHARS = 40


@dataclass(frozen=True, slots=True)
class Comparison:
    """One attribute against one value; made by `parse_filter`.

    Attributes:
        type: How they are compared.
        key: The attribute's name, 1 to 64 characters.
        value: A string, a finite number or a truth value.
    """

    type: Literal["eq", "ne"] | Order
    key: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class Membership:
    """One attribute against several values; made by `parse_filter`.

    Attributes:
        type: Whether it must be among them, or must not.
        key: The attribute's name, 1 to 64 characters.
        values: Strings and finite numbers, at most 1000; no truth values.
    """

    type: Choice
    key: str
    values: frozenset[str | float]


@dataclass(frozen=True, slots=True)
class Compound:
    """Several filters that must hold all ("and") or of which one must ("or").

    Attributes:
        type: Which of the two.
        filters: At least one.
    """

    type: Literal["and", "or"]
    filters: tuple[Filter, ...]


Filter: TypeAlias = Comparison | Membership | Compound


def parse_filter(value: object) -> Filter:
    """Read a filter from its JSON, as Python's `json` gives it.

    A comparison is {"type", "key", "value"}, its type one of eq, ne, gt, gte, lt, lte (value: a
    string, number or boolean), in, nin (value: a list of strings and numbers). A compound is
    {"type", "filters"}, its type "and" or "or", its filters a list of at least one filter: an empty
    list, most likely a mistake, would find everything, or nothing.

    Args:
        value: Anything.

    Raises:
        FilterError: If it is of another form, nested deeper than 8, of more than 64 filters, or
            holds a list of more than 1000 values, a key that is empty or of more than 64
            characters, or a number that is not finite. The message begins with the path of the
            fault, for example "filters.filters[1].value".
    """
    return _parse(value, "filters", 1, iter(range(MAX_NODES)))


def matches(found: Filter, attributes: Mapping[str, Scalar]) -> bool:
    """Return whether a file with these attributes passes the filter.

    There are three kinds of values: strings, numbers and truth values. Values of two kinds are
    never equal, and none is above or below the other: 1 is neither "1" nor true. 2020 equals
    2020.0. Strings are compared character by character, by code point ("Z" < "a" < "é"); false is
    below true.

    "ne" and "nin" hold exactly where "eq" and "in" do not. So an attribute that a file does not
    have matches "ne" and "nin", whatever the value, and nothing else.

    Args:
        found: The filter.
        attributes: The file's; a number that is not finite equals nothing.
    """
    match found:
        case Compound(type="and"):
            return all(matches(inner, attributes) for inner in found.filters)
        case Compound():
            return any(matches(inner, attributes) for inner in found.filters)
        case Membership():
            return _is_among(attributes.get(found.key), found.values) == (found.type == "in")
        case Comparison(type="ne"):
            return not _is_equal(attributes.get(found.key), found.value)
        case Comparison(type="eq"):
            return _is_equal(attributes.get(found.key), found.value)
        case Comparison():
            attribute = attributes.get(found.key)
            if attribute is None or _kind(attribute) != _kind(found.value):
                return False
            return _ORDERS[found.type](attribute, found.value)


def _is_equal(attribute: Scalar | None, value: Scalar) -> bool:
    return attribute == value and _kind(attribute) == _kind(value)


def _is_among(attribute: Scalar | None, values: frozenset[str | float]) -> bool:
    return not isinstance(attribute, bool) and attribute in values


def _kind(value: Scalar | None) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "string" if isinstance(value, str) else "number"


def _parse(value: object, path: str, depth: int, nodes: Iterator[int]) -> Filter:
    """Read a filter at a depth from 1; `nodes` has one item for each that may still come."""
    if next(nodes, None) is None:
        raise _fault(path, f"more than {MAX_NODES} filters", "fewer")
    if depth > MAX_DEPTH:
        raise _fault(path, f"filters nested deeper than {MAX_DEPTH}", "a flatter filter")
    fields = _fields(value, path)
    type_ = fields["type"]
    if type_ in _COMPOUNDS:
        inner = _inner(fields["filters"], f"{path}.filters", depth + 1, nodes)
        return Compound(type_, inner)
    key = _key(fields["key"], f"{path}.key")
    if type_ in _CHOICES:
        return Membership(type_, key, _values(fields["value"], f"{path}.value"))
    single = _scalar(fields["value"], f"{path}.value")
    return Comparison(cast(Literal["eq", "ne"] | Order, type_), key, single)


def _fields(value: object, path: str) -> dict[str, object]:
    """Return an object that has a known type and exactly the fields that belong to it."""
    if not isinstance(value, dict):
        raise _fault(path, _shown(value), "an object with a type")
    if "type" not in value:
        raise _fault(path, "no type", f"one of {_TYPES}")
    type_ = value["type"]
    if not isinstance(type_, str) or type_ not in (*_SINGLE, *_CHOICES, *_COMPOUNDS):
        raise _fault(f"{path}.type", _shown(type_), f"one of {_TYPES}")
    fields = ("type", "filters") if type_ in _COMPOUNDS else ("type", "key", "value")
    expected = f"{', '.join(fields)} where type is {type_}"
    for field in value:
        if field not in fields:
            raise _fault(path, f"the unknown field {_shown(field)}", expected)
    for field in fields:
        if field not in value:
            raise _fault(path, f"no {field}", expected)
    return value


def _inner(value: object, path: str, depth: int, nodes: Iterator[int]) -> tuple[Filter, ...]:
    if not isinstance(value, list) or not value:
        raise _fault(path, _shown(value), "a list of at least one filter")
    return tuple(
        _parse(inner, f"{path}[{number}]", depth, nodes) for number, inner in enumerate(value)
    )


def _key(value: object, path: str) -> str:
    if not isinstance(value, str) or not value:
        raise _fault(path, _shown(value), "an attribute's name")
    if len(value) > MAX_KEY_CHARS:
        raise _fault(path, f"{len(value)} characters", f"at most {MAX_KEY_CHARS}")
    return value


def _values(value: object, path: str) -> frozenset[str | float]:
    if not isinstance(value, list):
        raise _fault(path, _shown(value), "a list of strings and numbers")
    if len(value) > MAX_VALUES:
        raise _fault(path, f"{len(value)} values", f"at most {MAX_VALUES}")
    for number, item in enumerate(value):
        if isinstance(item, bool) or not isinstance(item, str | int | float):
            raise _fault(f"{path}[{number}]", _shown(item), "a string or a number")
    return frozenset(_finite(item, f"{path}[{number}]") for number, item in enumerate(value))


def _scalar(value: object, path: str) -> Scalar:
    if not isinstance(value, str | int | float):
        raise _fault(path, _shown(value), "a string, number or boolean")
    return _finite(value, path)


def _finite(value: Scalar, path: str) -> Scalar:
    try:
        finite = isinstance(value, str) or math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        finite = False
    if not finite:
        raise _fault(path, _shown(value), "a finite number, of at most 1.8e308")
    return value


def _shown(value: object) -> str:
    """Describe any value in a few characters of one line."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int() if abs(value) > 10**_SHOWN_CHARS:  # Python refuses to write out huge ones
            return "a number of too many digits"
        case str() | int() | float():
            shown = repr(value[:_SHOWN_CHARS] if isinstance(value, str) else value)
            return f"{shown}..." if isinstance(value, str) and value[_SHOWN_CHARS:] else shown
        case dict():
            return "an object" if value else "an empty object"
        case list():
            return "a list" if value else "an empty list"
        case _:
            return f"a Python {type(value).__name__}"


def _fault(path: str, got: str, expected: str) -> FilterError:
    return FilterError(
        f"{path}: got {got}, expected {expected}.", do="Correct the filter, or leave it out."
    )
