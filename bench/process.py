"""Runs a command as a process of its own and says what it cost."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process and its children cost.

    Attributes:
        wall_s: Seconds from start to end.
        cpu_s: User and system seconds.
        peak_mib: Largest resident set of any one process among them, MiB.
        output: Its standard output.
    """

    wall_s: float
    cpu_s: float
    peak_mib: float
    output: str


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run `python ARGUMENTS` and measure it.

    Raises:
        RuntimeError: If it fails; the message holds what it printed on standard error.
    """
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    output, errors = process.communicate()
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise RuntimeError(f"{list(arguments)} ended with {process.returncode}: {errors}")
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    # ru_maxrss is the largest of all children so far: a caller compares rising ones only.
    return Cost(wall, cpu, after.ru_maxrss / 1024, output)
