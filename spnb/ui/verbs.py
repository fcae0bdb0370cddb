"""Carries out the verbs of the command line: plans, runs, prints, draws and writes."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..driver.launcher import under_mpi
from ..driver.mpi_launch import MPIRanks, MPISession, run_launched
from ..driver.result import Result
from ..driver.session import Session
from ..driver.training_examples import examples_of
from ..driver.training_state import recipe_for, resumed
from ..errors import OptionError
from ..io.decoding import decoding_text
from ..io.sources import NOT_GIVEN, Source
from ..job import job_plan
from ..job.checkpoint_io import read_checkpoint
from ..job.job import Job
from ..job.job_plan import JobPlan
from ..job.options import training_options
from . import flags
from .job_of_line import job_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Measurement(Protocol):
    """The result of a verb that measures."""

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the figures."""

    def report(self) -> dict[str, Any]:
        """Return every figure, ready for JSON."""


def run(args: argparse.Namespace) -> int:
    """Carry out a parsed line.

    Parameters
    ----------
    args
        The result of the parser of `spnb.ui.cli`.

    Returns
    -------
    int
        The exit code: 0, or 1 if a check failed.
    """
    if args.verb == "plan":
        return _plan(args)
    if args.verb in MEASURING:
        return _measure(args)
    act = {"infer": _infer, "evaluate": _evaluate, "train": _train}[args.verb]
    if under_mpi():
        return run_launched(lambda ranks: act(args, ranks))
    return act(args, None)


def _job(args: argparse.Namespace) -> Job:
    given, useless = flags.effective(args.model, flags.given(args))
    for line in useless:
        print(f"spnb: {line}", file=sys.stderr, flush=True)
    training = getattr(args, "training", False)
    flags.refuse_useless(args.verb, given, training=training)
    job = job_of(args.model, given, getattr(args, "image", None) or ())
    is_inference = args.verb not in ("plan", "train") and not training
    return job.replace(enable_evaluation=True) if is_inference else job


def _plan(args: argparse.Namespace) -> int:
    training = any(name in training_options() for name in flags.given(args))
    plan = job_plan.plan(_job(args), training=training)
    sources = plan.open_inputs(_images(args, plan))
    if not training and (file := plan.job.weights_file) is not None:
        read_checkpoint(file)  # a bad checkpoint is refused here too, not only by a run
    print(plan)
    for source in sources.values() if args.image else ():
        print(f"image: {decoding_text(source)}")
    if plan.job.verbose:
        print(plan.per_rank.to_string(index=False))
    return 0


def _train(args: argparse.Namespace, ranks: MPIRanks | None) -> int:
    job = _job(args)
    if job.checkpoint is None:
        job = job.replace(checkpoint=checkpoint_named_after(job.name))
    plan = job_plan.plan(job, training=True)
    launched = ranks.comm.size // plan.num_ranks if ranks is not None else 1
    if launched > 1 and "replicas" not in flags.given(args):
        job = job.replace(replicas=launched)
        plan = job_plan.plan(job, training=True)
    print(f"{plan}\ncheckpoint: {job.checkpoint}, written after each epoch", flush=True)
    examples = examples_of(plan)
    resumed(plan, examples, recipe_for(plan, examples))  # refuses a bad file before ranks start
    with _session(plan, ranks) as session:
        found = session.train(examples)
    print(f"\n{found}", flush=True)
    if found.checkpoint is not None:
        print(f"wrote {found.checkpoint}", flush=True)
    if job.verbose:
        print(found.history.to_string(index=False))
    if args.save_plots:
        _save_picture(found.plot, Path(args.save_plots) / "loss.png")
    if args.report:
        _save_report(found.report(), Path(args.report))
    return 0


def checkpoint_named_after(model: str) -> str:
    """The file that the command ``train`` writes where the line names none.

    >>> checkpoint_named_after("networks:classifier")
    'networks-classifier-checkpoint.pth'
    """
    return re.sub(r"[^\w.]+", "-", model) + "-checkpoint.pth"


def _infer(args: argparse.Namespace, ranks: MPIRanks | None) -> int:
    clock = _Clock()
    plan = job_plan.plan(_job(args))
    clock.lap("plan")
    print(f"{plan}\nweights: {plan.job.weights_origin}", flush=True)
    sources = plan.open_inputs(_images(args, plan))
    plan.build_module()  # refuses a bad checkpoint before ranks start
    clock.lap("weights")
    session = _session(plan, ranks)
    clock.lap("start")
    with session:
        result = session.infer(sources)
        clock.lap("infer")
        print(f"\n{result.summary}\noutput: {_shapes(plan, result)}", flush=True)
        if args.save_output:
            print(f"wrote {result.save(args.save_output, overwrite=True)}")
        if plan.job.verbose:
            print(result.per_rank.to_string(index=False))
        check = None
        if args.check:
            check = result.check(strict=False)
            clock.lap("check")
            print(f"check: {check}")
    if args.save_plots:
        _save_plots(plan, result, next(iter(sources.values())), Path(args.save_plots))
    if args.report:
        report = result.report()
        report["seconds"] |= clock.seconds
        if check is not None:
            report["check"] = {**dataclasses.asdict(check), "passed": check.passed}
        _save_report(report, Path(args.report))
    return 0 if check is None or check.passed else 1


