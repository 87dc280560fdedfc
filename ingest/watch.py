"""Follows a folder: a full sync, then one of each part that the system says has changed.

Events only say where to look, and are not relied upon: a full sync comes every so often, and takes
their place where there are none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.ignore import IGNORE_FILE
from ingest.scan import has_folder_links
from ingest.sync import FolderGone, FolderSync, SyncReport
from rag.errors import PathError, StorageError, UnknownStore
from rag.terminal import Advance

if TYPE_CHECKING:
    from watchfiles.main import FileChange

    Events = Generator[set[FileChange], None, None]

DEBOUNCE_MS = 300
"""So long at most are changes gathered that follow each other closely."""

STEP_MS = 50
"""So long nothing may happen before what was gathered is acted upon."""

TICK_MS = 250
"""So often the folder itself is looked at when nothing happens."""

LOST_S = 0.5
"""Seconds between two looks for a folder that has vanished."""

RETRY_S = 1.0
"""Seconds until what could not be done now, a file that was being written say, is tried again."""

FAULT_S = 10.0
"""Seconds until a full sync after the database could not be used."""

MOST_PARTS = 500
"""More changes at once are met by a full sync."""


@dataclass(frozen=True, slots=True)
class Watching:
    """How to watch.

    Attributes:
        stop: Set it to end after the file in hand; may be set from anywhere.
        report: Called with every sync that did something, and with the first.
        tell: Called with a sentence when the folder vanishes, comes back, or cannot be watched.
        poll: Look at everything time and again instead of waiting for events.
        every_s: Seconds between full syncs, > 0; polling has its own, shorter time.
        poll_s: Seconds between two looks when polling, > 0; more where a look takes long.
    """

    stop: threading.Event
    report: Callable[[SyncReport], None]
    tell: Callable[[str], None]
    poll: bool = False
    every_s: float = 600.0
    poll_s: float = 1.0


@dataclass(slots=True)
class Totals:
    """What a watch did in all; `refused` are the files refused when last looked at."""

    syncs: int = 0
    added: int = 0
    changed: int = 0
    moved: int = 0
    deleted: int = 0
    chunks: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def did_something(self) -> bool:
        """Whether the store was changed."""
        return bool(self.added or self.changed or self.moved or self.deleted)

    def add(self, report: SyncReport) -> None:
        """Count a sync in."""
        self.syncs += 1
        self.added += len(report.added)
        self.changed += len(report.changed)
        self.moved += len(report.moved)
        self.deleted += len(report.deleted)
        self.chunks += report.chunks


class Watch:
    """One watch of one folder.

    Args:
        sync: Does the work.
        watching: How, and whom to tell.
        warm_up: Loads what the next change needs, so that it is quick.
        changed: Called after every sync that changed chunks.
        progress: Called before each file.
    """

    def __init__(
        self,
        sync: FolderSync,
        watching: Watching,
        *,
        warm_up: Callable[[], None],
        changed: Callable[[], None],
        progress: Advance,
    ) -> None:
        self._sync = sync
        self._root: Path = sync.root
        self._how = watching
        self._stop = watching.stop
        self._poll = watching.poll
        self._warm_up = warm_up
        self._changed = changed
        self._progress = progress
        self._totals = Totals()
        self._told = ""
        self._last: tuple[object, ...] = ()
        self._again: set[str] = set()
        self._retry_at = 0.0
        self._next_full = 0.0

    def run(self) -> Totals:
        """Watch until told to stop.

        Raises:
            FolderGone: If the folder is missing at the start; later that is waited out.
            IndexMismatch, ModelError: If the store or the model cannot be used any more.
        """
        begin = time.monotonic()
        self._sync.identity()
        while not self._stop.is_set():
            try:
                identity = self._sync.identity()
                if not self._poll and has_folder_links(self._root):
                    self._poll = True  # the system's watch would follow links anywhere
                    self._tell("Links to folders cannot be watched; looking every so often.")
                if self._poll:
                    self._follow_by_looking(identity)
                else:
                    self._follow_events(identity)
            except FolderGone as error:
                self._tell(f"{error.message} Its documents are kept; waiting for it to be back.")
                self._stop.wait(LOST_S)
        self._totals.seconds = time.monotonic() - begin
        return self._totals

    # -- two ways to follow ----------------------------------------------------------------------

    def _follow_events(self, identity: tuple[int, int]) -> None:
        """Follow events until the folder is another one, or none can be had."""
        from watchfiles import watch

        events = watch(
            self._root,
            watch_filter=None,
            debounce=DEBOUNCE_MS,
            step=STEP_MS,
            rust_timeout=TICK_MS,
            yield_on_timeout=True,
            stop_event=self._stop,
            raise_interrupt=False,
            force_polling=False,
            ignore_permission_denied=True,
            debug=False,
        )
        with closing(events):
            try:
                next(events, None)  # from here on nothing is missed, which the first sync may miss
            except OSError as error:
                self._sync.identity()
                self._poll = True
                why = error.strerror or str(error)
                self._tell(f"The folder cannot be watched ({why}); looking every so often.")
                return
            self._full()
            self._warm_up()
            for changes in events:
                if self._sync.identity() != identity:
                    return
                self._act(events, changes)

    def _act(self, events: Events, changes: set[FileChange]) -> None:
        """Sync what has changed, and what was put off."""
        from watchfiles import Change

        if any(kind == Change.deleted for kind, _ in changes):
            changes = changes | next(events, set())  # the other half of a move may come behind
        now = time.monotonic()
        parts = self._parts(changes)
        if parts is None or now >= self._next_full:
            self._full()
        elif parts:
            self._run(parts)
        elif self._again and now >= self._retry_at:
            self._run(_outermost(self._again))

    def _follow_by_looking(self, identity: tuple[int, int]) -> None:
        """Sync everything time and again until the folder is another one."""
        warm = False
        while not self._stop.is_set() and self._sync.identity() == identity:
            begin = time.monotonic()
            self._full()
            if not warm:
                self._warm_up()
                warm = True
            took = time.monotonic() - begin
            self._stop.wait(max(self._how.poll_s, 4 * took))

    # -- syncing ---------------------------------------------------------------------------------

    def _full(self) -> None:
        self._next_full = time.monotonic() + self._how.every_s
        self._run(None)

    def _run(self, parts: list[str] | None) -> None:
        """Sync, and tell if there is something to tell; a fault that may pass is told."""
        self._again = set()
        try:
            report = self._sync.run(parts, stopped=self._stop.is_set, progress=self._progress)
            if report.changed_chunks:
                self._changed()
        except FolderGone:
            raise
        except (PathError, StorageError, UnknownStore) as error:
            self._tell(str(error))
            self._next_full = min(self._next_full, time.monotonic() + FAULT_S)
            return
        self._totals.add(report)
        self._again = {item.name for item in report.refused if item.reason == "changing"}
        self._retry_at = time.monotonic() + RETRY_S
        if parts is None:
            self._totals.refused = {}
            self._told = ""
        told = {item.name: item.message for item in report.refused}
        self._totals.refused |= told
        news = (tuple(sorted(told.items())), report.held)
        first = self._totals.syncs == 1
        if first or report.did_something or (any(news) and news != self._last):
            self._how.report(report)
            self._last = news

    def _parts(self, changes: set[FileChange]) -> list[str] | None:
        """Return what to look at, none inside another; None for everything."""
        parts: set[str] = set()
        for _kind, path in changes:
            place = Path(path)
            if place.name == IGNORE_FILE or place == self._root:
                return None
            if place.is_relative_to(self._root):
                parts.add(place.relative_to(self._root).as_posix())
        outermost = _outermost(parts)
        return None if len(outermost) > MOST_PARTS else outermost

    def _tell(self, sentence: str) -> None:
        """Say something once, until a full sync has succeeded."""
        if sentence != self._told:
            self._told = sentence
            self._how.tell(sentence)


def _outermost(parts: set[str]) -> list[str]:
    """Return those that lie in none of the others, sorted."""
    return sorted(
        part
        for part in parts
        if not any(part[:at] in parts for at in range(len(part)) if part[at] == "/")
    )
