"""ChatGLM3-6B's full shape on this CPU: random weights of 8 or 4 bits, loaded and run.

    python -m bench.glm_full [--bits 4] [--tokens 32] [--prompt 64] [--layers 28] [--folder DIR]

The quantised folder is written with random numbers straight away: what a weight is makes no
difference to speed or memory, and so no 12.5 GB of float16 are needed. Loading and generating is
the product's own, in a process of its own. `bound_tokens_s` is how often all weights can be read
in a second, at the read bandwidth measured in the same process with as many threads, once the
memory is noted: `own_gib` is what nothing but the process's end frees, `mapped_gib` are pages of
the stored file, which the system takes back when it needs them. `first_s` is the first prompt and
token, for which OpenVINO rearranges the weights.
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
from pathlib import Path
folder, prompt, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
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
    first_s = generate(2)
    first = generate(1)
    token_s = (generate(tokens + 1) - first) / tokens
pages = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
peak, own, file = (int(pages[name].split()[0]) / 2**20 for name in ("VmHWM", "RssAnon", "RssFile"))
threads = len(os.sched_getaffinity(0))
torch.set_num_threads(threads)
block = torch.empty(2**27, dtype=torch.int64).fill_(1)
def bandwidth():
    begin = time.perf_counter(); block.sum(); return block.nbytes / (time.perf_counter() - begin)
bytes_s = max(bandwidth() for _ in range(6))
bound = bytes_s / read
print(json.dumps({
    "threads": threads, "weights_read_a_token_gb": round(read / 1e9, 3),
    "peak_gib": round(peak, 2), "own_gib": round(own, 2), "mapped_gib": round(file, 2),
    "load_s": round(load_s, 1), "first_s": round(first_s, 1),
    "prefill_tokens_s": round(prompt / first, 1),
    "tokens_s": round(1 / token_s, 2), "read_gb_s": round(bytes_s / 1e9, 1),
    "bound_tokens_s": round(bound, 2), "share_of_bound": round(1 / token_s / bound, 3)}))
"""


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
        sizes = [str(arguments.prompt), str(arguments.tokens)]
        found = json.loads(run(["-c", RUN, model, *sizes], {}).output)
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
