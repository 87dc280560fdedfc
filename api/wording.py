"""Says what is wrong with a field of a request, from what pydantic found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

_KINDS: Final[Mapping[str, str]] = {
    "string_type": "a text",
    "list_type": "a list",
    "bool_type": "a boolean",
    "bool_parsing": "a boolean",
    "int_type": "a number",
    "int_parsing": "a number",
    "float_type": "a number",
    "float_parsing": "a number",
    "dict_type": "a JSON object",
    "model_type": "a JSON object",
    "model_attributes_type": "a JSON object",
}
"""What was expected, by pydantic's word for a value of another type."""


_SHOWN_CHARS = 80
_LARGE = 10**40


def nearest(found: Sequence[Any], field: Callable[[Any], object]) -> list[Any]:
    """Return the errors that tell most of the first field at fault, never [].

    Of a field that may have several forms that is the form which fits furthest; where a value is
    of one form's type and breaks its limits, only that form; else all forms at that depth.

    Args:
        found: pydantic's errors, at least one.
        field: Tells the field of an error; alike for all the forms of one field.
    """
    first = found[0]["loc"]
    same = [one for one in found if one["loc"][:2] == first[:2]]
    depth = max(len(one["loc"]) for one in same)
    deepest = [one for one in same if len(one["loc"]) == depth]
    of_type = [one for one in deepest if one["type"] not in _KINDS]
    if of_type:
        return of_type[:1]
    place = field(deepest[0])
    return [one for one in deepest if field(one) == place]


def wording(forms: Sequence[Any]) -> str:
    """Return what is wrong, without the field's name and a full stop.

    Args:
        forms: As `nearest` returns them.
    """
    first = forms[0]
    kind, limits = first["type"], first.get("ctx", {})
    if kind in _KINDS and (len(forms) > 1 or kind.endswith("_type")):
        kinds = list(dict.fromkeys(_KINDS[one["type"]] for one in forms))
        known = " or ".join(filter(None, [", ".join(kinds[:-1]), kinds[-1]]))
        return f"expected {known}, got {named(first.get('input'))}"
    if kind in ("too_short", "too_long", "string_too_short", "string_too_long"):
        return _length(first.get("input"), limits, long=kind.endswith("_long"))
    if kind == "literal_error" and limits.get("expected") == "False":
        return "not supported: leave it out, or give false"
    expected = _expected(kind, limits)
    if expected:
        return f"expected {expected}, got {shown(first.get('input'))}"
    return str(first["msg"]).removeprefix("Value error, ")


def _expected(kind: str, limits: Mapping[str, Any]) -> str:
    """Return what was expected, for pydantic's word for an error; "" if that is not known."""
    match kind:
        case "literal_error" | "enum":
            return str(limits["expected"])
        case "greater_than_equal":
            return f"a number of at least {_figure(limits['ge'])}"
        case "greater_than":
            return f"a number above {_figure(limits['gt'])}"
        case "less_than_equal":
            return f"a number of at most {_figure(limits['le'])}"
        case "less_than":
            return f"a number below {_figure(limits['lt'])}"
        case "int_from_float":
            return "a whole number"
        case "int_parsing" | "float_parsing" | "int_parsing_size":
            return "a number"
        case "bool_parsing":
            return "true or false"
        case "finite_number":
            return "a finite number"
        case "string_pattern_mismatch":
            return f"a text that matches {limits['pattern']}"
        case _:
            return ""


def _figure(bound: float) -> str:
    whole = isinstance(bound, int) or bound.is_integer()
    return f"{int(bound):,}" if whole else f"{bound:g}"


def tag_at_fault(form: Any) -> tuple[str, str] | None:  # noqa: ANN401
    """Return the field by which the forms of an object are told apart, if that is what is wrong.

    Args:
        form: One of pydantic's errors.

    Returns:
        The field's name, and what is wrong with it ("" if it is missing); None for other errors.
    """
    limits = form.get("ctx", {})
    match form["type"]:
        case "union_tag_not_found":
            return limits["discriminator"].strip("'"), ""
        case "union_tag_invalid":
            *others, last = limits["expected_tags"].split(", ")
            known = f"{', '.join(others)} or {last}" if others else last
            said = f"expected {known}, got {shown(limits['tag'])}"
            return limits["discriminator"].strip("'"), said
        case _:
            return None


def _length(value: object, limits: Mapping[str, Any], *, long: bool) -> str:
    most = limits["max_length" if long else "min_length"]
    unit = "character" if isinstance(value, str) else "item"
    what = "a text" if isinstance(value, str) else "a list"
    if isinstance(value, dict):
        what = "an object"
    got = len(value) if isinstance(value, str | list | dict) else limits.get("actual_length")
    bound = "at most" if long else "at least"
    return f"expected {what} of {bound} {most:,} {unit}{'' if most == 1 else 's'}, got {got:,}"


def shown(value: object) -> str:
    """Return what was got, for a message: a text or number itself if it is short, else its kind."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return repr(value) if len(value) <= _SHOWN_CHARS else f"{value[:_SHOWN_CHARS]!r}..."
        case float():
            return json.dumps(value)
        case int() if abs(value) < _LARGE:
            return f"{value:,}"
        case _:
            return named(value)


def named(value: object) -> str:
    """Return of which kind a value is, in the words of JSON."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case str() | bytes():
            return "a text"
        case list():
            return "a list"
        case dict():
            return "an object"
        case int() | float():
            return "a number"
        case _:
            return "something else"
