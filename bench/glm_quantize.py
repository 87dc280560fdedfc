"""`youju glm quantize` from end to end: size, seconds, peak memory, and the error of the logits.

    python -m bench.glm_quantize [MODEL ...] [--layers 5] [--folder DIR]

Without a MODEL it writes a random float16 checkpoint in the official layout, as wide as ChatGLM3-6B
and of so many layers: its largest matrix is the 6B model's, and so is the memory that quantising
takes. The errors are those of all logits of 64 random tokens against float32 weights; random
weights say nothing of answers. Each action runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from bench.process import run

WRITE = """
import json, sys, torch
from pathlib import Path
from rag.glm.config import GlmShape, official_config
from rag.glm.folder import write_json
from rag.glm.keys import table
from rag.glm.shards import ShardWriter
folder = Path(sys.argv[1])
shape = GlmShape(int(sys.argv[2]), 4096, 13696, 32, 2, 128, 65024, 8192)
folder.mkdir()
numbers = torch.Generator().manual_seed(0)
writer = ShardWriter(folder, 2**30)
for entry in table(shape):
    plain = torch.randn(entry.shape, generator=numbers) * 0.02 + ("norm" in entry.name)
    writer.add(entry.name, plain.half())
writer.close()
write_json(folder / "config.json", official_config(shape, "float16"))
"""
QUANTIZE = """
import json, sys, time
from pathlib import Path
from rag.glm.quantize import quantize
begin = time.perf_counter()
written = quantize(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
seconds = time.perf_counter() - begin
status = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({
    "parameters": written.parameters, "seconds": round(seconds, 1),
    "peak_mib": round(int(status["VmHWM"].split()[0]) / 1024)}))
"""
LOGITS = """
import sys, torch
from rag.glm.load import load_chatglm3
loaded = load_chatglm3(sys.argv[1], "float32")
top = min(loaded.shape.vocabulary, 64789)
ids = torch.randint(3, top, (1, 64), generator=torch.Generator().manual_seed(0))
with torch.inference_mode():
    torch.save(loaded.model(input_ids=ids).logits[0], sys.argv[2])
"""


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="official or native folders")
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write; else a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        models = arguments.models
        if not models:
            models = [f"{folder}/random"]
            run(["-c", WRITE, models[0], str(arguments.layers)], {})
        found = {Path(model).name: _measure(model, Path(folder)) for model in models}
    print(json.dumps(found, indent=2))


def _measure(model: str, folder: Path) -> dict[str, Any]:
    plain = folder / "plain.pt"
    run(["-c", LOGITS, model, str(plain)], {})
    found: dict[str, Any] = {"stored_mib": _stored_mib(Path(model))}
    for bits in ("8", "4"):
        target, rounded = folder / f"{Path(model).name}-{bits}", folder / "rounded.pt"
        cost = json.loads(run(["-c", QUANTIZE, model, str(target), bits], {}).output)
        run(["-c", LOGITS, str(target), str(rounded)], {})
        stored = {"stored_mib": _stored_mib(target)}
        found[f"{bits} bits"] = {**stored, **cost, **_errors(plain, rounded)}
    return found


def _errors(plain: Path, rounded: Path) -> dict[str, float]:
    import torch

    expected, got = (torch.load(path, weights_only=True).double() for path in (plain, rounded))
    sure, tried = expected.log_softmax(-1), got.log_softmax(-1)
    return {
        "relative_error": round(float((got - expected).norm() / expected.norm()), 5),
        "largest_error": round(float((got - expected).abs().max()), 5),
        "same_best_token": round(float((got.argmax(-1) == expected.argmax(-1)).double().mean()), 3),
        "kl_nats": round(float((sure.exp() * (sure - tried)).sum(-1).mean()), 6),
    }


def _stored_mib(folder: Path) -> float:
    """Of the weight files."""
    return round(sum(path.stat().st_size for path in folder.glob("*.safetensors")) / 2**20, 1)


if __name__ == "__main__":
    main()
