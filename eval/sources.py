"""What `--corpus` names: a file of texts, a folder that holds one, or a folder of documents."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from eval.corpus import Checked, check_corpus, check_folder
from rag.errors import EvalDataError


@dataclass(frozen=True, slots=True)
class TextSource:
    """Texts to be searched.

    Attributes:
        path: A .jsonl or .tsv file (also .gz) or .parquet; a folder with a corpus.jsonl; or a
            folder of documents.
        max_bytes: Larger documents are refused, > 0.
    """

    path: Path
    max_bytes: int

    def read(self, wanted: Collection[str]) -> Checked:
        """Read it once and say which of the ids, or whole texts, `wanted` are there.

        Raises:
            EvalDataError: If it is missing or not as it should be.
            PathError: If a folder holds no document.
        """
        if not self.path.exists():
            raise EvalDataError(f"There is no {self.path}.", do="Give --corpus a file or a folder.")
        for name in ("corpus.jsonl", "corpus.jsonl.gz"):
            if (self.path / name).is_file():
                return check_corpus(self.path / name, wanted, _stripped(wanted))
        if self.path.is_file() or any(self.path.glob("*.parquet")):
            return check_corpus(self.path, wanted, _stripped(wanted))
        folder = check_folder(self.path, self.max_bytes)
        return Checked(folder, frozenset(wanted) & frozenset(folder.files), {})


def _stripped(texts: Collection[str]) -> frozenset[str]:
    return frozenset(text.strip() for text in texts)
