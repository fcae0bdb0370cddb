"""Paints numbers as colours, and writes them as PNG: the pictures that a viewer asks for."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from .cards import TILE

STYLES = {
    "colours": "the three channels as red, green and blue",
    "classes": "the class of the highest score",
    "probability": "a number between 0 and 1",
    "heat": "a number, from the smallest to the largest",
}
"""How an output may be painted."""

VIRIDIS = (
    "#440154", "#482878", "#3E4A89", "#31688E", "#26828E", "#1F9E89", "#35B779", "#6DCD59",
    "#B4DE2C", "#FDE725",
)  # fmt: skip
"""Colours from dark to light; even in lightness, and for colour-blind readers."""


def style_of(pixels: np.ndarray) -> str:
    """The style that suits a sample of an output; classes only if there is more than one of them.

    Parameters
    ----------
    pixels
        ``(channels, rows, columns)``.

    Examples
    --------
    >>> noise = np.random.default_rng(0).normal(size=(3, 8, 8))
    >>> style_of(noise), style_of(noise[:1]), style_of(np.abs(noise) / 9), style_of(noise[:1] > 0)
    ('classes', 'heat', 'colours', 'classes')
    """
    if len(pixels) == 1:
        if pixels.dtype.kind in "bui":
            return "classes"
        return "probability" if _in_unit_interval(pixels) else "heat"
    sums_to_one = np.allclose(pixels.sum(axis=0), 1, atol=1e-2)
    if len(pixels) == 3 and _in_unit_interval(pixels) and not sums_to_one:
        return "colours"
    return "classes" if len(np.unique(pixels.argmax(axis=0))) > 1 else "probability"


def _in_unit_interval(pixels: np.ndarray) -> bool:
    return bool(pixels.min() >= -0.05 and pixels.max() <= 1.05)


def painted(pixels: np.ndarray, style: str, span: tuple[float, float]) -> np.ndarray:
    """Return numbers as colours; NaN is black.

    Parameters
    ----------
    pixels
        ``(channels, rows, columns)``.
    style
        A key of `STYLES`.
    span
        The numbers that are painted darkest and lightest, in the styles colours and heat.

    Returns
    -------
    numpy.ndarray
        ``(rows, columns, 3)`` of uint8.
    """
    missing = np.isnan(pixels).any(axis=0)
    with np.errstate(all="ignore"):  # infinite numbers are painted, too
        colours = _coloured(np.where(missing, 0, pixels), style, span)
    colours[missing] = 0
    return colours


def _coloured(pixels: np.ndarray, style: str, span: tuple[float, float]) -> np.ndarray:
    """As `painted`, of numbers that are not NaN."""
    if style == "classes":
        number = pixels[0].astype(np.int64) if len(pixels) == 1 else pixels.argmax(axis=0)
        return _mapped(TILE)[number % len(TILE)]
    pixels = pixels.astype(np.float32) if pixels.dtype.kind in "bui" else pixels
    if style == "probability":
        return _ramp(probability(pixels))
    low, high = span
    scaled = (pixels - low) / max(high - low, float(np.finfo(np.float32).tiny))
    if style == "heat":
        return _ramp(scaled.max(axis=0))
    chosen = scaled[[0, 1, 2] if len(pixels) > 2 else [0, 0, 0]]
    return _bytes(np.moveaxis(chosen, 0, -1))


def span_of(pixels: np.ndarray) -> tuple[float, float]:
    """The smallest and the largest finite number; 0 and 1 if all lie between.

    >>> span_of(np.array([0.2, np.nan])), span_of(np.array([-3.0, np.inf, 2.0]))
    ((0.0, 1.0), (-3.0, 2.0))
    """
    finite = pixels[np.isfinite(pixels)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def probability(pixels: np.ndarray) -> np.ndarray:
    """The probability of class 1 where there are two classes or one score, else of the likeliest.

    Scores that are no probabilities yet are taken through a softmax, or a sigmoid.
    """
    if len(pixels) == 1:
        return pixels[0] if _in_unit_interval(pixels) else 1 / (1 + np.exp(-pixels[0]))
    if not (_in_unit_interval(pixels) and np.allclose(pixels.sum(axis=0), 1, atol=1e-2)):
        raised = np.exp(pixels - pixels.max(axis=0))
        pixels = raised / raised.sum(axis=0)
    return pixels[1] if len(pixels) == 2 else pixels.max(axis=0)


def png(colours: np.ndarray) -> bytes:
    """Return colours ``(rows, columns, 3)`` as a PNG file."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(colours).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _ramp(values: np.ndarray) -> np.ndarray:
    """Numbers between 0 and 1 as colours from dark to light."""
    places = np.clip(np.nan_to_num(values, posinf=1), 0, 1) * (len(VIRIDIS) - 1)
    anchors = _mapped(VIRIDIS).astype(np.float32)
    low = np.minimum(places.astype(int), len(VIRIDIS) - 2)
    share = (places - low)[..., None]
    return (anchors[low] * (1 - share) + anchors[low + 1] * share).astype(np.uint8)


def _bytes(values: np.ndarray) -> np.ndarray:
    return (np.clip(np.nan_to_num(values, posinf=1), 0, 1) * 255).round().astype(np.uint8)


def _mapped(colours: Sequence[str]) -> np.ndarray:
    """Colours of the form ``#RRGGBB`` as rows of three numbers."""
    return np.array([list(bytes.fromhex(each[1:])) for each in colours], np.uint8)
