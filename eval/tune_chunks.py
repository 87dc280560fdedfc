"""A folder of documents as the texts of a test set, cut in any way that is asked for.

A text of the set is found in the documents by its id, if that is a file's name, else by its words.
A passage stands for the texts that it shares at least half of the shorter of the two with. Parsing
is done once; each way of cutting is a store of its own under home/eval, kept for the next run.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from eval.data import CorpusText, RetrievalSet
from ingest.job import ingest_paths, make_chunker
from ingest.pipeline import embed_documents
from rag.build import OpenStore, Rag, in_folder
from rag.config import Settings
from rag.errors import EvalDataError
from rag.schema import Chunk
from rag.store.corpus import Store
from rag.terminal import Advance, Progress

_AT_ONCE = 32  # documents embedded and committed together


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    """Where a text of the set lies in a document."""

    start: int
    end: int
    text_id: str


class CutCorpus:
    """The documents of a folder, and where in them the texts of a set lie.

    Args:
        rag: The parts, and the settings in force, by which the documents are cut first.
        folder: The documents.
        data: The set; each text that is judged relevant must be found.
        progress: Called while files are parsed and passages embedded.

    Raises:
        EvalDataError: If a file is refused, or judged texts are not found.
        PathError: If the folder is missing or holds no documents.
        ModelError, StorageError: As ingestion does.
    """

    def __init__(
        self, rag: Rag, folder: Path, data: RetrievalSet, progress: Advance = lambda _progress: None
    ) -> None:
        made_of = f"{folder.resolve()}\n{rag.embedder.fingerprint}"
        self._folder = (
            rag.settings.home / "eval" / hashlib.sha256(made_of.encode()).hexdigest()[:20]
        )
        self._base = rag.settings
        self._progress = progress
        with self._beside(rag, rag.settings) as beside:
            report = ingest_paths(
                beside, _store_name(self._base), [folder], prune=True, progress=progress
            )
            if report.rejected:
                worst = report.rejected[0]
                raise EvalDataError(
                    f"{len(report.rejected)} files of {folder} cannot be ingested, among them "
                    f"{worst.name}: {worst.message}",
                    do="Mend or remove them: figures over the rest would mislead.",
                )
            store = beside.catalog.get(_store_name(self._base))
            self.sha256 = hashlib.sha256(repr(sorted(store.hashes().items())).encode()).hexdigest()
            self._places = _found_texts(store, data)

    @contextmanager
    def opened(self, rag: Rag) -> Iterator[OpenStore]:
        """Open the store of the documents cut as the settings of `rag` say, filled if it is new.

        Raises:
            ModelError: If the embedder fails.
            StorageError: If the home folder cannot be used or is full.
        """
        with self._beside(rag, rag.settings) as beside:
            store = self._filled(beside)
            opened = OpenStore(beside, store)
            opened.dense.save()
            yield opened

    def names_of(self, chunk: Chunk) -> Sequence[str]:
        """Return the ids of the texts that a passage stands for, by their places."""
        return [
            place.text_id
            for place in self._places.get(chunk.file, ())
            if 2 * (min(place.end, chunk.end) - max(place.start, chunk.start))
            >= min(place.end - place.start, chunk.end - chunk.start)
        ]

    @contextmanager
    def _beside(self, rag: Rag, settings: Settings) -> Iterator[Rag]:
        beside = in_folder(with_settings(rag, settings), self._folder)
        with closing(beside.db):
            yield beside

    def _filled(self, beside: Rag) -> Store:
        """Return the store of one way of cutting; what an earlier run stored is not done again."""
        base = beside.catalog.get(_store_name(self._base))
        chunker = make_chunker(beside)
        store = beside.writable(_store_name(beside.settings), chunker.fingerprint)
        wanted, held = base.hashes(), store.hashes()
        gone = [name for name in held if held[name] != wanted.get(name)]
        if gone:
            store.delete(gone)
        infos = [info for info in base.documents() if held.get(info.name) != info.sha256]
        for first in range(0, len(infos), _AT_ONCE):
            group = infos[first : first + _AT_ONCE]
            self._progress(Progress(first, len(infos), f"cutting at {chunker.fingerprint}"))
            documents = [base.document(info.name) for info in group]
            passages = [chunker.split(document) for document in documents]
            store.commit(embed_documents(beside.embedder, group, documents, passages))
        return store


def with_settings(rag: Rag, settings: Settings) -> Rag:
    """Return the same parts under other settings that do not concern them."""
    other = Rag(settings)
    other.embedder, other.analyzer, other.reranker = rag.embedder, rag.analyzer, rag.reranker
    return other


def _store_name(settings: Settings) -> str:
    return f"cut {settings.chunk_tokens} {settings.chunk_overlap}"


def _found_texts(store: Store, data: RetrievalSet) -> dict[str, list[_Place]]:
    """Return for each document the places of the texts that are judged relevant."""
    relevant = {id_ for grades in data.qrels.values() for id_, grade in grades.items() if grade}
    texts = [text for text in data.corpus if text.id in relevant]
    missing = {text.id for text in texts}
    places: dict[str, list[_Place]] = defaultdict(list)
    for info in store.documents():
        document = store.document(info.name).text
        searched = _Searched(document)
        for text in texts:
            if text.id in {info.name, Path(info.name).name, Path(info.name).stem}:
                span: tuple[int, int] | None = (0, len(document))
            else:
                span = searched.find(text)
            if span is not None:
                places[info.name].append(_Place(*span, text.id))
                missing.discard(text.id)
    if missing:
        raise EvalDataError(
            f"{len(missing)} of {len(texts)} judged texts are neither a file of the corpus by name "
            f"nor found in one, among them {min(missing)!r:.80}.",
            do="Give the --corpus whose files the set names, or of which it holds passages.",
        )
    return {name: sorted(found) for name, found in places.items()}


class _Searched:
    """A document without its white space, in which texts are looked up."""

    def __init__(self, document: str) -> None:
        self._pieces: list[str] = document.split()
        self._starts: list[int] = []  # of each piece in the document
        self._folded_starts: list[int] = []
        place = folded = 0
        for piece in self._pieces:
            place = document.index(piece, place)
            self._starts.append(place)
            self._folded_starts.append(folded)
            place += len(piece)
            folded += len(piece)
        self._folded = "".join(self._pieces)

    def find(self, text: CorpusText) -> tuple[int, int] | None:
        """Return the first place that holds the text, white space aside, or None."""
        wanted = "".join(text.text.split())
        at = self._folded.find(wanted) if wanted else -1
        if at < 0:
            return None
        return self._unfolded(at), self._unfolded(at + len(wanted) - 1) + 1

    def _unfolded(self, at: int) -> int:
        piece = bisect_left(self._folded_starts, at + 1) - 1
        return self._starts[piece] + at - self._folded_starts[piece]
