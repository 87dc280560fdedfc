"""What several groups of routes share: strict bodies, lists in pages, errors, metadata."""

from __future__ import annotations

import re
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Query
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from api.wording import shown

T = TypeVar("T")
_HALF = re.compile("[\ud800-\udfff]")


class Body(BaseModel):
    """A request: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Shown(BaseModel):
    """A response."""

    model_config = ConfigDict(extra="forbid")


class ErrorDetail(Shown):
    """What went wrong: `message` for people, `code` for programs, `param` names the field."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorShown(Shown):
    """The shape of every error."""

    error: ErrorDetail


def storable(text: str) -> str:
    """Return a text that every database and every answer can hold.

    Raises:
        ValueError: If it has a NUL character, or half a surrogate pair.
    """
    if "\0" in text:
        raise ValueError("a NUL character is not allowed")
    if _HALF.search(text):
        raise ValueError("half of a surrogate pair is not allowed")
    return text


def _number(value: object) -> object:
    if isinstance(value, str | bool):
        raise ValueError(f"expected a number, got {shown(value)}")
    return value


def _truth(value: object) -> object:
    if not isinstance(value, bool):
        raise ValueError(f"expected true or false, got {shown(value)}")
    return value


def _attribute(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """Check an attribute; say what it may be, not only what the last of the forms is."""
    try:
        return check(value)
    except ValidationError as error:
        own = [one["msg"] for one in error.errors() if one["type"] == "value_error"]
        said = own[0].removeprefix("Value error, ") if own else _ATTRIBUTE
        raise ValueError(said) from None


def _absent(value: object) -> object:
    if value is not None and value != []:
        raise ValueError("not supported: leave it out")
    return value


_ATTRIBUTE = "expected a text of at most 512 characters, a number or a boolean"
ABSENT = BeforeValidator(_absent)
"""Of a field that is known and may only be empty."""

Flag = Annotated[bool, Strict()]
NUMBER = BeforeValidator(_number)
TRUTH = BeforeValidator(_truth)
"""A body has types: "1" and true are no numbers, 1 is no truth value."""

_PATTERN = r"^[^\u0000]*$"
_NO_NUL = Field(json_schema_extra={"pattern": _PATTERN})
_KEYS: dict[str, Any] = {"propertyNames": {"maxLength": 64, "pattern": _PATTERN}}

PlainText = Annotated[str, AfterValidator(storable), _NO_NUL]
MetadataKey = Annotated[str, StringConstraints(max_length=64), AfterValidator(storable)]
MetadataText = Annotated[PlainText, StringConstraints(max_length=512)]
Metadata = Annotated[
    dict[MetadataKey, MetadataText],
    Field(
        max_length=16,
        description="Up to 16 texts of your own, by name.",
        json_schema_extra=_KEYS,
    ),
]
Attributes = Annotated[
    dict[MetadataKey, Annotated[bool | int | float | MetadataText, WrapValidator(_attribute)]],
    Field(
        max_length=16,
        description="Up to 16 texts, numbers or booleans that filters can use.",
        json_schema_extra=_KEYS,
    ),
]
ObjectId = Annotated[PlainText, StringConstraints(min_length=1, max_length=64)]

Limit = Annotated[int, Query(ge=1, le=100, description="At most so many.")]
Order = Annotated[Literal["asc", "desc"], Query(description="By age; desc: newest first.")]
After = Annotated[PlainText, Query(max_length=64, description="Go on after the object of this id.")]
Before = Annotated[
    PlainText, Query(max_length=64, description="Go back from the object of this id.")
]


class Listing(Shown, Generic[T]):
    """A page of a list; `last_id` is the next page's `after`."""

    object: Literal["list"] = "list"
    data: list[T]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class Deleted(Shown):
    """What is gone."""

    id: str
    object: str
    deleted: Literal[True] = True


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorShown, "description": text}
    for status, text in {
        400: "The request is wrong; `param` names the field.",
        401: "No valid API key.",
        403: "The key may not do this, or the quota is used up.",
        404: "There is no such object.",
        408: "The request took too long to arrive.",
        409: "The object is in a state that does not allow this.",
        413: "Too large.",
        415: "Of a type that is not supported.",
        429: "Too many requests; see the header Retry-After.",
        500: "The server failed.",
        502: "A model that the server asks failed.",
        503: "Not possible now; see the header Retry-After.",
    }.items()
}
"""Answers that any route may give."""
