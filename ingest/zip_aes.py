"""Decrypting members of ZIP archives that WinZip or 7-Zip encrypted with AES.

The layout: salt, two bytes that tell most wrong passwords, data in counter mode (the counter counts
from 1, lowest byte first), ten bytes of HMAC-SHA1. It only decrypts; unpacking is for the caller.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import zipfile

AES = 99
"""The compression method that stands for "AES, the real method is in the extra field"."""

_EXTRA = 0x9901
_SALT = {1: 8, 2: 12, 3: 16}
_TAG = 10
_ROUNDS = 1000
_BLOCKS = 1 << 16  # of 16 bytes, decrypted at a time


def read_aes(data: bytes, entry: zipfile.ZipInfo, password: bytes) -> tuple[int, bytes] | None:
    """Decrypt one member.

    Args:
        data: The whole archive.
        entry: The member, of compression method 99.
        password: As bytes.

    Returns:
        The real compression method and the packed bytes; None where the password is wrong.

    Raises:
        ValueError: If the member is not laid out as it should be.
    """
    strength, method = _parameters(entry.extra)
    start = entry.header_offset + 30
    head = data[entry.header_offset : start]
    if len(head) < 30 or head[:4] != b"PK\x03\x04":
        raise ValueError("no local header")
    names, extras = struct.unpack("<HH", head[26:30])
    start += names + extras
    body = data[start : start + entry.compress_size]
    size = _SALT[strength]
    key_size = 8 * (strength + 1)
    if len(body) < size + 2 + _TAG or len(body) != entry.compress_size:
        raise ValueError("too short")
    salt, check = body[:size], body[size : size + 2]
    keys = hashlib.pbkdf2_hmac("sha1", password, salt, _ROUNDS, 2 * key_size + 2)
    if keys[2 * key_size :] != check:
        return None
    coded, tag = body[size + 2 : -_TAG], body[-_TAG:]
    own = hmac.digest(keys[key_size : 2 * key_size], coded, "sha1")[:_TAG]
    if not hmac.compare_digest(own, tag):
        return None
    return method, _decrypt(keys[:key_size], coded)


def _parameters(extra: bytes) -> tuple[int, int]:
    """Return the strength (1 to 3) and the real compression method."""
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        if kind == _EXTRA and size >= 7 and len(extra) >= 11 and extra[8] in _SALT:
            return extra[8], int.from_bytes(extra[9:11], "little")
        extra = extra[4 + size :]
    raise ValueError("no AES parameters")


def _decrypt(key: bytes, coded: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    blocks = (len(coded) + 15) // 16
    pieces: list[bytes] = []
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305 - makes the counter mode
    for first in range(0, blocks, _BLOCKS):
        last = min(first + _BLOCKS, blocks)
        counters = b"".join(number.to_bytes(16, "little") for number in range(first + 1, last + 1))
        piece = coded[first * 16 : last * 16]
        stream = encryptor.update(counters)[: len(piece)]
        mixed = int.from_bytes(piece, "big") ^ int.from_bytes(stream, "big")
        pieces.append(mixed.to_bytes(len(piece), "big"))
    return b"".join(pieces)
