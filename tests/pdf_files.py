"""Tiny PDFs written by hand: text at places, ruled lines, Helvetica and a Chinese font."""

from collections.abc import Sequence

FONTS = (
    "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica-Bold >>",
    "<< /Type /Font /Subtype /Type0 /BaseFont /STSong-Light /Encoding /UniGB-UCS2-H"
    " /DescendantFonts [<< /Type /Font /Subtype /CIDFontType0 /BaseFont /STSong-Light"
    " /CIDSystemInfo << /Registry (Adobe) /Ordering (GB1) /Supplement 2 >>"
    " /DW 1000 >>] >>",
)


def pdf(pages: Sequence[Sequence[str]], title: str = "", extra: str = "") -> bytes:
    """Write a PDF with one line of Helvetica under the other."""
    shown = ["".join(f"({line}) Tj 0 -14 Td " for line in lines) for lines in pages]
    return placed([f"BT /F1 11 Tf 50 780 Td {lines} ET" for lines in shown], title, extra)


def placed(contents: Sequence[str], title: str = "", extra: str = "") -> bytes:
    """Write a PDF of A4 pages with these contents; the fonts are F1, F2 (bold) and F3 (Chinese)."""
    first = 3 + len(FONTS)
    kids = " ".join(f"{first + 2 * index} 0 R" for index in range(len(contents)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(contents)} >>",
        *FONTS,
    ]
    fonts = " ".join(f"/F{n} {2 + n} 0 R" for n in range(1, len(FONTS) + 1))
    for index, content in enumerate(contents):
        objects.append(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] "
            f"/Resources << /Font << {fonts} >> >> /Contents {first + 1 + 2 * index} 0 R >>"
        )
        objects.append(f"<< /Length {len(content)} >>\nstream\n{content}\nendstream")
    objects.append(f"<< /Title ({title}) >>")
    info = len(objects)
    if extra:
        objects.append(extra)
    body = "%PDF-1.4\n"
    offsets = []
    for number, value in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{value}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    trailer = (
        f"trailer << /Size {size} /Root 1 0 R /Info {info} 0 R >>\nstartxref\n{len(body)}\n%%EOF"
    )
    return f"{body}xref\n0 {size}\n0000000000 65535 f \n{table}{trailer}".encode("latin-1")


def at(x: float, y: float, text: str, size: float = 10, bold: bool = False) -> str:
    """Return the content that shows a text at a place, points from the lower left corner."""
    if text.isascii():
        escaped = text.replace("\\", "\\\\").replace("(", "\\(").replace(")", "\\)")
        return f"BT /F{2 if bold else 1} {size} Tf 1 0 0 1 {x} {y} Tm ({escaped}) Tj ET\n"
    codes = text.encode("utf-16-be").hex()
    return f"BT /F3 {size} Tf 1 0 0 1 {x} {y} Tm <{codes}> Tj ET\n"


def rule(x0: float, y0: float, x1: float, y1: float) -> str:
    """Return the content that draws a straight line."""
    return f"{x0} {y0} m {x1} {y1} l S\n"
