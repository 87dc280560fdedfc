"""What `youju sync` prints, and how it is told to stop. It decides nothing."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from rag.terminal import complain, count, print_json, say

if TYPE_CHECKING:
    from ingest.sync import SyncReport
    from ingest.watch import Totals


class SyncPrinter:
    """Prints reports as they come.

    Args:
        store: The store's name.
        folder: The folder as it was given.
        as_json: Print JSON.
        lines: One line for each JSON object, because more than one comes.
    """

    def __init__(self, store: str, folder: str, *, as_json: bool, lines: bool) -> None:
        self._store = store
        self._folder = folder
        self._json = as_json
        self._indent = None if lines else 2

    def report(self, report: SyncReport) -> None:
        """Print what one sync did."""
        if self._json:
            print_json(report_json(self._store, self._folder, report), indent=self._indent)
        else:
            self._say(report)
        sys.stdout.flush()

    def tell(self, sentence: str) -> None:
        """Print a sentence about the watch itself."""
        complain(sentence)

    def totals(self, totals: Totals) -> None:
        """Print what a watch did in all."""
        if self._json:
            print_json(totals_json(self._store, self._folder, totals), indent=self._indent)
        else:
            say(
                f"Stopped watching after {totals.seconds:.0f} s and {count(totals.syncs, 'sync')}: "
                f"{totals.added} added, {totals.changed} changed, {totals.moved} moved, "
                f"{totals.deleted} deleted, {len(totals.refused)} refused."
            )
        sys.stdout.flush()

    def _say(self, report: SyncReport) -> None:
        say(
            f"Store {self._store}: {len(report.added)} added, {len(report.changed)} changed, "
            f"{len(report.moved)} moved, {len(report.deleted)} deleted, "
            f"{report.unchanged} unchanged, {len(report.refused)} refused"
            + (f", {skipped_formats(report.skipped)} skipped" if report.skipped else "")
            + f"; {count(report.chunks, 'new chunk')} in {report.seconds:.1f} s."
        )
        for file, text in report.warnings:
            say(f"Note: {file}: {text}")
        for item in report.refused:
            complain(f"{item.name}: {item.message}")
        if report.held:
            complain(
                f"{count(len(report.held), 'document')} would be deleted, more than half of what "
                f"came from {self._folder}, or all; kept. Add --yes-delete if that is meant."
            )


def report_json(store: str, folder: str, report: SyncReport) -> dict[str, object]:
    """Return what `youju sync --json` prints of one sync."""
    return {
        "store": store,
        "folder": folder,
        "added": list(report.added),
        "changed": list(report.changed),
        "moved": [{"from": old, "to": new} for old, new in report.moved],
        "deleted": list(report.deleted),
        "unchanged": report.unchanged,
        "held": list(report.held),
        "refused": [
            {"file": item.name, "reason": item.reason, "message": item.message}
            for item in report.refused
        ],
        "skipped": sum(report.skipped.values()),
        "skipped_formats": report.skipped,
        "chunks": report.chunks,
        "warnings": [{"file": file, "message": text} for file, text in report.warnings],
        "seconds": round(report.seconds, 3),
    }


def totals_json(store: str, folder: str, totals: Totals) -> dict[str, object]:
    """Return the last line that `youju sync --watch --json` prints."""
    return {
        "store": store,
        "folder": folder,
        "syncs": totals.syncs,
        "totals": {
            "added": totals.added,
            "changed": totals.changed,
            "moved": totals.moved,
            "deleted": totals.deleted,
            "refused": len(totals.refused),
            "chunks": totals.chunks,
        },
        "seconds": round(totals.seconds, 3),
    }


def skipped_formats(formats: dict[str, int]) -> str:
    """Return "12 of other formats (.xlsx 9, .pptx 2, ...)", the most frequent first."""
    named = ", ".join(f"{suffix or 'no suffix'} {n}" for suffix, n in list(formats.items())[:5])
    return f"{sum(formats.values())} of other formats ({named}{', …' if len(formats) > 5 else ''})"


@contextmanager
def stopped_by_signals() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets; a second one ends the program at once."""
    stop = threading.Event()

    def end(number: int, _frame: FrameType | None) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, end) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
