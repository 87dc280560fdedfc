"""Switches off what libraries would send home: telemetry, tracing, hub look-ups.

Called once at the edge (rag.build), before any of them is imported.
"""

from __future__ import annotations

import os

_OFF = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "LANGSMITH_TRACING": "false",
    "LANGSMITH_TRACING_V2": "false",
    "LANGCHAIN_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",
    "TOKENIZERS_PARALLELISM": "false",
}


def switch_off_telemetry() -> None:
    """Set the variables by which libraries are told to stay silent, over any other value."""
    os.environ.update(_OFF)
    os.environ.pop("LANGCHAIN_HANDLER", None)
