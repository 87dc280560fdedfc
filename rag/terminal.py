"""What a command prints: JSON, plain tables, a progress bar. It parses nothing and decides nothing.

Results go to standard output; the bar and complaints to standard error.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_NOT_SHOWN = frozenset({"Cc", "Zl", "Zp"})

BAR_AFTER_S = 2.0
"""A run shorter than this shows no bar."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: `done` of `total` steps, `name` the current one."""

    done: int
    total: int
    name: str = ""


Advance = Callable[[Progress], None]


def say(text: str = "") -> None:
    """Print a line of result.

    Control characters and overrides of the writing direction are left out, so that no document
    drives the terminal; what the terminal's encoding lacks is shown as "?".
    """
    _write(sys.stdout, text)


def complain(message: str) -> None:
    """Print one line on standard error, control characters left out."""
    _write(sys.stderr, "Error: " + " ".join(message.split()))


def _write(stream: TextIO, text: str) -> None:
    harmless = "".join(c for c in text if _harmless(c))
    encoding = stream.encoding or "utf-8"
    stream.write(harmless.encode(encoding, "replace").decode(encoding) + "\n")


def _harmless(character: str) -> bool:
    if character in "\n\t":
        return True
    return character not in _DIRECTIONS and unicodedata.category(character) not in _NOT_SHOWN


def print_json(value: Any, *, indent: int | None = 2) -> None:  # noqa: ANN401
    """Print a value as JSON: Chinese as it is where the output is UTF-8, else escaped.

    Args:
        value: What to print.
        indent: Spaces; None: all on one line.
    """
    utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    text = json.dumps(value, ensure_ascii=not utf8, indent=indent)
    kept = "".join(c if _harmless(c) else f"\\u{ord(c):04x}" for c in text)
    sys.stdout.write(kept + "\n")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns; the last one is cut to the terminal's width where there is one."""
    lines = [[one_line(cell, 10_000) for cell in row] for row in [header, *rows]]
    widths = [max(width(line[column]) for line in lines) for column in range(len(header))]
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for line in lines:
        padded = [cell + " " * (widths[i] - width(cell)) for i, cell in enumerate(line[:-1])]
        used = sum(widths[:-1]) + 2 * len(padded)
        say("  ".join([*padded, one_line(line[-1], max(room - used, 20))]).rstrip())


def one_line(text: str, most: int) -> str:
    """Fold white space and control characters to spaces, and cut to `most` terminal columns."""
    folded = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if width(folded) <= most:
        return folded
    used, kept = 1, []
    for character in folded:
        used += width(character)
        if used > most:
            break
        kept.append(character)
    return "".join(kept) + "…"


def width(text: str) -> int:
    """Return the terminal columns of a text: two for a wide East Asian character."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def place(file: str, page: int | None) -> str:
    """Return how a source is named to a reader: the file, and the page if it has one."""
    return f"{file}, p. {page}" if page is not None else file


def count(number: int, noun: str) -> str:
    """Return "1 file", "2 files", "2 queries"."""
    if number == 1:
        return f"1 {noun}"
    many = noun[:-1] + "ies" if noun.endswith("ry") else noun + "s"
    return f"{number:,} {many}"


@contextmanager
def progress_bar(title: str) -> Iterator[Advance]:
    """Yield a callback that drives a bar, shown after two seconds and on a terminal only.

    The bar appears by itself, also while a step takes long and the callback is not called.
    """
    if not sys.stderr.isatty():
        yield lambda _progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    with RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[name]}", markup=False),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(title, total=None, name="", visible=False)
        timer = threading.Timer(BAR_AFTER_S, lambda: bar.update(task, visible=True))
        timer.daemon = True
        timer.start()
        try:
            yield lambda progress: bar.update(
                task,
                total=progress.total,
                completed=progress.done,
                name=one_line(progress.name, 40),
            )
        finally:
            timer.cancel()
