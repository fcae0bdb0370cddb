"""Pictures: each function takes ``ax=`` and returns matplotlib `Axes`.

Colours are safe for colour-blind eyes (the palette of Okabe & Ito, *Color universal design*, 2008)
and differ in lightness too, for print.  A tile has the same colour in every picture.
"""

from .curves import loss
from .difference import difference
from .halo import halo
from .lengths import lengths
from .loads import memory, traffic
from .ratios import ratios
from .speed import halo_speed
from .suite import suite
from .tiles import TilesPanel, stages, tiles
from .timeline import clock, layers, timeline

__all__ = [
    "TilesPanel",
    "clock",
    "difference",
    "halo",
    "halo_speed",
    "layers",
    "lengths",
    "loss",
    "memory",
    "ratios",
    "stages",
    "suite",
    "tiles",
    "timeline",
    "traffic",
]
