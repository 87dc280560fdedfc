"""A server nobody here wrote: `transformers serve` loads a converted model, `openai` asks it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from glm_models import random_tensors, write_official
from glm_serving import CHATTY
from glm_tokenizers import COUNT, LETTERS, WORDS, write_model

from rag.chat_models import openai_chat_model
from rag.config import Settings
from rag.glm.checkpoint import convert

pytestmark = pytest.mark.services

NEEDED = ("fastapi", "uvicorn", "openai")
"""What `transformers serve` imports, of transformers' extra "serving"."""


def write_wordy(folder: Path) -> Path:
    """Random weights that answer in words only: the server's decoder fails on stray bytes."""
    tensors = random_tensors(CHATTY)
    rows = tensors["transformer.output_layer.weight"]
    rows.zero_()
    first = COUNT - len(WORDS) - len(LETTERS)
    for id_ in range(first, first + len(WORDS) - 1, 2):  # of two opposites one is above zero
        rows[id_] = torch.randn(CHATTY.hidden, generator=torch.Generator().manual_seed(id_))
        rows[id_ + 1] = -rows[id_]
    write_model(folder)
    return write_official(folder, CHATTY, tensors=tensors)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The base URL of a running server, and the folder it serves."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        pytest.skip(f"`transformers serve` needs {', '.join(missing)}, not installed here")
    command = Path(sys.executable).with_name("transformers")
    if not command.exists():
        pytest.skip("the command `transformers` is not beside this Python")
    folder = tmp_path_factory.mktemp("serve")
    native = folder / "native"
    convert(write_wordy(folder / "official"), native)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (folder / "log").open("wb")
    server = subprocess.Popen(
        [str(command), "serve", str(native), "--device", "cpu", "--port", str(port)],
        stdout=log,
        stderr=subprocess.STDOUT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HOME": str(folder), "OMP_NUM_THREADS": "1"},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if server.poll() is not None:
                break
            try:
                if httpx.get(f"{url}/health", timeout=1).status_code == httpx.codes.OK:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        else:
            pytest.fail("transformers serve did not come up:\n" + (folder / "log").read_text())
        if server.poll() is not None:
            pytest.fail("transformers serve ended:\n" + (folder / "log").read_text()[-3000:])
        yield f"{url}/v1", native
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()
        shutil.rmtree(native, ignore_errors=True)


def test_the_openai_generator_talks_to_it(served: tuple[str, Path], tmp_path: Path) -> None:
    url, native = served
    settings = Settings(
        home=tmp_path,
        generator="openai",
        generator_url=url,
        generator_model=str(native),
        generator_max_tokens=12,
    )
    model = openai_chat_model(settings)
    said = model.invoke([("system", "Be brief."), ("user", "hello world")])
    assert said.usage_metadata is not None
    assert 1 <= said.usage_metadata["output_tokens"] <= 12
    chunks = list(model.stream([("system", "Be brief."), ("user", "hello world")]))
    assert len(chunks) > 3
    assert "".join(str(chunk.content) for chunk in chunks).strip() == str(said.content).strip()
    assert said.content
