"""PPT (PowerPoint 97 to 2003) -> Document: each slide a page and a section, notes after it.

The layout of the file is Microsoft's [MS-PPT]: a tree of records, and a directory that says where
the newest copy of each slide lies. Tables of this format are loose text boxes, and stay so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from ingest.blocks import TextWriter
from ingest.packages import MACROS, OLE_ERRORS, open_ole
from rag.errors import DocumentRejected
from rag.schema import Document

_MEDIA_TYPE = "application/vnd.ms-powerpoint"
_SLIDE, _NOTES, _MASTER, _SLIDE_ATOM, _NOTES_TEXT = 1006, 1008, 1016, 1007, 2
_LIST, _PERSIST_ATOM, _TEXT_BOX = 0x0FF0, 0x03F3, 0xF00D
_TEXT_HEADER, _WIDE, _NARROW, _OUTLINE_REF = 0x0F9F, 0x0FA0, 0x0FA8, 0x0F9E
_USER_EDIT, _DIRECTORY = 0x0FF5, 0x1772
_TITLES = (0, 6)
_BODIES = (1, 5, 7, 8)
_ENCRYPTED = 0xF3D1C4DF
_MAX_DEPTH = 40
_MAX_EDITS = 10_000


@dataclass(frozen=True, slots=True)
class _Record:
    kind: int
    instance: int
    start: int
    end: int
    container: bool


@dataclass(slots=True)
class _Slide:
    """A slide's entry in the document: where it lies, its id and the texts of its outline."""

    reference: int
    number: int
    outline: list[tuple[int, str]] = field(default_factory=list)


def ppt_document(data: bytes) -> Document:
    """Parse a presentation of the old kind.

    Args:
        data: The file, known to begin like an OLE container.

    Returns:
        Slides as pages and sections; where no slide holds text, the text of the masters.

    Raises:
        DocumentRejected: reason "encrypted", "damaged" or "unsupported".
    """
    with open_ole(data, "presentation") as container:
        if container.exists("EncryptedPackage") or container.exists("EncryptedSummary"):
            raise _encrypted()
        if not container.exists("PowerPoint Document"):
            raise DocumentRejected(
                "Not a presentation: the file holds no stream called PowerPoint Document.",
                reason="unsupported",
                do="Give the file the suffix of its real format.",
            )
        try:
            show = container.openstream("PowerPoint Document").read()
            user = container.openstream("Current User").read()
            token, edit = struct.unpack_from("<II", user, 12)
            if token == _ENCRYPTED:
                raise _encrypted()
            return _Show(show, edit).document()
        except OLE_ERRORS as error:
            raise DocumentRejected(
                "The presentation is truncated or damaged: its records are cut off.",
                reason="damaged",
                do="Open it in a presentation program and save it as .pptx.",
            ) from error


def _encrypted() -> DocumentRejected:
    return DocumentRejected(
        "The presentation is encrypted and opens with a password only.",
        reason="encrypted",
        do="Remove the password and try again.",
    )


