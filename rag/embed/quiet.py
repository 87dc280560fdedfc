"""Imports of OpenVINO and transformers without what they send, write or print by themselves."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rag.errors import ModelError

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_REPORT_ROW = re.compile(r"(\S+)\s*\|\s*(?:MISSING|MISMATCH)\b")


def import_openvino() -> Any:  # noqa: ANN401  an untyped library
    """Import OpenVINO with its telemetry kept out; the only way to import it in this project.

    `import openvino` alone already counts the import, writes an id below the user's home and
    sends both away. With the package openvino_telemetry made unavailable it takes its own stub.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's way to bar it
    import openvino

    return openvino


class LoadLog(logging.Handler):
    """Collects what transformers would print while it loads a model.

    transformers fills weights that a model's files lack with random numbers, and only logs it.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._missing: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note the weights that a load report calls missing or of another shape."""
        for line in _COLOUR.sub("", record.getMessage()).splitlines():
            row = _REPORT_ROW.match(line)
            if row:
                self._missing.append(row[1])

    def require_all(self, name: str, *, unused: tuple[str, ...] = ()) -> None:
        """Refuse a model some of whose weights were filled with random numbers.

        Args:
            name: The model's, for the message.
            unused: Weights whose names begin so, after the model's own prefix, may be missing.

        Raises:
            ModelError: Naming the first missing one.
        """
        missing = [key for key in self._missing if not key.startswith(unused)]
        if missing:
            raise ModelError(
                f"The model {name} lacks {len(missing)} of its weights, such as {missing[0]}.",
                do="It is incomplete, or was made for another purpose; take another model.",
            )


@contextmanager
def quiet_transformers() -> Iterator[LoadLog]:
    """Keep transformers and sentence-transformers silent: no progress bar, report or warning.

    Yields:
        What transformers wanted to say.
    """
    from transformers.utils import logging as settings

    level, bars = settings.get_verbosity(), settings.is_progress_bar_enabled()
    log = LoadLog()
    sentence_log = logging.getLogger("sentence_transformers")
    sentence_level = sentence_log.level
    settings.set_verbosity_warning()
    settings.disable_progress_bar()
    settings.disable_default_handler()
    settings.add_handler(log)
    sentence_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield log
    finally:
        sentence_log.setLevel(sentence_level)
        settings.remove_handler(log)
        settings.enable_default_handler()
        settings.set_verbosity(level)
        if bars:
            settings.enable_progress_bar()
