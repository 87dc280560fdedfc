"""The gate: runs measurements whose results are known, and fails on a drop beyond noise.

`baselines.yaml` names, for each, the command and what it printed when the baseline was set:

    baselines:
      - name: xquad_zh hybrid
        command: youju eval retrieval --data {sets}/xquad_zh --json
        quick: true
        expect:
          metrics.nDCG@10: {value: 0.9655, tolerance: 0.002}

Only commands of `youju eval` are run, each in a process of its own and without a shell. A command
that fails is a fault, never a low score.
"""

from __future__ import annotations

import fnmatch
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rag.errors import EvalDataError, PathError, UsageError, YoujuError

BASELINES = Path(__file__).with_name("baselines.yaml")
MEASURES = frozenset({"retrieval", "answers", "refusal"})
SETS = "{sets}"

Verdict = Literal["ok", "better", "worse"]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a figure was.

    Attributes:
        path: Where it stands in the command's JSON: keys joined by ".".
        value: The figure; higher is better.
        tolerance: How far below it a figure may fall and count as noise, >= 0: other processors
            round otherwise, which moves passages of nearly the same score.
    """

    path: str
    value: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class Baseline:
    """A measurement with known results.

    Attributes:
        name: What it is called.
        command: Its words, "youju" first; "{sets}" stands for the folder of the sets.
        quick: Whether it takes seconds, not minutes.
        expect: The figures, at least one.
    """

    name: str
    command: tuple[str, ...]
    quick: bool
    expect: tuple[Expected, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """A figure beside the one expected."""

    baseline: str
    expected: Expected
    got: float

    @property
    def verdict(self) -> Verdict:
        """Return "worse" for a drop beyond the tolerance, "better" for such a rise, else "ok"."""
        difference = self.got - self.expected.value
        if abs(difference) <= self.expected.tolerance + 1e-9:
            return "ok"
        return "better" if difference > 0 else "worse"


def read_baselines(path: Path = BASELINES) -> list[Baseline]:
    """Read a file of baselines.

    Raises:
        PathError: If it cannot be read.
        EvalDataError: If it is not as laid out above, or a command is none of the measures.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PathError(f"Cannot read {path}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise EvalDataError(f"{path} is not YAML: {reason:.200}.") from None
    entries = found.get("baselines") if isinstance(found, dict) else None
    if not isinstance(entries, list) or not entries:
        raise EvalDataError(f"{path} has no list `baselines`.", do="See eval/baselines.yaml.")
    baselines = [_baseline(f"{path}, entry {n}", entry) for n, entry in enumerate(entries, 1)]
    names = [baseline.name for baseline in baselines]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise EvalDataError(f"{path} names {twice!r} twice.", do="Give each a name of its own.")
    return baselines


def chosen(baselines: Sequence[Baseline], only: str, *, quick: bool) -> list[Baseline]:
    """Return those whose name fits the pattern `only` ("*": all), the quick ones if wanted.

    Raises:
        UsageError: If there are none.
    """
    found = [
        baseline
        for baseline in baselines
        if fnmatch.fnmatchcase(baseline.name, only) and (baseline.quick or not quick)
    ]
    if not found:
        names = ", ".join(baseline.name for baseline in baselines)
        raise UsageError(f"No baseline fits {only!r}.", do=f"There are: {names}.")
    return found


def check(
    baselines: Sequence[Baseline],
    sets: Path,
    progress: Callable[[int], None] = lambda _done: None,
) -> Iterator[Checked]:
    """Run the measurements and yield each figure beside the one expected.

    Args:
        baselines: Which; the settings in force are measured.
        sets: Folder of the test sets.
        progress: Called before each with the number done.

    Raises:
        UsageError: If a set is missing.
        EvalDataError: If a command fails, or does not print a figure that is expected.
    """
    for baseline in baselines:
        for word in baseline.command:
            if SETS in word and not Path(word.replace(SETS, str(sets))).exists():
                raise UsageError(
                    f"{baseline.name}: {word.replace(SETS, str(sets))} is not there.",
                    do="Give --sets the folder that holds the test sets.",
                )
    for number, baseline in enumerate(baselines):
        progress(number)
        printed = _run([word.replace(SETS, str(sets)) for word in baseline.command], baseline.name)
        for expected in baseline.expect:
            yield Checked(baseline.name, expected, _figure(printed, expected.path, baseline.name))


def _run(command: Sequence[str], name: str) -> object:
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import youju; youju.main()", *command[1:]],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.DEVNULL, capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        told = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise EvalDataError(
            f"{name}: {shlex.join(command)} failed: {told[-1] if told else done.returncode}"
        )
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise EvalDataError(f"{name}: {shlex.join(command)} printed no JSON.") from None


def _figure(printed: object, path: str, name: str) -> float:
    value: Any = printed
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise EvalDataError(
            f"{name}: got {value!r:.40} for {path}, expected a number.",
            do="Compare the baseline with what the command prints.",
        )
    return float(value)


def _baseline(at: str, entry: object) -> Baseline:
    try:
        if not isinstance(entry, dict) or set(entry) - {"name", "command", "quick", "expect"}:
            raise ValueError("expected the keys name, command, quick and expect")
        name, quick = entry["name"], entry.get("quick", False)
        command = tuple(shlex.split(entry["command"]))
        if not isinstance(name, str) or not isinstance(quick, bool):
            raise ValueError("expected a name, and true or false for quick")
        if command[:2] != ("youju", "eval") or command[2:3] == () or command[2] not in MEASURES:
            raise ValueError(f"expected a command of youju eval {', '.join(sorted(MEASURES))}")
        if "--json" not in command:
            raise ValueError("expected --json in the command")
        expect = tuple(_expected(path, value) for path, value in entry["expect"].items())
        if not expect:
            raise ValueError("expected a figure")
        return Baseline(name, command, quick, expect)
    except YoujuError:
        raise
    except KeyError as error:
        raise EvalDataError(f"{at}: {error.args[0]} is missing.") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise EvalDataError(f"{at}: {error}.") from None


def _expected(path: object, entry: object) -> Expected:
    if not isinstance(path, str) or not isinstance(entry, dict):
        raise ValueError("expected a figure as PATH: {value: ..., tolerance: ...}")
    if set(entry) != {"value", "tolerance"}:
        raise ValueError(f"{path}: expected value and tolerance")
    numbers = (entry["value"], entry["tolerance"])
    if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers) or numbers[1] < 0:
        raise ValueError(f"{path}: expected numbers, the tolerance not below 0")
    return Expected(path, float(numbers[0]), float(numbers[1]))
