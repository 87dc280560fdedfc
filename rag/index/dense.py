"""Exact cosine search with FAISS, on the CPU or on every GPU that faiss sees.

The vectors are unit length, so cosine is the inner product. They come from the store as float16
and are searched exactly; on GPUs they stay float16, which moves a score by less than 1e-3.
"""

from __future__ import annotations

import os
import threading
from typing import Any, Literal

import numpy as np

from rag.errors import ConfigError
from rag.index.allowed import checked, find
from rag.schema import FloatArray, IntArray, Ranking

_GPU_DEPTH = 2048  # FAISS's GPU indexes select no more neighbours; deeper searches run on the CPU
_ONE_THREAD = 200_000_000
"""Multiplications up to which one thread searches: more of them wait for each other at the end, and
where the other cores have work of their own, that takes longer than the search."""

_DECIMALS = 6


class FaissIndex:
    """Implements `DenseIndex` (rag.protocols) on flat FAISS indexes.

    Safe to share between threads: one search or change at a time. A GPU index allows no more,
    and batches of queries in one call are what makes it fast.

    Args:
        dim: Length of a vector.
        device: "cpu"; "gpu" (refused if faiss has none); "auto" (GPU if there is one).
        scratch_mib: Scratch memory of faiss on each GPU, MiB.
        threads: Threads of a large CPU search; 0 for all cores. A small one takes one.

    Raises:
        ConfigError: If `device` is "gpu" and the installed faiss has no GPU.
    """

    def __init__(
        self,
        dim: int,
        *,
        device: Literal["auto", "cpu", "gpu"] = "auto",
        scratch_mib: int = 256,
        threads: int = 0,
    ) -> None:
        import faiss

        self._faiss: Any = faiss
        self.dim = dim
        gpus = 0 if device == "cpu" else gpu_count()  # asking a GPU build without a driver aborts
        if device == "gpu" and gpus == 0:
            raise ConfigError(
                "index_device is gpu, but the installed faiss sees no GPU.",
                do="Install the gpu extra on a machine with CUDA, or set index_device to auto.",
            )
        self.gpus = gpus
        self._threads = threads or os.cpu_count() or 1
        self._scratch = scratch_mib * 1024 * 1024
        self._resources: list[Any] = []
        self._lock = threading.Lock()
        self._ids: IntArray = np.empty(0, np.int64)
        self._sorted: tuple[IntArray, IntArray] | None = None  # ids ascending, their positions
        self._flat: Any = faiss.IndexFlatIP(dim)
        self._on_gpu: Any = None

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, ids: IntArray, vectors: FloatArray) -> None:
        """Add (n,) new ids and their (n, dim) float32 unit vectors.

        Raises:
            ValueError: If the shapes do not fit, an id is there already or twice, or a number is
                not finite (FAISS would answer with rows that do not exist).
        """
        if vectors.shape != (len(ids), self.dim):
            raise ValueError(f"got vectors {vectors.shape}, expected ({len(ids)}, {self.dim})")
        if not np.isfinite(vectors).all():
            raise ValueError("a vector holds numbers that are not finite")
        with self._lock:
            if len(np.unique(ids)) != len(ids) or np.isin(ids, self._ids).any():
                raise ValueError("an id is in the index already, or is given twice")
            self._flat.add(np.ascontiguousarray(vectors, np.float32))
            self._ids = np.concatenate([self._ids, ids.astype(np.int64)])
            self._on_gpu = self._sorted = None

    def remove(self, ids: IntArray) -> int:
        """Remove those of `ids` that are present; return how many were."""
        with self._lock:
            gone = np.isin(self._ids, ids)
            positions = np.flatnonzero(gone).astype(np.int64)
            if len(positions):
                self._flat.remove_ids(self._faiss.IDSelectorBatch(positions))
                self._ids = self._ids[~gone]
                self._on_gpu = self._sorted = None
            return len(positions)

    def search(
        self, queries: FloatArray, top_k: int, allowed: IntArray | None = None
    ) -> list[Ranking]:
        """For each row of (q, dim) unit queries the min(top_k, len) nearest, best first.

        Scores are cosines in [-1, 1], to 6 decimals: the order of summation differs from batch to
        batch, and equal vectors shall have equal scores. Equal ones are ordered by id, and of
        those that are equal at the cut the lowest ids are returned.

        Given `allowed`, (n,) int64 ids that ascend strictly, only those are compared, on the CPU
        always; ids that are not here are ignored.

        Raises:
            ValueError: If top_k < 1, the queries have another length than `dim` or hold numbers
                that are not finite, or `allowed` is not sorted or repeats an id.
        """
        if top_k < 1 or queries.ndim != 2 or queries.shape[1] != self.dim:
            raise ValueError(f"got queries {queries.shape}, top_k {top_k}; dim is {self.dim}")
        if not np.isfinite(queries).all():
            raise ValueError("a query holds numbers that are not finite")
        if allowed is not None:
            checked(allowed)
        queries = np.ascontiguousarray(queries, np.float32)
        found: list[Ranking] = [[] for _ in queries]
        open_rows = np.arange(len(queries))
        with self._lock:
            among = None if allowed is None else self._positions(allowed)
            total = len(self._ids) if among is None else len(among)
            count = min(top_k, total)
            depth = count + 1
            while count and len(open_rows):
                depth = min(depth, total)
                scores, rows = self._nearest(queries[open_rows], depth, among)
                scores, ids = np.round(scores, _DECIMALS), self._ids[rows]
                # FAISS cuts equal scores anywhere: look deeper until the cut is between two values.
                cut = (scores[:, count - 1] == scores[:, -1]) & (depth < total)
                for row in np.flatnonzero(~cut):
                    order = np.lexsort((ids[row], -scores[row]))[:count]
                    found[open_rows[row]] = list(
                        zip(ids[row][order].tolist(), scores[row][order].tolist(), strict=True)
                    )
                open_rows = open_rows[cut]
                depth *= 4
        return found

    def contents(self) -> tuple[IntArray, FloatArray]:
        """Return a copy of everything held: (n,) ids and (n, dim) float32 vectors."""
        with self._lock:
            count = len(self._ids)
            if count == 0:
                return self._ids.copy(), np.empty((0, self.dim), np.float32)
            flat = self._faiss.rev_swig_ptr(self._flat.get_xb(), count * self.dim)
            return self._ids.copy(), np.array(flat, np.float32).reshape(count, self.dim)

    def _nearest(
        self, queries: FloatArray, depth: int, among: IntArray | None
    ) -> tuple[FloatArray, IntArray]:
        """Return two (q, depth) arrays: scores, best first, and positions.

        `depth` is at most the number of vectors compared: beyond it FAISS would return
        position -1.
        """
        compared = len(self._ids) if among is None else len(among)
        small = len(queries) * compared * self.dim < _ONE_THREAD
        self._faiss.omp_set_num_threads(1 if small else self._threads)  # of the calling thread
        if among is None:
            on_gpu = self.gpus and depth <= _GPU_DEPTH
            index = self._gpu_index() if on_gpu else self._flat
            scores, rows = index.search(queries, depth)
        else:
            # Of FAISS's selectors the one that visits the chosen vectors and no others.
            chosen = self._faiss.SearchParameters(sel=self._faiss.IDSelectorArray(among))
            scores, rows = self._flat.search(queries, depth, params=chosen)
        return scores, rows

    def _positions(self, allowed: IntArray) -> IntArray:
        """Return where those of `allowed` that are here lie, ascending."""
        if self._sorted is None:
            order = np.argsort(self._ids, kind="stable").astype(np.int64)
            self._sorted = self._ids[order], order
        ids, order = self._sorted
        present, places = find(allowed, ids)
        return np.sort(order[places[present]])

    def _gpu_index(self) -> Any:  # noqa: ANN401
        """Copy the vectors to the GPUs, sharded over all of them; kept until a change."""
        if self._on_gpu is None:
            if not self._resources:
                for _ in range(self.gpus):
                    resource = self._faiss.StandardGpuResources()
                    resource.setTempMemory(self._scratch)
                    self._resources.append(resource)
            if self.gpus == 1:
                options = self._faiss.GpuClonerOptions()
                options.useFloat16 = True
                self._on_gpu = self._faiss.index_cpu_to_gpu(
                    self._resources[0], 0, self._flat, options
                )
            else:
                options = self._faiss.GpuMultipleClonerOptions()
                options.useFloat16 = True
                options.shard = True
                self._on_gpu = self._faiss.index_cpu_to_gpu_multiple_py(
                    self._resources, self._flat, options
                )
        return self._on_gpu


def gpu_count() -> int:
    """Return how many GPUs the installed faiss can use; 0 for a CPU build."""
    import faiss

    return int(faiss.get_num_gpus()) if hasattr(faiss, "StandardGpuResources") else 0
