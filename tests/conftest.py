"""Fixtures shared by every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
SHARED = PROJECT.parent / "shared"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the developer's reaches a test; no test writes outside its folder."""
    for name in list(os.environ):
        if name.startswith("YOUJU_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("YOUJU_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def shared_sets() -> Path:
    """The folder of public retrieval sets, kept beside the checkout where it is available."""
    return _shared("sets")


@pytest.fixture(scope="session")
def shared_docs() -> Path:
    """The folder of real and hostile documents, kept beside the checkout where available."""
    return _shared("docs")


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs the test data folder {name}/, which is not beside this checkout")
    return folder
