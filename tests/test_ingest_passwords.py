"""Passwords: tried on what is encrypted, never shown."""

from __future__ import annotations

import hashlib
import hmac
import struct
import zlib
from pathlib import Path

import pytest
from containers import read, refusal
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from rag.config import load_settings
from rag.errors import ConfigError


def aes_zip(name: str, content: bytes, password: bytes, strength: int = 3) -> bytes:
    """Return a ZIP archive with one member encrypted as WinZip does it."""
    salt, key_size = b"s" * (4 + 4 * strength), 8 * (strength + 1)
    keys = hashlib.pbkdf2_hmac("sha1", password, salt, 1000, 2 * key_size + 2)
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(content) + packer.flush()
    cipher = Cipher(algorithms.AES(keys[:key_size]), modes.ECB()).encryptor()
    count = len(packed) // 16 + 1
    stream = cipher.update(b"".join(n.to_bytes(16, "little") for n in range(1, count + 1)))
    coded = bytes(a ^ b for a, b in zip(packed, stream, strict=False))
    tag = hmac.digest(keys[key_size : 2 * key_size], coded, "sha1")[:10]
    body = salt + keys[2 * key_size :] + coded + tag
    extra = struct.pack("<HHHHBH", 0x9901, 7, 2, 0x4541, strength, 8)
    coded_name = name.encode()
    common = struct.pack("<HHHHHLLLHH", 51, 1, 99, 0, 0, 0, len(body), len(content),
                         len(coded_name), len(extra))  # fmt: skip
    local = b"PK\x03\x04" + common + coded_name + extra + body
    central = b"PK\x01\x02" + struct.pack("<H", 51) + common + struct.pack("<HHHLL", 0, 0, 0, 0, 0)
    central += coded_name + extra
    end = struct.pack("<HHHHLLH", 0, 0, 1, 1, len(central), len(local), 0)
    return local + central + b"PK\x05\x06" + end


@pytest.mark.parametrize("strength", [1, 2, 3])
def test_aes_members_of_zip_archives_open_with_the_right_password(strength: int) -> None:
    data = aes_zip("a.txt", b"secret words " * 9, "密".encode(), strength)
    assert read(data, "x.zip", "wrong", "密").text == "secret words " * 9
    for passwords in ((), ("wrong",)):
        error = refusal(data, "x.zip", *passwords)
        assert error.reason == "encrypted"
        assert "a.txt in it opens with a password" in str(error)
        assert "wrong" not in str(error)


def test_a_changed_aes_member_is_not_believed() -> None:
    data = bytearray(aes_zip("a.txt", b"secret", b"p"))
    data[70] ^= 1
    assert refusal(bytes(data), "x.zip", "p").reason in ("encrypted", "damaged")


@pytest.mark.parametrize(
    ("name", "password", "phrase"),
    [
        ("libreoffice-writer-password.pdf", "openpassword", "Lorem ipsum"),
        ("encrypted.pdf", None, ""),
        ("bug53475-password-is-pass.docx", None, ""),
    ],
)
def test_encrypted_documents(
    shared_docs: Path, name: str, password: str | None, phrase: str
) -> None:
    data = (shared_docs / name).read_bytes()
    if password:
        assert phrase in read(data, name, "wrong", password).text
    error = refusal(data, name, "wrong")
    assert error.reason == "encrypted"
    assert "wrong" not in str(error)


def test_passwords_are_settings_that_nobody_sees(tmp_path: Path) -> None:
    for value in ("geheim", '["geheim", "密"]'):
        loaded = load_settings(environ={"YOUJU_DOCUMENT_PASSWORDS": value})
        first = loaded.settings.document_passwords[0]
        assert first.get_secret_value() == "geheim"
        shown = next(row for row in loaded.rows() if row.name == "document_passwords")
        assert "geheim" not in f"{shown} {loaded.settings!r}"
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={"YOUJU_DOCUMENT_PASSWORDS": '["geheim'})
    assert "geheim" not in str(caught.value)
    file = tmp_path / "youju.toml"
    file.write_text('document_passwords = ["geheim", 3]\n')
    with pytest.raises(ConfigError) as caught:
        load_settings(environ={"YOUJU_CONFIG": str(file)})
    assert "geheim" not in str(caught.value)
