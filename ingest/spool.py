"""What a job has finished so far, on disk, so that a killed one need not do it again.

Each job has a folder of its own below HOME/jobs, for its user alone, removed when the job ends.
Files appear whole, by renaming. Nothing here is needed: what is missing or torn is done again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rag.errors import StorageError
from rag.schema import Document, FloatArray, Passage, Span
from rag.store.database import disk_error

PROGRESS = "progress.json"
REQUEST = "request.json"
_STATE = "state.json"
_DOCUMENT = "document.json"
_PASSAGES = "passages.json"


class Spool:
    """The folder of one job.

    Args:
        root: HOME/jobs.
        job_id: Letters, digits, "-", "_" and ".", not beginning with a dot.
    """

    def __init__(self, root: Path, job_id: str) -> None:
        self.job_id = job_id
        self.folder = root / job_id

    # -- who has it in hand --------------------------------------------------------------------

    def deaths(self, me: str = "") -> int:
        """Return how many processes died while they had the job in hand.

        Args:
            me: Who asks, which is not dead.
        """
        state = self.read(_STATE) or {}
        return _number(state.get("deaths")) + (state.get("holder", "") not in ("", me))

    def take(self, holder: str) -> int:
        """Note who has the job in hand; return how many died with it before.

        Args:
            holder: `ingest.executors.Slot.run` of the process.

        Raises:
            StorageError: If the folder cannot be written.
        """
        deaths = self.deaths(holder)
        self._change_state(holder=holder, deaths=deaths)
        return deaths

    def put_down(self) -> None:
        """Note that nobody has the job in hand.

        Raises:
            StorageError: If the folder cannot be written.
        """
        self._change_state(holder="")

    def holder(self) -> str:
        """Return who has the job in hand, or had when it died; "" for nobody."""
        return str((self.read(_STATE) or {}).get("holder", ""))

    def owner(self) -> str:
        """Return the slot of the `holder`; "" for nobody."""
        return self.holder().rpartition(".")[0]

    def tries(self) -> int:
        """Return how often the job has been put off."""
        return _number((self.read(_STATE) or {}).get("tries"))

    def put_off(self) -> None:
        """Count that the job was put off, and put it down.

        Raises:
            StorageError: If the folder cannot be written.
        """
        self._change_state(holder="", tries=self.tries() + 1)

    def inherit(self, earlier: Spool) -> None:
        """Take over what an earlier attempt at the same job has left, if it left anything."""
        if earlier.folder.is_dir() and not self.folder.exists():
            try:
                os.replace(earlier.folder, self.folder)
            except OSError:  # then it is done again
                return

    def _change_state(self, **values: object) -> None:
        self.write(_STATE, {**(self.read(_STATE) or {}), **values})

    # -- what is done --------------------------------------------------------------------------

    def keyed(self, key: dict[str, Any]) -> None:
        """Drop what was made from other bytes or with other settings than `key` says.

        Raises:
            StorageError: If the folder cannot be written.
        """
        if self.read("key.json") == key:
            return
        for path in [*self.folder.glob("vectors-*"), self.folder / _DOCUMENT]:
            path.unlink(missing_ok=True)
        (self.folder / _PASSAGES).unlink(missing_ok=True)
        self.write("key.json", key)

    def keep_document(self, document: Document) -> None:
        """Keep a parsed document.

        Raises:
            StorageError: If the folder cannot be written.
        """
        self.write(_DOCUMENT, asdict(document))

    def document(self) -> Document | None:
        """Return the parsed document, None if it is not there whole."""
        fields = self.read(_DOCUMENT)
        if fields is None:
            return None
        try:
            return Document(
                text=fields["text"],
                title=fields["title"],
                pages=tuple(Span(**span) for span in fields["pages"]),
                sections=tuple(Span(**span) for span in fields["sections"]),
                media_type=fields["media_type"],
                warnings=tuple(fields["warnings"]),
            )
        except (KeyError, TypeError):
            return None

    def keep_passages(self, passages: list[Passage]) -> None:
        """Keep the passages of the document.

        Raises:
            StorageError: If the folder cannot be written.
        """
        rows = [[one.start, one.end, one.context, one.page] for one in passages]
        self.write(_PASSAGES, {"passages": rows})

    def passages(self, document: Document) -> list[Passage] | None:
        """Return the passages, None if they are not there whole."""
        found = self.read(_PASSAGES)
        if found is None:
            return None
        try:
            return [
                Passage(start, end, document.text[start:end], context, page)
                for start, end, context, page in found["passages"]
            ]
        except (KeyError, TypeError, ValueError):
            return None

    def keep_vectors(self, number: int, vectors: FloatArray) -> None:
        """Keep one slice of the vectors.

        Raises:
            StorageError: If the folder cannot be written.
        """
        path = self.folder / f"vectors-{number:05}.npy"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = path.with_suffix(".new")
            with draft.open("wb") as handle:
                np.save(handle, vectors, allow_pickle=False)
            os.replace(draft, path)
        except OSError as error:
            raise disk_error(error, path) from error

    def vectors(self, number: int, shape: tuple[int, int]) -> FloatArray | None:
        """Return one slice of the vectors, None if it is not there whole."""
        try:
            with (self.folder / f"vectors-{number:05}.npy").open("rb") as handle:
                found: FloatArray = np.load(handle, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return found if found.shape == shape and found.dtype == np.float32 else None

    # -- files ---------------------------------------------------------------------------------

    def read(self, name: str) -> dict[str, Any] | None:
        """Return a JSON object, None if it is not there whole."""
        try:
            found = json.loads((self.folder / name).read_bytes())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Write a JSON object; the folder is made if missing.

        Raises:
            StorageError: If the folder cannot be written.
        """
        path = self.folder / name
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft = path.with_suffix(".new")
            draft.write_text(json.dumps(value, separators=(",", ":")), encoding="ascii")
            os.replace(draft, path)
        except OSError as error:
            raise disk_error(error, path) from error

    def remove(self) -> None:
        """Remove the folder and all in it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def spools(root: Path) -> Iterator[Spool]:
    """Yield the spools that there are, by name."""
    try:
        names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    except OSError:
        return
    for name in names:
        yield Spool(root, name)


def note_progress(spool: Spool, **values: object) -> None:
    """Say how far a job is; a disk that is full now must not end the job."""
    try:
        spool.write(PROGRESS, {"at": time.time(), **values})
    except StorageError:
        return


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0
