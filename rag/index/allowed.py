"""The ids that a search is confined to: one sorted array, the same for every index.

Knows nothing of files, attributes or filters; which passages are allowed is the caller's business.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rag.schema import IntArray


def checked(allowed: IntArray) -> IntArray:
    """Return `allowed` as it is, if it is what the indexes expect.

    Raises:
        ValueError: If it is not a (n,) int64 array that ascends strictly; n may be 0.
    """
    if allowed.ndim != 1 or allowed.dtype != np.int64:
        raise ValueError(f"got allowed {allowed.shape} {allowed.dtype}, expected (n,) int64")
    if not (allowed[1:] > allowed[:-1]).all():
        raise ValueError("allowed ids are not sorted, or one is given twice: use numpy.unique")
    return allowed


def find(ids: IntArray, held: IntArray) -> tuple[NDArray[np.bool_], IntArray]:
    """Look each of `ids` up in `held`, which is sorted and without repeats.

    Returns:
        Two (n,) arrays: whether `held` has the id, and its position there (meaningless if not).
    """
    places = np.searchsorted(held, ids)
    present = places < len(held)
    present[present] = held[places[present]] == ids[present]
    return present, places.astype(np.int64)
