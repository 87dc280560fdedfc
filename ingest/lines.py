"""Lines of a printed page -> paragraphs, headings and pages.

A PDF knows lines, not paragraphs. A line goes on in the next one when it is about as wide as the
page's text and reads like prose; rows of tables, headings and list items stay lines. Pure string
work: no geometry, no file format.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ingest.blocks import SectionPath
from rag.schema import Span

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_CJK = f"{_HAN}\u3000-\u303f\uff00-\uff60\u2018-\u201d\u2026"
_WIDE = re.compile(
    f"[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3{_HAN}\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]"
)
_HAN_CHAR = re.compile(f"[{_HAN}]")
_SPACED = re.compile(f"(?<=[{_CJK}])[ \u3000]+(?=[{_CJK}])")
_TOUCHING = re.compile(f"[{_CJK}](?=[{_CJK}])")
_HAN_COLUMNS = re.compile(f"[{_HAN}）)][ \u3000]+[{_HAN}（(]")
_CLAUSE = re.compile(
    r"^第\s*[\d.]{1,7}\s*[章节節条條款]\s*|^[一二三四五六七八九十\d.]{1,4}[、.]\s*"
)
_ENDS = tuple("。！？；：.!?;:…”」』")
_ITEM = re.compile(
    r"(?:[-–—•·●○■□◆▪➢*]|[（(]?\d{1,3}[)）、]|\d{1,2}[.．]\s|[1-9]\d?(?:\.\d{1,2})*\s+[A-Z\u4e00-\u9fff]|[A-Za-z][.)]\s"
    r"|[（(]?[一二三四五六七八九十百]{1,4}[、）)．]|第\s*[\d.一二三四五六七八九十百]{1,6}\s*[章节節条條款编]|[①-⑳]"
    r"|[表图圖注]\s*[\d:：]|(?:Table|Figure|Note)\b)"
)
_NUMBER = re.compile(
    r"(?P<chapter>第\s*[\d一二三四五六七八九十百]{1,5}\s*[章编篇部])"
    r"|(?P<section>第\s*[\d一二三四五六七八九十百]{1,5}\s*[节節])"
    r"|(?P<han>[一二三四五六七八九十]{1,3}、)"
    r"|(?P<round>[（(][一二三四五六七八九十]{1,3}[)）])"
    r"|(?P<digits>\d{1,2}(?:\.\d{1,2}){0,3})(?P<dot>[.．、]?)(?=\s|[\u4e00-\u9fff])"
    r"|(?P<word>(?:Chapter|Section|Part|Appendix)\s+[\dA-Z]{1,4}\b)"
)
_QUANTITY = re.compile(
    r"[\d.,%‰°℃]|[A-Za-zμΩ³²/]{1,3}(?:\s+\d|$)|[年月日天元个小时分秒次台件套]{1,2}$"
)
_MAX_HEADING = 60


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading, its level from 1, and the character at which it begins."""

    level: int
    title: str
    start: int


@dataclass(frozen=True, slots=True)
class Mended:
    """The text of a page, and where the lines that stand alone begin in it."""

    text: str
    starts: dict[int, int]


def mend_page(lines: Sequence[str]) -> str:
    r"""Join the lines of one page into paragraphs, one on each line of the result.

    Args:
        lines: Without line ends, not empty; "\x02" marks a hyphen put in at a line end.

    Returns:
        The page; between two Han characters nothing is put in, between words a space.
    """
    return mend(lines, frozenset(), frozenset()).text


def mend(
    lines: Sequence[str],
    alone: Collection[int],
    breaks: Collection[int],
    fulls: Sequence[int] = (),
) -> Mended:
    r"""Join the lines of one page into paragraphs, one on each line of the result.

    Args:
        lines: Not empty; "\x02" marks a hyphen put in at a line end.
        alone: Indexes of lines that stay as they are: headings, and tables, which hold line ends
            and get a blank line before and after them.
        breaks: Indexes of other lines that begin a paragraph.
        fulls: For each line how wide a full one is where it stands, columns; 0 where that is to
            be found out here. May be left out.
    """
    parts: list[tuple[int, str]] = []
    for index, line in enumerate(lines):
        if index in alone:
            parts.append((index, line.replace("\x02", "-")))
            continue
        cut = re.findall("[^\x02]+\x02?|\x02", line)
        parts.extend((index if n == 0 else -1, _unspaced(part)) for n, part in enumerate(cut))
    running = [line for index, line in parts if index not in alone]
    widths = sorted(columns(line) for line in running)
    full = widths[int(len(widths) * 0.9)] if widths else 0
    prose = sum(_is_prose(line) for line in running) * 5 >= len(running) * 3
    whole = "\n".join(running)
    done: list[tuple[int, str]] = []
    previous = ""
    wide = full
    for index, line in parts:
        fixed = index in alone
        before = wide
        if fulls and index >= 0:
            wide = fulls[index] or full
        if (
            previous
            and not fixed
            and index not in breaks
            and _goes_on(previous, line, before, prose)
        ):
            done[-1] = (done[-1][0], _join(done[-1][1], line))
        else:
            done.append((index, line))
        previous = "" if fixed else line
    return _laid_out(done, alone, whole)


