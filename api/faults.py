"""What the log may hold of a fault inside the server: no word of a document, a question or a key.

An error of ours says what it says in its own words. Any other, a bug or a library's, may quote what
it was working on: of that only the type and the place are told.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from rag.errors import YoujuError

_FRAMES = 3


def told(error: BaseException) -> str:
    """Return an error in words for the log, in one line."""
    if isinstance(error, YoujuError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames[-_FRAMES:]]
    return f"unexpected {type(error).__name__} at {' > '.join(places) or 'an unknown place'}"
