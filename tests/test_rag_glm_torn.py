"""Weight files that were damaged or not fetched to the end: read, named, or fetched on."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_models import write_official
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.errors import CheckpointError
from rag.glm.load import load_chatglm3
from rag.glm.weights import load_pickle


def test_a_download_that_was_cut_short_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_official(tmp_path / "cached", shards=2)
    missing = folder / "model-00002-of-00002.safetensors"
    content = missing.read_bytes()
    missing.unlink()
    fetched: list[str] = []

    def snapshot(name: str, **options: Any) -> str:
        if not options.get("local_files_only"):
            fetched.append(name)
            missing.write_bytes(content)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(CheckpointError, match="lacks the shard"):
        load_chatglm3("nobody/chatglm3-6b")
    assert fetched == []
    for _ in range(2):
        load_chatglm3("nobody/chatglm3-6b", download=True)
    assert fetched == ["nobody/chatglm3-6b"]


@pytest.mark.filterwarnings("ignore::UserWarning")  # of odd protocols
@settings(max_examples=150, deadline=None)
@given(
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 255)), min_size=1, max_size=4),
    st.none() | st.integers(0, 2_000),
)
def test_a_damaged_pytorch_file_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory,
    zipped: bool,
    changes: list[tuple[int, int]],
    length: int | None,
) -> None:
    path = tmp_path_factory.mktemp("torn") / "pytorch_model.bin"
    tensors = {"a.weight": torch.ones(8, 8), "b": torch.ones(4).half()}
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    damaged = bytearray(path.read_bytes())
    for place, byte in changes:
        damaged[place % len(damaged)] = byte
    path.write_bytes(damaged[:length])
    try:
        load_pickle(path)
    except CheckpointError as error:
        assert str(path) in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    "stream", [b"\x80\x02u.", b"\x80\x02R.", b"\x80\x02K\x01Q.", b"\x80\x02h\x07."]
)
def test_a_pickle_that_ends_in_its_middle_is_named(tmp_path: Path, stream: bytes) -> None:
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", stream)
        file.writestr("archive/version", "3\n")
    with pytest.raises(CheckpointError):
        load_pickle(path)
