"""Writes the files that measurements leave: each appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from rag.errors import PathError


def check_writable(path: Path, option: str = "") -> None:
    """Refuse a place where no file can be written, before hours are spent on what goes in.

    Args:
        path: The file.
        option: The command-line option that named it, for the message.

    Raises:
        PathError: If the folder is missing or may not be written, or `path` is a folder.
    """
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise PathError(
            f"Cannot write {path}.",
            do=f"Give {option}{' ' if option else ''}the name of a file in a folder you may write.",
        )


def write_whole(path: Path, parts: Iterable[str], *, errors: str = "strict") -> None:
    """Write a text file, UTF-8, lines as they are.

    Args:
        path: Replaced if it exists.
        parts: The text; lines with their line feeds.
        errors: What becomes of lone surrogates: "strict" raises, "replace" writes "?".

    Raises:
        PathError: If it cannot be written.
    """
    write_together({path: parts}, errors=errors)


def write_together(texts: dict[Path, Iterable[str]], *, errors: str = "strict") -> None:
    """Write several text files: none is replaced before all of them are on the disk.

    Raises:
        PathError: If one cannot be written.
    """
    made: dict[Path, Path] = {}
    path = Path()
    try:
        for path, parts in texts.items():
            temporary = made[path] = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
            with temporary.open("w", encoding="utf-8", newline="", errors=errors) as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
        for path, temporary in made.items():
            temporary.replace(path)
    except OSError as error:
        raise PathError(
            f"Cannot write {path}: {error.strerror}.", do="Give another place."
        ) from None
    finally:
        for temporary in made.values():
            with contextlib.suppress(OSError):
                temporary.unlink()
