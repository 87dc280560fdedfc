"""Says what a folder holds: which model or adapter, in which layout, how large.

It reads configs and the headers of weight files, not the weights; what is not whole is an error.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag.errors import CheckpointError
from rag.glm.adapters import ADAPTER_CONFIG, adapter_kind
from rag.glm.config import GROUP, METHOD, PACKING, read_json
from rag.glm.folder import MANIFEST, require_folder

if TYPE_CHECKING:
    from rag.glm.source import Source


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found.

    Attributes:
        kind: "model", "LoRA adapter" or "P-Tuning prefix".
        layout: "official" or "native".
        name: What it says it is, or was trained on; "" if nothing.
        facts: Sizes by name, in order: what to print.
    """

    kind: str
    layout: str
    name: str
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what `youju glm inspect --json` prints."""
        head = {"kind": self.kind, "layout": self.layout, "name": self.name}
        return {**head, **self.facts}


def inspect_folder(folder: Path) -> Inspection:
    """Look at a folder.

    Raises:
        PathError: If there is no such folder, or it may not be read.
        CheckpointError: If it holds no ChatGLM3 model or adapter, or a damaged one; the message
            says what was found instead.
    """
    require_folder(folder)
    kind = adapter_kind(folder)
    if kind == "LoRA":
        return _lora(folder)
    if kind == "P-Tuning":
        return _prefix(folder)
    return _model(folder)


def _model(folder: Path) -> Inspection:
    from rag.glm.source import open_source

    source = open_source(folder)
    shape = source.shape
    facts: dict[str, Any] = {
        "parameters": shape.parameters,
        "dtype": source.dtype,
        "quantization_bits": shape.bits,
        "quantized_by": _quantized_by(source) if shape.bits else None,
        "layers": shape.layers,
        "hidden_size": shape.hidden,
        "vocabulary": shape.vocabulary,
        "context": shape.context,
        "rope_ratio": shape.rope_ratio,
        "stop_ids": source.stop_ids,
        "tokenizer_pieces": len(source.tokenizer.pieces) if source.tokenizer else None,
        "tensors": len(source.weights.tensors),
        "files": [path.name for path in source.weights.files],
        "bytes": source.weights.nbytes,
    }
    if (folder / MANIFEST).is_file():
        facts["made_by"] = read_json(folder / MANIFEST).get("action")
    return Inspection("model", source.layout, source.name, facts)


def _quantized_by(source: Source) -> str:
    """Say whose numbers they are, in which format, and how many columns share a scale."""
    if source.layout == "official":
        return "official, a scale per row"
    groups = f"{GROUP} columns" if source.shape.bits == 4 else "row"
    return f"{METHOD}, format {PACKING}, a scale per {groups}"


def _lora(folder: Path) -> Inspection:
    from rag.glm.lora import FILES
    from rag.glm.weights import weight_file

    config = read_json(folder / ADAPTER_CONFIG)
    weights = weight_file(folder, FILES)
    fused = any(".query_key_value." in name or ".encoder.layers." in name
                for name in weights.tensors)  # fmt: skip
    modules = {name.split(".lora_")[0].rpartition(".")[2] for name in weights.tensors}
    facts: dict[str, Any] = {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "modules": sorted(modules),
        "tensors": len(weights.tensors),
        "files": [path.name for path in weights.files],
        "bytes": weights.nbytes,
    }
    layout = "official" if fused else "native"
    return Inspection("LoRA adapter", layout, _trained_on(config), facts)


def _prefix(folder: Path) -> Inspection:
    from rag.glm.keys import PREFIX_KEYS
    from rag.glm.prefix import FILES
    from rag.glm.weights import open_weights, weight_file

    native = (folder / ADAPTER_CONFIG).is_file()
    config = read_json(folder / (ADAPTER_CONFIG if native else "config.json"))
    weights = weight_file(folder, FILES) if native else open_weights(folder)
    names = [name for name in weights.tensors if native or name.startswith(PREFIX_KEYS)]
    if not names:
        raise CheckpointError(
            f"{folder} says pre_seq_len, but holds no prefix.",
            do="Copy the checkpoint's folder again, completely.",
        )
    facts: dict[str, Any] = {
        "tokens": config.get("num_virtual_tokens" if native else "pre_seq_len"),
        "projection": bool(config.get("prefix_projection")),
        "tensors": len(names),
        "files": [path.name for path in weights.files],
        "bytes": sum(weights.tensors[name].nbytes for name in names),
    }
    weights.close()
    name = _trained_on(config) if native else str(config.get("_name_or_path", ""))
    layout = "native" if native else "official"
    return Inspection("P-Tuning prefix", layout, name, facts)


def _trained_on(config: dict[str, Any]) -> str:
    return str(config.get("base_model_name_or_path") or "")
