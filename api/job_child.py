"""The process that ingests uploaded files beside the server: started when there is something to do.

A file that crashes it does not touch the server. It ends with the server, also when that is killed:
then the pipe between them closes. One server process has it, whatever their number on this home.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from filelock import FileLock, Timeout
from pydantic import SecretStr

from api.faults import told
from api.observing import log
from ingest.file_job import Report
from rag.config import Settings

LOOK_S = 1.0
"""Seconds between two looks for something to do, when nobody has rung."""

LEAVE_S = 10.0
"""Seconds in which it must end when the server does."""

_ROOT = Path(__file__).resolve().parents[1]
_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from ingest.job_worker import main; main()"
)
_LONGEST_WAIT_S = 60.0
_WELL_S = 60.0  # one that has lived for so long was well


class JobChild:
    """Keeps one such process running as long as there is something to do for it.

    Args:
        settings: Handed on to it.
        wanted: Whether there is something to do.
        report: Called with what became of each file.
    """

    def __init__(self, settings: Settings, wanted: Callable[[], bool], report: Report) -> None:
        self._settings = settings
        self._wanted = wanted
        self._report = report
        self._bell = threading.Event()
        self._stop = threading.Event()
        self._child: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._lock = FileLock(settings.jobs_folder / "child.lock", timeout=0, thread_local=False)

    def start(self) -> None:
        """Begin to look for something to do."""
        self._thread.start()

    def ring(self) -> None:
        """Say that there is something to do, so that it begins at once."""
        self._bell.set()

    def close(self) -> None:
        """End it; what it has not finished goes on with the next one."""
        self._stop.set()
        self._bell.set()
        if self._thread.is_alive():
            self._thread.join(LEAVE_S + 2)

    def _run(self) -> None:
        wait = 0.0
        while not self._stop.is_set():
            self._bell.wait(LOOK_S)
            rung = self._bell.is_set()
            self._bell.clear()
            if self._stop.is_set():
                break
            try:
                if not self._wanted() or not self._mine():
                    continue
            except Exception as error:  # noqa: BLE001  one fault must not end all ingestion
                log.error("jobs", reason=told(error))
                self._stop.wait(LOOK_S)
                continue
            begin = time.monotonic()
            try:
                self._watch(self._spawn(), rung)
            except Exception as error:  # noqa: BLE001  no process or thread to be had, say
                log.error("jobs", reason=told(error))
            finally:
                self._lock.release()
            if not self._stop.is_set():
                well = time.monotonic() - begin > _WELL_S
                wait = 0.0 if well else min(max(2 * wait, 0.5), _LONGEST_WAIT_S)
                self._stop.wait(wait)
                self._bell.set()

    def _mine(self) -> bool:
        """Take the lock that one server process of this home has."""
        folder = self._settings.jobs_folder
        folder.mkdir(mode=0o700, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            return False
        return True

    def _spawn(self) -> subprocess.Popen[bytes]:
        settings = json.dumps(_plain(self._settings)).encode()
        child = subprocess.Popen(
            [sys.executable, "-c", _START, str(_ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C is the server's; its end is the child's
        )
        self._tell(child, settings + b"\n")
        try:
            threading.Thread(
                target=self._listen, args=(child.stdout,), name="jobs-reports", daemon=True
            ).start()
        except RuntimeError:  # no thread to be had: it would be stopped by its first report
            child.kill()
            child.wait()
            raise
        return child

    def _watch(self, child: subprocess.Popen[bytes], rung: bool) -> None:
        """Ring on, until the child ends or is to end."""
        while not self._stop.is_set() and child.poll() is None:
            if rung:
                self._tell(child, b"\n")
            rung = self._bell.wait(LOOK_S)
            self._bell.clear()
        stdin = cast("IO[bytes]", child.stdin)
        try:
            stdin.close()
        except OSError:
            pass
        try:
            status = child.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            status = child.wait()
        if not self._stop.is_set():
            log.error("jobs", reason=f"the process that ingests files ended with status {status}")

    def _tell(self, child: subprocess.Popen[bytes], data: bytes) -> None:
        stdin = cast("IO[bytes]", child.stdin)
        try:
            stdin.write(data)
            stdin.flush()
        except OSError:  # it has ended; `_watch` sees that, too
            return

    def _listen(self, source: IO[bytes]) -> None:
        with source:
            for line in source:
                try:
                    store, file, status, seconds, message = json.loads(line)
                except (ValueError, TypeError):
                    continue
                self._report(store, file, status, float(seconds), message)


def _plain(settings: Settings) -> dict[str, Any]:
    """Return settings as JSON has them, with the secrets that the child needs."""
    found: dict[str, Any] = {}
    for name in Settings.model_fields:
        found[name] = _plain_value(getattr(settings, name))
    return found


def _plain_value(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain_value(one) for one in value]
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return str(value) if isinstance(value, Path) else value
