"""Times halo exchanges, and compares them with bare MPI messages and a copy in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from ..display.cards import Card, Shown, Table, size_text, time_text
from ..display.progress import Bar
from ..ir.axes import Axes as ValueAxes
from ..ir.exchange import Exchange, region_at
from ..ir.rank_plan import RankPlan
from ..ir.region import Region
from ..ir.tags import TIMED
from ..job.job import Job
from ..job.job_plan import JobPlan, plan
from ..job.parsing import refuse_out_of_range
from ..kernels.cores import num_cores
from ..transport import Transport
from . import HALO_SIZES, HALOS, MOST_ROUNDS, TILES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_HALO, MOST_CHANNELS = 2**16, 2**16
"""Widest halo and most channels."""


@dataclass(frozen=True, eq=False, repr=False)
class HaloSpeed(Shown):
    """The times of halo exchanges.

    Attributes
    ----------
    table
        A row for each number of tiles, image size and width of the halo.  ``bytes`` and
        ``messages`` are those that the busiest rank receives.  Times are in seconds: of an
        ``exchange``; of a ``ping``, which sends the same bytes in the same number of messages to
        a neighbour and back, by bare mpi4py; and of a ``copy`` of the same bytes in memory.
    channels
        Channels of the tensors, in fp32.
    """

    table: pd.DataFrame
    channels: int

    @property
    def card(self) -> Card:
        """The table, in words."""
        rows = [
            (
                str(row.tiles),
                f"{row.size}²",
                str(row.halo),
                str(row.messages),
                size_text(row.bytes),
                time_text(row.exchange),
                time_text(row.ping),
                time_text(row.copy),
                f"{row.exchange / row.ping:.2f}×",
            )
            for row in self.table.itertuples()
        ]
        headings = ("tiles", "image", "halo", "messages", "received", "exchange", "ping-pong")
        title = f"halo exchange alone: {self.channels} channels, {num_cores()} cores; all exact"
        return Card(title, [Table((*headings, "copy", "exchange / ping-pong"), rows)])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw seconds over bytes; see `spnb.display.plots.benchmarks.halo_speed`."""
        from ..display import plots

        return plots.halo_speed(self.table, ax)

    def report(self) -> dict[str, Any]:
        """Return every figure, ready for JSON; times in seconds."""
        rows = self.table.to_dict("records")
        return {"cores": num_cores(), "channels": self.channels, "exchanges": rows}


def halo_speed(
    sizes: Sequence[int] = HALO_SIZES,
    halos: Sequence[int] = HALOS,
    tiles: Sequence[int] = TILES,
    slice_method: str = "square",
    channels: int = 64,
    repeats: int = 50,
    progress: bool = True,
) -> HaloSpeed:
    """Time halo exchanges on MPI engines; each result is compared with the whole tensor.

    Parameters
    ----------
    sizes
        Sides of square images, in pixels.
    halos
        Widths of the halo: positions on each side of a tile.
    tiles, slice_method
        Numbers of tiles, and how they are cut.
    channels
        Channels of the tensors, in fp32.
    repeats
        Number of measured exchanges for each row; the table has their median.
    progress
        Whether to show a progress bar.

    Returns
    -------
    HaloSpeed
        Bytes, and seconds of an exchange, of bare messages and of a copy.

    Raises
    ------
    OptionError
        If there is nothing to measure, or a number is far too large.
    AssertionError
        If values arrive that differ from those that were sent.
    """
    from ..driver.cluster import Cluster

    refuse_out_of_range("halos", tuple(halos), 1, MOST_HALO)
    refuse_out_of_range("channels", channels, 1, MOST_CHANNELS)
    refuse_out_of_range("repeats", repeats, 1, MOST_ROUNDS)
    rows = []
    cuts = [(n, size) for n in tiles for size in sizes]
    with Bar(progress) as bar:
        plans = [_plan(n, size, slice_method) for n, size in cuts]
        with Cluster(max(plans, key=lambda p: p.num_ranks), progress=False) as cluster:
            for number, ((n, size), each) in enumerate(zip(cuts, plans, strict=True)):
                bar.show("exchanging", number, len(cuts), f"{n} tiles, {size}²")
                cluster.load(each)
                view = cluster.view
                assert view is not None  # the engines run
                for halo in halos:
                    of_ranks = view.apply_sync(_time, halo, channels, repeats)
                    busiest = max(filter(None, of_ranks), key=lambda figures: figures["bytes"])
                    rows.append({"tiles": n, "size": size, "halo": halo, **busiest})
    return HaloSpeed(pd.DataFrame(rows), channels)


