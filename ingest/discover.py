"""Finding the files to ingest and reading their bytes, without following anything outside.

It decides by name, size and kind of file; it does not look into files (ingest.parse does) and
does not know which are already stored (ingest.pipeline does).
"""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rag.errors import DocumentRejected, PathError

SUPPORTED: dict[str, str] = {
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".markdown": "text/markdown",
    ".html": "text/html",
    ".htm": "text/html",
    ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".docm": "application/vnd.ms-word.document.macroenabled.12",
    ".doc": "application/msword",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".ppt": "application/vnd.ms-powerpoint",
    ".xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    ".xlsm": "application/vnd.ms-excel.sheet.macroenabled.12",
    ".xls": "application/vnd.ms-excel",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".ods": "application/vnd.oasis.opendocument.spreadsheet",
    ".odp": "application/vnd.oasis.opendocument.presentation",
    ".rtf": "application/rtf",
    ".csv": "text/csv",
    ".tsv": "text/tab-separated-values",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".ipynb": "application/x-ipynb+json",
    ".xml": "application/xml",
    ".rst": "text/x-rst",
    ".epub": "application/epub+zip",
    ".eml": "message/rfc822",
    ".msg": "application/vnd.ms-outlook",
    ".mht": "multipart/related",
    ".mhtml": "multipart/related",
    ".zip": "application/zip",
    ".tar": "application/x-tar",
    ".tgz": "application/gzip",
    ".gz": "application/gzip",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
}
"""Suffix (lower case) to media type: the one table of formats."""

_READ_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
)
_BLOCK = 1 << 20
_LONGEST_SHOWN = 200
_URL = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file with a supported suffix, seen but not yet read.

    Attributes:
        path: Where to open it; never a symbolic link.
        name: Its name in the store: printable, unique in one discovery, parts joined by "/".
        size: Bytes when it was seen, > 0.
        mtime_ns: Modification time when it was seen, nanoseconds.
        root: The folder argument it lies in, or its own folder when it was named itself.
        ctime_ns: When anything about it had changed, nanoseconds, as the file system says.
    """

    path: Path
    name: str
    size: int
    mtime_ns: int
    root: Path
    ctime_ns: int = 0


@dataclass(frozen=True, slots=True)
class RefusedFile:
    """A file, or a folder that cannot be listed, that was meant but cannot be taken."""

    path: Path
    name: str
    error: DocumentRejected


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a list of paths holds.

    Attributes:
        files: To be ingested, in the order of the arguments, sorted by name inside a folder.
        rejected: What cannot be taken, with the reason.
        roots: The folders given, resolved: what `--prune` may compare the store with.
        skipped: Suffix (lower case, "" for none) to number of files of unsupported formats
            inside folders, most frequent first; hidden ones are not counted.
    """

    files: tuple[FoundFile, ...]
    rejected: tuple[RefusedFile, ...]
    roots: tuple[Path, ...]
    skipped: dict[str, int]


@dataclass(frozen=True, slots=True)
class _Seen:
    """A candidate before naming: where it is, what it is called, why it is refused if it is."""

    path: Path
    label: str
    root: Path
    info: os.stat_result | None
    error: DocumentRejected | None


def media_type(name: str) -> str | None:
    """Return the media type a file name stands for, None where the suffix is not supported."""
    return SUPPORTED.get(os.path.splitext(name)[1].lower())


def discover(paths: Sequence[Path], max_bytes: int, *, allow_empty: bool = False) -> Discovery:
    """List the documents in files and folders, deterministically.

    A file in a folder argument is named by its path inside that folder, a file argument by its
    file name. Where two would be called the same, each is prefixed by the name of its folder
    argument (or of the folder it lies in), and by a number where that is not enough. The same
    file given twice is listed once. Hidden files and folders inside a folder are passed over.

    Args:
        paths: Files and folders, in the user's order.
        max_bytes: Larger files are rejected ("too-large"); > 0.
        allow_empty: Whether to accept that there is nothing: so it is when what is gone is to
            be removed from a store.

    Returns:
        The files, the rejected ones and the folders.

    Raises:
        PathError: If a path is missing or unreadable, or nothing in them is a document.
    """
    seen: list[_Seen] = []
    roots: list[Path] = []
    skipped: Counter[str] = Counter()
    for path in paths:
        try:
            info = path.stat()
        except OSError as error:
            raise _no_such_path(path, error, pruning=allow_empty) from error
        if stat.S_ISDIR(info.st_mode):
            root = path.resolve()
            roots.append(root)
            seen += _walk(root, max_bytes, skipped)
        else:
            seen.append(_named_file(path, max_bytes))
    discovery = _name_all(seen, tuple(dict.fromkeys(roots)), dict(skipped.most_common()))
    if not allow_empty and not discovery.files and not discovery.rejected:
        where = ", ".join(printable(str(path)) for path in paths) or "nothing"
        raise PathError(
            f"No supported document in {where} ({skipped.total()} files of other formats).",
            do=f"Supported: {_supported()}.",
        )
    return discovery


