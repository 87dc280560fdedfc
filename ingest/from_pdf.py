"""PDF -> Document, through kreuzberg's page texts (PDFium), one page after the other.

The lines of a page are put together again (ingest.lines). A page that is a picture, or whose text
layer is nonsense, is read by OCR where there is a reader (ingest.scanned_pages), else left out; a
file of such pages only is then refused. Columns of tables are not recovered: a row is a line, its
cells apart by spaces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ingest.allowance import Allowance
from ingest.blocks import clean, clip
from ingest.lines import join_pages, mend_page, numbered_sections, title_line, without_running_lines
from ingest.ocr import INSTALL, WARNING
from ingest.scanned_pages import ReadPages, check_page_count, read_pages
from rag.errors import DocumentRejected
from rag.schema import Document

_PDF = "application/pdf"
_PICTURE = re.compile(rb"/Subtype\s*/Image\b|/CCITTFaxDecode|/JBIG2Decode|/DCTDecode")
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
    check_page_count(data, allowance.passwords)
    title, contents = _extract(data, allowance.passwords)
    pages: list[list[str]] = []
    blank: list[int] = []
    garbled: list[int] = []
    for number, content in enumerate(contents, start=1):
        if is_garbled(content):
            garbled.append(number)
            content = ""
        elif not content.strip():
            blank.append(number)
        pages.append(_page_lines(content))
    read = ReadPages({}, ())
    if garbled or (blank and _PICTURE.search(data)):
        read = read_pages(data, sorted(blank + garbled), allowance)
        for number, lines in read.lines.items():
            pages[number - 1] = lines
        blank = [number for number in blank if number not in read.lines]
        garbled = [number for number in garbled if number not in read.lines]
    if not any(pages):
        raise _without_text(data, len(contents), garbled)
    pages = without_running_lines(pages)
    text, spans = join_pages([mend_page(lines) for lines in pages])
    return Document(
        text=text,
        title=_title(title, text),
        pages=spans,
        sections=numbered_sections(text),
        media_type=_PDF,
        warnings=(*_ocr_warnings(read), *_warnings(data, text, blank, garbled)),
    )


def is_garbled(text: str) -> bool:
    """Whether a text layer is nonsense: its fonts do not say which characters they show.

    True when a tenth of the visible characters are replacement, private or unassigned ones, when
    it is made of "(cid:12)" marks, or when most of it is accented Latin and symbols outside
    words, as GBK codes read as Latin-1 are.
    """
    visible = "".join(text.split())
    if len(visible) < 8:
        return False
    bad = sum(_is_bad(char) for char in visible)
    if bad * 10 > len(visible) or text.count("(cid:") * 20 > len(visible):
        return True
    high = sum("\x80" <= char <= "\u024f" for char in visible)
    runs = re.findall(r"[\xa1-\u024f]{2,}", visible)
    return high * 10 > len(visible) * 4 and sum(map(len, runs)) * 2 > high


def _is_bad(char: str) -> bool:
    return (
        char == "\ufffd"
        or "\ue000" <= char <= "\uf8ff"
        or char >= "\U000f0000"
        or (char < " " and char != "\x02")
        or "\x7f" <= char <= "\x9f"
    )


def _extract(data: bytes, passwords: Sequence[str]) -> tuple[str, list[str]]:
    """Return the title in the metadata and the raw text of every page."""
    import kreuzberg

    config = kreuzberg.ExtractionConfig(
        use_cache=False,
        disable_ocr=True,
        output_format="plain",
        enable_quality_processing=False,
        pages=kreuzberg.PageConfig(extract_pages=True),
        pdf_options=kreuzberg.PdfConfig(passwords=list(passwords)) if passwords else None,
    )
    try:
        result = kreuzberg.extract_bytes_sync(data, _PDF, config)
    except (kreuzberg.KreuzbergError, RuntimeError, ValueError) as error:
        if re.search(r"password|encrypt", str(error), re.I):
            raise DocumentRejected(
                "The PDF is encrypted and opens with a password only.",
                reason="encrypted",
                do="Give the password in the setting document_passwords, or remove it.",
            ) from error
        if re.search(r"bundled|library bindings|LoadLibrary", str(error), re.I):
            raise DocumentRejected(
                "The PDF reader cannot be loaded (it is unpacked into the temporary folder).",
                reason="unreadable",
                do="Check that the disk is not full and TMPDIR can be written.",
            ) from error
        raise DocumentRejected(
            "The PDF is damaged or truncated: its structure cannot be read.",
            reason="damaged",
            do="Get the file again, or open it in a PDF viewer and save it anew.",
        ) from error
    return str(result.metadata.get("title") or ""), [
        str(page.get("content") or "") for page in result.pages or []
    ]


def _page_lines(content: str) -> list[str]:
    """Split a page into clean lines; PDFium's mark for a hyphen at a line end, 0x02, stays."""
    lines = []
    for line in content.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        kept = "\x02".join(clean(piece) for piece in line.split("\x02")).strip()
        if kept:
            lines.append(kept)
    return lines


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


def _title(metadata: str, text: str) -> str:
    """Return the metadata's title where it is one, else a first line that looks like one."""
    title = clip(metadata)
    if len(title) >= 2 and not _NO_TITLE.match(title) and not is_garbled(title):
        return title
    return title_line(text.split("\n", 1)[0])
