"""The default embedder: a converted model on the CPU, without PyTorch.

The graph does pooling and normalisation (see convert.py). Texts are sorted by length and batched
by a budget of tokens, so little is computed on padding. It knows nothing of chunks or stores.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rag.embed.batches import batches, padded_width
from rag.embed.convert import converted
from rag.embed.hub import first_line
from rag.embed.model import EmbeddingModel, as_unit_rows
from rag.embed.packaged import packaged_model
from rag.embed.quiet import import_openvino
from rag.embed.tokens import TokenizerTokens
from rag.errors import ModelError
from rag.schema import FloatArray

Precision = Literal["auto", "f32", "bf16"]

WINDOW = 2048
"""Texts tokenized and sorted together."""


class OpenVinoEmbedder:
    """`Embedder` (rag.protocols) on OpenVINO. Safe to share between threads: one batch at a time.

    Nothing heavy happens before the first text is encoded (or `prepare` is called): then the model
    is converted if the cache lacks it, which takes seconds and happens once, and loaded.

    Args:
        cache_dir: Folder of converted models.
        model: A model of transformer, mean or cls pooling; None: the packaged one.
        precision: Arithmetic of the layers; "auto": bf16 where the processor has it, else f32.
        threads: Most threads of a batch; 0: one for each core.
        batch_tokens: Tokens of a batch, padding included, > 0. More is not faster beyond some
            thousands, and takes memory.

    Raises:
        ModelError: If the packaged model is not installed.
        ValueError: If a number is out of range.
    """

    def __init__(
        self,
        cache_dir: Path,
        *,
        model: EmbeddingModel | None = None,
        precision: Precision = "auto",
        threads: int = 0,
        batch_tokens: int = 4096,
    ) -> None:
        if threads < 0 or batch_tokens < 1:
            raise ValueError(f"threads {threads} must be >= 0, batch_tokens {batch_tokens} >= 1")
        self._model = model or packaged_model()
        self._cache_dir = cache_dir
        self._precision = precision
        self._threads = threads
        self._batch_tokens = batch_tokens
        self._lock = threading.Lock()
        self._loaded: Any = None

    @property
    def fingerprint(self) -> str:
        """Model, weights, dimension, pooling, length and prompts; see `EmbeddingModel`."""
        return self._model.fingerprint

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._model.dim

    @cached_property
    def tokens(self) -> TokenizerTokens:
        """The model's view of text, which needs no weights."""
        return TokenizerTokens(self._model.folder / "tokenizer.json", self._model.max_tokens)

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Return (n, dim) float32, unit rows, in the order of `texts`; n may be 0.

        Raises:
            ModelError: If the model cannot be converted, loaded or run.
            StorageError: If it must be converted and the cache folder cannot be written.
        """
        return self._encode(texts, self._model.query_prompt)

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return (n, dim) float32 like `encode_queries`, with the passages' own prompt."""
        return self._encode(texts, self._model.passage_prompt)

    def prepare(self) -> None:
        """Convert the model if need be and load it now; raises as `encode_queries`."""
        with self._lock:
            self._request()

    def _encode(self, texts: Sequence[str], prompt: str) -> FloatArray:
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        for start in range(0, len(texts), WINDOW):
            ids = self.tokens.encode([prompt + text for text in texts[start : start + WINDOW]])
            for batch in batches([len(row) for row in ids], self._batch_tokens):
                found = self._infer([ids[place] for place in batch])
                vectors[[start + place for place in batch]] = found
        return as_unit_rows(vectors, self._model.name) if len(texts) else vectors

    def _infer(self, rows: list[NDArray[np.int64]]) -> FloatArray:
        width = min(padded_width(max(map(len, rows))), self._model.max_tokens)
        ids = np.zeros((len(rows), width), dtype=np.int64)
        mask = np.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        with self._lock:
            request = self._request()
            try:
                found = request.infer({0: ids, 1: mask}, share_inputs=True, share_outputs=True)[0]
            except RuntimeError as error:
                raise ModelError(
                    f"The model {self._model.name} failed: {first_line(error)}.",
                    do="Lower embedder_batch_tokens if memory is short.",
                ) from error
            return np.array(found, dtype=np.float32)

    def _request(self) -> Any:  # noqa: ANN401  an untyped library
        """Return the loaded model; the lock is held."""
        if self._loaded is None:
            graph = converted(self._model, self._cache_dir)
            core = import_openvino().Core()
            try:
                options = self._options(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
                self._loaded = core.compile_model(graph, "CPU", options).create_infer_request()
            except RuntimeError as error:
                raise ModelError(
                    f"Cannot load the converted model {graph}: {first_line(error)}.",
                    do=f"Remove {graph.parent}; it is made again.",
                ) from error
        return self._loaded

    def _options(self, capabilities: Sequence[str]) -> dict[str, str | int | bool]:
        has_bf16 = "BF16" in capabilities
        if self._precision == "bf16" and not has_bf16:
            raise ModelError(
                "This processor has no bf16 arithmetic.", do="Set embedder_precision to auto."
            )
        use_bf16 = has_bf16 and self._precision != "f32"
        options: dict[str, str | int | bool] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if use_bf16 else "f32",
            "ENABLE_CPU_PINNING": False,  # other processes use the same cores
        }
        if self._threads:
            options["INFERENCE_NUM_THREADS"] = self._threads
        return options
