"""The engine on a GPU, beside transformers' own `generate` and continuous batching."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from glm_models import SMALL, write_official
from glm_serving import ids_of, submit

from rag.glm.engine import Engine
from rag.glm.load import load_chatglm3

pytestmark = pytest.mark.gpu

PROMPTS = [[5, 6, 7], list(range(10, 40)), [9] * 17, [300]]


def test_a_batch_on_the_gpu_gives_what_each_gets_alone(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no CUDA device")
    model = load_chatglm3(write_official(tmp_path), "float32", "cuda").model
    engine = Engine(model, stop_ids=[], context=SMALL.context, batch=3, chunk=8)
    running = [submit(engine, ids, 12) for ids in PROMPTS]
    for ids, generation in zip(PROMPTS, running, strict=True):
        inputs = torch.tensor([ids], device="cuda")
        whole = model.generate(
            inputs, attention_mask=torch.ones_like(inputs), do_sample=False, max_new_tokens=12,
            eos_token_id=None, temperature=None, top_p=None,
        )  # fmt: skip
        assert ids_of(generation) == whole[0, len(ids) :].tolist()
    engine.close()
    assert engine.cache_bytes == 0


def test_continuous_batching_serves_the_native_model(tmp_path: Path) -> None:
    from transformers import ContinuousBatchingConfig, GenerationConfig

    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no CUDA device")
    model = load_chatglm3(write_official(tmp_path), "float32", "cuda").model
    engine = Engine(model, stop_ids=[], context=SMALL.context)
    expected = [ids_of(submit(engine, ids, 12)) for ids in PROMPTS]
    engine.close()
    plain = GenerationConfig(do_sample=False, max_new_tokens=12, eos_token_id=-1, pad_token_id=0)
    made = model.generate_batch(
        PROMPTS, generation_config=plain, progress_bar=False,
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=128),
    )  # fmt: skip
    assert [output.generated_tokens for output in made.values()] == expected
