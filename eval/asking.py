"""Asks many questions one after the other, survives faults of single ones, and can be resumed.

What was answered is kept in a file under home/eval, named by all that decides an answer: the
set's files, the settings and the program itself. A killed evaluation goes on from it; it is
removed when the evaluation is done. It measures nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import rag
from rag.config import Settings
from rag.errors import (
    AdapterMismatch,
    CheckpointError,
    EngineClosed,
    EvalDataError,
    MissingExtra,
    ModelError,
    PromptTooLong,
    QueryError,
    StorageBusy,
    StorageError,
)
from rag.schema import Answer, Citation
from rag.store.hold import hold

MAX_FAULTS = 10
"""So many faults of the model in a row end an evaluation: it is down, not the questions bad."""

_NOT_IN_KEY = {"home", "database_url", "host", "port", "workers", "log_content"}
_MODELS = ("generator_model", "generator_adapter", "embedder_model", "reranker_model")
_HOPELESS = (MissingExtra, CheckpointError, AdapterMismatch, EngineClosed)


@dataclass(frozen=True, slots=True)
class Case:
    """A question to be asked.

    Attributes:
        id: Unique within an evaluation.
        ask: Asks it.
    """

    id: str
    ask: Callable[[], Answer]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a question.

    Attributes:
        id: As in the case.
        answer: None if it failed.
        fault: Why it failed; "" if it did not.
        seconds: What asking took.
    """

    id: str
    answer: Answer | None
    fault: str = ""
    seconds: float = 0.0

    @property
    def given(self) -> Answer | None:
        """The answer, unless it failed or was refused."""
        return self.answer if self.answer is not None and not self.answer.refused else None


