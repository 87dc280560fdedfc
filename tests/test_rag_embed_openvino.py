from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from tiny_models import write_embedder

from rag.embed import convert as module
from rag.embed.conformance import check_embedder, cosine
from rag.embed.convert import convert, converted
from rag.embed.model import read_model
from rag.embed.openvino import OpenVinoEmbedder, Precision
from rag.embed.packaged import packaged_model
from rag.embed.quiet import import_openvino
from rag.embed.torch import TorchEmbedder
from rag.errors import ModelError, StorageError

ROOT = Path(__file__).resolve().parents[1]
# Put on a child's path, this makes any connection an error and leaves a trace of it.
GUARD = """
import socket
def _refuse(*address, **_):
    with open({trace!r}, "a") as trace:
        trace.write(repr(address))
    raise OSError("no network in this test")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = _refuse
"""
COLD = """
import sys
from pathlib import Path
from rag.embed.openvino import OpenVinoEmbedder
embedder = OpenVinoEmbedder(Path(sys.argv[1]))
assert "openvino" not in sys.modules and "tokenizers" not in sys.modules, "imported too early"
assert embedder.encode_queries(["What is the torque?"]).shape == (1, 384)
heavy = {"torch", "transformers", "sentence_transformers", "openvino_telemetry.main"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home folder in which children find a network that refuses every connection."""
    home = tmp_path_factory.mktemp("home")
    (home / "guard").mkdir()
    code = GUARD.format(trace=str(home / "connections"))
    (home / "guard" / "sitecustomize.py").write_text(code, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home / "user"))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(home / "guard"), str(ROOT)]))
        patch.setenv("HF_HOME", str(home / "user" / "hub"))
        (home / "user").mkdir()
        yield home