class _Show:
    """The record tree of a presentation.

    Args:
        data: The stream "PowerPoint Document".
        edit: Where its newest edit lies, bytes.
    """

    def __init__(self, data: bytes, edit: int) -> None:
        self._data = data
        self._places: dict[int, int] = {}
        self._main = 0
        for count in range(_MAX_EDITS):
            record = self._record(edit, len(data))
            if record.kind != _USER_EDIT:
                raise ValueError("no edit where one should be")
            if record.end - record.start >= 32:
                raise _encrypted()
            _, _, earlier, directory, main = struct.unpack_from("<IIIII", data, record.start)
            self._main = main if count == 0 else self._main
            self._read_directory(self._record(directory, len(data)))
            if not 0 < earlier < edit:
                break
            edit = earlier

    def document(self) -> Document:
        main = self._at(self._main)
        if main is None:
            raise ValueError("no document record")
        lists = {record.instance: record for record in self._inside(main) if record.kind == _LIST}
        slides = self._slides(lists.get(0))
        notes = {slide.number: slide for slide in self._slides(lists.get(2))}
        writer = TextWriter()
        for number, slide in enumerate(slides, start=1):
            writer.page(number)
            record = self._at(slide.reference)
            texts = list(self._texts(record, slide.outline)) if record is not None else []
            _write(writer, texts or slide.outline)
            noted = notes.get(self._notes_number(record))
            record = self._at(noted.reference) if noted is not None else None
            if record is not None and noted is not None:
                for kind, text in self._texts(record, noted.outline):
                    if kind == _NOTES_TEXT:
                        writer.paragraph(text)
        text, sections = writer.finish()
        warnings = (MACROS,) if self._holds_macros(main) else ()
        if not text.strip():
            writer, sections = TextWriter(), ()
            for master in self._slides(lists.get(1)):
                record = self._at(master.reference)
                for kind, part in self._texts(record, master.outline) if record else ():
                    if kind in (*_TITLES, *_BODIES):
                        writer.paragraph(part)
            text, _ = writer.finish()
            if text:
                warnings = (*warnings, "Only the master slides hold text.")
        pages = writer.pages()
        return Document(text, writer.first_heading, pages, sections, _MEDIA_TYPE, warnings)

    def _read_directory(self, record: _Record) -> None:
        if record.kind != _DIRECTORY:
            raise ValueError("no directory where one should be")
        position = record.start
        while position + 4 <= record.end:
            head = struct.unpack_from("<I", self._data, position)[0]
            first, count = head & 0xFFFFF, head >> 20
            for index in range(count):
                place = struct.unpack_from("<I", self._data, position + 4 + 4 * index)[0]
                self._places.setdefault(first + index, place)
            position += 4 + 4 * count

    def _record(self, start: int, limit: int) -> _Record:
        version, kind, size = struct.unpack_from("<HHI", self._data, start)
        end = start + 8 + size
        if end > limit:
            raise ValueError("a record longer than what holds it")
        return _Record(kind, version >> 4, start + 8, end, version & 15 == 15)

    def _at(self, reference: int) -> _Record | None:
        place = self._places.get(reference)
        return self._record(place, len(self._data)) if place is not None else None

    def _inside(self, parent: _Record) -> Iterator[_Record]:
        position = parent.start
        while position + 8 <= parent.end:
            record = self._record(position, parent.end)
            yield record
            position = record.end

    def _slides(self, listed: _Record | None) -> list[_Slide]:
        """Read a list of slides with the texts that stand after each."""
        slides: list[_Slide] = []
        kind = 4
        for record in self._inside(listed) if listed is not None else ():
            if record.kind == _PERSIST_ATOM:
                values = struct.unpack_from("<IIIi", self._data, record.start)
                slides.append(_Slide(values[0], values[3]))
            elif record.kind == _TEXT_HEADER:
                kind = struct.unpack_from("<I", self._data, record.start)[0]
            elif record.kind in (_WIDE, _NARROW) and slides:
                slides[-1].outline.append((kind, self._text(record)))
        return slides

    def _text(self, record: _Record) -> str:
        raw = self._data[record.start : record.end]
        text = raw.decode("utf-16-le" if record.kind == _WIDE else "latin-1", "replace")
        return text.replace("\r", "\n").replace("\v", "\n")

    def _texts(
        self, parent: _Record, outline: list[tuple[int, str]], depth: int = 0
    ) -> Iterator[tuple[int, str]]:
        """Yield kind and text of every text box below a record, in drawing order."""
        if depth > _MAX_DEPTH:
            return
        kind = 4
        for record in self._inside(parent):
            if record.kind == _TEXT_HEADER:
                kind = struct.unpack_from("<I", self._data, record.start)[0]
            elif record.kind in (_WIDE, _NARROW):
                if depth > 0:
                    yield kind, self._text(record)
            elif record.kind == _OUTLINE_REF:
                index = struct.unpack_from("<I", self._data, record.start)[0]
                if index < len(outline):
                    yield outline[index]
            elif record.container or record.kind == _TEXT_BOX:
                yield from self._texts(record, outline, depth + 1)

    def _notes_number(self, slide: _Record | None) -> int:
        """Return the id of the notes that belong to a slide, 0 for none."""
        for record in self._inside(slide) if slide is not None else ():
            if record.kind == _SLIDE_ATOM and record.end - record.start >= 20:
                return int(struct.unpack_from("<I", self._data, record.start + 16)[0])
        return 0

    def _holds_macros(self, main: _Record) -> bool:
        for record in self._inside(main):
            if record.kind == 2000:
                for child in self._inside(record):
                    for atom in self._inside(child) if child.kind == 1023 else ():
                        if atom.end - atom.start >= 8:
                            return any(self._data[atom.start + 4 : atom.start + 8])
        return False


def _write(writer: TextWriter, texts: list[tuple[int, str]]) -> None:
    """Write a slide's texts, its first title before the others."""
    title = next((item for item in texts if item[0] in _TITLES and item[1].strip()), None)
    if title is not None:
        writer.heading(1, title[1])
    for item in texts:
        if item is title or item[1].strip() == "*":  # where the slide's number is shown
            continue
        lines = [line for line in item[1].split("\n") if line.strip()]
        if item[0] in _BODIES and len(lines) > 1:
            for line in lines:
                writer.item(line, "- ")
            writer.end_list()
        else:
            writer.paragraph("\n".join(lines))
