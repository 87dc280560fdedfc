"""Fetches a test set in BEIR layout from the hub, only where that is asked for.

The judgements lie in the set's own folder `qrels`, or in a data set called NAME-qrels beside it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.data import RetrievalSet, beir_set
from rag.embed.hub import first_line
from rag.errors import EvalDataError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_TEXTS = ("corpus*", "queries*", "corpus/*", "queries/*", "qrels/*.tsv")


def is_hub_name(name: str) -> bool:
    """Whether a data set of the hub may be called so, like BeIR/scifact."""
    return bool(_NAME.fullmatch(name))


def read_hub_set(name: str, *, download: bool, split: str, limit: int | None) -> RetrievalSet:
    """Read a set that has been downloaded, or is now.

    Args:
        name: Such as "BeIR/scifact". The environment's HF_ENDPOINT names a mirror.
        download: Whether to fetch it; without, the network is not touched.
        split: Which judgements.
        limit: Keep the first so many judged queries; None: all.

    Raises:
        EvalDataError: If it is not here and may not or cannot be fetched, or is not as expected.
        MissingExtra: If what reads .parquet is needed and not installed.
    """
    folder = _snapshot(name, _TEXTS, download=download)
    qrels = folder / "qrels"
    if not any(qrels.glob("*.tsv")):
        qrels = _snapshot(f"{name}-qrels", ("*.tsv",), download=download)
    return beir_set(name.rpartition("/")[2], folder, qrels, split, limit)


def _snapshot(name: str, patterns: Sequence[str], *, download: bool) -> Path:
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        return Path(
            snapshot_download(
                name,
                repo_type="dataset",
                allow_patterns=list(patterns),
                local_files_only=not download,
            )
        )
    except (OSError, ValueError) as error:
        if download:
            raise EvalDataError(
                f"Cannot get the data set {name}: {first_line(error)}.",
                do="Check the name and the connection, or copy it here and give its folder.",
            ) from error
        raise EvalDataError(
            f"{name} is no folder or file here, and no data set of that name is downloaded.",
            do="Check the path, or add --download to fetch it from the hub.",
        ) from None
