"""What the places of letters on a PDF's pages say: order, tables, headings, running lines."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pdf_files import at, pdf, placed, rule

from ingest.from_pdf import sections
from ingest.lines import Heading, mend
from ingest.parse import parse
from ingest.pdf_headings import find_headings
from ingest.pdf_layout import Line, find_bands, page_lines
from ingest.pdf_paragraphs import paragraph_starts
from ingest.pdf_running import without_running_lines
from ingest.pdf_tables import find_tables, markdown
from ingest.pdf_words import PageWords, Piece, Rule
from rag.schema import Document

LEFT = "the left column tells of pumps and"
RIGHT = "while the right one is about wires"
HAN = ("左栏讲的是水泵的安装与维护方法", "右栏讲的是控制器的接线与调试呢")


def read(*contents: str) -> Document:
    """Parse pages and check that their spans lie in the text one after the other."""
    document = parse(placed(contents), "a.pdf")
    for spans in (document.pages, document.sections):
        end = 0
        for span in spans:
            assert end <= span.start < span.end <= len(document.text)
            end = span.end
    return document


def columns_read_across(left: str, right: str, start: float = 700, rows: int = 8) -> str:
    """Return two columns whose content goes from one to the other on each line."""
    return "".join(
        at(50, start - 12 * n, f"{left}{n}") + at(320, start - 12 * n, f"{right}{n}")
        for n in range(rows)
    )


# --- order ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("left", "right"), [(f"{LEFT} ", f"{RIGHT} "), HAN])
def test_columns_are_read_one_after_the_other(left: str, right: str) -> None:
    wide = "A heading that goes over both of the columns and is a long line of words, too"
    content = at(50, 730, wide) + columns_read_across(left, right) + at(50, 580, wide.upper())
    text = "".join(read(content).text.split())
    left, right, wide = ("".join(value.split()) for value in (left, right, wide))
    assert text == (
        wide
        + "".join(f"{left}{n}" for n in range(8))
        + "".join(f"{right}{n}" for n in range(8))
        + wide.upper()
    )


def test_notes_at_the_foot_of_a_column_come_after_the_columns() -> None:
    note = at(50, 590, "1 A note about pumps in small letters", size=7)
    text = read(columns_read_across(f"{LEFT} ", f"{RIGHT} ") + note).text
    assert text.index(f"{LEFT} 7") < text.index(f"{RIGHT} 0") < text.index("1 A note")


def test_forms_and_numbers_at_the_right_are_read_across() -> None:
    rows = [("Name of the applicant:", "Anna"), ("Total of all items:", "1,250.00")]
    rows += [(f"Position {n} of the long list", f"{n}0.00") for n in range(8)]
    content = "".join(
        at(50, 700 - 14 * n, label) + at(480, 700 - 14 * n, value)
        for n, (label, value) in enumerate(rows)
    )
    assert read(content).text.split("\n") == [f"{label} {value}" for label, value in rows]


def test_content_drawn_from_below_is_read_from_the_top() -> None:
    content = at(50, 500, "Third line.") + at(50, 700, "First line.") + at(50, 600, "Second line.")
    assert read(content).text.split("\n") == ["First line.", "Second line.", "Third line."]


def test_centred_lines_between_others_stay_together() -> None:
    content = at(50, 800, "Page 1") + at(240, 800, "POLICE DEPARTMENT")
    content += at(480, 800, "24 May") + at(260, 788, "GUN SEARCH") + at(50, 700, "Text.")
    assert "POLICE DEPARTMENT\nGUN SEARCH" in read(content).text


def test_turned_text_stands_apart_at_the_end() -> None:
    turned = "BT /F1 20 Tf 0 1 -1 0 30 300 Tm (arXiv:2103) Tj ET\n"
    text = read(at(50, 700, "The text goes") + turned + at(50, 688, "on below.")).text
    assert text.split("\n")[-1] == "arXiv:2103"


sizes = st.floats(4, 30)
places = st.tuples(
    st.floats(-50, 700), st.floats(-50, 900), st.floats(0, 400), sizes, st.booleans()
)


@st.composite
def pages(draw: st.DrawFn) -> PageWords:
    """Draw pages of pieces at random places, and of columns, with some rules."""
    pieces: list[Piece] = []
    boxes = draw(st.lists(places, min_size=1, max_size=40))
    if draw(st.booleans()):
        boxes += [(x, 700 - 12.0 * n, 200.0, 10.0, False) for n in range(12) for x in (50.0, 300.0)]
    for number, (x, y, width, size, bold) in enumerate(boxes):
        text = f"word{number} and some more letters"
        line = number if draw(st.booleans()) else number // 2
        upright = draw(st.integers(0, 9)) > 0
        pieces.append(Piece(text, line, x, x + width, y, size, bold, upright))
    rules = [
        Rule(x, y, x + width, y) if level else Rule(x, y, x, y + width)
        for x, y, width, _, level in draw(st.lists(places, max_size=12))
    ]
    return PageWords(tuple(pieces), tuple(rules), 595, 842)


@given(pages())
def test_no_layout_loses_or_repeats_a_piece(page: PageWords) -> None:
    seen = " ".join(
        " ".join(cell for row in line.rows for cell in row) if line.rows else line.text
        for line in page_lines(page)
    )
    assert all(piece.text in seen for piece in page.pieces)
    if not find_tables(page):
        letters = "".join(p.text for p in page.pieces)
        assert sorted(seen.replace(" ", "")) == sorted(letters.replace(" ", ""))


@given(pages())
def test_bands_do_not_overlap_and_their_gutters_lie_in_order(page: PageWords) -> None:
    bands = sorted(find_bands(page.pieces, page.rules), key=lambda band: -band.top)
    for above, below in pairwise(bands):
        assert above.foot >= below.foot
    for band in bands:
        assert list(band.gutters) == sorted(band.gutters)
        assert band.foot < band.top


# --- tables -----------------------------------------------------------------------------------


def grid(xs: list[float], ys: list[float]) -> str:
    """Return the rules of a whole grid."""
    level = "".join(rule(xs[0], y, xs[-1], y) for y in ys)
    return level + "".join(rule(x, ys[0], x, ys[-1]) for x in xs)


def test_ruled_tables_become_markdown_with_cells_repeated_over_rows() -> None:
    content = "".join(rule(50, y, 450, y) for y in (700, 640, 580)) + rule(150, 670, 450, 670)
    content += rule(150, 610, 450, 610)
    content += "".join(rule(x, 580, x, 700) for x in (50, 150, 450)) + rule(300, 580, 300, 670)
    content += at(60, 665, "Road") + at(160, 680, "Limits") + at(160, 650, "Cars")
    content += at(310, 650, "Lorries | vans") + at(60, 605, "Main") + at(160, 620, "100")
    content += at(310, 620, "80") + at(160, 590, "90") + at(310, 590, "70")
    text = read(at(50, 720, "Before it.") + content + at(50, 540, "After it.")).text
    assert text == (
        "Before it.\n\n| Road | Limits Cars | Limits Lorries \\| vans |\n| --- | --- | --- |\n"
        "| Main | 100 | 80 |\n| Main | 90 | 70 |\n\nAfter it."
    )


def test_a_text_across_a_line_makes_a_table_uncertain() -> None:
    content = grid([50, 150, 250], [600, 620, 640])
    crossing = at(60, 625, "this runs over the line between cells") + at(60, 605, "a b")
    assert "|" not in read(content + crossing).text


def test_chinese_cells_of_two_lines_are_joined_without_a_space() -> None:
    content = grid([50, 150, 250], [600, 640, 680]) + at(60, 665, "公路") + at(60, 650, "等级")
    content += at(160, 660, "车道") + at(60, 620, "高速") + at(160, 620, "8")
    assert read(content).text == "| 公路等级 | 车道 |\n| --- | --- |\n| 高速 | 8 |"


def test_columns_under_a_header_are_a_table_without_lines() -> None:
    rows = [("Part", "Place", "Price"), ("P-1", "", "4.50"), ("P-2", "B-7", ""), ("P-3", "C", "9")]
    content = "".join(
        at(x, 700 - 16 * n, cell)
        for n, row in enumerate(rows)
        for x, cell in zip((50, 150, 250), row, strict=True)
        if cell
    )
    assert read(content).text.split("\n") == markdown(rows)
    numbers = content.replace("(Part)", "(17)")
    assert "|" not in read(numbers).text


def test_letters_and_running_text_are_no_tables() -> None:
    columns = "".join(
        at(x, 700 - 12 * n, "these lines are of running text")
        for n in range(10)
        for x in (40, 220, 400)
    )
    assert "|" not in read(columns).text


# --- headings ---------------------------------------------------------------------------------


def body(y: float, lines: int = 4) -> str:
    return "".join(
        at(50, y - 12 * n, "Plain text that tells about the pump and goes on and on.")
        for n in range(lines)
    )


def test_large_and_bold_lines_are_headings_and_the_largest_is_the_title() -> None:
    content = at(50, 780, "Pump Manual", 20) + at(50, 760, "Anna Author", 14) + body(740)
    content += at(50, 680, "Mounting", 14, bold=True) + body(660)
    content += at(50, 600, "The floor and", 10, bold=True) + at(50, 588, "the wall", 10, bold=True)
    content += body(570) + at(50, 500, "Wiring", 14, bold=True) + body(480)
    document = read(content)
    assert document.title == "Pump Manual"
    assert [
        (span.label, document.text[span.start : span.end].split("\n")[0])
        for span in document.sections
    ] == [
        ("Mounting", "Mounting"),
        ("Mounting > The floor and the wall", "The floor and the wall"),
        ("Wiring", "Wiring"),
    ]


def test_where_much_is_bold_numbers_make_sections_as_before() -> None:
    content = "".join(at(50, 780 - 24 * n, f"Bold line {n}", 10, bold=n % 2 == 0) for n in range(9))
    content += at(50, 500, "1. Scope") + body(480)
    assert [span.label for span in read(content).sections] == ["1. Scope"]


def test_numbers_in_headings_give_their_depth() -> None:
    content = body(780)
    for n, title in enumerate(("1 Scope", "1.1 Pumps", "1.2 Wires", "2 Care")):
        content += at(50, 720 - 80 * n, title, 12, bold=True) + body(700 - 80 * n)
    assert [span.label for span in read(content).sections] == [
        "1 Scope",
        "1 Scope > 1.1 Pumps",
        "1 Scope > 1.2 Wires",
        "2 Care",
    ]


def test_the_text_of_the_title_belongs_to_no_section() -> None:
    text = "Title\nHead\nText"
    spans = sections(text, [Heading(0, "Title", 0), Heading(1, "Head", 6)])
    assert [(span.start, span.end, span.label) for span in spans] == [(6, 15, "Head")]


# --- running lines and paragraphs -------------------------------------------------------------


def test_running_lines_go_wholly_and_a_first_line_of_another_kind_stays() -> None:
    pages = [
        at(50, 800, f"Manual, issue {n}", 8)
        + at(50, 700, f"Body {word} stands here.")
        + at(300, 30, str(n))
        for n, word in enumerate("abcd", 1)
    ]
    assert read(*pages).text == "\n\n".join(f"Body {word} stands here." for word in "abcd")
    title = at(50, 740, "Manual, issue 1", 20) + at(50, 700, "Body stands here.")
    assert read(title, *pages).text.startswith("Manual, issue 1\nBody stands here.")


def test_running_lines_of_unknown_places_must_be_on_half_of_the_pages() -> None:
    def running(repeats: int, others: int) -> int:
        texts = [[f"Head {n}", f"body {chr(97 + n)}"] for n in range(repeats)]
        texts += [[f"top {chr(97 + n)}", f"low {chr(97 + n)}"] for n in range(others)]
        lines = [[Line(text, fixed=False) for text in page] for page in texts]
        kept = without_running_lines(lines)
        return sum(line.text.startswith("Head") for page in kept for line in page)

    assert running(3, 3) == 0
    assert running(3, 4) == 3
    assert running(2, 0) == 2


def test_totals_at_the_foot_of_each_page_stay_and_no_file_becomes_empty() -> None:
    def page(text: str) -> list[Line]:
        return [Line(f"Item {text}", y=700, size=10), Line(text, y=50, size=10)]

    pages = [page(f"Total {amount}.00") for amount in (300, 120, 450)]
    assert without_running_lines(pages) == pages
    same = [[Line("Certificate", y=400, size=10)] for _ in range(4)]
    assert without_running_lines(same) == same


def test_the_header_of_a_table_that_runs_on_is_kept_once() -> None:
    head = Line("Part Place Price Stock", y=700, size=10, cells=4)
    kept = without_running_lines([[head, Line(f"row {c}", y=600, size=10)] for c in "abc"])
    assert [len(page) for page in kept] == [2, 1, 1]


def test_an_indented_line_begins_a_paragraph_but_not_in_a_list_item() -> None:
    def lines(*texts: str) -> list[Line]:
        xs = (50, 62, 50)
        return [
            Line(text, (), x, 400, 700 - 12 * n, 10)
            for n, (text, x) in enumerate(zip(texts, xs, strict=True))
        ]

    assert paragraph_starts(lines("goes on to the end", "This is new", "and goes on")) == {1}
    assert paragraph_starts(lines("1. An item that", "goes on here", "2. Another")) == set()


def test_hyphens_of_line_ends_are_mended_and_real_ones_stay() -> None:
    lines = [
        "an FAA\x02",
        "approved list, an in\x02",
        "stallation at 737\x02",
        "9 and in Soekarno\x02",
    ]
    lines += ["Hatta; see https://", "example.org for each well-known and well\x02", "known part"]
    text = mend(lines, (), ()).text.replace("\n", " ")
    assert text == (
        "an FAA-approved list, an installation at 737-9 and in Soekarno-Hatta; see "
        "https:// example.org for each well-known and well-known part"
    )


# --- hostile pages ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "BT /F1 0 Tf 50 700 Td (no size at all) Tj ET",
        "BT /F1 10 Tf 0 0 0 0 50 700 Tm (a flat matrix) Tj ET",
        "BT /F1 10 Tf 1 0 0 1 99999999 700 Tm (far away) Tj ET",
        "BT /F1 10 Tf 0 1 -1 0 50 700 Tm (all of it is turned) Tj ET",
        "BT /F1 9000 Tf 50 700 Td (very large letters) Tj ET",
        "BT /F1 1e30 Tf 50 700 Td (absurd letters) Tj ET",
    ],
)
def test_pages_whose_places_make_no_sense_are_plain_text(content: str) -> None:
    good = "BT /F1 10 Tf 50 700 Td (A good page.) Tj ET"
    document = parse(placed([content, good]), "a.pdf")
    assert document.text.endswith("A good page.")


def test_a_page_of_very_many_letters_is_plain_text() -> None:
    words = "".join(f"({n} words ) Tj 0 -0.01 Td " for n in range(6_000))
    document = parse(placed([f"BT /F1 8 Tf 50 800 Td {words} ET"]), "a.pdf")
    assert "5999 words" in document.text


def test_very_many_rules_draw_no_table() -> None:
    rules = "".join(rule(0, n / 10, 500, n / 10) for n in range(2_000))
    assert parse(placed([rules + at(50, 700, "Text.")]), "a.pdf").text == "Text."


def test_the_old_helper_still_writes_lines() -> None:
    assert parse(pdf([["One line."]]), "a.pdf").text == "One line."


@given(
    st.lists(st.tuples(st.sampled_from(["a b", "| x", "1. T", "水泵"]), st.booleans()), max_size=9)
)
def test_headings_keep_every_line_of_a_page(texts: list[tuple[str, bool]]) -> None:
    page = [
        Line(text, (), 50, 200, 700 - 12 * n, 10 + 4 * large, large)
        for n, (text, large) in enumerate(texts)
    ]
    kept = "".join(line.text for line in find_headings([page]).pages[0])
    assert kept.replace(" ", "") == "".join(text for text, _ in texts).replace(" ", "")
