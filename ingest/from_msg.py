"""Outlook messages (MSG) -> Document, through the streams of their OLE container.

Each property is a stream named by its number and type. The message's code page says how strings of
the old 8-bit type are coded. Bodies that exist as compressed RTF only are unpacked and handed to
the RTF parser where there is one.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import TYPE_CHECKING

from ingest.allowance import MAX_DEPTH, Allowance
from ingest.blocks import one_line
from ingest.discover import SUPPORTED, media_type
from ingest.encoding import decode
from ingest.from_mail import Letter, letter_document
from rag.errors import DocumentRejected
from rag.schema import Document

if TYPE_CHECKING:
    from olefile import OleFileIO

_SUBJECT, _SENDER, _ADDRESS, _TO, _CC = "0037", "0C1A", "0C1F", "0E04", "0E03"
_BODY, _HTML, _RTF = "1000", "1013", "1009"
_LONG_NAME, _SHORT_NAME, _CONTENT = "3707", "3704", "3701"
_CODE_PAGE, _HTML_CODE_PAGE, _SENT, _DELIVERED = 0x3FFD, 0x3FDE, 0x0039, 0x0E06
_ATTACHMENT, _EMBEDDED = "__attach_version1.0_", f"__substg1.0_{_CONTENT}000D"
_NAMES = {65001: "utf-8", 936: "gb18030", 54936: "gb18030", 950: "big5hkscs", 932: "cp932"}
_PROPERTIES = "__properties_version1.0"
_INTEGER, _TIME = 0x0003, 0x0040
_STREAM = 2  # as olefile numbers kinds of entries
_LAST_TICK = 10**18 * 2
_LZ_WINDOW = 4096
_LZ_START = (
    b"{\\rtf1\\ansi\\mac\\deff0\\deftab720{\\fonttbl;}{\\f0\\fnil \\froman \\fswiss \\fmodern "
    b"\\fscript \\fdecor MS Sans SerifSymbolArialTimes New RomanCourier{\\colortbl\\red0\\green0"
    b"\\blue0\r\n\\par \\pard\\plain\\f0\\fs20\\b\\i\\u\\tab\\tx"
)


def msg_document(data: bytes, allowance: Allowance) -> Document:
    """Parse an Outlook message.

    Args:
        data: The file, known to begin like an OLE container.
        allowance: The limits of its attachments.

    Raises:
        DocumentRejected: reason "damaged", "unsupported" if the container holds something else,
            "empty".
    """
    import olefile

    try:
        with olefile.OleFileIO(BytesIO(data)) as container:
            if not container.exists(_PROPERTIES):
                raise DocumentRejected(
                    "Not an Outlook message: the container holds something else.",
                    reason="unsupported",
                    do="Give the file the suffix of its real format.",
                )
            letter = _letter(container, [], 0)
            return letter_document(letter, allowance, SUPPORTED[".msg"])
    except (OSError, ValueError, IndexError, KeyError, struct.error, AttributeError) as error:
        raise DocumentRejected(
            "The Outlook message is truncated or damaged.",
            reason="damaged",
            do="Get the file again.",
        ) from error


def _letter(container: OleFileIO, path: list[str], depth: int) -> Letter:
    """Take apart the message in one storage of the container."""
    numbers = _numbers(container, path)
    page = numbers.get(_CODE_PAGE, 0)
    letter = Letter(
        headers=[
            ("From", _from(container, path, page)),
            ("To", one_line(_string(container, path, _TO, page))),
            ("Cc", one_line(_string(container, path, _CC, page))),
            ("Date", _date(numbers.get(_DELIVERED) or numbers.get(_SENT) or 0)),
            ("Subject", one_line(_string(container, path, _SUBJECT, page))),
        ]
    )
    if body := _string(container, path, _BODY, page).replace("\r\n", "\n"):
        letter.plain.append(body)
    html = _stream(container, [*path, f"__substg1.0_{_HTML}0102"])
    if html.strip():
        letter.html.append(_decoded(html, numbers.get(_HTML_CODE_PAGE, 0), html=True))
    elif text := _string(container, path, _HTML, page):
        letter.html.append(text)
    packed = _stream(container, [*path, f"__substg1.0_{_RTF}0102"])
    if packed and not letter.plain and not letter.html and media_type("body.rtf") is not None:
        letter.attachments.append(("body.rtf", unpack_rtf(packed)))
    below = (entry for entry in container.listdir() if entry[: len(path)] == path)
    for name in sorted({entry[len(path)] for entry in below if len(entry) > len(path) + 1}):
        if name.lower().startswith(_ATTACHMENT):
            _attach(container, [*path, name], page, letter, depth)
    return letter


def _attach(container: OleFileIO, path: list[str], page: int, letter: Letter, depth: int) -> None:
    name = _string(container, path, _LONG_NAME, page) or _string(container, path, _SHORT_NAME, page)
    name = one_line(name.replace("\\", "/").rsplit("/", 1)[-1])
    content = _stream(container, [*path, f"__substg1.0_{_CONTENT}0102"])
    if content:
        letter.attachments.append((name or "attachment", content))
    elif container.exists([*path, _EMBEDDED, _PROPERTIES]):
        if depth >= MAX_DEPTH:
            letter.warnings.append("A message attached too deep inside others was left out.")
        else:
            inner = _letter(container, [*path, _EMBEDDED], depth + 1)
            letter.letters.append((name or dict(inner.headers)["Subject"] or "message", inner))


def _from(container: OleFileIO, path: list[str], page: int) -> str:
    name = one_line(_string(container, path, _SENDER, page))
    address = one_line(_string(container, path, _ADDRESS, page))
    known = not address or address in name or address.startswith("/")
    return name if known else f"{name} <{address}>".strip()


def _date(ticks: int) -> str:
    """Return a Windows time (100 ns since 1601) as a date; "" where there is none."""
    if not 0 < ticks < _LAST_TICK:
        return ""
    when = datetime(1601, 1, 1, tzinfo=UTC) + timedelta(microseconds=ticks // 10)
    return when.strftime("%Y-%m-%d %H:%M:%S +0000")


def _stream(container: OleFileIO, path: list[str]) -> bytes:
    if not container.exists(path) or container.get_type(path) != _STREAM:
        return b""
    content: bytes = container.openstream(path).read()
    return content


def _string(container: OleFileIO, path: list[str], name: str, page: int) -> str:
    """Return a string property: the Unicode one, else the one in the message's code page."""
    wide = _stream(container, [*path, f"__substg1.0_{name}001F"])
    if wide:
        return wide.decode("utf-16-le", "replace").rstrip("\0")
    narrow = _stream(container, [*path, f"__substg1.0_{name}001E"]).rstrip(b"\0")
    return _decoded(narrow, page) if narrow else ""


