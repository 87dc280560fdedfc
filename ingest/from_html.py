"""HTML -> Document: what a reader of the page would see, as plain text with Markdown tables.

A forgiving single pass over the tags with the standard library's tokenizer: unclosed elements
are closed where browsers close them. Scripts, styles, navigation and elements hidden by their own
attributes are left out; rules of style sheets are not evaluated, nothing is fetched or run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser

from ingest.blocks import TextWriter, clip, fold
from rag.schema import Document, Span

_VOID = frozenset(
    "area base br col embed hr img input link meta param source track wbr frame keygen".split()
)
_DROPPED = frozenset(
    "script style template noscript svg iframe object applet audio video canvas select datalist "
    "nav head noframes map".split()
)
_BLOCKS = frozenset(
    "address article aside blockquote body center dd details dialog dir div dl dt fieldset "
    "figcaption figure footer form header hgroup html legend li main menu ol p pre search section "
    "summary ul caption table thead tbody tfoot tr td th hr h1 h2 h3 h4 h5 h6".split()
)
_CLOSES: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    # start tag: (open elements it closes, elements beyond which it does not look)
    "li": (frozenset({"li"}), frozenset({"ul", "ol", "menu", "table"})),
    "dt": (frozenset({"dt", "dd"}), frozenset({"dl", "table"})),
    "dd": (frozenset({"dt", "dd"}), frozenset({"dl", "table"})),
    "td": (frozenset({"td", "th", "caption"}), frozenset({"tr", "table"})),
    "th": (frozenset({"td", "th", "caption"}), frozenset({"tr", "table"})),
    "tr": (frozenset({"tr", "caption"}), frozenset({"table"})),
    "tbody": (frozenset({"thead", "tbody", "tr"}), frozenset({"table"})),
    "tfoot": (frozenset({"thead", "tbody", "tr"}), frozenset({"table"})),
    "body": (frozenset({"head"}), frozenset()),
}
_HIDING = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*(?:hidden|collapse)|content-visibility\s*:\s*hidden"
    r"|(?:^|;)\s*(?:opacity|font-size|max-height|max-width)\s*:\s*0*\.?0*(?:px|pt|em|rem|%)?\s*(?:!|;|$)"
    r"|(?:text-indent|left|top)\s*:\s*-\d{3,}",
    re.I,
)
_SUBSET = re.compile(r"<!DOCTYPE[^>\[]{0,1000}\[", re.I)
_SUBSET_END = re.compile(r"\]\s{0,1000}>")
_SECTION = re.compile(r"<!\[(?:[^>\[]{0,80}\]>)?")
_MAX_SPAN = 60
_MAX_DEPTH = 2000


@dataclass(slots=True)
class _Table:
    """A table being read; `layout` once it turned out to hold other tables or blocks."""

    rows: list[list[str]] = field(default_factory=list)
    carried: dict[int, tuple[int, str]] = field(default_factory=dict)
    cell: list[str] | None = None
    spans: tuple[int, int] = (1, 1)
    layout: bool = False


def html_document(markup: str) -> Document:
    """Parse decoded HTML.

    Args:
        markup: The page's source.

    Returns:
        A Document with headings as sections and `<title>` (or the first heading) as its title.
    """
    reader = _Reader()
    reader.feed(_SECTION.sub("", _without_subset(markup)))
    reader.close()
    text, sections = reader.finish()
    title = clip("".join(reader.title)) or reader.writer.first_heading
    return Document(text=text, title=title, sections=sections, media_type="text/html")


def _without_subset(markup: str) -> str:
    """Drop the document type's internal subset, where XHTML may define (bombs of) entities."""
    begin = _SUBSET.search(markup)
    end = _SUBSET_END.search(markup, begin.end()) if begin is not None else None
    if begin is None or end is None:
        return markup
    return markup[: begin.start()] + markup[end.end() :]


