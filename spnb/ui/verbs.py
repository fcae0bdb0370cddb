"""Carries out the verbs of the command line: plans, runs, prints, draws and writes."""

from __future__ import annotations

import argparse
import dataclasses
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ..driver.launch.engines_command import shown_command
from ..driver.launch.launcher import under_mpi
from ..driver.mpi_launch import MPIRanks, MPISession, run_launched
from ..driver.rank_loading import require_seen
from ..driver.result import Result
from ..driver.saved_outputs import files_read, store_of, value_of
from ..driver.session import Session
from ..driver.training.checkpoint import Checkpoint
from ..driver.training.held_out import divided
from ..driver.training.training_examples import examples_of
from ..driver.training.training_state import recipe_for, resumed
from ..errors import OptionError
from ..io.readers.decoding import decoding_text
from ..io.sources import NOT_GIVEN, Source
from ..job import job_plan
from ..job.checkpoint_io import read_checkpoint, refuse_other
from ..job.job_plan import JobPlan
from ..job.options import training_options
from ..job.reading import Reading
from ..job.skipping import skipped_text
from . import flags
from .job_of_line import job_of_args
from .measuring import MEASURING, calibrated, measure
from .output_files import check_targets, save_picture, save_report
from .script import write_script


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
    if "script" in args:
        return write_script(args, args.script)
    if args.verb == "plan":
        return _plan(args)
    if args.verb in MEASURING:
        return measure(args)
    if args.verb == "calibrate":
        return calibrated()
    act = {"infer": _infer, "evaluate": _evaluate, "train": _train}[args.verb]
    if under_mpi():
        return run_launched(lambda ranks: act(args, ranks), flags.deadline(args))
    return act(args, None)


def _plan(args: argparse.Namespace) -> int:
    training = any(name in training_options() for name in flags.given(args))
    plan = job_plan.plan(job_of_args(args), training=training)
    sources = plan.open_inputs(_images(args, plan))
    if (file := plan.weights_file) is not None:  # a bad one is refused here too, not only by a run
        if training and str(file) == plan.job.checkpoint:
            Checkpoint.read(file)
        refuse_other(plan.job.network.skeleton, read_checkpoint(file), file)
    print(plan)
    for source in sources.values() if args.image else ():
        print(f"image: {decoding_text(source)}")
    if args.skip is not None:
        print(skipped_text(plan.skipped(sources, args.skip)))
    if plan.job.verbose:
        print(plan.per_rank.to_string(index=False))
    return 0


def _train(args: argparse.Namespace, ranks: MPIRanks | None) -> int:
    job = job_of_args(args)
    checkpoint = job.checkpoint or checkpoint_named_after(job.name)
    job = job.replace(checkpoint=checkpoint)
    written, best_file = {"checkpoint": Path(checkpoint)}, best_named_after(Path(checkpoint))
    if args.validation is not None:
        written["best checkpoint"] = best_file
    check_targets(args, written)
    plan = job_plan.plan(job, training=True)
    launched = ranks.comm.size // plan.num_ranks if ranks is not None else 1
    if launched > 1 and "replicas" not in flags.given(args):
        job = job.replace(replicas=launched)
        plan = job_plan.plan(job, training=True)
    print(f"{plan}\ncheckpoint: {job.checkpoint}, written after each epoch", flush=True)
    if _shows_only(args, plan):
        return 0
    data = divided(plan, examples_of(plan), args.validation)
    examples = data.training
    resumed(plan, examples, recipe_for(plan, examples))  # refuses a bad file before ranks start
    if data.validation is not None and best_file.exists():
        Checkpoint.read(best_file)  # refuses a file that another program wrote
    with _session(args, plan, ranks) as session:
        found = session.train(examples, validation=data.validation, patience=args.patience)
    print(f"\n{found}", flush=True)
    if found.checkpoint is not None:
        print(f"wrote {found.checkpoint}", flush=True)
    if found.best is not None and found.best_epoch is not None:
        Checkpoint(found.best.state_dict(), epoch=found.best_epoch + 1).save(best_file)
        epoch = f"epoch {found.best_epoch + 1}, which has the smallest validation loss"
        print(f"wrote {best_file}: the weights of {epoch}", flush=True)
    if job.verbose:
        print(found.history.to_string(index=False))
    if args.save_plots:
        save_picture(found.plot, Path(args.save_plots) / "loss.png")
    if args.report:
        save_report(found.report(), Path(args.report))
    return 0


