"""Reads a SentencePiece model file: its pieces, their scores and kinds, and how it normalises.

It only reads: encoding is tokenizer.py's work. The file is a protocol buffer, of which this knows
the few fields that ChatGLM3's tokenizer uses; every length is checked against the file's end, and
a model that would behave otherwise than ChatGLM3's (unigram, a character map, ...) is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from rag.errors import CheckpointError
from rag.glm.folder import LFS_POINTER, lfs_pointer, unreadable

Kind: TypeAlias = Literal["normal", "unknown", "control", "byte"]

LARGEST_FILE = 64 * 2**20
"""Bytes; ChatGLM3's tokenizer.model has one million."""

LONGEST_PIECE = 256
"""Characters; finding the merges of a piece takes time with the square of its length."""

_KINDS: dict[int, Kind] = {1: "normal", 2: "unknown", 3: "control", 6: "byte"}
_KIND_NAMES = {4: "user-defined", 5: "unused"}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BPE = 2
_MODEL_NAMES = {1: "unigram", 2: "BPE", 3: "word", 4: "character"}
Field: TypeAlias = tuple[int, int | bytes]


@dataclass(frozen=True, slots=True)
class Piece:
    """One entry of the vocabulary; its id is its place in the file.

    Attributes:
        text: The piece, with "▁" for a space; "<0x41>" for the byte 0x41.
        score: The higher, the earlier BPE merges into it.
        kind: "normal", "unknown", "control" or "byte".
    """

    text: str
    score: float
    kind: Kind


def read_pieces(path: Path) -> list[Piece]:
    """Read the vocabulary of a BPE model with byte fallback.

    Args:
        path: A tokenizer.model.

    Returns:
        The pieces in order of id; 0 is unknown, 1 and 2 are control pieces, all 256 bytes follow.

    Raises:
        CheckpointError: If the file is missing, cut off, no SentencePiece model, or one that
            does not encode as ChatGLM3's does.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise _refused(path, f"it has more than {LARGEST_FILE:,} bytes")
        data = path.read_bytes()
    except PermissionError as error:
        raise unreadable(path, error) from error
    except OSError as error:
        raise CheckpointError(
            f"Cannot read the tokenizer {path}: {error.strerror}.",
            do="A ChatGLM3 folder holds a tokenizer.model; copy it there.",
        ) from error
    if data.startswith(LFS_POINTER):
        raise lfs_pointer(path)
    pieces: list[Piece] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    try:
        for number, value in _fields(data):
            if number == 1:
                pieces.append(_piece(_message(value)))
            elif number == 2:
                trainer = dict(_fields(_message(value)))
            elif number == 3:
                normalizer = dict(_fields(_message(value)))
    except (_NotProtobuf, UnicodeDecodeError) as error:
        raise _refused(path, f"it is cut off or no SentencePiece model ({error})") from error
    _check(path, pieces, trainer, normalizer)
    return pieces


class _NotProtobuf(ValueError):
    """The bytes are not a well-formed message."""


def _refused(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is not ChatGLM3's tokenizer: {why}.",
        do="Copy tokenizer.model from the ChatGLM3 repository.",
    )


def _check(
    path: Path,
    pieces: list[Piece],
    trainer: dict[int, int | bytes],
    normalizer: dict[int, int | bytes],
) -> None:
    """Refuse what tokenizer.py does not reproduce; protobuf leaves defaults out."""
    model_type = trainer.get(3, 1)
    if model_type != _BPE:
        found = _MODEL_NAMES.get(model_type if isinstance(model_type, int) else 0, "unknown")
        raise _refused(path, f"its type is {found}, not BPE")
    if not trainer.get(35, 0):
        raise _refused(path, "it has no byte fallback")
    if trainer.get(24, 0):
        raise _refused(path, "it puts spaces behind words")
    if normalizer.get(2, b""):
        raise _refused(path, "it rewrites characters (precompiled_charsmap)")
    if not (normalizer.get(3, 1) and normalizer.get(5, 1)) or normalizer.get(4, 1):
        raise _refused(path, "it treats spaces otherwise (add_dummy_prefix, escape_whitespaces)")
    if [piece.kind for piece in pieces[:3]] != ["unknown", "control", "control"]:
        raise _refused(path, "its first three pieces are not unknown, begin and end")
    found_bytes = [piece.text for piece in pieces if piece.kind == "byte"]
    if found_bytes != [f"<0x{byte:02X}>" for byte in range(256)]:
        raise _refused(path, f"it has {len(found_bytes)} byte pieces, not the 256 in order")
    if any(piece.kind in ("unknown", "control") for piece in pieces[3:]):
        raise _refused(path, "it has more control pieces than begin and end")
    if len({piece.text for piece in pieces}) != len(pieces):
        raise _refused(path, "a piece is there twice")


def _piece(data: bytes) -> Piece:
    text, score, kind = "", 0.0, 1
    for number, value in _fields(data):
        if number == 1:
            text = _message(value).decode("utf-8")
        elif number == 2:
            (score,) = struct.unpack("<f", _message(value))
        elif number == 3 and isinstance(value, int):
            kind = value
    if not text:
        raise _NotProtobuf("an empty piece")
    if len(text) > LONGEST_PIECE:
        raise _NotProtobuf(f"a piece of more than {LONGEST_PIECE} characters")
    if kind not in _KINDS:
        raise _NotProtobuf(f"a {_KIND_NAMES.get(kind, 'unknown kind of')} piece")
    return Piece(text, score, _KINDS[kind])


def _message(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise _NotProtobuf("a number where bytes belong")
    return value


def _fields(data: bytes) -> Iterator[Field]:
    """Yield (field number, value): an int for a varint, bytes for all else."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise _NotProtobuf("field 0")
        if wire == _VARINT:
            value, place = _varint(data, place)
            yield number, value
            continue
        if wire == _BYTES:
            length, place = _varint(data, place)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise _NotProtobuf(f"wire type {wire}")
        if length > len(data) - place:
            raise _NotProtobuf("the file ends inside a field")
        yield number, data[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    result = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise _NotProtobuf("the file ends inside a number")
        byte = data[place]
        place += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, place
    raise _NotProtobuf("a number of more than ten bytes")
