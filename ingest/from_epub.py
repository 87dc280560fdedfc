"""EPUB -> Document: the chapters in reading order, each read as HTML; no scripts, no pictures.

A chapter is no page: headings become sections, pages stay empty. Books with digital rights
management are refused; obfuscated fonts do not matter.
"""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Mapping
from io import BytesIO
from urllib.parse import unquote
from xml.etree.ElementTree import ParseError, XMLParser

from ingest.allowance import Allowance
from ingest.blocks import clip, one_line
from ingest.discover import SUPPORTED
from ingest.encoding import decode
from ingest.from_html import html_document
from rag.errors import DocumentRejected
from rag.schema import Document, Span

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_FONTS = (
    "http://www.idpf.org/2008/embedding",
    "http://ns.adobe.com/pdf/enc#RC",
)
_CHAPTERS = ("application/xhtml+xml", "text/html", "text/x-oeb1-document")
_MAX_CHAPTERS = 10_000
_MAX_INDEX = 16 << 20
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, NotImplementedError)
_GAP = "\n\n"


def epub_document(data: bytes, allowance: Allowance) -> Document:
    """Parse an EPUB.

    Args:
        data: The file, known to begin like a ZIP archive.
        allowance: Its limits.

    Raises:
        DocumentRejected: reason "encrypted", "damaged", "limit", "unsupported".
    """
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            return _book(archive, allowance)
    except (*_DAMAGE, RuntimeError) as error:
        raise DocumentRejected(
            "The EPUB is truncated or damaged.", reason="damaged", do="Get the file again."
        ) from error


def _book(archive: zipfile.ZipFile, allowance: Allowance) -> Document:
    names = set(archive.namelist())
    if _CONTAINER not in names:
        raise DocumentRejected(
            "Not an EPUB: the ZIP archive holds no META-INF/container.xml.", reason="unsupported"
        )
    if _ENCRYPTION in names:
        _check_rights(_index(archive, _ENCRYPTION, allowance))
    container = _index(archive, _CONTAINER, allowance)
    roots = [
        attributes.get("full-path", "") for tag, attributes in container.tags if tag == "rootfile"
    ]
    if not roots or roots[0] not in names:
        raise DocumentRejected("The EPUB names no package that it holds.", reason="damaged")
    package = _index(archive, roots[0], allowance)
    folder = posixpath.dirname(roots[0])
    parts: list[str] = []
    sections: list[Span] = []
    warnings: list[str] = []
    length = 0
    for href in package.spine()[:_MAX_CHAPTERS]:
        name = posixpath.normpath(posixpath.join(folder, unquote(href.split("#", 1)[0])))
        if name not in names:
            warnings.append(f"{clip(name)}: named in the contents, but missing.")
            continue
        try:
            markup = decode(_read(archive, name, allowance), html=True).text
        except DocumentRejected as error:
            if error.reason == "limit":
                raise
            warnings.append(f"{clip(name)}: {error.message}")
            continue
        chapter = html_document(markup)
        if not chapter.text.strip():
            continue
        if parts:
            parts.append(_GAP)
            length += len(_GAP)
        parts.append(chapter.text)
        sections += [Span(s.start + length, s.end + length, s.label) for s in chapter.sections]
        length += len(chapter.text)
    return Document(
        text="".join(parts),
        title=clip(package.title),
        sections=tuple(sections),
        media_type=SUPPORTED[".epub"],
        warnings=tuple(warnings[:20]),
    )


def _check_rights(encryption: _Index) -> None:
    """Refuse a book whose chapters are encrypted."""
    methods = [
        attrs.get("Algorithm", "") for tag, attrs in encryption.tags if tag == "EncryptionMethod"
    ]
    if any(method not in _FONTS for method in methods):
        raise DocumentRejected(
            "The EPUB is encrypted (digital rights management).", reason="encrypted"
        )


def _read(archive: zipfile.ZipFile, name: str, allowance: Allowance) -> bytes:
    """Unpack one member within what may still be unpacked."""
    entry = archive.getinfo(name)
    if entry.flag_bits & 1:
        raise DocumentRejected("The EPUB is an encrypted ZIP.", reason="encrypted")
    with archive.open(entry) as source:
        content = source.read(allowance.bytes_left + 1)
    allowance.member()
    allowance.unpack(len(content))
    return content


def _index(archive: zipfile.ZipFile, name: str, allowance: Allowance) -> _Index:
    content = _read(archive, name, allowance)
    if len(content) > _MAX_INDEX:
        raise DocumentRejected(f"The EPUB's {name} is too large.", reason="limit")
    index = _Index()
    parser = XMLParser(target=index)  # noqa: S314 - expat limits entity expansion; no tree is built
    try:
        parser.feed(content)
        parser.close()
    except ParseError as error:
        raise DocumentRejected(f"The EPUB's {clip(name)} is not XML.", reason="damaged") from error
    return index


class _Index:
    """An XML target that notes the tags of a small index file, and the first title."""

    def __init__(self) -> None:
        self.tags: list[tuple[str, Mapping[str, str]]] = []
        self.title = ""
        self._in_title = False

    def spine(self) -> list[str]:
        """Return where the chapters are, in reading order."""
        items = {attrs.get("id", ""): attrs for tag, attrs in self.tags if tag == "item"}
        order = [items.get(attrs.get("idref", "")) for tag, attrs in self.tags if tag == "itemref"]
        return [
            item["href"]
            for item in order
            if item and item.get("href") and item.get("media-type", _CHAPTERS[0]) in _CHAPTERS
        ]

    def start(self, tag: str, attrs: Mapping[str, str]) -> None:
        tag = tag.rsplit("}", 1)[-1]
        self.tags.append((tag, attrs))
        self._in_title = tag == "title" and not self.title

    def data(self, text: str) -> None:
        if self._in_title and len(self.title) < 1000:
            self.title += text

    def end(self, tag: str) -> None:
        if self._in_title:
            self.title = one_line(self.title)
        self._in_title = False

    def close(self) -> None:
        """Nothing to do; the parser calls it at the end."""