def _decoded(content: bytes, page: int, *, html: bool = False) -> str:
    codec = _NAMES.get(page, f"cp{page}")
    try:
        return content.decode(codec)
    except (UnicodeDecodeError, LookupError):
        pass
    try:
        return decode(content, html=html).text
    except DocumentRejected:
        return content.decode("cp1252", "replace")


def _numbers(container: OleFileIO, path: list[str]) -> dict[int, int]:
    """Return the properties of fixed size, by number: integers, and times in ticks."""
    table = _stream(container, [*path, _PROPERTIES])
    found: dict[int, int] = {}
    for start in range(24 if path else 32, len(table) - 15, 16):
        kind, number = struct.unpack_from("<HH", table, start)
        if kind in (_INTEGER, _TIME):
            size = 8 if kind == _TIME else 4
            found[number] = int.from_bytes(table[start + 8 : start + 8 + size], "little")
    return found


def unpack_rtf(packed: bytes) -> bytes:
    """Unpack compressed RTF (LZFu, or stored).

    Returns:
        At most the size that it says it has, in bytes.

    Raises:
        ValueError: If it does not begin like compressed RTF.
    """
    if len(packed) < 16 or packed[8:12] not in (b"LZFu", b"MELA"):
        raise ValueError("not compressed RTF")
    size = int.from_bytes(packed[4:8], "little")
    if packed[8:12] == b"MELA":
        return packed[16 : 16 + size]
    done = bytearray(_LZ_START)
    wanted = len(_LZ_START) + size
    position = 16
    while position < len(packed) and len(done) < wanted:
        flags = packed[position]
        position += 1
        for bit in range(8):
            if not flags >> bit & 1:
                done += packed[position : position + 1]
                position += 1
                continue
            reference = int.from_bytes(packed[position : position + 2], "big")
            position += 2
            back = (len(done) - (reference >> 4)) % _LZ_WINDOW
            if back == 0 or position > len(packed):  # the end
                return bytes(done[len(_LZ_START) :])
            for _ in range((reference & 15) + 2):
                done.append(done[-back] if back <= len(done) else 32)
    return bytes(done[len(_LZ_START) : wanted])
