"""Office formats become sections, pages and Markdown tables, or are refused with their cause."""

from __future__ import annotations

import io
import re
import zipfile
from datetime import date
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.blocks import TextWriter, one_line
from ingest.number_format import show_number
from ingest.packages import MAX_UNPACKED
from ingest.parse import parse
from rag.errors import DocumentRejected
from rag.schema import Document

CELLS = re.compile(r"(?<!\\)\|")
MACROS = "It holds macros, which were not run."
OOXML = "http://schemas.openxmlformats.org"
ENCRYPTED = {"META-INF/manifest.xml": "<m><encryption-data/></m>"}
BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">]>'


def package(parts: dict[str, str]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return target.getvalue()


def relations(*targets: tuple[str, str, str]) -> str:
    entries = (
        f'<Relationship Id="{key}" Type="{OOXML}/x/{kind}" Target="{target}"/>'
        for key, kind, target in targets
    )
    return f"<Relationships>{''.join(entries)}</Relationships>"


def workbook(book: openpyxl.Workbook) -> bytes:
    target = io.BytesIO()
    book.save(target)
    return target.getvalue()


def labels(document: Document) -> list[tuple[str, str]]:
    return [(span.label, document.text[span.start : span.end]) for span in document.pages]


def refused(data: bytes, name: str) -> DocumentRejected:
    with pytest.raises(DocumentRejected) as caught:
        parse(data, name)
    assert "\n" not in str(caught.value)
    return caught.value


# --- numbers and sheets -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "code", "shown"),
    [
        (1234.5, "#,##0.00", "1,234.50"),
        (0.105, "0.00", "0.11"),
        (0.045, "0%", "5%"),
        (-1234.5, "#,##0.00_);[Red](#,##0.00)", "(1,234.50)"),
        (1234567, "#,##0,", "1,235"),
        (13800138000, "000-0000-0000", "138-0013-8000"),
        (0, '_ * #,##0.00_ ;_ * -#,##0.00_ ;_ * "-"??_ ;_ @_ ', "-"),
        (5, '[>3]"big";"small"', "big"),
        (0.1 + 0.2, "General", "0.3"),
        (17500.0, "General", "17500"),
        (12345678.9, "0.00E+00", "1.23E+07"),
        (43831.0423726852, 'yyyy"年"m"月"d"日"', "2020年1月1日"),
        (43831.0423726852, "yyyy/m/d h:mm AM/PM", "2020/1/1 1:01 AM"),
        (43831.0423726852, "mm:ss.0", "01:01.0"),
        (43831.9999999, "yyyy-mm-dd h:mm:ss", "2020-01-02 0:00:00"),
        (43831, "[$-804]mmmm", "一月"),
        (1.5, "[h]:mm", "36:00"),
        (1, "yyyy-mm-dd", "1900-01-01"),
        (61, "yyyy-mm-dd", "1900-03-01"),
        (float("nan"), "0.00", "NAN"),
    ],
)
def test_numbers_are_shown_as_a_sheet_shows_them(value: float, code: str, shown: str) -> None:
    assert show_number(value, code) == shown


@given(st.floats(), st.text(alphabet='0#?.,%-/ ymdhsaAMPE+"\\_*[]$;@(一', max_size=20))
def test_any_format_code_gives_one_short_line(value: float, code: str) -> None:
    shown = show_number(value, code)
    assert "\n" not in shown
    assert len(shown) < 800


def test_a_workbook_keeps_sheets_formats_comments_and_what_is_hidden() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "报价"
    for row in (["报价单"], [], ["型号", "单价|元", "日期"], ["JL\n200", 1234.5, date(2024, 3, 1)]):
        sheet.append(row)
    sheet["B4"].number_format = "#,##0.00"
    sheet["C4"].number_format = 'yyyy"年"m"月"d"日"'
    sheet["A4"].comment = openpyxl.comments.Comment("停产", "x")
    secret = book.create_sheet("成本")
    secret.append(["a", True])
    secret.sheet_state = "hidden"
    document = parse(workbook(book), "a.xlsx")
    assert labels(document) == [
        ("1", "报价\n\n报价单\n\n| 型号 | 单价\\|元 | 日期 |\n| --- | --- | --- |\n"
              "| JL 200 | 1,234.50 | 2024年3月1日 |\n\nA4: 停产"),
        ("2", "成本\n\na  TRUE"),
    ]  # fmt: skip
    assert [span.label for span in document.sections] == ["报价", "成本"]
    assert document.warnings == ("Hidden sheets were read too: 成本.",)


