"""DOC (Word 97 to 2003) -> Document: the text pieces, with paragraph styles and tables.

The layout of the file is Microsoft's [MS-DOC]. Built-in heading styles and outline levels give
sections, cell and row marks give tables; foot- and endnotes stand at the end. Headers, comments,
pictures and text boxes are not part of the text, and field codes are left out.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass

from ingest.blocks import TextWriter
from ingest.packages import MACROS, OLE_ERRORS, open_ole
from rag.errors import DocumentRejected
from rag.schema import Document

_MEDIA_TYPE = "application/msword"
_MAX_PIECES = 1_000_000
_PAGE = 512
_OPERAND_SIZES = (1, 1, 2, 4, 2, 2, 0, 3)
_IN_TABLE, _ROW_END, _OUTLINE, _LIST = 0x2416, 0x2417, 0x2640, 0x460B
_DEFINE_TABLE = 0xD608
_GONE = str.maketrans({"\x01": "", "\x02": "", "\x05": "", "\x08": "", "\x1f": "", "\x1e": "-",
                       "\x0b": "\n", "\xa0": " ", "\x0e": "\n"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Style:
    """What a paragraph's properties say: heading level (0 for none), table, list."""

    level: int = 0
    in_table: bool = False
    row_end: bool = False
    listed: bool = False


def doc_document(data: bytes) -> Document:
    """Parse a Word file of the old kind.

    Args:
        data: The file, known to begin like an OLE container.

    Returns:
        Headings as sections, tables as Markdown tables, foot- and endnotes at the end.

    Raises:
        DocumentRejected: reason "encrypted", "damaged" or "unsupported".
    """
    with open_ole(data, "Word document") as container:
        if container.exists("EncryptedPackage"):
            raise _encrypted()
        if not container.exists("WordDocument"):
            raise DocumentRejected(
                "Not a Word document: the file holds no stream called WordDocument.",
                reason="unsupported",
                do="Give the file the suffix of its real format.",
            )
        try:
            main = container.openstream("WordDocument").read()
            flags = struct.unpack_from("<H", main, 10)[0]
            name = "1Table" if flags & 0x0200 else "0Table"
            table = container.openstream(name).read() if container.exists(name) else b""
            warnings = (MACROS,) if container.exists("Macros") else ()
        except OLE_ERRORS as error:
            raise _damaged("a stream is cut off") from error
    if flags & 0x0100:
        raise _encrypted()
    if struct.unpack_from("<H", main, 2)[0] < 0xC1:
        raise DocumentRejected(
            "A Word document older than Word 97, which cannot be read.",
            reason="unsupported",
            do="Save it as .docx.",
        )
    try:
        text, places = _pieces(main, table)
        styles = _Paragraphs(main, table)
        lengths = struct.unpack_from("<6i", main, 0x4C)
    except OLE_ERRORS as error:
        raise _damaged("its tables of text are cut off") from error
    body_end = max(0, min(lengths[0], len(text)))
    writer = TextWriter()
    _write(writer, text[:body_end], places, styles)
    notes = text[body_end : body_end + max(0, lengths[1])]
    ends = body_end + sum(max(0, lengths[index]) for index in (1, 2, 3, 4))
    notes += text[ends : ends + max(0, lengths[5])]
    lines = [_plain(note) for note in notes.split("\r")]
    if any(lines):
        writer.leave_section()
    for line in lines:
        writer.paragraph(line)
    written, sections = writer.finish()
    return Document(written, writer.first_heading, (), sections, _MEDIA_TYPE, warnings)


def _encrypted() -> DocumentRejected:
    return DocumentRejected(
        "The Word document is encrypted and opens with a password only.",
        reason="encrypted",
        do="Remove the password and try again.",
    )


def _damaged(why: str) -> DocumentRejected:
    return DocumentRejected(
        f"The Word document is truncated or damaged: {why}.",
        reason="damaged",
        do="Open it in a word processor and save it as .docx.",
    )


def _pieces(main: bytes, table: bytes) -> tuple[str, list[tuple[int, int, int]]]:
    """Put the text together from its pieces.

    Returns:
        The text, and for each piece its first character, its first byte in the file, and the
        bytes a character takes.
    """
    start, size = struct.unpack_from("<II", main, 0x01A2)
    position, end = start, start + size
    while position < end and table[position] == 1:  # property lists come first
        position += 3 + struct.unpack_from("<H", table, position + 1)[0]
    if position >= end or table[position] != 2:
        raise ValueError("no piece table")
    length = struct.unpack_from("<I", table, position + 1)[0]
    count = (length - 4) // 12
    if not 0 < count <= _MAX_PIECES:
        raise ValueError("an empty piece table")
    ends = struct.unpack_from(f"<{count + 1}I", table, position + 5)
    texts: list[str] = []
    places: list[tuple[int, int, int]] = []
    written = 0
    for index in range(count):
        entry = position + 5 + 4 * (count + 1) + 8 * index
        offset = struct.unpack_from("<I", table, entry + 2)[0]
        characters = ends[index + 1] - ends[index]
        if characters <= 0:
            raise ValueError("pieces out of order")
        narrow = bool(offset & 0x40000000)
        offset = (offset & 0x3FFFFFFF) // 2 if narrow else offset & 0x3FFFFFFF
        width = 1 if narrow else 2
        raw = main[offset : offset + characters * width]
        if len(raw) < characters * width:
            raise ValueError("a piece outside the file")
        if narrow:
            piece = raw.decode("cp1252", "replace")
        else:
            piece = "".join(chr(unit) for unit in struct.unpack(f"<{characters}H", raw))
        texts.append(piece)
        places.append((written, offset, width))
        written += characters
    return "".join(texts), places