@pytest.fixture(scope="module")
def cache(converted_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of its own with the packaged model converted, which a test may damage."""
    folder = tmp_path_factory.mktemp("cache") / "models"
    shutil.copytree(converted_models, folder)
    return folder


def test_converting_leaves_one_complete_folder_and_nothing_else(cache: Path) -> None:
    (folder,) = [entry for entry in cache.iterdir() if entry.is_dir()]
    assert {file.name for file in folder.iterdir()} == {"model.xml", "model.bin", "manifest.json"}
    assert json.loads((folder / "manifest.json").read_text())["sha256"] == packaged_model().sha256
    before = (folder / "model.bin").stat().st_mtime_ns
    assert converted(packaged_model(), cache) == folder / "model.xml"
    assert (folder / "model.bin").stat().st_mtime_ns == before


def test_callers_at_the_same_time_convert_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def slowly(_: object, work: Path) -> None:
        made.append(work)
        time.sleep(0.1)
        for name in ("model.xml", "model.bin"):
            (work / name).write_text(name)

    monkeypatch.setattr(module, "_run_conversion", slowly)
    folder = tmp_path / "new" / "folder"
    (folder / ".converting-left").mkdir(parents=True)
    with ThreadPoolExecutor(4) as pool:
        graphs = list(pool.map(lambda _: converted(packaged_model(), folder), range(4)))
    assert len(made) == len(set(graphs)) == 1
    assert not list(folder.glob(".converting-*"))


@pytest.mark.slow
def test_converting_needs_no_network_and_no_home(guarded: Path, tmp_path: Path) -> None:
    graph = converted(packaged_model(), tmp_path)
    assert graph.exists()
    assert not (guarded / "connections").exists()
    assert list((guarded / "user").iterdir()) == []


def test_a_cold_process_needs_no_torch_no_network_and_no_home(cache: Path, guarded: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COLD, str(cache)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (guarded / "connections").exists()
    assert list((guarded / "user").iterdir()) == []


def test_the_guard_sees_a_connection(guarded: Path) -> None:
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert b"no network in this test" in done.stderr
    (guarded / "connections").unlink()


def test_conformance(cache: Path) -> None:
    embedder = OpenVinoEmbedder(cache)
    check_embedder(embedder, embedder.tokens)


def test_conformance_with_small_batches_prompts_and_one_thread(cache: Path) -> None:
    model = packaged_model(query_prompt="query: ", passage_prompt="passage: ")
    embedder = OpenVinoEmbedder(cache, model=model, batch_tokens=16, threads=1)
    check_embedder(embedder, embedder.tokens)
    plain = OpenVinoEmbedder(cache)
    assert embedder.fingerprint != plain.fingerprint
    same = cosine(embedder.encode_queries(["bolt"]), plain.encode_passages(["query: bolt"]))
    assert same[0] > 0.999


def test_both_engines_give_the_same_vectors_and_fingerprint(cache: Path) -> None:
    texts = [
        *(
            f"Bolt {number} needs a torque of {number * 7} Nm." * (number % 9)
            for number in range(40)
        ),
        "主轴螺栓的扭矩是多少？",
        "Mixed 文本 with [SEP] and </s>",
        "a\ud800b\x00c",
        "word " * 400,
        "字" * 400,
        " ".join(f"tok{number}" for number in range(300)),
        "😀 émigré naïve Ünïcode",
        "line\nbreaks\r\nand\ttabs",
        "UPPER lower",
        "x" * 20_000,
    ]
    torch = TorchEmbedder(device="cpu")
    assert torch.fingerprint == OpenVinoEmbedder(cache).fingerprint
    expected = torch.encode_passages(texts)
    wanted: list[tuple[Precision, float]] = [("f32", 0.9999), ("auto", 0.999)]
    for precision, least in wanted:
        embedder = OpenVinoEmbedder(cache, precision=precision)
        found = embedder.encode_passages(texts)
        assert cosine(expected, found).min() >= least, precision


def test_more_texts_than_a_window(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{'long ' * (number % 5)}text {number}" for number in range(23)]
    embedder = OpenVinoEmbedder(cache)
    expected = embedder.encode_passages(texts)
    monkeypatch.setattr("rag.embed.openvino.WINDOW", 4)
    assert cosine(expected, embedder.encode_passages(texts)).min() > 0.999


def test_a_tiny_model_of_each_pooling(tmp_path: Path) -> None:
    for pooling in ("mean", "cls"):
        folder = write_embedder(tmp_path / pooling, pooling=pooling)
        out = tmp_path / f"{pooling}-converted"
        out.mkdir()
        convert(folder, pooling, out)
        core = import_openvino().Core()
        graph = core.compile_model(out / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        torch = TorchEmbedder(str(folder), device="cpu")
        (ids,) = torch.tokens.encode(["wear goggles"])
        vector = graph([ids[None], np.ones_like(ids[None])])[0]
        assert cosine(vector, torch.encode_passages(["wear goggles"]))[0] > 0.999


def test_an_unsuitable_model_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    model = read_model(write_embedder(tmp_path / "max", pooling="max"))
    embedder = OpenVinoEmbedder(tmp_path / "cache", model=model)
    with pytest.raises(ModelError, match="Set embedder to torch"):
        embedder.encode_queries(["a"])
    assert not (tmp_path / "cache").exists()


def test_weights_that_changed_are_not_converted(tmp_path: Path) -> None:
    model = read_model(write_embedder(tmp_path / "tiny"), sha256="0" * 64)
    with pytest.raises(ModelError, match="not the expected ones"):
        converted(model, tmp_path / "cache")
    assert [file.name for file in (tmp_path / "cache").iterdir()] in ([], ["convert.lock"])


def test_an_incomplete_result_is_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = converted(packaged_model(), cache)
    whole = graph.read_bytes()
    made: list[Path] = []

    def again(_: object, work: Path) -> None:
        made.append(work)
        (work / "model.xml").write_bytes(whole)
        (work / "model.bin").write_bytes((graph.parent / "model.bin").read_bytes())

    monkeypatch.setattr(module, "_run_conversion", again)
    for damage in (
        lambda: graph.write_bytes(whole[:1000]),
        lambda: graph.unlink(),
        lambda: (graph.parent / "manifest.json").write_text("{"),
        lambda: monkeypatch.setattr(module, "version", lambda _: "1.0"),
    ):
        damage()
        graph_now = converted(packaged_model(), cache)
        assert graph_now.read_bytes() == whole
    assert len(made) == 4
    assert graph_now.parent != graph.parent  # another OpenVINO version has a folder of its own


@pytest.mark.skipif(os.name == "nt", reason="needs a shell script")
def test_a_failing_conversion_names_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\necho first >&2\necho 'OSError: No space left' >&2\nexit 3\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    model = read_model(write_embedder(tmp_path / "tiny"))
    with pytest.raises(ModelError, match="OSError: No space left"):
        converted(model, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob(".converting-*"))
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(ModelError, match="exit code -9"):
        converted(model, tmp_path / "cache")
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    with pytest.raises(ModelError, match="took over"):
        converted(model, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="Cannot keep the converted model"):
        OpenVinoEmbedder(tmp_path / "file" / "cache").encode_queries(["a"])


def test_a_damaged_graph_is_a_model_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.xml").write_text("<net")
    monkeypatch.setattr("rag.embed.openvino.converted", lambda *_: tmp_path / "model.xml")
    with pytest.raises(ModelError, match=f"Remove {tmp_path}"):
        OpenVinoEmbedder(tmp_path).prepare()


def test_a_waiting_process_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    monkeypatch.setattr(module, "TIMEOUT_S", 0.1)
    model = read_model(write_embedder(tmp_path / "tiny"))
    (tmp_path / "cache").mkdir()
    with (
        FileLock(tmp_path / "cache" / "convert.lock"),
        pytest.raises(ModelError, match="Another process"),
    ):
        converted(model, tmp_path / "cache")


def test_precision_follows_the_processor() -> None:
    cases: list[tuple[Precision, list[str], str]] = [
        ("auto", ["FP32", "BF16"], "bf16"),
        ("auto", ["FP32"], "f32"),
        ("f32", ["FP32", "BF16"], "f32"),
        ("bf16", ["FP32", "BF16"], "bf16"),
    ]
    for precision, capabilities, expected in cases:
        options = OpenVinoEmbedder(Path(), precision=precision)._options(capabilities)
        assert options["INFERENCE_PRECISION_HINT"] == expected
    with pytest.raises(ModelError, match="no bf16"):
        OpenVinoEmbedder(Path(), precision="bf16")._options(["FP32"])


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="threads -1"):
        OpenVinoEmbedder(Path(), threads=-1)
    with pytest.raises(ValueError, match="batch_tokens 0"):
        OpenVinoEmbedder(Path(), batch_tokens=0)