def test_a_far_cell_takes_no_room_and_a_sparse_sheet_becomes_lines() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet["A1"] = "near"
    sheet["XFD1048576"] = "far"
    assert parse(workbook(book), "a.xlsx").text == "Sheet\n\nnear\n\nfar"
    for number in range(1, 302):
        sheet.cell(number, 2 * number, f"x{number}")
        sheet.cell(number, 2 * number + 1, f"y{number}")
    text = parse(workbook(book), "a.xlsx").text
    assert "E2: y2" in text
    assert len(text) < 12_000


table = st.lists(
    st.lists(st.text(max_size=12).filter(one_line), min_size=3, max_size=3), min_size=2, max_size=8
)


@given(table)
def test_any_table_keeps_its_rows_and_columns(rows: list[list[str]]) -> None:
    writer = TextWriter()
    writer.table(rows)
    text, _ = writer.finish()
    lines = text.split("\n")
    assert len(lines) == len(rows) + 1
    assert lines[1] == "| --- | --- | --- |"
    for row, line in zip(rows, lines[:1] + lines[2:], strict=True):
        cells = [cell.strip().replace("\\|", "|") for cell in CELLS.split(line)[1:-1]]
        assert cells == [one_line(cell) for cell in row]


# --- slides, OpenDocument, RTF ----------------------------------------------------------------


def test_slides_are_pages_with_titles_tables_bullets_and_notes() -> None:
    def shape(kind: str, lines: list[str]) -> str:
        body = "".join(f"<p><r><t>{line}</t></r></p>" for line in lines)
        return f'<sp><nvSpPr><nvPr><ph type="{kind}"/></nvPr></nvSpPr><txBody>{body}</txBody></sp>'

    row = "<tr><tc><txBody><p><r><t>{}</t></r></p></txBody></tc><tc hMerge='1'/>"
    row += "<tc><txBody><p><r><t>{}</t></r></p></txBody></tc></tr>"
    tables = (
        f"<graphicFrame><tbl>{row.format('甲', '乙')}{row.format('1', '2')}</tbl></graphicFrame>"
    )
    slide = "<sld show='0'><cSld><spTree>%s</spTree></cSld></sld>"
    data = package(
        {
            "ppt/presentation.xml": '<p xmlns:r="r"><sldIdLst><sldId r:id="b"/></sldIdLst></p>',
            "ppt/_rels/presentation.xml.rels": relations(("b", "slide", "slides/slide1.xml")),
            "ppt/slides/slide1.xml": slide
            % (
                shape("body", ["one", "two"])
                + tables
                + shape("title", ["标题"])
                + shape("sldNum", ["7"])
            ),
            "ppt/slides/_rels/slide1.xml.rels": relations(("n", "notesSlide", "../notes/n.xml")),
            "ppt/notes/n.xml": f"<notes><spTree>{shape('body', ['说明'])}</spTree></notes>",
        }
    )
    document = parse(data, "a.pptx")
    assert labels(document) == [
        ("1", "标题\n\n- one\n- two\n\n| 甲 | 乙 |\n| --- | --- |\n| 1 | 2 |\n\n说明")
    ]
    assert [span.label for span in document.sections] == ["标题"]
    assert document.warnings == ("Hidden slides were read too: 1.",)


def odf(kind: str, body: str, more: dict[str, str] | None = None) -> bytes:
    spaces = " ".join(f'xmlns:{name}="urn:{name}"' for name in ("o", "t", "tb", "d", "p", "s"))
    content = f"<o:document {spaces}><o:body><o:{kind}>{body}</o:{kind}></o:body></o:document>"
    return package({"content.xml": content} | (more or {}))


def test_opendocument_texts_sheets_and_slides() -> None:
    body = (
        '<t:h t:outline-level="1">总则</t:h><t:p>A<t:s t:c="2"/>b<t:note><t:note-body>'
        "<t:p>脚注</t:p></t:note-body></t:note></t:p><t:list><t:list-item><t:p>x</t:p></t:list-item></t:list>"
    )
    document = parse(odf("text", body), "a.odt")
    assert document.text == "总则\n\nA  b\n\n- x\n\n脚注"
    assert document.sections[0].label == "总则"
    rows = (
        "<tb:table tb:name='S'><tb:table-row><tb:table-cell><t:p>h</t:p></tb:table-cell>"
        "<tb:table-cell tb:number-columns-repeated='16000'/><tb:table-cell><t:p>k</t:p>"
        "</tb:table-cell></tb:table-row><tb:table-row><tb:table-cell><t:p>1</t:p></tb:table-cell>"
        "<tb:table-cell tb:number-columns-repeated='16000'/><tb:table-cell><t:p>2.00</t:p>"
        "</tb:table-cell></tb:table-row><tb:table-row tb:number-rows-repeated='1048574'>"
        "<tb:table-cell/></tb:table-row></tb:table>"
    )
    assert parse(odf("spreadsheet", rows), "a.ods").text == (
        "S\n\n| h | k |\n| --- | --- |\n| 1 | 2.00 |"
    )
    page = (
        "<d:page><d:frame><d:text-box><t:p>text</t:p></d:text-box></d:frame>"
        "<d:frame p:class='title'><d:text-box><t:p>T</t:p></d:text-box></d:frame>"
        "<p:notes><d:frame><d:text-box><t:p>said</t:p></d:text-box></d:frame></p:notes></d:page>"
    )
    assert labels(parse(odf("presentation", page), "a.odp")) == [("1", "T\n\ntext\n\nsaid")]


