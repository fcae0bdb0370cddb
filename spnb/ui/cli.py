"""The command line: ``python -m spnb {plan,infer,train,bench,suite,sweep,halo} … --flags``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from .. import __version__, models
from ..driver import training_loop
from ..driver.mpi_launch import Launched, Post, run_launched, under_mpi
from ..driver.result import Result
from ..driver.session import Session
from ..errors import PeerFailed, RankError, WaitTimeout
from ..io.sources import Source
from ..job import job_plan
from ..job.checkpoint_io import read_checkpoint
from ..job.job_plan import JobPlan
from ..job.options import Job
from ..job.validation import RECIPE
from . import flags
from .flags import BAD_INPUT

FAILED = (RankError, PeerFailed, WaitTimeout, RuntimeError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; its exit code: 0, 1 where a run or its check fails, 2 for bad input."""
    args = _parser().parse_args(argv)
    try:
        if args.verb == "plan":
            return _plan(args)
        if args.verb in MEASURING:
            return _measured(args)
        if under_mpi():
            return run_launched(lambda post: _drive(args, post))
        return _drive(args, None)
    except BAD_INPUT as error:
        return _say(error, 2)
    except FAILED as error:
        return _say(error, 1)
    except KeyboardInterrupt:
        return _say("interrupted", 130)


