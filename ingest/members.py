"""Putting the members of an archive or a mail together into one Document.

Their texts follow each other, and every section path begins with the member's name. It does not
know how members are stored (ingest.from_archive, ingest.from_mail) nor what is in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

from ingest.allowance import Allowance, AllowanceSpent
from ingest.blocks import clip, one_line
from ingest.discover import printable
from ingest.parse import parse
from rag.errors import DocumentRejected
from rag.schema import Document, Span

_GAP = "\n\n"
_LONGEST_NAME = 120
_TOLD = 30
_FIRST_REASONS = 3


class Members:
    """Collects what the members of one container hold.

    Args:
        allowance: Of the file they belong to.
    """

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._parts: list[str] = []
        self._length = 0
        self._sections: list[Span] = []
        self._warnings: list[str] = []
        self._refused: list[tuple[str, DocumentRejected]] = []

    def own(self, document: Document) -> None:
        """Append text of the container itself; its section paths stay as they are."""
        self._append(document.text, document.sections)
        self._warnings += document.warnings

    def add(self, name: str, data: bytes) -> None:
        """Parse a member and append its text; where that fails, say so.

        Raises:
            AllowanceSpent: If the whole file has reached a limit.
        """
        self.add_made(name, partial(parse, data, name, self._allowance))

    def add_made(self, name: str, make: Callable[[], Document]) -> None:
        """Append what `make` returns as a member's text; as `add`."""
        try:
            document = make()
        except AllowanceSpent:
            raise
        except DocumentRejected as error:
            self.refuse(name, error)
            return
        except Exception as error:  # noqa: BLE001  one member must not take the others along
            self.refuse(name, failed(error))
            return
        shown = _shown(name)
        self._append(document.text, _below(shown, document))
        self._warnings += [f"{shown}: {warning}" for warning in document.warnings]

    def refuse(self, name: str, error: DocumentRejected) -> None:
        """Note that a member could not be read."""
        self._refused.append((_shown(name), error))

    def finish(self, media_type: str, title: str = "") -> Document:
        """Return the Document.

        Raises:
            DocumentRejected: If it holds no text; with the reason of the first member refused.
        """
        text = "".join(self._parts)
        if not text.strip():
            raise self._nothing()
        told = [*self._warnings, *(f"{name}: {_why(error)}" for name, error in self._refused)]
        if len(told) > _TOLD:
            told[_TOLD:] = [f"{len(told) - _TOLD} more warnings about members are left out."]
        return Document(
            text=text,
            title=clip(title),
            sections=tuple(self._sections),
            media_type=media_type,
            warnings=tuple(told),
        )

    def _append(self, text: str, sections: Iterable[Span]) -> None:
        if not text:
            return
        if self._parts:
            self._parts.append(_GAP)
            self._length += len(_GAP)
        self._parts.append(text)
        self._sections += [
            Span(span.start + self._length, span.end + self._length, span.label)
            for span in sections
        ]
        self._length += len(text)

    def _nothing(self) -> DocumentRejected:
        if not self._refused:
            return DocumentRejected("It holds no document.", reason="empty")
        first = self._refused[:_FIRST_REASONS]
        reasons = " ".join(f"{name}: {_why(error)}" for name, error in first)
        more = len(self._refused) - len(first)
        rest = f" And {more} more." if more else ""
        do = self._refused[0][1].do
        return DocumentRejected(
            f"None of its members can be read. {reasons}{rest}",
            reason=self._refused[0][1].reason,
            do=do,
        )


def failed(error: Exception) -> DocumentRejected:
    """Say of a member that a parser did not get through it; its own words may quote the text."""
    if isinstance(error, MemoryError | RecursionError):
        what = "more memory than" if isinstance(error, MemoryError) else "deeper nesting than"
        return DocumentRejected(f"It needs {what} the parser may use.", reason="limit")
    kind = type(error).__name__
    return DocumentRejected(
        f"The parser failed on it ({kind}); it is damaged or hostile.", reason="damaged"
    )


def _below(name: str, document: Document) -> Iterator[Span]:
    """Yield sections that cover a member's text, their paths beginning with its name."""
    position = 0
    for span in document.sections:
        if document.text[position : span.start].strip():
            yield Span(position, span.start, name)
        yield Span(span.start, span.end, f"{name} > {span.label}" if span.label else name)
        position = span.end
    if document.text[position:].strip():
        yield Span(position, len(document.text), name)


def _shown(name: str) -> str:
    """Return a name for a section path: printable, on one line, its end kept where it is long."""
    name = one_line(printable(name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")))
    name = name.strip("/") or "unnamed"
    return name if len(name) <= _LONGEST_NAME else f"…{name[1 - _LONGEST_NAME :]}"


def _why(error: DocumentRejected) -> str:
    """Return the reason of a refused member, the word "encrypted" always named."""
    if error.reason == "encrypted" and "encrypted" not in error.message:
        return f"encrypted. {error.message}"
    return error.message
