from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest
from tiny_models import write_cross_encoder, write_embedder, write_json

from rag.embed.conformance import check_embedder, cosine
from rag.embed.hub import find_model, first_line
from rag.embed.torch import TorchEmbedder, pick_device, pick_dtype
from rag.errors import ModelError
from rag.testing import FakeEmbedder, FakeTokens


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedder(tmp_path_factory.mktemp("models") / "tiny")


def test_conformance_of_a_model_in_a_folder(tiny: Path) -> None:
    embedder = TorchEmbedder(str(tiny), device="cpu", batch_tokens=64)
    check_embedder(embedder, embedder.tokens)
    assert embedder.dim == 16
    assert embedder.fingerprint.startswith("tiny@")
    assert embedder.fingerprint.endswith(" dim=16 pool=mean norm=l2 max=24 q='' p=''")


def test_conformance_of_the_fake() -> None:
    check_embedder(FakeEmbedder(), FakeTokens(max_tokens=1_000_000))


def test_vectors_equal_those_of_sentence_transformers(tiny: Path) -> None:
    from sentence_transformers import SentenceTransformer

    texts = ["wear goggles", "", "the torque of the main bolt is 45", "a " * 60]
    expected = SentenceTransformer(str(tiny), device="cpu").encode(texts, normalize_embeddings=True)
    found = TorchEmbedder(str(tiny), device="cpu").encode_passages(texts)
    assert np.allclose(found, expected, atol=1e-5)


def test_queries_and_passages_get_their_own_prompt(tiny: Path) -> None:
    plain = TorchEmbedder(str(tiny), device="cpu")
    prompted = TorchEmbedder(str(tiny), device="cpu", query_prompt="query ", passage_prompt="lid ")
    text = ["torque of the bolt"]
    query, passage = prompted.encode_queries(text), prompted.encode_passages(text)
    assert cosine(query, plain.encode_queries(["query torque of the bolt"]))[0] > 0.9999
    assert cosine(passage, plain.encode_passages(["lid torque of the bolt"]))[0] > 0.9999
    assert cosine(query, passage)[0] < 0.999
    assert "q='query ' p='lid '" in prompted.fingerprint


def test_a_plain_encoder_without_sentence_transformers_settings(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "plain", modules=False)
    embedder = TorchEmbedder(str(folder), device="cpu")
    assert embedder.encode_passages(["wear goggles"]).shape == (1, 16)
    assert "pool=mean" in embedder.fingerprint
    assert "max=32" in embedder.fingerprint


def test_a_folder_with_a_vocabulary_only(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "old")
    vocab = json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.__getitem__)) + "\n")
    write_json(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 32},
    )
    embedder = TorchEmbedder(str(folder), device="cpu")
    assert embedder.tokens.count(["wear goggles"]) == [2]
    whole = TorchEmbedder(str(write_embedder(tmp_path / "new")), device="cpu")
    text = ["The torque, of the main bolt!"]
    assert cosine(embedder.encode_passages(text), whole.encode_passages(text))[0] > 0.9999


def test_text_never_becomes_a_special_token(tiny: Path) -> None:
    embedder = TorchEmbedder(str(tiny), device="cpu")
    spelled, special = embedder.encode_passages(["[SEP]", "x"]), embedder._loaded.tokenizer
    assert special("[SEP]")["input_ids"] == embedder.tokens.encode(["[SEP]"])[0].tolist()
    assert special.sep_token_id not in special("a [SEP] b")["input_ids"][1:-1]
    assert spelled.shape == (2, 16)


def test_a_batch_too_large_for_the_memory_is_halved(tiny: Path) -> None:
    import torch

    embedder = TorchEmbedder(str(tiny), device="cpu")
    texts = [f"bolt {number}" for number in range(7)]
    expected = embedder.encode_passages(texts)
    real, sizes = embedder._loaded, []

    class Small:
        def encode(self, texts: list[str], **options: object) -> object:
            sizes.append(len(texts))
            if len(texts) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real.encode(texts, **options)

    embedder._loaded = Small()
    assert cosine(expected, embedder.encode_passages(texts)).min() > 0.9999
    assert sizes == [7, 3, 1, 2, 4, 2, 2]


def test_no_memory_for_a_single_text_is_a_model_error(tiny: Path) -> None:
    import torch

    class Failing:
        error: BaseException

        def encode(self, *_: object, **__: object) -> object:
            raise self.error

    embedder = TorchEmbedder(str(tiny), device="cpu")
    network = embedder._loaded = Failing()
    for error, message in [
        (torch.OutOfMemoryError("CUDA out of memory"), "GPU's memory"),
        (RuntimeError("device-side assert\ntriggered"), "failed: device-side assert."),
    ]:
        network.error = error
        with pytest.raises(ModelError, match=message):
            embedder.encode_passages(["a", "b"])


