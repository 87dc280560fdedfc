"""The documents say what the program does: commands run, tables and help texts are current."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from served import Served

from ingest.discover import SUPPORTED
from ingest.job import ingest_paths
from rag.build import build_rag
from rag.config import Settings

ROOT = Path(__file__).resolve().parents[1]
READMES = ["README.md", "README.zh.md"]


@pytest.fixture(scope="module")
def write_docs() -> ModuleType:
    """The script that generates pages."""
    spec = importlib.util.spec_from_file_location("write_docs", ROOT / ".ci/write_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_settings_page_is_current(write_docs: ModuleType) -> None:
    assert (ROOT / "docs/settings.md").read_text("utf-8") == write_docs.settings_page()


def test_the_command_line_page_is_current(write_docs: ModuleType) -> None:
    assert (ROOT / "docs/cli.md").read_text("utf-8") == write_docs.cli_page()


def test_the_readme_commands_run(home: Path, tmp_path: Path) -> None:
    """Every `.venv/bin/youju` line runs in order, in a user's folder with documents of theirs.

    The Chinese README has the same commands, which another test holds.
    """
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    lines = [line for block in blocks for line in block.splitlines() if "bin/youju" in line]
    lines.remove(".venv/bin/youju serve")  # it ends with the next test's client
    assert len(lines) >= 3
    shutil.copytree(ROOT / "samples/corpus/hr", tmp_path / "Documents/handbook")
    command = tmp_path / ".venv/bin/youju"
    command.parent.mkdir(parents=True)
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m youju "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        ["sh", "-e", "-c", "\n".join(lines)],
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert "4 added" in done.stdout
    assert '"refused": false' in done.stdout


@pytest.mark.parametrize("readme", READMES)
def test_the_readme_client_runs(
    readme: str, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / readme).read_text("utf-8"), re.S)
    assert "http://127.0.0.1:8000/v1" in code
    code = code.replace("http://127.0.0.1:8000", served.url).replace('"handbook"', '"book"')
    code = code.replace("youju:handbook", "youju:book")
    (tmp_path / "handbook.md").write_text("# Leave\n\nEverybody gets 25 days of leave a year.\n")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, readme, "exec"), names := {})  # type: ignore[var-annotated]
    assert "25 days" in capsys.readouterr().out
    names["client"].vector_stores.delete(names["store"].id)


def test_the_demonstration_answers_three_questions_and_refuses_the_fourth(home: Path) -> None:
    older = build_rag(Settings(home=home, chunk_tokens=100))  # an earlier version's store
    ingest_paths(older, "samples", [ROOT / "samples/corpus/hr"])
    older.db.close()
    done = subprocess.run(
        [sys.executable, str(ROOT / "samples/demo.py")],
        env={**os.environ, "YOUJU_HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    _, *answers = re.split(r"^\$ \.venv/bin/youju ask .*$", done.stdout, flags=re.M)
    assert "youju reindex --store samples" in done.stdout
    assert len(answers) == 4
    assert all(re.search(r"^\[1\] .*, characters \d+-\d+$", a, re.M) for a in answers[:3])
    assert "The documents hold no answer to this question." in answers[3]
    assert "[1]" not in answers[3]


@pytest.mark.parametrize("readme", READMES)
def test_the_readme_names_real_things(readme: str) -> None:
    text = (ROOT / readme).read_text("utf-8")
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    for target in re.findall(r"`?make ([a-z-]+)", text):
        assert target in targets
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (ROOT / link).exists(), link
    for name in re.findall(r"YOUJU_([A-Z_]+)=", text):
        from rag.config import Settings

        assert name.lower() in Settings.model_fields


def test_both_readmes_have_the_same_commands() -> None:
    first, second = (
        [
            line.split("#")[0].strip()
            for block in re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text("utf-8"), re.S)
            for line in block.splitlines()
        ]
        for name in READMES
    )
    assert first == second


def test_both_readmes_name_the_same_commands_and_folders() -> None:
    for pattern in (r"`(youju [a-z]+|[a-z]+)", r"^([a-z]+)/ |  ([a-z]+)/ "):
        first, second = (
            {
                name
                for line in (ROOT / readme).read_text("utf-8").splitlines()
                if line.startswith("| `youju") or re.match("[a-z]+/ ", line)
                for name in re.findall(pattern, line)
            }
            for readme in READMES
        )
        assert first == second
        assert len(first) > 5


def test_the_api_page_lists_the_kinds_of_files() -> None:
    page = (ROOT / "docs/api.md").read_text("utf-8")
    listed = page.partition("\nSupported are `")[2].partition("`")[0]
    assert set(listed.split()) == set(SUPPORTED)


def test_every_json_key_of_ask_is_documented() -> None:
    import youju
    from rag.schema import Answer

    page = (ROOT / "docs/json.md").read_text("utf-8")
    for key in youju.answer_json("default", Answer("text", refused=True)):
        assert f'"{key}"' in page


def test_no_file_is_too_long() -> None:
    tracked = [
        path
        for folder in ("rag", "ingest", "api", "eval", "bench", "tests", "samples")
        for path in (ROOT / folder).rglob("*.py")
    ]
    too_long = {
        str(path.relative_to(ROOT)): length
        for path in tracked
        if (length := len(path.read_text("utf-8").splitlines())) > 500
    }
    assert too_long == {}