def _say(error: object, code: int) -> int:
    print(f"spnb: {error}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the list of all flags."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def _parser() -> argparse.ArgumentParser:
    names = "\n".join(f"  {name:<16}{text}" for name, text in models.names())
    parser = _Parser(
        allow_abbrev=False,
        prog="spnb",
        description="Spatial parallelism of convolutional networks, exactly.",
    )
    parser.add_argument("--version", action="version", version=f"spnb {__version__}")
    metavar = "{plan,infer,train,bench,suite,sweep,halo}"
    verbs = parser.add_subparsers(dest="verb", required=True, metavar=metavar)
    for verb, text in (
        ("plan", "show stages, tiles, messages, bytes and memory; starts nothing"),
        ("infer", "run on MPI ranks: those of mpiexec or srun, else ranks it starts itself"),
        (
            "train",
            "train on MPI ranks; goes on from the checkpoint, and writes it after each epoch",
        ),
        ("bench", "measure against plain torch and others in one process, and no messages at all"),
        ("suite", "measure the workloads that spnb is judged by, as bench does"),
        ("sweep", "measure halos that are fused over more and more blocks"),
        ("halo", "measure halo exchange alone, against bare MPI messages and a copy"),
    ):
        of_network = verb not in ("suite", "halo")
        sub = verbs.add_parser(
            verb,
            allow_abbrev=False,
            help=text,
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog=f"models:\n{names}\n  package.module:factory   any torch.nn.Module"
            if of_network
            else None,
        )
        if of_network:
            sub.add_argument(
                "model", metavar="MODEL", help="a built-in name or package.module:factory"
            )
            flags.add_flags(sub)
        if verb in MEASURING:
            flags.add_measuring_flags(sub, verb)
        elif verb != "train":
            flags.add_image(sub)
        if verb == "infer":
            flags.add_run_flags(sub)
        if verb != "plan":
            sub.add_argument("--save-plots", metavar="DIR", help="write pictures as PNG")
            sub.add_argument("--report", metavar="FILE", help="write every figure as JSON")
    return parser


def _job(args: argparse.Namespace) -> Job:
    flags.refuse_useless(args.verb, flags.given(args))
    job = flags.job_of(args.model, flags.given(args), getattr(args, "image", None) or ())
    return (
        job if args.verb in ("plan", "train") else dataclasses.replace(job, enable_evaluation=True)
    )


def _plan(args: argparse.Namespace) -> int:
    training = any(name in RECIPE for name in flags.given(args))
    plan = job_plan.plan(_job(args), training=training)
    plan.open_inputs(_images(args, plan))
    if not training and (file := plan.job.weights_file) is not None:
        read_checkpoint(file)  # refused here as it is where the plan is run
    print(plan)
    if plan.job.verbose:
        print(plan.per_rank.to_string(index=False))
    return 0


def _drive(args: argparse.Namespace, post: Post | None) -> int:
    return (_train if args.verb == "train" else _infer)(args, post)


def _train(args: argparse.Namespace, post: Post | None) -> int:
    job = _job(args)
    plan = job_plan.plan(job, training=True)
    many = post.comm.size // plan.num_ranks if post is not None else 1
    if many > 1 and "replicas" not in flags.given(args):
        job = job.replace(replicas=many)
        plan = job_plan.plan(job, training=True)
    print(f"{plan}\nweights: {job.weights_origin}", flush=True)
    examples = training_loop.examples_of(plan)
    training_loop.resumed(
        plan, examples
    )  # bad data or a bad checkpoint is refused before ranks start
    with _session(plan, post) as session:
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


def _infer(args: argparse.Namespace, post: Post | None) -> int:
    clock = _Clock()
    job = _job(args)
    plan = job_plan.plan(job)
    clock.lap("plan")
    print(f"{plan}\nweights: {job.weights_origin}", flush=True)
    sources = plan.open_inputs(_images(args, plan))
    plan.module  # noqa: B018 - built here, so that a bad checkpoint is refused before ranks start
    clock.lap("weights")
    session = _session(plan, post)
    clock.lap("start")
    with session:
        result = session.infer(sources)
        clock.lap("infer")
        print(f"\n{result.summary}\noutput: {_shapes(plan, result)}", flush=True)
        if args.save_output:
            print(f"wrote {result.save(args.save_output, overwrite=True)}")
        if job.verbose:
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


def _images(args: argparse.Namespace, plan: JobPlan) -> Any:
    """What ``--image`` says for the inputs of a network."""
    if not args.image or len(plan.graph.inputs) > 1:
        return args.image
    if len(args.image) > 1:
        raise ValueError(f"{len(args.image)} images (--image), but the network takes one input")
    return args.image[0]


def _measured(args: argparse.Namespace) -> int:
    """Run a verb that measures; it prints, draws and writes what it found."""
    if under_mpi():
        raise ValueError(f"{args.verb} starts its own ranks: run it without mpiexec or srun")
    found = MEASURING[args.verb](args)
    print(found)
    if args.save_plots:
        _save_picture(found.plot, Path(args.save_plots) / f"{args.verb}.png")
    if args.report:
        _save_report(found.report(), Path(args.report))
    return 0


def _bench(args: argparse.Namespace) -> Any:
    from ..benchmarking.benchmark import bench

    return bench(_job(args), args.baselines, args.rounds)


def _suite(args: argparse.Namespace) -> Any:
    from ..benchmarking.suite import suite

    return suite(args.workloads, args.sizes, args.tiles, args.baselines, args.rounds)


def _sweep(args: argparse.Namespace) -> Any:
    from ..benchmarking.sweep import sweep

    return sweep(_job(args), args.lengths, args.tiles, args.rounds)


def _halo(args: argparse.Namespace) -> Any:
    from ..benchmarking.halo_exchange import halo_speed

    cut = (args.tiles, args.slice_method)
    return halo_speed(args.sizes, args.halos, *cut, args.channels, args.repeats)


MEASURING = {"bench": _bench, "suite": _suite, "sweep": _sweep, "halo": _halo}
"""Verbs that measure, and what each finds."""


def _session(plan: JobPlan, post: Post | None) -> Session:
    if post is not None:
        return Launched(plan, post)
    from ..driver.cluster import Cluster  # needs ipyparallel, which ranks under mpiexec do not

    return Cluster(plan)


def _shapes(plan: JobPlan, result: Result) -> str:
    """Shape and type of each output; nothing is gathered for it."""
    graph, texts = plan.graph, {}
    for name, value in result.named_outputs.items():
        texts[name] = f"{graph.shape(value)} {graph.dtype_of(value)}".replace("torch.", "")
    alone = list(texts) == ["output"]
    return texts["output"] if alone else ", ".join(map(": ".join, texts.items()))


def _save_plots(plan: JobPlan, result: Result, source: Source, folder: Path) -> None:
    pictures = {"timeline": result.plot_timeline}
    for stage in plan.stages:
        if stage.tiled and len(plan.extent) == 2:
            pictures[f"tiles-stage-{stage.index}"] = lambda s=stage.index: plan.plot_tiles(
                source, s
            )
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
    """Seconds of each step."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now
