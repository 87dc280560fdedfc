"""Runs in TREC format: one line a hit, `query Q0 text rank score tag`, separated by spaces.

The format has no way to write an id that holds white space; such an id is refused. The score
column falls by 1 from rank to rank: readers order a run by score, and trec_eval orders equal
scores by id, so that real scores with ties would come back in another order than the system's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.files import write_whole
from eval.jsonl import file_lines
from eval.metrics import explicit_scores
from rag.errors import EvalDataError, PathError


def check_ids(ids: Iterable[str]) -> None:
    """Refuse ids that a TREC run cannot hold.

    Raises:
        EvalDataError: If one is empty or holds white space.
    """
    for id_ in ids:
        if id_.split() != [id_]:
            raise EvalDataError(
                f"A TREC run cannot hold the id {id_!r:.80}: it has white space.",
                do="Leave out --save-run, or rename the id in the set.",
            )


def write_run(path: Path, run: Mapping[str, Sequence[str]], tag: str) -> None:
    """Write a run; the file appears whole or not at all.

    Args:
        path: Replaced if it exists.
        run: Query id -> text ids, best first.
        tag: Name of the system, without white space.

    Raises:
        EvalDataError: If an id or the tag holds white space.
        PathError: If the file cannot be written.
    """
    check_ids([tag, *run])
    lines = []
    for query, ranking in run.items():
        check_ids(ranking)
        for rank, (text, score) in enumerate(explicit_scores(ranking).items(), start=1):
            lines.append(f"{query} Q0 {text} {rank} {score:.0f} {tag}\n")
    write_whole(path, lines)


@dataclass(frozen=True, slots=True)
class Run:
    """A run that was read.

    Attributes:
        rankings: Query id -> text ids, best first.
        tag: What the first line calls the system; "" of an empty run.
    """

    rankings: Mapping[str, list[str]]
    tag: str


def read_run(path: Path) -> dict[str, list[str]]:
    """Return query id -> text ids, best first; see `read_tagged_run`."""
    return dict(read_tagged_run(path).rankings)


def read_tagged_run(path: Path) -> Run:
    """Read a run as trec_eval does: by score, ties by id.

    Scores are compared as 32-bit numbers, which is what trec_eval keeps of them; of equal ones the
    greater id (in code point order) comes first. The rank column is ignored.

    Raises:
        PathError: If the file cannot be read.
        EvalDataError: If a line is not UTF-8, has not six columns or its score is no number, or a
            query repeats a text.
    """
    try:
        path.open("rb").close()
    except OSError as error:
        raise PathError(f"Cannot read {path}: {error.strerror}.") from None
    scores: dict[str, dict[str, float]] = {}
    first_tag = ""
    for at, line in file_lines(path, "Expected a TREC run."):
        try:
            query, _, text, _, score, tag = line.split()
            value = ctypes.c_float(float(score)).value
            if value != value or text in scores.get(query, {}):
                raise ValueError
        except ValueError:
            raise EvalDataError(
                f"{at}: got {line!r:.80}.",
                do="Expected `query Q0 text rank score tag`, each text once a query.",
            ) from None
        first_tag = first_tag or tag
        scores.setdefault(query, {})[text] = value
    rankings = {
        query: sorted(found, key=lambda text: (found[text], text), reverse=True)
        for query, found in scores.items()
    }
    return Run(rankings, first_tag)
