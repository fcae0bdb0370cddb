"""Times training steps of plans and of plain PyTorch in turns, and measures their memory.

Memory is that of fresh processes, after as many steps on both sides; seconds are from rounds in
which all contestants take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from ..display.progress import Bar
from ..driver.session import Session
from ..driver.training.training_examples import examples_of
from ..driver.training.training_state import recipe_for
from ..io.datasets.examples import Examples
from ..ir.region import Region
from ..job.job_plan import JobPlan
from .contestants import SOLO, on_one_thread
from .plain_training import (
    MEMORY_STEPS,
    TURN_STEPS,
    PlainProcesses,
    PlainTraining,
    largest,
)
from .timed_process import Unavailable

PLAIN = "plain"
"""Name of plain PyTorch on the whole image, with all cores."""

KEPT = ", blocks kept"
"""Ends the names of contestants whose allocator keeps blocks, as that of spnb's engines does."""


def alone(plan: JobPlan) -> str:
    """The name of plain PyTorch on each tile of a plan, without an exchange."""
    return f"{plan.stages[0].team.tiling.num_tiles} tiles alone"


@dataclass
class TrainingFigures:
    """Figures of each contestant, by its name.

    Attributes
    ----------
    seconds
        Seconds of a step, in each round.
    peaks
        Most bytes of a process above its idle state: of a plan's largest rank, or of the largest of
        the processes of plain PyTorch.
    skipped
        The reason why a contestant was not measured.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def measure_training(
    plans: Mapping[str, JobPlan], rounds: int, bar: Bar, *, memory: bool = True
) -> TrainingFigures:
    """Train one network on one image size with several plans, and with plain PyTorch.

    Parameters
    ----------
    plans
        Plans for training, by name.
    rounds
        Turns of each contestant; with 0, memory is measured and no time.
    bar
        Shows the progress.
    memory
        Whether the memory of the plans is measured, which starts engines for each.
    """
    from ..driver.cluster import Cluster  # imported late: to plan needs no engines

    found = TrainingFigures()
    first = next(iter(plans.values()))
    examples = _examples_in_memory(first, MEMORY_STEPS)
    of_turn = _examples_in_memory(first, TURN_STEPS)
    with ExitStack() as stack:
        by_ranks = sorted(plans.items(), key=lambda item: item[1].num_ranks)
        for number, (name, plan) in enumerate(by_ranks):
            is_largest = number + 1 == len(plans)
            if not memory and not is_largest:
                continue
            bar.show("memory", number, len(plans), name)
            cluster = stack.enter_context(Cluster(plan, progress=False))
            if memory:
                found.peaks[name] = max(cluster.train(examples).peak_memory_bytes)
            if not rounds or not is_largest:
                cluster.stop()
        turns = _plain_turns(plans, examples, found, rounds, stack, bar)
        every = {**plans, SOLO: on_one_thread(first.job, training=True)}
        turns |= {name: _turn_of_ranks(cluster, plan, of_turn) for name, plan in every.items()}
        found.seconds = {name: [] for name in turns} if rounds else {}
        for number in range(rounds):
            for name, turn in turns.items():
                bar.show("rounds", number, rounds, name)
                found.seconds[name].append(turn())
    return found


Turn = Callable[[], float]
"""Takes the steps of a turn, and returns the seconds of one of them."""


def _examples_in_memory(plan: JobPlan, steps: int) -> Examples:
    """Synthetic examples of some steps as an array, so that no step computes them."""
    synthetic, count = examples_of(plan), steps * plan.job.batch_size
    images = synthetic.source.read(Region.whole((count, *plan.extent)))
    return examples_of(plan, images, synthetic.known_targets[:count])


def _turn_of_ranks(cluster: Session, plan: JobPlan, examples: Examples) -> Turn:
    def turn() -> float:
        cluster.load(plan)
        return float(cluster.train(examples).history["seconds"].iloc[1:].median())

    return turn


def _plain_turns(
    plans: Mapping[str, JobPlan],
    examples: Examples,
    found: TrainingFigures,
    rounds: int,
    stack: ExitStack,
    bar: Bar,
) -> dict[str, Turn]:
    """Start processes of plain PyTorch, and measure their memory; those that are timed stay."""
    wanted = {PLAIN: (PlainTraining.whole, next(iter(plans.values())))}
    wanted |= {alone(plan): (PlainTraining.tiles, plan) for plan in plans.values()}
    turns: dict[str, Turn] = {}
    for number, (name, (trainings, plan)) in enumerate(wanted.items()):
        bar.show("plain torch", number, len(wanted), name)
        recipe = recipe_for(plan, examples)
        for kept in (False, True) if rounds else (False,):
            full_name = name + KEPT * kept
            try:
                every = trainings(plan, recipe, kept)
                processes = PlainProcesses(every if rounds else [largest(every)])
            except Unavailable as error:
                found.skipped[name] = str(error)
                break
            found.peaks[full_name] = processes.peak_bytes
            if rounds:
                stack.callback(processes.stop)
                turns[full_name] = processes.turn
            else:
                processes.stop()
    return turns
