"""How DBOS writes what it remembers: as JSON, never pickled; of an error only its kind."""

from __future__ import annotations

import json
from typing import Any

from dbos import Serializer


class JobJson(Serializer):
    """Numbers, words, lists and mappings as JSON."""

    def serialize(self, data: Any) -> str:  # noqa: ANN401
        """Return a value as JSON."""
        if isinstance(data, BaseException):  # its own words may quote a document
            data = {"error": type(data).__name__}
        return json.dumps(data, separators=(",", ":"))

    def deserialize(self, serialized_data: str) -> Any:  # noqa: ANN401
        """Return what was serialized."""
        return json.loads(serialized_data)

    def name(self) -> str:
        """Return what is written beside it."""
        return "youju_json"
