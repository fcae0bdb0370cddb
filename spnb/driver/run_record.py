"""The ranks' records of a run: operations with their times, bytes sent, and memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..display import plots
from ..display.cards import Card, Shown, Table, counted, shortened, size_text, time_text
from ..engine.report import Report
from ..io.disk.replacing import replacing, writing
from ..io.sources import Source
from ..job.job_plan import JobPlan
from ..job.skipping import skipped_text
from ..runtime import trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class RunRecord(Shown):
    """The reports of all ranks on one run of a plan, as tables and pictures.

    The examples of the methods go on from the example of `spnb.driver.result.Result`.

    Attributes
    ----------
    plan
        The plan that was run.
    sources
        The images that it was run on, by the input's name.
    source
        The first of them.
    seconds
        Wall-clock seconds: ``"infer"`` of the caller's call, ``"step"`` on the ranks, from the
        moment at which all were ready to the last event.
    reports
        The report of each rank, in rank order.
    """

    def __init__(
        self,
        plan: JobPlan,
        sources: dict[str, Source],
        reports: Sequence[Report],
        seconds: float,
    ):
        self.plan, self.sources, self.reports = plan, sources, list(reports)
        self.source = next(iter(sources.values()))
        step = max((e.stop for report in reports for e in report.events), default=0.0)
        self.seconds = {"infer": seconds, "step": step}

    @cached_property
    def timings(self) -> pd.DataFrame:
        """A table with a row for every event of every rank.

        Returns
        -------
        pandas.DataFrame
            The fields of `spnb.runtime.trace.Event` with ``rank`` and ``stage``; times are in
            seconds since all ranks were ready, sizes of messages in bytes.

        Examples
        --------
        >>> sorted(set(result.timings["rank"]))
        [0, 1, 2]
        """
        return trace.table((r.rank, r.events) for r in self.reports)

    @cached_property
    def not_finite(self) -> pd.DataFrame:
        """Where NaN or infinite numbers first appear on each rank that has some.

        Returns
        -------
        pandas.DataFrame
            ``rank``, ``stage``, ``layer``, ``nan``, ``infinite`` and ``numbers``; the first row is
            where they begin.  Without ``infer(…, check_finite=True)`` it is empty.

        Examples
        --------
        >>> result.not_finite.empty
        True
        """
        found = [(r.stage, each.call, r.rank, each) for r in self.reports if (each := r.not_finite)]
        rows = [
            (rank, stage, each.layer, each.nan, each.infinite, each.numbers)
            for stage, _, rank, each in sorted(found, key=lambda row: row[:3])
        ]
        columns = ["rank", "stage", "layer", "nan", "infinite", "numbers"]
        return pd.DataFrame(rows, columns=columns)

    @property
    def first_not_finite(self) -> str:
        """Where NaN or infinite numbers begin, in words.

        Examples
        --------
        >>> result.first_not_finite
        'all numbers are finite'
        """
        for row in self.not_finite.itertuples():
            return (
                f"not finite first on rank {row.rank} (stage {row.stage}), in {row.layer}:"
                f" {row.nan:,} NaN and {row.infinite:,} infinite of {row.numbers:,} numbers"
            )
        return "all numbers are finite"

    @property
    def skips(self) -> bool:
        """Whether background was skipped.

        Examples
        --------
        >>> result.skips
        False
        """
        return any(report.skipped is not None for report in self.reports)

    @cached_property
    def skipped(self) -> pd.DataFrame:
        """The patches of each rank that read the image, and those that hold only background.

        Returns
        -------
        pandas.DataFrame
            ``rank``; ``patches``; ``background``, the number of those that see nothing else; and
            ``computed``, the number of these that were computed, as the first of their kind.
            Without ``infer(…, skip=…)`` it is empty.

        Examples
        --------
        >>> result.skipped.empty
        True
        """
        counts = [
            (r.rank, s.patches, len(s.answered), sum(each.computed for each in s.answered))
            for r in self.reports
            if (s := r.skipped) is not None and s.patches
        ]
        return pd.DataFrame(counts, columns=["rank", "patches", "background", "computed"])

    @property
    def skipped_text(self) -> str:
        """How many patches were skipped, in a line.

        Examples
        --------
        >>> result.skipped_text
        '0 of 0 patches see only background: 0 of these are computed, for all of them'
        """
        return skipped_text(self.skipped)

    @cached_property
    def per_rank(self) -> pd.DataFrame:
        """A table with a row for each rank: messages, bytes, seconds of each kind, peak memory.

        Returns
        -------
        pandas.DataFrame
            The columns ``rank``, ``stage``, ``tile``, ``bytes_sent``, ``messages``, ``compute_s``,
            ``read_s``, ``pack_s``, ``wait_s``, ``unpack_s`` (seconds) and ``peak_memory_bytes``.

        Examples
        --------
        >>> result.per_rank["stage"].tolist()
        [0, 0, 1]
        """
        return pd.DataFrame([report.figures for report in self.reports])

    @property
    def images_per_second(self) -> float:
        """Images per second, from ``seconds["step"]``.

        Examples
        --------
        >>> result.images_per_second > 0
        True
        """
        return self.source.shape[0] / self.seconds["step"]

    def plot_timeline(self, ax: Axes | None = None) -> Axes:
        """Draw the operations of each rank over time: see `spnb.display.plots.timeline`.

        Parameters
        ----------
        ax
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Examples
        --------
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
        >>> result.plot_layers().has_data()
        True
        """
        return plots.layers(self.timings, ax=ax)

    def plot_memory(self, ax: Axes | None = None) -> Axes:
        """Draw the peak memory of each rank: planned, and measured if it is known.

        Parameters
        ----------
        ax
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Examples
        --------
        >>> result.plot_memory().has_data()
        True
        """
        measured = {report.rank: report.peak_memory_bytes for report in self.reports}
        known = measured if all(measured.values()) else None
        return self.plan.plot_memory(ax, measured=known)

    def to_chrome_trace(self, path: str | Path) -> Path:
        """Write every event to a JSON file for Perfetto (ui.perfetto.dev) or Chrome's tracing.

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
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result.to_chrome_trace(f"{folder}/trace.json").name
        'trace.json'
        """
        path = Path(path)
        with replacing(path) as new, writing(path):
            trace.to_chrome(self.timings, new)
        return path

    def report(self) -> dict[str, Any]:
        """Every figure of the run, as plain data for JSON.

        Returns
        -------
        dict
            ``ranks``, ``job`` (every option), ``seconds``, ``images_per_second``, and ``per_rank``
            (the rows of the table `per_rank`: seconds and bytes).

        Examples
        --------
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
        """The summary, and a row of figures for each rank; of many ranks, the first and the last.

        Examples
        --------
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
