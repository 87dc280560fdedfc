"""Finds a ChatGLM3 checkpoint: a folder, a copy in the hub's cache, or a download if asked for.

Code and other files of a repository are never fetched: only settings, the tokenizer and weights.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from rag.embed.hub import first_line
from rag.errors import CheckpointError, ModelError
from rag.glm.folder import require_folder

_REMOTE_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)
_SETTINGS = ["config.json", "tokenizer.model", "tokenizer_config.json", "*.index.json"]
_WEIGHTS = ("*.safetensors", "*.bin")


def find_checkpoint(name_or_path: str, *, download: bool) -> Path:
    """Return the folder of a model.

    Args:
        name_or_path: A folder, or a name on the hub such as "THUDM/chatglm3-6b". The environment's
            HF_ENDPOINT names a mirror, as for every tool that uses the hub.
        download: Whether to fetch it if it is not here.

    Raises:
        PathError: If it is a file, or may not be read.
        ModelError: If it is not here and may not or cannot be fetched.
    """
    folder = Path(name_or_path).expanduser()
    if os.path.lexists(folder):
        require_folder(folder, "model folder")
        return folder
    if not _REMOTE_NAME.fullmatch(name_or_path) or folder.is_absolute():
        raise ModelError(
            f"There is no model folder {name_or_path!r}.",
            do="Give the path of a model, or its name on the hub, like THUDM/chatglm3-6b.",
        )
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from huggingface_hub import snapshot_download

    patterns = [*_SETTINGS, *_WEIGHTS]
    try:
        cached = Path(snapshot_download(name_or_path, allow_patterns=patterns,
                                        local_files_only=True))  # fmt: skip
        if any(path for pattern in _WEIGHTS for path in cached.glob(pattern)):
            if not download:
                return cached
            from rag.glm.weights import open_weights

            open_weights(cached)
            return cached
    except (OSError, ValueError, CheckpointError):  # not downloaded yet, or cut short
        pass
    if not download:
        raise ModelError(
            f"The model {name_or_path} is neither a folder nor downloaded.",
            do="Add --download (in settings: generator_download) to fetch it, or copy it here and "
            "give its path.",
        )
    try:
        for weights in _WEIGHTS:
            got = Path(snapshot_download(name_or_path, allow_patterns=[*_SETTINGS, weights]))
            if any(got.glob(weights)):
                return got
    except (OSError, ValueError) as error:
        raise ModelError(
            f"Cannot get the model {name_or_path}: {first_line(error)}.",
            do="Check the name and the connection, or copy the model here and give its path.",
        ) from error
    raise ModelError(
        f"The repository {name_or_path} holds no weights.", do="Name a ChatGLM3 repository."
    )
