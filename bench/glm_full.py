"""ChatGLM3-6B's full shape on this CPU: random weights of 8 or 4 bits, loaded and run.

    python -m bench.glm_full [--bits 4] [--tokens 32] [--prompt 64] [--layers 28] [--folder DIR]

The quantised folder is written with random numbers straight away: what a weight is makes no
difference to speed or memory, and so no 12.5 GB of float16 are needed. Loading and generating is
the product's own, in a process of its own. `bound_tokens_s` is how often all weights can be read
in a second, at the read bandwidth measured in the same process with as many threads.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from bench.process import run

WRITE = """
import sys, torch
from pathlib import Path
from rag.glm.config import QUANTIZED_TYPE, GlmShape, native_config, packing_settings
from rag.glm.folder import write_json
from rag.glm.keys import SCALE_SUFFIX, packed_bits, table
from rag.glm.packing import group_count
from rag.glm.shards import ShardWriter
folder, bits, layers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
shape = GlmShape(layers, 4096, 13696, 32, 2, 128, 65024, 8192)
folder.mkdir()
numbers = torch.Generator().manual_seed(0)
writer = ShardWriter(folder, 2**30)
for entry in table(shape):
    kept = packed_bits(entry, bits)
    for part in entry.parts:
        rows, rest = part.stop - part.start, entry.shape[1:]
        if not kept:
            one = "norm" in part.name
            plain = torch.randn(rows, *rest, generator=numbers) * 0.02 + one
            writer.add(part.name, plain.half())
            continue
        size = (rows, rest[0] * kept // 8)
        low, high, kind = (-127, 128, torch.int8) if kept == 8 else (0, 256, torch.uint8)
        writer.add(part.name, torch.randint(low, high, size, dtype=kind, generator=numbers))
        groups = group_count(rest[0], 8 if kept == 8 else 4)
        scale = torch.full((rows, groups), 0.06 / 2**kept, dtype=torch.float16)
        writer.add(part.name + SCALE_SUFFIX, scale)
writer.close()
config = native_config(shape, stop_ids=[2, 64795, 64797], dtype="float16")
config |= {"model_type": QUANTIZED_TYPE, "quantization_config": packing_settings(bits)}
write_json(folder / "config.json", config)
print(shape.parameters)
"""
RUN = """
import json, os, sys, time, torch
from rag.glm.load import load_chatglm3
from rag.glm.source import open_source
folder, prompt, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
from pathlib import Path
weights = open_source(Path(folder)).weights
read = sum(i.nbytes for n, i in weights.tensors.items() if n != "model.embed_tokens.weight")
begin = time.perf_counter()
model = load_chatglm3(folder, "float32").model
load_s = time.perf_counter() - begin
ids = torch.randint(1000, 60000, (1, prompt), generator=torch.Generator().manual_seed(0))
def generate(count):
    begin = time.perf_counter()
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count,
                         do_sample=False, eos_token_id=None)
    assert out.shape[1] == prompt + count
    return time.perf_counter() - begin
with torch.inference_mode():
    generate(2)
    first = generate(1)
    token_s = (generate(tokens + 1) - first) / tokens
threads = len(os.sched_getaffinity(0))
torch.set_num_threads(threads)
block = torch.empty(2**27, dtype=torch.int64).fill_(1)
def bandwidth():
    begin = time.perf_counter(); block.sum(); return block.nbytes / (time.perf_counter() - begin)
bytes_s = max(bandwidth() for _ in range(6))
bound = bytes_s / read
print(json.dumps({
    "threads": threads, "weights_read_a_token_gb": round(read / 1e9, 3),
    "load_s": round(load_s, 1), "prefill_tokens_s": round(prompt / first, 1),
    "tokens_s": round(1 / token_s, 2), "read_gb_s": round(bytes_s / 1e9, 1),
    "bound_tokens_s": round(bound, 2), "share_of_bound": round(1 / token_s / bound, 3)}))
"""
MEASURED = (
    "import json, sys; from bench.process import run; c = run(['-c', *sys.argv[1:]], {});"
    "print(json.dumps({'peak_mib': round(c.peak_mib), **json.loads(c.output)}))"
)


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bits", type=int, choices=(8, 4), default=4)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--folder", type=Path, help="for the model, 7 GB; else a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        model = f"{folder}/model"
        written = run(["-c", WRITE, model, str(arguments.bits), str(arguments.layers)], {})
        stored = sum(path.stat().st_size for path in Path(model).iterdir())
        # In a grandchild, so that its peak is not hidden by the writer's.
        sizes = [str(arguments.prompt), str(arguments.tokens)]
        found = json.loads(run(["-c", MEASURED, RUN, model, *sizes], {}).output)
    head = {
        "bits": arguments.bits,
        "parameters": int(written.output),
        "stored_gb": round(stored / 1e9, 2),
        "prompt": arguments.prompt,
        "new_tokens": arguments.tokens,
    }
    print(json.dumps(head | found, indent=2))


if __name__ == "__main__":
    main()