def _plan(tiles: int, size: int, slice_method: str) -> JobPlan:
    """Return a plan that serves only to cut a square image into tiles."""
    job = Job(
        "w1",
        image_size=size,
        num_spatial_parts=tiles,
        batch_size=1,
        split_size=1,
        slice_method=slice_method,
    )
    return plan(job)


def _time(halo: int, channels: int, repeats: int) -> dict[str, Any] | None:
    """On a rank: exchange a halo around its tile, check it, and time it; None without a tile."""
    from ..engine.here import here
    from ..runtime.state import RunState
    from ..runtime.worker import no_image

    rank_plan, worker, transport = here.plan, here.worker, here.transport
    if rank_plan is None:  # there are more engines than tiles
        return None
    assert worker is not None and transport is not None, "a rank with a plan is ready to run"
    team, extent = rank_plan.team, rank_plan.extent
    has, needs = team.tiling.spans(extent), rank_plan.grown(halo)
    exchange = Exchange(TIMED.tag(), "x", "halo", team, team, has, needs, channels * 4)
    own, need = (region_at(spans, rank_plan.position) for spans in (has, needs))
    axes = ValueAxes.image((2, channels, *[2] * (len(extent) - 1)))
    x, expected = (_coded(region, extent, channels) for region in (own, need))
    receives = exchange.receives(rank_plan.rank)
    compiled = worker.stages[0].compile_exchange(exchange, axes, x.dtype)
    arrive = compiled.values.arrival("x")

    def once() -> list[torch.Tensor]:
        run = RunState(transport, no_image, values={"x": x})
        compiled.send(run)
        compiled.receive(run)
        arrive(run)
        transport.flush()
        return run.values["x"].tensors[1:]

    for t, piece in zip(receives, once(), strict=True):
        assert torch.equal(piece, axes.piece(expected, need, t.region)), f"wrong halo: {t}"
    size = sum(t.region.size for t in receives) * channels * 4
    return {
        "messages": len(receives),
        "bytes": size,
        "exchange": _median(once, repeats, transport),
        "ping": _ping(size // max(1, len(receives)), len(receives), repeats, rank_plan, transport),
        "copy": _copy(size, repeats, transport),
    }


def _coded(region: Region, extent: Sequence[int], channels: int) -> torch.Tensor:
    """Return a piece of a tensor in which each number encodes its position and its channel."""
    code = torch.zeros((), dtype=torch.float32)
    for (a, b), n in zip(region.spans[1:], extent[1:], strict=True):
        code = code[..., None] * n + torch.arange(a, b, dtype=torch.float32)
    shape = (region.shape[0], *code.shape, channels)
    tensor = code[..., None] + torch.arange(channels) / channels
    return tensor.expand(shape).contiguous().movedim(-1, 1)


def _median(act: Callable[[], object], repeats: int, transport: Transport) -> float:
    """Return the median seconds of an act that all ranks begin together."""
    taken = []
    for _ in range(repeats):
        transport.barrier()
        start = time.perf_counter()
        act()
        taken.append(time.perf_counter() - start)
    return median(taken)


def _ping(
    size: int, messages: int, repeats: int, rank_plan: RankPlan, transport: Transport
) -> float:
    """Time as many messages of as many bytes by bare mpi4py, to a neighbour and back."""
    from mpi4py import MPI

    rank, world = rank_plan.rank, rank_plan.num_ranks
    partner = rank ^ 1
    out, back = bytearray(size), bytearray(size)

    def once() -> None:
        if partner < world:
            for _ in range(messages):
                MPI.COMM_WORLD.Sendrecv(out, partner, TIMED.tag(), back, partner, TIMED.tag())

    return _median(once, repeats, transport)


def _copy(size: int, repeats: int, transport: Transport) -> float:
    """Time a copy of so many bytes in memory."""
    source, target = torch.zeros(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    return _median(lambda: target.copy_(source), repeats, transport)
