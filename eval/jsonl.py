"""Reads the files of test sets strictly: an error names the file, the line and what was there.

Only a line feed ends a line: texts may hold U+2028 or U+0085. Files are UTF-8, with or without a
byte order mark; one whose name ends in .gz is unpacked as it is read.
"""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol, cast

from rag.errors import EvalDataError


class Digest(Protocol):
    """What `hashlib.sha256()` returns."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""
        ...


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


def file_lines(
    path: Path, do: str, digest: Digest | None = None, *, blank: bool = False
) -> Iterator[tuple[str, str]]:
    """Yield the place ("FILE, line 3") and the text of every line.

    One line at a time is in memory.

    Args:
        path: The file.
        do: What the error tells the user to do if it cannot be read.
        digest: Takes the bytes as they are read, unpacked.
        blank: Whether blank lines count, too.

    Raises:
        EvalDataError: If the file cannot be read or is not UTF-8.
    """
    try:
        with _opened(path) as handle:
            for number, raw in enumerate(handle, start=1):
                if digest is not None:
                    digest.update(raw)
                line = _decoded(path, number, raw)
                if blank or line.strip():
                    yield f"{path}, line {number}", line
    except OSError as error:
        raise EvalDataError(f"Cannot read {path}: {error.strerror or error}.", do=do) from None
    except (EOFError, zlib.error) as error:
        raise EvalDataError(f"{path} is damaged ({error}).", do="Get it anew.") from None


def text_lines(path: Path, data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the place ("FILE, line 3") and the text of every line that is not blank.

    Raises:
        EvalDataError: If the bytes are not UTF-8.
    """
    for number, raw in enumerate(data.split(b"\n"), start=1):
        line = _decoded(path, number, raw)
        if line.strip():
            yield f"{path}, line {number}", line


def json_rows(path: Path, data: bytes, key: str = "_id") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the object of every line.

    Args:
        path: The file, for messages.
        data: Its bytes.
        key: The field that names an object: a string that occurs once.

    Raises:
        EvalDataError: If a line is not such an object.
    """
    return unique_rows(text_lines(path, data), key)


def unique_rows(
    lines: Iterable[tuple[str, str]], key: str = "_id"
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the object of every line; raises as `json_rows` does."""
    seen: set[str] = set()
    for at, line in lines:
        row = json_object(at, line)
        id_ = checked_id(row, key, at)
        if id_ in seen:
            raise repeated(at, key, id_)
        seen.add(id_)
        yield at, row


def json_object(at: str, line: str) -> dict[str, Any]:
    """Return the object that a line holds.

    Raises:
        EvalDataError: If it is none.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EvalDataError(
            f"{at}: not JSON ({error}).", do="Expected one JSON object a line."
        ) from None
    if not isinstance(row, dict):
        raise EvalDataError(f"{at}: got {shown(line)}.", do="Expected a JSON object.")
    return row


def checked_id(row: dict[str, Any], key: str, at: str) -> str:
    """Return the field that names an object.

    Raises:
        EvalDataError: If it is no string, blank, or holds a tab, a line end or a NUL.
    """
    id_ = string(row, key, at)
    if not id_.strip() or any(character in id_ for character in "\t\n\0"):
        raise EvalDataError(
            f"{at}: got {key} {shown(id_)}.", do="Expected text without tabs or line ends."
        )
    return id_


def repeated(at: str, key: str, id_: str) -> EvalDataError:
    """Return the error for a name that occurs twice."""
    return EvalDataError(
        f"{at}: {key} {shown(id_)} occurred before.", do=f"Expected every {key} once."
    )


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


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    return path.open("rb")


def _decoded(path: Path, number: int, raw: bytes) -> str:
    if number == 1:
        raw = raw.removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise EvalDataError(
            f"{path}, line {number}: not UTF-8 (byte 0x{raw[error.start]:02x}).",
            do="Save the file as UTF-8.",
        ) from None
