"""A small tokenizer.model in ChatGLM3's form, written by hand: no training, no licence."""

from __future__ import annotations

import struct
from pathlib import Path

WORDS = ["▁hello", "▁world", "he", "ll", "▁he", "▁w", "or", "ld", "▁wor", "▁hell", "aa", "aaa",
         "aaaa", "▁▁", "▁▁▁▁", "你好", "▁你", "▁你好", "ab", "abab"]  # fmt: skip
LETTERS = "▁abcdehlorw你好<>|"


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | bytes | float) -> bytes:
    """One field of a protocol buffer: a number, bytes, or a 32-bit float."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3) + varint(value)


def piece(text: str, score: float, kind: int) -> bytes:
    return field(1, field(1, text.encode()) + field(2, score) + field(3, kind))


def pieces() -> list[bytes]:
    rows = [piece("<unk>", 0.0, 2), piece("<s>", 0.0, 3), piece("</s>", 0.0, 3)]
    rows += [piece(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    return rows + [piece(text, -float(place), 1) for place, text in enumerate([*WORDS, *LETTERS])]


def model_bytes(
    rows: list[bytes] | None = None,
    *,
    trainer: bytes = field(3, 2) + field(35, 1),
    normalizer: bytes = field(1, b"identity") + field(3, 1) + field(4, 0) + field(5, 1),
) -> bytes:
    return b"".join(pieces() if rows is None else rows) + field(2, trainer) + field(3, normalizer)


def write_model(folder: Path) -> Path:
    """Write folder/tokenizer.model; 295 pieces, so that control tokens end at id 303."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model_bytes())
    return folder


COUNT = len(pieces())
