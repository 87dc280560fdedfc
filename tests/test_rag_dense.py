"""FaissIndex: the conformance suite, brute force as the reference, ties, refusals, threads, GPU."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import ConfigError
from rag.index.dense import FaissIndex, gpu_count
from rag.schema import FloatArray, IntArray, Ranking
from rag.testing import check_dense_index

DIM = 4
VECTORS = st.tuples(*[st.integers(-2, 2)] * DIM)
"""Small whole numbers: inner products are exact, and ties are frequent."""
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.dictionaries(st.integers(1, 40), VECTORS, max_size=12)),
        st.tuples(st.just("remove"), st.lists(st.integers(1, 40), max_size=12)),
    ),
    max_size=8,
)


def cpu(dim: int = DIM) -> FaissIndex:
    return FaissIndex(dim, device="cpu")


def arrays(rows: dict[int, tuple[int, ...]]) -> tuple[IntArray, FloatArray]:
    ids = np.array(list(rows), np.int64)
    return ids, np.array(list(rows.values()), np.float32).reshape(len(rows), DIM)


def brute_force(held: dict[int, tuple[int, ...]], query: tuple[int, ...], k: int) -> Ranking:
    scored = [
        (key, float(sum(a * b for a, b in zip(row, query, strict=True))))
        for key, row in held.items()
    ]
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:k]


def unit_rows(count: int, dim: int, seed: int) -> FloatArray:
    rows = np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def test_conforms() -> None:
    check_dense_index(cpu)


@settings(max_examples=80, deadline=None)
@given(OPERATIONS, st.lists(VECTORS, min_size=1, max_size=25), st.integers(1, 45))
def test_equals_brute_force_after_any_changes(
    operations: list[tuple[str, object]], queries: list[tuple[int, ...]], top_k: int
) -> None:
    index = cpu()
    held: dict[int, tuple[int, ...]] = {}
    for kind, what in operations:
        if kind == "add":
            assert isinstance(what, dict)
            new = {key: row for key, row in what.items() if key not in held}
            index.add(*arrays(new))
            held |= new
        else:
            assert isinstance(what, list)
            gone = {key for key in what if key in held}
            assert index.remove(np.array(what, np.int64)) == len(gone)
            held = {key: row for key, row in held.items() if key not in gone}

    assert len(index) == len(held)
    found = index.search(np.array(queries, np.float32), top_k)
    assert found == [brute_force(held, query, top_k) for query in queries]
    ids, vectors = index.contents()
    assert dict(zip(ids.tolist(), map(tuple, vectors.tolist()), strict=True)) == held


@pytest.mark.parametrize("queries", [1, 19, 20, 50])
@pytest.mark.parametrize("top_k", [1, 99, 100, 128, 700])
def test_equal_vectors_are_cut_at_the_lowest_ids(queries: int, top_k: int) -> None:
    """FAISS has several code paths, by batch size and depth, each with its own way with ties."""
    dim = 48
    index = cpu(dim)
    kinds = unit_rows(7, dim, 3)
    ids = np.random.default_rng(4).permutation(1000).astype(np.int64) + 1
    index.add(ids, kinds[ids % 7])

    asked = unit_rows(queries, dim, 5)
    for query, ranking in zip(asked, index.search(asked, top_k), strict=True):
        by_kind = np.argsort(-(kinds @ query), kind="stable")
        expected = [key for kind in by_kind for key in sorted(ids[ids % 7 == kind].tolist())]
        assert [key for key, _ in ranking] == expected[:top_k]


def test_a_change_that_is_refused_changes_nothing() -> None:
    index = cpu()
    index.add(*arrays({1: (1, 0, 0, 0), 2: (0, 1, 0, 0)}))

    with pytest.raises(ValueError, match="already"):
        index.add(*arrays({3: (0, 0, 1, 0), 2: (0, 0, 0, 1)}))

    assert len(index) == 2
    assert index.search(np.eye(4, dtype=np.float32)[:1], 9) == [[(1, 1.0), (2, 0.0)]]


def test_neither_nan_nor_infinity_comes_in() -> None:
    index = cpu()
    index.add(*arrays({1: (1, 0, 0, 0)}))

    for bad in (np.nan, np.inf, -np.inf):
        rows = np.full((1, DIM), bad, np.float32)
        with pytest.raises(ValueError, match="not finite"):
            index.add(np.array([2]), rows)
        with pytest.raises(ValueError, match="not finite"):
            index.search(rows, 1)


def test_the_caller_keeps_its_arrays() -> None:
    index = cpu()
    ids, vectors = arrays({1: (1, 0, 0, 0), 2: (0, 1, 0, 0)})
    index.add(ids, vectors)
    ids[:] = 7
    vectors[:] = 0
    copied_ids, copied = index.contents()
    copied_ids[:] = 8
    copied[:] = 0

    assert index.search(np.eye(4, dtype=np.float32)[:1], 1) == [[(1, 1.0)]]


def test_threads_may_search_and_change_at_once() -> None:
    dim = 32
    index = cpu(dim)
    fixed = unit_rows(200, dim, 6)
    index.add(np.arange(1, 201, dtype=np.int64), fixed)
    coming = unit_rows(50, dim, 7)
    stop = threading.Event()

    def change() -> None:
        ids = np.arange(1001, 1051, dtype=np.int64)
        while not stop.is_set():
            index.add(ids, coming)
            index.remove(ids)

    def ask(start: int) -> bool:
        return all(
            index.search(fixed[row : row + 1], 1)[0][0][0] == row + 1
            for row in range(start, start + 25)
        )

    changer = threading.Thread(target=change)
    changer.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(ask, range(0, 200, 25)))
    finally:
        stop.set()
        changer.join()
    assert len(index) == 200


def test_without_a_gpu_auto_is_the_cpu_and_gpu_is_refused() -> None:
    if gpu_count():
        pytest.skip("this machine has a GPU")
    assert FaissIndex(DIM, device="auto").gpus == 0
    with pytest.raises(ConfigError, match="sees no GPU"):
        FaissIndex(DIM, device="gpu")


def test_importing_the_module_does_not_import_faiss() -> None:
    code = "import sys, rag.index.dense; sys.exit('faiss' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.gpu
def test_gpu_conforms() -> None:
    check_dense_index(lambda dim: FaissIndex(dim, device="gpu"))


@pytest.mark.gpu
def test_gpu_equals_cpu_from_several_threads_while_it_changes() -> None:
    dim = 384
    rows = unit_rows(20_000, dim, 8).astype(np.float16).astype(np.float32)
    ids = np.arange(1, len(rows) + 1, dtype=np.int64)
    on_gpu, on_cpu = FaissIndex(dim, device="gpu", scratch_mib=64), cpu(dim)
    for index in (on_gpu, on_cpu):
        index.add(ids[:15_000], rows[:15_000])
        index.remove(ids[:100])
        index.add(ids[15_000:], rows[15_000:])
    queries = unit_rows(64, dim, 9)
    expected = on_cpu.search(queries, 100)

    def ask(first: int) -> list[Ranking]:
        return on_gpu.search(queries[first : first + 8], 100)

    with ThreadPoolExecutor(8) as pool:
        found = [ranking for part in pool.map(ask, range(0, 64, 8)) for ranking in part]

    for here, there in zip(found, expected, strict=True):
        scores = np.array([score for _, score in here]), np.array([score for _, score in there])
        assert np.abs(scores[0] - scores[1]).max() <= 1e-3
        assert {key for key, _ in here[:50]} <= {key for key, _ in there}


@pytest.mark.gpu
def test_gpu_answers_deeper_than_its_own_limit() -> None:
    index = FaissIndex(32, device="gpu")
    index.add(np.arange(1, 5001, dtype=np.int64), unit_rows(5000, 32, 10))

    assert [len(ranking) for ranking in index.search(unit_rows(2, 32, 11), 3000)] == [3000, 3000]
