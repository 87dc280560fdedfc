"""reStructuredText -> Document: the text stays as it is, underlined titles become sections."""

from __future__ import annotations

import re
import unicodedata

from ingest.blocks import SectionPath, clip
from rag.schema import Document

_MEDIA_TYPE = "text/x-rst"
_LINE = re.compile(r"([!-/:-@\[-`{-~])\1{1,}[ \t]*$")
_MARKUP = re.compile(
    r"``([^`]+)``|(?::[\w:+.-]+:)?`([^`<]+)(?:\s<[^>]*>)?`_{0,2}|\*{1,2}([^*]+)\*{1,2}"
)
_LONGEST_TITLE = 300


def rst_document(text: str) -> Document:
    """Find the titles of a decoded .rst file.

    A title is a line with a line of one punctuation mark below it, at least as wide as itself,
    or with two such lines around it. Levels follow from the order in which marks first appear.

    Args:
        text: The file as decoded.

    Returns:
        A Document with exactly this text.
    """
    lines = text.split("\n")
    path = SectionPath()
    levels: dict[tuple[str, bool], int] = {}
    title = ""
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    index = 0
    while index + 1 < len(lines):
        found = _title(lines, index)
        if found is None:
            index += 1
            continue
        heading, mark, over = found
        level = levels.setdefault((mark, over), len(levels) + 1)
        path.heading(level, heading, starts[index])
        title = title or clip(heading)
        index += 3 if over else 2
    path.close(len(text))
    return Document(text, title, sections=tuple(path.spans), media_type=_MEDIA_TYPE)


def _title(lines: list[str], index: int) -> tuple[str, str, bool] | None:
    """Return the title that begins in a line, its mark, and whether it has a line above it."""
    before = lines[index - 1].strip() if index else ""
    first = lines[index]
    over = _LINE.match(first[:_LONGEST_TITLE])
    if over is not None and index + 2 < len(lines):
        name, under = lines[index + 1].strip(), lines[index + 2]
        fits = name and not _LINE.match(name[:_LONGEST_TITLE]) and under.rstrip() == first.rstrip()
        after = lines[index + 3].strip() if index + 3 < len(lines) else ""
        if fits and not before and not after and _width(name) <= len(first.rstrip()):
            return _bare(name), over.group(1), True
        return None
    under_line = _LINE.match(lines[index + 1][:_LONGEST_TITLE])
    if over is not None or under_line is None or before or first[:1].isspace():
        return None
    name = first.strip()
    wide_enough = _width(name) <= len(under_line.group().rstrip())
    if not name or len(name) > _LONGEST_TITLE or not wide_enough:
        return None
    return _bare(name), under_line.group(1), False


def _bare(title: str) -> str:
    """Drop emphasis, code and role marks from a title."""
    return _MARKUP.sub(lambda match: next(part for part in match.groups() if part), title)


def _width(title: str) -> int:
    """Count the columns a title takes; Han characters take two."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in title)
