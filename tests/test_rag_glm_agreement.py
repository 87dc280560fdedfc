"""The native model against the official code's own outputs, float32: prefill, cache, padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rag.glm.load import LoadedGlm, load_chatglm3

PREFILL, DECODE, BATCH = 1e-5, 5e-5, 5e-5
FOLDERS = {"A": "tiny_chatglm3", "B": "tiny_small", "R50": "tiny_small_32k"}


@dataclass(frozen=True)
class Reference:
    """A checkpoint, loaded, and the official code's outputs for it."""

    loaded: LoadedGlm
    arrays: Mapping[str, Any]
    prefix: str

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[f"{self.prefix}/{name}"])

    def logits(self, name: str) -> torch.Tensor:
        return self[f"{name}_logits_cols" if self.prefix == "A" else f"{name}_logits"]

    def columns(self, logits: torch.Tensor) -> torch.Tensor:
        return logits[..., self["cols"]] if self.prefix == "A" else logits


def difference(
    got: torch.Tensor, expected: torch.Tensor, mask: torch.Tensor | None = None
) -> float:
    """The largest absolute difference, of unpadded positions."""
    assert got.shape == expected.shape
    apart = (got - expected).abs()
    return float(apart.max() if mask is None else apart[mask.bool()].max())


@pytest.fixture(scope="module", params=list(FOLDERS))
def reference(request: pytest.FixtureRequest, shared_glm: Path) -> Reference:
    loaded = load_chatglm3(shared_glm / FOLDERS[request.param], "float32")
    return Reference(loaded, np.load(shared_glm / "expected.npz"), request.param)


def padded(reference: Reference) -> Any:
    with torch.inference_mode():
        return reference.loaded.model(
            input_ids=reference["input_ids"],
            attention_mask=reference["attention_mask"],
            position_ids=reference["position_ids"],
            use_cache=True,
            output_hidden_states=True,
        )


def test_a_left_padded_batch_states_keys_and_values(reference: Reference) -> None:
    final: list[torch.Tensor] = []
    hook = reference.loaded.model.model.norm.register_forward_pre_hook(
        lambda _module, inputs: final.append(inputs[0])
    )
    output = padded(reference)
    hook.remove()
    mask = reference["attention_mask"]
    got = reference.columns(output.logits)
    assert difference(got, reference.logits("prefill"), mask) <= PREFILL
    states = [*output.hidden_states[:-1], final[0]]
    for ours, official in zip(states, reference["hidden_states"], strict=True):
        assert difference(ours, official, mask) <= PREFILL
    cached = output.past_key_values.layers[0]
    by_token = mask[:, None, :].expand(cached.keys.shape[:-1])
    assert difference(cached.keys, reference["k_layer0"], by_token) <= PREFILL
    assert difference(cached.values, reference["v_layer0"], by_token) <= PREFILL


def test_decoding_with_a_cache_in_a_padded_batch(reference: Reference) -> None:
    output = padded(reference)
    mask, last = reference["attention_mask"], reference["position_ids"][:, -1:]
    steps = []
    with torch.inference_mode():
        for step, ids in enumerate(reference["decode_ids"].split(1, dim=1), start=1):
            mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            output = reference.loaded.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=last + step,
                past_key_values=output.past_key_values,
            )
            steps.append(output.logits)
    got = reference.columns(torch.cat(steps, dim=1))
    assert difference(got, reference.logits("decode")) <= DECODE


def test_one_text_whole_and_in_chunks(reference: Reference) -> None:
    model, ids = reference.loaded.model, reference["single_ids"]
    with torch.inference_mode():
        whole = reference.columns(model(input_ids=ids).logits)
        first = model(input_ids=ids[:, : ids.shape[1] // 2], use_cache=True)
        second = model(input_ids=ids[:, ids.shape[1] // 2 :], past_key_values=first.past_key_values)
    chunks = reference.columns(torch.cat([first.logits, second.logits], dim=1))
    assert difference(whole, reference.logits("single")) <= PREFILL
    assert difference(chunks, reference.logits("chunk")) <= DECODE


def test_the_loss(reference: Reference) -> None:
    with torch.inference_mode():
        loss = reference.loaded.model(
            input_ids=reference["input_ids"],
            attention_mask=reference["attention_mask"],
            position_ids=reference["position_ids"],
            labels=reference["labels"],
        ).loss
    assert abs(float(loss) - float(reference["loss"])) <= PREFILL


def test_the_whole_vocabulary_and_positions_left_out(shared_glm: Path) -> None:
    reference = Reference(
        load_chatglm3(shared_glm / FOLDERS["A"], "float32"),
        np.load(shared_glm / "expected.npz"),
        "A",
    )
    mask = reference["attention_mask"]
    with torch.inference_mode():
        logits = padded(reference).logits
        no_positions = reference.loaded.model(
            input_ids=reference["input_ids"], attention_mask=mask
        ).logits
    assert difference(logits.logsumexp(-1), reference["prefill_logits_lse"], mask) <= PREFILL
    assert torch.equal(logits.argmax(-1)[mask.bool()],
                       reference["prefill_logits_argmax"][mask.bool()])  # fmt: skip
    got = no_positions[..., reference["cols"]]
    assert difference(got, reference["nopos_prefill_cols"], mask) <= PREFILL


def test_a_long_text_at_the_32k_model_s_rope_base(shared_glm: Path) -> None:
    reference = Reference(
        load_chatglm3(shared_glm / FOLDERS["R50"], "float32"),
        np.load(shared_glm / "expected.npz"),
        "R50",
    )
    with torch.inference_mode():
        logits = reference.loaded.model(input_ids=reference["long_ids"], logits_to_keep=8).logits
    assert difference(logits, reference["long_logits_last8"]) <= PREFILL


def test_an_official_int8_checkpoint(shared_glm: Path) -> None:
    loaded = load_chatglm3(shared_glm / "tiny_small_int8", "float32")
    arrays = np.load(shared_glm / "expected.npz")
    reference = Reference(loaded, arrays, "B")
    expected = torch.from_numpy(arrays["Q8/prefill_logits"])
    got = padded(reference).logits
    assert difference(got, expected, reference["attention_mask"]) <= BATCH
