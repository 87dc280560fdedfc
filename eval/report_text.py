"""Makes foreign text harmless in a report: one line, cut, and for Markdown escaped.

HTML is escaped by the template engine; what is here is done before.
"""

from __future__ import annotations

import re

from rag.terminal import one_line

MOST = 100_000
"""Columns of the longest text that is shown at all."""

_AS_ENTITY = frozenset("\\`<>|&")
_SPECIAL = re.compile(r"[\\`<>|&*_{}\[\]#!~$^]")
_LINKING = re.compile(
    r"(@(?=[a-z]|[\w-]*\.)|#(?=\d)|:(?=//)|\bwww(?=\.)|\b(?:mailto|xmpp)(?=:))", re.IGNORECASE
)


def beginning(text: str, most: int) -> str:
    """Return the beginning of a text as one line.

    White space is folded; control characters, halves of characters (lone surrogates) and what
    changes the direction of writing become spaces.

    Args:
        text: Any text.
        most: Columns of a terminal that it may take, >= 1; a wide character takes two.
    """
    return one_line(text[: 20 * most], most)


def markdown(text: str) -> str:
    """Return a text as Markdown that shows it, and does nothing else, also in a table's cell.

    It must not stand at the beginning of a line. Characters that could mean something are written
    as entities or after a backslash. An invisible word joiner stands where a reader's program
    would else make an address a link.

    Args:
        text: Any text; white space is folded.
    """
    shown = _LINKING.sub("\\1\u2060", one_line(text, MOST))
    return _SPECIAL.sub(lambda found: _escaped(found[0]), shown)


def _escaped(character: str) -> str:
    return f"&#{ord(character)};" if character in _AS_ENTITY else f"\\{character}"
