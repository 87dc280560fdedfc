"""`youju serve` as a real process: started, waited for, its output kept for looking at."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]


@dataclass
class ServeProcess:
    """A running `youju serve`; `log` is what it wrote to standard error."""

    url: str
    home: Path
    running: subprocess.Popen[bytes]
    out_file: Path
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text("utf-8", "replace")

    def http(self, key: str = "") -> httpx.Client:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def stop(self, how: signal.Signals = signal.SIGTERM, timeout_s: float = 60) -> int:
        """Send a signal and return the exit status."""
        self.running.send_signal(how)
        return self.running.wait(timeout_s)


@contextmanager
def serve_process(
    home: Path, *arguments: str, ready: bool = True, **settings: Any
) -> Iterator[ServeProcess]:
    """Run `youju serve` on a free port for the length of a `with` block.

    Args:
        home: The home folder.
        arguments: Further arguments.
        ready: Wait until it is ready, not only until it listens.
        settings: Settings, as environment variables have them, without YOUJU_.
    """
    environment = {name: value for name, value in os.environ.items() if name[:6] != "YOUJU_"}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment |= {f"YOUJU_{name.upper()}": str(value) for name, value in settings.items()}
    environment |= {"YOUJU_HOME": str(home), "PYTHONPATH": path}
    number = len(list(home.glob("serve-*.out")))
    out_file, log_file = home / f"serve-{number}.out", home / f"serve-{number}.log"
    command = [sys.executable, "-m", "youju", "serve", "--port", "0", *arguments]
    with out_file.open("wb") as out, log_file.open("wb") as log:
        running = subprocess.Popen(command, stdout=out, stderr=log, env=environment, cwd=ROOT)
    try:
        url = _address(running, out_file, log_file)
        process = ServeProcess(url, home, running, out_file, log_file)
        if ready:
            wait_until_ready(url, running)
        yield process
    finally:
        if running.poll() is None:
            running.terminate()
            try:
                running.wait(30)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def wait_until_ready(url: str, running: subprocess.Popen[bytes], timeout_s: float = 90) -> None:
    """Wait until /readyz says so."""
    end = time.monotonic() + timeout_s
    while running.poll() is None and time.monotonic() < end:
        try:
            if httpx.get(f"{url}/readyz", timeout=30).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("the server did not become ready")


def _address(running: subprocess.Popen[bytes], out_file: Path, log_file: Path) -> str:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found = re.search(r"http://\S+(?=/v1)", out_file.read_text())
        if found:
            return found[0]
        assert running.poll() is None, (running.returncode, log_file.read_text())
        time.sleep(0.05)
    raise AssertionError("the server did not say where it listens")
