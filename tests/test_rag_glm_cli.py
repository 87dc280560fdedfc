"""The `youju glm` commands: results on stdout, one line for an error, exit status."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    assert_one_line(run("glm", "export", str(model), target), 1, "official layout already")
    assert_one_line(run("glm", "convert", "some/model", target), 1, "--download")
    assert_one_line(run("glm", "convert", str(model), target, "--dtype", "int8"), 2, "--dtype")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    assert_one_line(run("glm", "inspect", str(model)), 1, "another family: 'llama'")
    with pytest.raises(CheckpointError, match="Cannot read"):
        inspect_folder(tmp_path)


def test_a_folder_that_is_not_what_it_should_be_is_told(
    model: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("glm", "convert", "model", "native")
    run("glm", "quantize", "model", "small")
    write_official_lora(tmp_path / "lora")
    file = "model/config.json"
    for arguments, status, says in (
        (("convert", "native"), 1, "native is converted already"),
        (("convert", "small"), 1, "was quantised by `youju glm quantize`"),
        (("convert", file), 2, "is a file, no model folder"),
        (("export", "model"), 1, "official layout already"),
        (("quantize", "absent"), 2, "no model folder absent. Give the path of a folder.\n"),
        (("quantize", "THUDM/chatglm3-6b"), 2, "Only `youju glm convert` takes a name on the hub"),
        (("quantize", file), 2, "is a file, no model folder"),
        (("adapt", "absent", "lora"), 2, "no model folder absent"),
        (("adapt", "model", "absent"), 2, "no adapter folder absent"),
        (("merge", "model", file), 2, "is a file, no adapter folder"),
        (("merge", "THUDM/chatglm3-6b", "lora"), 2, "Only `youju glm convert`"),
    ):
        assert_one_line(run("glm", *arguments, "out"), status, says)
        assert not (tmp_path / "out").exists()


def test_a_folder_that_may_not_be_read_is_named(
    model: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.stat

    def guarded(path: Path, **options: Any) -> os.stat_result:
        if path == model:  # root may read everything
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(Path, "stat", guarded)
    done = run("glm", "inspect", str(model))
    assert_one_line(done, 2, f"Cannot read {model}: Permission denied", "who may read it")


def test_ctrl_c_says_that_nothing_was_written(
    model: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rag.glm.checkpoint.write_manifest", interrupted)
    for verb in ("convert", "quantize"):
        done = run("glm", verb, str(model), str(tmp_path / "out"))
        assert_one_line(done, 130, "Stopped; nothing was written.")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_sigterm_leaves_no_unfinished_folder(model: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time, youju, rag.glm.checkpoint as checkpoint;"
        "checkpoint.write_manifest = lambda *_, **__: ("
        "os.kill(os.getpid(), signal.SIGTERM), time.sleep(60));"
        "sys.exit(youju.run(sys.argv[1:], debug=False))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "glm", "convert", str(model), str(tmp_path / "out")],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (143, "Error: Stopped; nothing was written.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_sigterm_is_as_before_when_a_verb_has_ended(model: Path, run: Run) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run("glm", "inspect", str(model))
    run("glm", "inspect", "absent")
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_a_killed_run_left_is_removed_later(model: Path, tmp_path: Path, run: Run) -> None:
    names = [".out.0123abcd.partial", ".out.0123abce.partial", ".other.0123abcd.partial",
             ".out.x.partial"]  # fmt: skip
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "part-1.safetensors").write_bytes(b"x")
        os.utime(tmp_path / name / "part-1.safetensors", (0, 0))
        os.utime(tmp_path / name, (0, 0))
    os.utime(tmp_path / names[1] / "part-1.safetensors")  # somebody writes there now
    assert run("glm", "convert", str(model), str(tmp_path / "out")).status == 0
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out", *names[1:]}


def test_ctrl_c_while_it_starts_is_one_line() -> None:
    code = (
        "import sys\n"
        "class Finder:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Finder())\n"
        "import youju_start; youju_start.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (130, "Error: Stopped.\n")


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
