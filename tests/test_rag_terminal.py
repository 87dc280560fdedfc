"""What commands print is aligned, one line where it must be, and harmless to a terminal."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.terminal import complain, count, one_line, place, print_table, progress_bar, say, width


def test_documents_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\x1b[31mred\x9b1m\x07\rb\tc\nd")
    complain("two\nlines \x1b]0;title\x07")
    captured = capsys.readouterr()
    assert captured.out == "a[31mred1mb\tc\nd\n"
    assert captured.err == "Error: two lines ]0;title\n"


def test_lone_surrogates_are_shown_not_fatal(capsys: pytest.CaptureFixture[str]) -> None:
    say("half \ud800 a character")
    assert capsys.readouterr().out == "half ? a character\n"


def test_tables_align_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "title"], [["泵", "first"], ["pump-1", "second\nline"]])
    assert capsys.readouterr().out == "name    title\n泵      first\npump-1  second line\n"


@given(st.text(), st.integers(min_value=1, max_value=60))
def test_one_line_is_one_line_and_fits(text: str, most: int) -> None:
    line = one_line(text, most)
    assert "\n" not in line
    assert width(line) <= most + 1  # the ellipsis


def test_words() -> None:
    assert (count(1, "file"), count(1200, "file")) == ("1 file", "1,200 files")
    assert (place("a.pdf", 3), place("a.txt", None)) == ("a.pdf, p. 3", "a.txt")


def test_no_bar_where_standard_error_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from rag.terminal import Progress

    with progress_bar("Working") as advance:
        advance(Progress(1, 2, "x"))
    assert capsys.readouterr().err == ""