def test_rtf_reads_fonts_of_other_scripts_headings_tables_and_notes() -> None:
    coded = "".join(f"\\'{byte:02x}" for byte in "年假".encode("gbk"))
    document = parse(
        (
            r"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0\fcharset0 A;}{\f1\fcharset134 S;}}"
            r"{\stylesheet{\s1 heading 1;}}{\pict 00ff}\pard\s1 \f1 " + coded + r"\f0\par"
            r"\pard caf\'e9 \u-10179?\u-8704?{\footnote note}{\v hidden}\par"
            r"{\listtext 1.\tab}First\par\trowd\intbl a\cell b|c\cell\row\intbl 1\cell 2\cell\row}"
        ).encode("ascii"),
        "a.rtf",
    )
    assert document.text == (
        "年假\n\ncafé 😀\n\n1. First\n\n| a | b\\|c |\n| --- | --- |\n| 1 | 2 |\n\nnote"
    )
    assert document.sections[0].label == "年假"


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "name", "reason"),
    [
        (package({"xl/workbook.xml": f"{BOMB}<a>&y;</a>"}), "a.xlsx", "damaged"),
        (package({"ppt/presentation.xml": "<a>" * 300 + "</a>" * 300}), "a.pptx", "damaged"),
        (package({"content.xml": "<a><b"}), "a.odt", "damaged"),
        (odf("text", "<t:p>x</t:p>"), "a.ods", "unsupported"),
        (odf("text", "", ENCRYPTED), "a.odt", "encrypted"),
        (package({"word/document.xml": "<a/>"}), "a.xlsx", "unsupported"),
        (rb"{\rtf1 cut {\b", "a.rtf", "damaged"),
        (b"{" * 9, "a.rtf", "unsupported"),
        (rb"{\rtf1" + b"{" * 9000, "a.rtf", "damaged"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "a.doc", "damaged"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "a.xls", "damaged"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "a.ppt", "damaged"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "a.pptx", "unsupported"),
    ],
)  # fmt: skip
def test_hostile_and_damaged_files_are_refused(data: bytes, name: str, reason: str) -> None:
    assert refused(data, name).reason == reason


def test_a_package_that_says_it_is_huge_is_refused_before_it_is_unpacked() -> None:
    data = bytearray(package({"xl/workbook.xml": "<workbook/>"}))
    central = data.rindex(b"PK\x01\x02")
    data[central + 24 : central + 28] = (MAX_UNPACKED + 1).to_bytes(4, "little")
    assert refused(bytes(data), "a.xlsx").reason == "too-large"


@pytest.mark.parametrize("name", ["61490.doc", "bug46441.ppt", "44235.xls", "payment.docx"])
def test_files_cut_off_or_changed_anywhere_are_read_or_refused(
    name: str, shared_docs: Path
) -> None:
    data = (shared_docs / name).read_bytes()
    for step in range(1, 24):
        place = len(data) * step // 24
        for harmed in (data[:place], data[:place] + b"\xff" * 40 + data[place + 40 :]):
            try:
                outcome = "read" if parse(harmed, name).text.strip() else "nothing"
            except DocumentRejected as error:
                outcome = error.reason
            assert outcome in ("read", "damaged", "empty", "encrypted", "unsupported", "too-large")


def test_macros_are_told_not_run() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(["a", "b"])
    target = io.BytesIO(workbook(book))
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr("xl/vbaProject.bin", b"x")
    document = parse(target.getvalue(), "a.xlsm")
    assert document.warnings == (MACROS,)
    assert document.text == "Sheet\n\na  b"


def test_macros_in_a_word_file_that_is_called_docx_are_told() -> None:
    sample = Path(__file__).parents[1] / "samples" / "corpus" / "hr" / "leave-policy-zh.docx"
    target = io.BytesIO(sample.read_bytes())
    assert parse(target.getvalue(), "a.docx").warnings == ()
    with zipfile.ZipFile(target, "a") as archive:
        archive.writestr("word/vbaProject.bin", b"x")
    assert parse(target.getvalue(), "a.docx").warnings == (MACROS,)
