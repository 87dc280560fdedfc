"""Document -> Passages: pieces small enough for the embedder, with exact places in the text.

A passage is cut at sections first, then at paragraphs, lines and sentences, and only inside a
sentence when nothing else is left. Table rows stay whole. It counts tokens through the `Tokens`
protocol; it loads no model and embeds nothing.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rag.protocols import Tokens
from rag.schema import Document, Passage
from rag.sentences import sentence_spans, strip_span

_VERSION = 1
_CHARS_PER_TOKEN = 8
"""A token counts for at least an eighth of its characters, so that one unknown word of a
million characters is not one token."""

_SPECIAL = 4
_WRAPPED = frozenset({"text/plain", "text/markdown"})
_MAX_CONTEXT_CHARS = 240
_MAX_HEADER_CHARS = 300
_CUT_AFTER = re.compile(r"[\s，、；：。！？,;:.!?)）】\]}>/\\|_-]")
_RULE = re.compile(r"\|(?:\s*:?-+:?\s*\|)+$")


@dataclass(frozen=True, slots=True)
class _Unit:
    """A stretch that is not cut further: a sentence, a table row or a piece of a monster.

    Attributes:
        start, end: Its place in the text, without white space at its ends.
        cost: Tokens it takes, >= 1.
        header: The header row of the table it is a body row of, "" elsewhere.
        header_cost: Tokens of that row.
        whole: False for a piece cut out of the middle of a sentence.
    """

    start: int
    end: int
    cost: int
    header: str = ""
    header_cost: int = 0
    whole: bool = True


@dataclass(frozen=True, slots=True)
class _Region:
    """A section, or text outside sections, with its tokens; `bare` if it is only a heading."""

    start: int
    end: int
    label: str
    cost: int
    bare: bool = False


class Chunker:
    """Cuts documents into passages of bounded length.

    Args:
        tokens: The embedder's tokenizer.
        max_tokens: Tokens of a passage's text at most, >= 16. Context is not counted here, but
            context and text together stay within what the embedder reads.
        overlap_tokens: Tokens of whole sentences at most that a passage repeats from the one
            before it in the same section, >= 0 and < max_tokens.
    """

    def __init__(self, tokens: Tokens, max_tokens: int, overlap_tokens: int) -> None:
        if max_tokens < 16 or not 0 <= overlap_tokens < max_tokens:
            raise ValueError(
                f"max_tokens {max_tokens}, overlap_tokens {overlap_tokens}: expected "
                "max_tokens >= 16 and 0 <= overlap_tokens < max_tokens"
            )
        self._tokens = tokens
        self._max = max_tokens
        self._overlap = overlap_tokens
        self._tiny = max_tokens // 10
        self._context_cap = max(8, tokens.max_tokens // 4)

    @property
    def fingerprint(self) -> str:
        """Changes whenever the same document could be cut differently by the same tokenizer."""
        return f"passages-{_VERSION} max={self._max} overlap={self._overlap}"

    def split(self, document: Document) -> list[Passage]:
        """Cut a document.

        Args:
            document: With spans in order, as parsing gives them.

        Returns:
            Passages by start. Each non-space character lies in at least one; `text` is exactly
            `document.text[start:end]` and has no white space at its ends.
        """
        text = document.text
        regions = self._regions(document)
        labels = [_context(document.title, region.label) for region in regions]
        contexts, budgets = self._budgets(labels)
        page_starts = [span.start for span in document.pages]
        found: list[Passage] = []

        def add(start: int, end: int, context: str) -> None:
            at = bisect_right(page_starts, start) - 1
            page = _page_number(document.pages[max(at, 0)].label) if page_starts else None
            found.append(Passage(start, end, text[start:end], context, page))

        for region, context, budget in zip(regions, contexts, budgets, strict=True):
            if region.cost <= budget:
                add(region.start, region.end, context)
                continue
            wrapped = document.media_type in _WRAPPED
            units = self._units(text, _sentences(text, region, wrapped), budget)
            for first, last in self._pack(text, units, budget):
                header = units[first].header
                add(
                    units[first].start,
                    units[last].end,
                    f"{context}\n{header}".strip("\n") if header else context,
                )
        return found

    def _regions(self, document: Document) -> list[_Region]:
        """Cut at sections; a bare heading joins what follows, other small ones where they fit."""
        text = document.text
        bounds: list[tuple[int, int, str]] = []
        position = 0
        for span in document.sections:
            bounds.append((position, span.start, ""))
            bounds.append((span.start, span.end, span.label))
            position = span.end
        bounds.append((position, len(text), ""))
        stripped = [(*strip_span(text, start, end), label) for start, end, label in bounds]
        kept = [(start, end, label) for start, end, label in stripped if start < end]
        costs = self._costs([text[start:end] for start, end, _ in kept])
        joined: list[_Region] = []
        for (start, end, label), cost in zip(kept, costs, strict=True):
            last = joined[-1] if joined else None
            bare = bool(label) and "\n" not in text[start:end]
            small = cost < self._tiny and not bare
            fits = last is not None and last.cost + cost <= self._max
            leading = last is not None and (last.cost < self._tiny or last.bare)
            if last is None or not (leading or (small and fits)):
                joined.append(_Region(start, end, label, cost, bare))
                continue
            label = label if cost >= last.cost else last.label
            joined[-1] = _Region(last.start, end, label, last.cost + cost)
        return joined

    def _budgets(self, labels: Sequence[str]) -> tuple[list[str], list[int]]:
        """Shorten contexts that would crowd out the text; return them and the room they leave."""
        distinct = list(dict.fromkeys(labels))
        sizes = dict(zip(distinct, self._tokens.count(distinct), strict=True))
        short: dict[str, str] = {}
        for label in distinct:
            shorter = label
            while shorter and sizes[label] > self._context_cap:
                shorter = _shorten(shorter)
                sizes[label] = self._tokens.count([shorter])[0] if shorter else 0
            short[label] = shorter
        room = self._tokens.max_tokens - _SPECIAL
        budgets = [max(8, min(self._max, room - sizes[label])) for label in labels]
        return [short[label] for label in labels], budgets

    def _costs(self, texts: Sequence[str]) -> list[int]:
        """Return tokens per text; a text far beyond any budget is not tokenised."""
        limit = self._max * _CHARS_PER_TOKEN
        short = [text for text in texts if len(text) <= limit]
        counts = iter(self._tokens.count(short) if short else [])
        return [
            max(1, next(counts) if len(text) <= limit else 0, -(-len(text) // _CHARS_PER_TOKEN))
            for text in texts
        ]

    def _units(self, text: str, spans: Sequence[tuple[int, int]], budget: int) -> list[_Unit]:
        """Price sentences and rows, and cut monsters in pieces."""
        headers = _headers(text, spans)
        distinct = list(dict.fromkeys(header for header in headers if header))
        prices = dict(zip(distinct, self._costs(distinct), strict=True)) | {"": 0}
        costs = self._costs([text[start:end] for start, end in spans])
        units: list[_Unit] = []
        for (start, end), cost, header in zip(spans, costs, headers, strict=True):
            price = min(prices[header], budget // 2)
            unit = _Unit(start, end, cost, header, price)
            fits = cost + price <= budget
            units += [unit] if fits else self._pieces(text, unit, budget - price)
        return units

    def _pieces(self, text: str, monster: _Unit, limit: int) -> list[_Unit]:
        """Cut a sentence that is too long, at punctuation or spaces where there are any."""
        done: list[_Unit] = []
        todo = [(monster.start, monster.end, monster.cost)]
        while todo:
            level = todo
            todo = []
            cut: list[tuple[int, int]] = []
            for begin, stop, price in level:
                size = max(1, int((stop - begin) * limit * 0.9 / price))
                cut += _slices(text, begin, stop, size)
            prices = self._costs([text[begin:stop] for begin, stop in cut])
            for (begin, stop), price in zip(cut, prices, strict=True):
                if price <= limit or stop - begin == 1:
                    piece = replace(monster, start=begin, end=stop, cost=price, whole=False)
                    done.append(piece)
                else:
                    todo.append((begin, stop, price))
        return sorted(done, key=lambda unit: unit.start)

    def _pack(self, text: str, units: Sequence[_Unit], budget: int) -> list[tuple[int, int]]:
        """Choose (first, last) unit of each passage: full ones, cut where the text breaks best."""
        packed: list[tuple[int, int]] = []
        rest = sum(unit.cost for unit in units)
        first = fresh = 0
        while first < len(units):
            room = budget - units[first].header_cost
            if rest <= room:
                packed.append((first, len(units) - 1))
                break
            last = self._last(text, units, first, fresh, room, rest)
            packed.append((first, last))
            following = self._step_back(units, first, last, room)
            rest -= sum(unit.cost for unit in units[first:following])
            first, fresh = following, last + 1
        return packed

    def _last(
        self, text: str, units: Sequence[_Unit], first: int, fresh: int, room: int, rest: int
    ) -> int:
        """Return the last unit of the passage from `first` on; `rest` tokens remain.

        It reaches at least to `fresh`, the first unit that no earlier passage holds.
        Among the ends that fill at least half of the room the best break wins: a blank line, then
        a line end, then the latest. A rest that is little more than one passage is spread over
        two, and a tiny one is not left over.
        """
        ceiling = 0.65 * room if rest < 1.3 * room else room
        best, best_rank = fresh, (-2, -1)
        used = 0
        for index in range(first, len(units) - 1):
            used += units[index].cost
            if index < fresh:
                continue
            if used > room or (used > ceiling and index > fresh):
                break
            gap = text[units[index].end : units[index + 1].start]
            level = 2 if gap.count("\n") > 1 else int("\n" in gap)
            if units[index + 1].header:
                level = 0
            if used * 2 < ceiling or rest - used < self._tiny:
                level = -1
            if (level, index) >= best_rank:
                best, best_rank = index, (level, index)
        return best

    def _step_back(self, units: Sequence[_Unit], first: int, last: int, room: int) -> int:
        """Return the first unit of the next passage: some whole sentences back, if they fit."""
        following = last + 1
        used = 0
        upcoming = units[following].cost if following < len(units) else 0
        if following >= len(units) or units[following].header:
            return following
        while following > first + 1:
            unit = units[following - 1]
            used += unit.cost
            if unit.header or not unit.whole or used > self._overlap or used + upcoming > room:
                break
            following -= 1
        return following


def _sentences(text: str, region: _Region, wrapped: bool) -> list[tuple[int, int]]:
    """Return the sentences of a region; its heading line never runs into what follows.

    Where lines are `wrapped` a sentence may go on in the next one; elsewhere parsing has joined
    what belongs together, and a line end is an end.
    """
    lines: list[tuple[int, int]] = []
    start = region.start
    while start < region.end:
        line_end = text.find("\n", start, region.end)
        stop = region.end if line_end < 0 or (wrapped and (lines or not region.label)) else line_end
        lines.append((start, stop))
        start = stop + 1
    spans: list[tuple[int, int]] = []
    for begin, stop in lines:
        spans += [(begin + a, begin + b) for a, b in sentence_spans(text[begin:stop])]
    return spans


def _headers(text: str, spans: Sequence[tuple[int, int]]) -> list[str]:
    """Return for each span the header row of the Markdown table whose body it belongs to."""
    headers: list[str] = []
    header = ""
    for index, (start, end) in enumerate(spans):
        if text[start] != "|":
            header = ""
        elif index and _RULE.match(text[start:end]) and text[spans[index - 1][0]] == "|":
            headers.append("")
            before = spans[index - 1]
            header = text[before[0] : before[1]][:_MAX_HEADER_CHARS]
            continue
        headers.append(header)
    return headers


def _slices(text: str, start: int, end: int, size: int) -> list[tuple[int, int]]:
    """Cut text[start:end] into stretches of at most `size` characters, stripped, none empty."""
    slices: list[tuple[int, int]] = []
    while start < end:
        stop = min(start + size, end)
        if stop < end:
            stop = _good_cut(text, start, stop)
        begin, tail = strip_span(text, start, stop)
        if begin < tail:
            slices.append((begin, tail))
        start = stop
    return slices


def _good_cut(text: str, start: int, stop: int) -> int:
    """Move a cut back to after punctuation or a space in the last quarter, else off marks."""
    for position in range(stop, stop - max(1, (stop - start) // 4), -1):
        if _CUT_AFTER.match(text[position - 1]):
            return position
    position = stop
    while position > start + 1 and _belongs_to_previous(text[position]):
        position -= 1
    return position if position > start + 1 else stop


def _belongs_to_previous(char: str) -> bool:
    return unicodedata.combining(char) != 0 or char in "\u200d\ufe0e\ufe0f\u3099\u309a"


def _context(title: str, label: str) -> str:
    """Join title and section path, the title not twice, at most 240 characters."""
    if not label or label == title:
        context = title or label
    elif not title or label.startswith(f"{title} > "):
        context = label
    else:
        context = f"{title} > {label}"
    while len(context) > _MAX_CONTEXT_CHARS:
        context = _shorten(context)
    return context


def _shorten(context: str) -> str:
    """Drop the second part of a path (the title stays longest), or half of what is left."""
    parts = context.split(" > ")
    if len(parts) > 2:
        return " > ".join([parts[0], *parts[2:]])
    if len(parts) == 2 and len(parts[0]) > len(parts[1]):
        return f"{parts[0][: len(parts[0]) // 2].rstrip()} > {parts[1]}"
    return context[: len(context) // 2].rstrip()


def _page_number(label: str) -> int | None:
    return int(label) if label.isascii() and label.isdigit() else None
