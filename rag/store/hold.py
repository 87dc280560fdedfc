"""Says between processes that something is in use: shared by many, or held by one alone.

The system lets go of a hold when its process ends, however it ends. Where the file system or the
platform knows no such locks, nobody is kept out.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType

_STEP_S = 0.02


class Hold:
    """A hold on a file; a context manager, or ended by `close`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go; a second time does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def hold(path: Path, *, alone: bool, wait_s: float = 0.0) -> Hold | None:
    """Take a hold.

    Args:
        path: A file that serves for nothing else; made if missing, its folder is not.
        alone: Beside no other hold; else beside others that are shared.
        wait_s: Seconds to wait for others, >= 0.

    Returns:
        The hold; None if others were in the way for all that time.

    Raises:
        OSError: If the file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if sys.platform == "win32":
        return Hold(descriptor)
    import fcntl

    kind = (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB
    end = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(descriptor, kind)
        except BlockingIOError:
            if time.monotonic() >= end:
                os.close(descriptor)
                return None
            time.sleep(_STEP_S)
        except OSError:  # this file system knows no locks
            return Hold(descriptor)
        else:
            return Hold(descriptor)
