"""What a run returns: the output, the timings, and a check against the untiled run."""

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
        The plan that was run.
    sources
        The images that it was run on, by the input's name.
    source
        The first of them.
    seconds
        Wall-clock seconds: ``"infer"`` as seen by the caller, ``"step"`` on the ranks, from the
        moment that all were ready to the last event.
    reports
        The report of each rank, in rank order.

    Examples
    --------
    >>> import spnb
    >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
    >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
    >>> sorted(result.seconds), len(result.reports), result.source.shape
    (['infer', 'step'], 3, (1, 3, 32, 32))
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
        """The network's output, gathered from the ranks.

        Returns
        -------
        torch.Tensor or a structure of them
            As the network returns it: one tensor, or a tuple, list or dict of them, on the CPU.

        Raises
        ------
        RuntimeError
            If another plan was loaded since, and the output had stayed on the ranks.

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
        >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
        >>> result.output.shape
        torch.Size([1, 10])
        """
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
            ``.npy``, ``.tif`` or ``.zarr``, in the layout that the network returns; a TIFF has a
            page for each image and channel.
        output
            The number or key of an output, where the network returns several.
        overwrite
            Whether a file that exists may be replaced.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        ValueError
            If the format is unknown, or there are several outputs and none is named.
        FileExistsError
            If the file exists, and ``overwrite`` is False.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
        >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.load(result.save(f"{folder}/scores.npy")).shape
        (1, 10)
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
        """The name in the graph of each output, by the output's key in what the network returns.

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
        >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
        >>> list(result.named_outputs)
        ['output']
        """
        leaves = self.plan.graph.structure.unflatten(self.plan.graph.returned)
        found = {}
        for keys, leaf in pytree.tree_flatten_with_path(leaves)[0]:
            if isinstance(leaf, Ref):
                name = ".".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in keys)
                found[name or "output"] = leaf.value
        return found

    @cached_property
    def untiled_output(self) -> Any:
        """The output of the network for the same image, run untiled in this process.

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
        >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
        >>> result.untiled_output.shape
        torch.Size([1, 10])
        """
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
            Largest error as a share of the output's scale; by default that of the precision in
            `spnb.driver.check.TOLERANCES`.
        strict
            Raise if the check does not pass.

        Returns
        -------
        spnb.driver.check.Check
            The largest error, where it is, and whether it is within the tolerance.

        Raises
        ------
        CheckFailed
            If ``strict`` and the outputs differ by more than the tolerance.

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
        >>> spnb.InProcess(spnb.plan(job), progress=False).infer().check().passed
        True
        """
        tolerance = TOLERANCES[self.plan.graph.dtype] if tolerance is None else tolerance
        check = compared(self.output, self.untiled_output, tolerance)
        if strict and not check.passed:
            raise CheckFailed(f"{check}; largest at {check.where}")
        return check

    @cached_property
    def timings(self) -> pd.DataFrame:
        """Every event of every rank, a row each.

        Returns
        -------
        pandas.DataFrame
            The fields of `spnb.runtime.trace.Event` with ``rank`` and ``stage``; times are in
            seconds since all ranks were ready, sizes of messages in bytes.

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
        >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
        >>> sorted(set(result.timings["rank"]))
        [0, 1, 2]
        """
        return trace.table((r.rank, r.events) for r in self.reports)

    @cached_property
    def per_rank(self) -> pd.DataFrame:
        """Messages, bytes, seconds of each kind and peak memory, a row for each rank.

        Returns
        -------
        pandas.DataFrame
            The columns ``rank``, ``stage``, ``tile``, ``bytes_sent``, ``messages``, ``compute_s``,
            ``read_s``, ``pack_s``, ``wait_s``, ``unpack_s`` (seconds) and ``peak_memory_bytes``.

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
        >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
        >>> result.per_rank["stage"].tolist()
        [0, 0, 1]
        """
        return pd.DataFrame([report.figures for report in self.reports])

    @property
    def images_per_second(self) -> float:
        """Images per second of ``seconds["step"]``.

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
        >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
        >>> result.images_per_second > 0
        True
        """
        return self.source.shape[0] / self.seconds["step"]

    def plot_timeline(self, ax: Axes | None = None) -> Axes:
        """Draw what each rank did when: see `spnb.display.plots.timeline`.

        Parameters
        ----------
        ax
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
        >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
        >>> len(result.plot_timeline().get_yticks())
        3
        """
        return plots.timeline(self.timings, ax=ax)

    def plot_layers(self, ax: Axes | None = None) -> Axes:
        """Draw the time of all ranks by layer: see `spnb.display.plots.layers`.

        Parameters
        ----------
        ax
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
        >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
        >>> result.plot_layers().has_data()
        True
        """
        return plots.layers(self.timings, ax=ax)

    def plot_memory(self, ax: Axes | None = None) -> Axes:
        """Draw the peak memory of each rank, as planned and, where it is known, as measured.

        Parameters
        ----------
        ax
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
        >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
        >>> result.plot_memory().has_data()
        True
        """
        measured = {report.rank: report.peak_memory_bytes for report in self.reports}
        known = measured if all(measured.values()) else None
        return self.plan.plot_memory(ax, measured=known)

    def plot_difference(self, output: int | str | None = None, ax: Axes | None = None) -> Axes:
        """Draw where an output differs from the untiled run's; see `spnb.display.plots.difference`.

        Parameters
        ----------
        output
            The number or key of an output, where the network returns several.
        ax
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ValueError
            If there are several outputs and none is named.

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("unet", image_size=32, batch_size=1, split_size=1, num_spatial_parts=4)
        >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
        >>> "within" in result.plot_difference().get_title()
        True
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
        """Write every event as JSON that Perfetto (ui.perfetto.dev) and Chrome's tracing open.

        Parameters
        ----------
        path
            The file to write; it is replaced if it exists.

        Returns
        -------
        pathlib.Path
            The file.

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
        >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result.to_chrome_trace(f"{folder}/trace.json").name
        'trace.json'
        """
        return trace.to_chrome(self.timings, path)

    def report(self) -> dict[str, Any]:
        """Every figure of the run, as plain data for JSON.

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
        >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
        >>> sorted(result.report())
        ['images_per_second', 'job', 'per_rank', 'ranks', 'seconds']
        """
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
        """The network, the image and the speed, in a line.

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
        >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
        >>> result.summary.split(':')[0]
        'Result of resnet20_v1 on 1 image of 32×32 (synthetic), 3 ranks'
        """
        b, _, *space = self.source.shape
        size = "×".join(map(str, space))
        return (
            f"Result of {self.plan.job.name} on {counted(b, 'image')} of {size}"
            f" ({self.source.name}), {self.plan.num_ranks} ranks:"
            f" {self.seconds['step']:.3g} s, {self.images_per_second:.3g} images/s"
        )

    @property
    def card(self) -> Card:
        """The summary, and the figures of each rank (of many, the first and the last), for display.

        Examples
        --------
        >>> import spnb
        >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
        >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
        >>> len(result.card.body[0].rows)
        3
        """
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
