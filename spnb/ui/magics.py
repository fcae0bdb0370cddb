"""``%spnb``: the command line in a notebook's cells, thin lines over public functions."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class, output_can_be_silenced
from torch import nn

from .. import models
from ..io.samples import samples
from ..io.sources import Source
from ..job.job import Job
from ..job.job_plan import JobPlan, plan
from ..training.losses import LOSSES
from . import flags, notebook
from .flags import BAD_INPUT
from .job_of_line import job_of


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, and leaves the kernel alone."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise _HelpShown(message or "")


class _HelpShown(Exception):
    """The help was printed: nothing else is to be done."""


@magics_class
class SpnbMagics(Magics):
    """The ``%spnb`` magic, and what its lines have in common: plan and result of the last."""

    def __init__(self, shell: Any):
        super().__init__(shell)
        self.plan: JobPlan | None = None
        self.result: Any = None
        self.verbs: dict[str, tuple[_Parser, Callable[[argparse.Namespace], Any]]] = {}
        self._add("plan", "plan a job; starts nothing", self._plan, _job_flags)
        self._add("start", "start engines for the plan, or load it on those that run", self._start)
        self._add("load", "the same: give the engines another plan", self._start)
        self._add("infer", "run the network on an image", self._infer, _infer_flags)
        self._add("train", "train the network of the plan", self._train, _train_flags)
        self._add("explore", "sliders for a split; starts nothing", self._explore, _job_flags)
        self._add("simulate", "what the plan takes on a core for each rank", self._simulate)
        for name, text, flag in _PICTURES:
            draw = self._picture(name)
            self._add(name, text, draw, lambda parser, flag=flag: flag and flag(parser))
        self._add("timings", "every event on every rank, as a table", self._timings)
        self._add("trace", "write the events for Perfetto", self._trace, _file_flag)
        self._add("restart", "start the engines anew, after one died", self._restart)
        self._add("stop", "stop the engines", lambda args: notebook.stop())

    @output_can_be_silenced
    @line_magic
    def spnb(self, line: str) -> Any:
        """Plan, run and look at a split network.

        Line by line::

            %spnb plan resnet --image-size 1411 --batch-size 1 --num-spatial-parts 4
            %spnb tiles retina              # tile boundaries and halos, over a picture
            %spnb start                     # engines; then %%px runs a cell on each
            %spnb infer retina --check      # run, and compare with the untiled run
            %spnb timeline                  # halo, clock, traffic, memory, layers, difference
            %spnb plan --num-spatial-parts 9    # change one thing of the last plan
            %spnb start                     # the engines stay
            %spnb train images labels --num-epochs 3    # variables; without them, what --app says
            %spnb stop

        A verb returns its object: ``result = %spnb infer retina``.  MODEL is a built-in name,
        ``package.module:factory``, or a variable that holds a module, a `Job` or a plan; IMAGE a
        file, a sample, or a variable that holds an array.  ``%spnb VERB --help`` lists flags; the
        tab key completes verbs, flags and their values.
        """
        words = shlex.split(line.rstrip("; "))
        if not words or words[0] not in self.verbs:
            wrong = f"unknown verb {words[0]!r}; " if words else ""
            raise UsageError(f"%spnb: {wrong}verbs are {', '.join(self.verbs)} (help: %spnb?)")
        parser, act = self.verbs[words[0]]
        try:
            return act(parser.parse_args(words[1:]))
        except _HelpShown as shown:
            print(shown, end="")
        except BAD_INPUT as error:
            raise UsageError(f"%spnb {words[0]}: {error}") from None

    # --- verbs ------------------------------------------------------------------------------

    def _plan(self, args: argparse.Namespace) -> JobPlan:
        given = flags.given(args)
        held = self._variable(args.model)
        if args.model is None:
            job = self._planned().job.replace(**given)
        elif isinstance(held, JobPlan) and not given:
            self.plan = held
            return held
        elif isinstance(held, (Job, JobPlan)):
            job = (held if isinstance(held, Job) else held.job).replace(**given)
        else:
            model = held if isinstance(held, nn.Module) else args.model
            job = job_of(model, given, [self._image(i) for i in args.image or ()])
        self.plan = plan(job)
        return self.plan

    def _start(self, args: argparse.Namespace) -> Any:
        return notebook.start(self._planned())

    def _restart(self, args: argparse.Namespace) -> Any:
        cluster = self._cluster()
        cluster.restart()
        return cluster

    def _infer(self, args: argparse.Namespace) -> Any:
        images = [self._image(name) for name in [*args.images, *(args.image or ())]]
        cluster = self._cluster()
        if self.plan is not None and self.plan is not cluster.plan:
            raise UsageError(
                "%spnb infer: the engines hold another plan than the last one: %spnb start first"
            )
        self.result = cluster.infer(images[0] if len(images) == 1 else images or None)
        if args.check:
            print(self.result.check())
        if args.save_output:
            print(f"wrote {self.result.save(args.save_output, overwrite=True)}")
        return self.result

    def _train(self, args: argparse.Namespace) -> Any:
        images, targets = (self._image(name) for name in args.examples or (None, None))
        job = self._planned().job.replace(**flags.given(args))
        training = notebook.start(plan(job, training=True)).train(images, targets, loss=args.loss)
        self.plan = plan(job)  # to infer with what was trained, after another start
        return training

    def _explore(self, args: argparse.Namespace) -> Any:
        from .explorer import explore

        image = self._image(args.image[0]) if args.image else None
        return explore(self._plan(args).job, image)

    def _simulate(self, args: argparse.Namespace) -> Any:
        return self._planned().simulate()

    def _timings(self, args: argparse.Namespace) -> Any:
        return self._ran().timings

    def _trace(self, args: argparse.Namespace) -> Path:
        return self._ran().to_chrome_trace(args.file)

    def _picture(self, name: str) -> Callable[[argparse.Namespace], Any]:
        def draw(args: argparse.Namespace) -> Any:
            given = {k: v for k, v in vars(args).items() if v is not None}
            if "image" in given:
                given["image"] = self._image(given["image"])
            of_result = name in ("timeline", "layers", "difference") or (
                name == "memory" and self.result is not None and self.result.plan is self.plan
            )
            owner = self._ran() if of_result else self._planned()
            return getattr(owner, f"plot_{name}")(**given)

        return draw

    # --- what lines refer to ----------------------------------------------------------------

    def _planned(self) -> JobPlan:
        if self.plan is None:
            raise UsageError("%spnb: no plan yet: %spnb plan MODEL --flags")
        return self.plan

    def _cluster(self) -> Any:
        cluster = notebook.running()
        if cluster is None:
            raise UsageError("%spnb: no engines run: %spnb start")
        return cluster

    def _ran(self) -> Any:
        if self.result is None:
            raise UsageError("%spnb: no result yet: %spnb infer")
        return self.result

    def _variable(self, name: str | None) -> Any:
        return self.shell.user_ns.get(name) if name and name.isidentifier() else None

    def _image(self, name: str | None) -> Any:
        """What a variable of that name holds, where that is an image; else the name itself."""
        held = self._variable(name)
        if isinstance(held, (str, Path, Source, list, dict)):
            return held
        return held if isinstance(held, (np.ndarray, torch.Tensor)) else name

    # --- flags and completion ---------------------------------------------------------------

    def _add(
        self,
        verb: str,
        text: str,
        act: Callable[[argparse.Namespace], Any],
        add: Callable[[argparse.ArgumentParser], Any] = lambda parser: None,
    ) -> None:
        parser = _Parser(prog=f"%spnb {verb}", description=text, add_help=False, allow_abbrev=False)
        parser.add_argument("--help", "-h", action=_Help, help="show this")
        add(parser)
        self.verbs[verb] = parser, act

    def complete(self, line: str, symbol: str) -> list[str]:
        """What may stand in a line at the place of a symbol that is being typed."""
        words = line.split()[1:]
        before = words if not symbol else words[:-1]
        if not before:
            found = list(self.verbs)
        elif before[0] not in self.verbs:
            return []
        else:
            found = self._in_verb(self.verbs[before[0]][0], before, symbol)
        return [name for name in found if name.startswith(symbol)]

    def _in_verb(self, parser: _Parser, before: list[str], symbol: str) -> list[str]:
        table = {name: action for action in parser._actions for name in action.option_strings}
        action = table.get(before[-1])
        if action is not None and action.nargs != 0:
            if action.dest == "image":
                return [
                    *samples(),
                    *self._variables(lambda v: isinstance(v, (np.ndarray, torch.Tensor))),
                ]
            return list(map(str, action.choices or flags.choices(action.dest)))
        if symbol.startswith("-"):
            return list(table)
        named = {action.dest for action in parser._actions if not action.option_strings}
        if "model" in named and len(before) == 1:
            known = [name for name, _ in models.names() if "<" not in name]
            return known + self._variables(lambda v: isinstance(v, (nn.Module, Job, JobPlan)))
        if {"image", "images", "examples"} & named:
            return [
                *samples(),
                *self._variables(lambda v: isinstance(v, (np.ndarray, torch.Tensor))),
            ]
        return list(table)

    def _variables(self, fits: Callable[[Any], bool]) -> list[str]:
        space = self.shell.user_ns
        return [n for n, v in space.items() if not n.startswith("_") and fits(v)]


class _Help(argparse.Action):
    def __init__(self, option_strings: list[str], dest: str, help: str):
        super().__init__(option_strings, dest=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        raise _HelpShown(parser.format_help())


class _Pair(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, space: argparse.Namespace, values: Any, *_: Any
    ) -> None:
        if len(values) not in (0, 2):
            parser.error(f"give images and targets, or neither: not {len(values)} names")
        setattr(space, self.dest, values or None)


def _job_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", nargs="?", help="as for the shell, or a variable; else the last"
    )
    flags.add_flags(parser)
    flags.add_image(parser)


def _infer_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", metavar="IMAGE", nargs="*", help="a file, sample or variable")
    flags.add_image(parser)
    flags.add_run_flags(parser)


def _train_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "examples", metavar="IMAGES TARGETS", nargs="*", action=_Pair, help="files or variables"
    )
    parser.add_argument("--loss", choices=tuple(LOSSES), help="(default: as the targets are)")
    flags.add_flags(parser)


def _file_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", nargs="?", default="trace.json")


def _image_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="a file, sample or variable")
    parser.add_argument("--stage", type=int, help="a tiled stage (default: all)")


def _rank_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", nargs="?", help="a file, sample or variable")
    parser.add_argument("--rank", type=int, help="whose halo (default: 0)")
    parser.add_argument("--layer", help="whose result is exchanged (default: the widest halo)")


_PICTURES = (
    ("tiles", "tile boundaries and halo bands, over an image", _image_flag),
    ("halo", "the halo of one rank, enlarged", _rank_flags),
    ("clock", "micro-batches in stages, tick by tick", None),
    ("traffic", "bytes from rank to rank", None),
    ("memory", "memory of each rank against the untiled need", None),
    ("timeline", "what each rank did when", None),
    ("layers", "where the time went, by layer", None),
    ("difference", "where the output differs from the untiled run's", None),
)


def load_ipython_extension(shell: Any) -> None:
    """Make ``%spnb`` known: called by ``%load_ext spnb``."""
    magics = SpnbMagics(shell)
    shell.register_magics(magics)

    def complete(_: Any, event: Any) -> list[str]:
        line = event.text_until_cursor
        return magics.complete(line[line.index("%spnb") :], event.symbol)

    shell.set_hook("complete_command", complete, str_key="%spnb")
    shell.set_hook("complete_command", complete, re_key=r".*=\s*%spnb")
