"""Peak memory and seconds of converting and loading a ChatGLM3 checkpoint of random weights.

    python -m bench.glm [--layers 12] [--hidden 2048] [--folder DIR]

Writes a float16 checkpoint in the official layout, as one safetensors file and as one .bin, and
runs each action in a process of its own. The ratio is the whole process's peak to the larger of the
stored and the resulting model; `libraries_mib` is what PyTorch and transformers take of it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from bench.process import run

WRITE = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from rag.glm.config import GlmShape, official_config
from rag.glm.keys import table
folder, kind, layers, hidden = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
shape = GlmShape(layers, hidden, 3 * hidden, hidden // 128, 2, 128, 65024, 8192)
folder.mkdir()
numbers = torch.Generator().manual_seed(0)
tensors = {
    entry.name: torch.randint(0, 2**14, entry.shape, dtype=torch.int16, generator=numbers)
    .view(torch.float16)
    for entry in table(shape)
}
(folder / "config.json").write_text(json.dumps(official_config(shape, "float16")))
if kind == "bin":
    torch.save(tensors, folder / "pytorch_model.bin")
else:
    save_file(tensors, folder / "model.safetensors")
print(shape.parameters)
"""
CONVERT = """
import sys; from pathlib import Path; from rag.glm.checkpoint import convert
convert(Path(sys.argv[1]), Path(sys.argv[1] + "-native"), dtype=sys.argv[2])
"""
LOAD = """
import sys; from transformers import GlmForCausalLM; from rag.glm.load import load_chatglm3
load_chatglm3(sys.argv[1], sys.argv[2])
"""
IMPORT = "from transformers import GlmForCausalLM; import rag.glm.load"
MEASURED = (
    "import json, sys; from bench.process import run; c = run(['-c', *sys.argv[1:]], {});"
    "print(json.dumps({'wall_s': c.wall_s, 'peak_mib': c.peak_mib}))"
)


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=2048, help="A multiple of 256.")
    parser.add_argument("--folder", help="Where to write; else a temporary folder.")
    options = parser.parse_args()
    found: dict[str, object] = {"libraries_mib": round(_measure(IMPORT)["peak_mib"])}
    for kind in ("safetensors", "bin"):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            source = str(Path(folder) / "model")
            sizes = [str(options.layers), str(options.hidden)]
            parameters = int(run(["-c", WRITE, source, kind, *sizes], {}).output)
            for action, code in (("load", LOAD), ("convert", CONVERT)):
                for dtype, width in (("float16", 2), ("float32", 4)):
                    cost = _measure(code, source, dtype)
                    found[f"{kind} {action} {dtype}"] = {
                        "model_mib": round(parameters * width / 2**20),
                        "peak_mib": round(cost["peak_mib"]),
                        "ratio": round(cost["peak_mib"] / (parameters * width / 2**20), 2),
                        "wall_s": round(cost["wall_s"], 1),
                    }
                    if action == "convert":
                        shutil.rmtree(source + "-native")
    print(json.dumps(found, indent=2))


def _measure(code: str, *arguments: str) -> dict[str, float]:
    """Run in a grandchild, so that its peak is not hidden by a larger child's."""
    cost: dict[str, float] = json.loads(run(["-c", MEASURED, code, *arguments], {}).output)
    return cost


if __name__ == "__main__":
    main()
