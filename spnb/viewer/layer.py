"""An image or an output as a viewer shows it: tiles of a pyramid, painted as PNG."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..display.paint import STYLES, painted, png, span_of, style_of
from ..io.changed import Changed
from ..io.nodata import mask_of
from ..io.sources import FileSource, Repeated, Source
from ..io.strided import Strided, strided
from ..ir.region import Span
from .pyramid import PIECES, Pyramid


@dataclass(frozen=True, eq=False)
class Layer:
    """A pyramid with a name, and the ways in which it may be painted.

    Attributes
    ----------
    name
        Its title.
    pyramid
        The tiles.
    styles
        Keys of `spnb.display.paint.STYLES`, the first of which is that of the beginning; by default
        all, with the one ahead that suits the numbers.
    """

    name: str
    pyramid: Pyramid
    styles: tuple[str, ...] = ()

    @classmethod
    def of_image(cls, source: Source) -> Layer:
        """The layer of the first image of a source, as it is before it is preprocessed.

        Examples
        --------
        >>> from spnb.io.sources import SyntheticSource
        >>> layer = Layer.of_image(SyntheticSource((1, 3, 65536, 65536)))
        >>> layer.pyramid.levels, layer.tile(0, 255, 0)[0][:4]
        (9, b'\\x89PNG')
        """
        mask = mask_of(source)
        while isinstance(source, (Changed, Repeated)):
            source = source.source
        if isinstance(source, FileSource):
            source = source.held()  # a session removes its own files when it stops
        if mask is not None:
            source = replace(mask, source=source)

        def read(window: tuple[Span, Span], step: int, most: int | None) -> Strided:
            return strided(source, window, (step, step), most)

        height, width = source.shape[-2:]
        return cls(source.name, Pyramid(height, width, read), ("colours",))

    @cached_property
    def whole(self) -> Strided:
        """A sample of the whole: the last level's tile."""
        return self.pyramid.tile(self.pyramid.levels - 1, 0, 0)

    @cached_property
    def span(self) -> tuple[float, float]:
        """The numbers that are painted darkest and lightest: 0 and 1 if all lie between."""
        return span_of(self.whole.pixels)

    @cached_property
    def known_styles(self) -> tuple[str, ...]:
        """The styles to choose from, the one of the beginning first."""
        if self.styles:
            return self.styles
        best = style_of(self.whole.pixels)
        return (best, *(style for style in STYLES if style != best))

    def tile(
        self, level: int, row: int, column: int, style: str = "", most: int | None = PIECES
    ) -> tuple[bytes, bool]:
        """Return a tile as PNG, and whether every pixel of it was read.

        Parameters
        ----------
        level, row, column, most
            As of `Pyramid.tile`.
        style
            A key of `spnb.display.paint.STYLES`; by default the first of the layer's.
        """
        first = (level, row, column, most) == (self.pyramid.levels - 1, 0, 0, PIECES)
        found = self.whole if first else self.pyramid.tile(level, row, column, most)
        colours = painted(found.pixels, style or self.known_styles[0], self.span)
        return png(colours), found.exact

    @property
    def figures(self) -> dict[str, Any]:
        """What a script has to know of it."""
        pyramid = self.pyramid
        return {
            "name": self.name,
            "height": pyramid.height,
            "width": pyramid.width,
            "levels": pyramid.levels,
            "styles": list(self.known_styles),
        }
