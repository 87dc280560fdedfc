"""CPU seconds a chunk: the OpenVINO embedder against sentence-transformers in float32.

    python -m bench.embed [--texts 200] [--words 120] [--rounds 3] [--data DIR]

Both engines run in this process on the same texts, block by block in turn, so that a busy machine
slows both; the model's loading and one block to warm up are not counted. CPU seconds are user and
system time of all threads. The texts are sentences of the English sample documents in random
order, or the passages of DIR/corpus.jsonl (BEIR layout).
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rag.embed.openvino import OpenVinoEmbedder, Precision
from rag.embed.packaged import packaged_folder
from rag.embed.quiet import quiet_transformers
from rag.schema import FloatArray

SAMPLES = Path(__file__).resolve().parents[1] / "samples"
Encode = Callable[[list[str]], FloatArray]


def made_texts(count: int, words: int, seed: int = 0) -> list[str]:
    """Return `count` texts of `words` words each, made of sample sentences."""
    files = sorted(SAMPLES.rglob("*-en*.md"))
    lines = [line for file in files for line in file.read_text("utf-8").splitlines()]
    sentences = [line.split() for line in lines if len(line) > 60]
    chosen = random.Random(seed)
    texts: list[str] = []
    for _ in range(count):
        text: list[str] = []
        while len(text) < words:
            text += chosen.choice(sentences)
        texts.append(" ".join(text[:words]))
    return texts


def read_texts(folder: Path, count: int) -> list[str]:
    """Return up to `count` passages of a BEIR folder, title and text."""
    lines = (folder / "corpus.jsonl").read_text("utf-8").split("\n")
    entries = [json.loads(line) for line in lines[:count] if line]
    return ["\n".join(filter(None, (entry.get("title"), entry["text"]))) for entry in entries]


def reference(threads: int) -> Encode:
    """Return sentence-transformers in float32 on the CPU, as its users call it."""
    import torch
    from sentence_transformers import SentenceTransformer

    if threads:
        torch.set_num_threads(threads)
    with quiet_transformers():
        network = SentenceTransformer(str(packaged_folder()), device="cpu", local_files_only=True)

    def encode(texts: list[str]) -> FloatArray:
        found = network.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(found, dtype=np.float32)

    return encode


def cost(encode: Encode, texts: list[str]) -> tuple[float, float, FloatArray]:
    """Return the CPU and wall seconds of one block, and its vectors."""
    cpu, wall = time.process_time(), time.perf_counter()
    vectors = encode(texts)
    return time.process_time() - cpu, time.perf_counter() - wall, vectors


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--words", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--precision", choices=("auto", "f32", "bf16"), default="auto")
    parser.add_argument("--cache", type=Path, help="folder of converted models")
    options = parser.parse_args()
    texts = (
        read_texts(options.data, options.texts)
        if options.data
        else made_texts(options.texts, options.words)
    )
    precision: Precision = options.precision
    with tempfile.TemporaryDirectory() as scratch:
        ours = OpenVinoEmbedder(
            options.cache or Path(scratch),
            precision=precision,
            threads=options.threads,
            batch_tokens=options.batch_tokens,
        )
        engines: dict[str, Encode] = {
            "openvino": ours.encode_passages,
            "sentence_transformers_f32": reference(options.threads),
        }
        report = measure(engines, texts, options.rounds)
        counts = ours.tokens.count(texts)
    tokens = statistics.mean(min(count + 2, ours.tokens.max_tokens) for count in counts)
    print(json.dumps({"texts": len(texts), "tokens_a_text": round(tokens), **report}, indent=2))


def measure(engines: dict[str, Encode], texts: list[str], rounds: int) -> dict[str, object]:
    """Run the engines in turn; return costs in ms a text, their ratio and the vectors' cosines."""
    cpu: dict[str, list[float]] = {name: [] for name in engines}
    wall: dict[str, list[float]] = {name: [] for name in engines}
    vectors = {name: cost(encode, texts)[2] for name, encode in engines.items()}
    for _ in range(rounds):
        for name, encode in engines.items():
            block_cpu, block_wall, vectors[name] = cost(encode, texts)
            cpu[name].append(block_cpu / len(texts) * 1000)
            wall[name].append(block_wall / len(texts) * 1000)
    mine, theirs = engines
    ratios = [left / right for left, right in zip(cpu[mine], cpu[theirs], strict=True)]
    cosines = (vectors[mine] * vectors[theirs]).sum(axis=1)
    return {
        "cpu_ms_a_text": {name: round(statistics.median(found), 2) for name, found in cpu.items()},
        "wall_ms_a_text": {
            name: round(statistics.median(found), 2) for name, found in wall.items()
        },
        "cpu_ratio": round(statistics.median(ratios), 3),
        "cpu_ratio_of_each_round": [round(ratio, 3) for ratio in ratios],
        "cosine_mean": round(float(cosines.mean()), 5),
        "cosine_min": round(float(cosines.min()), 5),
    }


if __name__ == "__main__":
    main()
