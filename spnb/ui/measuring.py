"""Carries out the verbs that measure: they start their own ranks."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..driver.launch.launcher import under_mpi
from ..errors import OptionError
from .job_of_line import job_of_args
from .output_files import check_targets, save_picture, save_report

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Measurement(Protocol):
    """The result of a verb that measures."""

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the figures."""

    def report(self) -> dict[str, Any]:
        """Return every figure, ready for JSON."""


def measure(args: argparse.Namespace) -> int:
    """Run a verb that measures; print, draw and write its figures."""
    if args.verb != "tune":
        _refuse_launcher(args.verb)
    check_targets(args)
    found = MEASURING[args.verb](args)
    print(found)
    if args.save_plots:
        save_picture(found.plot, Path(args.save_plots) / f"{args.verb}.png")
    if args.report:
        save_report(found.report(), Path(args.report))
    return 0


def calibrated() -> int:
    """Measure this machine, and print the figures."""
    from ..benchmarking.calibration import calibrate

    _refuse_launcher("calibrate")
    print(calibrate())
    return 0


def _refuse_launcher(verb: str) -> None:
    if under_mpi():
        raise ValueError(f"{verb} starts its own ranks: run it without mpiexec or srun")


def _bench(args: argparse.Namespace) -> Measurement:
    from ..benchmarking.benchmark import bench

    return bench(job_of_args(args), args.baselines, args.rounds, training=args.training)


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

    return sweep(job_of_args(args), args.lengths, args.tiles, args.rounds)


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


def _foreseen(args: argparse.Namespace) -> Measurement:
    from ..benchmarking.foreseen import foreseen

    given = {} if args.workloads is None else {"workloads": args.workloads}
    return foreseen(**given, rounds=args.rounds, machine=args.machine)


def _tune(args: argparse.Namespace) -> Measurement:
    from ..job.tuning.search import tune

    job = job_of_args(args)
    return tune(
        job,
        args.ranks,
        args.memory,
        args.machine,
        training=args.training,
        seconds=args.seconds,
    )


MEASURING: dict[str, Callable[[argparse.Namespace], Measurement]] = {
    "bench": _bench,
    "suite": _suite,
    "sweep": _sweep,
    "halo": _halo,
    "foreseen": _foreseen,
    "tune": _tune,
}
"""The function of each verb of `spnb.ui.cli.MEASURING`."""
