"""Build the wheel, unpack it into an empty folder, import every module from there.

An editable install puts the checkout on sys.path and hides files that the wheel lacks; here the
checkout is taken off the path, and each module must come from the unpacked wheel.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

IMPORT_ALL = """
import importlib, pkgutil, sys
site, root = sys.argv[1:]
sys.path = [site] + [p for p in sys.path if p and p != root]
names = ["youju"]
for package in ("rag", "ingest", "api", "eval"):
    module = importlib.import_module(package)
    names.append(package)
    names += [m.name for m in pkgutil.walk_packages(module.__path__, package + ".")]
names = [n for n in names if n != "rag.store.migrations.env"]  # runs only inside Alembic
for name in names:
    module = importlib.import_module(name)
    assert module.__file__ and module.__file__.startswith(site), (name, module.__file__)
print(f"{len(names)} modules imported from the wheel")
"""


def main() -> None:
    """Exit non-zero if the wheel lacks something."""
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder) / "site"
        run = [sys.executable, "-m"]
        subprocess.run(
            [*run, "build", "--wheel", "--no-isolation", "--outdir", folder, str(ROOT)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        wheel = next(Path(folder).glob("*.whl"))
        subprocess.run(
            [*run, "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)],
            check=True,
        )
        subprocess.run(
            [sys.executable, "-c", IMPORT_ALL, str(site), str(ROOT)], check=True, cwd=folder
        )
        home = Path(folder) / "home"
        code = "import sys; sys.path.insert(0, sys.argv.pop(1)); import youju; youju.main()"
        subprocess.run(
            [sys.executable, "-c", code, str(site), "stores"],
            check=True,
            cwd=folder,
            env={"YOUJU_HOME": str(home), "PATH": ""},
        )


if __name__ == "__main__":
    main()
