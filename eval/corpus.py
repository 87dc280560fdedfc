r"""The texts that are searched: read from their file at every pass, one at a time in memory.

    NAME.jsonl    {"_id": ..., "title": ..., "text": ...}, title optional
    NAME.tsv      id and text, by a tab, without header
    *.parquet     a file or a folder of files with these columns, as the model hub has them
    a folder      of documents, ingested as the product does: its files are what is found

A first pass checks every line, sees which of the named texts are there, and holds of each id a hash
of eight bytes (twice at the end, when they are sorted), so that ten million texts fit.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from eval.jsonl import Digest, checked_id, file_lines, json_object, repeated, shown, string
from rag.errors import EvalDataError

_TEXTS = (
    'Expected a line {"_id", "title", "text"} for each text (BEIR layout), or id and text by a tab '
    "in a .tsv file."
)


@dataclass(frozen=True, slots=True)
class CorpusText:
    """A text to be found. `title` is "" where the set has none."""

    id: str
    title: str
    text: str


class Corpus(Protocol):
    """The texts of a set; each pass over it starts anew."""

    @property
    def sha256(self) -> str:
        """Hex digest of what it is made of: equal only if the texts are."""
        ...

    def __len__(self) -> int:
        """Texts, or documents."""
        ...

    def __iter__(self) -> Iterator[CorpusText]:
        """Yield the texts, always in the same order."""
        ...


@dataclass(frozen=True, slots=True)
class FileCorpus:
    """Texts that lie in a file, or in the .parquet files of a folder.

    Attributes:
        path: Where.
        count: Number of texts.
        sha256: Hex digest of the bytes, unpacked.
    """

    path: Path
    count: int
    sha256: str

    def __len__(self) -> int:
        """Texts."""
        return self.count

    def __iter__(self) -> Iterator[CorpusText]:
        """Yield the texts in file order.

        Raises:
            EvalDataError: If the file is no longer what it was.
        """
        digest = hashlib.sha256()
        for _, text in read_texts(self.path, digest):
            yield text
        if digest.hexdigest() != self.sha256:
            raise EvalDataError(f"{self.path} was changed while it was read.", do="Run it again.")


@dataclass(frozen=True, slots=True)
class HeldCorpus:
    """Texts in memory, each id once."""

    texts: tuple[CorpusText, ...]

    @property
    def sha256(self) -> str:
        """Hex digest of ids, titles and texts."""
        digest = hashlib.sha256()
        for text in self.texts:
            for part in (text.id, text.title, text.text):
                data = part.encode()
                digest.update(b"%d\n" % len(data) + data)
        return digest.hexdigest()

    def __len__(self) -> int:
        """Texts."""
        return len(self.texts)

    def __iter__(self) -> Iterator[CorpusText]:
        """Yield the texts."""
        return iter(self.texts)


@dataclass(frozen=True, slots=True)
class FolderCorpus:
    """Documents of a folder: they are ingested, and what is found of them counts for the file.

    Attributes:
        folder: Where, resolved.
        files: Names as the store has them.
        sha256: Hex digest of the folder's path, the names and the bytes.
    """

    folder: Path
    files: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        """Documents."""
        return len(self.files)

    def __iter__(self) -> Iterator[CorpusText]:
        """Yield the names; the texts are not known before the documents are parsed."""
        return (CorpusText(name, "", "") for name in self.files)


@dataclass(frozen=True, slots=True)
class Checked:
    """A corpus that has been read once.

    Attributes:
        corpus: The texts.
        present: Those of the wanted ids that are there.
        by_text: Wanted text -> the first id that has it, white space at the ends apart.
    """

    corpus: Corpus
    present: frozenset[str]
    by_text: Mapping[str, str]


def check_corpus(
    path: Path, wanted: Collection[str], wanted_texts: Collection[str] = frozenset()
) -> Checked:
    """Read a file of texts once, without keeping them.

    Args:
        path: As laid out above.
        wanted: Ids to look for.
        wanted_texts: Texts to look for.

    Raises:
        EvalDataError: If it cannot be read, a line is off, an id repeats, or there is no text.
    """
    digest = hashlib.sha256()
    ids, texts = frozenset(wanted), frozenset(wanted_texts)
    present: set[str] = set()
    by_text: dict[str, str] = {}
    hashes = array("q")
    for _, text in read_texts(path, digest):
        hashes.append(hash(text.id))
        if text.id in ids:
            present.add(text.id)
        if texts and (stripped := text.text.strip()) in texts:
            by_text.setdefault(stripped, text.id)
    if not hashes:
        raise EvalDataError(f"{path} holds no texts.", do=_TEXTS)
    _check_unique(path, hashes)
    corpus = FileCorpus(path, len(hashes), digest.hexdigest())
    return Checked(corpus, frozenset(present), by_text)


def check_folder(folder: Path, max_bytes: int) -> FolderCorpus:
    """List the documents of a folder, and read their bytes for the digest.

    Args:
        folder: Of documents.
        max_bytes: Larger files are refused, > 0.

    Raises:
        EvalDataError: If a file is refused or cannot be read.
        PathError: If there is no document.
    """
    from ingest.discover import discover

    found = discover([folder], max_bytes)
    if found.rejected:
        worst = found.rejected[0]
        raise EvalDataError(
            f"{len(found.rejected)} of the files in {folder} cannot be taken, among them "
            f"{worst.name}: {worst.error.message}",
            do="Mend or remove them: figures over the rest would mislead.",
        )
    digest = hashlib.sha256(f"{folder.resolve()}\n".encode(errors="surrogateescape"))
    for file in found.files:
        try:
            with file.path.open("rb") as handle:
                inner = hashlib.file_digest(handle, "sha256").hexdigest()
        except OSError as error:
            raise EvalDataError(f"Cannot read {file.path}: {error.strerror}.") from None
        digest.update(f"{file.name}\t{inner}\n".encode())
    names = tuple(file.name for file in found.files)
    return FolderCorpus(folder.resolve(), names, digest.hexdigest())


def read_texts(path: Path, digest: Digest | None = None) -> Iterator[tuple[str, CorpusText]]:
    """Yield the place and the text of every line; that an id occurs once is not looked at.

    Args:
        path: A .jsonl, .tsv or .parquet file, the first two also packed (.gz), or a folder of
            .parquet files.
        digest: Takes the bytes as they are read.

    Raises:
        EvalDataError: If it cannot be read or a line is off.
        MissingExtra: If what reads .parquet is not installed.
    """
    if path.suffix == ".parquet" or any(path.glob("*.parquet")):
        from eval.parquet import parquet_rows

        for at, row in parquet_rows(path, ("_id", "title", "text"), digest):
            yield at, _text(at, row)
    elif path.name.removesuffix(".gz").endswith(".tsv"):
        for at, line in file_lines(path, _TEXTS, digest):
            cells = line.split("\t")
            if len(cells) != 2:
                raise EvalDataError(
                    f"{at}: got {shown(line)}.", do="Expected id and text by a tab."
                )
            yield at, _text(at, {"_id": cells[0], "text": cells[1]})
    else:
        for at, line in file_lines(path, _TEXTS, digest):
            yield at, _text(at, json_object(at, line))


def _text(at: str, row: dict[str, object]) -> CorpusText:
    return CorpusText(
        checked_id(row, "_id", at), string(row, "title", at, ""), string(row, "text", at)
    )


def _check_unique(path: Path, hashes: array[int]) -> None:
    """Look for ids that repeat: by hash first, then by reading the few again."""
    import numpy as np

    ordered = np.sort(np.frombuffer(hashes, np.int64))
    suspects = frozenset(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    if not suspects:
        return
    seen: set[str] = set()
    for at, text in read_texts(path):
        if hash(text.id) in suspects:
            if text.id in seen:
                raise repeated(at, "_id", text.id)
            seen.add(text.id)
