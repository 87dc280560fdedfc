"""Looks at a folder, or at parts of it, entry by entry, for a sync: one stat for each file.

Nothing is kept of what has been yielded, so a folder may hold any number of files. What an entry
is worth is decided by ingest.discover, what is ignored by ingest.ignore.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from ingest.discover import (
    FoundFile,
    RefusedFile,
    cannot_list,
    is_folder,
    look_at,
    media_type,
    printable,
)
from ingest.ignore import IgnoreRules
from rag.errors import DocumentRejected


class FolderScan:
    """One look at a folder.

    Args:
        root: The folder, resolved.
        max_bytes: Larger files are refused; > 0.

    Attributes:
        skipped: Files of unsupported formats by suffix, counted as the scan goes on.
        links: Whether a link was met: what it leads to is not seen by looking at parts.
    """

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._targets: set[Path] = set()
        self.skipped: Counter[str] = Counter()
        self.links = False

    def entries(self, part: str = "") -> Iterator[FoundFile | RefusedFile]:
        """Yield the documents in the folder, sorted by name within each folder.

        A file is yielded once: a link to one that is yielded by itself is not. A folder that
        cannot be listed, or whose ignore file cannot be used, is yielded as refused.

        Args:
            part: A file or folder inside it to look at, parts joined by "/"; "" is all of it.

        Raises:
            DocumentRejected: If the folder itself cannot be listed.
        """
        if not part:
            try:
                rules = IgnoreRules(self._root).entering("")
            except DocumentRejected as error:
                yield RefusedFile(self._root, printable(self._root.name), error)
                return
            yield from self._folder("", rules)
            return
        parent, _, name = part.rpartition("/")
        try:
            above = self._rules_in(parent)
        except DocumentRejected as error:
            yield RefusedFile(self._root / parent, printable(parent), error)
            return
        if above is None:
            return
        try:
            info = os.lstat(self._root / part)
        except OSError:
            return
        if not stat.S_ISDIR(info.st_mode):
            yield from self._file(part, name, above, info)
        elif not above.ignores(part, name, folder=True):
            yield from self._below(part + "/", above)

    def would_take(self, label: str) -> bool:
        """Whether a file is one that `entries` yields by itself, not by a link."""
        parent, _, name = label.rpartition("/")
        try:
            rules = self._rules_in(parent)
            if (
                rules is None
                or media_type(name) is None
                or rules.ignores(label, name, folder=False)
            ):
                return False
            return stat.S_ISREG(os.lstat(self._root / label).st_mode)
        except (DocumentRejected, OSError):
            return True  # not known now: whoever asks must leave it as it is

    def _rules_in(self, label: str) -> IgnoreRules | None:
        """Return the rules inside a folder; None if it is not one, ignored, or behind a link."""
        rules = IgnoreRules(self._root).entering("")
        here = ""
        for name in label.split("/") if label else ():
            here += name
            try:
                info = os.lstat(self._root / here)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except OSError as error:
                raise cannot_list(self._root / here, here, error).error from error
            if not stat.S_ISDIR(info.st_mode) or rules.ignores(here, name, folder=True):
                return None
            here += "/"
            rules = rules.entering(here)
        return rules

    def _below(self, base: str, above: IgnoreRules) -> Iterator[FoundFile | RefusedFile]:
        try:
            rules = above.entering(base)
        except DocumentRejected as error:
            yield RefusedFile(self._root / base, printable(base), error)
            return
        yield from self._folder(base, rules)

    def _folder(self, base: str, rules: IgnoreRules) -> Iterator[FoundFile | RefusedFile]:
        waiting = [(base, rules)]
        while waiting:
            base, rules = waiting.pop()
            try:
                with os.scandir(self._root / base) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError as error:
                refused = cannot_list(self._root / base, base or self._root.name, error)
                if not base:
                    raise refused.error from error
                yield refused
                continue
            folders: list[tuple[str, IgnoreRules]] = []
            for entry in entries:
                label = base + entry.name
                if not is_folder(entry, follow=False):
                    if media_type(entry.name) is None:
                        self._count(entry, label, rules)
                        continue
                    try:
                        info = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:  # gone since it was listed
                        continue
                    except OSError as error:
                        yield cannot_list(self._root / label, label, error)
                        continue
                    yield from self._file(label, entry.name, rules, info)
                elif not rules.ignores(label, entry.name, folder=True):
                    try:
                        folders.append((label + "/", rules.entering(label + "/")))
                    except DocumentRejected as error:
                        yield RefusedFile(self._root / label, printable(label), error)
            waiting += reversed(folders)

    def _file(
        self, label: str, name: str, rules: IgnoreRules, info: os.stat_result
    ) -> Iterator[FoundFile | RefusedFile]:
        link = stat.S_ISLNK(info.st_mode)
        self.links = self.links or link
        if media_type(name) is None or rules.ignores(label, name, folder=False):
            return
        found = look_at(self._root / label, label, self._root, self._max_bytes, info)
        if link and found.path != self._root / label:
            target = found.path.relative_to(self._root).as_posix()
            if found.path in self._targets or self.would_take(target):
                return
            self._targets.add(found.path)
        yield found

    def _count(self, entry: os.DirEntry[str], label: str, rules: IgnoreRules) -> None:
        """Count a file of another format, unless it is ignored."""
        if not rules.ignores(label, entry.name, folder=False) and not is_folder(entry, follow=True):
            self.skipped[printable(os.path.splitext(label)[1].lower())] += 1


def has_folder_links(root: Path) -> bool:
    """Whether a link to a folder lies anywhere in a folder."""
    for folder, folders, _ in os.walk(root):
        if any(os.path.islink(os.path.join(folder, name)) for name in folders):
            return True
    return False
