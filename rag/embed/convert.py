"""Converts a model folder to OpenVINO once and keeps the result in a cache folder.

The conversion runs in a process of its own (`python -m rag.embed.convert`), since only it needs
PyTorch and transformers. Half-written or outdated results are made again; several processes may
ask at once. What the converted model computes with is rag/embed/openvino.py's business.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from rag.embed.model import EmbeddingModel, verify_weights
from rag.embed.quiet import import_openvino, quiet_transformers
from rag.errors import ModelError, StorageError

if TYPE_CHECKING:
    import torch

CONVERSION = 1
"""Raise when the converted graph changes; older results are then made again."""
POOLINGS = ("mean", "cls")
MODULES = ((), ("Pooling",), ("Pooling", "Normalize"))
TIMEOUT_S = 600.0

_FILES = ("model.xml", "model.bin")
_MANIFEST = "manifest.json"
_UNFINISHED = ".converting-"
_LEAST_COSINE = 0.999
_log = logging.getLogger(__name__)


def converted(model: EmbeddingModel, cache_dir: Path) -> Path:
    """Return the converted model's model.xml, converting first if the cache lacks it.

    Args:
        model: Transformer and mean or cls pooling; the vector is normalised in any case.
        cache_dir: Folder of converted models; made if missing. One folder in it belongs to one
            (weights, pooling, OpenVINO version, `CONVERSION`).

    Raises:
        ModelError: If the weights are not the expected ones, the model is of another make, or
            the conversion fails or gives other vectors than the original.
        StorageError: If the cache folder cannot be written.
    """
    if model.pooling not in POOLINGS or model.modules not in MODULES:
        raise ModelError(
            f"The embedder openvino cannot run {model.name} (modules {', '.join(model.modules)}, "
            f"pooling {model.pooling}); it runs mean or cls pooling without further layers.",
            do="Set embedder to torch.",
        )
    identity = {
        "sha256": model.sha256,
        "pooling": model.pooling,
        "openvino": version("openvino"),
        "conversion": CONVERSION,
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    name = re.sub(r"[^A-Za-z0-9._-]", "_", model.name)
    target = cache_dir / f"openvino-{name}-{key}"
    if not _complete(target, identity):
        try:
            _convert_locked(model, target, identity)
        except OSError as error:
            raise StorageError(
                f"Cannot keep the converted model in {cache_dir}: {error}.",
                do="Make room there, or point home to a folder that can be written.",
            ) from error
    return target / _FILES[0]


def _complete(target: Path, identity: dict[str, Any]) -> bool:
    try:
        manifest = json.loads((target / _MANIFEST).read_text(encoding="utf-8"))
        sizes = {name: (target / name).stat().st_size for name in _FILES}
    except (OSError, ValueError):
        return False
    return bool(manifest == {**identity, "bytes": sizes})


def _convert_locked(model: EmbeddingModel, target: Path, identity: dict[str, Any]) -> None:
    from filelock import FileLock, Timeout

    cache_dir = target.parent
    cache_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(cache_dir / "convert.lock", timeout=TIMEOUT_S):
            if _complete(target, identity):  # another process was faster
                return
            for left in cache_dir.glob(f"{_UNFINISHED}*"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            work = cache_dir / f"{_UNFINISHED}{uuid4().hex}"
            work.mkdir()
            try:
                verify_weights(model)
                _run_conversion(model, work)
                _seal(work, identity)
                if target.exists():
                    shutil.rmtree(target)
                work.rename(target)
                _sync(cache_dir)
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except Timeout as error:
        raise ModelError(
            f"Another process has been converting {model.name} for {TIMEOUT_S:.0f} s.",
            do=f"Wait for it, or end it and remove {cache_dir / 'convert.lock'}.",
        ) from error


def _run_conversion(model: EmbeddingModel, work: Path) -> None:
    _log.info("Converting %s for OpenVINO (once)", model.name)
    root = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")])),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }
    # -P: the current folder may hold anybody's files and is not searched for modules.
    command = [sys.executable, "-P", "-m", __name__, str(model.folder), model.pooling, str(work)]
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"Converting {model.name} took over {TIMEOUT_S:.0f} s.") from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        raise ModelError(
            f"Converting {model.name} for OpenVINO failed: {reason}.",
            do="Check free memory and disk, or set embedder to torch.",
        )


def _seal(work: Path, identity: dict[str, Any]) -> None:
    sizes = {name: (work / name).stat().st_size for name in _FILES}
    manifest = json.dumps({**identity, "bytes": sizes}, indent=2)
    (work / _MANIFEST).write_text(manifest, encoding="utf-8")
    for name in (*_FILES, _MANIFEST):
        _sync(work / name)
    _sync(work)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def convert(folder: Path, pooling: str, out: Path) -> None:
    """Write out/model.xml and out/model.bin (weights as float16); imports PyTorch.

    The graph takes input_ids and attention_mask, (batch, tokens) int64, and returns (batch, dim)
    float32 unit rows. It is compared with the original on shapes it was not traced with.

    Args:
        folder: The model's folder.
        pooling: One of `POOLINGS`.
        out: An existing folder.

    Raises:
        ModelError: If the vectors differ from the original's.
    """
    openvino = import_openvino()
    import torch
    from transformers import AutoModel

    with quiet_transformers() as log, torch.inference_mode():
        network = AutoModel.from_pretrained(
            str(folder),
            attn_implementation="sdpa",
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        ).eval()
        log.require_all(folder.name, unused=("pooler.",))
        module = _pooled(network, pooling)
        example = _example(network.config.vocab_size, lengths=(8, 5))
        graph = openvino.convert_model(module, example_input=example)
        openvino.save_model(graph, out / _FILES[0], compress_to_fp16=True)
        checked = _example(network.config.vocab_size, lengths=(21, 3, 14))
        expected = module(**checked).numpy()
    compiled = openvino.Core().compile_model(
        out / _FILES[0], "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    got = compiled([tensor.numpy() for tensor in checked.values()])[0]
    least = float((expected * got).sum(axis=1).min())
    if not least >= _LEAST_COSINE:
        raise ModelError(f"the converted vectors differ from the original's: cosine {least:.4f}")


def _pooled(network: Any, pooling: str) -> torch.nn.Module:  # noqa: ANN401
    """Return the network with pooling and normalisation behind it."""
    import torch

    class Pooled(torch.nn.Module):  # type: ignore[misc]  # torch is untyped here
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states = self.network(
                input_ids=input_ids, attention_mask=attention_mask
            ).last_hidden_state  # (batch, tokens, dim)
            if pooling == "cls":
                vectors = states[:, 0]
            else:
                mask = attention_mask[:, :, None].to(states.dtype)
                vectors = (states * mask).sum(1) / mask.sum(1)
            return torch.nn.functional.normalize(vectors, dim=-1)

    return Pooled()


def _example(vocabulary: int, lengths: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Return random padded input for texts of these lengths."""
    import torch

    generator = torch.Generator().manual_seed(0)
    width = max(lengths)
    ids = torch.randint(1, vocabulary, (len(lengths), width), generator=generator)
    mask = torch.tensor([[1] * length + [0] * (width - length) for length in lengths])
    return {"input_ids": ids * mask, "attention_mask": mask}


if __name__ == "__main__":
    convert(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