def read_bytes(found: FoundFile) -> bytes:
    """Read a discovered file whole, sure that it is the one that was seen.

    Args:
        found: As `discover` returned it.

    Returns:
        Exactly `found.size` bytes.

    Raises:
        DocumentRejected: reason "changing" when its size or time differ from when it was seen or
            change while it is read; "unreadable" when it cannot be opened; "outside" when it has
            become something other than a regular file.
    """
    try:
        handle = os.open(found.path, _READ_FLAGS)
    except OSError as error:
        reason = "outside" if found.path.is_symlink() else "unreadable"
        raise _unreadable(error, reason) from error
    try:
        before = os.fstat(handle)
        if not stat.S_ISREG(before.st_mode):
            raise DocumentRejected("Became something other than a file.", reason="outside")
        blocks: list[bytes] = []
        left = found.size + 1
        while left > 0 and (block := os.read(handle, min(left, _BLOCK))):
            blocks.append(block)
            left -= len(block)
        after = os.fstat(handle)
    except OSError as error:
        raise _unreadable(error, "unreadable") from error
    finally:
        os.close(handle)
    data = b"".join(blocks)
    expected = (found.size, found.mtime_ns)
    stamps = {(info.st_size, info.st_mtime_ns) for info in (before, after)}
    if stamps != {expected} or len(data) != found.size:
        raise DocumentRejected(
            "Changed while it was being read.",
            reason="changing",
            do="Ingest it again when nothing writes to it.",
        )
    return data


def look_at(
    path: Path, label: str, root: Path, max_bytes: int, info: os.stat_result
) -> FoundFile | RefusedFile:
    """Check one entry of a folder that has a supported suffix.

    Args:
        path: Where it is.
        label: Its path inside the root, parts joined by "/".
        root: The folder, resolved.
        max_bytes: Larger files are refused; > 0.
        info: What `lstat` says of it.

    Returns:
        The file, that which a link leads to, or why it is refused.
    """
    if stat.S_ISLNK(info.st_mode):
        seen = _look(path, label, root, max_bytes)
    else:
        seen = _judge(path, label, root, info, max_bytes)
    if seen.info is not None:
        return _found(seen.path, printable(label), root, seen.info)
    error = seen.error or DocumentRejected("Cannot be read.", reason="unreadable")
    return RefusedFile(seen.path, printable(label), error)


def cannot_list(path: Path, label: str, error: OSError) -> RefusedFile:
    """Return what stands for a folder that cannot be listed."""
    return RefusedFile(path, printable(label), _unreadable(error, "unreadable"))


def is_folder(entry: os.DirEntry[str], *, follow: bool) -> bool:
    """Whether an entry of a folder is one itself, or with `follow` leads to one.

    A link that leads round in circles, or where nobody may look, is none.
    """
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:
        return False


def printable(name: str) -> str:
    r"""Return a name that can be shown, stored and encoded.

    Undecodable bytes (lone surrogates in Python) become "\xNN", control characters and other
    invisible ones "\uNNNN" or "\UNNNNNNNN"; everything else stays.
    """
    if name.isprintable() or all(char == " " or char.isprintable() for char in name):
        return name
    return "".join(char if char.isprintable() else _escape(char) for char in name)


