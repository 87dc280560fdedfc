"""What a tuning run found, how sure its gain is, and the settings file made of it.

The interval is of the mean of paired differences: the same queries are scored under both settings,
and queries are drawn again with replacement (Efron 1979; percentile bootstrap).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.files import write_whole
from eval.tune_space import Value, default_of
from rag.errors import PathError
from rag.terminal import one_line

HEADER = "# Written by `youju eval tune`."
"""First line of a settings file; a file that begins otherwise is never overwritten."""

_DRAWS_AT_ONCE = 4_000_000


@dataclass(frozen=True, slots=True)
class Gain:
    """Mean of paired differences, and its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether the whole interval lies above 0."""
        return self.low > 0

    def to_json(self) -> dict[str, float | bool]:
        """Return the three numbers and whether they show a gain."""
        numbers = (round(number, 5) for number in (self.mean, self.low, self.high))
        return {**dict(zip(("mean", "low", "high"), numbers, strict=True)), "shown": self.shown}

    def __str__(self) -> str:
        return f"{self.mean:+.4f}, 95 % interval {self.low:+.4f} to {self.high:+.4f}"


@dataclass(frozen=True, slots=True)
class TuneReport:
    """What a tuning run found.

    Attributes:
        data: Name of the set's folder.
        metric: What was maximised, in [0, 1].
        tune_queries, held_out_queries: Sizes of the two halves.
        trials: Trials scored so far, those of earlier runs of the same study included.
        stopped: Ended by Ctrl-C before all trials were done.
        start: The tuned settings as they were, where they have an effect.
        best: Those of the best trial of the tune half; `start` if none was better.
        tune: (start, best) on the tune half.
        held_out: (start, best) on the held-out half, which the search never saw.
        tune_gain, held_out_gain: Of best over start on each half. The best of many trials is
            flattered by the tune half, which chose it, but not by the held-out one.
        left_out: Setting -> why it was not tuned.
        embedder: Fingerprint.
        study: The file that holds the trials.
        seconds: Wall clock of this run's trials.
    """

    data: str
    metric: str
    tune_queries: int
    held_out_queries: int
    trials: int
    stopped: bool
    start: Mapping[str, Value]
    best: Mapping[str, Value]
    tune: tuple[float, float]
    held_out: tuple[float, float]
    tune_gain: Gain
    held_out_gain: Gain
    left_out: Mapping[str, str]
    embedder: str
    study: Path
    seconds: float

    @property
    def taken(self) -> bool:
        """Whether the best trial is recommended, which the tune half alone decides."""
        return self.best != self.start and self.tune_gain.shown

    @property
    def changes(self) -> dict[str, Value]:
        """What of the best trial differs from the program's defaults."""
        return {name: value for name, value in self.best.items() if value != default_of(name)}

    @property
    def verdict(self) -> str:
        """What to make of it, in a sentence or two."""
        if self.best == self.start:
            return "No trial was better than the settings in force: keep them."
        shown = (
            "The gain is shown: its whole interval lies above 0."
            if self.held_out_gain.shown
            else "The gain is not shown: its interval reaches down to 0 or below."
        )
        if self.taken:
            return shown
        return f"{shown} On the tune half it is not shown: keep the settings in force."

    def to_json(self) -> dict[str, Any]:
        """Return what `youju eval tune --json` prints; its keys are part of the interface."""
        return {
            "data": self.data,
            "metric": self.metric,
            "queries": {"tune": self.tune_queries, "held_out": self.held_out_queries},
            "trials": self.trials,
            "stopped": self.stopped,
            "start": dict(self.start),
            "best": dict(self.best),
            "tune": _pair(self.tune),
            "held_out": _pair(self.held_out),
            "tune_gain": self.tune_gain.to_json(),
            "held_out_gain": self.held_out_gain.to_json(),
            "taken": self.taken,
            "left_out": dict(self.left_out),
            "study": str(self.study),
            "seconds": round(self.seconds, 3),
        }


def paired_gain(differences: Sequence[float], seed: int, draws: int = 10_000) -> Gain:
    """Return the mean of paired differences with its 95 % percentile bootstrap interval.

    Args:
        differences: New minus old score of each query, at least one.
        seed: Of the draws, >= 0: the same gives the same interval.
        draws: Times that the queries are drawn again, >= 1.

    Returns:
        low <= high; both lie between the least and the greatest difference.

    Raises:
        ValueError: If there is no difference, or draws < 1.
    """
    if not differences or draws < 1:
        raise ValueError(f"got {len(differences)} differences, {draws} draws, expected 1 or more")
    values = np.array(differences, np.float64)
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_AT_ONCE // len(values))
    means: list[NDArray[np.float64]] = []
    for first in range(0, draws, at_once):
        size = (min(at_once, draws - first), len(values))
        means.append(values[generator.integers(0, len(values), size)].mean(axis=1))
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975]).tolist()
    return Gain(float(values.mean()), low, high)


def settings_file(report: TuneReport) -> str:
    """Return a settings file with what differs from the defaults, and what was measured.

    What is not recommended stands in it as comments.
    """
    start, best = report.held_out
    lines = [
        HEADER,
        f"# Set {_one_line(report.data)}: {report.metric} of {report.held_out_queries} held-out "
        "queries:",
        f"# {start:.4f} before, {best:.4f} with these settings; gain {report.held_out_gain}.",
        f"# {report.verdict}",
        f"# {report.trials} trials on {report.tune_queries} other queries: {report.tune[0]:.4f} "
        f"before, {report.tune[1]:.4f} with these; gain {report.tune_gain}.",
        f"# Embedder: {_one_line(report.embedder)}. Other settings were as then in force.",
    ]
    if report.changes.keys() & {"chunk_tokens", "chunk_overlap"}:
        lines.append("# Stores that exist must be cut anew: youju reindex --store NAME")
    if not report.changes:
        lines.append("# Nothing differs from the defaults.")
    mark = "" if report.taken else "# "
    lines += [f"{mark}{name} = {_toml(value)}" for name, value in report.changes.items()]
    return "\n".join(lines) + "\n"


def check_out(path: Path) -> None:
    """Refuse a settings file that could not be written, before hours are spent.

    Raises:
        PathError: If its folder is missing, or it exists and is not of an earlier run.
    """
    if not path.absolute().parent.is_dir():
        raise PathError(f"Cannot write {path}: no such folder.", do="Give --out another name.")
    if not path.exists():
        return
    try:
        with path.open(encoding="utf-8") as handle:
            own = handle.readline().rstrip("\n") == HEADER
    except (OSError, UnicodeDecodeError):
        own = False
    if not own:
        raise PathError(
            f"{path} exists and was not written by `youju eval tune`.",
            do="Give --out another name, and copy what you want from it.",
        )


def write_out(path: Path, text: str) -> None:
    """Write a settings file, whole or not at all.

    Raises:
        PathError: As `check_out`, or if the disk refuses.
    """
    check_out(path)
    write_whole(path, [text])


def _pair(scores: tuple[float, float]) -> dict[str, float]:
    return {"start": round(scores[0], 5), "best": round(scores[1], 5)}


def _toml(value: Value) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _one_line(text: str) -> str:
    return one_line(text, 200)
