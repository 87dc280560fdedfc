"""One request fails inside the model, by bad numbers, memory or anything else: others go on."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_models import SMALL, write_official
from glm_serving import alone, ids_of, submit

from rag.errors import EngineClosed, GenerationFailed, OutOfMemory, YoujuError
from rag.glm.engine import Engine
from rag.glm.generation import Generation, Request
from rag.glm.load import LoadedGlm, load_chatglm3
from rag.glm.rows import RowCache
from rag.glm.sampling import Sampling

LONG, SHORT, OTHER = list(range(5, 25)), [7, 8, 9], [30, 31, 32, 33]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedGlm:
    return load_chatglm3(write_official(tmp_path_factory.mktemp("faults")), "float32")


class Faulty:
    """A model that raises when a text reaches a position, in a batch or alone."""

    def __init__(self, model: Any, error: BaseException, *, at: int, least_rows: int = 1) -> None:
        self.model, self.config = model, model.config
        self.dtype, self.device = model.dtype, model.device
        self.error, self.at, self.least_rows = error, at, least_rows

    def __call__(self, **inputs: Any) -> Any:
        rows = inputs["input_ids"].shape[0]
        if rows >= self.least_rows and int(inputs["position_ids"].max()) >= self.at:
            raise self.error
        return self.model(**inputs)


def serve(model: Any, **more: Any) -> Engine:
    return Engine(model, stop_ids=[], context=SMALL.context, **({"batch": 3} | more))


@pytest.mark.parametrize(
    ("error", "expected", "says"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), OutOfMemory, "generator_batch"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"), OutOfMemory, "Shorten"),
        (MemoryError(), OutOfMemory, "did not suffice"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED"), OutOfMemory, "Shorten"),
        (RuntimeError("x" * 300 + "out of memory"), OutOfMemory, "Shorten"),
        (RuntimeError("mat1 and mat2 shapes"), GenerationFailed, "RuntimeError: mat1"),
        (IndexError("index out of range"), GenerationFailed, "others? requests? go on|go on"),
    ],
)
@pytest.mark.parametrize("at", [10, 24])  # while its prompt is read in; while it is answered
def test_the_one_that_fails_fails_alone(
    loaded: LoadedGlm, error: Exception, expected: type[Exception], says: str, at: int
) -> None:
    engine = serve(Faulty(loaded.model, error, at=at))
    short = submit(engine, SHORT, 6)
    long = submit(engine, LONG, 30)
    other = submit(engine, OTHER, 5)
    with pytest.raises(expected, match=says):
        ids_of(long)
    assert ids_of(short) == alone(loaded.model, SHORT, 6)
    assert ids_of(other) == alone(loaded.model, OTHER, 5)
    assert ids_of(submit(engine, SHORT, 4)) == alone(loaded.model, SHORT, 4)
    assert engine.load == 0
    engine.close()


def test_a_batch_too_large_for_memory_goes_on_one_by_one(loaded: LoadedGlm) -> None:
    engine = serve(Faulty(loaded.model, torch.OutOfMemoryError("x"), at=0, least_rows=2))
    running = [submit(engine, ids, 8) for ids in (SHORT, LONG, OTHER)]
    assert [ids_of(one) for one in running] == [
        alone(loaded.model, ids, 8) for ids in (SHORT, LONG, OTHER)
    ]
    engine.close()


def test_no_memory_for_its_keys_and_values(
    loaded: LoadedGlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = RowCache.reserve

    def scarce(self: RowCache, rows: int, columns: int) -> None:
        if columns > 22:
            raise torch.OutOfMemoryError("CUDA out of memory")
        reserve(self, rows, columns)

    monkeypatch.setattr(RowCache, "reserve", scarce)
    engine = serve(loaded.model)
    running = [submit(engine, ids, 8) for ids in (SHORT, LONG, OTHER)]
    assert ids_of(running[0]) == alone(loaded.model, SHORT, 8)
    with pytest.raises(OutOfMemory):
        ids_of(running[1])
    assert ids_of(running[2]) == alone(loaded.model, OTHER, 8)
    engine.close()


def test_bad_numbers_spoil_nothing_even_in_the_same_row(tmp_path: Path) -> None:
    loaded = load_chatglm3(write_official(tmp_path), "float32")
    loaded.model.model.embed_tokens.weight[299] = float("nan")
    engine = serve(loaded.model, batch=2)
    bad, good = submit(engine, [*LONG, 299], 5), submit(engine, SHORT, 12)
    with pytest.raises(GenerationFailed, match=r"finite.*bfloat16"):
        ids_of(bad)
    # Takes the row of the one that failed, while the other makes the batch wide.
    after = submit(engine, OTHER, 12)
    assert ids_of(good) == alone(loaded.model, SHORT, 12)
    assert ids_of(after) == alone(loaded.model, OTHER, 12)
    engine.close()


def test_bad_numbers_while_answering(loaded: LoadedGlm) -> None:
    class Late(Faulty):
        def __call__(self, **inputs: Any) -> Any:
            out = self.model(**inputs)
            out.logits[inputs["position_ids"][:, -1] >= self.at] = float("inf")
            return out

    engine = serve(Late(loaded.model, RuntimeError(), at=23))
    long, short = submit(engine, LONG, 20), submit(engine, SHORT, 9)
    with pytest.raises(GenerationFailed, match="finite"):
        ids_of(long)
    assert ids_of(short) == alone(loaded.model, SHORT, 9)
    engine.close()


def test_a_sampling_error_is_its_own_request_s(
    loaded: LoadedGlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("probability tensor contains either inf, nan or element < 0")

    monkeypatch.setattr(torch, "multinomial", broken)
    engine = serve(loaded.model)
    sampled = submit(engine, SHORT, 5, sampling=Sampling())
    greedy = submit(engine, SHORT, 5)
    with pytest.raises(GenerationFailed, match="probability tensor"):
        ids_of(sampled)
    assert ids_of(greedy) == alone(loaded.model, SHORT, 5)
    engine.close()


def test_a_request_that_takes_too_long(loaded: LoadedGlm) -> None:
    engine = serve(loaded.model, batch=1)
    late = submit(engine, SHORT, 50, timeout_s=1e-6)
    with pytest.raises(GenerationFailed, match=r"within 1e-06 s.*generator_timeout"):
        ids_of(late)
    assert len(ids_of(submit(engine, SHORT, 3, timeout_s=60))) == 3
    engine.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_nobody_foresaw_leaves_no_one_waiting(loaded: LoadedGlm) -> None:
    taken = threading.Event()

    class Held(Faulty):
        def __call__(self, **inputs: Any) -> Any:
            assert taken.wait(20)
            return super().__call__(**inputs)

    engine = serve(Held(loaded.model, KeyError("foreseen by no one"), at=5), batch=1)
    running, waiting = submit(engine, SHORT, 9), submit(engine, OTHER, 9)
    taken.set()
    for generation in (running, waiting):
        with pytest.raises(EngineClosed, match=r"broke down: KeyError.*foreseen"):
            ids_of(generation)
    with pytest.raises(EngineClosed, match="broke down"):
        submit(engine, SHORT, 1)
    engine.close()


# -- coroutines ------------------------------------------------------------------------------------


async def collected(generation: Any) -> list[int]:
    return [token.id async for token in generation]


async def test_many_coroutines_at_once(loaded: LoadedGlm) -> None:
    engine = serve(loaded.model, queue=20)
    loop = asyncio.get_running_loop()
    prompts = [[first, 9] for first in range(10, 22)]
    running = [engine.submit(Request(ids, 6, Sampling(False)), loop) for ids in prompts]
    made = await asyncio.gather(*map(collected, running))
    assert made == [alone(loaded.model, ids, 6) for ids in prompts]
    engine.close()


def test_an_event_loop_that_is_gone_does_not_stop_the_engine(loaded: LoadedGlm) -> None:
    hold = threading.Event()

    class Held(Faulty):
        def __call__(self, **inputs: Any) -> Any:
            assert hold.wait(20)
            return self.model(**inputs)

    engine = serve(Held(loaded.model, RuntimeError(), at=0))

    async def leave() -> None:
        engine.submit(Request(SHORT, 50, Sampling(False)), asyncio.get_running_loop())

    asyncio.run(leave())
    hold.set()
    assert ids_of(submit(engine, OTHER, 5)) == alone(loaded.model, OTHER, 5)
    engine.close()


def test_rows_are_read_in_one_at_a_time() -> None:
    make: Callable[[], RowCache] = lambda: RowCache(  # noqa: E731
        layers=1, groups=1, head_dim=2, dtype=torch.float32, device=torch.device("cpu"),
        rows=2, columns=8,
    )  # fmt: skip
    with pytest.raises(ValueError, match="one text at a time"):
        make().aim(0, [0, 1], 2)


# -- devices ---------------------------------------------------------------------------------------


def ends_of(running: list[Generation]) -> list[str]:
    """How each ended, but no longer than 20 s."""
    ends: list[str] = []

    def read() -> None:
        for generation in running:
            try:
                ids_of(generation)
            except YoujuError as error:
                ends.append(str(error))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(20)
    return ends


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("at", [4, 10])  # while the first prompt is read in; while it is answered
def test_a_device_that_broke_down_leaves_no_one_waiting(
    loaded: LoadedGlm, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    error = RuntimeError("CUDA error: device-side assert triggered")
    broken, taken = threading.Event(), threading.Event()

    class Held(Faulty):
        def __call__(self, **inputs: Any) -> Any:
            assert taken.wait(20)
            try:
                return super().__call__(**inputs)
            except RuntimeError:
                broken.set()
                raise

    def refusing(name: str) -> Callable[..., None]:
        real = getattr(RowCache, name)

        def call(*given: Any) -> None:
            if broken.is_set():
                raise error
            real(*given)

        return call

    for name in ("drop", "clear", "reserve"):
        monkeypatch.setattr(RowCache, name, refusing(name))
    engine = serve(Held(loaded.model, error, at=at), batch=2)
    running = [submit(engine, [5, 6, 7, 8, 9], 20) for _ in range(4)]
    taken.set()
    ends = ends_of(running)
    assert len(ends) == 4
    assert all("device-side assert" in end for end in ends)
    assert engine.load == 0
    engine.close()


def test_a_failed_pass_holds_no_memory_while_it_is_repeated(loaded: LoadedGlm) -> None:
    made: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []

    class Large(Faulty):
        def __call__(self, **inputs: Any) -> Any:
            alive.append(sum(one() is not None for one in made))
            if inputs["input_ids"].shape[0] > 1:
                activations = torch.zeros(1_000)
                made.append(weakref.ref(activations))
                raise self.error
            return self.model(**inputs)

    engine = serve(Large(loaded.model, torch.OutOfMemoryError("x"), at=0))
    running = [submit(engine, ids, 4) for ids in (SHORT, OTHER)]
    assert [len(ids_of(one)) for one in running] == [4, 4]
    engine.close()
    assert made
    assert max(alive) == 0
