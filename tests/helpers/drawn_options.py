"""Options that are drawn by chance, each draw with a number of its own: good ones and bad ones.

A draw is a line of the shell or the keywords of a job.  Either is planned, or refused in one line.
"""

import contextlib
import io
import random
import signal
from dataclasses import dataclass
from unittest import mock

import spnb
from spnb.errors import OptionError
from spnb.job.job import Job
from spnb.job.names import FUSE, other_names
from spnb.job.options import options
from spnb.ui.cli import main
from spnb.ui.flags import BAD_INPUT, flag

PATIENCE = 60
"""Seconds after which a draw counts as one that hangs."""

SEVERAL = {"batch_size": 3, "image_size": 48}
MODELS = ["resnet20_v1"] * 6 + ["unet", "unet", "resnet29_v2", "amoebanet"]
BAD_MODELS = ["resnext", "no.such:model", "json:dumps", "nowhere.pt2", "", "torch.nn:Identity"]
GOOD = {
    "batch_size": [1, 2, 3, 4, 8],
    "parts": [1, 2, 3, 4],
    "split_size": [1, 2, 3],
    "num_spatial_parts": [1, 2, 3, 4, 6, 9, "4,2", "2,2"],
    "spatial_size": [0, 1, 2, 3],
    "slice_method": ["square", "vertical", "horizontal", "2x3", "1x4"],
    "fused_layers": [1, 2, 5, "all"],
    "patches": [1, 2, 4],
    "balance": ["5,10", "7,8", "1,1,13", "8"],
    "local_DP": [1, 2, 3],
    "image_size": [16, 32, 33, 48, "40x57", "24x16"],
    "input_shapes": ["2x3x32x32", "1x3x40x24", "2x3x16x16,2x3x16x16"],
    "method": ["forward", "decode"],
    "num_layers": [3, 6],
    "num_filters": [16, 32],
    "num_classes": [2, 10],
    "backend": ["mpi", "gloo", "nccl"],
    "device": ["cpu", "cuda"],
    "precision": ["fp32", "fp64", "fp_16", "bf_16"],
    "weights": ["nowhere.pth"],
    "checkpoint": ["nowhere.pth"],
    "app": [1, 2, 3],
    "datapath": ["nowhere"],
    "normalize": ["0.5,0.5", "imagenet", "0.4/0.5/0.6,0.2/0.2/0.2"],
    "num_workers": [0, 2],
    "num_epochs": [1, 3],
    "optimizer": ["adam", "sgd", "rmsprop"],
    "learning_rate": [0.1, 0.001],
    "weight_decay": [0.0, 0.01],
    "learning_rate_decay": [0.5, 1.0],
    "schedule": ["1f1b", "gpipe"],
    "recompute_memory": ["2GiB", "40MB"],
    "replicas": [1, 2],
    "times": [1, 2],
    "deadline": [1, 60],
    "seed": [0, 7],
}
RARE = ("weights", "checkpoint", "datapath", "app", "method", "backend", "device", "balance")
"""Options whose values are refused in most draws, before others are looked at."""

BAD = [
    *(0, -1, 2**31, 2**64, 10**30, 1.5, "", " ", "abc", "1e3", "nan", "inf", "-inf", "0x0", "3x"),
    *("1,2,3", ",", "4,", "1x2x3x4", "0", "-4", "٣", "½", "None", "True", "a\nb", "1_000", "--"),
]
OBJECTS = [None, [], [1, 2], (0,), {}, {"a": 1}, b"4", float("nan"), float("inf"), 3j, object, True]
"""Values that only Python can give."""


@dataclass(frozen=True)
class Outcome:
    """What became of a draw: planned, or refused with a text; other than that is a fault."""

    planned: bool
    fault: str = ""


def drawn(number):
    """The model and options of a number, by name; flags have the value True."""
    chance = random.Random(number)
    model = chance.choice(MODELS if chance.random() > 0.05 else BAD_MODELS)
    given = dict(SEVERAL) | ({"num_layers": 3, "num_filters": 16} if model == "amoebanet" else {})
    names = [option.name for option in options()]
    likely = [name for name in names if name not in RARE or chance.random() < 0.05]
    for name in chance.sample(likely, chance.choice([1, 2, 3, 4, 6, 9])):
        given[name] = chance.choice(GOOD[name]) if name in GOOD else True
    if chance.random() < 0.3:
        given[chance.choice(names)] = chance.choice(BAD)
    return model, given, chance


def line(model, given, verb="plan"):
    """A line of the shell with these options."""
    table = {option.name: option for option in options()}
    words = [verb, model]
    for name, value in given.items():
        words.append(flag(table[name]))
        if table[name].metadata["read"] is not bool:
            words.append(str(value))
    return words


class Hangs(BaseException):
    """Raised in a draw that takes too long."""


@contextlib.contextmanager
def patience():
    def raise_hangs(*_):
        raise Hangs

    before = signal.signal(signal.SIGALRM, raise_hangs)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def of_line(words):
    """Carry out a line in this process; engines do not start."""
    out, errors = io.StringIO(), io.StringIO()
    start = "spnb.driver.launch.engines.Engines.start"
    started = mock.patch(start, side_effect=RuntimeError("started"))
    try:
        printed = contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors)
        with patience(), started, printed[0], printed[1]:
            code = main(words)
    except SystemExit as end:
        code = end.code
    except Hangs:
        return Outcome(False, "hangs")
    except BaseException as error:
        return Outcome(False, f"raises {error!r}")
    told = [each for each in errors.getvalue().splitlines() if " has no effect: " not in each]
    if code == 0 and not told:
        return Outcome(True)
    if code == 1 and told[-1:] == ["spnb: started"]:
        return Outcome(True)
    if code != 2 or len(told) != 1 or not told[0].startswith("spnb"):
        return Outcome(False, f"code {code}, {errors.getvalue()!r}")
    return Outcome(False)


def of_job(model, given, chance):
    """Plan a job of these options, some with a value that only Python can give."""
    if chance.random() < 0.3:
        given = {**given, chance.choice(list(given)): chance.choice(OBJECTS)}
    training = chance.random() < 0.3
    try:
        with patience():
            str(spnb.plan(Job(model, **given), training=training))
    except Hangs:
        return Outcome(False, "hangs")
    except (*BAD_INPUT, OptionError) as error:
        text = str(error)
        return Outcome(False, "" if text and "\n" not in text else f"says {text!r}")
    except BaseException as error:
        return Outcome(False, f"raises {error!r} for {given}")
    return Outcome(True)


def outcome(number):
    """The outcome of a draw, and the draw as a text."""
    model, given, chance = drawn(number)
    kind = chance.random()
    if kind < 0.3:
        others = {own: other for other, own in other_names().items() if other != FUSE}
        given = {others.get(n, n) if chance.random() < 0.3 else n: v for n, v in given.items()}
        return of_job(model, given, chance), f"Job({model!r}, **{given})"
    words = line(model, given, "plan" if kind < 0.8 else chance.choice(["infer", "train"]))
    return of_line(words), " ".join(words)
