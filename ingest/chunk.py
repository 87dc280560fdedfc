"""Document -> Passages: pieces small enough for the embedder, with exact places in the text.

A passage is cut at sections first, then at paragraphs, lines and sentences, and only inside a
sentence when nothing else is left. Table rows stay whole; one that is longer than a passage is cut
at its cells. Later copies of a repeated paragraph are left out. It counts tokens through the
`Tokens` protocol; it loads no model and embeds nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ingest.clusters import Clusters
from ingest.cutting import headers, sentences, shortened_row, slices, smaller
from ingest.repeats import repeated_paragraphs
from rag.protocols import Tokens
from rag.schema import Document, Passage
from rag.sentences import strip_span

_VERSION = "passages-2"
_CHARS_PER_TOKEN = 8
"""A token counts for at least an eighth of its characters, so that one unknown word of a
million characters is not one token."""

_SPECIAL = 4
_SURE = 0.9  # of what the embedder reads: sums of tokens below it need no second count
_WRAPPED = frozenset({"text/plain", "text/markdown"})
_MAX_CONTEXT_CHARS = 240


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


def is_of_this_version(fingerprint: str) -> bool:
    """Whether a chunker's fingerprint differs from those made now in its sizes only, if at all."""
    return fingerprint.partition(" ")[0] == _VERSION


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
        return f"{_VERSION} max={self._max} overlap={self._overlap}"

    def split(self, document: Document) -> list[Passage]:
        """Cut a document.

        Args:
            document: With spans in order, as parsing gives them.

        Returns:
            Passages by start. Each non-space character lies in at least one, but for later copies
            of a paragraph (ingest.repeats); `text` is exactly `document.text[start:end]` and has
            no white space at its ends, but for a space that a cluster holds. No grapheme cluster
            is cut that the embedder can read whole.
        """
        text = document.text
        clusters = Clusters(text)
        regions = self._regions(document, clusters)
        labels = [_context(document.title, region.label) for region in regions]
        contexts, budgets = self._budgets(labels)
        repeats = repeated_paragraphs(document)
        page_starts = [span.start for span in document.pages]
        found: list[Passage] = []

        def add(start: int, end: int, context: str) -> None:
            at = bisect_right(page_starts, start) - 1
            page = _page_number(document.pages[max(at, 0)].label) if page_starts else None
            found.append(Passage(start, end, text[start:end], context, page))

        wrapped = document.media_type in _WRAPPED
        for region, context, budget in zip(regions, contexts, budgets, strict=True):
            start, end = region.start, region.end
            first = bisect_right(repeats, (start, -1))
            if region.cost <= budget and (first == len(repeats) or repeats[first][0] >= end):
                add(start, end, context)
                continue
            spans = sentences(text, start, end, headed=bool(region.label), wrapped=wrapped)
            spans = [span for span in clusters.whole(spans) if span[0] < span[1]]
            for run in _without(spans, repeats):
                for begin, stop, whole_context in self._run(text, run, context, budget, clusters):
                    add(begin, stop, whole_context)
        return found

    def _run(
        self,
        text: str,
        spans: Sequence[tuple[int, int]],
        context: str,
        budget: int,
        clusters: Clusters,
    ) -> Iterator[tuple[int, int, str]]:
        """Yield (start, end, context) of the passages of sentences that follow each other."""
        units = self._units(text, spans, budget, clusters)
        for first, last in self._pack(text, units, budget):
            header = units[first].header
            beside = f"{context}\n{header}".strip("\n") if header else context
            start, end = units[first].start, units[last].end
            cost = sum(unit.cost for unit in units[first : last + 1])
            room = self._tokens.max_tokens - _SPECIAL
            sure = (cost + units[first].header_cost) < _SURE * min(budget, room)
            if sure and all(unit.whole for unit in units[first : last + 1]):
                yield start, end, beside
                continue
            edges = [unit.end for unit in units[first:last]]
            for begin, stop in self._within(text, start, end, edges, beside, clusters):
                yield begin, stop, beside

    def _within(
        self,
        text: str,
        start: int,
        end: int,
        edges: Sequence[int],
        context: str,
        clusters: Clusters,
    ) -> list[tuple[int, int]]:
        """Halve a stretch until the embedder reads each part whole, at `edges` where it can."""
        room = self._tokens.max_tokens - _SPECIAL
        fitting: list[tuple[int, int]] = []
        todo = [(start, end)]
        while todo:
            begin, stop = todo.pop()
            indexed = f"{context}\n{text[begin:stop]}" if context else text[begin:stop]
            if self._tokens.count([indexed])[0] <= room or stop - begin == 1:
                fitting.append((begin, stop))
                continue
            inside = [edge for edge in edges if begin < edge < stop]
            if inside:
                cut = inside[len(inside) // 2]
                halves = [strip_span(text, begin, cut), strip_span(text, cut, stop)]
                halves = [half for half in clusters.whole(halves) if half[0] < half[1]]
            else:
                size = max(1, (stop - begin + 1) // 2)
                halves = slices(text, begin, stop, size, clusters)
                if halves == [(begin, stop)]:
                    halves = slices(text, begin, stop, size, None)
            todo += reversed(halves)
        return fitting

    def _regions(self, document: Document, clusters: Clusters) -> list[_Region]:
        """Cut at sections; a bare heading joins what follows, other small ones where they fit."""
        text = document.text
        bounds: list[tuple[int, int, str]] = []
        position = 0
        for span in document.sections:
            bounds.append((position, span.start, ""))
            bounds.append((span.start, span.end, span.label))
            position = span.end
        bounds.append((position, len(text), ""))
        stripped = [strip_span(text, start, end) for start, end, _ in bounds]
        visible = [index for index, (start, end) in enumerate(stripped) if start < end]
        spans = clusters.whole([stripped[index] for index in visible])
        kept = [
            (start, end, bounds[index][2])
            for index, (start, end) in zip(visible, spans, strict=True)
            if start < end
        ]
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

    def _units(
        self, text: str, spans: Sequence[tuple[int, int]], budget: int, clusters: Clusters
    ) -> list[_Unit]:
        """Price sentences and rows, and cut monsters in pieces."""
        rows = headers(text, spans)
        short = self._short_headers(list(dict.fromkeys(filter(None, rows))), budget // 2)
        costs = self._costs([text[start:end] for start, end in spans])
        units: list[_Unit] = []
        for (start, end), cost, row in zip(spans, costs, rows, strict=True):
            header, price = short.get(row, ("", 0))
            unit = _Unit(start, end, cost, header, price)
            fits = cost + price <= budget
            units += [unit] if fits else self._pieces(text, unit, budget - price, clusters)
        return units

    def _short_headers(self, rows: Sequence[str], limit: int) -> dict[str, tuple[str, int]]:
        """Return for each row its first cells that take at most `limit` tokens, and how many."""
        short: dict[str, tuple[str, int]] = {}
        for row, cost in zip(rows, self._costs(rows), strict=True):
            shown, price = row, cost
            while shown and price > limit:
                shown = shortened_row(shown, len(shown) * 2 // 3)
                price = self._costs([shown])[0] if shown else 0
            short[row] = shown, price
        return short

    def _pieces(self, text: str, monster: _Unit, limit: int, clusters: Clusters) -> list[_Unit]:
        """Cut a row or sentence that is too long: at cells, at sentences, then at punctuation."""
        done: list[_Unit] = []
        todo = [(monster.start, monster.end, monster.cost)]
        for depth in range(2):  # a row into cells, a cell into sentences
            todo = self._priced(
                text,
                [
                    span
                    for begin, stop, price in todo
                    for span in (
                        [(begin, stop)] if depth and price <= limit else smaller(text, begin, stop)
                    )
                ],
                clusters,
            )
        while todo:
            cut: list[tuple[int, int]] = []
            for begin, stop, price in todo:
                if price <= limit or stop - begin == 1:
                    piece = replace(monster, start=begin, end=stop, cost=price, whole=False)
                    done.append(piece)
                    continue
                size = max(1, int((stop - begin) * limit * 0.9 / price))
                parts = slices(text, begin, stop, size, clusters)
                if parts == [(begin, stop)]:  # one cluster that is too long
                    parts = slices(text, begin, stop, size, None)
                cut += parts
            prices = self._costs([text[begin:stop] for begin, stop in cut])
            todo = [(*span, price) for span, price in zip(cut, prices, strict=True)]
        return sorted(done, key=lambda unit: unit.start)

    def _priced(
        self, text: str, spans: Sequence[tuple[int, int]], clusters: Clusters
    ) -> list[tuple[int, int, int]]:
        whole = [span for span in clusters.whole(spans) if span[0] < span[1]]
        costs = self._costs([text[begin:stop] for begin, stop in whole])
        return [(*span, cost) for span, cost in zip(whole, costs, strict=True)]

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


def _without(
    spans: Sequence[tuple[int, int]], repeats: Sequence[tuple[int, int]]
) -> Iterator[list[tuple[int, int]]]:
    """Yield the runs of spans that lie between the repeated stretches."""
    run: list[tuple[int, int]] = []
    for span in spans:
        at = bisect_right(repeats, (span[0], 1 << 62)) - 1
        if at >= 0 and repeats[at][0] <= span[0] < repeats[at][1]:
            if run:
                yield run
            run = []
        else:
            run.append(span)
    if run:
        yield run


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
