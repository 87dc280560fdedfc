"""Parsing files of unknown origin in processes that may crash, hang or be taken over.

`ParserPool` is the outside of the fence; ingest.worker is the inside. A worker has no inherited
environment, an empty working folder, limits on memory and processor time, cannot write files, open
sockets or start programs. What it answers is checked like any other input. A file that turns out to
need OCR is parsed again by a worker that has it. On macOS only part of the limits exist, on Windows
only the time limit does.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, cast

from ingest.allowance import OCR_PAGES
from ingest.discover import SUPPORTED, media_type
from ingest.fence_folder import WorkerFolder, sweep
from ingest.ocr import ocr_installed
from ingest.worker import MAX_HEADER, ocr_threads, read_message, write_message
from rag.errors import DocumentRejected
from rag.schema import Document, Span

_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from ingest.worker import main; main(sys.argv[1:])"
)
_START_SECONDS = 60.0
_REASONS = frozenset(
    "encrypted damaged too-large unsupported not-text empty limit needs-ocr outside unreadable "
    "changing".split()
)
_NATIVE = frozenset(SUPPORTED[suffix] for suffix in (".pdf", ".docx", ".docm"))
_CONTAINERS = frozenset(
    SUPPORTED[suffix] for suffix in (".zip", ".tar", ".gz", ".eml", ".msg", ".mht", ".epub")
)
_PICTURES = frozenset({SUPPORTED[".png"], SUPPORTED[".jpg"], SUPPORTED[".tiff"]})
_LEVELS = ("text", "native", "ocr")
_OCR_MIB = 3072  # address space that reading pictures maps, beside what parsing may take
_MIB = 1 << 20
_MAX_SPANS = 1_000_000


class ParserPool:
    """One or more fenced parsers, started when first needed, replaced when they fail.

    Threads may share a pool; each call takes one worker. Use it as a context manager, or call
    `close`.

    Args:
        workers: Processes at most, >= 1.
        timeout_s: Wall-clock seconds one file may take, > 0.
        memory_mib: Memory a worker may take beyond its idle size, MiB.
        max_output_chars: Characters of text one file may give.
        unpacked_mib: What the members of one archive or mail may be together, MiB.
        passwords: Tried on encrypted files; never shown.
        ocr: Whether to read scans and pictures, where the extra is installed.
        ocr_timeout_s: Wall-clock seconds one file may take that needs OCR, > 0.
        ocr_pages: Pages and pictures of one file that are read by OCR.
        command: The worker's command line, for tests; the limits are appended to it.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        timeout_s: float = 120.0,
        memory_mib: int = 2048,
        max_output_chars: int = 50_000_000,
        unpacked_mib: int = 1024,
        passwords: Sequence[str] = (),
        ocr: bool = True,
        ocr_timeout_s: float = 1800.0,
        ocr_pages: int = OCR_PAGES,
        command: Sequence[str] | None = None,
    ) -> None:
        if workers < 1 or timeout_s <= 0 or memory_mib < 1 or max_output_chars < 1:
            raise ValueError("workers, timeout_s, memory_mib and max_output_chars must be positive")
        if unpacked_mib < 1 or ocr_timeout_s <= 0 or ocr_pages < 1:
            raise ValueError("unpacked_mib, ocr_timeout_s and ocr_pages must be positive")
        self._timeout = timeout_s
        self._ocr_timeout = ocr_timeout_s
        self._max_chars = max_output_chars
        self._memory = memory_mib
        self._command = [*(command or _default_command())]
        self._request = {
            "passwords": list(passwords),
            "ocr": False,
            "ocr_pages": ocr_pages,
            "unpacked": unpacked_mib * _MIB,
        }
        self._ocr = ocr and ocr_installed()
        self._swept = False
        self._idle: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)
        self._size = workers

    def __enter__(self) -> ParserPool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def parse(self, data: bytes, name: str) -> Document:
        """Parse one file behind the fence.

        Args:
            data: The whole file.
            name: Its name; the suffix says the format.

        Returns:
            What `ingest.parse.parse` returns, with every offset checked.

        Raises:
            DocumentRejected: As `ingest.parse.parse`; also "limit" when it takes too long, too
                much memory or gives too much text, and "damaged" when the parser crashes on it.
        """
        kind = media_type(name)
        level = 1 if kind in _NATIVE or kind in _CONTAINERS or kind in _PICTURES else 0
        first = self._ask(data, name, level)
        if not (first.wanted_ocr and self._ocr):
            return first.result()
        second = self._ask(data, name, _LEVELS.index("ocr"))
        if isinstance(second.outcome, DocumentRejected) and isinstance(first.outcome, Document):
            why = f"OCR of the other pages failed: {second.outcome.message}"
            return replace(first.outcome, warnings=(why, *first.outcome.warnings))
        return second.result()

    def _ask(self, data: bytes, name: str, level: int) -> _Answer:
        """Have a worker of at least this level parse a file."""
        with_ocr = level == _LEVELS.index("ocr")
        timeout = self._ocr_timeout if with_ocr else self._timeout
        request = self._request | {"name": name, "ocr": with_ocr}
        worker = self._idle.get()
        try:
            while True:
                if worker is not None and (not worker.alive() or level > worker.level):
                    worker.close()
                    worker = None
                if worker is None:
                    self._sweep()
                    worker = _Worker(self._command, self._limits(level), level)
                used = worker.used
                try:
                    return worker.parse(request, data, timeout, self._max_chars)
                except _Crashed as crash:
                    if not used:
                        return _Answer(crash.rejected)
                    # An earlier file may have harmed the process: only a fresh one can tell.
        except DocumentRejected as error:
            return _Answer(error)
        finally:
            if worker is not None and not worker.alive():
                worker.close()
                worker = None
            self._idle.put(worker)

    def _sweep(self) -> None:
        """Clear away, once, what killed parents left behind."""
        if not self._swept:
            self._swept = True
            sweep()

    def _limits(self, level: int) -> list[str]:
        """Return the arguments of a worker: kind, MiB, processor seconds, characters."""
        memory, seconds = self._memory, int(self._timeout) + 1
        if level == _LEVELS.index("ocr"):
            memory += _OCR_MIB
            seconds = (int(self._ocr_timeout) + 1) * ocr_threads()
        return [_LEVELS[level], str(memory), str(seconds), str(self._max_chars)]

    def close(self) -> None:
        """Stop the workers; waits for files being parsed. The pool can be used again."""
        for _ in range(self._size):
            worker = self._idle.get()
            if worker is not None:
                worker.close()
        for _ in range(self._size):
            self._idle.put(None)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What became of a file, and how many of its pages and pictures would need OCR."""

    outcome: Document | DocumentRejected
    wanted_ocr: int = 0

    def result(self) -> Document:
        if isinstance(self.outcome, DocumentRejected):
            raise self.outcome
        return self.outcome


class _Crashed(Exception):
    """The worker process ended in the middle of a file."""

    def __init__(self, rejected: DocumentRejected) -> None:
        self.rejected = rejected
        super().__init__(str(rejected))


class _Worker:
    """A running worker process and its pipes; used by one thread at a time."""

    def __init__(self, command: Sequence[str], arguments: Sequence[str], level: int) -> None:
        self.level = level
        self._folder = WorkerFolder()
        folder = self._folder.path or os.sep
        try:
            self._process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=folder,
                env=_environment(folder),
                close_fds=True,
                start_new_session=True,
            )
        except OSError as error:
            self._folder.remove()
            raise _not_started(str(error.strerror)) from error
        self._said: deque[bytes] = deque(maxlen=64)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        self._late = False
        self._spent = False
        self.used = False
        answer = self._exchange(None, b"", _START_SECONDS, 0)
        if answer is None:
            said = self._last_words()
            self.close()
            raise _not_started(said)

    def alive(self) -> bool:
        return not (self._late or self._spent) and self._process.poll() is None

    def parse(
        self, request: dict[str, Any], data: bytes, timeout: float, max_chars: int
    ) -> _Answer:
        answer = self._exchange(request, data, timeout, max_chars)
        self.used = True
        if answer is None:
            self._spent = True
            raise self._post_mortem(timeout)
        header, body = answer
        self._spent = header.get("reason") == "limit"
        wanted = header.get("wanted_ocr")
        try:
            return _Answer(_document(header, body, max_chars), int(bool(wanted)))
        except DocumentRejected as error:
            return _Answer(error, int(bool(wanted)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self._spent = True
            raise DocumentRejected(
                "The parser answered nonsense about it.", reason="damaged"
            ) from error

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue
        self._folder.remove()

    def _exchange(
        self, request: dict[str, Any] | None, data: bytes, timeout: float, max_chars: int
    ) -> tuple[dict[str, Any], bytes] | None:
        """Send a request and read the answer; None when the worker failed or ran out of time."""
        timer = threading.Timer(timeout, self._expire)
        timer.daemon = True
        timer.start()
        try:
            if request is not None:
                stdin = cast(BinaryIO, self._process.stdin)
                write_message(stdin, request, data)
            stdout = cast(BinaryIO, self._process.stdout)
            return read_message(stdout, MAX_HEADER, 4 * max_chars)
        except (OSError, ValueError, RecursionError, json.JSONDecodeError):
            return None
        finally:
            timer.cancel()

    def _expire(self) -> None:
        self._late = True
        self._process.kill()

    def _listen(self) -> None:
        """Keep the last of what the worker prints on its standard error."""
        stderr = cast(BinaryIO, self._process.stderr)
        for line in iter(lambda: stderr.readline(4096), b""):
            self._said.append(line)

    def _last_words(self) -> str:
        self._process.kill()
        self._process.wait()
        self._listener.join()
        lines = b"".join(self._said).decode("utf-8", "replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")
        return "".join(char if char.isprintable() else " " for char in last)[:200].rstrip(".")

    def _post_mortem(self, timeout: float) -> DocumentRejected | _Crashed:
        """Say why the worker is gone; what may be an earlier file's doing is a crash."""
        if self._late:
            return _over(f"took longer than {timeout:g} s", "parse_timeout")
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = 0
        said = self._last_words()
        if code == -getattr(signal, "SIGXCPU", 10**6):
            return _over(f"took longer than {timeout:g} s of processor time", "parse_timeout")
        if "memory" in said.lower() or code == -getattr(signal, "SIGKILL", 10**6):
            return _Crashed(_over("needs more memory than the parser may use", "parse_memory_mib"))
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return _Crashed(
            DocumentRejected(
                f"The parser crashed on it ({how}); the file is damaged or hostile.",
                reason="damaged",
            )
        )


