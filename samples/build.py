"""Writes the PDF and DOCX files of the sample corpus from their plain sources.

Every ``samples/source/<folder>/<name>.<pdf|docx>.md`` becomes
``samples/corpus/<folder>/<name>.<pdf|docx>``. The other formats have no source: they are edited
in ``samples/corpus/`` itself. The sources use a small part of Markdown: headings (``#``, ``##``),
paragraphs of one line, ``- `` and ``1. `` lists and ``| tables |`` whose first row is the header.

Needs reportlab and python-docx, and for the Chinese PDF files the font WenQuanYi Micro Hei (Debian
package fonts-wqy-microhei). With the same versions of these, two runs give the same bytes.

Usage:
    python samples/build.py [path of wqy-microhei.ttc]
"""

import datetime
import io
import itertools
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple
from xml.sax.saxutils import escape

import docx
from docx.oxml.ns import qn
from reportlab.lib import colors, textsplit
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.platypus import Flowable, Paragraph, SimpleDocTemplate, Table, TableStyle

HERE = Path(__file__).resolve().parent
DEFAULT_FONT = Path("/usr/share/fonts/truetype/wqy/wqy-microhei.ttc")
FIXED_DATE = datetime.datetime(2025, 6, 1, tzinfo=datetime.UTC)
MARGIN = 56.0
# reportlab knows which marks may not start a line in Japanese; Chinese text needs some more:
# the full-width comma, semicolon, colon, question and exclamation mark, and closing quotes.
vars(textsplit)["ALL_CANNOT_START"] += "\uff0c\uff1b\uff1a\uff1f\uff01\u201d\u2019"
TEXT_WIDTH = A4[0] - 2 * MARGIN

Kind = Literal["title", "heading", "bullet", "number", "text", "table"]
MARKS: dict[str, Kind] = {"# ": "title", "## ": "heading", "- ": "bullet"}


class Block(NamedTuple):
    """One piece of a source file.

    Attributes:
        kind: What the piece is.
        text: Its text, without the mark; empty for a table.
        rows: The cells of a table, header first; empty for anything else.
    """

    kind: Kind
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()


def parse_line(line: str) -> Block:
    """Reads one source line that is not part of a table."""
    for mark, kind in MARKS.items():
        if line.startswith(mark):
            return Block(kind, line.removeprefix(mark))
    numbered = re.match(r"\d+\. ", line)
    return Block("number", line[numbered.end() :]) if numbered else Block("text", line)


def parse(source: str) -> Iterator[Block]:
    """Splits a source text into its blocks."""
    lines = [line.strip() for line in source.splitlines()]
    for is_table, group in itertools.groupby(lines, lambda line: line.startswith("|")):
        if is_table:
            rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in group]
            yield Block("table", rows=tuple(tuple(row) for row in rows))
        else:
            yield from (parse_line(line) for line in group if line)


def column_widths(rows: tuple[tuple[str, ...], ...]) -> list[float]:
    """Shares the text width among the columns by the length of their longest cells."""
    lengths = [
        min(max(sum(2 if ord(char) > 0x2E7F else 1 for char in cell) for cell in column), 36) + 3
        for column in zip(*rows, strict=True)
    ]
    return [TEXT_WIDTH * length / sum(lengths) for length in lengths]


class NumberedPages(SimpleDocTemplate):
    """A document with a page number below the text of each page."""

    def afterPage(self) -> None:
        """Draws the page number last, so that it also comes last in the text layer."""
        self.canv.setFont("Helvetica", 8.5)
        self.canv.drawCentredString(A4[0] / 2, 30, str(self.page))


