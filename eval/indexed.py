"""A test set's texts in the product's own store and indexes, kept for the next run.

Each text of the set is one passage, title as context, as the set's authors cut it; the embedder
reads as much of it as it can. A folder of documents is ingested as the product does. The store
lies in a folder of its own under home/eval, named by what went into it, so that the next system on
the same set finds it ready; it is safe to delete.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path

import numpy as np

from eval.corpus import CorpusText, FolderCorpus
from eval.data import RetrievalSet
from rag.build import OpenStore, Rag, in_folder
from rag.errors import EvalDataError
from rag.schema import Document, FloatArray, Passage
from rag.store.changelog import NewDocument
from rag.store.corpus import Store
from rag.terminal import Progress

_STORE = "corpus"
_TEXTS_AT_ONCE = 512
_NO_VECTORS = "none"


@contextmanager
def opened_set(
    rag: Rag,
    data: RetrievalSet,
    progress: Callable[[Progress], None] = lambda _progress: None,
    *,
    with_vectors: bool = True,
) -> Iterator[OpenStore]:
    """Open the store that holds a set's texts, indexed now if no earlier run did it.

    Args:
        rag: The parts and settings to measure; its own stores are not touched.
        data: The set.
        progress: Called before each batch of texts.
        with_vectors: False embeds nothing: only "bm25" can search then. Documents of a folder
            are embedded all the same.

    Raises:
        EvalDataError: If the texts are no longer what they were, or a document cannot be ingested.
        ModelError: If the embedder fails.
        StorageError: If the home folder cannot be used or is full.
    """
    beside = in_folder(rag, set_folder(rag, data, with_vectors=with_vectors))
    with closing(beside.db):
        if isinstance(data.corpus, FolderCorpus):
            opened = OpenStore(beside, _ingested(beside, data.corpus, progress))
        else:
            opened = OpenStore(beside, _filled(beside, data, with_vectors, progress))
        if with_vectors:
            opened.dense.save()
        yield opened


def set_folder(rag: Rag, data: RetrievalSet, *, with_vectors: bool) -> Path:
    """Return where a set's store lies, whether it is there yet or not."""
    made_of = data.corpus.sha256
    if isinstance(data.corpus, FolderCorpus):
        from ingest.job import make_chunker

        made_of += f"\n{rag.embedder.fingerprint}\n{make_chunker(rag).fingerprint}"
    else:
        made_of += f"\n{rag.embedder.fingerprint if with_vectors else _NO_VECTORS}"
    return rag.settings.home / "eval" / hashlib.sha256(made_of.encode()).hexdigest()[:20]


def index_bytes(beside: Path, store: Store) -> dict[str, int]:
    """Return the size of the files of each index, bytes; 0 for one that is not there.

    Args:
        beside: Folder of the set's store, as `set_folder` names it.
        store: The store.
    """
    folder = beside / "indexes" / store.id
    dense = folder / "dense.safetensors"
    lexical = [path for path in (folder / "lexical").rglob("*") if path.is_file()]
    return {
        "dense": dense.stat().st_size if dense.is_file() else 0,
        "lexical": sum(path.stat().st_size for path in lexical),
    }


def _ingested(rag: Rag, corpus: FolderCorpus, progress: Callable[[Progress], None]) -> Store:
    from ingest.job import ingest_paths

    report = ingest_paths(rag, _STORE, [corpus.folder], progress=progress)
    if report.rejected:
        worst = report.rejected[0]
        raise EvalDataError(
            f"{len(report.rejected)} of the corpus's files cannot be ingested, among them "
            f"{worst.name}: {worst.message}",
            do="Mend or remove them: figures over the rest would mislead.",
        )
    return rag.catalog.get(_STORE)


def _filled(
    rag: Rag, data: RetrievalSet, with_vectors: bool, progress: Callable[[Progress], None]
) -> Store:
    """Return the store that holds every text; what an earlier run stored is not done again.

    Texts are stored in their order, so that those held are the first ones.
    """
    store = rag.catalog.create(
        _STORE,
        embedder=rag.embedder.fingerprint if with_vectors else _NO_VECTORS,
        dim=rag.embedder.dim if with_vectors else 1,
        chunker="one passage a text",
    )
    held = next(info.documents for info in rag.catalog.stores() if info.name == _STORE)
    missing = len(data.corpus) - held
    if missing <= 0:
        return store
    left = islice(data.corpus, held, None)
    done = 0
    while texts := list(islice(left, _TEXTS_AT_ONCE)):
        progress(Progress(done, missing, "indexing"))
        passages = [Passage(0, len(text.text), text.text, text.title) for text in texts]
        vectors: FloatArray = np.ones((len(texts), 1), np.float32)
        if with_vectors:
            vectors = rag.embedder.encode_passages([item.indexed_text for item in passages])
        store.commit(_documents(texts, passages, vectors))
        done += len(texts)
    return store


def _documents(
    texts: Sequence[CorpusText], passages: Sequence[Passage], vectors: FloatArray
) -> list[NewDocument]:
    return [
        NewDocument(
            name=text.id,
            root="",
            sha256=hashlib.sha256(passage.indexed_text.encode()).hexdigest(),
            size=len(text.text.encode()),
            document=Document(text=text.text, title=text.title),
            passages=[passage],
            vectors=vectors[row : row + 1],
        )
        for row, (text, passage) in enumerate(zip(texts, passages, strict=True))
    ]
