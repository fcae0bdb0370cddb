"""The bytes of an image that are decoded at once; a plan shows them before a run."""

from __future__ import annotations

from ...display.cards import size_text
from ..sources import ArraySource, Repeated, Source
from .slides import SlideSource
from .tiff import TiffSource
from .zarr_source import ZarrSource


def decoded_at_once(source: Source) -> int:
    """Return the bytes that are decoded at once to read any region; 0 for a mapped file.

    For a TIFF or zarr these are the bytes of a tile, strip or chunk.  An image in memory was
    decoded whole.
    """
    if isinstance(source, Repeated):
        return decoded_at_once(source.source)
    if isinstance(source, ArraySource):
        return source.array.nbytes
    if isinstance(source, (TiffSource, ZarrSource, SlideSource)):
        return source.piece_bytes
    return 0


def decoding_text(source: Source) -> str:
    """Return a line about how an image is read.

    >>> from spnb.io.open import open_source
    >>> decoding_text(open_source("retina", batch_size=2))
    'retina is decoded whole: 5.7 MiB'
    """
    inner = source.source if isinstance(source, Repeated) else source
    size = decoded_at_once(inner)
    if isinstance(inner, ArraySource):
        return f"{source.name} is decoded whole: {size_text(size)}"
    pieces = f"; {size_text(size)} are decoded at once" if size else ""
    return f"{source.name} is read by region{pieces}"
