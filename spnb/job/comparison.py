"""Several splits of one network, compared without starting a rank."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from ..display.cards import Card, Shown, Table, size_text, time_text
from ..errors import CaptureError, OptionError, PlanError
from ..ir.cost import Machine
from .job import Job
from .job_plan import JobPlan, plan
from .machines import MachineLike, machine_of
from .names import other_names

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, repr=False, eq=False)
class Comparison(Shown):
    """Plans beside each other; in a notebook it shows itself as a table and a picture.

    Attributes
    ----------
    plans
        Each plan by its name.
    table
        A row for each plan: ``ranks``; ``seconds`` of a batch, simulated; ``memory_bytes`` of the
        rank that needs most; ``messages`` and ``bytes`` that ranks send; ``redundant``, the share
        of the work that more than one rank does.
    machine
        The machine of the simulation.
    """

    plans: Mapping[str, JobPlan]
    table: pd.DataFrame
    machine: Machine

    def plot(self) -> Figure:
        """Draw the tiles of each split on one scale, and bars of time, memory and bytes.

        Returns
        -------
        matplotlib.figure.Figure

        Examples
        --------
        >>> jobs = [Job("unet", image_size=64, batch_size=1, tiles=n) for n in (2, 4)]
        >>> len(compare(jobs).plot().subfigs[1].axes)
        3
        """
        from ..display import plots

        first = next(iter(self.plans.values()))
        teams = {
            name: next((stage.team for stage in each.stages if stage.tiled), None)
            for name, each in self.plans.items()
        }
        return plots.comparison(teams, first.extent, self.table)

    @property
    def card(self) -> Card:
        """The table, in words."""
        rows = [
            (
                str(name),
                f"{row.ranks:,}",
                time_text(row.seconds),
                size_text(row.memory_bytes),
                f"{row.messages:,}",
                size_text(row.bytes),
                f"{row.redundant:.1%}",
            )
            for name, row in zip(self.table.index, self.table.itertuples(), strict=True)
        ]
        headings = ("split", "ranks", "simulated", "memory", "messages", "sent", "redundant")
        name = next(iter(self.plans.values())).job.name
        told = f"simulated on {self.machine.name}"
        return Card(f"{name}: {len(rows)} splits", [Table(headings, rows), told])

    def _repr_html_(self) -> str:
        from ..display import plots

        return f"<div>{self.card.html}{plots.embedded(self.plot())}</div>"


def compare(
    jobs: Iterable[Job | JobPlan] | Mapping[str, Job | JobPlan], machine: MachineLike = None
) -> Comparison:
    """Compare splits of a network: tiles, time, memory and bytes; no rank is started.

    Parameters
    ----------
    jobs
        Jobs or plans, for one size of image.  They may have names; by default each is named by the
        options in which it differs from most of them.
    machine
        The device of each rank, and the links, of the simulation: as of
        `spnb.job.job_plan.JobPlan.simulate`.

    Returns
    -------
    Comparison
        A table, and a picture.

    Raises
    ------
    OptionError
        If there are none, or if their images have different sizes.
    PlanError, CaptureError
        If one of them cannot be planned; the message begins with its name.

    Examples
    --------
    >>> job = Job("resnet20_v1", image_size=256, batch_size=1, stages=1)
    >>> cuts = [job.replace(slice_method=method) for method in ("square", "vertical")]
    >>> found = compare(cuts)
    >>> list(found.table.index), (found.table["ranks"] == 4).all()
    (['slice_method=square', 'slice_method=vertical'], np.True_)
    """
    named = jobs if isinstance(jobs, Mapping) else _named(list(jobs))
    plans = {name: _planned(name, each) for name, each in named.items()}
    if not plans:
        raise OptionError("there are no jobs to compare: give at least one")
    sizes = {each.extent: name for name, each in plans.items()}
    if len(sizes) > 1:
        texts = [f"{'×'.join(map(str, size))} ({name})" for size, name in sizes.items()]
        raise OptionError(
            f"splits of one image are compared, but these have several sizes: {', '.join(texts)}"
        )
    model = machine_of(machine)
    rows = {name: _row(each, model) for name, each in plans.items()}
    return Comparison(plans, pd.DataFrame.from_dict(rows, orient="index"), model)


def _named(jobs: Sequence[Job | JobPlan]) -> dict[str, Job | JobPlan]:
    """Each job by the options in which it differs from most; by a number where none differ."""
    told = [_told(each.job if isinstance(each, JobPlan) else each) for each in jobs]
    usual = {
        name: value
        for name in (told[0] if told else {})
        for value, count in Counter(each[name] for each in told).items()
        if 2 * count > len(told)
    }
    several = [name for name in usual if len({each[name] for each in told}) > 2]
    names = [
        ", ".join(
            f"{name}={value}"
            for name, value in each.items()
            if name in several or value != usual.get(name)
        )
        for each in told
    ]
    if len(set(names)) < len(names):
        names = [f"{k}: {name}" if name else f"split {k}" for k, name in enumerate(names)]
    return {name or "as it is": each for name, each in zip(names, jobs, strict=True)}


def _told(job: Job) -> dict[str, str]:
    """Every option as text, by its short name."""
    short = {name: other for other, name in other_names().items()}
    values = {"model": job.name, **job.values()}
    values["fused_layers"] = values["fused_layers"] if values.pop("halo_D2") else 0
    return {short.get(name, name): str(value) for name, value in values.items()}


def _planned(name: str, job: Job | JobPlan) -> JobPlan:
    if isinstance(job, JobPlan):
        return job
    try:
        return plan(job)
    except (OptionError, PlanError, CaptureError) as error:
        raise type(error)(f"{name}: {error}") from None


def _row(found: JobPlan, machine: Machine) -> dict[str, float]:
    """The figures of a plan."""
    totals = found.totals
    return {
        "ranks": found.num_ranks,
        "seconds": found.simulate(machine).seconds,
        "memory_bytes": max(found.memory_bytes),
        "messages": totals.messages,
        "bytes": totals.bytes,
        "redundant": totals.redundant,
    }
