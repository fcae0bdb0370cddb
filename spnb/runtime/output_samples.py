"""Every n-th position of a part of an output, taken from the pieces that ranks hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from ..ir.region import Region, Span
from .state import Piece


@dataclass(frozen=True)
class OutputWindow:
    """Every n-th position of a rectangle of the first image of an output.

    Attributes
    ----------
    value
        Name of the output; its shape is ``(batch, channels, rows, columns)``, or that of a map,
        ``(batch, rows, columns)``.
    rows, columns
        The rectangle.
    step
        The n.
    """

    value: str
    rows: Span
    columns: Span
    step: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of positions."""
        rows, columns = (len(range(*span, self.step)) for span in (self.rows, self.columns))
        return rows, columns


@dataclass(frozen=True)
class OutputSample:
    """What one piece has of a window: numbers, and the first of their rows and columns there."""

    row: int
    column: int
    numbers: np.ndarray


def sampled(pieces: Iterable[Piece], window: OutputWindow) -> list[OutputSample]:
    """Return what some pieces have of a window.

    Parameters
    ----------
    pieces
        Regions of outputs.
    window
        What is wanted.

    Examples
    --------
    >>> piece = Piece("y", Region(((0, 1), (0, 3), (0, 8))), torch.arange(24).reshape(1, 1, 3, 8))
    >>> sampled([piece], OutputWindow("y", (0, 9), (4, 12), 2))[0].numbers.tolist()
    [[[4, 6], [20, 22]]]
    """
    wanted = Region(((0, 1), window.rows, window.columns))
    found = []
    for piece in pieces:
        part = piece.region & wanted
        if piece.value != window.value or part.empty:
            continue
        first = [
            base + -(-(start - base) // window.step) * window.step
            for base, (start, _) in zip(
                (window.rows[0], window.columns[0]), part.spans[1:], strict=True
            )
        ]
        index = [
            slice(at - start, stop - start, window.step)
            for at, (_, stop), (start, _) in zip(
                first, part.spans[1:], piece.region.spans[1:], strict=True
            )
        ]
        is_map = piece.tensor.ndim == 3  # its image takes the place of the channels
        numbers = (piece.tensor[:1] if is_map else piece.tensor[0])[(slice(None), *index)]
        row, column = (
            (at - base) // window.step
            for at, base in zip(first, (window.rows[0], window.columns[0]), strict=True)
        )
        found.append(OutputSample(row, column, _numpy(numbers)))
    return found


def joined(samples: Iterable[OutputSample], window: OutputWindow, channels: int) -> np.ndarray:
    """Return the samples of all ranks as one array ``(channels, rows, columns)``.

    Raises
    ------
    AssertionError
        If some positions are missing: pieces cover each output.
    """
    found: np.ndarray | None = None
    count = 0
    for each in samples:
        if found is None:
            found = np.zeros((channels, *window.shape), each.numbers.dtype)
        _, height, width = each.numbers.shape
        found[:, each.row : each.row + height, each.column : each.column + width] = each.numbers
        count += height * width
    assert found is not None and count == found[0].size, "pieces cover the whole output"
    return found


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    half = tensor.dtype in (torch.bfloat16, torch.float16)
    return (tensor.float() if half else tensor).contiguous().numpy()
