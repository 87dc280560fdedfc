"""Looks at the installation and says what is there, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from rag.config import Settings
from rag.errors import YoujuError

Status = Literal["ok", "note", "missing"]

_PACKAGES = (
    "openvino",
    "faiss-cpu",
    "tantivy",
    "jieba",
    "kreuzberg",
    "pypdfium2",
    "langchain-core",
    "torch",
    "transformers",
    "sentence-transformers",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        status: "ok"; "note" (works, worth knowing); "missing" (something asked for cannot work).
        what: What was looked at.
        detail: What was found and, if need be, what to do.
    """

    status: Status
    what: str
    detail: str


def examine(settings: Settings) -> list[Finding]:
    """Look at everything the settings ask for; never raises for what it finds."""
    findings = [Finding("ok", "python", f"{platform.python_version()} at {sys.executable}")]
    findings += [_package(name) for name in _PACKAGES]
    if sys.platform != "linux" or platform.machine() != "x86_64":
        where = f"{sys.platform} {platform.machine()}"
        findings.append(Finding("note", "platform", f"{where}: only Linux x86-64 is tested"))
    checks: list[tuple[str, Callable[[Settings], Finding]]] = [
        ("home", _home),
        ("database", _database),
        ("embedder", _embedder),
        ("vector search", _gpu),
        ("reranker", _reranker),
        ("generator", _generator),
        ("OCR", _ocr),
    ]
    for what, check in checks:
        try:
            findings.append(check(settings))
        except (YoujuError, OSError) as error:
            findings.append(Finding("missing", what, " ".join(str(error).split())))
    return findings


def _package(name: str) -> Finding:
    try:
        return Finding("ok", name, version(name))
    except PackageNotFoundError:
        if name == "faiss-cpu" and importlib.util.find_spec("faiss"):
            return Finding("ok", "faiss", "another build than faiss-cpu")
        return Finding("missing", name, "not installed; run `make install`")


def _home(settings: Settings) -> Finding:
    home = settings.home
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free // 2**20
    if not os.access(home, os.W_OK):
        return Finding("missing", "home", f"{home} is not writable; set YOUJU_HOME")
    status: Status = "ok" if free > 500 else "note"
    return Finding(status, "home", f"{home}, {free:,} MiB free")


def _database(settings: Settings) -> Finding:
    from rag.build import Rag, make_embedder
    from rag.store.catalog import Catalog

    database = Rag(settings).db
    stores = Catalog(database).stores()
    database.close()
    mine = make_embedder(settings).fingerprint
    other = [info.name for info in stores if info.embedder != mine]
    detail = f"{database.name}, stores: {len(stores)}"
    if other:
        names = ", ".join(other[:5]) + (", …" if len(other) > 5 else "")
        detail += f"; made by another embedder than now set: {names} (`youju reindex` re-embeds)"
    return Finding("note" if other else "ok", "database", detail)


def _embedder(settings: Settings) -> Finding:
    from rag.build import make_embedder

    embedder = make_embedder(settings)
    embedder.encode_queries(["ready?"])
    return Finding("ok", f"embedder {settings.embedder}", f"{embedder.fingerprint}; it works")


def _gpu(settings: Settings) -> Finding:
    from rag.index.dense import FaissIndex

    index = FaissIndex(1, device=settings.index_device)
    device = f"{index.gpus} GPU" if index.gpus else "CPU"
    return Finding("ok", "vector search", f"faiss on {device}")


def _reranker(settings: Settings) -> Finding:
    from rag.build import make_reranker

    reranker = make_reranker(settings)
    if reranker is None:
        return Finding("ok", "reranker", "none (reranker = none)")
    reranker.rerank("ready?", ["ready"])
    return Finding("ok", "reranker", settings.reranker_model or settings.reranker_url)


def _ocr(settings: Settings) -> Finding:
    if settings.ocr == "off":
        return Finding("ok", "OCR", "off (ocr = off)")
    if importlib.util.find_spec("rapidocr") is None:
        how = "scans and pictures are refused; pip install 'youju[ocr]' brings the reader"
        return Finding("note", "OCR", f"not installed: {how}")
    return Finding("ok", "OCR", f"rapidocr {version('rapidocr')}, models in its package")


def _generator(settings: Settings) -> Finding:
    if settings.generator == "extractive":
        return Finding("ok", "generator", "extractive (needs no model)")
    if settings.generator == "chatglm3":
        return _chatglm3(settings)
    import httpx

    url = settings.generator_url.rstrip("/") + "/models"
    key = settings.generator_api_key.get_secret_value()
    try:
        response = httpx.get(
            url, timeout=5, headers={"Authorization": f"Bearer {key}"} if key else {}
        )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Finding("missing", "generator", f"cannot reach {url}: {error}")
    if response.status_code != httpx.codes.OK:
        return Finding("note", "generator", f"{url} answered {response.status_code}")
    return Finding("ok", "generator", f"{settings.generator_model} at {settings.generator_url}")


def _chatglm3(settings: Settings) -> Finding:
    """Look through the model's folder; its weights, which take minutes, are not loaded."""
    from rag.build import make_chatglm3
    from rag.glm.load import read_adapter
    from rag.glm.served import fitting, look_up

    model, _, budget = make_chatglm3(settings)
    found = look_up(model.model)
    dtype, device = fitting(model.dtype, model.device, found.source)
    shape = found.source.shape
    stored = f"{shape.bits} bits" if shape.bits else found.source.dtype
    detail = (
        f"{found.source.name} in {found.folder}: {shape.parameters:,} parameters as {stored}, "
        f"to run as {dtype} on {device}; context {shape.context:,}, {budget:,} for the prompt"
    )
    if settings.generator_adapter:
        lora, _ = read_adapter(Path(settings.generator_adapter), found.source)
        kind = "LoRA" if lora else "P-Tuning"
        detail += f"; {kind} adapter {settings.generator_adapter}"
    return Finding("ok", "generator chatglm3", detail)
