"""What `make demo` runs: ingest the sample corpus, ask it four questions, say what to type next."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
YOUJU = Path(sys.executable).with_name("youju")
STORE = "samples"
QUESTIONS = [
    "C3 控制器显示 E05 是什么故障？",
    "现行的差旅标准，普通员工去一类城市住酒店，每晚限额多少？",
    "Under the current warranty terms, how long are wear parts covered?",
    "What is the exchange rate between the euro and the dollar today?",
]


def youju(*arguments: str) -> None:
    """Show a command as the user would type it, and run it.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    print(f"\n$ .venv/bin/youju {shlex.join(arguments)}", flush=True)
    subprocess.run([YOUJU, *arguments], check=True, cwd=ROOT)


def main() -> None:
    """Run the demonstration."""
    youju("ingest", "samples/corpus", "--store", STORE, "--prune")
    for question in QUESTIONS:
        youju("ask", question, "--store", STORE)
    print(
        "\nThe last question was refused: the handbook does not answer it. Next, your own files:\n"
        "  .venv/bin/youju ingest ~/Documents/handbook\n"
        '  .venv/bin/youju ask "..."'
    )


if __name__ == "__main__":
    main()