class _Reader(HTMLParser):
    """Turns the stream of tags into blocks."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.writer = TextWriter()
        self.title: list[str] = []
        self._open: list[tuple[str, bool]] = []
        self._hidden = 0
        self._line: list[str] = []
        self._lists: list[int] = []
        self._marker = ""
        self._heading = 0
        self._pre = 0
        self._tables: list[_Table] = []

    def finish(self) -> tuple[str, tuple[Span, ...]]:
        """Close what is open and return the text with its sections."""
        while self._open:
            self._pop()
        self._flush()
        return self.writer.finish()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            if not self._hidden and tag in ("br", "hr"):
                self._break(tag)
            return
        self._close_implied(tag)
        if len(self._open) >= _MAX_DEPTH:
            return
        values = {name: value or "" for name, value in attrs}
        hidden = tag in _DROPPED or _is_hidden(values)
        self._open.append((tag, hidden))
        self._hidden += hidden
        if not self._hidden and tag in _BLOCKS:
            self._start_block(tag, values)

    def handle_endtag(self, tag: str) -> None:
        if tag == "p" and not self._hidden:
            self._flush()
        position = self._position(frozenset({tag}), frozenset({"table"} - {tag}))
        while position is not None and len(self._open) > position:
            self._pop()

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1][0] == "title":
            if not any(name == "svg" for name, _ in self._open):
                self.title.append(data[:500])
        elif not self._hidden:
            self._line.append(data if self._pre else data.replace("\x00", " "))

    def _close_implied(self, tag: str) -> None:
        closes, beyond = _CLOSES.get(tag, (frozenset(), frozenset()))
        if tag in _BLOCKS and self._open and self._open[-1][0] == "p":
            self._pop()
        position = self._position(closes, beyond) if closes else None
        while position is not None and len(self._open) > position:
            self._pop()

    def _position(self, tags: frozenset[str], beyond: frozenset[str]) -> int | None:
        """Return the index of the innermost open element among `tags`, None past `beyond`."""
        for index in range(len(self._open) - 1, -1, -1):
            name = self._open[index][0]
            if name in tags:
                return index
            if name in beyond:
                return None
        return None

    def _pop(self) -> None:
        tag, hidden = self._open.pop()
        if not self._hidden:
            self._end_block(tag)
        self._hidden -= hidden

    def _start_block(self, tag: str, attrs: dict[str, str]) -> None:
        self._flush()
        if tag in ("ul", "ol", "menu"):
            start = attrs.get("start", "")
            number = int(start) - 1 if start.isascii() and start.isdigit() and len(start) < 7 else 0
            self._lists.append(number if tag == "ol" else -1)
        elif tag == "li":
            self._begin_item()
        elif tag == "pre":
            self._pre += 1
        elif tag[0] == "h" and tag[1:].isdigit():
            self._heading = int(tag[1])
        elif tag == "table":
            self._begin_table()
        elif tag in ("td", "th") and self._tables:
            table = self._tables[-1]
            table.spans = _span(attrs.get("rowspan")), _span(attrs.get("colspan"))
            table.cell = None if table.layout else []
        elif tag == "tr" and self._tables and not self._tables[-1].layout:
            self._tables[-1].rows.append([])

    def _end_block(self, tag: str) -> None:
        if tag not in _BLOCKS:
            return
        self._flush()
        if tag in ("ul", "ol", "menu") and self._lists:
            self._lists.pop()
            if not self._lists:
                self.writer.end_list()
        elif tag == "li":
            self._marker = ""
        elif tag == "pre":
            self._pre = max(0, self._pre - 1)
        elif tag[0] == "h" and tag[1:].isdigit():
            self._heading = 0
        elif tag in ("td", "th") and self._tables:
            self._end_cell(self._tables[-1])
        elif tag == "tr" and self._tables and self._tables[-1].rows:
            self._carry(self._tables[-1], self._tables[-1].rows[-1])
        elif tag == "table" and self._tables:
            table = self._tables.pop()
            self._end_cell(table)
            if not table.layout:
                self.writer.table(table.rows)

    def _begin_item(self) -> None:
        depth = max(0, len(self._lists) - 1)
        if self._lists and self._lists[-1] >= 0:
            self._lists[-1] += 1
            self._marker = f"{'  ' * depth}{self._lists[-1]}. "
        else:
            self._marker = f"{'  ' * depth}- "

    def _begin_table(self) -> None:
        """Open a table; one inside a cell makes the outer ones mere layout."""
        for outer in self._tables:
            if outer.layout:
                continue
            outer.layout = True
            for row in outer.rows:
                self.writer.paragraph("  ".join(cell for cell in row if cell))
            if outer.cell:
                self.writer.paragraph(" ".join(outer.cell))
            outer.rows, outer.cell = [], None
        self._tables.append(_Table())

    def _end_cell(self, table: _Table) -> None:
        if table.cell is None:
            return
        value = " ".join(table.cell)
        table.cell = None
        if not table.rows:
            table.rows.append([])
        row = table.rows[-1]
        self._carry(table, row)
        down, across = table.spans
        column = len(row)
        row += [value] + [""] * (across - 1)
        if down > 1:
            table.carried[column] = (down - 1, value)
        self._carry(table, row)

    @staticmethod
    def _carry(table: _Table, row: list[str]) -> None:
        """Repeat cells that span rows, so that every row can be read on its own."""
        while len(row) in table.carried:
            column = len(row)
            left, value = table.carried.pop(column)
            row.append(value)
            if left > 1:
                table.carried[column] = (left - 1, value)

    def _break(self, tag: str) -> None:
        if tag == "hr":
            self._flush()
        else:
            self._line.append("\x00")

    def _flush(self) -> None:
        """Write the collected line as whatever block it is in."""
        if not self._line:
            return
        raw, self._line = "".join(self._line), []
        if self._pre:
            text = raw.replace("\x00", "\n").strip("\n")
        else:
            pieces = (fold(piece).strip() for piece in raw.split("\x00"))
            text = "\n".join(piece for piece in pieces if piece)
        if not text.strip():
            return
        table = self._tables[-1] if self._tables else None
        if table is not None and not table.layout and table.cell is not None:
            table.cell.append(text)
        elif self._heading:
            self.writer.heading(self._heading, text)
        elif self._marker:
            self.writer.item(text, self._marker)
            self._marker = " " * (len(self._marker) - len(self._marker.lstrip())) + "  "
        else:
            self.writer.paragraph(text)


def _is_hidden(attrs: dict[str, str]) -> bool:
    if "hidden" in attrs or attrs.get("type", "").lower() == "hidden":
        return True
    return bool(_HIDING.search(attrs.get("style", "")))


def _span(value: str | None) -> int:
    number = (value or "").strip()
    valid = number.isascii() and number.isdigit()
    return min(max(1, int(number[:4])), _MAX_SPAN) if valid else 1
