"""PNG, JPEG and TIFF -> Document, by OCR; each picture of a TIFF is a page."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING
from warnings import catch_warnings, simplefilter

from ingest.allowance import Allowance
from ingest.discover import SUPPORTED
from ingest.lines import join_pages
from ingest.ocr import INSTALL, WARNING, page_text
from rag.errors import DocumentRejected
from rag.schema import Document

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FORMATS = ("PNG", "JPEG", "TIFF")
_MAX_PIXELS = 120_000_000  # an A1 sheet at 250 dots per inch
_MAX_FRAMES = 10_000
_LONGEST_SIDE = 3000  # pixels that are read; a larger picture is reduced
_TYPES = {b"\x89P": SUPPORTED[".png"], b"\xff\xd8": SUPPORTED[".jpg"]}


def image_document(data: bytes, allowance: Allowance) -> Document:
    """Read a picture.

    Args:
        data: The file, known to begin like a PNG, JPEG or TIFF image.
        allowance: Holds the reader; without one it is noted there that one is wanted.

    Returns:
        A Document with a page span for each picture with text, and a warning that it was read.

    Raises:
        DocumentRejected: reason "needs-ocr", "damaged", "too-large" or "empty".
    """
    reader = allowance.reader
    if reader is None:
        allowance.wanted_ocr += 1
        raise DocumentRejected(
            "The text of a picture can be read by OCR only.", reason="needs-ocr", do=INSTALL
        )
    pages: list[str] = []
    warnings = [f"The picture was {WARNING}"]
    with catch_warnings():
        simplefilter("ignore")  # of odd metadata; the size is checked here
        for pixels in _frames(data):
            if not allowance.ocr_page():
                warnings.append(f"Only {len(pages)} pictures were read (setting ocr_pages).")
                break
            pages.append(page_text(reader.read(pixels)))
    text, spans = join_pages(pages)
    if not text:
        raise DocumentRejected("No text was found in the picture.", reason="empty")
    return Document(
        text=text,
        pages=spans if len(pages) > 1 else (),
        media_type=_TYPES.get(data[:2], SUPPORTED[".tiff"]),
        warnings=tuple(warnings),
    )


def _frames(data: bytes) -> Iterator[NDArray[np.uint8]]:
    """Yield each picture of a file as RGB, upright, at most 3000 pixels long."""
    import numpy as np
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            for number in range(min(getattr(image, "n_frames", 1), _MAX_FRAMES)):
                image.seek(number)
                if image.width * image.height > _MAX_PIXELS:
                    raise DocumentRejected(
                        f"The picture has {image.width:,} x {image.height:,} pixels; the limit is "
                        f"{_MAX_PIXELS:,} in all.",
                        reason="too-large",
                        do="Reduce it.",
                    )
                image.draft("RGB", (_LONGEST_SIDE, _LONGEST_SIDE))
                upright = ImageOps.exif_transpose(image)
                upright.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
                flat = Image.new("RGB", upright.size, "white")
                rgba = upright.convert("RGBA")
                flat.paste(rgba, mask=rgba.getchannel("A"))
                yield np.asarray(flat)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError) as error:
        raise DocumentRejected(
            "The picture is truncated or damaged.", reason="damaged", do="Get the file again."
        ) from error
    except Image.DecompressionBombError as error:
        raise DocumentRejected("The picture has too many pixels.", reason="too-large") from error
