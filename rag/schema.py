"""The values that travel between the parts: documents, chunks, hits, citations, answers.

All are frozen and know nothing of storage, models or HTTP. Offsets count Python characters
(Unicode code points) into the parsed text of a file; `end` is exclusive; pages count from 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.int64]
Ranking: TypeAlias = list[tuple[int, float]]
"""(chunk id, score) pairs, best first, ids unique."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a parsed text that carries a label: a page number or a heading.

    Attributes:
        start: First character, >= 0.
        end: One past the last character, >= start.
        label: The page number as a string, or the section path ("Safety > Lock-out").
    """

    start: int
    end: int
    label: str


@dataclass(frozen=True, slots=True)
class Document:
    """One parsed file.

    Attributes:
        text: The parsed text; every offset in the project counts into it.
        title: What the file calls itself (metadata or first heading); "" if nothing does.
        pages: Page spans in order, empty where the format has no pages.
        sections: Heading spans in order, not nested; label is the path joined by " > ".
        media_type: For example "application/pdf".
        warnings: Plain sentences for the user, for example "page 3 holds no text".
    """

    text: str
    title: str = ""
    pages: tuple[Span, ...] = ()
    sections: tuple[Span, ...] = ()
    media_type: str = "text/plain"
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of a document that is about to be indexed (it has no id yet).

    Attributes:
        start, end: Its place in the document's text.
        text: Exactly document.text[start:end].
        context: Title and section path, read by the embedder and the lexical index beside
            the text, never quoted as source text.
        page: The page on which it starts, from 1; None where the format has no pages.
    """

    start: int
    end: int
    text: str
    context: str = ""
    page: int | None = None

    @property
    def indexed_text(self) -> str:
        """What embedders and lexical indexes read: context, newline, text."""
        return f"{self.context}\n{self.text}" if self.context else self.text


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stored passage.

    Attributes:
        id: Unique in the database, never reused, > 0.
        file: The file's name in its store (a relative path with "/").
        start, end: Its place in the file's parsed text.
        text: Exactly that stretch.
        context: Title and section path, "" if none.
        page: The page on which it starts, from 1, or None.
        file_id: The file's id, which is the same in every store; "" where there is none.
    """

    id: int
    file: str
    start: int
    end: int
    text: str
    context: str = ""
    page: int | None = None
    file_id: str = ""

    @property
    def indexed_text(self) -> str:
        """What embedders and lexical indexes read: context, newline, text."""
        return f"{self.context}\n{self.text}" if self.context else self.text


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk found for a query.

    Attributes:
        chunk: The passage.
        score: Higher is better. Fused scores lie in [0, 1]; a reranker's have its own range.
        bm25: The lexical score (>= 0), None where the lexical side did not return the chunk.
        cosine: The dense score in [-1, 1], None where the dense side did not return it.
    """

    chunk: Chunk
    score: float
    bm25: float | None = None
    cosine: float | None = None


@dataclass(frozen=True, slots=True)
class Citation:
    """A checked pointer into a source: the file's parsed text[start:end] equals `quote`.

    Attributes:
        file: The file's name in its store.
        page: The page on which the quote starts, from 1, or None.
        start, end: Characters into the file's parsed text.
        quote: Exactly that stretch.
        score: How well the quote supports the answer, in [0, 1].
        file_id: The file's id; "" where there is none.
    """

    file: str
    page: int | None
    start: int
    end: int
    quote: str
    score: float
    file_id: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question got.

    Attributes:
        text: The answer with its [n] marks (n counts citations from 1), or, when refused,
            one sentence in the question's language.
        refused: True when the documents hold no sufficient evidence; citations are then empty.
        citations: In the order of their marks.
        unsupported: Sentences of a generated answer that no passage supports; always empty
            for the extractive answerer.
        confidence: The evidence score compared with the refusal threshold, in [0, 1].
        timings: Seconds by step, for example {"retrieve": 0.02, "generate": 0.01}.
        tokens: Token counts where the generator reports them ("input", "output").
        dropped: Passages that were found but not shown to the generator, the last ones, because
            its prompt had no room for them.
        finish: "length" if a generated answer was cut off at its token limit.
    """

    text: str
    refused: bool
    citations: tuple[Citation, ...] = ()
    unsupported: tuple[str, ...] = ()
    confidence: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    dropped: int = 0
    finish: Literal["stop", "length"] = "stop"