def _evaluate(args: argparse.Namespace, ranks: MPIRanks | None) -> int:
    plan = job_plan.plan(_job(args))
    print(f"{plan}\nweights: {plan.job.weights_origin}", flush=True)
    examples = examples_of(plan, evaluation=True, any_number=True)
    plan.build_module()  # refuses a bad checkpoint before ranks start
    with _session(plan, ranks) as session:
        found = session.evaluate(examples)
    print(f"\n{found}", flush=True)
    if plan.job.verbose and "accuracy" in found.figures:
        print(found.per_class.to_string())
    if args.report:
        _save_report(found.report(), Path(args.report))
    return 0


def _images(args: argparse.Namespace, plan: JobPlan) -> Any:
    """Return the images of ``--image``, for the inputs of a network."""
    if not args.image:
        return NOT_GIVEN
    if len(plan.graph.inputs) > 1:
        return args.image
    if len(args.image) > 1:
        raise ValueError(f"{len(args.image)} images (--image), but the network takes one input")
    return args.image[0]


def _measure(args: argparse.Namespace) -> int:
    """Run a verb that measures; print, draw and write its figures."""
    if under_mpi():
        raise ValueError(f"{args.verb} starts its own ranks: run it without mpiexec or srun")
    found = MEASURING[args.verb](args)
    print(found)
    if args.save_plots:
        _save_picture(found.plot, Path(args.save_plots) / f"{args.verb}.png")
    if args.report:
        _save_report(found.report(), Path(args.report))
    return 0


def _bench(args: argparse.Namespace) -> Measurement:
    from ..benchmarking.benchmark import bench

    return bench(_job(args), args.baselines, args.rounds, training=args.training)


def _suite(args: argparse.Namespace) -> Measurement:
    from ..benchmarking.benchmark import refuse_baselines
    from ..benchmarking.suite import suite
    from ..benchmarking.training_suite import training_suite

    listed = {"workloads": args.workloads, "sizes": args.sizes, "tiles": args.tiles}
    given = {name: each for name, each in listed.items() if each is not None}
    if args.training:
        refuse_baselines(args.baselines)
        if args.memory_sizes is not None:
            given["memory_sizes"] = args.memory_sizes
        return training_suite(**given, rounds=args.rounds)
    if args.memory_sizes is not None:
        raise OptionError("--memory-sizes is for the suite of training: add --training")
    return suite(**given, baselines=args.baselines, rounds=args.rounds)


def _sweep(args: argparse.Namespace) -> Measurement:
    from ..benchmarking.sweep import sweep

    return sweep(_job(args), args.lengths, args.tiles, args.rounds)


def _halo(args: argparse.Namespace) -> Measurement:
    from ..benchmarking.halo_exchange import halo_speed

    return halo_speed(
        args.sizes,
        args.halos,
        args.tiles,
        args.slice_method,
        args.channels,
        args.repeats,
    )


MEASURING: dict[str, Callable[[argparse.Namespace], Measurement]] = {
    "bench": _bench,
    "suite": _suite,
    "sweep": _sweep,
    "halo": _halo,
}
"""The function of each verb of `spnb.ui.cli.MEASURING`."""


def _session(plan: JobPlan, ranks: MPIRanks | None) -> Session:
    if ranks is not None:
        return MPISession(plan, ranks)
    from ..driver.cluster import Cluster  # needs ipyparallel, which ranks under mpiexec do not

    return Cluster(plan)


def _shapes(plan: JobPlan, result: Result) -> str:
    """Return shape and type of each output in words; the output is not gathered for it."""
    graph, texts = plan.graph, {}
    for name, value in result.named_outputs.items():
        texts[name] = f"{graph.shape(value)} {graph.dtype_of(value)}".replace("torch.", "")
    if list(texts) == ["output"]:
        return texts["output"]
    return ", ".join(f"{name}: {text}" for name, text in texts.items())


def _save_plots(plan: JobPlan, result: Result, source: Source, folder: Path) -> None:
    pictures: dict[str, Callable[[], Any]] = {"timeline": result.plot_timeline}
    for stage in plan.stages:
        if stage.tiled and len(plan.extent) == 2:
            pictures[f"tiles-stage-{stage.index}"] = partial(plan.plot_tiles, source, stage.index)
    for name, draw in sorted(pictures.items()):
        _save_picture(draw, folder / f"{name}.png")


def _save_picture(draw: Callable[[], Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    path.parent.mkdir(parents=True, exist_ok=True)
    draw().figure.savefig(path, dpi=150, bbox_inches="tight")
    print(f"wrote {path}")


def _save_report(report: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    print(f"wrote {path}")


class _Clock:
    """Measures how many seconds each step takes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Store the seconds since the last lap."""
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now
