"""The command line: ``python -m spnb VERB …``, its verbs, flags and exit codes.

PyTorch is not imported here, so that help and argument errors are answered at once.
`spnb.ui.verbs`, which carries out the verbs, is imported when a verb runs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NoReturn

from .. import __version__, models
from ..driver.launch.interrupts import INTERRUPTED
from ..driver.launch.launcher import is_first_of_host, launched_rank, under_mpi
from ..errors import PeerFailed, RankError, StartError, WaitTimeout
from ..ir.option_words import as_flags
from . import flags
from .flags import BAD_INPUT
from .measuring_flags import add_measuring_flags

FAILED = (RankError, PeerFailed, WaitTimeout, RuntimeError, OSError)
"""Errors of a run; the message names rank, stage and layer, or a file, without a traceback."""

VERBS = {
    "plan": "show stages, tiles, messages, bytes and memory; no rank is started",
    "infer": "run the network on MPI ranks: those of mpiexec or srun, or ranks that it starts",
    "evaluate": "loss, accuracy and images per second on a data set (--app), as infer runs",
    "train": "train on MPI ranks; continues from the checkpoint, and writes it after each epoch",
    "script": "print the script of a run for a batch job, or of its mpiexec; no rank is started",
    "bench": "time a plan with and without its messages, and plain torch and others in one process;"
    " or, with --training, its steps of training and those of plain torch",
    "suite": "time the standard workloads, as bench does",
    "sweep": "time plans in which more and more blocks share one halo exchange",
    "halo": "time halo exchanges only, and compare with bare MPI messages and a copy in memory",
    "foreseen": "set what a simulation foresees of 30 splits of 5 networks beside what they take on"
    " this machine, which calibrate must have measured",
    "tune": "search the splits of a network for those that are fast and need little memory; no rank"
    " is started",
    "calibrate": "measure operators, memory and links of this machine for simulations; it keeps the"
    " figures in a file of yours",
}
"""Each verb and its help text."""

STARTING = ("infer", "evaluate", "train")
"""Verbs that start ranks where the line says, or use those of a launcher."""

MEASURING = ("bench", "suite", "sweep", "halo", "foreseen", "tune")
"""Verbs with figures to draw and to write; but for ``tune``, they start their own ranks."""

WITHOUT_MODEL = ("suite", "halo", "foreseen", "calibrate")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Parameters
    ----------
    argv
        Words of the line; by default those of this process.

    Returns
    -------
    int
        The exit code: 0; 1 if a run or its check fails; 2 for bad input; 130 if interrupted.
    """
    with as_flags():
        return _printed(_carried_out(_parsed(argv)))


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """A parsed line; that of a script has its own flags, and the words of the run."""
    parser = _parser()
    args, others = parser.parse_known_args(argv)
    if args.verb != "script":
        if others:
            parser.error(f"unrecognized arguments: {' '.join(others)}")
        return args
    args.words = [args.model, *others]
    run = parser.parse_args([args.run, *args.words])
    run.script = args
    return run


def _carried_out(args: argparse.Namespace) -> int:
    """Carry out a parsed line; return the exit code."""
    if "" not in sys.path:  # as python -m does: a factory may be a module of the working folder
        sys.path.insert(0, "")
    try:
        if args.verb not in WITHOUT_MODEL and not under_mpi():  # under MPI, rank 0 checks them
            training = getattr(args, "training", False)
            flags.check_options(args.verb, args.model, flags.given(args), training=training)
        if args.verb == "train":
            flags.check_validation(args.validation, args.patience)
        if args.verb == "infer":
            flags.check_output(args)
        with _ending_at_an_interrupt():
            from ..driver.launch.interrupts import interrupts_not_lost
            from . import verbs

        with interrupts_not_lost():
            return verbs.run(args)
    except BAD_INPUT as error:
        return _fail(error, 2)
    except BrokenPipeError:  # as of `spnb … | head`: nobody reads on
        return 1
    except StartError as error:  # of every rank of a host alike
        return _fail(error, 1) if is_first_of_host() else 1
    except FAILED as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return INTERRUPTED if launched_rank() else _fail("interrupted", INTERRUPTED)


@contextlib.contextmanager
def _ending_at_an_interrupt() -> Iterator[None]:
    """End the process at an interrupt in a block, in which packages are imported.

    Libraries in C turn a KeyboardInterrupt in their import into errors of their own.
    """

    def end(*_: object) -> NoReturn:
        if launched_rank() == 0:
            _fail("interrupted", INTERRUPTED)
        sys.stderr.flush()
        os._exit(INTERRUPTED)

    if threading.current_thread() is not threading.main_thread():  # it receives no signals
        yield
        return
    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _printed(code: int) -> int:
    """The exit code of a line, once what it printed is written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python writes the rest at its end, and would show a traceback.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if code == 0 and not isinstance(error, BrokenPipeError):
            return _fail(f"cannot print: {error.strerror}", 1)
        return code or 1
    return code


def _fail(error: object, code: int) -> int:
    print(f"spnb: {error}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Reports an argument error in one line, without the list of all flags."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        allow_abbrev=False,
        prog="spnb",
        description="Exact spatial parallelism of convolutional networks.",
    )
    parser.add_argument("--version", action="version", version=f"spnb {__version__}")
    verbs = parser.add_subparsers(
        dest="verb", required=True, metavar=f"{{{','.join(VERBS)}}}", parser_class=_Parser
    )
    for verb, text in VERBS.items():
        _add_verb(verbs, verb, text)
    return parser


def _add_verb(verbs: argparse._SubParsersAction[_Parser], verb: str, text: str) -> None:
    """Add the parser of a verb, with the flags that it has."""
    names = "\n".join(f"  {name:<16}{what}" for name, what in models.names())
    names += "\n  package.module:factory   any torch.nn.Module"
    epilog = f"models:\n{names}\n  FILE.pt2        a program that torch.export.save wrote"
    parser = verbs.add_parser(
        verb,
        allow_abbrev=False,
        help=text,
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=None if verb in WITHOUT_MODEL else epilog,
    )
    if verb not in WITHOUT_MODEL:
        parser.add_argument(
            "model", metavar="MODEL", help="a built-in name, package.module:factory or a .pt2 file"
        )
    if verb == "script":
        parser.add_argument(
            "--run", choices=STARTING, default="infer", help="what it runs (default: infer)"
        )
        flags.add_placement_flags(parser)
        return
    if verb not in WITHOUT_MODEL:
        flags.add_flags(parser, taken=("--tiles",) if verb == "sweep" else ())
    if verb in MEASURING:
        add_measuring_flags(parser, verb)
    if verb in ("plan", "infer", "tune"):
        flags.add_image(parser)
    if verb in ("plan", "infer"):
        flags.add_skip(parser)
    if verb == "infer":
        flags.add_run_flags(parser)
    if verb in STARTING:
        flags.add_placement_flags(parser)
        flags.add_dry_run(parser)
    if verb == "train":
        flags.add_validation_flags(parser)
    if verb not in ("plan", "evaluate", "calibrate"):
        parser.add_argument(
            "--save-plots", metavar="DIR", help="write pictures to a folder, as PNG"
        )
    if verb not in ("plan", "calibrate"):
        parser.add_argument("--report", metavar="FILE", help="write every figure to a JSON file")
