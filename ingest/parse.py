"""One file's bytes -> a Document, by the format its name and its content agree on.

It only chooses and checks; the formats are in ingest.from_*. It trusts nothing: run it inside
ingest.fence for files of unknown origin, because the libraries below it are native code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module

from ingest.allowance import Allowance
from ingest.discover import SUPPORTED, media_type
from ingest.encoding import decode
from ingest.office_password import opened_package
from ingest.packages import OLE
from rag.errors import DocumentRejected
from rag.schema import Document

_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive or Office document"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (OLE, "an old or encrypted Office document"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"II*\x00", "a TIFF image"),
    (b"MM\x00*", "a TIFF image"),
    (b"\x7fELF", "a program (ELF)"),
    (b"\x1f\x8b\x08", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ\x00", "an xz archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"SQLite format 3\x00", "a SQLite database"),
    (b"{\\rtf", "an RTF document"),
    (b"%!PS", "a PostScript document"),
    (b"ID3", "an MP3 recording"),
    (b"OggS", "an Ogg recording"),
    (b"fLaC", "a FLAC recording"),
    (b"\xca\xfe\xba\xbe", "a program (Mach-O or Java)"),
    (b"\xcf\xfa\xed\xfe", "a program (Mach-O)"),
)


@dataclass(frozen=True, slots=True)
class _Format:
    """How files of one media type are read.

    Attributes:
        what: The format in a sentence, with its article.
        parser: "module:function", imported when the first such file comes. It takes the file's
            bytes where `starts` says how they begin, else the decoded text.
        starts: What the bytes may begin with; empty for text.
        within: Bytes that may stand before that.
        limited: Whether the parser takes the file's Allowance after the bytes.
    """

    what: str
    parser: str
    starts: tuple[bytes, ...] = ()
    within: int = 0
    limited: bool = False


_IMAGE = "ingest.from_image:image_document"

_FORMATS: dict[str, _Format] = {
    SUPPORTED[".txt"]: _Format("text", "ingest.from_text:text_document"),
    SUPPORTED[".md"]: _Format("text", "ingest.from_text:markdown_document"),
    SUPPORTED[".html"]: _Format("HTML", "ingest.from_html:html_document"),
    SUPPORTED[".pdf"]: _Format("a PDF", "ingest.from_pdf:pdf_document", (b"%PDF-",), 1024, True),
    SUPPORTED[".docx"]: _Format("a Word document", "ingest.from_docx:docx_document", (b"PK", OLE)),
    SUPPORTED[".docm"]: _Format("a Word document", "ingest.from_docx:docm_document", (b"PK", OLE)),
    SUPPORTED[".doc"]: _Format("an old Word document", "ingest.from_doc:doc_document", (OLE,)),
    SUPPORTED[".pptx"]: _Format("a presentation", "ingest.from_slides:pptx_document", (b"PK", OLE)),
    SUPPORTED[".ppt"]: _Format("an old presentation", "ingest.from_ppt:ppt_document", (OLE,)),
    SUPPORTED[".xlsx"]: _Format("a workbook", "ingest.from_xlsx:xlsx_document", (b"PK", OLE)),
    SUPPORTED[".xlsm"]: _Format("a workbook", "ingest.from_xlsx:xlsm_document", (b"PK", OLE)),
    SUPPORTED[".xls"]: _Format("an old workbook", "ingest.from_xls:xls_document", (OLE,)),
    SUPPORTED[".odt"]: _Format("an OpenDocument text", "ingest.from_odf:odt_document", (b"PK",)),
    SUPPORTED[".ods"]: _Format("an OpenDocument sheet", "ingest.from_odf:ods_document", (b"PK",)),
    SUPPORTED[".odp"]: _Format("OpenDocument slides", "ingest.from_odf:odp_document", (b"PK",)),
    SUPPORTED[".rtf"]: _Format("RTF", "ingest.from_rtf:rtf_document", (b"{\\rtf",)),
    SUPPORTED[".csv"]: _Format("CSV text", "ingest.from_csv:csv_document"),
    SUPPORTED[".tsv"]: _Format("TSV text", "ingest.from_csv:tsv_document"),
    SUPPORTED[".json"]: _Format("JSON", "ingest.from_json:json_document"),
    SUPPORTED[".jsonl"]: _Format("JSON Lines", "ingest.from_json:jsonl_document"),
    SUPPORTED[".ipynb"]: _Format("a notebook", "ingest.from_json:notebook_document"),
    SUPPORTED[".xml"]: _Format("XML", "ingest.from_xml:xml_document"),
    SUPPORTED[".rst"]: _Format("reStructuredText", "ingest.from_rst:rst_document"),
    SUPPORTED[".epub"]: _Format("an EPUB", "ingest.from_epub:epub_document", (b"PK",), 0, True),
    SUPPORTED[".eml"]: _Format("a mail", "ingest.from_mail:mail_document", (b"",), 0, True),
    SUPPORTED[".msg"]: _Format(
        "an Outlook message", "ingest.from_msg:msg_document", (OLE,), 0, True
    ),
    SUPPORTED[".mht"]: _Format(
        "a saved web page", "ingest.from_mail:mhtml_document", (b"",), 0, True
    ),
    SUPPORTED[".zip"]: _Format(
        "a ZIP archive", "ingest.from_archive:zip_document", (b"PK\x03\x04", b"PK\x05\x06"), 0, True
    ),
    SUPPORTED[".tar"]: _Format(
        "a TAR archive", "ingest.from_archive:tar_document", (b"ustar",), 257, True
    ),
    SUPPORTED[".gz"]: _Format(
        "a gzip file", "ingest.from_archive:gzip_document", (b"\x1f\x8b",), 0, True
    ),
    SUPPORTED[".png"]: _Format("a PNG image", _IMAGE, (b"\x89PNG\r\n\x1a\n",), 0, True),
    SUPPORTED[".jpg"]: _Format("a JPEG image", _IMAGE, (b"\xff\xd8\xff",), 0, True),
    SUPPORTED[".tiff"]: _Format("a TIFF image", _IMAGE, (b"II*\x00", b"MM\x00*"), 0, True),
}
_DECLARING = (SUPPORTED[".html"], SUPPORTED[".xml"])
"""The formats whose files may say how they are encoded."""


def parse(data: bytes, name: str, allowance: Allowance | None = None) -> Document:
    """Parse one file.

    Args:
        data: The whole file.
        name: Its name; only the suffix matters, in any case.
        allowance: What it may use; None: the usual, without passwords and OCR.

    Returns:
        A Document whose text holds at least one character that is not white space.

    Raises:
        DocumentRejected: With a stable reason: "unsupported" (suffix, or content of another
            format), "empty", "not-text", "encrypted", "damaged", "needs-ocr", "limit", "outside".
    """
    kind = media_type(name)
    if kind is None:
        raise DocumentRejected(
            f"Format not supported; supported: {' '.join(sorted(SUPPORTED))}.",
            reason="unsupported",
            do="Convert it to one of them.",
        )
    if not data:
        raise DocumentRejected("The file is empty (0 bytes).", reason="empty")
    document = _parse_as(kind, _FORMATS[kind], data, allowance or Allowance())
    if not document.text.strip():
        raise DocumentRejected("The file holds no text.", reason="empty")
    return document


def looks_like(data: bytes) -> str | None:
    """Name the binary format that the first bytes belong to, None for anything else."""
    for signature, what in _SIGNATURES:
        if data.startswith(signature):
            return what
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "a WebP image"
    if data[4:8] == b"ftyp":
        return "a video or HEIF image"
    if data[:2] == b"MZ" and b"\x00" in data[:64]:
        return "a program (Windows)"
    return None


def _parse_as(kind: str, how: _Format, data: bytes, allowance: Allowance) -> Document:
    module, _, function = how.parser.partition(":")
    if how.starts:
        if not any(0 <= data.find(start, 0, how.within + len(start)) for start in how.starts):
            raise _other_content(how, data)
        if data.startswith(OLE):
            data = opened_package(data, allowance.passwords)
        limited = (allowance,) if how.limited else ()
        document: Document = getattr(import_module(module), function)(data, *limited)
        return document
    if looks_like(data) is not None:
        raise _other_content(how, data)
    decoded = decode(data, html=kind in _DECLARING)
    document = getattr(import_module(module), function)(decoded.text)
    return replace(document, warnings=(*decoded.warnings, *document.warnings))


def _other_content(how: _Format, data: bytes) -> DocumentRejected:
    """Say what a file is whose content is not what its name says."""
    seen = looks_like(data)
    if seen is None and data[:256].lstrip().lower().startswith((b"<!doctype", b"<html")):
        seen = "an HTML page"
    found = f"starts like {seen}" if seen else f"starts with the bytes {data[:8].hex(' ')}"
    return DocumentRejected(
        f"Not {how.what}: {found}.",
        reason="unsupported" if how.starts else "not-text",
        do="Give the file the suffix of its real format.",
    )
