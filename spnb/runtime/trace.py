"""What happened when on a rank: events, and tables of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("compute", "read", "pack", "wait", "unpack")
"""What a rank does: run an operator, read its part of the image, put a region to send in one
piece, wait for others, put what arrived in place."""


class Event(NamedTuple):
    """One span of time on one rank.

    Attributes
    ----------
    stage
        That the rank had in the copy of the plan to which the micro-batch belongs.
    micro_batch
        Number of the micro-batch.
    layer
        Path of the module whose operator is computed, or whose result is exchanged.
    kind
        One of `KINDS`.
    what
        The operator, or the kind of exchange: input, halo, hand-over, output.
    start, stop
        Seconds since the step began on all ranks.
    bytes
        Sent, received or read.
    """

    stage: int
    micro_batch: int
    layer: str
    kind: str
    what: str
    start: float
    stop: float
    bytes: int


class Recorder:
    """Collects the events of one rank."""

    def __init__(self):
        self.events: list[Event] = []
        self.stage = self.micro_batch = 0
        self.start()

    def start(self) -> None:
        """Count the time from now on."""
        self.origin = time.perf_counter()

    def now(self) -> Any:
        """Seconds since the start; what `note` takes."""
        return time.perf_counter() - self.origin

    def note(self, start: Any, kind: str, layer: str, what: str, size: int = 0) -> None:
        """Record what began at ``start`` and ends now."""
        now, place = self.now(), (self.stage, self.micro_batch)
        self.events.append(Event(*place, layer, kind, what, start, now, size))

    def finish(self) -> list[Event]:
        """All events, when nothing more is computed."""
        return self.events


class DeviceRecorder(Recorder):
    """Collects the events of a rank whose device computes later than it is told to.

    A mark is put into the device's queue; when it was reached is asked at the end.

    Parameters
    ----------
    mark
        Puts one, as ``torch.cuda.current_stream().record_event`` does.
    """

    def __init__(self, mark: Callable[[], Any]):
        self._mark = mark
        super().__init__()

    def start(self) -> None:
        self.origin = self._mark()

    def now(self) -> Any:
        return self._mark()

    def finish(self) -> list[Event]:
        """All events, when nothing more is computed; their times become seconds."""
        if self.events:
            self.events[-1].stop.synchronize()

        def seconds(mark: Any) -> float:
            return self.origin.elapsed_time(mark) / 1000

        return [e._replace(start=seconds(e.start), stop=seconds(e.stop)) for e in self.events]


def recorder_on(device: torch.device) -> Recorder:
    """What records on a device."""
    if device.type != "cuda":
        return Recorder()

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    return DeviceRecorder(mark)


def table(events: Iterable[tuple[int, Iterable[Event]]]) -> pd.DataFrame:
    """Events of all ranks as one table, ordered by rank and start.

    Parameters
    ----------
    events
        ``(rank, events)`` of each rank.

    Returns
    -------
    pandas.DataFrame
        Columns rank, stage, micro_batch, layer, kind, what, start, stop, seconds, bytes.
    """
    import pandas as pd  # engines import this module, and make no tables

    rows = [(rank, *event) for rank, each in events for event in each]
    frame = pd.DataFrame(rows, columns=["rank", *Event._fields])
    frame.insert(8, "seconds", frame.stop - frame.start)
    return frame.sort_values(["rank", "start"], ignore_index=True)


def to_chrome(timings: pd.DataFrame, path: str | Path) -> Path:
    """Write events in the Trace Event Format, which Perfetto and Chrome's tracing read.

    A stage is a process there and a rank a thread of it; times are in microseconds.

    Parameters
    ----------
    timings
        Events as `table` gives them.
    path
        The JSON file.
    """
    named: list[dict[str, Any]] = []
    for rank, stage in timings[["rank", "stage"]].drop_duplicates().itertuples(index=False):
        whom = {"ph": "M", "pid": int(stage), "tid": int(rank)}
        named.append({**whom, "name": "process_name", "args": {"name": f"stage {stage}"}})
        named.append({**whom, "name": "thread_name", "args": {"name": f"rank {rank}"}})
    spans = [
        {
            "ph": "X",
            "name": e.what if e.kind == "compute" else f"{e.kind} {e.what}",
            "cat": e.kind,
            "pid": e.stage,
            "tid": e.rank,
            "ts": e.start * 1e6,
            "dur": e.seconds * 1e6,
            "args": {"layer": e.layer, "micro-batch": e.micro_batch, "bytes": e.bytes},
        }
        for e in timings.itertuples()
    ]
    path = Path(path)
    path.write_text(json.dumps({"traceEvents": [*named, *spans], "displayTimeUnit": "ms"}))
    return path