def write_pdf(blocks: list[Block], target: Path, chinese: bool) -> None:
    """Writes blocks as an A4 PDF file with a page number at the foot of each page."""
    font = "MicroHei" if chinese else "Helvetica"
    bold = font if chinese else "Helvetica-Bold"
    text = ParagraphStyle(
        "text",
        fontName=font,
        bulletFontName=font,
        fontSize=10.5,
        leading=15.5,
        spaceAfter=5,
        wordWrap="CJK" if chinese else None,
    )
    cell = ParagraphStyle("cell", text, fontSize=9.5, leading=13, spaceAfter=0)
    item = ParagraphStyle("item", text, leftIndent=20, bulletIndent=6, spaceAfter=2)
    styles: dict[Kind, ParagraphStyle] = {
        "title": ParagraphStyle(
            "title", text, fontName=bold, fontSize=17, leading=25, spaceAfter=10
        ),
        "heading": ParagraphStyle(
            "heading", text, fontName=bold, fontSize=12.5, spaceBefore=9, keepWithNext=1
        ),
        "text": text,
    }
    grid = TableStyle(
        [
            ("GRID", (0, 0), (-1, -1), 0.5, colors.grey),
            ("BACKGROUND", (0, 0), (-1, 0), colors.HexColor("#e3ebf3")),
            ("VALIGN", (0, 0), (-1, -1), "MIDDLE"),
        ]
    )
    story: list[Flowable] = []
    number = 0
    for block in blocks:
        number = number + 1 if block.kind == "number" else 0
        if block.kind == "table":
            cells = [[Paragraph(escape(value), cell) for value in row] for row in block.rows]
            widths = column_widths(block.rows)
            story.append(
                Table(cells, widths, repeatRows=1, style=grid, spaceBefore=4, spaceAfter=8)
            )
        elif block.kind in ("bullet", "number"):
            mark = f"{number}." if number else "•"
            story.append(Paragraph(escape(block.text), item, bulletText=mark))
        else:
            story.append(Paragraph(escape(block.text), styles[block.kind]))

    NumberedPages(
        str(target),
        pagesize=A4,
        leftMargin=MARGIN,
        rightMargin=MARGIN,
        topMargin=MARGIN,
        bottomMargin=MARGIN,
        title=blocks[0].text,
        author="Jiluan Pumps",
        invariant=1,
    ).build(story)


def write_docx(blocks: list[Block], target: Path) -> None:
    """Writes blocks as a DOCX file.

    Raises:
        ValueError: The blocks hold two numbered lists, and the second would not start at 1.
    """
    lists = [kind for kind, _ in itertools.groupby(block.kind for block in blocks)].count("number")
    if lists > 1:
        raise ValueError(f"{target.name}: a DOCX source can have only one numbered list")
    document = docx.Document()
    fonts = document.styles["Normal"].element.get_or_add_rPr().get_or_add_rFonts()
    fonts.set(qn("w:eastAsia"), "Microsoft YaHei")
    properties = document.core_properties
    properties.title, properties.author, properties.comments = blocks[0].text, "Jiluan Pumps", ""
    properties.created = properties.modified = FIXED_DATE
    for block in blocks:
        match block.kind:
            case "title":
                document.add_heading(block.text, level=1)
            case "heading":
                document.add_heading(block.text, level=2)
            case "bullet":
                document.add_paragraph(block.text, style="List Bullet")
            case "number":
                document.add_paragraph(block.text, style="List Number")
            case "text":
                document.add_paragraph(block.text)
            case "table":
                table = document.add_table(len(block.rows), len(block.rows[0]), "Table Grid")
                for row, values in zip(table.rows, block.rows, strict=True):
                    for cell, value in zip(row.cells, values, strict=True):
                        cell.text = value
                document.add_paragraph()
    packed = io.BytesIO()
    document.save(packed)
    with (
        zipfile.ZipFile(packed) as source,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as result,
    ):
        for name in source.namelist():
            info = zipfile.ZipInfo(name, FIXED_DATE.timetuple()[:6])
            result.writestr(info, source.read(name), zipfile.ZIP_DEFLATED)


def main() -> None:
    """Writes every PDF and DOCX file of the corpus."""
    font_path = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FONT
    pdfmetrics.registerFont(TTFont("MicroHei", str(font_path), subfontIndex=0))
    for source in sorted((HERE / "source").rglob("*.md")):
        target = HERE / "corpus" / source.relative_to(HERE / "source").with_suffix("")
        target.parent.mkdir(parents=True, exist_ok=True)
        blocks = list(parse(source.read_text(encoding="utf-8")))
        if target.suffix == ".pdf":
            write_pdf(blocks, target, chinese="-zh" in target.name)
        else:
            write_docx(blocks, target)
        print(target.relative_to(HERE))


if __name__ == "__main__":
    main()
