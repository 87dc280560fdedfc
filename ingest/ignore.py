"""Which entries of a folder a sync passes over: `.youjuignore` files, and names of no documents.

The files have git's syntax and git's rules: a line counts from the folder its file lies in, the
last line that matches decides, a deeper file overrules a higher one, and nothing below an ignored
folder can be had back. `!` also brings back what DEFAULTS would pass over.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from pathspec import GitIgnoreSpec, RegexPattern

from rag.errors import DocumentRejected

IGNORE_FILE = ".youjuignore"

DEFAULTS = (
    ".*",  # hidden; .DS_Store, .#x, .~lock.x#, .x.swp too
    "~$*",  # Microsoft Office's lock files
    "~WRL*.tmp",
    "*~",
    "#*#",
    "*.swp",
    "*.swo",
    "*.tmp",
    "*.temp",
    "*.bak",
    "*.part",
    "*.partial",
    "*.crdownload",
    "*.download",
    "Thumbs.db",
    "desktop.ini",
    "__MACOSX",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "@eaDir",
)
"""Names, of files and folders alike, that are passed over unless a line brings them back."""

MOST_BYTES = 65_536
MOST_LINES = 1_000
MOST_STARS = 2
"""* within one part of a line's path, but for one at its end, and ** in all of it; comparing more
with a long name could take for ever."""

_FOLDER_MARK = "ps_d"  # pathspec's group for a folder whose content a pattern matches with it
_DEFAULT = re.compile("|".join(fnmatch.translate(name) for name in DEFAULTS), re.DOTALL)


@dataclass(frozen=True, slots=True)
class _Layer:
    """One ignore file; `base` is its folder inside the root: "" or "a/b/"."""

    base: str
    patterns: tuple[RegexPattern, ...]


class IgnoreRules:
    """What applies to the entries of one folder.

    Args:
        root: The folder that is synced, resolved.
    """

    def __init__(self, root: Path, _layers: tuple[_Layer, ...] = ()) -> None:
        self._root = root
        self._layers = _layers

    def entering(self, base: str) -> IgnoreRules:
        """Return what applies inside a folder whose parent's rules these are.

        Args:
            base: The folder inside the root: "" for the root itself, else "a/b/".

        Raises:
            DocumentRejected: If its ignore file cannot be read or used; what it would ignore is
                then not known.
        """
        lines = _read_lines(self._root / base / IGNORE_FILE)
        if not lines:
            return self
        try:
            # For pathspec "x/**" is x itself, too; for git it is what x holds.
            exact = [f"{line}/*" if line.rstrip().endswith("/**") else line for line in lines]
            spec = GitIgnoreSpec.from_lines(exact)
        except ValueError as error:
            raise _unusable(f"has a line that is no pattern: {error}") from error
        patterns = tuple(
            pattern
            for pattern in spec.patterns
            if isinstance(pattern, RegexPattern) and pattern.include is not None
        )
        return IgnoreRules(self._root, (*self._layers, _Layer(base, patterns)))

    def ignores(self, label: str, name: str, *, folder: bool) -> bool:
        """Whether an entry of the folder is passed over.

        Args:
            label: Its path inside the root, parts joined by "/".
            name: Its last part.
            folder: Whether it is a folder; links to folders are not.
        """
        for layer in reversed(self._layers):
            inside = label[len(layer.base) :] + ("/" if folder else "")
            for pattern in reversed(layer.patterns):
                if _matches(pattern, inside):
                    return bool(pattern.include)
        return _DEFAULT.match(name) is not None


def _matches(pattern: RegexPattern, path: str) -> bool:
    """Whether a pattern matches a path itself, and not only a folder that it lies in."""
    found = pattern.match_file(path)
    if found is None:
        return False
    match = found.match
    marked = _FOLDER_MARK in match.re.groupindex
    return not marked or match.end(_FOLDER_MARK) in (-1, len(path))


def _read_lines(path: Path) -> list[str]:
    """Return the lines of an ignore file, [] if there is none."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        handle = os.open(path, flags | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unusable(f"cannot be read: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise _unusable("is not a file")
        data = os.read(handle, MOST_BYTES + 1)
    except OSError as error:
        raise _unusable(f"cannot be read: {error.strerror}") from error
    finally:
        os.close(handle)
    if len(data) > MOST_BYTES:
        raise _unusable(f"has more than {MOST_BYTES:,} bytes")
    lines = data.decode("utf-8-sig", "surrogateescape").splitlines()
    if len(lines) > MOST_LINES:
        raise _unusable(f"has {len(lines):,} lines; expected at most {MOST_LINES:,}")
    for line in lines:
        parts = line.split("/")
        runs = [len(re.findall(r"\*+", part.rstrip("*"))) for part in parts]
        if not line.startswith("#") and max(*runs, parts.count("**")) > MOST_STARS:
            raise _unusable(
                f"has a line with too many *: {line[:60]}; expected at most {MOST_STARS} ** and "
                f"{MOST_STARS} * between two /"
            )
    return lines


def _unusable(why: str) -> DocumentRejected:
    return DocumentRejected(
        f"Its {IGNORE_FILE} {why}.",
        reason="unreadable",
        do="Mend it; until then nothing is done in that folder.",
    )
