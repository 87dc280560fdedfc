"""Rerankers: a cross-encoder in this process, or a server like text-embeddings-inference.

Both read the query and a passage together and return one score each; they do not sort or cut.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from rag.embed.hub import find_model, first_line, loading
from rag.embed.model import safetensors_files
from rag.embed.quiet import quiet_transformers
from rag.embed.tokens import CHARS_PER_TOKEN, well_formed
from rag.embed.torch import Precision, pick_device, pick_dtype
from rag.errors import ModelError
from rag.schema import FloatArray

_MOST_TOKENS = 8192
_LARGEST = 1e30  # fits into float32


class CrossEncoderReranker:
    """`Reranker` (rag.protocols) on sentence-transformers. Safe to share between threads.

    The model is loaded when it is first used. No code from its folder is run, no pickle read.

    Args:
        model: A folder, or a name on the model hub such as "BAAI/bge-reranker-v2-m3".
        device: "auto" (a CUDA device if there is one), "cpu", "cuda" or "cuda:N".
        precision: Arithmetic of the layers; "auto": f32 on the CPU, bf16 or f16 on a GPU.
        batch_size: Pairs read together, > 0.
    """

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        batch_size: int = 32,
    ) -> None:
        self._wanted = model
        self._device = device
        self._precision = precision
        self._batch_size = batch_size
        self._lock = threading.Lock()
        self._loaded: Any = None

    def rerank(self, query: str, texts: Sequence[str]) -> FloatArray:
        """Return (n,) float32 in the order of `texts`: the model's logits, higher is better.

        Raises:
            ModelError: If the model cannot be had, loaded or run, or is no ranking model.
        """
        if not texts:
            return np.zeros(0, dtype=np.float32)
        import torch

        with self._lock:
            network = self._network()
            chars = min(network.max_seq_length or _MOST_TOKENS, _MOST_TOKENS) * CHARS_PER_TOKEN
            pairs = [(_cut(query, chars), _cut(text, chars)) for text in texts]
            try:
                scores = network.predict(
                    pairs,
                    batch_size=self._batch_size,
                    activation_fn=torch.nn.Identity(),
                    convert_to_tensor=True,
                    show_progress_bar=False,
                )
            except RuntimeError as error:
                raise ModelError(
                    f"The reranker {self._wanted} failed: {first_line(error)}.",
                    do="Lower reranker_depth if memory is short.",
                ) from error
        return _finite(scores.float().cpu().numpy(), self._wanted)

    def _network(self) -> Any:  # noqa: ANN401  an untyped library
        """Return the loaded model; the lock is held."""
        if self._loaded is None:
            _, folder = find_model(self._wanted)
            safetensors_files(folder)
            with loading(self._wanted):
                from sentence_transformers import CrossEncoder

                device = pick_device(self._device)
                with quiet_transformers() as log:
                    network = CrossEncoder(
                        str(folder),
                        device=device,
                        trust_remote_code=False,
                        local_files_only=True,
                        model_kwargs={
                            "dtype": pick_dtype(self._precision, device),
                            "use_safetensors": True,
                        },
                    )
                log.require_all(self._wanted)
                network.tokenizer.split_special_tokens = True
            if network.num_labels != 1:
                raise ModelError(
                    f"{self._wanted} gives {network.num_labels} scores for a pair, expected 1.",
                    do="Take a cross-encoder made for ranking.",
                )
            self._loaded = network.eval()
        return self._loaded


class EndpointReranker:
    """`Reranker` (rag.protocols) on a server with POST /rerank. Safe to share between threads.

    Args:
        url: The server's base URL, with or without the final /rerank.
        api_key: Sent as a bearer token if not empty.
        timeout: Seconds to wait for a connection, and for each answer.
        batch: Most texts of one request, > 0; text-embeddings-inference allows 32 unless told
            otherwise.
    """

    def __init__(
        self, url: str, *, api_key: str = "", timeout: float = 30.0, batch: int = 32
    ) -> None:
        base = url.rstrip("/")
        self._url = base if base.endswith("/rerank") else f"{base}/rerank"
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout = timeout
        self._batch = batch

    def rerank(self, query: str, texts: Sequence[str]) -> FloatArray:
        """Return (n,) float32 in the order of `texts`: the server's scores, higher is better.

        Raises:
            ModelError: If the server cannot be reached, is too slow, refuses, or answers anything
                but one finite score for each text.
        """
        import httpx

        scores: list[float] = []
        try:
            with httpx.Client(headers=self._headers, timeout=self._timeout) as client:
                for start in range(0, len(texts), self._batch):
                    part = texts[start : start + self._batch]
                    body = {
                        "query": well_formed(query),
                        "texts": [well_formed(text) for text in part],
                        "truncate": True,
                    }
                    response = client.post(self._url, json=body)
                    if response.status_code != 200:
                        raise self._error(f"answered {response.status_code}", response.text)
                    scores += self._scores(response.text, len(part))
        except httpx.TimeoutException as error:
            raise ModelError(
                f"The reranker at {self._url} did not answer within {self._timeout:g} s.",
                do="Check the server, or lower reranker_depth.",
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ModelError(
                f"Cannot reach the reranker at {self._url}: {first_line(error)}.",
                do="Check reranker_url and the server.",
            ) from error
        return _finite(np.array(scores, dtype=np.float32), self._url)

    def _scores(self, text: str, expected: int) -> list[float]:
        """Return the scores in the order of the texts."""
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            raise self._error("answered no JSON", text) from None
        found: dict[int, float] = {}
        for entry in answer if isinstance(answer, list) else []:
            index, score = _index_and_score(entry)
            if index in found and index >= 0:
                raise self._error(f"scored text {index} twice", text)
            found[index] = score
        if found.keys() != set(range(expected)) or not all(map(math.isfinite, found.values())):
            raise self._error(f"gave no finite score for each of {expected} texts", text)
        return [found[index] for index in range(expected)]

    def _error(self, what: str, body: str) -> ModelError:
        shown = " ".join(body.split())[:200] or "nothing"
        return ModelError(
            f"The reranker at {self._url} {what}: {shown}",
            do='(expected a list of {"index", "score"}). Check reranker_url and the server\'s log.',
        )


def _index_and_score(entry: Any) -> tuple[int, float]:  # noqa: ANN401  anything JSON can say
    """Return what an entry says; (-1, NaN) for one that is not of the expected form."""
    if not isinstance(entry, dict):
        return -1, math.nan
    index, score = entry.get("index"), entry.get("score")
    if isinstance(index, bool) or not isinstance(index, int):
        return -1, math.nan
    if isinstance(score, bool) or not isinstance(score, int | float) or abs(score) > _LARGEST:
        return -1, math.nan
    return index, float(score)


def _cut(text: str, chars: int) -> str:
    return well_formed(text[:chars])


def _finite(scores: FloatArray, name: str) -> FloatArray:
    if not np.all(np.isfinite(scores)):
        raise ModelError(
            f"The reranker {name} gave a score that is no number.", do="Set its precision to f32."
        )
    return np.asarray(scores, dtype=np.float32)
