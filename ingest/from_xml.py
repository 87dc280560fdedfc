"""XML -> Document: prose by its elements, data as "name: value" lines.

A file in which text and elements are mixed is prose: titles are sections, blocks paragraphs. Any
other is data: the values of one element make a paragraph. Entities are refused, nothing is
fetched.
"""

from __future__ import annotations

from ingest.blocks import TextWriter, clip
from ingest.xml_tree import Element, read_tree
from rag.schema import Document

_MEDIA_TYPE = "application/xml"
_TITLES = frozenset({"title", "head", "heading", "h1", "h2", "h3", "h4", "h5", "h6"})
_PROSE = frozenset({"p", "para", "simpara", "body", "section", "div", "abstract"})
_PARTS = frozenset(
    "book part chapter section sect sect1 sect2 sect3 sect4 sect5 sec div div1 div2 div3 "
    "appendix article front-matter simplesect".split()
)
_ITEMS = frozenset({"li", "item", "listitem", "list-item"})
_LONGEST_INLINE = 20_000


def xml_document(text: str) -> Document:
    """Parse a decoded XML file.

    Args:
        text: The file; what its declaration says of an encoding no longer counts.

    Raises:
        DocumentRejected: reason "damaged" when it is not well-formed, declares entities or nests
            deeper than 200.
    """
    root = read_tree(text.encode(), "The XML", doctype=True, encoding="utf-8")
    writer = TextWriter()
    if any(_is_mixed(element) or element.tag in _PROSE for element in [root, *root.walk()]):
        _write_prose(writer, root, 0)
    else:
        _write_data(writer, root)
    written, sections = writer.finish()
    return Document(written, writer.first_heading, sections=sections, media_type=_MEDIA_TYPE)


def _is_mixed(element: Element) -> bool:
    """Whether an element holds both text and elements."""
    return any(isinstance(child, str) and child.strip() for child in element.children) and any(
        isinstance(child, Element) for child in element.children
    )


def _write_prose(writer: TextWriter, element: Element, level: int) -> None:
    level += element.tag in _PARTS
    if element.tag in _TITLES:
        digit = element.tag[1:] if element.tag[0] == "h" else ""
        text = element.text()
        if len(text) <= 300:
            writer.heading(int(digit) if digit.isdecimal() else max(level, 1), text)
            return
    if element.tag in _ITEMS:
        writer.item(" ".join(element.text().split()), "- ")
    elif _is_mixed(element) and len(text := element.text()) <= _LONGEST_INLINE:
        writer.paragraph(text if element.tag in ("pre", "code") else " ".join(text.split()))
    elif any(True for _ in element.elements()):
        for child in element.children:
            if isinstance(child, Element):
                _write_prose(writer, child, level)
            else:
                writer.paragraph(" ".join(child.split()))
    else:
        writer.paragraph(" ".join(element.text().split()))


def _write_data(writer: TextWriter, element: Element) -> None:
    """Write an element's own values as a paragraph, then the elements below."""
    lines: list[str] = []
    for name, value in element.attrs.items():
        if value.strip():
            lines.append(f"{element.tag}.{name.lstrip(':')}: {' '.join(value.split())}")
    own = [child for child in element.elements() if not child.attrs and _is_leaf(child)]
    for child in own:
        if value := " ".join(child.text().split()):
            lines.append(f"{clip(child.tag)}: {value}")
    if _is_leaf(element) and (value := " ".join(element.text().split())):
        lines.append(f"{clip(element.tag)}: {value}")
    writer.paragraph("\n".join(lines))
    for child in element.elements():
        if child.attrs or not _is_leaf(child):
            _write_data(writer, child)


def _is_leaf(element: Element) -> bool:
    return next(element.elements(), None) is None
