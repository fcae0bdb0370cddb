"""The events of a rank, with the times at which they began and ended, and tables of events."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("compute", "read", "pack", "wait", "unpack")
"""Kinds of events: run an operator, read a part of the image, pack a region into a message, wait
for messages of other ranks, unpack them."""


class Event(NamedTuple):
    """One span of time on one rank.

    Attributes
    ----------
    stage
        The rank's stage in the pipeline that computes the micro-batch.
    micro_batch
        Number of the micro-batch.
    layer
        Path of the module that the operator or the exchanged value belongs to.
    kind
        One of `KINDS`.
    what
        The operator, or the kind of exchange: input, halo, hand-over, output.
    start, stop
        Seconds since the step began on all ranks.
    bytes
        Number of bytes that were sent, received or read.
    """

    stage: int
    micro_batch: int
    layer: str
    kind: str
    what: str
    start: float
    stop: float
    bytes: int


class Mark(Protocol):
    """A place in a device's queue, such as a `torch.cuda.Event`."""

    def synchronize(self) -> None:
        """Wait until the device has reached it."""

    def elapsed_time(self, later: Any) -> float:
        """Milliseconds from this mark to a later one."""


class Recorder:
    """Collects the events of one rank.

    Attributes
    ----------
    events
        The events so far.
    spent
        Their seconds by kind; empty on a device, which tells them at the end.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.spent: dict[str, float] = {}
        self.stage = self.micro_batch = 0
        self.start()

    def start(self) -> None:
        """Set the time to zero."""
        self.origin: Any = time.perf_counter()

    def now(self) -> Any:
        """The current time, for `note`: seconds since the start."""
        return time.perf_counter() - self.origin

    def note(self, start: Any, kind: str, layer: str, what: str, size: int = 0) -> None:
        """Record an event that began at ``start`` and ends now."""
        now, place = self.now(), (self.stage, self.micro_batch)
        self.events.append(Event(*place, layer, kind, what, start, now, size))
        self._count(kind, start, now)

    def _count(self, kind: str, start: Any, stop: Any) -> None:
        self.spent[kind] = self.spent.get(kind, 0.0) + stop - start

    def finish(self) -> list[Event]:
        """All events; called when the computation has ended."""
        return self.events


class DeviceRecorder(Recorder):
    """Collects the events of a rank on a device that computes some time after it is called.

    Each time is a mark in the device's queue.  At the end, the device knows when it reached it.

    Parameters
    ----------
    mark
        Records a mark, as ``torch.cuda.current_stream().record_event`` does.
    """

    def __init__(self, mark: Callable[[], Mark]):
        self._mark = mark
        super().__init__()

    def start(self) -> None:
        self.origin = self._mark()

    def now(self) -> Any:
        return self._mark()

    def _count(self, kind: str, start: Any, stop: Any) -> None:
        pass  # a mark has no time before the device reaches it

    def finish(self) -> list[Event]:
        """All events, with seconds in place of marks; called when the computation has ended."""
        if self.events:
            last: Any = self.events[-1].stop
            last.synchronize()

        def seconds(mark: Any) -> float:
            return self.origin.elapsed_time(mark) / 1000

        return [e._replace(start=seconds(e.start), stop=seconds(e.stop)) for e in self.events]


def recorder_on(device: torch.device) -> Recorder:
    """A recorder for a rank that computes on a device."""
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
    import pandas as pd  # ranks import this module, and pandas takes long

    rows = [(rank, *event) for rank, each in events for event in each]
    frame = pd.DataFrame(rows, columns=["rank", *Event._fields])
    frame.insert(8, "seconds", frame.stop - frame.start)
    return frame.sort_values(["rank", "start"], ignore_index=True)


def to_chrome(timings: pd.DataFrame, path: Path) -> None:
    """Write events in the Trace Event Format, which Perfetto and Chrome's tracing read.

    In the file, a stage is a process, and a rank is a thread of it; times are in microseconds.

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
    path.write_text(json.dumps({"traceEvents": [*named, *spans], "displayTimeUnit": "ms"}))
