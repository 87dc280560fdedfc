"""Plain text and Markdown -> Document: the text stays as it is, headings become sections.

Offsets count into the decoded file itself; nothing is rendered, escaped or removed.
"""

from __future__ import annotations

import re

from ingest.blocks import SectionPath, clip
from ingest.lines import numbered_sections, title_line
from rag.schema import Document

_LONGEST_LINE = 1000  # what follows in a line cannot make it a heading
_ATX = re.compile(r" {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_NO_PARAGRAPH = re.compile(r"[ \t]*$| {4}|\t| {0,3}(?:[-*+>|]|\d{1,9}[.)])")
_FRONT_MATTER = re.compile(r"---[ \t]*\n((?:.*\n){0,60}?)---[ \t]*(?:\n|$)")
_FRONT_TITLE = re.compile(r"^title:[ \t]*(.+)$", re.M)
_MARKUP = re.compile(r"[*_`]{1,3}(?=\S)|(?<=\S)[*_`]{1,3}|!?\[([^\]]*)\]\([^)]*\)")


def text_document(text: str) -> Document:
    """Wrap a decoded .txt file.

    Numbered headings after a blank line become sections; a first line that is followed by a blank
    one and looks like a title is the title.
    """
    lines = text.lstrip("\n").split("\n", 2)
    title = title_line(lines[0]) if len(lines) == 3 and not lines[1].strip() else ""
    return Document(text, title, sections=numbered_sections(text, isolated=True))


def markdown_document(text: str) -> Document:
    """Find the headings and the title of a decoded Markdown file.

    Headings are the `#` and the underlined ones, outside fenced code. The title is that of the
    YAML front matter, else the first heading.

    Args:
        text: The file as decoded.

    Returns:
        A Document with exactly this text.
    """
    front = _FRONT_MATTER.match(text)
    title = ""
    if front is not None and (named := _FRONT_TITLE.search(front.group(1))) is not None:
        title = clip(named.group(1).strip().strip("\"'"))
    path = SectionPath()
    for level, heading, start in _headings(text, front.end() if front is not None else 0):
        path.heading(level, heading, start)
        title = title or clip(heading)
    path.close(len(text))
    return Document(text, title, sections=tuple(path.spans), media_type="text/markdown")


def _headings(text: str, position: int) -> list[tuple[int, str, int]]:
    """List (level, title, start) of every heading from `position` on."""
    found: list[tuple[int, str, int]] = []
    fence = ""
    previous, previous_start = "", position
    for line in text[position:].splitlines(keepends=True):
        start, bare = position, line.rstrip("\r\n")[:_LONGEST_LINE]
        position += len(line)
        mark = _FENCE.match(bare)
        if fence:
            if mark is not None and mark.group(1).startswith(fence) and not bare.strip("`~ \t"):
                fence = ""
            previous = ""
        elif mark is not None:
            fence, previous = mark.group(1), ""
        elif (atx := _ATX.match(bare)) is not None:
            if heading := _bare(atx.group(2) or ""):
                found.append((len(atx.group(1)), heading, start))
            previous = ""
        elif (underline := _SETEXT.match(bare)) is not None and previous:
            found.append(
                (1 if underline.group(1)[0] == "=" else 2, _bare(previous), previous_start)
            )
            previous = ""
        else:
            previous = "" if _NO_PARAGRAPH.match(bare) or len(bare) > 300 else bare
            previous_start = start
    return found


def _bare(heading: str) -> str:
    """Drop emphasis, code and link marks from a heading."""
    return _MARKUP.sub(lambda match: match.group(1) or "", heading).strip()
