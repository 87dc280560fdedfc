"""What a model folder says about itself, read without loading weights or any engine.

A folder in the layout of sentence-transformers (modules.json) or a plain encoder (mean pooling).
Only safetensors weights and the library's own modules are accepted: nothing in a folder is run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rag.errors import ModelError
from rag.schema import FloatArray

_MODULES = frozenset({"Transformer", "Pooling", "Dense", "Normalize"})
_POOLINGS = {  # the flags of older folders, in the order in which poolings are concatenated
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_FROM_TWO = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})
_AGAIN = "Install or copy the model again."
_NO_LIMIT = 100_000  # tokenizer_config.json writes 1e30 for "any length"


@dataclass(frozen=True, slots=True)
class EmbeddingModel:
    """An embedding model on disk.

    Attributes:
        name: What users call it, for example "all-MiniLM-L6-v2".
        folder: Where its files are.
        sha256: Digest of its weights, 64 hex digits; of several files, of their digests.
        dim: Length of a vector.
        pooling: How token vectors become one: "mean", "cls", ...; several joined by "+".
        modules: The modules after the transformer, for example ("Pooling", "Normalize").
        max_tokens: Tokens of one text that are read, special tokens included.
        query_prompt, passage_prompt: Text put before each query and each passage.
    """

    name: str
    folder: Path
    sha256: str
    dim: int
    pooling: str
    modules: tuple[str, ...]
    max_tokens: int
    query_prompt: str = ""
    passage_prompt: str = ""

    @property
    def fingerprint(self) -> str:
        """Name, weights, dimension, pooling, length and prompts: what the vectors depend on.

        Engine and precision are not part of it: their vectors agree to a cosine of 0.999.
        """
        return (
            f"{self.name}@{self.sha256[:8]} dim={self.dim} pool={self.pooling} norm=l2 "
            f"max={self.max_tokens} q={self.query_prompt!r} p={self.passage_prompt!r}"
        )


def read_model(
    folder: Path,
    *,
    name: str = "",
    sha256: str = "",
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
) -> EmbeddingModel:
    """Describe the model in `folder`.

    Args:
        folder: The model's folder.
        name: Its name; empty: the folder's.
        sha256: Digest of its weights if it is known; empty: computed.
        query_prompt: Text put before each query; None: what the folder names, if anything.
        passage_prompt: The same for passages.

    Raises:
        ModelError: If the folder is missing or incomplete, has weights other than safetensors,
            or needs modules or code that are not accepted.
    """
    if not folder.is_dir():
        raise ModelError(f"There is no model folder {folder}.", do="Check embedder_model.")
    config = _json(folder / "config.json")
    modules = _modules(folder)
    prompts = _json(folder / "config_sentence_transformers.json", optional=True).get("prompts")
    if not isinstance(prompts, dict):
        prompts = {}
    if query_prompt is None:
        query_prompt = str(prompts.get("query") or "")
    if passage_prompt is None:
        passage_prompt = str(prompts.get("document") or prompts.get("passage") or "")
    pooling, dim = _shape(folder, config, modules)
    return EmbeddingModel(
        name=name or folder.resolve().name,
        folder=folder,
        sha256=sha256 or weights_sha256(folder, [path for _, path in modules]),
        dim=dim,
        pooling=pooling,
        modules=tuple(kind for kind, _ in modules[1:]),
        max_tokens=_max_tokens(folder, config),
        query_prompt=query_prompt,
        passage_prompt=passage_prompt,
    )


def safetensors_files(folder: Path, parts: Sequence[str] = ()) -> list[Path]:
    """Return a model's weight files in order of module and path.

    Args:
        folder: The model's folder.
        parts: Sub-folders of further modules.

    Raises:
        ModelError: If there is none, or a module has weights in another format only.
    """
    files: list[Path] = []
    for part in dict.fromkeys(["", *parts]):
        found = sorted((folder / part).glob("*.safetensors"))
        pickled = [file for pattern in _PICKLES for file in (folder / part).glob(pattern)]
        if not found and pickled:
            raise ModelError(
                f"The weights {pickled[0]} are not in the safetensors format.",
                do="Convert them with safetensors, or take another model.",
            )
        files += found
    if not files:
        raise ModelError(f"The model folder {folder} has no *.safetensors.", do=_AGAIN)
    return files


def weights_sha256(folder: Path, parts: Sequence[str] = ()) -> str:
    """Return the SHA-256 of a model's weights, as 64 hex digits.

    Returns:
        The digest of the only file, or the digest of the files' hex digests in their order.

    Raises:
        ModelError: As `safetensors_files`, or if a file cannot be read.
    """
    files = safetensors_files(folder, parts)
    try:
        digests = [_sha256(file) for file in files]
    except OSError as error:
        raise ModelError(f"Cannot read the model in {folder}: {error}.") from error
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def verify_weights(model: EmbeddingModel) -> None:
    """Read the weights of a one-file model and compare them with the digest it goes by.

    Raises:
        ModelError: If they differ or cannot be read.
    """
    found = weights_sha256(model.folder)
    if found != model.sha256:
        raise ModelError(
            f"The weights of {model.name} in {model.folder} are not the expected ones: SHA-256 "
            f"{found[:12]}..., expected {model.sha256[:12]}....",
            do=_AGAIN,
        )


def as_unit_rows(vectors: FloatArray, model: str) -> FloatArray:
    """Return float32 rows of length 1.

    Args:
        vectors: (n, dim), any floating type.
        model: Its name, for the message.

    Raises:
        ModelError: If a row holds NaN or infinity, or is zero.
    """
    rows = np.asarray(vectors, dtype=np.float32)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.all(np.isfinite(norms)) or np.any(norms == 0):
        raise ModelError(
            f"The model {model} returned a vector that is no direction (NaN, infinity or zero).",
            do="Set embedder_precision to f32, or check the model's files.",
        )
    return np.asarray(rows / norms, dtype=np.float32)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _json(file: Path, *, optional: bool = False) -> dict[str, Any]:
    """Return a settings file's object; {} if it is `optional` and missing."""
    if optional and not file.exists():
        return {}
    found = _any_json(file)
    if not isinstance(found, dict):
        raise ModelError(
            f"{file} should hold a JSON object, not {type(found).__name__}.", do=_AGAIN
        )
    return found


