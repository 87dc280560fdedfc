"""PPTX -> Document: each slide a page and a section, with its tables, diagrams and notes.

Shapes are read from top to bottom, the title first; a placeholder without a place of its own has
its layout's. Charts, pictures and comments are not part of the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ingest.blocks import TextWriter, clip
from ingest.packages import MACROS, Package, PackageReader
from ingest.xml_tree import Element
from rag.schema import Document

_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
_SHOW = Package("presentation", "ppt/presentation.xml", ".pptx", ".ppt")
_TITLES = ("title", "ctrTitle")
_FURNITURE = ("sldNum", "dt", "ftr", "hdr", "sldImg")
_BAND = 228_600
"""Shapes whose tops differ by less are read from left to right; a quarter inch in EMU."""

Place = tuple[int, int]


@dataclass(frozen=True, slots=True)
class _Shape:
    """A shape: where its top and left are, what sort of placeholder it is ("" for none)."""

    element: Element
    place: Place | None
    kind: str


def pptx_document(data: bytes) -> Document:
    """Parse a presentation.

    Args:
        data: The file, known to begin like a ZIP archive or an OLE container.

    Returns:
        Slides as pages and sections, in the order of the show; speaker notes after each.

    Raises:
        DocumentRejected: reason "encrypted", "damaged", "too-large" or "unsupported".
    """
    package = PackageReader(data, _SHOW)
    warnings = [MACROS] if package.holds_macros() else []
    writer = TextWriter()
    hidden: list[str] = []
    for number, path in enumerate(_slides(package), start=1):
        slide = package.tree(path)
        writer.page(number)
        _write_slide(writer, package, slide, path)
        if slide.attrs.get("show") in ("0", "false"):
            hidden.append(str(number))
    if hidden:
        warnings.append(f"Hidden slides were read too: {', '.join(hidden[:20])}.")
    text, sections = writer.finish()
    title = clip(package.title()) or writer.first_heading
    return Document(text, title, writer.pages(), sections, _MEDIA_TYPE, tuple(warnings))


def _slides(package: PackageReader) -> Iterator[str]:
    """Yield the slides' parts in the order of the show, each once."""
    related = package.related(_SHOW.part)
    listed = package.tree(_SHOW.part).first("sldIdLst")
    seen: set[str] = set()
    for entry in listed.elements("sldId") if listed is not None else ():
        kind, path = related.get(entry.attrs.get(":id", ""), ("", ""))
        if kind == "slide" and path not in seen:
            seen.add(path)
            yield path


def _write_slide(writer: TextWriter, package: PackageReader, slide: Element, path: str) -> None:
    related = package.related(path)
    parts = {kind: target for kind, target in related.values()}
    layout = _layout_places(package, parts.get("slideLayout", ""))
    tree = slide.first("cSld", "spTree")
    shapes = _ordered(list(_shapes(tree, layout)) if tree is not None else [])
    titled = False
    for shape in shapes:
        body = shape.element.first("txBody")
        if shape.kind in _TITLES and body is not None and not titled:
            writer.heading(1, " ".join(text for text, _, _ in _paragraphs(body)))
            titled = True
        elif body is not None:
            _write_text(writer, body, bulleted=shape.kind in ("body", "obj"))
        for table in shape.element.walk("tbl"):
            writer.table([list(_cells(row)) for row in table.elements("tr")])
        for ids in shape.element.walk("relIds"):
            kind, target = related.get(ids.attrs.get(":dm", ""), ("", ""))
            if kind == "diagramData":
                _write_text(writer, package.tree(target), bulleted=True)
    notes = parts.get("notesSlide")
    if notes is not None:
        for line in _notes(package.tree(notes)):
            writer.paragraph(line)


