"""The `youju glm` commands: results on stdout, one line for an error, exit status."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command import Run, assert_one_line
from glm_models import SMALL, quantized, random_tensors, write_official
from glm_tokenizers import write_model
from test_rag_glm_adapters import write_official_lora, write_official_prefix

from rag.errors import CheckpointError
from rag.glm.inspection import inspect_folder

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_official(write_model(tmp_path / "model"))


def test_convert_inspect_export(model: Path, tmp_path: Path, run: Run) -> None:
    done = run("glm", "convert", str(model), str(tmp_path / "native"), "--dtype", "float16")
    assert done.status == 0
    assert done.out == f"Wrote {SMALL.parameters:,} parameters as float16 to {tmp_path}/native.\n"
    found = run("glm", "inspect", str(tmp_path / "native"), "--json").json
    assert (found["kind"], found["layout"], found["dtype"]) == ("model", "native", "float16")
    assert (found["stop_ids"], found["tokenizer_pieces"]) == ([2, 301, 303], 295)
    assert found["made_by"] == "convert"
    written = run("glm", "export", str(tmp_path / "native"), str(tmp_path / "back"), "--json").json
    assert written["files"] == ["model.safetensors"]
    found = run("glm", "inspect", str(tmp_path / "back"), "--json").json
    assert (found["layout"], found["name"]) == ("official", "tiny/chatglm3")


def test_adapt_and_merge(model: Path, tmp_path: Path, run: Run) -> None:
    write_official_lora(tmp_path / "lora")
    done = run("glm", "adapt", str(model), str(tmp_path / "lora"), str(tmp_path / "adapter"))
    assert done.out == f"Wrote the LoRA adapter to {tmp_path}/adapter.\n"
    done = run("glm", "merge", str(model), str(tmp_path / "adapter"), str(tmp_path / "merged"))
    assert done.status == 0
    assert run("glm", "inspect", str(tmp_path / "merged"), "--json").json["made_by"] == "merge"


def test_inspect_tells_everything_apart(tmp_path: Path, run: Run) -> None:
    write_official(tmp_path / "q", tensors=quantized(random_tensors(), SMALL, 4),
                   quantization_bit=4)  # fmt: skip
    write_official_lora(tmp_path / "lora")
    write_official_prefix(tmp_path / "prefix", projection=True, whole=True)
    shown = run("glm", "inspect", str(tmp_path / "q")).out
    assert "quantization_bits  4\n" in shown
    lora = inspect_folder(tmp_path / "lora")
    assert (lora.kind, lora.layout, lora.name) == ("LoRA adapter", "official", "tiny/chatglm3")
    assert lora.facts["modules"] == ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]
    prefix = inspect_folder(tmp_path / "prefix")
    assert (prefix.kind, prefix.layout) == ("P-Tuning prefix", "official")
    assert (prefix.facts["tokens"], prefix.facts["tensors"]) == (5, 5)


def test_errors_are_one_line(model: Path, tmp_path: Path, run: Run) -> None:
    target = str(tmp_path / "out")
    assert_one_line(run("glm", "convert", str(model), str(model)), 2, "not empty")
    assert_one_line(run("glm", "convert", str(tmp_path / "no"), target), 1, "no model folder")
    assert_one_line(run("glm", "inspect", str(tmp_path / "no")), 2, "no folder")
    assert_one_line(run("glm", "export", str(model), target), 1, "another family: ChatGLM3")
    assert_one_line(run("glm", "convert", "some/model", target), 1, "--download")
    assert_one_line(run("glm", "convert", str(model), target, "--dtype", "int8"), 2, "--dtype")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    assert_one_line(run("glm", "inspect", str(model)), 1, "another family: 'llama'")
    with pytest.raises(CheckpointError, match="Cannot read"):
        inspect_folder(tmp_path)


def test_help_loads_no_engine() -> None:
    code = (
        "import sys, youju; youju.run(['glm', 'convert', '--help'], debug=False);"
        "heavy = {'torch', 'transformers', 'peft', 'tokenizers', 'safetensors'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_modules_that_promise_so_import_no_torch() -> None:
    names = "config keys sentencepiece tokenizer saved_tokenizer chat data adapters folder hub cli"
    modules = ", ".join(f"rag.glm.{name}" for name in [*names.split(), "inspection"])
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