def _any_json(file: Path) -> object:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"The model folder {file.parent} has no {file.name}.", do=_AGAIN) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"Cannot read {file}: {error}.", do=_AGAIN) from error


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Return (kind, sub-folder) of the model's modules in order."""
    if not (folder / "modules.json").exists():
        return [("Transformer", ""), ("Pooling", "")]
    modules: list[tuple[str, str]] = []
    listed = _any_json(folder / "modules.json")
    for entry in listed if isinstance(listed, list) else []:
        if not isinstance(entry, dict):
            continue
        package, _, kind = str(entry.get("type", "")).rpartition(".")
        path = str(entry.get("path", ""))
        if package.split(".")[0] != "sentence_transformers" or kind not in _MODULES:
            raise ModelError(
                f"The model in {folder} needs the module {entry.get('type')!r}.",
                do=f"Take a model made of {', '.join(sorted(_MODULES))} only.",
            )
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise ModelError(f"The model in {folder} keeps a module outside of it: {path!r}.")
        modules.append((kind, path))
    if [kind for kind, _ in modules[:2]] != ["Transformer", "Pooling"]:
        raise ModelError(f"The model in {folder} does not start with Transformer, Pooling.")
    return modules


def _shape(folder: Path, config: dict[str, Any], modules: list[tuple[str, str]]) -> tuple[str, int]:
    """Return the pooling and the length of a vector."""
    width = config.get("hidden_size", config.get("dim", config.get("d_model")))
    pooling: list[str] = ["mean"]
    if (folder / "modules.json").exists():
        settings = _json(folder / modules[1][1] / "config.json")
        chosen = settings.get("pooling_mode")
        flagged = [mode for flag, mode in _POOLINGS.items() if settings.get(flag)]
        pooling = [chosen] if isinstance(chosen, str) else list(chosen or flagged or ["mean"])
        width = settings.get("embedding_dimension", settings.get("word_embedding_dimension", width))
    dim = width * len(pooling) if isinstance(width, int) else None
    for kind, path in modules[2:]:
        if kind == "Dense":
            dim = _json(folder / path / "config.json").get("out_features")
    if not isinstance(dim, int) or dim < 1:
        raise ModelError(f"The settings in {folder} do not say how long a vector is.", do=_AGAIN)
    return "+".join(pooling), dim


def _max_tokens(folder: Path, config: dict[str, Any]) -> int:
    """Return the model's limit: its own setting, its tokenizer's, or its positions."""
    limits = [
        _json(folder / "sentence_bert_config.json", optional=True).get("max_seq_length"),
        _json(folder / "tokenizer_config.json", optional=True).get("model_max_length"),
    ]
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in _FROM_TWO:
        positions -= 2  # these models count positions from 2
    found = [n for n in limits if isinstance(n, int) and 0 < n < _NO_LIMIT][:1]
    if isinstance(positions, int):
        found.append(positions)
    return min(found, default=512)
