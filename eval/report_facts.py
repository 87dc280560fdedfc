"""The conditions of a measurement: settings without secrets, versions, the machine, the command."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr

from eval.report_data import Fact
from rag.config import CONFIG_VARIABLE, PREFIX, LoadedSettings

_PACKAGES = (
    "youju", "torch", "openvino", "faiss-cpu", "faiss-cuda", "tantivy", "jieba", "numpy",
    "transformers", "sentence-transformers", "langchain-core", "ir-measures", "matplotlib",
)  # fmt: skip
_HIDDEN = "(set, not shown)"
_URL = re.compile(r"[A-Za-z][\w+.-]*://[^\s,]+")


def setting_facts(loaded: LoadedSettings) -> tuple[Fact, ...]:
    """Return every setting with its value and origin; of a secret only whether it is set."""
    return tuple(
        Fact(name, _shown(getattr(loaded.settings, name)), origin)
        for name, origin in loaded.origins.items()
    )


def without_secrets(text: str, loaded: LoadedSettings) -> str:
    """Return a message with the settings' secrets, and what may be one in a URL, replaced."""
    for name in loaded.origins:
        for secret in _secrets(getattr(loaded.settings, name)):
            if value := secret.get_secret_value():
                text = text.replace(value, "***")
    return _URL.sub(lambda found: _public_url(found[0]), text)


def _secrets(value: object) -> list[SecretStr]:
    values = value if isinstance(value, tuple) else (value,)
    return [each for each in values if isinstance(each, SecretStr)]


def _shown(value: object) -> str:
    if isinstance(value, tuple | SecretStr):
        return _HIDDEN if any(each.get_secret_value() for each in _secrets(value)) else ""
    if value is None:
        return "(unset)"
    return _URL.sub(lambda found: _public_url(found[0]), str(value))


def _public_url(url: str) -> str:
    """Return a URL without what may be a key in it: user, password, query, fragment."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "***"
    _, at, host = parts.netloc.rpartition("@")
    query, fragment = "***" if parts.query else "", "***" if parts.fragment else ""
    netloc = f"***@{host}" if at else host
    return urlunsplit((parts.scheme, netloc, parts.path, query, fragment))


def version_facts() -> tuple[Fact, ...]:
    """Return the versions of the program, of what it is built on, and the machine."""
    facts = [Fact("Python", f"{platform.python_version()} ({platform.python_implementation()})")]
    for name in _PACKAGES:  # metadata only: nothing is imported
        try:
            facts.append(Fact(name, version(name)))
        except PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        *facts,
        Fact("processor", _processor()),
        Fact("cores of this process", str(cores)),
        Fact("operating system", f"{_system_name()}, {platform.system()} {platform.release()}"),
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()


def file_facts(folder: Path, split: str) -> tuple[Fact, ...]:
    """Return the files of a set that are there, each with its sha256 and bytes."""
    facts = []
    for name in ("corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv", "answers.jsonl"):
        path = folder / name
        if path.is_file():
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            facts.append(Fact(name, digest, f"{path.stat().st_size:,}"))
    return tuple(facts)


def command_line(
    arguments: Sequence[str], loaded: LoadedSettings, environ: Mapping[str, str]
) -> str:
    """Return a command with the environment that the settings came from, for a shell.

    Secrets are left out.

    Args:
        arguments: Of `youju`, the program itself left out.
        loaded: The settings in force.
        environ: The environment that they were read from.
    """
    variables = []
    if file := environ.get(CONFIG_VARIABLE):
        variables.append(f"{CONFIG_VARIABLE}={shlex.quote(file)}")
    for name, origin in loaded.origins.items():
        value = environ.get(PREFIX + name.upper(), "")
        if (
            origin.startswith(PREFIX)
            and value
            and _shown(getattr(loaded.settings, name)) == (str(getattr(loaded.settings, name)))
        ):
            variables.append(f"{PREFIX}{name.upper()}={shlex.quote(value)}")
    return " ".join([*variables, "youju", *(shlex.quote(argument) for argument in arguments)])
