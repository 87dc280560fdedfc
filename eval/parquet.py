"""Reads .parquet files row by row, a few at a time; needs pyarrow, which the extra `train` has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.jsonl import Digest
from rag.errors import EvalDataError, MissingExtra

_ROWS_AT_ONCE = 512
_BLOCK = 1 << 20
_PART = re.compile(r"-[0-9]+-of-([0-9]+)\.parquet", re.ASCII)


def parquet_rows(
    path: Path, columns: Sequence[str], digest: Digest | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place ("FILE, row 3") and the values of every row.

    Args:
        path: A file, or a folder of files, read in the order of their names.
        columns: What is read; a column that a file lacks is missing in the rows.
        digest: Takes the files' bytes.

    Raises:
        MissingExtra: If pyarrow is not installed.
        EvalDataError: If a file cannot be read, or the folder has none.
    """
    try:
        import pyarrow
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtra("Reading .parquet files", "train") from None
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise EvalDataError(f"{path} holds no .parquet file.", do="Give another corpus.")
    _check_complete(path, files)
    for file in files:
        try:
            with file.open("rb") as handle:
                while digest is not None and (block := handle.read(_BLOCK)):
                    digest.update(block)
            opened = pq.ParquetFile(file)
            wanted = [name for name in columns if name in opened.schema_arrow.names]
            number = 0
            for batch in opened.iter_batches(_ROWS_AT_ONCE, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    held = {name: value for name, value in row.items() if value is not None}
                    yield f"{file}, row {number}", held
        except (OSError, pyarrow.ArrowException) as error:
            reason = str(error).partition("\n")[0]
            raise EvalDataError(f"Cannot read {file}: {reason:.200}", do="Get it anew.") from None


def _check_complete(path: Path, files: Sequence[Path]) -> None:
    """Refuse a folder that lacks parts, as one whose download broke off does."""
    for file in files:
        named = _PART.search(file.name)
        if path.is_dir() and named and int(named[1]) != len(files):
            raise EvalDataError(
                f"{path} holds {len(files)} .parquet files, {file.name} is one of {int(named[1])}.",
                do="Get the missing ones: with --download, for a data set of the hub.",
            )
