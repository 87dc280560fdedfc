"""Adapters trained with the official code: exact on the native model, refused on another."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from glm_models import SMALL, official_logits, quantized, random_tensors, write_official
from safetensors.torch import load_file, save_file
from test_rag_glm_agreement import BATCH, DECODE, PREFILL, difference

from rag.errors import AdapterMismatch, CheckpointError, PathError
from rag.glm.adapters import adapter_kind
from rag.glm.checkpoint import convert
from rag.glm.config import GlmShape, official_config, read_json
from rag.glm.keys import module_table
from rag.glm.load import load_chatglm3
from rag.glm.lora import read_lora
from rag.glm.merge import adapt, merge
from rag.glm.prefix import read_prefix, rotate

IDS = torch.tensor([5, 300, 7, 7, 123, 0, 9, 250, 31])
RANK, ALPHA, VIRTUAL = 3, 12, 5
peft_warns = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning:peft.*")


# -- adapters as the official scripts write them -------------------------------------------------


def write_official_lora(
    folder: Path, shape: GlmShape = SMALL, *, layers: int | None = None, **config: Any
) -> dict[str, torch.Tensor]:
    """Write LoRA on every fused module; return W + scale B A by official weight name."""
    generator = torch.Generator().manual_seed(3)
    tensors, merged = {}, random_tensors(shape)
    for number in range(shape.layers if layers is None else layers):
        for module in module_table(shape, number):
            rows, columns = merged[f"{module}.weight"].shape
            low = torch.randn(RANK, columns, generator=generator)
            high = torch.randn(rows, RANK, generator=generator) * 0.1
            tensors[f"base_model.model.{module}.lora_A.weight"] = low
            tensors[f"base_model.model.{module}.lora_B.weight"] = high
            merged[f"{module}.weight"] = merged[f"{module}.weight"] + ALPHA / RANK * high @ low
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny/chatglm3",
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.1,
        "bias": "none",
        "modules_to_save": None,
        "rank_pattern": {},
        "target_modules": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    return merged


def write_official_prefix(
    folder: Path, shape: GlmShape = SMALL, *, projection: bool = False, whole: bool = False
) -> torch.Tensor:
    """Write a P-Tuning v2 checkpoint; return what its encoder gives, (P, width)."""
    generator = torch.Generator().manual_seed(4)
    width = shape.layers * 2 * shape.groups * shape.head_dim
    sizes: dict[str, tuple[int, ...]] = {"embedding.weight": (VIRTUAL, width)}
    if projection:
        sizes |= {
            "trans.0.weight": (shape.hidden, width),
            "trans.0.bias": (shape.hidden,),
            "trans.2.weight": (width, shape.hidden),
            "trans.2.bias": (width,),
        }
    state = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"transformer.prefix_encoder.{name}": value for name, value in state.items()}
    torch.save(tensors | (random_tensors(shape) if whole else {}), folder / "pytorch_model.bin")
    config = official_config(shape, "float32")
    config |= {"pre_seq_len": VIRTUAL, "prefix_projection": projection}
    (folder / "config.json").write_text(json.dumps(config))
    flat = state["embedding.weight"]
    if projection:
        encoder = torch.nn.Sequential(
            torch.nn.Linear(width, shape.hidden),
            torch.nn.Tanh(),
            torch.nn.Linear(shape.hidden, width),
        )
        encoder.load_state_dict({k[6:]: v for k, v in state.items() if k.startswith("trans.")})
        flat = encoder(flat).detach()
    return flat


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_official(tmp_path / "model")


def logits(folder: Path, adapter: Path | None = None) -> torch.Tensor:
    with torch.inference_mode():
        loaded = load_chatglm3(folder, "float32", adapter=adapter)
        found: torch.Tensor = loaded.model(input_ids=IDS[None]).logits[0]
    return found


# -- LoRA ----------------------------------------------------------------------------------------


def test_official_lora_agrees_with_the_official_code(shared_glm: Path, tmp_path: Path) -> None:
    arrays = np.load(shared_glm / "expected.npz")
    b = {key: torch.from_numpy(arrays[f"B/{key}"])
         for key in ("input_ids", "attention_mask", "position_ids")}  # fmt: skip
    expected = torch.from_numpy(arrays["L/prefill_logits"])
    base, adapter = shared_glm / "tiny_small", shared_glm / "lora_official"
    merge(base, adapter, tmp_path / "merged")
    for loaded in (
        load_chatglm3(base, "float32", adapter=adapter),
        load_chatglm3(tmp_path / "merged"),
    ):
        with torch.inference_mode():
            got = loaded.model(**b).logits
        assert difference(got, expected, b["attention_mask"]) <= PREFILL


@peft_warns
def test_peft_puts_the_converted_lora_on_the_native_model(model: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tensors = write_official_lora(tmp_path / "lora")
    expected = official_logits(tensors, SMALL, IDS)
    convert(model, tmp_path / "native")
    assert adapt(tmp_path / "native", tmp_path / "lora", tmp_path / "adapter") == "LoRA"
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "native")
    tuned = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.inference_mode():
        got = tuned(input_ids=IDS[None]).logits[0]
    assert float((got - expected).abs().max()) < 1e-3
    # With its own rounding aside, it is the same adapter: merged by peft and merged by us.
    for ours, theirs in zip(
        load_chatglm3(model, adapter=tmp_path / "lora").model.state_dict().values(),
        tuned.merge_and_unload().state_dict().values(),
        strict=True,
    ):
        assert torch.allclose(ours, theirs, atol=1e-6, rtol=1e-6)


def test_every_way_to_merge_gives_the_same_weights(model: Path, tmp_path: Path) -> None:
    tensors = write_official_lora(tmp_path / "lora")
    expected = official_logits(tensors, SMALL, IDS)
    convert(model, tmp_path / "native")
    adapt(model, tmp_path / "lora", tmp_path / "adapter")
    in_memory = logits(model, tmp_path / "lora")
    assert float((in_memory - expected).abs().max()) < 1e-3
    for number, (base, adapter) in enumerate(
        (base, adapter) for base in ("model", "native") for adapter in ("lora", "adapter")
    ):
        target = tmp_path / f"merged{number}"
        merge(tmp_path / base, tmp_path / adapter, target)
        assert torch.equal(logits(target), in_memory)
    manifest = read_json(target / "youju_glm.json")
    assert manifest["action"] == "merge"
    assert manifest["adapter"]["trained_on"] == str(model.resolve())


@peft_warns
def test_lora_on_some_layers_and_with_rslora(model: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    write_official_lora(tmp_path / "lora", layers=1, use_rslora=True, layers_to_transform=[0])
    adapt(model, tmp_path / "lora", tmp_path / "adapter")
    convert(model, tmp_path / "native")
    lora = read_lora(tmp_path / "lora", SMALL)
    assert lora.scale == pytest.approx(ALPHA / RANK**0.5)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "native")
    tuned = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.inference_mode():
        got = tuned(input_ids=IDS[None]).logits[0]
    assert float((got - logits(model, tmp_path / "lora")).abs().max()) < 1e-4


@peft_warns
def test_adapters_trained_with_peft_on_the_native_model(model: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, PrefixTuningConfig, TaskType, get_peft_model
    from transformers import AutoModelForCausalLM

    convert(model, tmp_path / "native")
    settings: list[Any] = [
        LoraConfig(
            r=2, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type=TaskType.CAUSAL_LM
        ),
        PrefixTuningConfig(num_virtual_tokens=3, task_type=TaskType.CAUSAL_LM),
    ]
    for number, config in enumerate(settings):
        base = AutoModelForCausalLM.from_pretrained(tmp_path / "native")
        tuned = get_peft_model(base, config).eval()
        generator = torch.Generator().manual_seed(number)
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name or "prompt_encoder" in name:
                parameter.data.normal_(0, 0.2, generator=generator)
        tuned.save_pretrained(tmp_path / str(number))
        loaded = load_chatglm3(model, adapter=tmp_path / str(number))
        inputs: dict[str, Any] = {"input_ids": IDS[None]}
        if loaded.prefix:
            mask, positions = loaded.prefix.inputs(torch.ones_like(IDS)[None])
            cache = loaded.prefix.cache(1, torch.float32)
            inputs |= {"attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        with torch.inference_mode():
            expected = tuned(input_ids=IDS[None], attention_mask=torch.ones(1, len(IDS))).logits
            assert float((loaded.model(**inputs).logits - expected).abs().max()) < 1e-4


def test_a_16_bit_model_is_merged_with_one_rounding(tmp_path: Path) -> None:
    shape = replace(SMALL, dtype="float16")
    write_official(tmp_path / "model", shape)
    write_official_lora(tmp_path / "lora")
    merge(tmp_path / "model", tmp_path / "lora", tmp_path / "merged")
    weights = load_file(tmp_path / "merged/model.safetensors")
    lora = read_lora(tmp_path / "lora", shape)
    name = "model.layers.1.mlp.down_proj"
    low, high = lora.pairs[name]
    before = random_tensors(shape)["transformer.encoder.layers.1.mlp.dense_4h_to_h.weight"]
    assert torch.equal(weights[f"{name}.weight"], (before.float() + 4 * (high @ low)).half())


@pytest.mark.parametrize("bits", [0, 8])
def test_another_dtype_is_merged_with_one_rounding_too(tmp_path: Path, bits: int) -> None:
    tensors = random_tensors(SMALL)
    if bits:
        tensors = quantized(tensors, SMALL, bits)
    write_official(tmp_path / "model", tensors=tensors, quantization_bit=bits)
    write_official_lora(tmp_path / "lora")
    merge(tmp_path / "model", tmp_path / "lora", tmp_path / "merged", dtype="bfloat16")
    weights = load_file(tmp_path / "merged/model.safetensors")
    exact = load_chatglm3(tmp_path / "model", "float32", keep_quantized=False).model.state_dict()
    how: dict[str, Any] = {"adapter": tmp_path / "lora", "keep_quantized": False}
    loaded = load_chatglm3(tmp_path / "model", "bfloat16", **how).model.state_dict()
    lora = read_lora(tmp_path / "lora", SMALL)
    for name, (low, high) in lora.pairs.items():
        expected = (exact[f"{name}.weight"] + lora.scale * (high @ low)).bfloat16()
        assert torch.equal(weights[f"{name}.weight"], expected)
        assert torch.equal(loaded[f"{name}.weight"], expected)
    assert {tensor.dtype for tensor in [*weights.values(), *loaded.values()]} == {torch.bfloat16}


# -- P-Tuning v2 ---------------------------------------------------------------------------------


def test_a_prefix_agrees_with_the_official_code_in_a_padded_batch(shared_glm: Path) -> None:
    arrays = np.load(shared_glm / "expected.npz")
    ids, mask, decode_ids, prefill, decoded = (
        torch.from_numpy(arrays[f"P0/{key}"])
        for key in ("input_ids", "attention_mask", "decode_ids", "prefill_logits", "decode_logits")
    )
    loaded = load_chatglm3(shared_glm / "tiny_small", "float32", adapter=shared_glm / "ptuning_P0")
    prefix = loaded.prefix
    assert prefix is not None
    full, positions = prefix.inputs(mask)
    cache = prefix.cache(len(ids), torch.float32)
    steps = []
    with torch.inference_mode():
        output = loaded.model(
            input_ids=ids, attention_mask=full, position_ids=positions, past_key_values=cache
        )
        for step, column in enumerate(decode_ids.split(1, dim=1), start=1):
            full = torch.cat([full, torch.ones_like(full[:, :1])], dim=1)
            steps.append(
                loaded.model(
                    input_ids=column,
                    attention_mask=full,
                    position_ids=positions[:, -1:] + step,
                    past_key_values=cache,
                ).logits
            )
    assert difference(output.logits, prefill, mask) <= PREFILL
    assert difference(torch.cat(steps, dim=1), decoded) <= DECODE


@pytest.mark.parametrize("projection", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_a_prefix_equals_an_independent_forward_pass(
    model: Path, tmp_path: Path, projection: bool, whole: bool
) -> None:
    flat = write_official_prefix(tmp_path / "prefix", projection=projection, whole=whole)
    expected = official_logits(random_tensors(), SMALL, IDS, flat)
    adapt(model, tmp_path / "prefix", tmp_path / "adapter")
    for folder in ("prefix", "adapter"):
        loaded = load_chatglm3(model, "float32", adapter=tmp_path / folder)
        prefix = loaded.prefix
        assert prefix is not None
        assert prefix.tokens == VIRTUAL
        # Twice: alone, and behind four columns of padding.
        ids = torch.cat([torch.zeros(4, dtype=torch.long), IDS])[None].repeat(2, 1)
        mask = (torch.arange(13) >= 4).long()[None].repeat(2, 1)
        full, positions = prefix.inputs(mask)
        with torch.inference_mode():
            got = loaded.model(
                input_ids=ids,
                attention_mask=full,
                position_ids=positions,
                past_key_values=prefix.cache(2, torch.float32),
            ).logits
        assert float((got[1, 4:] - expected).abs().max()) < BATCH * 4


@peft_warns
def test_peft_and_generate_run_a_prefix(model: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    flat = write_official_prefix(tmp_path / "prefix")
    expected = official_logits(random_tensors(), SMALL, IDS, flat)
    convert(model, tmp_path / "native")
    adapt(tmp_path / "native", tmp_path / "prefix", tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "native")
    tuned = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.inference_mode():
        got = tuned(input_ids=IDS[None], attention_mask=torch.ones(1, len(IDS))).logits[0]
    assert float((got - expected).abs().max()) < 2e-4

    loaded = load_chatglm3(model, "float32", adapter=tmp_path / "prefix")
    assert loaded.prefix is not None
    padded = torch.stack([IDS, torch.cat([torch.zeros(3, dtype=torch.long), IDS[:6]])])
    mask = torch.ones_like(padded)
    mask[1, :3] = 0
    together = loaded.model.generate(
        **loaded.prefix.generate_inputs(padded, mask, torch.float32),
        max_new_tokens=5, do_sample=False, eos_token_id=None,
    )  # fmt: skip
    for row, ids in enumerate((IDS, IDS[:6])):
        alone = loaded.model.generate(
            **loaded.prefix.generate_inputs(ids[None], torch.ones_like(ids[None]), torch.float32),
            max_new_tokens=5, do_sample=False, eos_token_id=None,
        )  # fmt: skip
        assert torch.equal(alone[0, -5:], together[row, -5:])


def test_rotating_by_hand() -> None:
    shape = replace(SMALL, head_dim=4)  # one pair is rotated, by one radian a position
    turned = rotate(torch.tensor([1.0, 0.0, 5.0, 6.0]), 2, shape)
    assert torch.allclose(turned, torch.tensor([np.cos(2.0), np.sin(2.0), 5.0, 6.0]).float())


# -- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "error", "part"),
    [
        ({"base_model_name_or_path": "THUDM/chatglm2-6b"}, AdapterMismatch, "chatglm2-6b"),
        ({"base_model_name_or_path": "THUDM/glm-4-9b"}, AdapterMismatch, "glm-4-9b"),
        ({"use_dora": True}, CheckpointError, "use_dora = True"),
        ({"bias": "all"}, CheckpointError, "bias = 'all'"),
        ({"modules_to_save": ["lm_head"]}, CheckpointError, "modules_to_save"),
        ({"rank_pattern": {"dense": 8}}, CheckpointError, "rank_pattern"),
        ({"something_new": 1}, CheckpointError, "something_new = 1"),
        ({"init_lora_weights": "pissa"}, CheckpointError, "pissa"),
        ({"r": 5}, AdapterMismatch, "expected [5,"),
        ({"r": None}, CheckpointError, "r = None"),
        ({"peft_type": "IA3"}, CheckpointError, "'IA3'"),
    ],
)
def test_another_lora_is_refused(
    model: Path, tmp_path: Path, config: dict[str, Any], error: type[Exception], part: str
) -> None:
    write_official_lora(tmp_path / "lora", **config)
    with pytest.raises(error) as caught:
        merge(model, tmp_path / "lora", tmp_path / "merged")
    assert part in str(caught.value)
    assert not (tmp_path / "merged").exists()


def test_adapters_of_models_of_one_shape_are_told_apart_by_name(tmp_path: Path) -> None:
    shape = replace(SMALL, name="THUDM/chatglm3-6b-base")
    write_official(tmp_path / "model", shape)
    write_official_lora(tmp_path / "lora", base_model_name_or_path="THUDM/chatglm3-6b")
    with pytest.raises(AdapterMismatch) as caught:
        adapt(tmp_path / "model", tmp_path / "lora", tmp_path / "adapter")
    assert "THUDM/chatglm3-6b'" in str(caught.value)
    assert "THUDM/chatglm3-6b-base" in str(caught.value)
    write_official_lora(tmp_path / "lora", base_model_name_or_path="/models/chatglm3-6b")
    adapt(tmp_path / "model", tmp_path / "lora", tmp_path / "adapter")  # a path says nothing


def _wider(folder: Path) -> None:
    write_official_lora(folder, replace(SMALL, hidden=32))


def _deeper(folder: Path) -> None:
    write_official_lora(folder, replace(SMALL, layers=3))


def _half(folder: Path) -> None:
    write_official_lora(folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors.popitem()
    save_file(tensors, folder / "adapter_model.safetensors")


def _empty(folder: Path) -> None:
    write_official_lora(folder, layers=0)


def _gone(folder: Path) -> None:
    write_official_lora(folder)
    (folder / "adapter_model.safetensors").unlink()


def _longer_prefix(folder: Path) -> None:
    write_official_prefix(folder, replace(SMALL, layers=3))


def _no_prefix(folder: Path) -> None:
    write_official_prefix(folder)
    torch.save(random_tensors(), folder / "pytorch_model.bin")


def _unannounced_projection(folder: Path) -> None:
    write_official_prefix(folder, projection=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"prefix_projection": False}))


@pytest.mark.parametrize(
    ("write", "error", "part"),
    [
        (_wider, AdapterMismatch, "does not fit this model"),
        (_deeper, AdapterMismatch, "layers.2"),
        (_half, CheckpointError, "one half"),
        (_empty, CheckpointError, "is empty"),
        (_gone, CheckpointError, "adapter_model.safetensors"),
        (_longer_prefix, AdapterMismatch, "the number of layers is 3, expected 2"),
        (_no_prefix, CheckpointError, "holds nothing as transformer.prefix_encoder"),
        (_unannounced_projection, CheckpointError, "trans.0.bias"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    model: Path, tmp_path: Path, write: Callable[[Path], None], error: type[Exception], part: str
) -> None:
    write(tmp_path / "adapter")
    with pytest.raises(error) as caught:
        adapt(model, tmp_path / "adapter", tmp_path / "out")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_prefix_cannot_be_merged_and_is_no_model(model: Path, tmp_path: Path) -> None:
    write_official_prefix(tmp_path / "prefix", whole=True)
    with pytest.raises(AdapterMismatch, match="cannot be merged"):
        merge(model, tmp_path / "prefix", tmp_path / "out")
    with pytest.raises(CheckpointError, match="youju glm adapt"):
        convert(tmp_path / "prefix", tmp_path / "out")
    for folder in (model, tmp_path):
        assert adapter_kind(folder) is None
    with pytest.raises(CheckpointError, match="holds no adapter"):
        load_chatglm3(model, adapter=model)
    write_official_lora(tmp_path / "lora")
    with pytest.raises(CheckpointError, match="an adapter, not a model"):
        load_chatglm3(tmp_path / "lora")
    with pytest.raises(CheckpointError, match="holds no adapter"):
        adapt(model, model, tmp_path / "out")
    adapt(model, tmp_path / "prefix", tmp_path / "out")
    with pytest.raises(PathError, match="not empty"):
        adapt(model, tmp_path / "prefix", tmp_path / "out")
    with pytest.raises(AdapterMismatch, match="prompt_embeddings"):
        read_prefix(tmp_path / "out", replace(SMALL, layers=3))
