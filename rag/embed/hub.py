"""Finds a model by path or by its name on the model hub, and reports a failing one in one line.

The hub is asked only about a name the user wrote that is neither a folder nor already downloaded;
only weights in safetensors and plain settings are fetched, never code or pickles.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rag.errors import ModelError

_REMOTE_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_WANTED = ["*.json", "*.txt", "*.model", "*.safetensors"]


def find_model(name_or_path: str) -> tuple[str, Path]:
    """Return a model's name and its folder, downloading it if it is neither.

    Args:
        name_or_path: A folder, or a name on the hub such as "BAAI/bge-m3".

    Raises:
        ModelError: If there is no such folder and the hub does not have it or cannot be reached.
    """
    folder = Path(name_or_path).expanduser()
    if folder.is_dir():
        return folder.resolve().name, folder
    if not _REMOTE_NAME.fullmatch(name_or_path):
        raise ModelError(
            f"There is no model folder {name_or_path!r}, and it is not a name like BAAI/bge-m3.",
            do="Give the path of a model, or its name on the hub.",
        )
    return name_or_path.rpartition("/")[2], _from_hub(name_or_path)


def _from_hub(name: str) -> Path:
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        folder = Path(snapshot_download(name, allow_patterns=_WANTED, local_files_only=True))
        if any(folder.glob("*.safetensors")):
            return folder
    except OSError:  # not downloaded yet
        pass
    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"Cannot get the model {name}: {first_line(error)}.",
            do="Check the name and the connection, or copy the model here and give its path.",
        ) from error


@contextmanager
def loading(name: str) -> Iterator[None]:
    """Turn what PyTorch and transformers raise for an unusable model into a ModelError."""
    from safetensors import SafetensorError

    try:
        yield
    except (
        SafetensorError,
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        AttributeError,
        ImportError,
    ) as error:
        raise ModelError(
            f"Cannot load the model {name}: {first_line(error)}.",
            do="Check that it is complete, needs no code of its own, and fits into memory.",
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, at most 300 characters, without its full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300].rstrip(".") if lines else type(error).__name__
