"""Embedders of any make through sentence-transformers and PyTorch, on a GPU where there is one.

Never runs code from a model's folder and never unpickles weights. With the packaged model its
vectors equal those of rag/embed/openvino.py, and so does its fingerprint.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rag.embed.batches import batches
from rag.embed.hub import find_model, first_line, loading
from rag.embed.model import EmbeddingModel, as_unit_rows, read_model
from rag.embed.packaged import packaged_model
from rag.embed.quiet import quiet_transformers
from rag.embed.tokens import TokenizerTokens, well_formed
from rag.errors import ModelError
from rag.schema import FloatArray

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "f32", "bf16", "f16"]

WINDOW = 4096
"""Texts sorted together."""
UNUSED = ("pooler.",)
"""Weights an embedder does not need: it pools by itself."""


class TorchEmbedder:
    """`Embedder` (rag.protocols) on PyTorch. Safe to share between threads: one batch at a time.

    Nothing heavy happens before the first text is encoded (or `prepare` is called).

    Args:
        model: A folder, or a name on the model hub, which is downloaded if need be; "": the
            packaged model.
        device: "auto" (a CUDA device if there is one), "cpu", "cuda" or "cuda:N".
        precision: Arithmetic of the layers; "auto": f32 on the CPU, else bf16, or f16 on a GPU
            without it.
        query_prompt: Text put before each query; None: what the model's folder names.
        passage_prompt: The same for passages.
        batch_tokens: Tokens of a batch, padding included, > 0; estimated from the texts' bytes.
            A batch that does not fit into the GPU's memory is halved until it does.

    Raises:
        ValueError: If `batch_tokens` is out of range.
    """

    def __init__(
        self,
        model: str = "",
        *,
        device: str = "auto",
        precision: Precision = "auto",
        query_prompt: str | None = None,
        passage_prompt: str | None = None,
        batch_tokens: int = 4096,
    ) -> None:
        if batch_tokens < 1:
            raise ValueError(f"batch_tokens {batch_tokens} must be >= 1")
        self._wanted = model
        self._device = device
        self._precision = precision
        self._prompts = (query_prompt, passage_prompt)
        self._batch_tokens = batch_tokens
        self._lock = threading.RLock()
        self._loaded: Any = None

    @property
    def fingerprint(self) -> str:
        """Model, weights, dimension, pooling, length and prompts; see `EmbeddingModel`.

        Raises:
            ModelError: If the model cannot be had.
        """
        return self.model.fingerprint

    @property
    def dim(self) -> int:
        """Length of a vector; raises as `fingerprint`."""
        return self.model.dim

    @cached_property
    def model(self) -> EmbeddingModel:
        """The model's description; its weights are read once, for the digest.

        Raises:
            ModelError: If the model cannot be had or is of a make that is not accepted.
        """
        query, passage = self._prompts
        if not self._wanted:
            return packaged_model(query_prompt=query, passage_prompt=passage)
        name, folder = find_model(self._wanted)
        return read_model(folder, name=name, query_prompt=query, passage_prompt=passage)

    @cached_property
    def tokens(self) -> TokenizerTokens:
        """The model's view of text, which needs no weights; raises as `fingerprint`."""
        file = self.model.folder / "tokenizer.json"
        if file.exists():
            return TokenizerTokens(file, self.model.max_tokens)
        with loading(self.model.name):  # only a vocabulary, which transformers can convert
            from transformers import AutoTokenizer

            with quiet_transformers():
                slow = AutoTokenizer.from_pretrained(
                    str(self.model.folder), local_files_only=True, trust_remote_code=False
                )
            return TokenizerTokens(slow.backend_tokenizer.to_str(), self.model.max_tokens)

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Return (n, dim) float32, unit rows, in the order of `texts`; n may be 0.

        Raises:
            ModelError: If the model cannot be had, loaded or run.
        """
        return self._encode(texts, self.model.query_prompt)

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return (n, dim) float32 like `encode_queries`, with the passages' own prompt."""
        return self._encode(texts, self.model.passage_prompt)

    def prepare(self) -> None:
        """Load the model now; raises as `encode_queries`."""
        with self._lock:
            self._network()

    def _encode(self, texts: Sequence[str], prompt: str) -> FloatArray:
        vectors = np.zeros((len(texts), self.dim), dtype=np.float32)
        longest = self.model.max_tokens
        for start in range(0, len(texts), WINDOW):
            readable = [
                self.tokens.readable(prompt + text)[len(prompt) :]
                for text in texts[start : start + WINDOW]
            ]
            estimates = [min(longest, len(text.encode()) // 3 + 2) for text in readable]
            for batch in batches(estimates, self._batch_tokens):
                found = self._infer([readable[place] for place in batch], prompt)
                vectors[[start + place for place in batch]] = found
        return as_unit_rows(vectors, self.model.name) if len(texts) else vectors

    def _infer(self, texts: list[str], prompt: str) -> FloatArray:
        import torch

        with self._lock:
            network = self._network()
            try:
                found = network.encode(
                    texts,
                    prompt=well_formed(prompt),
                    batch_size=len(texts),
                    convert_to_tensor=True,
                    show_progress_bar=False,
                )
                return np.asarray(found.float().cpu().numpy(), dtype=np.float32)
            except torch.OutOfMemoryError as error:
                if len(texts) == 1:
                    raise ModelError(
                        f"{self.model.name} does not fit into the GPU's memory.",
                        do="Use a smaller model or embedder_device cpu.",
                    ) from error
            except RuntimeError as error:
                raise ModelError(f"{self.model.name} failed: {first_line(error)}.") from error
        half = len(texts) // 2
        return np.concatenate(
            [self._infer(texts[:half], prompt), self._infer(texts[half:], prompt)]
        )

    def _network(self) -> Any:  # noqa: ANN401  an untyped library
        """Return the loaded model; the lock is held."""
        if self._loaded is None:
            with loading(self.model.name):
                from sentence_transformers import SentenceTransformer

                device = pick_device(self._device)
                with quiet_transformers() as log:
                    network = SentenceTransformer(
                        str(self.model.folder),
                        device=device,
                        trust_remote_code=False,
                        local_files_only=True,
                        model_kwargs={
                            "dtype": pick_dtype(self._precision, device),
                            "use_safetensors": True,
                        },
                    )
                log.require_all(self.model.name, unused=UNUSED)
                network.max_seq_length = self.model.max_tokens
                # A text that spells "[SEP]" is text.
                network.tokenizer.split_special_tokens = True
            self._loaded = network.eval()
        return self._loaded


def pick_device(wanted: str) -> str:
    """Return "cpu" or a CUDA device for "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ModelError: If a CUDA device is wanted and there is none.
    """
    import torch

    available = torch.cuda.is_available()
    if wanted == "auto":
        return "cuda" if available else "cpu"
    if wanted != "cpu" and not available:
        raise ModelError(
            f"The device {wanted} is wanted, and PyTorch finds none.", do="Set the device to auto."
        )
    return wanted


def pick_dtype(wanted: Precision, device: str) -> torch.dtype:
    """Return the data type of a model's layers on a device; see `TorchEmbedder`."""
    import torch

    if wanted == "auto":
        if device == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[wanted]
