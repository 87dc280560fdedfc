"""Arguments of `ChatGLM3` and `load_chatglm3` that cannot be used: one line says what can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from glm_serving import write_chatty

from rag.chat_models import ChatGLM3
from rag.errors import CheckpointError, ConfigError
from rag.glm.chat import Turn, prompt_ids
from rag.glm.load import load_chatglm3


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"temperature": "hot"}, "temperature = 'hot' is not allowed.*valid number"),
        ({"top_p": []}, r"top_p = \[\] is not allowed"),
        ({"seed": 1.5}, "seed = 1.5 is not allowed"),
        ({"timeout": "soon"}, "timeout = 'soon'"),
        ({"do_sample": "perhaps"}, "do_sample = 'perhaps'"),
        ({"stop": "###"}, "stop = '###'"),
        ({"temprature": 1}, "Unknown field 'temprature'.*: model, adapter,.* temperature,"),
    ],
)
def test_a_wrong_field_is_told_in_one_line(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        ChatGLM3(model="x", **wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, "foo", "auto", "bf16", "int8", 16])
def test_a_dtype_that_cannot_be_loaded_is_named(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(ConfigError, match=r"dtype = .* is not allowed.*'bfloat16'"):
        load_chatglm3(write_chatty(tmp_path), dtype)


@pytest.mark.parametrize("device", ["tpu", "auto", "cuda:99", None, "cuda:x"])
def test_a_device_that_cannot_be_loaded_to_is_named(tmp_path: Path, device: Any) -> None:
    with pytest.raises(ConfigError, match=r"device .*(cuda:0|Set it to cpu)"):
        load_chatglm3(write_chatty(tmp_path), device=device)


def test_a_model_without_a_tokenizer_says_so_when_a_chat_is_made(tmp_path: Path) -> None:
    folder = write_chatty(tmp_path)
    (folder / "tokenizer.model").unlink()
    loaded = load_chatglm3(folder, "float32")
    with pytest.raises(CheckpointError, match=r"Copy tokenizer\.model"):
        prompt_ids(loaded.tokenizer, [Turn("user", "hi")])
