"""Reads the files of test sets strictly: an error names the file, the line and what was there.

Only a line feed ends a line: texts may hold U+2028 or U+0085.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag.errors import EvalDataError


def read(path: Path, do: str) -> bytes:
    """Return a file's bytes.

    Args:
        path: The file.
        do: What the error tells the user to do.

    Raises:
        EvalDataError: If it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise EvalDataError(f"Cannot read {path}: {error.strerror}.", do=do) from None


def text_lines(path: Path, data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the place ("FILE, line 3") and the text of every line that is not blank.

    Raises:
        EvalDataError: If the bytes are not UTF-8.
    """
    try:
        whole = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise EvalDataError(
            f"{path}, line {number}: not UTF-8 (byte 0x{data[error.start]:02x}).",
            do="Save the file as UTF-8.",
        ) from None
    for number, line in enumerate(whole.split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", line.removesuffix("\r")


def json_rows(path: Path, data: bytes, key: str = "_id") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the object of every line.

    Args:
        path: The file, for messages.
        data: Its bytes.
        key: The field that names an object: a string that occurs once.

    Raises:
        EvalDataError: If a line is not such an object.
    """
    seen: set[str] = set()
    for at, line in text_lines(path, data):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise EvalDataError(
                f"{at}: not JSON ({error}).", do="Expected one JSON object a line."
            ) from None
        if not isinstance(row, dict):
            raise EvalDataError(f"{at}: got {shown(line)}.", do="Expected a JSON object.")
        id_ = string(row, key, at)
        if not id_.strip() or "\t" in id_ or "\n" in id_:
            raise EvalDataError(
                f"{at}: got {key} {shown(id_)}.", do="Expected text without tabs or line ends."
            )
        if id_ in seen:
            raise EvalDataError(
                f"{at}: {key} {shown(id_)} occurred before.",
                do=f"Expected every {key} once.",
            )
        seen.add(id_)
        yield at, row


def string(row: dict[str, Any], key: str, at: str, default: str | None = None) -> str:
    """Return a field that must be text, or `default` where it is missing.

    Raises:
        EvalDataError: If it is missing without default, no string, or half a character.
    """
    found = row.get(key, default)
    if not isinstance(found, str):
        got = f"{key} {shown(found)}" if key in row else f"no {key}"
        raise EvalDataError(f"{at}: got {got}.", do=f"Expected a string {key}.")
    try:
        found.encode()
    except UnicodeEncodeError:
        raise EvalDataError(
            f"{at}: {key} holds half a character (a lone surrogate).", do="Mend or remove it."
        ) from None
    return found


def strings(row: dict[str, Any], key: str, at: str) -> tuple[str, ...]:
    """Return a field that must be a list of texts.

    Raises:
        EvalDataError: If it is not.
    """
    found = row.get(key)
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise EvalDataError(
            f"{at}: got {key} {shown(found)}.", do=f"Expected a list of strings {key}."
        )
    return tuple(found)


def shown(value: object) -> str:
    """Return a value as a message shows it, cut to 80 characters."""
    return f"{value!r:.80}"
