"""Print what the container image installs, one requirement a line: `image_requirements.py cpu|gpu`.

The project's dependencies and the extras `otel` and `postgres`. For a GPU also the extra `gpu`,
whose faiss takes the place of faiss-cpu: both builds install the same files. It reads nothing but
pyproject.toml: the layer with all packages is built anew only when that or the lock changes.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = {"cpu": ("otel", "postgres"), "gpu": ("otel", "postgres", "gpu")}


def requirements(variant: str) -> list[str]:
    """Return the requirements of an image, "cpu" or "gpu"."""
    with (ROOT / "pyproject.toml").open("rb") as handle:
        project = tomllib.load(handle)["project"]
    found: list[str] = list(project["dependencies"])
    for extra in EXTRAS[variant]:
        found += project["optional-dependencies"][extra]
    if variant == "gpu":
        found = [line for line in found if not re.match(r"faiss-cpu\b", line)]
    return found


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(sys.argv[1])) + "\n")