def _shapes(group: Element, layout: dict[str, Place]) -> Iterator[_Shape]:
    """Yield the shapes of a slide; those of a group stand where the group does."""
    for element in group.elements("sp", "graphicFrame", "grpSp", "AlternateContent", "cxnSp"):
        if element.tag == "AlternateContent":
            choice = element.first("Choice") or element.first("Fallback")
            if choice is not None:
                yield from _shapes(choice, layout)
            continue
        offset = element.first("spPr", "xfrm", "off") or element.first("xfrm", "off")
        if element.tag == "grpSp":
            place = _place(element.first("grpSpPr", "xfrm", "off"))
            for shape in _ordered(list(_shapes(element, layout))):
                yield _Shape(shape.element, place, shape.kind)
            continue
        holder = next(element.walk("ph"), None)
        kind = holder.attrs.get("type", "obj") if holder is not None else ""
        if kind not in _FURNITURE:
            key = holder.attrs.get("idx", kind) if holder is not None else ""
            yield _Shape(element, _place(offset) or layout.get(key), kind)


def _ordered(shapes: list[_Shape]) -> list[_Shape]:
    """Sort by place, titles first, shapes without a place after them in their own order."""

    def rank(shape: _Shape) -> tuple[int, int, int]:
        if shape.kind in _TITLES:
            return (0, 0, 0)
        if shape.place is None:
            return (1, 0, 0)
        return (2, shape.place[0] // _BAND, shape.place[1])

    return sorted(shapes, key=rank)


def _place(offset: Element | None) -> Place | None:
    if offset is None:
        return None
    try:
        return int(offset.attrs.get("y", "")), int(offset.attrs.get("x", ""))
    except ValueError:
        return None


def _layout_places(package: PackageReader, layout: str) -> dict[str, Place]:
    """Return where a layout puts its placeholders, by their index or kind."""
    places: dict[str, Place] = {}
    if not layout:
        return places
    for element in package.tree(layout).walk("sp"):
        holder = next(element.walk("ph"), None)
        place = _place(element.first("spPr", "xfrm", "off"))
        if holder is not None and place is not None:
            places[holder.attrs.get("idx", holder.attrs.get("type", "obj"))] = place
    return places


def _paragraphs(body: Element) -> Iterator[tuple[str, int, str]]:
    """Yield text, level and bullet ("" unless it says that it has one, "none" if it has none)."""
    for paragraph in body.walk("p"):
        parts: list[str] = []
        for run in paragraph.elements("r", "br", "fld"):
            part = run.first("t")
            parts.append("\n" if run.tag == "br" else part.text() if part is not None else "")
        text = "".join(parts).replace("\v", "\n").strip()
        style = paragraph.first("pPr")
        level, bullet = 0, ""
        if style is not None:
            given = style.attrs.get("lvl", "0")
            level = min(int(given), 8) if given.isdecimal() else 0
            for mark in style.elements("buNone", "buChar", "buAutoNum", "buBlip"):
                bullet = {"buNone": "none", "buAutoNum": "number"}.get(mark.tag, "bullet")
        if text:
            yield text, level, bullet


def _write_text(writer: TextWriter, body: Element, *, bulleted: bool) -> None:
    """Write a text body; in a body of several paragraphs those without a mark are bullets too."""
    paragraphs = list(_paragraphs(body))
    numbers: dict[int, int] = {}
    writer.end_list()
    for text, level, bullet in paragraphs:
        for deeper in [known for known in numbers if known > level]:
            del numbers[deeper]
        if bullet == "number":
            numbers[level] = numbers.get(level, 0) + 1
            writer.item(text, f"{'  ' * level}{numbers[level]}. ")
        elif bullet == "bullet" or (bulleted and not bullet and len(paragraphs) > 1):
            writer.item(text, f"{'  ' * level}- ")
        else:
            writer.paragraph(text)
    writer.end_list()


def _cells(row: Element) -> Iterator[str]:
    """Yield the cells of a table's row; what a merged cell covers is empty."""
    for cell in row.elements("tc"):
        covered = cell.attrs.get("hMerge") in ("1", "true") or cell.attrs.get("vMerge") in (
            "1",
            "true",
        )
        body = cell.first("txBody")
        if body is None or covered:
            yield ""
        else:
            yield "\n".join(text for text, _, _ in _paragraphs(body))


def _notes(notes: Element) -> Iterator[str]:
    """Yield the paragraphs of a slide's notes."""
    for shape in notes.walk("sp"):
        holder = next(shape.walk("ph"), None)
        body = shape.first("txBody")
        if body is not None and (holder is None or holder.attrs.get("type") == "body"):
            for text, _, _ in _paragraphs(body):
                yield text