class _Paragraphs:
    """Finds a paragraph's properties by the place of its end in the file."""

    def __init__(self, main: bytes, table: bytes) -> None:
        self._main = main
        start, size = struct.unpack_from("<II", main, 0x0102)
        count = max(0, (size - 4) // 8)
        self._starts = struct.unpack_from(f"<{count + 1}I", table, start) if count else ()
        numbers = struct.unpack_from(f"<{count}I", table, start + 4 * (count + 1))
        self._numbers = [number & 0x3FFFFF for number in numbers]

    def style_at(self, position: int) -> _Style:
        """Return the style of the paragraph that a byte of the file belongs to."""
        index = bisect_right(self._starts, position) - 1
        if not 0 <= index < len(self._numbers):
            return _Style()
        page = self._main[self._numbers[index] * _PAGE : (self._numbers[index] + 1) * _PAGE]
        if len(page) < _PAGE:
            return _Style()
        runs = page[-1]
        if 4 * (runs + 1) + 13 * runs > _PAGE:
            return _Style()
        starts = struct.unpack_from(f"<{runs + 1}I", page)
        run = bisect_right(starts, position) - 1
        if not 0 <= run < runs:
            return _Style()
        offset = 2 * page[4 * (runs + 1) + 13 * run]
        if offset == 0 or offset + 2 > _PAGE:
            return _Style()
        size = 2 * page[offset] - 1
        offset += 1
        if size < 0:
            size, offset = 2 * page[offset], offset + 1
        return _style(page[offset : min(offset + size, _PAGE)])


def _style(properties: bytes) -> _Style:
    """Read a style number and the property changes behind it."""
    if len(properties) < 2:
        return _Style()
    number = struct.unpack_from("<H", properties)[0]
    level = number if 1 <= number <= 9 else 0
    flags = dict.fromkeys((_IN_TABLE, _ROW_END, _LIST), False)
    position = 2
    while position + 2 <= len(properties):
        code = struct.unpack_from("<H", properties, position)[0]
        position += 2
        size = _OPERAND_SIZES[code >> 13]
        if code >> 13 == 6:
            wide = code == _DEFINE_TABLE
            head = properties[position : position + 1 + wide]
            size = int.from_bytes(head, "little") + 1
        operand = properties[position : position + size]
        if code in flags:
            flags[code] = any(operand)
        elif code == _OUTLINE and operand:
            level = operand[0] + 1 if operand[0] < 9 else level
        position += max(size, 1)
    return _Style(level, flags[_IN_TABLE], flags[_ROW_END], flags[_LIST])


def _write(
    writer: TextWriter, text: str, places: list[tuple[int, int, int]], styles: _Paragraphs
) -> None:
    firsts = [place[0] for place in places]
    cells: list[str] = []
    rows: list[list[str]] = []
    parts: list[str] = []
    position = 0

    def end_table() -> None:
        if cells:
            rows.append(cells.copy())
            cells.clear()
        if rows:
            writer.table(rows)
            rows.clear()

    for end, mark in _marks(text):
        part = text[position:end]
        position = end + 1
        first, offset, width = places[bisect_right(firsts, end) - 1]
        style = styles.style_at(offset + (end - first) * width)
        line = _plain(part)
        if mark == "\x07" and (style.row_end or (not part and not style.in_table)):
            rows.append(cells.copy())
            cells.clear()
        elif mark == "\x07":
            cells.append("\n".join([*parts, line]))
            parts.clear()
        elif style.in_table:
            parts.append(line)
        else:
            end_table()
            if style.level and line and len(line) <= 300:
                writer.heading(style.level, line)
            elif style.listed:
                writer.item(line, "- ")
            else:
                writer.paragraph(line)
    end_table()
    writer.paragraph(_plain(text[position:]))


def _marks(text: str) -> list[tuple[int, str]]:
    """Return the places and characters that end a paragraph, a cell or a page."""
    return [(index, char) for index, char in enumerate(text) if char in "\r\x07\x0c"]


def _plain(text: str) -> str:
    """Leave out field codes and special characters; mend surrogate pairs."""
    if "\x13" in text or "\x15" in text or "\x14" in text:
        kept: list[str] = []
        codes: list[bool] = []  # for each open field, whether its code is being read
        for char in text:
            if char == "\x13":
                codes.append(True)
            elif char == "\x14":
                codes[-1:] = [False]
            elif char == "\x15":
                codes[-1:] = []
            elif not any(codes):
                kept.append(char)
        text = "".join(kept)
    text = text.translate(_GONE).strip()
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