def _escape(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _no_such_path(path: Path, error: OSError, *, pruning: bool) -> PathError:
    name = printable(str(path))
    if len(name) > _LONGEST_SHOWN:
        name = f"{name[:_LONGEST_SHOWN]}…"
    if _URL.match(name):
        return PathError(
            f"{name} is no path of this machine.", do="Download it first, and give its path."
        )
    if not isinstance(error, FileNotFoundError):
        return PathError(f"{name}: {error.strerror}.", do="Check the path.")
    do = "Check the path."
    if pruning:
        do += " If it is gone for good, `youju delete --under PATH` removes what came from it."
    return PathError(f"{name} does not exist.", do=do)


def _supported() -> str:
    return " ".join(sorted(SUPPORTED))


def _walk(root: Path, max_bytes: int, skipped: Counter[str]) -> list[_Seen]:
    """Look at every entry below a resolved folder; links to folders are not entered."""
    seen: list[_Seen] = []
    folders = [""]
    while folders:
        prefix = folders.pop()
        try:
            with os.scandir(root / prefix) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if not prefix:
                why = f"{printable(str(root))} cannot be listed: {error.strerror}."
                raise PathError(why, do="Check its permissions.") from error
            seen.append(_Seen(root / prefix, prefix, root, None, _unreadable(error, "unreadable")))
            continue
        for entry in entries:
            label = prefix + entry.name
            if entry.name.startswith("."):
                continue
            if is_folder(entry, follow=False):
                folders.append(label + "/")
            elif media_type(label) is not None:
                seen.append(_look(root / label, label, root, max_bytes))
            elif not is_folder(entry, follow=True):
                skipped[printable(os.path.splitext(label)[1].lower())] += 1
    return sorted(seen, key=lambda item: item.label)


def _look(path: Path, label: str, root: Path, max_bytes: int) -> _Seen:
    """Check one entry of a folder by its metadata."""
    target = path
    if path.is_symlink():
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            return _refuse(path, label, root, "A link that leads nowhere.", "unreadable")
        if not target.is_relative_to(root):
            return _refuse(path, label, root, "A link that leads outside its folder.", "outside")
    return _check(target, label, root, max_bytes)


def _named_file(path: Path, max_bytes: int) -> _Seen:
    """Check a file argument; the user named it, so a link may lead anywhere."""
    target = path.resolve()
    if media_type(path.name) is None:
        suffix = path.suffix or "no suffix"
        message = f"Format not supported ({printable(suffix)}); supported: {_supported()}."
        return _refuse(target, path.name, target.parent, message, "unsupported")
    return _check(target, path.name, target.parent, max_bytes)


def _check(path: Path, label: str, root: Path, max_bytes: int) -> _Seen:
    try:
        info = path.lstat()
    except OSError as error:
        return _Seen(path, label, root, None, _unreadable(error, "unreadable"))
    return _judge(path, label, root, info, max_bytes)


def _judge(path: Path, label: str, root: Path, info: os.stat_result, max_bytes: int) -> _Seen:
    if not stat.S_ISREG(info.st_mode):
        return _refuse(path, label, root, f"Not a file but {_kind(info.st_mode)}.", "unreadable")
    if info.st_size > max_bytes:
        message = f"{info.st_size:,} bytes; the limit is {max_bytes:,}."
        do = "Split it, or raise the setting max_file_mib."
        too_large = DocumentRejected(message, reason="too-large", do=do)
        return _Seen(path, label, root, None, too_large)
    if info.st_size == 0:
        return _refuse(path, label, root, "The file is empty (0 bytes).", "empty")
    return _Seen(path, label, root, info, None)


def _kind(mode: int) -> str:
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    return next((name for test, name in kinds if test(mode)), "something else")


def _refuse(path: Path, label: str, root: Path, message: str, reason: str) -> _Seen:
    return _Seen(path, label, root, None, DocumentRejected(message, reason=reason))


def _unreadable(error: OSError, reason: str) -> DocumentRejected:
    do = "Check its permissions." if isinstance(error, PermissionError) else ""
    return DocumentRejected(f"Cannot be read: {error.strerror}.", reason=reason, do=do)


def _name_all(seen: Sequence[_Seen], roots: tuple[Path, ...], skipped: dict[str, int]) -> Discovery:
    """List every path once and give each a unique printable name."""
    once = list({entry.path: entry for entry in reversed(seen)}.values())[::-1]
    labels = [printable(entry.label) for entry in once]
    uses = Counter(labels)
    taken: set[str] = set()
    files: list[FoundFile] = []
    rejected: list[RefusedFile] = []
    for entry, label in zip(once, labels, strict=True):
        prefix = f"{printable(entry.root.name)}/" if uses[label] > 1 else ""
        name = _free(prefix + label, taken)
        taken.add(name)
        if entry.info is not None:
            files.append(_found(entry.path, name, entry.root, entry.info))
        elif entry.error is not None:
            rejected.append(RefusedFile(entry.path, name, entry.error))
    return Discovery(tuple(files), tuple(rejected), roots, skipped)


def _found(path: Path, name: str, root: Path, info: os.stat_result) -> FoundFile:
    return FoundFile(path, name, info.st_size, info.st_mtime_ns, root, info.st_ctime_ns)


def _free(name: str, taken: set[str]) -> str:
    """Append " (2)", " (3)", ... before the suffix until the name is new."""
    stem, suffix = os.path.splitext(name)
    number = 1
    while name in taken:
        number += 1
        name = f"{stem} ({number}){suffix}"
    return name