def _laid_out(done: Sequence[tuple[int, str]], alone: Collection[int], page: str) -> Mended:
    """Write paragraphs under each other, with blank lines around tables."""
    starts: dict[int, int] = {}
    text: list[str] = []
    length = 0
    table = False
    for index, line in done:
        line = line if index in alone else _unhyphenated(line, page)
        gap = "\n\n" if table or "\n" in line else "\n"
        table = "\n" in line
        if text:
            text.append(gap)
            length += len(gap)
        if index in alone:
            starts[index] = length
        text.append(line)
        length += len(line)
    return Mended("".join(text), starts)


def join_pages(pages: Sequence[str]) -> tuple[str, tuple[Span, ...]]:
    """Join mended pages into one text.

    A paragraph that runs over the page end goes on without a break; otherwise a blank line parts
    the pages. Empty pages get no span.

    Returns:
        The text, and for each page with text its span, labelled with its number from 1.
    """
    parts: list[str] = []
    spans: list[Span] = []
    length = 0
    last = ""
    for number, page in enumerate(pages, start=1):
        if not page:
            continue
        if last:
            gap = "\n\n"
            tail, head = last.rsplit("\n", 1)[-1], page.split("\n", 1)[0]
            if _goes_on(tail, head, min(columns(tail), 60)):
                gap = "" if _join(tail, head) == tail + head else " "
            parts.append(gap)
            length += len(gap)
        parts.append(page)
        spans.append(Span(length, length + len(page), str(number)))
        length += len(page)
        last = page
    return "".join(parts), tuple(spans)


def title_line(line: str) -> str:
    """Return a first line that can serve as a title, "" for one that cannot.

    It is short, holds no digits (a year in brackets aside), no colon, and does not end like a
    sentence.
    """
    line = line.strip()
    words = re.sub(r"[(（](?:19|20)\d\d\s*年?版?[)）]|\s", "", line)
    plausible = len(words) >= 4 and columns(line) <= 80 and not re.search(r"[\d:：@=|_]", words)
    return line if plausible and not line.endswith((*_ENDS, ",", "，", "、")) else ""


def numbered_sections(text: str, *, isolated: bool = False) -> tuple[Span, ...]:
    """Find the sections that numbered headings on lines of their own begin.

    Args:
        text: Its lines as paragraphs.
        isolated: Accept only headings with a blank line before them.

    Returns:
        Section spans; the numbers must follow each other, so that a stray number in front of a
        line does not begin a section.
    """
    path = SectionPath()
    for heading in numbered_headings(text, isolated):
        path.heading(heading.level, heading.title, heading.start)
    path.close(len(text))
    return tuple(path.spans)


def numbered_headings(text: str, isolated: bool = False) -> list[Heading]:
    """Return the headings that `numbered_sections` goes by."""
    found: list[Heading] = []
    lines = text.split("\n")
    start = 0
    top = 0
    for index, line in enumerate(lines):
        apart = not isolated or index == 0 or not lines[index - 1].strip()
        following = next((later for later in lines[index + 1 : index + 3] if later.strip()), "")
        level = numbered_heading(line, following) if apart and line else 0
        number = re.match(r"\d+", line)
        if level and number is not None:
            value = int(number.group())
            in_order = value == 1 or top - (level > 2) < value <= top + 3
            level = level if in_order else 0
            top = value if in_order and level == 2 else top
        if level:
            found.append(Heading(level, line, start))
        start += len(line) + 1
    return found


def number_depth(line: str) -> int | None:
    """Return how deep the number before a heading is, from 0; None without a number."""
    match = _NUMBER.match(line)
    if match is None:
        return None
    return {"section": 1, "round": 1}.get(match.lastgroup or "", (match["digits"] or "").count("."))


