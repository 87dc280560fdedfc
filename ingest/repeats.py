"""Paragraphs that a document repeats, a disclaimer on every page for instance.

They are indexed once: the first copy stays, later ones are left out of the passages (never out of
the text). Rows of tables and short lines are not paragraphs. Pure string work.
"""

from __future__ import annotations

import re
from collections import Counter
from hashlib import blake2b

from ingest.lines import columns
from rag.schema import Document
from rag.sentences import strip_span

MIN_COLUMNS = 60
"""Shortest paragraph that counts, ideographs counting two."""

MIN_COPIES = 3
"""So many copies make it a refrain under any headings; two do only under the same."""

_WRAPPED = frozenset({"text/plain", "text/markdown"})
_BLOCK = re.compile(r"\S(?:.*\S)?(?:\n[^\S\n]*\S.*)*")
_LINE = re.compile(r"\S.*")


def repeated_paragraphs(document: Document) -> list[tuple[int, int]]:
    """Return where later copies of a paragraph stand.

    A paragraph is a line, or in text and Markdown files, whose lines may be wrapped, what stands
    between blank lines. White space aside the copies are equal.

    Args:
        document: With sections in order.

    Returns:
        (start, end) in order, stripped; an equal paragraph stands before each. Under another
        heading than its earlier copies one is listed only if there are MIN_COPIES or more, and
        it is less than half of its section: what a heading is about stays with it.
    """
    text = document.text
    pattern = _BLOCK if document.media_type in _WRAPPED else _LINE
    found: list[tuple[int, int, bytes]] = []
    for match in pattern.finditer(text):
        start, end = strip_span(text, match.start(), match.end())
        if end - start >= MIN_COLUMNS // 2 and text[start] != "|" and "\t" not in match.group():
            folded = " ".join(text[start:end].split())
            if columns(folded) >= MIN_COLUMNS:
                found.append((start, end, blake2b(folded.encode("utf-8", "replace")).digest()))
    copies = Counter(key for _, _, key in found)
    later: list[tuple[int, int]] = []
    labels: dict[bytes, set[str]] = {}
    sections = iter(document.sections)
    section = next(sections, None)
    for start, end, key in found:
        if copies[key] < 2:
            continue
        while section is not None and section.end <= start:
            section = next(sections, None)
        inside = section is not None and section.start <= start
        label = section.label if section is not None and inside else ""
        room = section.end - section.start if section is not None and inside else len(text)
        seen = labels.setdefault(key, set())
        refrain = copies[key] >= MIN_COPIES and (end - start) * 2 < room
        if label in seen or (seen and refrain):
            later.append((start, end))
        seen.add(label)
    return later
