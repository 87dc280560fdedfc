"""Pages of a PDF as pictures, for OCR. PDFium draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ingest.allowance import Allowance
from ingest.pdf_pages import open_pdf

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
    with open_pdf(data, allowance.passwords) as document:
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