def _not_started(why: str) -> DocumentRejected:
    return DocumentRejected(
        f"The parser process did not start: {why}.", reason="unreadable", do="Run `youju doctor`."
    )


def _over(what: str, setting: str) -> DocumentRejected:
    do = f"Split it, or raise the setting {setting}."
    return DocumentRejected(f"Parsing it {what}.", reason="limit", do=do)


def _default_command() -> list[str]:
    root = str(Path(__file__).resolve().parents[1])
    return [sys.executable, "-I", "-B", "-X", "utf8", "-c", _START, root]


def _environment(folder: str) -> dict[str, str]:
    """Return all that a worker sees of the environment: one thread everywhere, no home."""
    names = ("SYSTEMROOT", "WINDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    kept = {name: os.environ[name] for name in names if name in os.environ}
    single = ("OMP", "OPENBLAS", "MKL", "RAYON", "TOKIO_WORKER")
    threads = {f"{name}_{'THREADS' if '_' in name else 'NUM_THREADS'}": "1" for name in single}
    home = str(folder)
    return (
        kept | threads | {"HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "1"}
    )


def _document(header: dict[str, Any], body: bytes, max_chars: int) -> Document:
    """Build the Document of an answer, trusting nothing in it.

    Raises:
        DocumentRejected: If the answer is a refusal.
        ValueError, TypeError, KeyError, AttributeError: If it is not a well-formed answer.
    """
    reason = header.get("reason")
    if reason is not None:
        if reason not in _REASONS:
            raise ValueError(f"unknown reason {reason!r}")
        raise DocumentRejected(
            _line(header["message"], 1000), reason=reason, do=_line(header["do"], 500)
        )
    text = body.decode("utf-8")
    if len(text) > max_chars:
        raise ValueError("too much text")
    if header["media_type"] not in SUPPORTED.values():
        raise ValueError("unknown media type")
    return Document(
        text=text,
        title=_line(header["title"], 500),
        pages=_spans(header["pages"], len(text)),
        sections=_spans(header["sections"], len(text)),
        media_type=header["media_type"],
        warnings=tuple(_line(warning, 500) for warning in header["warnings"][:100]),
    )


def _spans(values: list[dict[str, Any]], length: int) -> tuple[Span, ...]:
    if len(values) > _MAX_SPANS:
        raise ValueError("too many spans")
    spans: list[Span] = []
    position = 0
    for value in values:
        start, end = value["start"], value["end"]
        if not (isinstance(start, int) and isinstance(end, int)):
            raise TypeError("offsets must be integers")
        if not position <= start <= end <= length:
            raise ValueError("spans out of order or out of the text")
        spans.append(Span(start, end, _line(value["label"], 2000)))
        position = end
    return tuple(spans)


def _line(value: object, longest: int) -> str:
    if not isinstance(value, str):
        raise TypeError("expected a string")
    return "".join(char if char.isprintable() else " " for char in value[:longest])
