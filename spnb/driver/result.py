"""What a run gives back: the output, the timings, and a check against the untiled run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from ..display import plots
from ..display.cards import Card, Shown, Table, counted, shortened, size_text, time_text
from ..display.progress import Bar, shown_by_module
from ..engine.rank import read_tensor
from ..engine.report import Report
from ..errors import CheckFailed
from ..io.sources import Source
from ..io.writers import Store
from ..ir.axes import Axes as ValueAxes
from ..ir.cost import CORE
from ..ir.node import Ref, Weight
from ..ir.region import Region
from ..ir.weights import tensors_of
from ..job.job_plan import JobPlan
from ..kernels.compat import pytree
from ..kernels.half_conv import convolving
from ..runtime import trace
from ..runtime.state import Piece
from .check import TOLERANCES, Check, compared

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Result(Shown):
    """One run of a plan on an image.

    Attributes
    ----------
    plan
        What was run.
    sources
        What it was run on, by input; ``source`` is the first, the image.
    seconds
        Wall-clock seconds: ``infer`` as seen by the caller, ``step`` on the ranks, from the moment
        that all were ready to the last event.
    reports
        What each rank told, in rank order.
    """

    def __init__(
        self,
        plan: JobPlan,
        sources: dict[str, Source],
        reports: Sequence[Report],
        seconds: float,
        fetch: Callable[[Sequence[int]], list[list[Piece]]],
        save: Callable[[Sequence[int], str, Store], None],
        progress: bool = True,
    ):
        self.plan, self.sources, self.reports = plan, sources, list(reports)
        self.source = next(iter(sources.values()))
        step = max((e.stop for report in reports for e in report.events), default=0.0)
        self.seconds = {"infer": seconds, "step": step}
        self._fetch, self._save, self._progress = fetch, save, progress

    @cached_property
    def output(self) -> Any:
        """The network's output, gathered from the ranks: as the network returns it."""
        graph = self.plan.graph
        whole = {
            value: torch.empty(graph.shape(value), dtype=graph.dtype_of(value))
            for value in graph.outputs
        }
        for piece in self._pieces():
            held = Region.whole(graph.extent(piece.value))
            graph.axes[piece.value].put(whole[piece.value], held, piece.region, piece.tensor)
        known = [leaf.name for leaf in graph.returned if isinstance(leaf, Weight)]
        return graph.pack(whole, tensors_of(self.plan.module, known, graph))

    def _pieces(self) -> list[Piece]:
        away = [report.rank for report in self.reports if report.pieces is None]
        fetched = dict(zip(away, self._fetch(away), strict=True)) if away else {}
        return [
            piece
            for report in self.reports
            for piece in (fetched[report.rank] if report.pieces is None else report.pieces)
        ]

    def save(
        self, path: str | Path, output: int | str | None = None, *, overwrite: bool = False
    ) -> Path:
        """Write an output to a file, by region: each rank writes its own tile.

        Parameters
        ----------
        path
            ``.npy``, ``.tif`` or ``.zarr``, in the layout that the network returns; of a TIFF a
            page for each image and channel.
        output
            Which one, where the network returns several: its number or its key.
        overwrite
            Whether a file that is there may be replaced.

        Returns
        -------
        pathlib.Path
            What was written.

        Raises
        ------
        ValueError, FileExistsError
            If the format is unknown, there are several outputs, or the file is there already.
        """
        graph, value = self.plan.graph, self._value_of(output)
        store = Store(Path(path).absolute(), graph.axes[value], graph.dtype_of(value))
        store.create(overwrite)
        makers = self.plan.replicas.everywhere(self.plan.maker_of(value).team.ranks)
        self._save(makers, value, store)
        return store.path

    def _value_of(self, output: int | str | None) -> str:
        """The value of an output; None for the only one."""
        named = self.named_outputs
        if output is None and len(named) == 1:
            output = 0
        known = {**named, **dict(enumerate(named.values()))}
        if output not in known:
            given = "" if output is None else f"there is no output {output!r}: "
            raise ValueError(f"{given}say which of {len(named)} outputs: {', '.join(named)}")
        return known[output]

    @cached_property
    def named_outputs(self) -> dict[str, str]:
        """The value of each output, by its key in what the network returns."""
        leaves = self.plan.graph.structure.unflatten(self.plan.graph.returned)
        found = {}
        for keys, leaf in pytree.tree_flatten_with_path(leaves)[0]:
            if isinstance(leaf, Ref):
                name = ".".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in keys)
                found[name or "output"] = leaf.value
        return found

    @cached_property
    def untiled_output(self) -> Any:
        """What the network gives for the same image, run as a whole in this process."""
        graph, job = self.plan.graph, self.plan.job
        wholes = (
            read_tensor(source, Region.whole(graph.extent(name)), graph.dtype)
            for name, source in self.sources.items()
        )
        costs: dict[str, float] = defaultdict(float)
        for node in graph.nodes:
            costs[node.path] += CORE.seconds(node)
        with (
            torch.inference_mode(),
            convolving(graph.dtype),
            Bar(self._progress) as bar,
            shown_by_module(bar, "untiled run", job.module, costs),
        ):
            if isinstance(job.shapes, dict):
                return job.module(**dict(zip(job.shapes, wholes, strict=True)))
            return job.module(*wholes)

    def check(self, tolerance: float | None = None, *, strict: bool = True) -> Check:
        """Compare with the untiled run in the same precision.

        Parameters
        ----------
        tolerance
            Largest error as a share of the output's scale; by default `TOLERANCES`.
        strict
            Raise where the check does not pass.

        Raises
        ------
        CheckFailed
            If ``strict`` and the outputs differ by more than the tolerance.
        """
        tolerance = TOLERANCES[self.plan.graph.dtype] if tolerance is None else tolerance
        check = compared(self.output, self.untiled_output, tolerance)
        if strict and not check.passed:
            raise CheckFailed(f"{check}; largest at {check.where}")
        return check

    @cached_property
    def timings(self) -> pd.DataFrame:
        """Every event of every rank: see `spnb.runtime.trace.Event`, with rank and stage."""
        return trace.table((r.rank, r.events) for r in self.reports)

    @cached_property
    def per_rank(self) -> pd.DataFrame:
        """Messages, bytes, seconds of each kind and peak memory of each rank."""
        return pd.DataFrame([report.figures for report in self.reports])

    @property
    def images_per_second(self) -> float:
        """Images through the ranks in a second of `seconds` ``["step"]``."""
        return self.source.shape[0] / self.seconds["step"]

    def plot_timeline(self, ax: Axes | None = None) -> Axes:
        """Draw what each rank did when; see `spnb.display.plots.timeline`."""
        return plots.timeline(self.timings, ax=ax)

    def plot_layers(self, ax: Axes | None = None) -> Axes:
        """Draw where the time of all ranks went, by layer; see `spnb.display.plots.layers`."""
        return plots.layers(self.timings, ax=ax)

    def plot_memory(self, ax: Axes | None = None) -> Axes:
        """Draw what each rank held at most, as planned and as measured."""
        measured = {report.rank: report.peak_memory_bytes for report in self.reports}
        known = measured if all(measured.values()) else None
        return self.plan.plot_memory(ax, measured=known)

    def plot_difference(self, output: int | str | None = None, ax: Axes | None = None) -> Axes:
        """Draw where an output differs from the untiled run's; see `spnb.display.plots.difference`.

        Parameters
        ----------
        output
            Which one, where the network returns several: its number or its key.
        ax
            Where to draw.
        """
        value = self._value_of(output)
        number = [getattr(leaf, "value", None) for leaf in self.plan.graph.returned].index(value)
        tiled, untiled = (
            pytree.tree_leaves(whole)[number] for whole in (self.output, self.untiled_output)
        )
        graph, maker = self.plan.graph, self.plan.maker_of(value)
        error = (tiled.double() - untiled.double()).abs()
        tiles = None
        if graph.axes[value] == ValueAxes.image(tuple(tiled.shape)) and tiled.ndim >= 4:
            error = error.amax(tuple(range(tiled.ndim - 2)))
            own = self.plan.stage_needs[maker.index, self.plan.micro_batch_sizes[0]].own[value][-2:]
            tiles = [Region((row, column)) for row in own[0] for column in own[1]]
        else:
            error = error.reshape(-1, error.shape[-1] if error.ndim else 1)
        scale, tolerance = float(untiled.double().abs().max()), TOLERANCES[graph.dtype]
        return plots.difference(error.numpy(), scale, tolerance, tiles, ax)

    def to_chrome_trace(self, path: str | Path) -> Path:
        """Write every event as JSON that Perfetto (ui.perfetto.dev) and Chrome's tracing open."""
        return trace.to_chrome(self.timings, path)

    def report(self) -> dict[str, Any]:
        """Every figure of the run, ready for JSON."""
        job = self.plan.job
        return {
            "ranks": self.plan.num_ranks,
            "job": {"model": job.name, **job.values(), "image": self.source.name},
            "seconds": dict(self.seconds),
            "images_per_second": self.images_per_second,
            "per_rank": [report.figures for report in self.reports],
        }

    @property
    def summary(self) -> str:
        """What was run on what, and how fast, in a line."""
        b, _, *space = self.source.shape
        size = "×".join(map(str, space))
        return (
            f"Result of {self.plan.job.name} on {counted(b, 'image')} of {size}"
            f" ({self.source.name}), {self.plan.num_ranks} ranks:"
            f" {self.seconds['step']:.3g} s, {self.images_per_second:.3g} images/s"
        )

    @property
    def card(self) -> Card:
        """The summary, and the figures of each rank (of many, the first and the last)."""
        headings = ("rank", "stage", "messages", "sent", "compute", "exchange", "wait", "memory")
        rows = []
        for report in shortened(self.reports, 16):
            if report is None:
                rows.append(("…",) * len(headings))
                continue
            f = report.figures
            exchange = f["pack_s"] + f["unpack_s"]
            rows.append(
                (
                    *(str(f[name]) for name in ("rank", "stage", "messages")),
                    size_text(f["bytes_sent"]),
                    *map(time_text, (f["compute_s"], exchange, f["wait_s"])),
                    size_text(f["peak_memory_bytes"]) if f["peak_memory_bytes"] else "–",
                )
            )
        return Card(self.summary, [Table(headings, rows)])
