"""The console script: one line for a Ctrl-C even while the command line is still imported."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `youju`; never returns."""
    try:
        from youju import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("Error: Stopped.\n")
        sys.exit(130)