class Kept:
    """What was done before, by id, and what is done now. One writer at a time.

    Args:
        file: Open for reading and appending; None: nothing outlives the process.
    """

    def __init__(self, file: BinaryIO | None = None) -> None:
        self._file = file
        self._rows: dict[str, dict[str, Any]] = {}
        if file is not None:
            self._read(file)

    def get(self, id_: str) -> dict[str, Any] | None:
        """Return what was kept under an id; None if nothing was."""
        return self._rows.get(id_)

    def put(self, id_: str, row: Mapping[str, Any]) -> None:
        """Keep an object of JSON values under an id; it outlives a kill of the process.

        Raises:
            StorageError: If the file cannot be written.
        """
        self._rows[id_] = dict(row)
        if self._file is None:
            return
        try:
            self._file.write(json.dumps({"id": id_, "row": row}).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise StorageError(
                f"What was answered so far cannot be kept: {error.strerror}.",
                do="Make room in the home folder; the evaluation goes on from there.",
            ) from error

    def _read(self, file: BinaryIO) -> None:
        """Read whole lines; what a killed process left half written is cut off."""
        file.seek(0)
        sound = 0
        for line in file:
            try:
                entry = json.loads(line)
                id_, row = entry["id"], entry["row"]
            except (ValueError, KeyError, TypeError):
                break
            if not line.endswith(b"\n"):
                break
            self._rows[id_] = row
            sound += len(line)
        file.truncate(sound)
        file.seek(0, os.SEEK_END)


@contextmanager
def kept_answers(settings: Settings, key: str) -> Iterator[Kept]:
    """Open what an earlier, broken-off evaluation of the same kept; remove it at a regular end.

    Args:
        settings: For the home folder.
        key: See `evaluation_key`.

    Raises:
        StorageBusy: If another process runs the same evaluation.
        StorageError: If the home folder cannot be used.
    """
    folder = settings.home / "eval" / f"answers-{key}"
    lock = settings.locks_folder / f"eval-answers-{key}"
    try:
        for needed in (folder, settings.locks_folder):
            needed.mkdir(parents=True, exist_ok=True)
        held = hold(lock, alone=True)
        file = (folder / "answers.jsonl").open("a+b")
    except OSError as error:
        raise _unusable(folder, error) from error
    with file:
        if held is None:
            raise StorageBusy(
                "Another process runs the same evaluation.",
                do="Wait for it to end, or give another YOUJU_HOME.",
            )
        with held:
            yield Kept(file)
            try:
                shutil.rmtree(folder)
                lock.unlink(missing_ok=True)
            except OSError as error:
                raise _unusable(folder, error) from error


def _unusable(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{error.filename or folder} cannot be used: {error.strerror}.", do="Check home."
    )


def evaluation_key(settings: Settings, files: Iterable[Path], *more: str) -> str:
    """Return a name for all that decides the answers: set, settings, models and program.

    Of the models that the settings name, names, sizes and times of the files count.

    Args:
        settings: All but where things lie and the server's; secrets do not go in.
        files: Of the set.
        more: What else decides, such as an embedder's fingerprint.

    Raises:
        EvalDataError: If a file cannot be read.
    """
    values = settings.model_dump(mode="json", exclude=_NOT_IN_KEY)
    named = [getattr(settings, name) for name in _MODELS]
    models = [_stamps(Path(name)) for name in named if name]
    digest = hashlib.sha256(json.dumps([values, models, *more], sort_keys=True).encode())
    program = sorted(Path(rag.__file__).parent.rglob("*.py"))
    prompts = [Path(settings.prompt_file)] if settings.prompt_file else []
    for path in [*program, *prompts, *sorted(files)]:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise EvalDataError(f"Cannot read {path}: {error.strerror}.") from None
        digest.update(path.name.encode() + b"\0" + hashlib.sha256(content).digest())
    return digest.hexdigest()[:20]


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of a folder's files; [] if it is none, but a name on a hub."""
    try:
        found = [(path, path.stat()) for path in sorted(folder.rglob("*"))]
    except OSError:
        return []
    return [(path.name, stat.st_size, stat.st_mtime_ns) for path, stat in found]


def ask_all(
    cases: Sequence[Case],
    kept: Kept | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> list[Outcome]:
    """Ask every question, but those answered before.

    A question that its text or the model makes fail is an outcome without an answer; it is not
    kept: resuming asks it again.

    Args:
        cases: Ids unique.
        kept: Answers of a run that broke off, and of this one.
        progress: Called after each question with the number done.

    Returns:
        One outcome a case, in order.

    Raises:
        ValueError: If an id repeats.
        ModelError: If the model is not there, or fails MAX_FAULTS times in a row.
        StorageError: If a store or what is kept cannot be used.
    """
    if len({case.id for case in cases}) != len(cases):
        raise ValueError("an id repeats among the questions")
    kept = Kept() if kept is None else kept
    outcomes: list[Outcome] = []
    in_a_row = 0
    for done, case in enumerate(cases, 1):
        row = kept.get(case.id)
        if row is not None:
            outcomes.append(_outcome(case.id, row))
        else:
            begin = time.perf_counter()
            try:
                answer = case.ask()
            except (QueryError, PromptTooLong) as error:
                outcomes.append(Outcome(case.id, None, str(error), time.perf_counter() - begin))
            except ModelError as error:
                in_a_row += 1
                if isinstance(error, _HOPELESS) or in_a_row == MAX_FAULTS:
                    raise
                outcomes.append(Outcome(case.id, None, str(error), time.perf_counter() - begin))
            else:
                in_a_row = 0
                outcomes.append(Outcome(case.id, answer, "", time.perf_counter() - begin))
                kept.put(case.id, {"answer": asdict(answer), "seconds": outcomes[-1].seconds})
        progress(done)
    return outcomes


def _outcome(id_: str, row: Mapping[str, Any]) -> Outcome:
    stored = dict(row["answer"])
    stored["citations"] = tuple(Citation(**cited) for cited in stored["citations"])
    stored["unsupported"] = tuple(stored["unsupported"])
    return Outcome(id_, Answer(**stored), "", row["seconds"])