def test_a_model_that_cannot_be_had_is_a_model_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="no model folder 'nowhere'"):
        TorchEmbedder("nowhere").encode_queries(["a"])
    with pytest.raises(ModelError, match="no model folder '/no/where'"):
        find_model("/no/where")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"Cannot get the model some-one/some\.model"):
        TorchEmbedder("some-one/some.model").encode_queries(["a"])


def test_a_name_that_is_a_folder_is_never_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_embedder(tmp_path / "maker" / "model")
    monkeypatch.chdir(tmp_path)
    assert find_model("maker/model") == ("model", Path("maker/model"))
    assert TorchEmbedder("maker/model").fingerprint == TorchEmbedder(str(folder)).fingerprint


def test_a_downloaded_model_is_found_without_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "models--maker--model"
    write_embedder(cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    name, folder = find_model("maker/model")
    assert (name, folder.resolve()) == ("model", (cache / "snapshots" / "abc").resolve())


def test_a_folder_with_pickled_weights_only_is_refused(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="not in the safetensors format"):
        TorchEmbedder(str(folder)).encode_queries(["a"])


def test_a_folder_with_code_of_its_own_is_refused_and_the_code_not_run(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "code")
    trace = tmp_path / "ran"
    (folder / "modeling.py").write_text(f"open({str(trace)!r}, 'w')\nclass M: pass\n")
    config = json.loads((folder / "config.json").read_text())
    write_json(
        folder / "config.json",
        {
            **config,
            "model_type": "made-up",
            "auto_map": {"AutoModel": "modeling.M", "AutoConfig": "modeling.M"},
        },
    )
    with pytest.raises(ModelError, match="Cannot load the model"):
        TorchEmbedder(str(folder), device="cpu").encode_queries(["a"])
    assert not trace.exists()


def test_damaged_weights_are_a_model_error(tmp_path: Path) -> None:
    folder = write_embedder(tmp_path / "damaged")
    whole = (folder / "model.safetensors").read_bytes()
    for damaged in (b"", whole[:100], b"\xff" * 1000):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ModelError, match="Cannot load the model damaged"):
            TorchEmbedder(str(folder), device="cpu").prepare()


def test_weights_that_are_missing_are_not_made_up(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_embedder(tmp_path / "partial")
    weights = load_file(folder / "model.safetensors")
    without_pooler = {name: value for name, value in weights.items() if "pooler" not in name}
    assert len(without_pooler) < len(weights)
    save_file(without_pooler, folder / "model.safetensors", metadata={"format": "pt"})
    TorchEmbedder(str(folder), device="cpu").prepare()
    without_pooler.pop("encoder.layer.1.output.dense.weight")
    save_file(without_pooler, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of its weights, such as encoder\.layer\.1"):
        TorchEmbedder(str(folder), device="cpu").prepare()


def test_device_and_data_type() -> None:
    import torch

    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert pick_device("auto") == expected
    assert pick_device("cpu") == "cpu"
    types = [pick_dtype(wanted, "cpu") for wanted in ("auto", "f32", "bf16", "f16")]
    assert types == [torch.float32, torch.float32, torch.bfloat16, torch.float16]


def test_a_cuda_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ModelError, match="cuda:1 is wanted"):
        TorchEmbedder(str(tiny), device="cuda:1").prepare()


def test_half_precision_agrees(tiny: Path) -> None:
    texts = ["wear goggles", "the torque of the main bolt is 45"]
    full = TorchEmbedder(str(tiny), device="cpu").encode_passages(texts)
    half = TorchEmbedder(str(tiny), device="cpu", precision="bf16").encode_passages(texts)
    assert cosine(full, half).min() > 0.999


@pytest.mark.gpu
def test_the_gpu_gives_the_same_vectors() -> None:
    texts = [f"Bolt {number} needs {number * 7} Nm." for number in range(200)]
    cpu = TorchEmbedder(device="cpu").encode_passages(texts)
    for precision in ("auto", "f32", "bf16", "f16"):
        gpu = TorchEmbedder(device="cuda", precision=precision)
        assert cosine(cpu, gpu.encode_passages(texts)).min() > 0.999, precision


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_tokens 0"):
        TorchEmbedder(batch_tokens=0)


def test_a_classifier_of_pairs_has_no_place_here(tmp_path: Path) -> None:
    folder = write_cross_encoder(tmp_path / "pairs")
    assert TorchEmbedder(str(folder), device="cpu").encode_queries(["bolt"]).shape == (1, 16)


@pytest.mark.parametrize(
    ("text", "line"),
    [("a.\nb", "a"), ("", "ValueError"), ("\n \n x \n", "x"), ("y" * 999, "y" * 300)],
)
def test_first_line(text: str, line: str) -> None:
    assert first_line(ValueError(text)) == line
