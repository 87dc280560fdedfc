"""Weight files that were damaged or not fetched to the end: read, named, or fetched on."""

from __future__ import annotations

import errno
import io
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_models import write_official
from glm_tokenizers import write_model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_rag_glm_adapters import write_official_lora

from rag.errors import CheckpointError, PathError
from rag.glm.checkpoint import convert
from rag.glm.load import load_chatglm3
from rag.glm.merge import adapt
from rag.glm.tokenizer import load_tokenizer
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


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 134\n"


@pytest.mark.parametrize("layout", ["safetensors", "bin"])
def test_a_git_lfs_pointer_is_named(tmp_path: Path, layout: Any) -> None:
    folder = write_official(tmp_path / "model", layout=layout, shards=2)
    shard = sorted(folder.glob(f"*.{layout}"))[1]
    shard.write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=f"{shard.name} is a Git LFS pointer.*git lfs pull"):
        load_chatglm3(folder)


def test_a_tokenizer_that_is_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(POINTER)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is a Git LFS pointer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.model"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = write_official(write_model(tmp_path / "model"))
    real = io.open

    def guarded(file: Any, *arguments: Any, **options: Any) -> Any:
        if Path(file).name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(file))
        return real(file, *arguments, **options)

    monkeypatch.setattr("io.open", guarded)  # root may read everything
    with pytest.raises(PathError, match=f"Cannot read .*{name}: Permission denied"):
        load_chatglm3(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_weight_file_without_permission(tmp_path: Path) -> None:
    folder = write_official(tmp_path / "model")
    (folder / "model.safetensors").chmod(0)
    with pytest.raises(PathError, match="Permission denied"):
        load_chatglm3(folder)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_what_is_written_may_be_read_as_the_umask_says(
    tmp_path: Path, umask: int, mode: int
) -> None:
    folder = write_official(write_model(tmp_path / "model"))
    write_official_lora(tmp_path / "lora")
    before = os.umask(umask)
    try:
        convert(folder, tmp_path / "native")
        convert(folder, tmp_path / "shards", shard_bytes=10_000)
        adapt(folder, tmp_path / "lora", tmp_path / "adapter")
    finally:
        os.umask(before)
    written = [*(tmp_path / "native").iterdir(), *(tmp_path / "shards").iterdir(),
               *(tmp_path / "adapter").iterdir()]  # fmt: skip
    assert sum(path.suffix == ".safetensors" for path in written) > 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {mode}