def numbered_heading(line: str, following: str) -> int:
    """Return the level of a numbered heading, 0 for any other line.

    Args:
        line: A line of its own: short, without a full stop at its end.
        following: The next line; a list item is followed by the next number or by another item
            of its kind, a heading is not.
    """
    match = _NUMBER.match(line)
    title = line[match.end() :].strip() if match is not None else ""
    ended = line.endswith(_ENDS) and not (title.isupper() and line.endswith("."))
    if match is None or columns(line) > _MAX_HEADING or ended or not following:
        return 0
    if match["chapter"] or match["word"]:
        return 1
    if not title or not re.search(r"[^\W\d_]", title) or "  " in title:
        return 0
    if _is_next(match, _NUMBER.match(following)):
        return 0
    if match["section"] or match["han"]:
        return 2
    if match["round"]:
        return 3
    digits = match["digits"]
    if digits.startswith("0") or title[0].islower() or _QUANTITY.match(title):
        return 0
    return 2 + digits.count(".")


def _is_next(match: re.Match[str], after: re.Match[str] | None) -> bool:
    """Whether the next line goes on counting, as in a list (a section's list begins at one)."""
    if after is None or after.lastgroup != match.lastgroup:
        return False
    if match["digits"] is None:
        return after.group()[-3:].strip("、（()） ") != "一"
    numbers = match["digits"].split("."), after["digits"].split(".")
    same_level = len(numbers[0]) == len(numbers[1])
    return same_level and int(numbers[1][-1]) == int(numbers[0][-1]) + 1


def is_item(line: str) -> bool:
    """Whether a line begins like a list item or a numbered paragraph."""
    return _ITEM.match(line) is not None


def _goes_on(line: str, following: str, full: int, prose_page: bool = False) -> bool:
    """Whether a paragraph continues from `line` to `following` on a page `full` columns wide."""
    if line.endswith("\x02"):
        return True
    if _ITEM.match(following) or line.startswith("| ") or following.startswith("| "):
        return False
    width = columns(line)
    if line.endswith(_ENDS):
        return width >= 0.95 * full and full >= 30 and not _HAN_CHAR.search(line[-8:])
    if len(_HAN_CHAR.findall(line)) * 4 >= len(line):
        return _is_prose(line) and width >= 0.8 * full
    words = line.split()
    lower = sum(word[0].islower() for word in words)
    if following[0].islower() and lower * 4 >= len(words):
        return width >= 0.5 * full
    prose = _is_prose(line) or (prose_page and lower > 0 and len(words) >= 3)
    return prose and width >= 0.8 * full


def _is_prose(line: str) -> bool:
    """Whether a line reads like running text rather than like a row, a heading or an address."""
    han = len(_HAN_CHAR.findall(line))
    if han * 4 >= len(line):
        return han >= 8 and not _HAN_COLUMNS.search(_CLAUSE.sub("", line))
    words = line.split()
    lower = sum(word[0].islower() for word in words)
    return len(words) >= 4 and lower * 10 >= len(words) * 3


def _join(line: str, following: str) -> str:
    if line.endswith("\x02"):
        return line + following
    if len(line) > 1 and line[-1] in "-–—/" and not line[-2].isspace():
        return line + following
    wide = _WIDE.match(line[-1]) and _WIDE.match(following[0])
    if wide or (line[-1] in "”」』…" and _WIDE.match(following[0])):
        return line + following
    return f"{line} {following}"


def _unhyphenated(line: str, page: str) -> str:
    """Resolve the marks of line-end hyphens.

    A hyphen stays in a word that the page also writes with one, before a capital or a figure, and
    after an abbreviation ("FAA-approved").
    """
    if "\x02" not in line:
        return line

    def resolve(match: re.Match[str]) -> str:
        first, second = match.group(1), match.group(2)
        short = len(first) > 1 and first.isupper() and second.islower()
        name = second[:1].isupper() and not first.isupper()
        kept = f"{first}-{second}" in page or short or name or not first or not second
        return f"{first}-{second}" if kept else first + second

    line = re.sub(r"([^\W\d_]*)\x02([^\W\d_]*)", resolve, line)
    return line.replace("\x02", "-")


def _unspaced(line: str) -> str:
    """Close up letter-spaced Chinese ("目 录"): most neighbours stand apart by a space."""
    apart = len(_SPACED.findall(line))
    if apart >= 2 and apart > 2 * len(_TOUCHING.findall(line)):
        return _SPACED.sub("", line)
    return line


def columns(line: str) -> int:
    """Columns a line takes: ideographs and full-width forms count two."""
    return len(line) + len(_WIDE.findall(line))
