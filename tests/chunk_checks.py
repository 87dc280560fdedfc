"""What must hold for the passages of every document, whatever its text."""

from __future__ import annotations

import regex

from ingest.chunk import Chunker
from ingest.repeats import repeated_paragraphs
from rag.embed.packaged import packaged_model
from rag.embed.tokens import TokenizerTokens
from rag.protocols import Tokens
from rag.schema import Document, Passage


def packaged_tokens() -> TokenizerTokens:
    """The packaged embedder's own tokenizer."""
    model = packaged_model()
    return TokenizerTokens(model.folder / "tokenizer.json", model.max_tokens)


def check_passages(
    document: Document, chunker: Chunker, tokens: Tokens, *, longest_cluster: int
) -> list[Passage]:
    """Split, and check offsets, order, limits, coverage and that no grapheme cluster is cut.

    A text with a cluster of more than `longest_cluster` characters may have one cut.
    """
    text = document.text
    passages = chunker.split(document)
    ends = [match.end() for match in regex.finditer(r"\X", text)]
    longest = max((end - start for start, end in zip([0, *ends], ends, strict=False)), default=0)
    clusters = {0, *ends}
    covered = bytearray(len(text))
    previous = -1
    counts = tokens.count([passage.indexed_text for passage in passages])
    for passage, count in zip(passages, counts, strict=True):
        assert passage.text == text[passage.start : passage.end]
        assert not passage.text[-1].isspace() or passage.end - 1 not in clusters
        assert not passage.text[0].isspace() or passage.start + 1 not in clusters
        assert previous < passage.start < passage.end <= len(text)
        assert count <= tokens.max_tokens - 2
        assert {passage.start, passage.end} <= clusters or longest > longest_cluster
        previous = passage.start
        covered[passage.start : passage.end] = b"\1" * len(passage.text)
    for start, end in repeated_paragraphs(document):
        copy = " ".join(text[start:end].split())
        assert copy in " ".join(text[:start].split())
        covered[start:end] = b"\1" * (end - start)
    assert all(covered[index] or char.isspace() for index, char in enumerate(text))
    assert passages == chunker.split(document)
    return passages
