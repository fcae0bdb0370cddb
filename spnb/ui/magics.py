"""``%spnb``: the command line in a notebook's cells; each verb calls a public function."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_magic, magics_class, output_can_be_silenced
from torch import nn

from ..driver.launch.placement import OF_PLACEMENT
from ..driver.rank_loading import require_seen
from ..driver.saved_outputs import store_of, value_of
from ..driver.training.held_out import divided
from ..driver.training.training_examples import examples_of
from ..errors import WriteError
from ..io.sources import NOT_GIVEN, Source
from ..ir.option_words import as_flags
from ..job.job import Job
from ..job.job_plan import JobPlan, plan
from . import flags, notebook
from .completion import Completion
from .flags import BAD_INPUT
from .job_of_line import job_of_images
from .magic_parsers import (
    AddFlags,
    Help,
    HelpShown,
    MagicParser,
    evaluation_flags,
    file_flag,
    image_flag,
    infer_flags,
    job_flags,
    no_flags,
    placement_flags,
    rank_flags,
    train_flags,
)


@magics_class
class SpnbMagics(Magics):
    """The ``%spnb`` magic; its lines share the last plan and the last result."""

    def __init__(self, shell: Any):
        super().__init__(shell)
        self.plan: JobPlan | None = None
        self.result: Any = None
        self.verbs: dict[str, tuple[MagicParser, Callable[[argparse.Namespace], Any]]] = {}
        self._add("plan", "plan a job; starts nothing", self._plan, job_flags)
        text = "start engines for the plan, or load it on running engines"
        self._add("start", text, self._start, placement_flags)
        self._add("load", "as start: give the engines another plan", self._start, placement_flags)
        self._add("infer", "run the network on an image", self._infer, infer_flags)
        self._add("evaluate", "loss and accuracy of images", self._evaluate, evaluation_flags)
        self._add("train", "train the network of the plan", self._train, train_flags)
        self._add("explore", "show sliders for a split; starts nothing", self._explore, job_flags)
        self._add("simulate", "how long the plan takes with a core for each rank", self._simulate)
        for name, text, add in _PICTURES:
            self._add(name, text, self._picture(name), add)
        self._add("timings", "show every event of every rank, as a table", self._timings)
        self._add("trace", "write the events to a file for Perfetto", self._trace, file_flag)
        self._add("restart", "start the engines again, after one died", self._restart)
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
            %spnb train images labels --validation 0.2  # variables; without them, what --app says
            %spnb evaluate images labels    # loss, accuracy and overlap of classes
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
            with as_flags():
                return act(parser.parse_args(words[1:]))
        except HelpShown as shown:
            print(shown, end="")
        except (*BAD_INPUT, WriteError) as error:
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
            job = job_of_images(model, given, [self._image(i) for i in args.image or ()])
        self.plan = plan(job)
        return self.plan

    def _start(self, args: argparse.Namespace) -> Any:
        where = {name: vars(args)[name] for name in OF_PLACEMENT if name in args}
        return notebook.start(self._planned(), dry_run=args.dry_run, **where)

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
        flags.check_output(args)
        if args.save_output:
            store = store_of(cluster.plan.graph, args.save_output)
            store.require(args.overwrite)
            if not args.gather_output:
                require_seen(cluster, store.path, value_of(cluster.plan.graph, None))
        image = images[0] if len(images) == 1 else images or NOT_GIVEN
        reading = {"preprocess": args.preprocess, "nodata": args.nodata, "skip": args.skip}
        self.result = cluster.infer(image, **reading)
        if self.plan is not None:
            self.plan = self.result.plan  # another one where the image brings its own batch
        if args.check:
            print(self.result.check())
        if args.save_output:
            print(f"wrote {self.result.save(args.save_output, overwrite=args.overwrite)}")
        return self.result

    def _train(self, args: argparse.Namespace) -> Any:
        images, targets = (
            (self._image(name) for name in args.examples)
            if args.examples
            else (NOT_GIVEN, NOT_GIVEN)
        )
        flags.check_validation(args.validation, args.patience)
        job = self._planned().job.replace(**flags.given(args))
        wanted = plan(job, training=True)
        data = divided(wanted, examples_of(wanted, images, targets), args.validation)
        training = notebook.start(wanted).train(
            data.training, loss=args.loss, validation=data.validation, patience=args.patience
        )
        self.plan = plan(training.job)  # infer runs the trained network, after another start
        return training

    def _evaluate(self, args: argparse.Namespace) -> Any:
        return self._cluster().evaluate(*map(self._image, args.examples or ()), loss=args.loss)

    def _explore(self, args: argparse.Namespace) -> Any:
        from .explorer import explore

        image = self._image(args.image[0]) if args.image else NOT_GIVEN
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
        assert self.shell is not None, "IPython makes the magics with its shell"
        return self.shell.user_ns.get(name) if name and name.isidentifier() else None

    def _image(self, name: str) -> Any:
        """Return the image that a variable holds; the name itself if there is no such variable.

        Raises
        ------
        UsageError
            If the variable holds None.
        """
        assert self.shell is not None, "IPython makes the magics with its shell"
        held = self._variable(name)
        if held is None and name in self.shell.user_ns:
            raise UsageError(f"%spnb: the variable {name} is None: give it an image")
        if isinstance(held, (str, Path, Source, list, dict)):
            return held
        return held if isinstance(held, (np.ndarray, torch.Tensor)) else name

    def _add(
        self,
        verb: str,
        text: str,
        act: Callable[[argparse.Namespace], Any],
        add: AddFlags = no_flags,
    ) -> None:
        """Add a verb: its name, its help text, what it does, and what adds its flags."""
        parser = MagicParser(
            prog=f"%spnb {verb}", description=text, add_help=False, allow_abbrev=False
        )
        parser.add_argument("--help", "-h", action=Help, help="show this")
        add(parser)
        self.verbs[verb] = parser, act


_PICTURES = (
    ("tiles", "tile boundaries and halo bands, over an image", image_flag),
    ("halo", "the halo of one rank, enlarged", rank_flags),
    ("clock", "micro-batches in stages, tick by tick", no_flags),
    ("traffic", "bytes from rank to rank", no_flags),
    ("memory", "memory of each rank against the untiled need", no_flags),
    ("timeline", "what each rank did when", no_flags),
    ("layers", "where the time went, by layer", no_flags),
    ("difference", "where the output differs from the untiled run's", no_flags),
)


def load_ipython_extension(shell: Any) -> None:
    """Register ``%spnb`` and its completion: ``%load_ext spnb`` calls this.

    Parameters
    ----------
    shell
        The IPython shell.
    """
    magics = SpnbMagics(shell)
    shell.register_magics(magics)

    def complete(_: Any, event: Any) -> list[str]:
        line = event.text_until_cursor
        parsers = {verb: parser for verb, (parser, _) in magics.verbs.items()}
        found = Completion(parsers, shell.user_ns)
        return found.complete(line[line.index("%spnb") :], event.symbol)

    shell.set_hook("complete_command", complete, str_key="%spnb")
    shell.set_hook("complete_command", complete, re_key=r".*=\s*%spnb")
