"""Quantising: the numbers, the folder, and what a quantised model computes."""

from __future__ import annotations

import gc
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command import Run, assert_one_line
from glm_models import SMALL, quantized, random_tensors, write_official
from glm_tokenizers import write_model
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from rag.errors import CheckpointError
from rag.glm.inspection import inspect_folder
from rag.glm.keys import SCALE_SUFFIX
from rag.glm.load import load_chatglm3
from rag.glm.packing import Bits, pack
from rag.glm.quantize import quantize
from rag.glm.quantized_linear import MANY_ROWS, QuantizedLinear, TorchProduct

WIDE = replace(SMALL, hidden=256, intermediate=384, heads=4, groups=2, head_dim=64)
"""Sizes that 128 divides: several groups in a row."""

IDS = torch.tensor([[5, 300, 7, 7, 123, 0, 9, 250, 31]])


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([8, 4]), st.sampled_from([2, 20, 128, 384]), st.integers(0, 2**31),
    st.floats(-5, 5),
)  # fmt: skip
def test_a_weight_is_off_by_at_most_half_a_step(
    bits: int, columns: int, seed: int, size: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(7, columns, generator=generator) * 10.0**size
    weight[seed % 7] = 0
    packed = pack(weight, 8 if bits == 8 else 4)
    assert packed.bits == bits
    assert packed.columns == columns
    step = packed.scale.float().abs().repeat_interleave(columns // packed.scale.shape[1], dim=1)
    off = (packed.weight(torch.float32) - weight).abs()
    beyond = (weight / packed.scale.float().repeat_interleave(
        columns // packed.scale.shape[1], dim=1
    )) > 7.5  # fmt: skip
    bound = torch.where(beyond & (bits == 4), step, step / 2)
    # The step itself was rounded to float16, of a relative 2^-11, or absolutely where it is tiny.
    rounding = (128 if bits == 8 else 8) * (step * 2**-11 + 2**-25)
    assert bool((off <= bound + rounding + 1e-6 * weight.abs()).all())
    assert torch.equal(pack(weight, packed.bits).numbers, packed.numbers)


def test_numbers_by_hand() -> None:
    packed = pack(torch.tensor([[4.0, -2.0, 0.4, 0.0], [-8.0, 7.0, 8.0, 0.6]]), 4)
    assert packed.scale.tolist() == [[-0.5], [1.0]]
    assert packed.whole().tolist() == [[-8, 4, -1, 0], [-8, 7, 7, 1]]
    assert packed.numbers[1].tolist() == [0 | 15 << 4, 15 | 9 << 4]
    packed = pack(torch.tensor([[127.0, -63.4], [0.0, 0.0]]), 8)
    assert packed.whole().tolist() == [[127, -63], [0, 0]]
    assert packed.weight(torch.float32).tolist() == [[127.0, -63.0], [0.0, 0.0]]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        pack(torch.tensor([[1.0, value]]), 8)
    with pytest.raises(ValueError, match="even number of columns"):
        pack(torch.ones(1, 3), 4)
    tensors = random_tensors()
    name = "transformer.encoder.layers.1.mlp.dense_4h_to_h.weight"
    tensors[name][0, 0] = value
    write_official(tmp_path / "model", tensors=tensors)
    with pytest.raises(CheckpointError, match=r"down_proj.weight in .* cannot be quantised"):
        quantize(tmp_path / "model", tmp_path / "q", 4)
    assert not (tmp_path / "q").exists()


@pytest.mark.parametrize(("bits", "bound"), [(8, 1e-5), (4, 8e-3)])
@pytest.mark.parametrize("columns", [20, 256])
def test_a_layer_multiplies_what_its_numbers_stand_for(
    bits: int, bound: float, columns: int
) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(96, columns, generator=generator)
    packed = pack(weight, 8 if bits == 8 else 4)
    expected = packed.weight(torch.float32)
    layer = QuantizedLinear(packed, torch.arange(96.0))
    del packed  # the layer keeps what it needs
    gc.collect()
    for shape in ((columns,), (1, columns), (2, 33, columns), (0, columns)):
        states = torch.randn(shape, generator=generator)
        wanted = states @ expected.T + torch.arange(96.0)
        found = layer(states)
        assert found.shape == wanted.shape
        if found.numel():
            assert relative(found, wanted) < bound
    half = layer(torch.ones(1, columns, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16


@pytest.mark.parametrize(("bits", "error"), [(8, 0.02), (4, 0.25)])
@pytest.mark.parametrize("shape", [SMALL, WIDE], ids=["one group", "groups"])
def test_a_quantised_folder_computes_nearly_the_same(
    tmp_path: Path, bits: int, error: float, shape: object
) -> None:
    sizes = WIDE if shape is WIDE else SMALL
    tensors = {name: tensor * 0.1 for name, tensor in random_tensors(sizes).items()}
    model = write_official(tmp_path / "model", sizes, tensors=tensors)
    written = quantize(model, tmp_path / "q", 8 if bits == 8 else 4)
    assert (written.bits, written.dequantized) == (bits, 0)
    with torch.inference_mode():
        plain = load_chatglm3(model, "float32").model(input_ids=IDS).logits
        kept = load_chatglm3(tmp_path / "q", "float32").model(input_ids=IDS).logits
        unpacked = load_chatglm3(tmp_path / "q", "float32", keep_quantized=False).model(
            input_ids=IDS
        ).logits  # fmt: skip
    assert relative(kept, unpacked) < (1e-5 if bits == 8 else 0.05)
    assert 0 < relative(unpacked, plain) < error


@pytest.mark.parametrize("bits", [8, 4])
def test_official_quantised_weights_stay_numbers_in_memory(tmp_path: Path, bits: int) -> None:
    tensors = quantized(random_tensors(), SMALL, bits)
    model = write_official(tmp_path / "q", tensors=tensors, quantization_bit=bits)
    loaded = load_chatglm3(model, "float32").model
    layers = [m for m in loaded.modules() if isinstance(m, QuantizedLinear)]
    assert len(layers) == 6 * SMALL.layers
    assert {layer.bits for layer in layers} == {bits}
    with torch.inference_mode():
        kept = loaded(input_ids=IDS).logits
        plain = load_chatglm3(model, "float32", keep_quantized=False).model(input_ids=IDS).logits
    assert relative(kept, plain) < (1e-5 if bits == 8 else 0.02)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_official_scales_may_have_any_floating_type(
    tmp_path: Path, bits: int, dtype: torch.dtype
) -> None:
    tensors = quantized(random_tensors(), SMALL, bits)
    tensors |= {n: t.to(dtype) for n, t in tensors.items() if n.endswith(SCALE_SUFFIX)}
    model = write_official(tmp_path / "q", tensors=tensors, quantization_bit=bits)
    with torch.inference_mode():
        kept = load_chatglm3(model, "float32").model(input_ids=IDS).logits
        plain = load_chatglm3(model, "float32", keep_quantized=False).model(input_ids=IDS).logits
    assert relative(kept, plain) < (1e-5 if bits == 8 else 0.02)


@pytest.mark.parametrize(("bits", "most"), [(8, 127 * 65504.0), (4, 8 * 65504.0)])
def test_a_weight_that_its_scale_cannot_hold_is_refused(bits: Bits, most: float) -> None:
    assert pack(torch.tensor([[most, 0.0]]), bits).scale.abs().item() == 65504
    with pytest.raises(ValueError, match="whose scale float16 cannot hold"):
        pack(torch.tensor([[most * 1.001, 0.0]]), bits)


@pytest.mark.parametrize("bits", [8, 4])
def test_packing_row_block_by_row_block_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, bits: Bits
) -> None:
    weight = torch.randn(10, 256, generator=torch.Generator().manual_seed(1))
    whole = pack(weight, bits)
    monkeypatch.setattr("rag.glm.packing._ROWS_AT_ONCE", 3)
    parts = pack(weight, bits)
    assert torch.equal(whole.numbers, parts.numbers)
    assert torch.equal(whole.scale, parts.scale)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_loaded_model_outlives_its_folder(tmp_path: Path, bits: Bits) -> None:
    model = write_official(tmp_path / "model", WIDE, tensors=random_tensors(WIDE))
    quantize(model, tmp_path / "q", bits, shard_bytes=2**18)
    assert len(list((tmp_path / "q").glob("*.safetensors"))) > 1
    glm, same = (load_chatglm3(tmp_path / "q", "float32").model for _ in range(2))
    with torch.inference_mode():
        expected = same(input_ids=IDS).logits
        shutil.rmtree(tmp_path / "q")
        gc.collect()
        assert torch.equal(glm(input_ids=IDS).logits, expected)
        assert torch.equal(glm(input_ids=IDS.repeat(3, 1)).logits[2], expected[0])


@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_model_generates_the_same_alone_and_in_a_batch(
    tmp_path: Path, bits: int
) -> None:
    model = write_official(tmp_path / "model", WIDE, tensors=random_tensors(WIDE))
    quantize(model, tmp_path / "q", 8 if bits == 8 else 4)
    glm = load_chatglm3(tmp_path / "q", "float32").model
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    with torch.inference_mode():
        alone = glm.generate(IDS, **options)
        both = glm.generate(IDS.repeat(2, 1), **options)
    assert torch.equal(alone[0], both[0])
    assert torch.equal(alone[0], both[1])


def test_the_same_files_every_time_and_inspect_says_what_they_are(tmp_path: Path) -> None:
    model = write_official(write_model(tmp_path / "model"))
    for name in ("a", "b"):
        quantize(model, tmp_path / name, 4)
    first, second = (
        {p.name: p.read_bytes() for p in (tmp_path / name).glob("*.safetensors")} for name in "ab"
    )
    assert first == second
    stored = load_file(tmp_path / "a/model.safetensors")
    assert stored["model.layers.0.mlp.down_proj.weight"].dtype == torch.uint8
    assert stored["lm_head.weight"].dtype == torch.int8
    assert stored["model.embed_tokens.weight"].dtype == torch.float16
    found = inspect_folder(tmp_path / "a").to_json()
    assert (found["layout"], found["quantization_bits"], found["made_by"]) == (
        "native", 4, "quantize",
    )  # fmt: skip
    assert found["quantized_by"] == "youju, format 1, a scale per 128 columns"
    assert inspect_folder(model).to_json()["quantized_by"] is None
    assert found["bytes"] == sum(tensor.nbytes for tensor in stored.values())
    assert load_chatglm3(tmp_path / "a").tokenizer is not None


def test_what_another_program_quantised_is_refused(tmp_path: Path) -> None:
    quantize(write_official(tmp_path / "model"), tmp_path / "q", 8)
    path = tmp_path / "q/config.json"
    config = json.loads(path.read_text())
    mine = config["quantization_config"]
    for other in ({"quant_method": "gptq", "bits": 4}, {**mine, "format": 2}):
        path.write_text(json.dumps(config | {"quantization_config": other}))
        with pytest.raises(CheckpointError, match="quantised by another program or version"):
            load_chatglm3(tmp_path / "q")


def test_plain_transformers_refuses_it_rather_than_read_it_wrongly(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    quantize(write_official(tmp_path / "model"), tmp_path / "q", 8)
    with pytest.raises(ValueError, match="glm_youju"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "q")


def test_a_damaged_quantised_folder_is_refused(tmp_path: Path) -> None:
    quantize(write_official(tmp_path / "model"), tmp_path / "q", 4)
    weights = tmp_path / "q/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError):
        load_chatglm3(tmp_path / "q")
    weights.write_bytes(whole)
    path = tmp_path / "q/config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["bits"] = 8
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="has shape"):
        load_chatglm3(tmp_path / "q")


def test_the_command(tmp_path: Path, run: Run) -> None:
    model = write_official(tmp_path / "model")
    done = run("glm", "quantize", str(model), str(tmp_path / "q"), "--bits", "4", "--json")
    assert done.json["bits"] == 4
    wrong = run("glm", "quantize", str(model), str(tmp_path / "x"), "--bits", "3")
    assert_one_line(wrong, 2, "8 or 4")
    again = run("glm", "quantize", str(tmp_path / "q"), str(tmp_path / "x"))
    assert_one_line(again, 1, "quantised already, to 4 bits")
    write_official(tmp_path / "prefix", pre_seq_len=7)
    refused = run("glm", "quantize", str(tmp_path / "prefix"), str(tmp_path / "x"))
    assert_one_line(refused, 1, "is a P-Tuning checkpoint")
    official = quantized(random_tensors(), SMALL, 8)
    write_official(tmp_path / "int8", tensors=official, quantization_bit=8)
    shown = run("glm", "inspect", str(tmp_path / "int8"), "--json")
    assert shown.json["quantized_by"] == "official, a scale per row"
    again = run("glm", "quantize", str(tmp_path / "int8"), str(tmp_path / "x"), "--bits", "4")
    assert_one_line(again, 1, "quantised already, to 8 bits")
    assert_one_line(run("glm", "export", str(tmp_path / "q"), str(tmp_path / "x")), 1, "4 bits")
    assert not (tmp_path / "x").exists()


def test_lora_goes_into_the_original_first(tmp_path: Path) -> None:
    from test_rag_glm_adapters import write_official_lora

    model = write_official(tmp_path / "model")
    quantize(model, tmp_path / "q", 8)
    write_official_lora(tmp_path / "lora")
    with pytest.raises(CheckpointError, match="is quantised: a LoRA adapter cannot be added"):
        load_chatglm3(tmp_path / "q", adapter=tmp_path / "lora")


@pytest.mark.parametrize("rows", [1, MANY_ROWS, MANY_ROWS + 1])
def test_the_gpu_way_rounds_no_8_bit_scale(rows: int) -> None:
    # One column of weights that are exactly 127 scales: rounding is that of the scales alone.
    weight = torch.linspace(1.0, 2.0, 96)[:, None].repeat(1, 32) * (torch.arange(32) == 5)
    packed = pack(weight, 8)
    product = TorchProduct(packed, torch.device("cpu"))
    found = product(torch.ones(rows, 32)).double()
    expected = packed.weight(torch.float32)[:, 5].double().expand(rows, -1)
    assert found.shape == expected.shape
    assert float((found / expected - 1).abs().max()) < 1e-6  # of bfloat16 it would be 2e-3


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [3, MANY_ROWS, MANY_ROWS + 1])
@pytest.mark.parametrize("bits", [8, 4])
def test_a_gpu_multiplies_the_same_numbers(bits: int, rows: int) -> None:
    packed = pack(torch.randn(256, 512, generator=torch.Generator().manual_seed(0)),
                  8 if bits == 8 else 4)  # fmt: skip
    layer = QuantizedLinear(packed, None, "cuda")
    states = torch.randn(rows, 512)
    expected = states @ packed.weight(torch.float32).T
    assert relative(layer(states.to("cuda")).float().cpu(), expected) < 0.02


@pytest.mark.gpu
@pytest.mark.parametrize("bits", [8, 4])
def test_a_quantised_folder_loads_onto_a_gpu(tmp_path: Path, bits: Bits) -> None:
    tensors = {name: tensor * 0.1 for name, tensor in random_tensors(WIDE).items()}
    quantize(write_official(tmp_path / "model", WIDE, tensors=tensors), tmp_path / "q", bits)
    glm = load_chatglm3(tmp_path / "q", "bfloat16", "cuda").model
    with torch.inference_mode():
        expected = load_chatglm3(tmp_path / "q", "float32", keep_quantized=False).model(
            input_ids=IDS
        ).logits  # fmt: skip
        found = glm(input_ids=IDS.to("cuda")).logits
        assert found.device.type == "cuda"
        assert relative(found.float().cpu(), expected) < 0.05
        out = glm.generate(
            IDS.to("cuda"), max_new_tokens=8, do_sample=False, eos_token_id=None
        )  # fmt: skip
    assert out.shape == (1, IDS.shape[1] + 8)


def test_the_gpu_benchmark_runs_and_says_when_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from bench import glm_gpu

    found = glm_gpu.measure(glm_gpu.random_model(SMALL, "cpu"), 2, 6, 4)
    assert math.isfinite(found)  # a rate of so few tokens may even be negative
    monkeypatch.setattr("sys.argv", ["glm_gpu"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU"):
        glm_gpu.main()
