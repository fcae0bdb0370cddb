"""Pictures: each function takes ``ax=`` and returns matplotlib `Axes`.

Colours suit colour-blind readers (the palette of Okabe & Ito, *Color universal design*, 2008) and
differ in lightness too, for print.  A tile has the same colour in every picture.  Colours are in
`style`; every other module draws one subject.
"""

from .benchmarks import halo_speed, lengths, loss, ratios, suite
from .clock import clock
from .comparison import comparison, embedded
from .difference import difference
from .front import foreseen, front
from .halo import halo
from .loads import memory, traffic
from .run_view import Pane, run_view
from .tiles import TilesPanel, stages, tiles
from .timeline import layers, timeline

__all__ = [
    "Pane",
    "TilesPanel",
    "clock",
    "comparison",
    "difference",
    "embedded",
    "foreseen",
    "front",
    "halo",
    "halo_speed",
    "layers",
    "lengths",
    "loss",
    "memory",
    "ratios",
    "run_view",
    "stages",
    "suite",
    "tiles",
    "timeline",
    "traffic",
]
