"""What `make demo` runs: ingest the sample corpus, ask it four questions, say what to type next."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from pathlib import Path

import youju
from ingest.job import make_chunker
from rag.build import build_rag
from rag.config import load_settings

ROOT = Path(__file__).resolve().parents[1]
STORE = "samples"
QUESTIONS = [
    "C3 控制器显示 E05 是什么故障？",
    "JL-220N 用的双相钢叶轮多少钱一个？",
    "How far from the motor can I mount the C3 controller?",
    "What is the exchange rate between the euro and the dollar today?",
]


def command(*arguments: str) -> None:
    """Show a command as the user would type it, and run it; end with its status if it fails."""
    print(f"\n$ .venv/bin/youju {shlex.join(arguments)}", flush=True)
    status = youju.run(list(arguments), debug=False)
    if status:
        sys.exit(status)


def made_by_another_version() -> bool:
    """Whether the store is there already, cut up or embedded otherwise than now."""
    rag = build_rag(load_settings().settings)
    with contextlib.closing(rag.db):
        store = rag.catalog.find(STORE)
        return store is not None and (store.chunker, store.embedder) != (
            make_chunker(rag).fingerprint,
            rag.embedder.fingerprint,
        )


def main() -> None:
    """Run the demonstration, all in one process: starting one takes longer than answering."""
    os.chdir(ROOT)
    if made_by_another_version():
        command("reindex", "--store", STORE)
    command("ingest", "samples/corpus", "--store", STORE, "--prune")
    for question in QUESTIONS:
        command("ask", question, "--store", STORE)
    print(
        "\nThe last question was refused: the handbook does not answer it. Next, your own files:\n"
        "  .venv/bin/youju ingest ~/Documents/handbook\n"
        '  .venv/bin/youju ask "..."'
    )


if __name__ == "__main__":
    main()
