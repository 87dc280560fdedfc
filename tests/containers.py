"""Tiny archives, mails and books for the tests of containers."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from email.message import EmailMessage

from ingest.allowance import Allowance, PageReader
from ingest.parse import parse
from rag.errors import DocumentRejected
from rag.schema import Document


def zipped(files: Mapping[str, bytes | str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def zip_link(name: str, target: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, target)
        archive.writestr("a.txt", "a text\n")
    return packed.getvalue()


def tarred(files: Mapping[str, bytes | str], *extra: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            body = content.encode() if isinstance(content, str) else content
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
        for entry in extra:
            archive.addfile(entry)
    return packed.getvalue()


def tgz(files: Mapping[str, bytes | str]) -> bytes:
    return gzip.compress(tarred(files), mtime=0)


def mail(subject: str, text: str, html: str = "", **files: bytes) -> EmailMessage:
    """Return a mail; `files` name attachments, "_" standing for the dot of the suffix."""
    message = EmailMessage()
    message["From"] = "Ann <ann@example.org>"
    message["To"] = "bob@example.org"
    message["Date"] = "Tue, 01 Oct 2024 12:34:56 +0000"
    message["Subject"] = subject
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
    for name, content in files.items():
        message.add_attachment(
            content, "application", "octet-stream", filename=name.replace("_", ".")
        )
    return message


def book(chapters: Mapping[str, str], extra: Mapping[str, str] | None = None) -> bytes:
    """Return an EPUB whose spine names the chapters in this order; stored in the opposite one."""
    items = "".join(
        f'<item id="c{number}" href="{name}" media-type="application/xhtml+xml"/>'
        for number, name in enumerate(chapters)
    )
    spine = "".join(f'<itemref idref="c{number}"/>' for number in range(len(chapters)))
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<metadata><dc:title>The Book</dc:title></metadata><manifest>{items}</manifest>"
        f"<spine>{spine}</spine></package>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OPS/book.opf" media-type="x"/></rootfiles></container>'
    )
    files = {"mimetype": "application/epub+zip", "META-INF/container.xml": container}
    files |= {"OPS/book.opf": package}
    files |= {f"OPS/{name}": text for name, text in reversed(list(chapters.items()))}
    return zipped(files | dict(extra or {}))


def read(
    data: bytes, name: str, *passwords: str, reader: PageReader | None = None, **limits: int
) -> Document:
    return parse(data, name, Allowance(passwords=passwords, reader=reader, **limits))


def refusal(data: bytes, name: str, *passwords: str, **limits: int) -> DocumentRejected:
    try:
        document = read(data, name, *passwords, reader=None, **limits)
    except DocumentRejected as error:
        return error
    raise AssertionError(f"parsed: {document}")


def labels(document: Document) -> list[str]:
    return [span.label for span in document.sections]
