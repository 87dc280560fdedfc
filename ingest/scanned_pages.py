"""Pages of a PDF as pictures, for OCR; and how many pages it has. PDFium does both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingest.allowance import Allowance
from rag.errors import DocumentRejected

MAX_PAGES = 20_000
"""Pages a PDF may have."""

_DPI = 200
_LONGEST_SIDE = 3000


@dataclass(frozen=True, slots=True)
class ReadPages:
    """What OCR made of some pages.

    Attributes:
        lines: Page number, from 1, to its lines; pages where nothing was found are left out.
        unread: Numbers of the pages that were not looked at: too many, or not to be drawn.
    """

    lines: dict[int, list[str]]
    unread: tuple[int, ...]


def check_page_count(data: bytes, passwords: Sequence[str]) -> None:
    """Refuse a PDF with more pages than are read.

    Raises:
        DocumentRejected: reason "limit"; what PDFium cannot open is left to the parser.
    """
    import pypdfium2 as pdfium

    for password in (None, *passwords):
        try:
            with pdfium.PdfDocument(data, password=password) as document:
                pages = len(document)
        except pdfium.PdfiumError:
            continue
        if pages > MAX_PAGES:
            raise DocumentRejected(
                f"The PDF has {pages:,} pages; the limit is {MAX_PAGES:,}.",
                reason="limit",
                do="Split it.",
            )
        return


def read_pages(data: bytes, numbers: Sequence[int], allowance: Allowance) -> ReadPages:
    """Draw pages and read them.

    Args:
        data: The PDF.
        numbers: Of the pages, from 1, in order.
        allowance: Holds the reader and how many pages it may read; without a reader the pages are
            noted there as wanted, and come back unread.
    """
    if allowance.reader is None:
        allowance.wanted_ocr += len(numbers)
        return ReadPages({}, tuple(numbers))
    import pypdfium2 as pdfium

    lines: dict[int, list[str]] = {}
    unread: list[int] = []
    document = _open(data, allowance.passwords)
    if document is None:
        return ReadPages({}, tuple(numbers))
    with document:
        for number in numbers:
            try:
                page = document[number - 1]
                scale = min(_DPI / 72, _LONGEST_SIDE / max(*page.get_size(), 1))
                small = page.render(scale=scale / 8).to_numpy()
                if small.min() == small.max():
                    continue  # blank
                if not allowance.ocr_page():
                    unread.append(number)
                    continue
                pixels = page.render(scale=scale, rev_byteorder=True).to_numpy()[:, :, :3]
            except pdfium.PdfiumError:
                unread.append(number)
                continue
            if found := allowance.reader.read(pixels):
                lines[number] = found
            page.close()
    return ReadPages(lines, tuple(unread))


def _open(data: bytes, passwords: Sequence[str]):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """Return a pypdfium2 document, None where no password fits."""
    import pypdfium2 as pdfium

    for password in (None, *passwords):
        try:
            return pdfium.PdfDocument(data, password=password)
        except pdfium.PdfiumError:
            continue
    return None
