"""Every key of an official config is looked at; other families are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from glm_models import SMALL

from rag.errors import CheckpointError
from rag.glm.config import (
    family,
    native_config,
    official_config,
    read_json,
    read_native,
    read_official,
)

CONFIG = official_config(SMALL, "float32")


def test_a_config_survives_both_directions() -> None:
    assert read_official(CONFIG, "here") == SMALL
    native = native_config(SMALL, stop_ids=[2], dtype="float32")
    assert read_native(native, "here").rope_ratio == 1
    assert native["rms_norm_eps"] == 1e-5
    assert native["rope_parameters"]["rope_theta"] == 10_000


@pytest.mark.parametrize(("ratio", "theta"), [(1, 1e4), (50, 5e5), (500, 5e6), (0.5, 5e3)])
def test_the_rope_ratio_is_honoured(ratio: float, theta: float) -> None:
    shape = read_official(CONFIG | {"rope_ratio": ratio}, "here")
    native = native_config(shape, stop_ids=[2], dtype="float32")
    assert native["rope_parameters"]["rope_theta"] == theta
    assert read_native(native, "here").rope_ratio == ratio


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"model_type": "llama"}, "'llama'"),
        ({"model_type": None}, "without a model_type"),
        ({"model_type": "glm"}, "native GLM"),
        ({"position_encoding_2d": True}, "ChatGLM-6B (the first)"),
        ({"_name_or_path": "THUDM/chatglm2-6b-32k"}, "ChatGLM2"),
        ({"_name_or_path": "THUDM/codegeex2-6b"}, "CodeGeeX2"),
        ({"padded_vocab_size": 151_552}, "GLM-4"),
    ],
)
def test_another_family_is_named(change: dict[str, Any], found: str) -> None:
    assert family(CONFIG | change) == found
    with pytest.raises(CheckpointError, match="another family") as caught:
        read_official(CONFIG | change, "here")
    assert found in str(caught.value)


def test_a_folder_s_name_is_no_family() -> None:
    assert family(CONFIG | {"_name_or_path": "/data/chatglm2-and-3/chatglm3-6b/"}) == "ChatGLM3"


@pytest.mark.parametrize(
    "harmless",
    [
        {"gradient_checkpointing": True},
        {"attn_implementation": "sdpa"},
        {"_attn_implementation": "eager"},
        {"eos_token_id": [2]},
        {"eos_token_id": [2, 64795, 64797]},
    ],
)
def test_what_changes_nothing_is_taken(harmless: dict[str, Any]) -> None:
    assert read_official(CONFIG | harmless, "x") == read_official(CONFIG, "x")


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8-sig")
    assert read_json(tmp_path / "config.json") == CONFIG


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"eos_token_id": [2, 5]}, ["eos_token_id = [2, 5]"]),
        ({"hidden_size": 2**30}, ["at most 1,000 layers and a width of 1,000,000"]),
        ({"sliding_window": 4096}, ["unknown key 'sliding_window'"]),
        ({"rmsnorm": False}, ["rmsnorm = False"]),
        ({"original_rope": False}, ["original_rope = False"]),
        ({"apply_residual_connection_post_layernorm": True}, ["post_layernorm = True"]),
        ({"multi_query_attention": None}, ["multi_query_attention"]),
        ({"add_bias_linear": True}, ["add_bias_linear = True"]),
        ({"eos_token_id": 130005}, ["eos_token_id = 130005"]),
        ({"num_layers": "28"}, ["num_layers = '28'"]),
        ({"num_layers": True}, ["num_layers = True"]),
        ({"hidden_size": 0}, ["hidden_size = 0"]),
        ({"seq_length": None}, ["seq_length = None"]),
        ({"multi_query_group_num": 3}, ["4 heads", "3 groups"]),
        ({"kv_channels": 6}, ["width 6"]),
        ({"vocab_size": 300}, ["vocab_size 300"]),
        ({"hidden_size": 2**30}, ["beyond any ChatGLM3"]),
        ({"rope_ratio": -1}, ["rope_ratio = -1"]),
        ({"rope_ratio": 0}, ["above 0"]),
        ({"rope_ratio": float("nan")}, ["rope_ratio = nan"]),
        ({"quantization_bit": 2}, ["quantization_bit = 2", "0, 4, 8"]),
        ({"torch_dtype": "float8"}, ["'float8'"]),
    ],
)
def test_what_would_compute_something_else_is_refused(
    change: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_official(CONFIG | change, "here")
    for part in parts:
        assert part in str(caught.value)


def test_every_key_is_needed_or_has_a_default() -> None:
    needed = {
        key
        for key in CONFIG
        if _fails({name: value for name, value in CONFIG.items() if name != key})
    }
    assert needed == {
        "model_type", "num_layers", "padded_vocab_size", "hidden_size", "ffn_hidden_size",
        "kv_channels", "num_attention_heads", "seq_length", "multi_query_attention",
        "multi_query_group_num",
    }  # fmt: skip


def _fails(config: dict[str, Any]) -> bool:
    try:
        read_official(config, "here")
    except CheckpointError:
        return True
    return False


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "llama"},
        {"vocab_size": 151_552},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0}},
    ],
)
def test_another_native_model_is_refused(change: dict[str, Any]) -> None:
    native = native_config(SMALL, stop_ids=[2], dtype="float32")
    with pytest.raises(CheckpointError, match="no converted ChatGLM3"):
        read_native(native | change, "here")


@pytest.mark.parametrize("rope", [[1], "default", 7])
def test_rope_parameters_of_another_form_are_refused(rope: object) -> None:
    native = native_config(SMALL, stop_ids=[2], dtype="float32")
    with pytest.raises(CheckpointError, match="no converted ChatGLM3"):
        read_native(native | {"rope_parameters": rope}, "here")


@pytest.mark.parametrize("theta", [float("inf"), float("nan"), -1.0, "x", None, True, [1]])
def test_a_rope_theta_that_is_no_number_is_named(theta: object) -> None:
    native = native_config(SMALL, stop_ids=[2], dtype="float32")
    rope = native["rope_parameters"] | {"rope_theta": theta}
    with pytest.raises(CheckpointError, match="rope_theta = "):
        read_native(native | {"rope_parameters": rope}, "here")


@pytest.mark.parametrize("text", ["", "[1]", "{", "\udcff", "[" * 100_000])
def test_what_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(CheckpointError, match="config"):
        read_json(path)
    with pytest.raises(CheckpointError, match="Cannot read"):
        read_json(tmp_path / "absent.json")
