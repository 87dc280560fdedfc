"""PDF -> Document, one page after the other.

The pages are read in ingest.pdf_pages; headers and footers go (ingest.pdf_running), headings are
found (ingest.pdf_headings), lines put together again (ingest.lines) and tables written as Markdown.
A page that is a picture, or whose text layer is nonsense, is read by OCR where there is a reader
(ingest.scanned_pages), else left out; a file of such pages only is then refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from ingest.allowance import Allowance
from ingest.blocks import SectionPath, clip
from ingest.lines import (
    Heading,
    Mended,
    join_pages,
    mend,
    number_depth,
    numbered_headings,
    title_line,
)
from ingest.ocr import INSTALL, WARNING
from ingest.pdf_headings import Headings, find_headings
from ingest.pdf_layout import Line
from ingest.pdf_pages import read_text
from ingest.pdf_paragraphs import full_widths, paragraph_starts
from ingest.pdf_running import without_running_lines
from ingest.pdf_tables import markdown
from ingest.scanned_pages import ReadPages, read_pages
from rag.errors import DocumentRejected
from rag.schema import Document, Span

_PDF = "application/pdf"
_PICTURE = re.compile(rb"/Subtype\s*/Image\b|/CCITTFaxDecode|/JBIG2Decode|/DCTDecode")
_BAD = re.compile("[\0\1\x03-\x1f\x7f-\x9f\ufffd\ue000-\uf8ff\U000f0000-\U0010ffff]")
_HIGH = re.compile("[\x80-\u024f]")
_NO_TITLE = re.compile(
    r"\(?(?:anonymous|untitled|unknown|无标题|未命名|title)\)?$|(?:untitled|document|无标题)\W*\d*$"
    r"|Microsoft \w+ - |.*\.(?:docx?|pdf|xlsx?|pptx?|indd|qxd|tex|dvi|rtf|txt|html?|wps)$"
    r"|(?:file|https?):|[\W\d_]*$",
    re.I,
)


def pdf_document(data: bytes, allowance: Allowance) -> Document:
    """Parse a PDF.

    Args:
        data: The file, known to begin like a PDF.
        allowance: Its limits, its passwords and the reader for pages that need OCR.

    Returns:
        A Document with one page span for each page that holds text, labelled with its number.

    Raises:
        DocumentRejected: reason "encrypted", "damaged", "needs-ocr" (pictures only, or a text
            layer of nonsense), "limit" or "empty".
    """
    layer = read_text(data, allowance.passwords)
    pages: list[list[Line]] = []
    blank: list[int] = []
    garbled: list[int] = []
    for number, page in enumerate(layer.pages, start=1):
        nonsense = is_garbled(page.text)
        if nonsense:
            garbled.append(number)
        elif not page.text.strip():
            blank.append(number)
        pages.append([] if nonsense else page.lines)
    read = ReadPages({}, ())
    if garbled or (blank and _PICTURE.search(data)):
        read = read_pages(data, sorted(blank + garbled), allowance)
        for number, lines in read.lines.items():
            pages[number - 1] = [Line(line, fixed=False) for line in lines]
        blank = [number for number in blank if number not in read.lines]
        garbled = [number for number in garbled if number not in read.lines]
    if not any(pages):
        raise _without_text(data, len(pages), garbled)
    found = find_headings(without_running_lines(pages))
    text, spans, paths = _written(found)
    return Document(
        text=text,
        title=_title(layer.title, found.title, text),
        pages=spans,
        sections=paths,
        media_type=_PDF,
        warnings=(*_ocr_warnings(read), *_warnings(data, text, blank, garbled)),
    )


def _written(found: Headings) -> tuple[str, tuple[Span, ...], tuple[Span, ...]]:
    """Write the pages; return the text, the spans of the pages and those of the sections."""
    mended: list[Mended] = []
    for number, page in enumerate(found.pages):
        alone = {i for i, line in enumerate(page) if line.rows or (number, i) in found.levels}
        lines = ["\n".join(markdown(line.rows)) if line.rows else line.text for line in page]
        mended.append(mend(lines, alone, paragraph_starts(page), full_widths(page)))
    text, spans = join_pages([page.text for page in mended])
    headings: list[Heading] = []
    starts = {int(span.label) - 1: span.start for span in spans}
    for (number, index), level in found.levels.items():
        title = found.pages[number][index].text.replace("\x02", "-")
        headings.append(Heading(level, title, starts[number] + mended[number].starts[index]))
    return text, spans, sections(text, headings)


def sections(text: str, headings: Sequence[Heading]) -> tuple[Span, ...]:
    """Return the section spans of a text.

    Args:
        text: Of the document.
        headings: Known by their letters, in order; a level of 0 is the title's, which no section
            belongs to. Without any, numbers make sections; where none of these has a number, or
            they begin to count later, numbered lines are sections within them.
    """
    numbered = numbered_headings(text)
    first = next((h.title for h in headings if number_depth(h.title) is not None), "")
    if first and re.match(r"\D{0,8}?[1一](?!\d)", first):
        numbered = []
    known = {heading.start for heading in headings}
    within = [replace(h, level=h.level + 100) for h in numbered if h.start not in known]
    path = SectionPath()
    for heading in sorted([*headings, *within], key=lambda heading: heading.start):
        if heading.level:
            path.heading(heading.level, heading.title, heading.start)
        else:
            path.leave(heading.start)
    path.close(len(text))
    return tuple(path.spans)


def is_garbled(text: str) -> bool:
    """Whether a text layer is nonsense: its fonts do not say which characters they show.

    True when a tenth of the visible characters are replacement, private or unassigned ones, when
    it is made of "(cid:12)" marks, or when most of it is accented Latin and symbols outside
    words, as GBK codes read as Latin-1 are.
    """
    visible = "".join(text.split())
    if len(visible) < 8:
        return False
    bad = len(_BAD.findall(visible))
    if bad * 10 > len(visible) or text.count("(cid:") * 20 > len(visible):
        return True
    high = len(_HIGH.findall(visible))
    runs = re.findall(r"[\xa1-\u024f]{2,}", visible)
    return high * 10 > len(visible) * 4 and sum(map(len, runs)) * 2 > high


def _without_text(data: bytes, pages: int, garbled: Sequence[int]) -> DocumentRejected:
    if garbled:
        return DocumentRejected(
            "The PDF's text layer is unreadable: its fonts do not say which characters they show.",
            reason="needs-ocr",
            do=INSTALL,
        )
    plural = "s" if pages != 1 else ""
    if _PICTURE.search(data):
        message = f"The PDF holds pictures of text only (a scan of {pages} page{plural})."
        return DocumentRejected(message, reason="needs-ocr", do=INSTALL)
    return DocumentRejected(f"The PDF ({pages} page{plural}) holds no text.", reason="empty")


def _ocr_warnings(read: ReadPages) -> list[str]:
    were = "were" if len(read.lines) > 1 else "was"
    done = [f"{_pages(list(read.lines))} {were} {WARNING}"] if read.lines else []
    if read.unread and read.lines:
        done.append(f"{_pages(read.unread)} not read by OCR (setting ocr_pages).")
    return done


def _warnings(
    data: bytes, text: str, blank: Sequence[int], garbled: Sequence[int]
) -> tuple[str, ...]:
    found: list[str] = []
    if blank:
        found.append(f"{_pages(blank)} without text (blank or scanned).")
    if garbled:
        found.append(f"{_pages(garbled)} left out: the text layer is unreadable and needs OCR.")
    unmapped = b"/ToUnicode" not in data and b"/ObjStm" not in data and b"/WinAnsi" in data
    if unmapped and sum("\u4e00" <= char <= "\u9fff" for char in text[:5000]) >= 20:
        found.append(
            "The fonts carry no Unicode map; the Chinese text was inferred and may hold errors."
        )
    return tuple(found)


def _pages(numbers: Sequence[int]) -> str:
    listed = ", ".join(str(number) for number in numbers[:10])
    more = f" and {len(numbers) - 10} more" if len(numbers) > 10 else ""
    return f"Page{'s' if len(numbers) > 1 else ''} {listed}{more}"


def _title(metadata: str, heading: str, text: str) -> str:
    """Return the metadata's title where it is one, else a line that is or looks like one."""
    for title in (clip(metadata), clip(heading)):
        if len(title) >= 2 and not _NO_TITLE.match(title) and not is_garbled(title):
            return title
    return title_line(text.split("\n", 1)[0])
