"""What a run gives back: the output, the timings, and a check against the untiled run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch.utils import _pytree as pytree

from . import plots, trace
from .node import Weight
from .planning import JobPlan
from .rank import Report
from .region import Region
from .sources import Source
from .survey import counted
from .weights import tensors_of
from .worker import Piece

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOLERANCES = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}
"""Largest error, as a share of the output's scale, that counts as equal.

In fp64 and fp32 only the order of a sum may differ.  In fp16 and bf16 that order decides the last
of 11 and 8 bits at every layer, tiled or not, and a deep network carries it on.
"""


class CheckFailed(AssertionError):
    """The tiled output differs from the untiled one by more than rounding."""


@dataclass(frozen=True)
class Check:
    """The tiled output against the untiled one.

    Attributes
    ----------
    max_abs_error
        Largest absolute difference.
    output_scale
        Largest absolute value of the untiled output.
    tolerance
        Largest ``max_abs_error / output_scale`` that passes.
    where
        Index of the largest difference: which output, then the position in it.
    """

    max_abs_error: float
    output_scale: float
    tolerance: float
    where: tuple[int, ...]

    @property
    def passed(self) -> bool:
        """Whether the outputs are equal within the tolerance; not if either has a NaN."""
        return self.max_abs_error <= self.tolerance * self.output_scale

    def __str__(self) -> str:
        verdict = "equal to the untiled run" if self.passed else "NOT equal to the untiled run"
        return (
            f"{verdict}: max error {self.max_abs_error:.2e}, output scale {self.output_scale:.2e},"
            f" tolerance {self.tolerance:g} of the scale"
        )


class Result:
    """One run of a plan on an image.

    Attributes
    ----------
    plan
        What was run.
    source
        What it was run on.
    seconds
        Wall-clock seconds: ``infer`` as seen by the caller, ``step`` on the ranks, from the moment
        that all were ready to the last event.
    reports
        What each rank told, in rank order.
    """

    def __init__(
        self,
        plan: JobPlan,
        source: Source,
        reports: Sequence[Report],
        seconds: float,
        fetch: Callable[[Sequence[int]], list[list[Piece]]],
    ):
        self.plan, self.source, self.reports = plan, source, list(reports)
        step = max((e.stop for report in reports for e in report.events), default=0.0)
        self.seconds = {"infer": seconds, "step": step}
        self._fetch = fetch

    @cached_property
    def output(self) -> Any:
        """The network's output, gathered from the ranks: as the network returns it."""
        graph = self.plan.graph
        whole: dict[str, torch.Tensor] = {}
        for piece in self._pieces():
            if piece.value not in whole:
                shape = graph.shape(piece.value)
                whole[piece.value] = torch.empty(shape, dtype=piece.tensor.dtype)
            held = Region.whole(graph.extent(piece.value))
            graph.axes[piece.value].put(whole[piece.value], held, piece.region, piece.tensor)
        known = [leaf.name for leaf in graph.returned if isinstance(leaf, Weight)]
        return graph.pack(whole, tensors_of(self.plan.job.module, known, graph))

    def _pieces(self) -> list[Piece]:
        away = [report.rank for report in self.reports if report.pieces is None]
        fetched = dict(zip(away, self._fetch(away), strict=True)) if away else {}
        return [
            piece
            for report in self.reports
            for piece in (fetched[report.rank] if report.pieces is None else report.pieces)
        ]

    @cached_property
    def untiled_output(self) -> Any:
        """What the network gives for the same image, run as a whole in this process."""
        whole = Region.whole((self.source.shape[0], *self.source.shape[2:]))
        image = torch.from_numpy(self.source.read(whole)).to(self.plan.graph.dtype)
        with torch.inference_mode():
            return self.plan.job.module(image)

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
        worst, scale, where = -1.0, 0.0, ()
        tiled, untiled = pytree.tree_leaves(self.output), pytree.tree_leaves(self.untiled_output)
        for number, (a, b) in enumerate(zip(tiled, untiled, strict=True)):
            error = (a.double() - b.double()).abs().nan_to_num(nan=float("inf"))
            scale = max(scale, float(b.double().abs().max()))
            if float(error.max()) > worst:
                worst = float(error.max())
                at = torch.unravel_index(error.argmax(), error.shape)
                where = (number, *(int(k) for k in at))
        check = Check(worst, scale, tolerance, where)
        if strict and not check.passed:
            raise CheckFailed(f"{check}; largest at {where}")
        return check

    @cached_property
    def timings(self) -> pd.DataFrame:
        """Every event of every rank: see `spnb.trace.Event`, with rank and stage."""
        return trace.table((r.rank, r.stage, r.events) for r in self.reports)

    @cached_property
    def per_rank(self) -> pd.DataFrame:
        """Messages, bytes, seconds of each kind and peak memory of each rank."""
        return pd.DataFrame([report.figures for report in self.reports])

    @property
    def images_per_second(self) -> float:
        """Images through the ranks in a second of `seconds` ``["step"]``."""
        return self.source.shape[0] / self.seconds["step"]

    def plot_timeline(self, ax: Axes | None = None) -> Axes:
        """Draw what each rank did when; see `spnb.plots.timeline`."""
        return plots.timeline(self.timings, ax=ax)

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

    def __repr__(self) -> str:
        b, _, *space = self.source.shape
        size = "×".join(map(str, space))
        return (
            f"Result of {self.plan.job.name} on {counted(b, 'image')} of {size}"
            f" ({self.source.name}), {self.plan.num_ranks} ranks:"
            f" {self.seconds['step']:.3g} s, {self.images_per_second:.3g} images/s"
        )
