"""Text in pictures: RapidOCR (PP-OCR models, Chinese and English) on OpenVINO, without network.

The models lie in the package of the extra `ocr`. It knows arrays of pixels only; pages of PDFs and
image files are opened elsewhere.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ingest.lines import mend_page

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INSTALL = "It needs OCR: pip install 'youju[ocr]', or give its text in another format."
WARNING = "read by OCR and may hold errors."

_GUTTER = 1.2  # width of the gap between two columns, in heights of a line
_COLUMN = 0.25  # share of the text's width that most lines of a column take
_SAME_ROW = 0.6


@dataclass(frozen=True, slots=True)
class Box:
    """A line of text in a picture: its frame in pixels and what it says."""

    left: float
    top: float
    right: float
    bottom: float
    text: str

    @classmethod
    def around(cls, corners: NDArray[np.float32], text: str) -> Box:
        """Return the upright frame around four corners, (4, 2)."""
        (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
        return cls(float(left), float(top), float(right), float(bottom), text)


def ocr_installed() -> bool:
    """Whether the extra `ocr` is there."""
    return all(importlib.util.find_spec(name) for name in ("rapidocr", "cv2", "PIL"))


class RapidReader:
    """A PageReader; loads its models, about half a gigabyte, when it is made.

    Args:
        threads: Processor threads to use, >= 1.
    """

    def __init__(self, threads: int = 1) -> None:
        import cv2
        import numpy as np
        from rapidocr import EngineType, RapidOCR

        engines = {f"{part}.engine_type": EngineType.OPENVINO for part in ("Det", "Cls", "Rec")}
        limits = {"EngineConfig.openvino.inference_num_threads": threads}
        self._ocr: Any = RapidOCR(params={"Global.log_level": "critical", **engines, **limits})
        sample = np.full((200, 400, 3), 255, np.uint8)
        cv2.putText(sample, "Sample", (50, 120), cv2.FONT_HERSHEY_SIMPLEX, 3, (0, 0, 0), 5)
        self._ocr(sample)  # each model is loaded when it is first needed: now
        self._compile_without_cache(threads)

    def _compile_without_cache(self, threads: int) -> None:
        """Compile the models anew, without the cache that grows with each new size of picture."""
        import openvino

        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": threads, "CPU_RUNTIME_CACHE_CAPACITY": 0}
        for part in (self._ocr.text_det, self._ocr.text_cls, self._ocr.text_rec):
            if part is not None:
                compiled = core.compile_model(part.session.model, "CPU", settings)
                part.session.session = compiled.create_infer_request()

    def read(self, image: NDArray[np.uint8]) -> list[str]:
        """Return the lines of a picture in reading order; see `PageReader`."""
        found = self._ocr(image[:, :, ::-1].copy())
        if found.boxes is None or not found.txts:
            return []
        boxes = [
            Box.around(corners, text) for corners, text in zip(found.boxes, found.txts, strict=True)
        ]
        return reading_order([box for box in boxes if box.text.strip()])


def page_text(lines: Sequence[str]) -> str:
    """Join the lines of a read picture into paragraphs."""
    return mend_page(lines) if lines else ""


def reading_order(boxes: Sequence[Box]) -> list[str]:
    """Put boxes into lines: columns of running text one after another, rows across elsewhere.

    Returns:
        A line for each row; boxes beside each other in a row are two spaces apart.
    """
    if not boxes:
        return []
    columns = _columns(boxes)
    if len(columns) > 1:
        return [line for column in columns for line in reading_order(column)]
    lines: list[list[Box]] = []
    for box in sorted(boxes, key=lambda box: (box.top + box.bottom, box.left)):
        if lines and _in_row(lines[-1], box):
            lines[-1].append(box)
        else:
            lines.append([box])
    return ["  ".join(_ordered(row)) for row in lines]


def _ordered(row: Sequence[Box]) -> list[str]:
    return [" ".join(box.text.split()) for box in sorted(row, key=lambda box: box.left)]


def _in_row(row: Sequence[Box], box: Box) -> bool:
    last = row[-1]
    shared = min(last.bottom, box.bottom) - max(last.top, box.top)
    lower = min(last.bottom - last.top, box.bottom - box.top)
    return shared > _SAME_ROW * lower


def _columns(boxes: Sequence[Box]) -> list[list[Box]]:
    """Split at headings that run across, then at a gutter between two columns of text.

    Returns:
        The boxes in one group where there are no columns.
    """
    left = min(box.left for box in boxes)
    width = max(box.right for box in boxes) - left
    height = sorted(box.bottom - box.top for box in boxes)[len(boxes) // 2]
    middle = _gutter(boxes, left, width, height)
    if middle is None:
        return [list(boxes)]
    across = sorted(
        (box for box in boxes if box.left < middle < box.right), key=lambda box: box.top
    )
    groups: list[list[Box]] = []
    rest = [box for box in boxes if not box.left < middle < box.right]
    for divider in [*across, None]:
        above = [box for box in rest if divider is None or box.bottom <= divider.bottom]
        rest = [box for box in rest if box not in above]
        for group in (
            [b for b in above if b.right <= middle],
            [b for b in above if b.left >= middle],
        ):
            if group:
                groups.append(group)
        if divider is not None:
            groups.append([divider])
    return groups


def _gutter(boxes: Sequence[Box], left: float, width: float, height: float) -> float | None:
    """Return where two columns of running text part, None where they do not."""
    wide = [box for box in boxes if box.right - box.left >= _COLUMN * width]
    edges = sorted({box.left for box in wide})
    for edge in edges:
        middle = edge - _GUTTER * height / 2
        if not 0.3 * width < middle - left < 0.7 * width:
            continue
        before = [box for box in boxes if box.right <= middle - _GUTTER * height / 2]
        after = [box for box in boxes if box.left >= middle]
        across = len(boxes) - len(before) - len(after)
        prose = [sum(box in wide for box in side) * 2 >= len(side) for side in (before, after)]
        if min(len(before), len(after)) >= 4 and all(prose) and across * 5 <= len(boxes):
            return middle
    return None
