"""Lists in pages: by age, from a cursor, newest or oldest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from sqlalchemy import Select, tuple_
from sqlalchemy.orm import InstrumentedAttribute, Session

from rag.errors import CursorError
from rag.store.ids import made_at

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Slice:
    """Which part of a list is wanted.

    Attributes:
        limit: At most so many, >= 1.
        order: "desc" has the newest first.
        after, before: Ids of objects of the same list; "" for none.
    """

    limit: int = 20
    order: Literal["asc", "desc"] = "desc"
    after: str = ""
    before: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and whether more follows."""

    items: Sequence[T]
    has_more: bool


def read_page(
    session: Session,
    query: Select[T],
    age: tuple[InstrumentedAttribute[Any], InstrumentedAttribute[Any]],
    part: Slice,
    *,
    among: Select[T] | None = None,
    prefix: str = "",
) -> Page[T]:
    """Read one page of what a query selects.

    Args:
        session: To read with.
        query: Selects rows, in no order.
        age: The column of the creation time and that of the id, by which they are ordered.
        part: Which page.
        among: Where `after` and `before` may lie, if that is more than the query: an object that
            an earlier page held may have left the list since.
        prefix: That of the objects' ids, where these tell when the objects were made: one that has
            been deleted, or never was, then still says where in the list it would be.

    Raises:
        CursorError: If `after` or `before` is no object of the list, nor could have been one.
    """
    backwards = bool(part.before and not part.after)
    ascending = (part.order == "asc") != backwards
    places = (query if among is None else among).with_only_columns(*age)
    for name, cursor in (("after", part.after), ("before", part.before)):
        if not cursor:
            continue
        found_at = session.execute(places.where(age[1] == cursor)).first()
        place = _place(cursor, prefix) if found_at is None else tuple(found_at)
        if place is None:
            raise CursorError(
                f"{name}: got {cursor[:80]!r}, which is not in this list.",
                do="Give the id of an object that an earlier page of the same list held, "
                "or none if what that page held is gone.",
            )
        larger = (name == "after") == (part.order == "asc")
        key = tuple_(*age)
        query = query.where(key > place if larger else key < place)
    order = [column.asc() if ascending else column.desc() for column in age]
    found = list(session.scalars(query.order_by(*order).limit(part.limit + 1)))
    items = found[: part.limit]
    return Page(items[::-1] if backwards else items, len(found) > part.limit)


def _place(cursor: str, prefix: str) -> tuple[int, str] | None:
    """Return where in a list by age an object would be, if its id tells; else None."""
    made = made_at(cursor, prefix) if prefix else None
    return None if made is None else (made, cursor)
