"""Seconds and peak memory of a cold `youju ask`, and whether torch was imported.

    python -m bench.ask [--runs 5]

Each run is a new process on a store that holds the sample corpus.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from bench.process import run

ROOT = Path(__file__).resolve().parents[1]
QUESTIONS = ["C3 控制器显示 E05 是什么故障？", "What does the SKIT-60 service kit cost?"]
CODE = """
import sys, json, youju
sys.argv = ["youju", "ask", sys.argv[1], "--store", "bench", "--json"]
try:
    youju.main()
finally:
    heavy = sorted({"torch", "transformers", "sentence_transformers"} & set(sys.modules))
    sys.stderr.write("heavy modules: " + json.dumps(heavy))
    if heavy:
        sys.exit(9)
"""


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as home:
        environment = {"YOUJU_HOME": home}
        run(["-m", "youju", "ingest", str(ROOT / "samples/corpus"), "-s", "bench"], environment)
        costs = {
            question: [json.loads(_measured(question, home)) for _ in range(runs)]
            for question in QUESTIONS
        }
    print(
        json.dumps(
            {
                question: {
                    "wall_s_median": round(statistics.median(c["wall_s"] for c in found), 2),
                    "wall_s_max": round(max(c["wall_s"] for c in found), 2),
                    "peak_mib_max": round(max(c["peak_mib"] for c in found)),
                    "torch_imported": False,
                }
                for question, found in costs.items()
            },
            ensure_ascii=False,
            indent=2,
        )
    )


def _measured(question: str, home: str) -> str:
    """Run the question in a grandchild, so that its peak is not hidden by a larger child's."""
    code = (
        "import json, sys; from bench.process import run;"
        "c = run(['-c', sys.argv[1], sys.argv[2]], {});"
        "print(json.dumps({'wall_s': c.wall_s, 'peak_mib': c.peak_mib}))"
    )
    return run(["-c", code, CODE, question], {"YOUJU_HOME": home}).output


if __name__ == "__main__":
    main()
