"""RTF -> Document: styles and outline levels give headings, rows of cells give tables.

Characters are decoded by the character set of their font, as word processors do, then by the
document's code page. Pictures, objects, headers, footers and hidden text are left out; list
markers are kept as they stand, footnotes stand at the end.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field, replace

from ingest.blocks import TextWriter, clip
from rag.errors import DocumentRejected
from rag.schema import Document

_MEDIA_TYPE = "application/rtf"
_TOKEN = re.compile(
    rb"\\(?:(?P<word>[a-zA-Z]{1,32})(?P<number>-?\d{1,10})?[ ]?|'(?P<hex>[0-9a-fA-F]{2})"
    rb"|(?P<symbol>[^a-zA-Z']))|(?P<brace>[{}])|[\r\n]+|(?P<text>[^\\{}\r\n]+)|\\",
    re.S,
)
_MAX_DEPTH = 500
_CHARSETS = {
    0: "cp1252", 77: "mac_roman", 128: "cp932", 129: "cp949", 130: "johab", 134: "gb18030",
    136: "cp950", 161: "cp1253", 162: "cp1254", 163: "cp1258", 177: "cp1255", 178: "cp1256",
    186: "cp1257", 204: "cp1251", 222: "cp874", 238: "cp1250",
}  # fmt: skip
_SKIPPED = frozenset(
    "colortbl stylesheet fonttbl info pict object header headerl headerr headerf footer footerl "
    "footerr footerf xe tc themedata colorschememapping datastore latentstyles listtable "
    "listoverridetable rsidtbl generator fldinst bkmkstart bkmkend annotation atnid atnauthor "
    "filetbl revtbl private pnseclvl nonesttables shpinst".split()
)
_CHARACTERS = {
    "tab": "\t", "line": "\n", "emdash": "—", "endash": "–", "lquote": "‘", "rquote": "’",
    "ldblquote": "“", "rdblquote": "”", "bullet": "•", "emspace": " ", "enspace": " ",
}  # fmt: skip
_ITEM = re.compile(r"([^\w\s]|o|[(（]?\w{1,4}[.)）])\t\s*(.+)", re.S)
_HEADING = re.compile(r"(?:heading|标题|標題|überschrift|titre|título)\s*([1-9])$", re.I)


@dataclass(frozen=True, slots=True)
class _State:
    """What a group inherits from the one around it."""

    target: str = "body"  # body, note, fonts, styles, title, skip
    font: int = -1
    skip: int = 1
    hidden: bool = False
    in_table: bool = False
    style: int = 0
    outline: int = -1


def rtf_document(data: bytes) -> Document:
    r"""Parse an RTF file.

    Args:
        data: The file, known to begin with "{\rtf".

    Returns:
        Headings as sections, tables as Markdown tables, footnotes at the end.

    Raises:
        DocumentRejected: reason "damaged" when it is cut off or nests too deep.
    """
    reader = _Reader()
    reader.read(data)
    return reader.finish()


@dataclass(slots=True)
class _Reader:
    """The state of reading; `finish` may be called once, after `read`."""

    writer: TextWriter = field(default_factory=TextWriter)
    state: _State = field(default_factory=_State)
    stack: list[_State] = field(default_factory=list)
    page: str = "cp1252"
    fonts: dict[int, str] = field(default_factory=dict)
    levels: dict[int, int] = field(default_factory=dict)
    default_font: int = -1
    raw: bytearray = field(default_factory=bytearray)
    text: list[str] = field(default_factory=list)
    note: list[str] = field(default_factory=list)
    title: list[str] = field(default_factory=list)
    name: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    cells: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    pending: int = 0
    high: str = ""
    starred: bool = False

    def read(self, data: bytes) -> None:
        position = 0
        while position < len(data):
            match = _TOKEN.match(data, position)
            if match is None:
                break
            position = match.end()
            kind = match.lastgroup
            if kind == "brace":
                self._brace(match.group() == b"{")
                if not self.stack:
                    break
            elif kind == "hex":
                self._bytes(bytes([int(match.group("hex"), 16)]))
            elif kind == "text":
                self._bytes(match.group())
            elif kind == "symbol":
                self._symbol(match.group("symbol"))
            elif kind in ("word", "number"):
                word = match.group("word").decode("ascii")
                number = int(match.group("number")) if match.group("number") else None
                if word == "bin":
                    position += max(0, number or 0)
                else:
                    self._word(word, number)
        self._flush()
        if self.stack:
            raise DocumentRejected(
                "The RTF document is truncated or damaged: its groups are not closed.",
                reason="damaged",
                do="Get the file again.",
            )

    def finish(self) -> Document:
        self._paragraph()
        self._end_table()
        if self.notes:
            self.writer.leave_section()
        for note in self.notes:
            self.writer.paragraph(note)
        text, sections = self.writer.finish()
        title = clip("".join(self.title)) or self.writer.first_heading
        return Document(text, title, sections=sections, media_type=_MEDIA_TYPE)

    def _brace(self, opens: bool) -> None:
        self._flush()
        self.starred = False
        if opens:
            if len(self.stack) >= _MAX_DEPTH:
                raise DocumentRejected(
                    f"The RTF document is damaged: its groups nest deeper than {_MAX_DEPTH}.",
                    reason="damaged",
                )
            self.stack.append(self.state)
            return
        ended = self.state
        self.state = self.stack.pop() if self.stack else _State()
        if ended.target == "styles":
            self._name_style(ended)
        elif ended.target == "note" and self.state.target != "note":
            self.notes.append("".join(self.note).strip())
            self.note.clear()
        if self.state.target == "body" and ended.target == "body":
            self.state = replace(
                self.state, in_table=ended.in_table, style=ended.style, outline=ended.outline
            )

    def _symbol(self, symbol: bytes) -> None:
        if symbol == b"*":
            self.starred = True
        elif symbol in b"{}\\":
            self._bytes(symbol)
        elif symbol == b"~":
            self._put(" ")
        elif symbol == b"_":
            self._put("-")
        elif symbol in b"\r\n":
            self._end_paragraph()

    def _word(self, word: str, number: int | None) -> None:
        starred, self.starred = self.starred, False
        if word == "u":
            self._unicode(number or 0)
            return
        self._flush()
        state = self.state
        if state.target == "skip":
            return
        if word == "upr":
            return
        if word == "title":
            self.state = replace(state, target="title")
        elif word == "info":
            self.state = replace(state, target="info")
        elif word in ("fonttbl", "stylesheet"):
            self.state = replace(state, target="fonts" if word == "fonttbl" else "styles")
        elif word == "footnote":
            self.state = replace(state, target="note")
        elif word in _SKIPPED or (
            starred and word not in ("shptxt", "ud", "cs", "ds", "ts", "shppict")
        ):
            self.state = replace(state, target="skip")
        else:
            self._format(word, number)

    def _format(self, word: str, number: int | None) -> None:
        value = 0 if number is None else number
        if word in _CHARACTERS:
            self._put(_CHARACTERS[word])
        elif word in ("par", "sect", "page"):
            self._end_paragraph()
        elif word in ("cell", "nestcell", "row", "nestrow"):
            self._table_word(word)
        elif word == "pard":
            self.state = replace(self.state, in_table=False, style=0, outline=-1)
        elif word == "plain":
            self.state = replace(self.state, hidden=False, font=self.default_font)
        elif word in ("intbl", "outlinelevel", "s", "uc", "v", "f"):
            self._set(word, value, number)
        elif word == "deff":
            self.default_font = value
        elif word == "ansicpg":
            self.page = _codec(f"cp{936 if value == 0 else value}") or self.page
        elif word in ("mac", "pc", "pca"):
            self.page = {"mac": "mac_roman", "pc": "cp437", "pca": "cp850"}[word]
        elif word == "fcharset" and self.state.target == "fonts" and value in _CHARSETS:
            self.fonts[self.state.font] = _CHARSETS[value] if value else self.page

    def _set(self, word: str, value: int, number: int | None) -> None:
        if word == "intbl":
            self.state = replace(self.state, in_table=True)
        elif word == "outlinelevel":
            self.state = replace(self.state, outline=value)
        elif word == "s":
            self.state = replace(self.state, style=value)
        elif word == "uc":
            self.state = replace(self.state, skip=min(max(value, 0), 8))
        elif word == "v":
            self.state = replace(self.state, hidden=number != 0)
        else:
            self.state = replace(self.state, font=value)

    def _bytes(self, raw: bytes) -> None:
        if self.pending:
            cut = min(self.pending, len(raw))
            self.pending -= cut
            raw = raw[cut:]
        if self.state.target != "skip":
            self.raw += raw

    def _unicode(self, number: int) -> None:
        self._flush()
        code = number % 0x10000
        self.pending = self.state.skip
        if 0xD800 <= code < 0xDC00:
            self.high = chr(code)
        elif 0xDC00 <= code < 0xE000 and self.high:
            pair = 0x10000 + ((ord(self.high) - 0xD800) << 10) + code - 0xDC00
            self.high = ""
            self._put(chr(pair))
        elif code < 0xD800 or code >= 0xE000:
            self._put(chr(code))

    def _flush(self) -> None:
        """Decode the bytes gathered, by their font's character set."""
        self.pending = 0
        if self.raw:
            font = self.state.font if self.state.font >= 0 else self.default_font
            self._put(bytes(self.raw).decode(self.fonts.get(font, self.page), "replace"))
            self.raw.clear()

    def _put(self, text: str) -> None:
        target = self.state.target
        if target == "body" and not self.state.hidden:
            self.text.append(text)
        elif target == "note":
            self.note.append(text)
        elif target == "title":
            self.title.append(text)
        elif target == "styles":
            self.name.append(text)

    def _name_style(self, ended: _State) -> None:
        """Note which paragraph styles are headings, and of what level."""
        name = "".join(self.name).strip(" ;\t")
        self.name.clear()
        match = _HEADING.match(name)
        if match is not None:
            self.levels[ended.style] = int(match.group(1))
        elif 0 <= ended.outline < 9:
            self.levels[ended.style] = ended.outline + 1

    def _end_paragraph(self) -> None:
        if self.state.target == "note":
            self.note.append("\n")
        elif self.state.target == "body" and self.state.in_table:
            self.text.append("\n")
        elif self.state.target == "body":
            self._paragraph()

    def _paragraph(self) -> None:
        text = "".join(self.text).strip()
        self.text.clear()
        if not text:
            return
        self._end_table()
        outline = self.state.outline
        level = outline + 1 if 0 <= outline < 9 else self.levels.get(self.state.style, 0)
        if level and len(text) <= 300:
            self.writer.heading(level, text)
        elif (item := _ITEM.match(text)) is not None:
            mark = item.group(1)
            self.writer.item(item.group(2), f"{mark} " if mark[-1] in ".)" else "- ")
        else:
            self.writer.paragraph(text)

    def _table_word(self, word: str) -> None:
        if word.endswith("cell"):
            self.cells.append("".join(self.text).strip())
            self.text.clear()
        else:
            self._row()

    def _row(self) -> None:
        if self.cells:
            self.rows.append(self.cells)
        self.cells = []

    def _end_table(self) -> None:
        self._row()
        if self.rows:
            self.writer.table(self.rows)
        self.rows = []


def _codec(name: str) -> str:
    name = {"cp936": "gb18030", "cp10000": "mac_roman", "cp65001": "utf-8"}.get(name, name)
    try:
        return codecs.lookup(name).name
    except LookupError:
        return ""
