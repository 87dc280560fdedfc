"""Converting, loading and exporting checkpoints, and what a damaged or foreign one is told."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from glm_models import (
    CHATGLM3_6B,
    SMALL,
    official_logits,
    quantized,
    random_tensors,
    with_ratio,
    write_official,
)
from glm_tokenizers import write_model
from safetensors.torch import load_file, save_file

from rag.errors import CheckpointError, ModelError, PathError, StorageError
from rag.glm.checkpoint import convert, export
from rag.glm.config import GlmShape, read_json, read_native
from rag.glm.folder import MANIFEST
from rag.glm.keys import table
from rag.glm.load import load_chatglm3
from rag.glm.packing import unpack_official
from rag.glm.source import open_official
from rag.terminal import Progress

IDS = torch.tensor([5, 300, 7, 7, 123, 0, 9, 250, 31])


def native_logits(folder: Path, **options: Any) -> torch.Tensor:
    with torch.inference_mode():
        loaded = load_chatglm3(folder, "float32", **options)
        logits: torch.Tensor = loaded.model(input_ids=IDS[None]).logits[0]
    return logits


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for path in folder.glob("*.safetensors") for k, v in load_file(path).items()}


# -- what is computed ----------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [None, 1, 50, 0.5])
def test_logits_equal_an_independent_forward_pass(tmp_path: Path, ratio: float | None) -> None:
    shape = SMALL if ratio is None else with_ratio(ratio)
    write_official(tmp_path / "official", shape, rope_ratio=ratio)
    expected = official_logits(random_tensors(), shape, IDS)
    loaded = native_logits(tmp_path / "official")
    assert float((loaded - expected).abs().max()) < 1e-4
    convert(tmp_path / "official", tmp_path / "native")
    assert torch.equal(native_logits(tmp_path / "native"), loaded)
    if ratio == 50:
        plain = official_logits(random_tensors(), SMALL, IDS)
        assert float((plain - expected).abs().max()) > 0.01


@pytest.mark.parametrize("layout", ["safetensors", "bin", "old-bin"])
@pytest.mark.parametrize("shards", [1, 3])
def test_plain_transformers_loads_what_was_converted(
    tmp_path: Path, layout: Any, shards: int
) -> None:
    from transformers import AutoModelForCausalLM, GlmForCausalLM

    write_official(tmp_path / "official", layout=layout, shards=shards)
    write_model(tmp_path / "official")
    steps: list[Progress] = []
    written = convert(
        tmp_path / "official", tmp_path / "native", shard_bytes=20_000, progress=steps.append
    )
    assert len(written.files) > 2
    assert (steps[-1].done, steps[-1].total) == (17, 17)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "native")
    assert isinstance(model, GlmForCausalLM)
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == [2, 301, 303]
    direct = load_chatglm3(tmp_path / "official").model
    for name, tensor in direct.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    with torch.inference_mode():
        assert torch.equal(model(input_ids=IDS[None]).logits, direct(input_ids=IDS[None]).logits)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_there_and_back_is_bit_exact(tmp_path: Path, dtype: Any) -> None:
    shape = replace(SMALL, dtype=dtype, rope_ratio=50)
    write_official(tmp_path / "a", shape)
    write_model(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "b")
    written = export(tmp_path / "b", tmp_path / "c", shard_bytes=30_000)
    assert len(written.files) > 1
    before, after = weights_of(tmp_path / "a"), weights_of(tmp_path / "c")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype
        assert torch.equal(tensor, after[name]), name
    assert read_json(tmp_path / "a/config.json") == read_json(tmp_path / "c/config.json")
    assert (tmp_path / "a/tokenizer.model").read_bytes() == (
        tmp_path / "c/tokenizer.model"
    ).read_bytes()
    convert(tmp_path / "c", tmp_path / "d")
    assert weights_of(tmp_path / "b").keys() == weights_of(tmp_path / "d").keys()


def test_a_model_without_its_manifest_is_exported_all_the_same(tmp_path: Path) -> None:
    write_official(tmp_path / "a", with_ratio(50))
    convert(tmp_path / "a", tmp_path / "b")
    (tmp_path / "b" / MANIFEST).unlink()
    export(tmp_path / "b", tmp_path / "c")
    assert open_official(tmp_path / "c").shape.rope_ratio == 50


def test_a_dtype_is_converted_to(tmp_path: Path) -> None:
    write_official(tmp_path / "a")
    written = convert(tmp_path / "a", tmp_path / "b", dtype="bfloat16")
    assert written.dtype == "bfloat16"
    assert {tensor.dtype for tensor in weights_of(tmp_path / "b").values()} == {torch.bfloat16}
    assert read_json(tmp_path / "b/config.json")["dtype"] == "bfloat16"
    loaded = load_chatglm3(tmp_path / "b")
    assert loaded.model.dtype == torch.bfloat16
    assert loaded.model.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_official_checkpoints(tmp_path: Path, bits: int) -> None:
    tensors = random_tensors()
    packed = quantized(tensors, SMALL, bits)
    write_official(tmp_path / "q", tensors=packed, quantization_bit=bits)
    whole = dict(tensors)
    for entry in table(SMALL):
        if entry.quantisable:
            numbers = packed[entry.name] if bits == 8 else unpack_official(packed[entry.name])
            whole[entry.name] = numbers.float() * packed[entry.name + "_scale"].float()[:, None]
            worst = (whole[entry.name] - tensors[entry.name]).abs().amax(1)
            assert (worst <= packed[entry.name + "_scale"].float() * 0.51).all()
    expected = official_logits(whole, SMALL, IDS)
    plain = native_logits(tmp_path / "q", keep_quantized=False)
    assert float((plain - expected).abs().max()) < 1e-4
    assert convert(tmp_path / "q", tmp_path / "native").dequantized == bits
    assert torch.equal(native_logits(tmp_path / "native"), plain)


def test_int4_pairs_by_hand() -> None:
    packed = torch.tensor([[0x1F, -0x80]], dtype=torch.int8)  # 0x1F: 1, -1; 0x80: -8, 0
    assert unpack_official(packed).tolist() == [[1, -1, -8, 0]]


# -- the table -----------------------------------------------------------------------------------


def test_the_table_is_one_to_one_and_complete() -> None:
    from transformers import GlmConfig, GlmForCausalLM

    from rag.glm.config import native_config

    shape = replace(CHATGLM3_6B, layers=2)
    config = native_config(shape, stop_ids=[2], dtype="float16")
    with torch.device("meta"):
        model = GlmForCausalLM(GlmConfig(**config))
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    made = [
        (part.name, (part.stop - part.start, *entry.shape[1:]))
        for entry in table(shape)
        for part in entry.parts
    ]
    assert len(made) == len(dict(made))
    assert dict(made) == expected
    for entry in table(shape):
        ends = [0, *(part.stop for part in entry.parts)]
        assert [part.start for part in entry.parts] == ends[:-1]
        assert ends[-1] == entry.shape[0]


def test_the_size_of_chatglm3_6b() -> None:
    assert CHATGLM3_6B.parameters == 6_243_584_000
    assert len(table(CHATGLM3_6B)) == 199
    assert sum(len(entry.parts) for entry in table(CHATGLM3_6B)) == 311


# -- what is refused -----------------------------------------------------------------------------


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


class Evil:
    """Runs a command when it is unpickled by a careless reader."""

    def __reduce__(self) -> Any:
        return os.system, ("touch /tmp/owned-by-a-checkpoint",)


def _missing_shard(folder: Path) -> None:
    write_official(folder, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()


def _missing_bin_shard(folder: Path) -> None:
    write_official(folder, shards=3, layout="bin")
    (folder / "pytorch_model-00003-of-00003.bin").unlink()


def _cut_safetensors(folder: Path) -> None:
    cut(write_official(folder) / "model.safetensors", 0.7)


def _cut_header(folder: Path) -> None:
    (write_official(folder) / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")


def _cut_bin(folder: Path) -> None:
    cut(write_official(folder, layout="bin") / "pytorch_model.bin", 0.7)


def _cut_old_bin(folder: Path) -> None:
    cut(write_official(folder, layout="old-bin") / "pytorch_model.bin", 0.3)


def _lfs_pointer(folder: Path) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1827780615\n"
    (write_official(folder, layout="bin") / "pytorch_model.bin").write_bytes(pointer)


def _code(folder: Path) -> None:
    write_official(folder, layout="bin", tensors={**random_tensors(), "evil": Evil()})


def _no_weights(folder: Path) -> None:
    (write_official(folder) / "model.safetensors").unlink()


def _training_state(folder: Path) -> None:
    write_official(folder, layout="bin")
    torch.save({"step": 3}, folder / "pytorch_model.bin")


def _missing_tensor(folder: Path) -> None:
    tensors = random_tensors()
    del tensors["transformer.encoder.layers.1.mlp.dense_4h_to_h.weight"]
    write_official(folder, tensors=tensors)


def _unknown_tensor(folder: Path) -> None:
    name = "transformer.encoder.layers.2.input_layernorm.weight"
    write_official(folder, tensors=random_tensors() | {name: torch.ones(24)})


def _prefix_tensor(folder: Path) -> None:
    name = "transformer.prefix_encoder.embedding.weight"
    write_official(folder, tensors=random_tensors() | {name: torch.ones(7, 64)})


def _vocabulary(folder: Path) -> None:
    write_official(folder, padded_vocab_size=640)


def _tokenizer(folder: Path) -> None:
    write_model(write_official(folder, replace(SMALL, vocabulary=300)))


def _integers(folder: Path) -> None:
    tensors = random_tensors()
    name = "transformer.output_layer.weight"
    write_official(folder, tensors=tensors | {name: tensors[name].to(torch.int32)})


def _not_quantised(folder: Path) -> None:
    write_official(folder, quantization_bit=8)


def _outside(folder: Path) -> None:
    write_official(folder, shards=2)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00001", "../model-00001"))


def _wrong_index(folder: Path) -> None:
    write_official(folder, shards=2)
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("00002-of", "00001-of"))


def _no_index(folder: Path) -> None:
    write_official(folder, shards=2)
    (folder / "model.safetensors.index.json").write_text("{}")


HOSTILE: list[tuple[Callable[[Path], None], list[str]]] = [
    (_missing_shard, ["lacks the shard model-00002-of-00003.safetensors", "3"]),
    (_missing_bin_shard, ["lacks the shard pytorch_model-00003-of-00003.bin"]),
    (_cut_safetensors, ["model.safetensors is damaged or cut off"]),
    (_cut_header, ["model.safetensors is damaged or cut off"]),
    (_cut_bin, ["pytorch_model.bin is damaged or cut off"]),
    (_cut_old_bin, ["pytorch_model.bin is"]),
    (_lfs_pointer, ["pytorch_model.bin is"]),
    (_code, ["may hold code"]),
    (_no_weights, ["holds no weights", "pytorch_model.bin"]),
    (_training_state, ["something else than named tensors"]),
    (_missing_tensor, ["lacks the tensor transformer.encoder.layers.1.mlp.dense_4h_to_h.weight"]),
    (_unknown_tensor, ["unknown tensor transformer.encoder.layers.2.input_layernorm.weight"]),
    (_prefix_tensor, ["P-Tuning prefix", "transformer.prefix_encoder.embedding.weight"]),
    (_vocabulary, ["[320, 24]", "[640, 24]", "word_embeddings"]),
    (_tokenizer, ["tokenizer of 295 pieces", "300 rows"]),
    (_integers, ["stored as int32"]),
    (_not_quantised, ["quantization_bit = 8", "has no scales"]),
    (_outside, ["../model-00001"]),
    (_wrong_index, ["does not hold", "as the index says"]),
    (_no_index, ["no weight_map"]),
]


@pytest.mark.parametrize(("write", "parts"), HOSTILE, ids=[w.__name__ for w, _ in HOSTILE])
def test_a_bad_checkpoint_is_refused_by_name(
    tmp_path: Path, write: Callable[[Path], None], parts: list[str]
) -> None:
    folder = tmp_path / "official"
    write(folder)
    with pytest.raises(CheckpointError) as caught:
        convert(folder, tmp_path / "native")
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError):
        load_chatglm3(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["official"]
    assert not Path("/tmp/owned-by-a-checkpoint").exists()


def test_the_target_must_be_new(tmp_path: Path) -> None:
    write_official(tmp_path / "a")
    (tmp_path / "b").mkdir()
    convert(tmp_path / "a", tmp_path / "b")  # an empty folder will do
    with pytest.raises(PathError, match="not empty"):
        convert(tmp_path / "a", tmp_path / "b")
    with pytest.raises(PathError, match="not empty"):
        convert(tmp_path / "a", tmp_path / "a")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PathError, match="is no folder"):
        convert(tmp_path / "a", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_official(tmp_path / "a")

    def fail(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rag.glm.shards.save_file", fail)
    with pytest.raises(StorageError, match="No space left"):
        convert(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_too_little_room_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_official(tmp_path / "a")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    with pytest.raises(StorageError, match="1,000 bytes free"):
        convert(tmp_path / "a", tmp_path / "b")


def test_export_refuses_what_is_not_native(tmp_path: Path) -> None:
    write_official(tmp_path / "a")
    with pytest.raises(CheckpointError, match="official layout already"):
        export(tmp_path / "a", tmp_path / "b")
    convert(tmp_path / "a", tmp_path / "n")
    tensors = load_file(tmp_path / "n/model.safetensors")
    save_file(tensors | {"extra": torch.ones(1)}, tmp_path / "n/model.safetensors")
    with pytest.raises(CheckpointError, match="unknown tensor extra"):
        export(tmp_path / "n", tmp_path / "b")
    del tensors["lm_head.weight"]
    save_file(tensors, tmp_path / "n/model.safetensors")
    with pytest.raises(CheckpointError, match="lacks the tensor lm_head"):
        load_chatglm3(tmp_path / "n")


def test_the_manifest_says_what_it_was_made_from(tmp_path: Path) -> None:
    import hashlib

    write_official(tmp_path / "a", shards=2)
    convert(tmp_path / "a", tmp_path / "b", dtype="float16")
    manifest = json.loads((tmp_path / "b" / MANIFEST).read_text())
    assert (manifest["action"], manifest["dtype"]) == ("convert", "float16")
    assert manifest["name"] == "tiny/chatglm3"
    assert set(manifest["sources"]) == {
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json",
    }  # fmt: skip
    for name, sha256 in manifest["sources"].items():
        assert sha256 == hashlib.sha256((tmp_path / "a" / name).read_bytes()).hexdigest()
    assert {"youju", "torch", "transformers"} <= set(manifest["versions"])


def test_nothing_is_downloaded_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def snapshot(name: str, **options: Any) -> str:
        asked.append(options)
        raise FileNotFoundError(name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(ModelError, match="--download"):
        load_chatglm3("nobody/chatglm3-6b")
    assert [options.get("local_files_only") for options in asked] == [True]
    with pytest.raises(ModelError, match="Cannot get the model"):
        load_chatglm3("nobody/chatglm3-6b", download=True)
    for options in asked:
        assert not any(pattern.endswith(".py") for pattern in options["allow_patterns"])
    with pytest.raises(ModelError, match="no model folder"):
        load_chatglm3("/nowhere/at all")


def test_a_native_shape_survives_transformers_own_saving(tmp_path: Path) -> None:
    shape: GlmShape = with_ratio(50)
    write_official(tmp_path / "a", shape)
    load_chatglm3(tmp_path / "a").model.save_pretrained(tmp_path / "saved")
    read = read_native(read_json(tmp_path / "saved/config.json"), "saved")
    assert replace(read, name=shape.name) == shape
    assert torch.equal(native_logits(tmp_path / "saved"), native_logits(tmp_path / "a"))


def test_memory_that_does_not_suffice_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_official(tmp_path / "a")

    def fail(*_args: object, **_options: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate "
                           "memory: you tried to allocate 1 bytes.")  # fmt: skip

    monkeypatch.setattr("rag.glm.load.build_model", fail)
    with pytest.raises(ModelError, match="does not fit into the memory of cpu"):
        load_chatglm3(tmp_path / "a")
