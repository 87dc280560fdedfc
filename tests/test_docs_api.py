"""docs/api.md is right: its commands and programs run, in order, against a live server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/api.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.M | re.S)


class Shell:
    """Runs one block after another; what a block sets, the next ones have, Python's too."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._groups: list[int] = []
        self.environment = environment

    def run(self, block: str) -> str:
        """Run a block, every line of which must succeed; return what it printed."""
        kept = self._folder / "environment"
        script = f"set -euo pipefail -o allexport\n{block}\nenv -0 > {kept}\n"
        with (self._folder / "output").open("w+b") as output:
            started = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self._folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            status = started.wait(120)
            with suppress(ProcessLookupError):  # unless it left something in the background
                os.killpg(started.pid, 0)
                self._groups.append(started.pid)
            output.seek(0)
            said = output.read().decode()
        assert status == 0, f"{block}\n{said}"
        pairs = kept.read_text("utf-8").split("\0")
        self.environment = dict(pair.split("=", 1) for pair in pairs if pair)
        return said

    def close(self) -> None:
        """End what was left running in the background."""
        for group in self._groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)


@pytest.fixture
def shell(home: Path, tmp_path: Path) -> Iterator[Shell]:
    """A user's folder, with `youju` on the path and a free port."""
    folder = tmp_path / "user"
    command = folder / "bin/youju"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m youju "$@"\n')
    command.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = Shell(
        folder,
        {
            **os.environ,
            "PATH": f"{command.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "YOUJU_HOME": str(home),
            "YOUJU_PORT": str(port),
        },
    )
    yield made
    made.close()


@pytest.mark.skipif(
    not (shutil.which("curl") and shutil.which("jq")), reason="needs the commands curl and jq"
)
def test_every_block_runs(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names: dict[str, Any] = {}
    said = ""
    for language, block in BLOCKS:
        if language == "bash":
            said += shell.run(block)
            continue
        for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY"):
            monkeypatch.setenv(name, shell.environment[name])
        exec(compile(block, "docs/api.md", "exec"), names)
        said += capsys.readouterr().out
    names["client"].close()
    for expected in (
        "1 completed, 1 failed", '"filename": "d60.md"', "185 kg", "240 kg", "12 天",
        "data: [DONE]", "2 vectors of 384", '"title": "d60.md"', "\n401\n", "insufficient_scope",
    ):  # fmt: skip
        assert expected in said, said


def test_no_block_is_left_out() -> None:
    assert {language for language, _ in BLOCKS} == {"bash", "python"}
    assert len(BLOCKS) == PAGE.count("```") / 2
    assert len(BLOCKS) >= 15


def test_the_page_is_short_and_its_links_lead_somewhere() -> None:
    assert len(PAGE.splitlines()) < 300
    headings = {
        heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", PAGE, re.M)
    }
    for link in re.findall(r"\]\(([^)]+)\)", PAGE):
        assert link[1:] in headings if link.startswith("#") else (ROOT / "docs" / link).exists()


def test_the_errors_it_names_exist() -> None:
    sources = "".join(path.read_text("utf-8") for path in (ROOT / "api").glob("*.py"))
    table = PAGE.split("## Errors")[1].split("## Limits")[0]
    codes = [
        code
        for row in re.findall(r"^\| [0-9, ]+ \|([^|]*)\|", table, re.M)
        for code in re.findall(r"`(\w+)`", row)
    ]
    assert len(codes) > 15
    built = {"file_not_found", "vector_store_not_found"}
    assert [code for code in codes if f'"{code}"' not in sources and code not in built] == []
