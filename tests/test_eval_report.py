"""The report's two files: nothing from outside, nothing from within that acts, the same numbers."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from eval.refusal_metrics import calibration
from eval.report import check_out, render_html, render_markdown, write_report
from eval.report_data import (
    AnswersResult,
    Fact,
    FoundText,
    RelevantText,
    Report,
    SystemResult,
    WorstQuery,
    WrongAnswer,
)
from eval.report_text import beginning, markdown
from rag.errors import MissingExtra, PathError, UsageError

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=https://evil.example/x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "# heading\n\n## another\n---\n===",
    "| a cell | another |\n| --- | --- |",
    "\\| \\\\| `code | more`",
    "[link](javascript:alert(1)) ![picture](https://evil.example/p.png) [a]: https://evil.example",
    "https://evil.example/a www.evil.example a@evil.example <https://evil.example>",
    "``` fence\n~~~\n$x$ *bold* __bold__ ~~gone~~ &lt;b&gt; &#60;",
    "\x1b[31mred\x00\x07\u202eright to left\u2066",
    "half \ud83d a character \udcff",
    "U+2028 \u2028 and U+0085 \x85 and U+FFFE \ufffe",
    "- list\n1. list\n> quote\n    code\n\ttab",
    "</style></svg></title></textarea><!-- -->]]>",
    "中文 " + "很长" * 500,
]


def report(texts: list[str]) -> Report:
    """A report with these texts wherever a set's text can stand."""
    text = iter(texts * 20).__next__
    systems = (
        SystemResult(
            "bm25",
            {"nDCG@10": 0.75, "recall@5": 0.5},
            recall=tuple(k / 100 for k in range(1, 101)),
            ndcg=(1.0, 0.5, 0.0),
            latencies_ms=(1.5, 2.25, 900.0),
        ),
        SystemResult(
            "dense",
            {"nDCG@10": 0.5, "recall@5": 0.25},
            recall=(0.25,) * 100,
            ndcg=(0.5, 1.0, 0.0),
            latencies_ms=(10.0, 20.0, 0.0),
        ),
        SystemResult("hybrid", {}, failure=text()),
    )
    worst = [
        WorstQuery(
            text(), text(), {"bm25": 0.0, "dense": 1.0},
            (RelevantText(text(), text(), text(), 1, {"bm25": None, "dense": 1}),), 12,
            (FoundText(1, text(), text(), text(), 0), FoundText(2, "x", "", text(), 2)),
        )
        for _ in texts[::3]
    ]  # fmt: skip
    answers = AnswersResult(
        text(), "hybrid", questions=7, right=3, refused=2, failed=1, cited=2, citations=5,
        latencies_ms=(40.0, 50.0), calibration=calibration(
            [(0.3, False), (0.95, True), (0.99, True), (1.0, True)]
        ),
        wrong=tuple(WrongAnswer(t, t, (t, t), t, 0.98765, t < "M") for t in texts), failure=text(),
    )  # fmt: skip
    facts = tuple(Fact(t, t, t) for t in texts)
    return Report(
        text(), text(), 3, 1234, "2026-01-02T03:04:05Z", 0, "youju eval report " + text(), systems,
        tuple(worst), answers, settings=facts, versions=facts, files=facts,
    )  # fmt: skip


class Page(HTMLParser):
    """Reads what a page names, and the cells of its tables."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in {"td", "th"}:
            self.tables[-1][-1][-1] += data


def tokens(text: str) -> list[Any]:
    """The Markdown's tokens, those inside lines among them."""
    parsed = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    return [each for token in parsed for each in (token, *(token.children or ()))]


def markdown_tables(text: str) -> list[list[list[str]]]:
    tables: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        if token.type == "table_open":
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tables and token.level == 4 + (token.level == 5):
            shown = "".join(child.content for child in token.children or ())
            tables[-1][-1].append(shown.replace("\u2060", ""))
    return tables


@pytest.fixture(scope="module")
def page() -> str:
    pytest.importorskip("matplotlib", reason="the figures need the extra `eval`")
    return render_html(report(HOSTILE))


def test_the_page_names_nothing_outside(page: str) -> None:
    read = Page(page)

    assert not {"script", "link", "img", "iframe", "object", "base", "form", "image"} & set(
        read.tags
    )
    for tag, name, value in read.attributes:
        assert not name.startswith("on"), (tag, name)
        assert name not in {"src", "srcset", "action", "data", "poster", "xlink:href"}, (tag, name)
        if name == "href":
            assert value.startswith("#"), (tag, value)
        if name in {"style", "fill", "stroke", "clip-path"}:
            assert "url(" not in value.replace("url(#", ""), value
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert read.tags["style"] == 1
    policies = [value for _, name, value in read.attributes if name == "content"]
    assert any(
        policy.startswith("default-src 'none'; style-src 'unsafe-inline'; ") for policy in policies
    )


