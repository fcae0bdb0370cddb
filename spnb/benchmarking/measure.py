"""Times the steps of plans and baselines, which take turns on this machine.

Everything is measured in one run, round after round (A B C A B C …), so that other load of the
machine slows all contestants equally.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..display.progress import Bar
from ..io.sources import ArraySource
from ..ir.region import Region
from ..job.job_plan import JobPlan
from .baselines import BaselineProcess, Unavailable

if TYPE_CHECKING:
    from ..driver.result import Result


@dataclass
class Measured:
    """Figures of each contestant, by its name.

    Attributes
    ----------
    seconds
        Seconds of a step, in each round.
    exchange
        Share of a step in which a rank of a plan packs, waits and unpacks, in each round; that of
        the rank with the largest share.
    sent
        Bytes that the ranks of a plan sent each other in a step.
    prepare
        Seconds of a baseline's preparation, compilation included.
    peaks
        Most bytes of a baseline's process above its idle state; for a plan, most bytes of its
        largest rank.
    skipped
        The reason why a baseline was not measured.
    """

    seconds: dict[str, list[float]]
    exchange: dict[str, list[float]]
    sent: dict[str, int]
    prepare: dict[str, float]
    peaks: dict[str, int]
    skipped: dict[str, str]


def measure(plans: Mapping[str, JobPlan], names: Sequence[str], rounds: int, bar: Bar) -> Measured:
    """Let plans of one network and image, and baselines, take turns on this machine.

    Parameters
    ----------
    plans
        The plans by name; all take turns on the same engines.
    names
        Names of the baselines.
    rounds
        Number of measured steps of each contestant.
    bar
        Shows the progress.
    """
    from ..driver.cluster import Cluster  # imported late: to plan needs no engines

    largest = max(plans.values(), key=lambda plan: plan.num_ranks)
    found = Measured({name: [] for name in plans}, {name: [] for name in plans}, {}, {}, {}, {})
    with ExitStack() as stack:
        processes = _start_baselines(names, largest, found, stack, bar)
        cluster = stack.enter_context(Cluster(largest, progress=False))
        image = image_in_memory(largest)
        for number in range(rounds):
            bar.show("rounds", number, rounds)
            for name, plan in plans.items():
                cluster.load(plan)
                cluster.infer(image)  # a warm-up; the baselines had theirs
                _note(found, name, cluster.infer(image))
            for name, process in processes.items():
                found.seconds[name].append(process.step())
        found.peaks |= {name: process.peak_bytes() for name, process in processes.items()}
        found.prepare |= {name: process.prepare_seconds for name, process in processes.items()}
    return found


def _start_baselines(
    names: Sequence[str], plan: JobPlan, found: Measured, stack: ExitStack, bar: Bar
) -> dict[str, BaselineProcess]:
    """Start a process for each baseline that can run here; record why the others cannot."""
    processes: dict[str, BaselineProcess] = {}
    for number, name in enumerate(names):
        bar.show("prepare", number, len(names), name)
        try:
            processes[name] = BaselineProcess(name, plan.job)
        except Unavailable as error:
            found.skipped[name] = str(error)
            continue
        stack.callback(processes[name].stop)
        found.seconds[name] = []
    return processes


def image_in_memory(plan: JobPlan) -> ArraySource | None:
    """Return the synthetic image as an array, as for baselines; None for several inputs."""
    if len(plan.graph.inputs) > 1:
        return None
    extent = Region.whole(plan.graph.extent(*plan.graph.inputs))
    return ArraySource(plan.open().read(extent), "noise")


def _note(found: Measured, name: str, result: Result) -> None:
    """Add the figures of a step."""
    ranks, step = result.per_rank, result.seconds["step"]
    found.seconds[name].append(step)
    found.exchange[name].append((ranks.pack_s + ranks.wait_s + ranks.unpack_s).max() / step)
    found.sent[name] = int(ranks.bytes_sent.sum())
    peak = int(ranks.peak_memory_bytes.max())
    found.peaks[name] = max(peak, found.peaks.get(name, 0))
