"""What is made on first use is made once, however many threads ask for it."""

from __future__ import annotations

import threading
import time

import pytest

from rag.build import Rag
from rag.once import once


class _Slow:
    def __init__(self) -> None:
        self.made: list[object] = []

    @once
    def part(self) -> object:
        time.sleep(0.05)
        self.made.append(object())
        return self.made[-1]


def test_threads_that_ask_at_once_get_the_same() -> None:
    slow = _Slow()
    got: list[object] = []
    threads = [threading.Thread(target=lambda: got.append(slow.part)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(slow.made) == 1
    assert got == slow.made * 8
    assert _Slow().part is not slow.part


def test_it_can_be_set_and_is_made_again_after_a_fault() -> None:
    class Faulty(_Slow):
        @once
        def other(self) -> int:
            self.made.append(0)
            if len(self.made) == 1:
                raise ValueError
            return 7

    faulty = Faulty()
    with pytest.raises(ValueError):
        _ = faulty.other
    assert faulty.other == 7
    faulty.other = 8
    assert faulty.other == 8
    assert isinstance(Faulty.other, once)


@pytest.mark.parametrize("name", ["db", "embedder", "analyzer", "answerer", "talker", "_generator"])
def test_the_heavy_parts_are_such(name: str) -> None:
    assert isinstance(vars(Rag)[name], once)