def test_the_page_is_sound(page: str) -> None:
    read = Page(page)

    ids = Counter(value for _, name, value in read.attributes if name == "id")
    assert [each for each, times in ids.items() if times > 1] == []
    for tag, name, value in read.attributes:
        if name == "href":
            assert value[1:] in ids, (tag, value)
        if name.startswith("aria-labelledby"):
            assert value in ids
    assert read.tags["svg"] == 4
    assert read.tags["caption"] == read.tags["table"] == len(read.tables)
    page.encode("utf-8")
    assert not [c for c in page if ord(c) < 32 and c != "\n"]
    assert "\u202e" not in page


def test_hostile_text_is_text(page: str) -> None:
    cells = [cell for table in Page(page).tables for row in table for cell in row]

    assert "<script>alert(1)</script>" in cells
    assert "{{ 7 * 7 }}{% raw %}" in cells


def test_both_files_hold_the_same_tables(page: str) -> None:
    written = markdown_tables(render_markdown(report(HOSTILE)))
    shown = [
        [[" ".join(cell.split()) for cell in row] for row in table]
        for table in Page(page).tables
        if len(table) > 1
    ]

    assert written == shown
    cells = {cell for table in written for row in table for cell in row}
    assert {"0.7500", "+0.0000", "42.9 %", "3 of 7", "900.0", "75.0 %", "0.988"} <= cells


def test_hostile_text_is_text_in_markdown() -> None:
    found = tokens(render_markdown(report(HOSTILE)))

    kinds = Counter(token.type for token in found)
    for kind in ("html_inline", "html_block", "link_open", "image", "em_open", "s_open",
                 "hr", "code_block", "code_inline", "blockquote_open", "bullet_list_open",
                 "ordered_list_open"):  # fmt: skip
        assert kinds[kind] == 0, kind
    assert kinds["fence"] == 1
    headings = [each for each in found if each.type == "heading_open"]
    assert len(headings) == 1 + 8 + len(HOSTILE[::3])


RISKY = st.text(st.sampled_from("|\\`*_[]()<>&#!~$:/@.-+=wa 1\n\x00\ud800中") | st.characters())


@settings(max_examples=60)
@given(RISKY)
def test_a_cell_shows_its_text_and_nothing_else(text: str) -> None:
    found = tokens(f"| a | {markdown(text)} |\n| --- | --- |\n")

    assert [each.type for each in found].count("th_open") == 2
    cell = [each for each in found if each.type == "inline"][1]
    assert {child.type for child in cell.children} <= {"text", "text_special"}
    shown = "".join(child.content for child in cell.children)
    assert shown.replace("\u2060", "") == beginning(text, 1000)


def test_no_address_becomes_a_link() -> None:
    written = render_markdown(report(HOSTILE))

    for address in ("https://", "www.evil", "a@evil"):
        assert address not in written.replace("\\", "")


def test_the_same_report_gives_the_same_bytes(page: str, tmp_path: Path) -> None:
    write_report(tmp_path / "a.html", report(HOSTILE))

    assert (tmp_path / "a.html").read_bytes() == page.encode()
    assert (tmp_path / "a.md").read_text("utf-8") == render_markdown(report(HOSTILE))
    assert {path.name for path in tmp_path.iterdir()} == {"a.html", "a.md"}


def test_what_failed_is_told_in_both() -> None:
    pytest.importorskip("matplotlib", reason="the figures need the extra `eval`")
    failed = SystemResult("dense", {}, failure="The model is damaged.")
    all_failed = replace(report(["x"]), systems=(failed,), worst=(), answers=None)

    for text in (render_html(all_failed), render_markdown(all_failed)):
        assert "dense could not be measured: The model is damaged." in text
        assert "Not measured." in text
        assert "No system was measured." in text


def test_one_system_alone() -> None:
    pytest.importorskip("matplotlib", reason="the figures need the extra `eval`")
    whole = report(["x"])
    alone = replace(whole, systems=whole.systems[:1], answers=None)

    assert Page(render_html(alone)).tags["svg"] == 2
    assert "Query by query" not in render_markdown(alone)


def test_a_report_is_plain_values() -> None:
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(each) for key, each in value.items())
        if isinstance(value, tuple):
            return all(plain(each) for each in value)
        return value is None or isinstance(value, str | int | float)

    assert plain(asdict(report(HOSTILE)))


def test_without_the_extra_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(MissingExtra, match=r"pip install 'youju\[eval\]'"):
        render_html(report(["x"]))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken.html").mkdir()
    (tmp_path / "beside.md").mkdir()

    check_out(tmp_path / "fine.html")
    for name in ("taken.html", "beside.html", "none/report.html"):
        with pytest.raises(PathError, match="--out"):
            check_out(tmp_path / name)
    with pytest.raises(UsageError, match=r"ends in \.html"):
        check_out(tmp_path / "report.pdf")


def test_a_failed_write_leaves_what_was_there(page: str, tmp_path: Path) -> None:
    assert page
    (tmp_path / "a.md").mkdir()

    with pytest.raises(PathError, match=r"Cannot write .*a\.md"):
        write_report(tmp_path / "a.html", report(["x"]))
    assert {path.name for path in tmp_path.iterdir()} <= {"a.html", "a.md"}
