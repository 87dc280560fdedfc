"""What an adapter's folder is, and whether it belongs to a model; reads no tensors.

The kinds: LoRA and P-Tuning v2, each as the official scripts wrote it or converted for the native
model. What is in them is lora.py's and prefix.py's business.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

from rag.errors import AdapterMismatch, CheckpointError
from rag.glm.config import GlmShape, family, read_json
from rag.glm.folder import MANIFEST, require_folder

AdapterKind: TypeAlias = Literal["LoRA", "P-Tuning"]

ADAPTER_CONFIG = "adapter_config.json"
KNOWN_BASES = ("chatglm3-6b", "chatglm3-6b-base", "chatglm3-6b-32k", "chatglm3-6b-128k")
"""Models of one shape whose adapters do not fit each other."""


def adapter_kind(folder: Path) -> AdapterKind | None:
    """Return what kind of adapter a folder holds; None if it is none.

    Raises:
        PathError: If there is no such folder, or it may not be read.
        CheckpointError: If it holds an adapter of another kind, or its config cannot be read.
    """
    require_folder(folder, "adapter folder")
    if (folder / ADAPTER_CONFIG).is_file():
        peft_type = read_json(folder / ADAPTER_CONFIG).get("peft_type")
        if peft_type == "LORA":
            return "LoRA"
        if peft_type == "PREFIX_TUNING":
            return "P-Tuning"
        raise CheckpointError(
            f"{folder} holds an adapter of type {peft_type!r}.",
            do="Supported: LORA, PREFIX_TUNING and official P-Tuning v2 checkpoints.",
        )
    if not (folder / "config.json").is_file():
        return None
    config = read_json(folder / "config.json")
    return "P-Tuning" if family(config) == "ChatGLM3" and config.get("pre_seq_len") else None


def require_base(adapter: Path, trained_on: str, model: str, shape: GlmShape) -> None:
    """Refuse an adapter whose base is known by name to be another model.

    Two names are compared only if both are official ones; what a local folder is called says
    nothing about which of them it is.

    Raises:
        AdapterMismatch: Naming both.
    """
    config = {"model_type": "chatglm", "_name_or_path": trained_on}
    foreign = family(config)
    base, ours = (
        "" if name.startswith(("/", "\\", ".", "~")) else _last_part(name)
        for name in (trained_on, model or shape.name)
    )
    if foreign != "ChatGLM3" or (base in KNOWN_BASES and ours in KNOWN_BASES and base != ours):
        raise AdapterMismatch(
            f"The adapter {adapter} was trained on {trained_on!r}; this model is "
            f"{model or shape.name or 'another'!r}.",
            do="Use the model it was trained on.",
        )


def mismatch(
    adapter: Path, trained_on: str, what: str, got: object, expected: object
) -> AdapterMismatch:
    """Return the error for an adapter that does not fit by its sizes."""
    return AdapterMismatch(
        f"The adapter {adapter} (trained on {trained_on or 'an unnamed model'!r}) does not fit "
        f"this model: {what} is {got}, expected {expected}.",
        do="Use the model it was trained on.",
    )


def model_name(folder: Path) -> str:
    """Return under which name a model folder was published, as far as it says; else its own."""
    if (folder / MANIFEST).is_file():
        name = read_json(folder / MANIFEST).get("name")
        if isinstance(name, str) and name:
            return name
    name = read_json(folder / "config.json").get("_name_or_path")
    return name if isinstance(name, str) and name else folder.resolve().name


def read_adapter_config(folder: Path, supported: dict[str, tuple[Any, ...]]) -> dict[str, Any]:
    """Read adapter_config.json strictly.

    Args:
        folder: The adapter's.
        supported: Key -> the values it may have; () for any. Another key may only say that a
            feature is not used: null, false, or empty.

    Raises:
        CheckpointError: For a feature that would compute something else.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    for key, value in config.items():
        allowed = supported.get(key)
        if allowed is None and value:
            raise CheckpointError(
                f"The adapter {folder} uses {key} = {value!r:.80}, which is not known here.",
                do="Only plain LoRA and prefix tuning are supported.",
            )
        if allowed and value not in allowed:
            raise CheckpointError(
                f"The adapter {folder} has {key} = {value!r:.80}.",
                do=f"Supported: {', '.join(repr(one) for one in allowed)}.",
            )
    return config


def _last_part(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