def checkpoint_named_after(model: str) -> str:
    """The file that the command ``train`` writes where the line names none.

    >>> checkpoint_named_after("networks:classifier")
    'networks-classifier-checkpoint.pth'
    """
    return re.sub(r"[^\w.]+", "-", model) + "-checkpoint.pth"


def best_named_after(checkpoint: Path) -> Path:
    """The file of the best weights of a training, which ``--weights`` reads.

    >>> best_named_after(Path("runs/net.pth")).as_posix()
    'runs/net-best.pth'
    """
    return checkpoint.with_name(f"{checkpoint.stem}-best{checkpoint.suffix}")


def _infer(args: argparse.Namespace, ranks: MPIRanks | None) -> int:
    clock = _Clock()
    check_targets(args)
    plan = job_plan.plan(job_of_args(args))
    clock.lap("plan")
    print(f"{plan}\nweights: {plan.job.weights_origin}", flush=True)
    if _shows_only(args, plan):
        return 0
    reading = Reading(args.preprocess, args.nodata, args.skip)
    sources = plan.open_for_run(_images(args, plan), reading)
    if args.save_output:
        store_of(plan.graph, args.save_output).require(
            args.overwrite, files_read(plan.job, sources)
        )
    plan.build_module()  # refuses a bad checkpoint before ranks start
    clock.lap("weights")
    session = _session(args, plan, ranks)
    clock.lap("start")
    with session:
        if args.save_output and not args.gather_output:
            output = store_of(plan.graph, args.save_output)
            require_seen(session, output.path, value_of(plan.graph, None))
        result = session.infer(sources, nodata=None)  # what was opened is masked
        clock.lap("infer")
        print(f"\n{result.summary}\noutput: {_shapes(plan, result)}", flush=True)
        if args.save_output:
            print(f"wrote {result.save(args.save_output, overwrite=args.overwrite)}")
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
        save_report(report, Path(args.report))
    return 0 if check is None or check.passed else 1


def _evaluate(args: argparse.Namespace, ranks: MPIRanks | None) -> int:
    check_targets(args)
    plan = job_plan.plan(job_of_args(args))
    print(f"{plan}\nweights: {plan.job.weights_origin}", flush=True)
    if _shows_only(args, plan):
        return 0
    examples = examples_of(plan, evaluation=True, any_number=True)
    plan.build_module()  # refuses a bad checkpoint before ranks start
    with _session(args, plan, ranks) as session:
        found = session.evaluate(examples)
    print(f"\n{found}", flush=True)
    if plan.job.verbose and "accuracy" in found.figures:
        print(found.per_class.to_string())
    if args.report:
        save_report(found.report(), Path(args.report))
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


def _session(args: argparse.Namespace, plan: JobPlan, ranks: MPIRanks | None) -> Session:
    where = flags.placement(args)
    if ranks is not None:
        if not where.is_here:
            raise OptionError(
                f"launcher is {where.launcher}, but a launcher has started these ranks: leave out"
                " one of the two"
            )
        return MPISession(plan, ranks)
    from ..driver.cluster import Cluster  # needs ipyparallel, which ranks under mpiexec do not

    return Cluster(plan, placement=where)


def _shows_only(args: argparse.Namespace, plan: JobPlan) -> bool:
    """Show what would start the ranks, if a line asks for that only."""
    where = flags.placement(args)  # a wrong one is refused before the network is loaded
    if args.dry_run:
        print(f"\n{shown_command(where, plan.num_ranks, plan.job.name)}", end="")
    return args.dry_run


def _shapes(plan: JobPlan, result: Result) -> str:
    """Return shape and type of each output in words; the output is not gathered for it."""
    graph, texts = plan.graph, {}
    for name, value in result.named_outputs.items():
        texts[name] = f"{graph.shape(value)} {graph.dtype_of(value)}".replace("torch.", "")
    if not texts:
        return f"joined of {len(graph.outputs)} values"
    if list(texts) == ["output"]:
        return texts["output"]
    return ", ".join(f"{name}: {text}" for name, text in texts.items())


def _save_plots(plan: JobPlan, result: Result, source: Source, folder: Path) -> None:
    pictures: dict[str, Callable[[], Any]] = {"timeline": result.plot_timeline}
    for stage in plan.stages:
        if stage.tiled and len(plan.extent) == 2:
            pictures[f"tiles-stage-{stage.index}"] = partial(plan.plot_tiles, source, stage.index)
    for name, draw in sorted(pictures.items()):
        save_picture(draw, folder / f"{name}.png")


class _Clock:
    """Measures how many seconds each step takes."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Store the seconds since the last lap."""
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now
