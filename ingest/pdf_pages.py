"""PDF -> the lines and tables of each page, through PDFium.

Where the places of a page's characters make no sense its text is taken in the order of its content,
one line after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ingest.pdf_layout import Line, page_lines
from ingest.pdf_words import NoLayout, page_text, page_words, without_layout
from rag.errors import DocumentRejected

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

MAX_PAGES = 20_000
"""Pages a PDF may have."""

_NO_ORDER = (NoLayout, ValueError, ArithmeticError, LookupError, RecursionError)


@dataclass(frozen=True, slots=True)
class Page:
    """A page: its text as it comes, and its lines in reading order."""

    text: str
    lines: list[Line]


@dataclass(frozen=True, slots=True)
class Pages:
    """The title in a PDF's metadata, "" where there is none, and its pages."""

    title: str
    pages: list[Page]


def read_text(data: bytes, passwords: Sequence[str]) -> Pages:
    """Read the text layer of a PDF.

    Args:
        data: The file.
        passwords: Tried one after the other where it needs one.

    Raises:
        DocumentRejected: reason "encrypted", "damaged" or "limit".
    """
    import pypdfium2 as pdfium

    with open_pdf(data, passwords) as document:
        count = len(document)
        if count > MAX_PAGES:
            raise DocumentRejected(
                f"The PDF has {count:,} pages; the limit is {MAX_PAGES:,}.",
                reason="limit",
                do="Split it.",
            )
        title = str(document.get_metadata_value("Title") or "")
        pages: list[Page] = []
        for index in range(count):
            try:
                pages.append(_page(document, index))
            except pdfium.PdfiumError:
                pages.append(Page("", []))
    return Pages(title, pages)


def open_pdf(data: bytes, passwords: Sequence[str]) -> PdfDocument:
    """Open a PDF with the first password that fits.

    Raises:
        DocumentRejected: reason "encrypted" or "damaged".
    """
    import pypdfium2 as pdfium
    import pypdfium2.raw as raw

    refused = (raw.FPDF_ERR_PASSWORD, raw.FPDF_ERR_SECURITY)
    for password in (None, *passwords):
        try:
            return pdfium.PdfDocument(data, password=password)
        except pdfium.PdfiumError as error:
            if getattr(error, "err_code", None) not in refused:
                raise DocumentRejected(
                    "The PDF is damaged or truncated: its structure cannot be read.",
                    reason="damaged",
                    do="Get the file again, or open it in a PDF viewer and save it anew.",
                ) from error
    raise DocumentRejected(
        "The PDF is encrypted and opens with a password only.",
        reason="encrypted",
        do="Give the password in the setting document_passwords, or remove it.",
    )


def _page(document: PdfDocument, index: int) -> Page:
    page = document[index]
    try:
        textpage = page.get_textpage()
        try:
            text = page_text(textpage)
            if not text.strip():
                return Page("", [])
            try:
                return Page(text, page_lines(page_words(page, textpage, text)))
            except _NO_ORDER:
                return Page(text, [Line(line, fixed=False) for line in without_layout(text)])
        finally:
            textpage.close()
    finally:
        page.close()
