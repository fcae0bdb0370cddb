"""Every public name, method and property is documented, in numpydoc's form."""

import inspect
from functools import cached_property

import pytest

import spnb
from spnb.analysis.simulate import Simulation
from spnb.benchmarking.benchmark import Bench
from spnb.driver.result import Result
from spnb.driver.training.evaluation_result import Evaluation
from spnb.driver.training.training_result import Training
from spnb.engine.here import Here
from spnb.engine.rank import Rank
from spnb.job.job_plan import JobPlan
from spnb.planner.plan import Plan

USED = (spnb.Cluster, spnb.InProcess, Result, Training, Evaluation, Here)
CLASSES = (spnb.Job, JobPlan, Simulation, Bench, Plan, *USED)
FUNCTIONS = (
    *(spnb.plan, spnb.tune, spnb.explore, spnb.start, spnb.stop, spnb.bench, spnb.calibrate),
    spnb.rule,
)
WITH_EXAMPLES = (spnb.Job, JobPlan, Simulation, Plan, *USED, *FUNCTIONS)


def members(cls):
    """Public methods and properties of a class that this package defines."""
    for name, member in inspect.getmembers_static(cls):
        owner = next(base for base in cls.__mro__ if name in vars(base) or base is object)
        if name.startswith("_") or not owner.__module__.startswith("spnb."):
            continue
        if isinstance(member, classmethod):
            yield name, member.__func__
        elif inspect.isfunction(member) or isinstance(member, (property, cached_property)):
            yield name, member


INTERNAL = ("begin_training", "end_epoch", "evaluate_shares", "share", "train_epoch", "weights_of")
"""Methods of a session that its training loop calls, not a user."""

EXAMPLES = [
    pytest.param(cls, name, member, id=f"{cls.__name__}.{name}")
    for cls in (Plan, *USED)
    for name, member in members(cls)
    if name not in INTERNAL and not hasattr(Rank, name)
]

METHODS = [
    pytest.param(member, id=f"{cls.__name__}.{name}")
    for cls in CLASSES
    for name, member in members(cls)
]


def parameters(function):
    """Names of a function's parameters, those with a star included."""
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def documented(text, section):
    """Lines of a section of a docstring."""
    lines = inspect.cleandoc(text).splitlines()
    heads = [k for k in range(len(lines) - 1) if set(lines[k + 1]) == {"-"}]
    for head, following in zip(heads, [*heads[1:], len(lines)], strict=False):
        if lines[head] == section:
            return lines[head + 2 : following]
    return []


@pytest.mark.parametrize("name", dir(spnb))
def test_every_public_name_has_a_docstring(name):
    assert inspect.getdoc(getattr(spnb, name))


@pytest.mark.parametrize("member", [*METHODS, *FUNCTIONS])
def test_members_have_docstrings_and_functions_list_their_parameters(member):
    text = member.__doc__
    assert text and text.strip()
    if not inspect.isfunction(member):
        return
    listed = [word.strip("*, ") for line in documented(text, "Parameters") for word in line.split()]
    for name in parameters(member):
        assert name in listed, f"{name} is not documented"
    if inspect.signature(member).return_annotation not in ("None", None):
        assert documented(text, "Returns") or text.lstrip().startswith("Return")


@pytest.mark.parametrize("thing", WITH_EXAMPLES)
def test_the_first_things_that_users_meet_have_examples(thing):
    assert documented(thing.__doc__, "Examples")


@pytest.mark.parametrize(("cls", "name", "member"), EXAMPLES)
def test_members_have_an_example_of_their_own_or_in_their_class(cls, name, member):
    shown = "".join(documented(cls.__doc__, "Examples"))
    assert documented(member.__doc__, "Examples") or f".{name}" in shown


def test_completion_offers_public_names_only():
    plan = spnb.plan("resnet20_v1", image_size=64, batch_size=1)
    for shown in (plan, plan.job, spnb.here, spnb):
        names = set(dir(shown)) - {"__version__"}
        assert names
        assert not [name for name in names if name.startswith("_")]
