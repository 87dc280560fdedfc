"""Asks the server of this machine whether it is ready: the health check of the container image.

    python -m api.health

Exit status 0 if /readyz answers 200, 1 otherwise. It uses the standard library alone, starts in
milliseconds, and asks no proxy.
"""

from __future__ import annotations

import http.client
import os
import sys
from collections.abc import Mapping

TIMEOUT_S = 5.0


def ready(environ: Mapping[str, str]) -> str:
    """Return "" if the server is ready, else what is wrong with it.

    Args:
        environ: YOUJU_PORT in it is the server's port; 8000 if it is not there.
    """
    port = environ.get("YOUJU_PORT") or "8000"
    if not port.isdecimal() or int(port) > 65_535:
        return f"YOUJU_PORT is {port!r:.20}; expected a port."
    connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        body = answer.read(1000).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        return f"Port {port} does not answer: {error}"
    finally:
        connection.close()
    return "" if answer.status == 200 else f"{answer.status} {body}"


def main() -> None:
    """Run the check; never returns."""
    sys.exit(ready(os.environ) or 0)


if __name__ == "__main__":
    main()
