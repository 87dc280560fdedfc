"""A property that is made once for an object, also when several threads ask for it at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar, overload

T = TypeVar("T")


class once(cached_property[T]):
    """`functools.cached_property`, which from Python 3.12 on may run twice in two threads.

    What it makes must not ask for the same property; while one thread makes it, the same property
    of other objects waits, too.
    """

    def __init__(self, func: Callable[[Any], T]) -> None:
        super().__init__(func)
        self._making = threading.RLock()

    @overload
    def __get__(self, instance: None, owner: type[Any] | None = None) -> once[T]: ...

    @overload
    def __get__(self, instance: object, owner: type[Any] | None = None) -> T: ...

    def __get__(self, instance: object | None, owner: type[Any] | None = None) -> once[T] | T:
        """Return what was made, made now if it was not."""
        if instance is None:
            return self
        with self._making:
            return super().__get__(instance, owner)
