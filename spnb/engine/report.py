"""The report of a rank on a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..runtime.answers import Skipped
from ..runtime.finite import NotFinite
from ..runtime.state import Piece
from ..runtime.trace import Event


@dataclass(frozen=True)
class Report:
    """The report of a rank on one run.

    Attributes
    ----------
    rank, stage, tile
        Numbers of the rank, its stage, and its tile in the stage.
    events
        Its operations with their times.
    peak_memory_bytes
        Growth of its process; 0 if that is not known.
    pieces
        The regions of the outputs that it computed.  ``None`` if they are large: they then stay on
        the rank until the session fetches them.
    not_finite
        The first value that it computed with NaN or infinite numbers, if such were looked for.
    skipped
        Its patches, and those of which it saw only background, if that was skipped.
    """

    rank: int
    stage: int
    tile: int
    events: list[Event]
    peak_memory_bytes: int
    pieces: list[Piece] | None = field(repr=False)
    not_finite: NotFinite | None = None
    skipped: Skipped | None = field(default=None, repr=False)

    @property
    def figures(self) -> dict[str, Any]:
        """Sums of messages, bytes, and seconds of each kind."""
        packs = [e for e in self.events if e.kind == "pack"]
        seconds = {
            f"{kind}_s": sum(e.stop - e.start for e in self.events if e.kind == kind)
            for kind in ("compute", "read", "pack", "wait", "unpack")
        }
        return {
            "rank": self.rank,
            "stage": self.stage,
            "tile": self.tile,
            "bytes_sent": sum(e.bytes for e in packs),
            "messages": len(packs),
            **seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
        }
