"""Settings of every process that runs tests, and the engines that tests share."""

import os
import sys
from functools import partial

import pytest
import suite_parts
from xdist.scheduler import LoadScopeScheduling

# Each worker of pytest-xdist, and each process that a test starts, computes with one thread: more
# threads than cores wait for each other actively, and triple the time of the whole suite.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Each process that a test starts would compile the whole package if none may write its bytecode.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Simulations are of the built-in machine, whatever this one was measured to be.
os.environ["SPNB_MACHINE"] = os.path.join(os.path.dirname(__file__), "no-machine.json")

# These helpers check by `assert`: pytest shows both values where one fails.
pytest.register_assert_rewrite("image_regions", "trained_sessions", "training_steps")

# Python of Debian has a module of this name already.
collect_ignore = ["helpers/faulty/sitecustomize.py"]

SHARED_ENGINES = (
    "tests/benchmarking/test_calibration.py",
    "tests/benchmarking/test_commands.py",
    "tests/benchmarking/test_training_bench.py::test_the_command",
    "tests/benchmarking/test_foreseen.py::test_the_command",
    "tests/driver/test_cluster.py",
    "tests/driver/test_finite.py::test_ranks_tell_it",
    "tests/driver/test_image_results.py::test_engines",
    "tests/driver/test_preprocessing.py::test_ranks_do_it_on_their_regions",
    "tests/driver/test_cluster_failures.py",
    "tests/driver/training/test_train.py",
    "tests/engine/test_here_on_engines.py",
    "tests/test_guide.py::test_a_command_that_runs_on_shared_engines",
    "tests/test_guide.py::test_magics_of_a_page",
    "tests/test_guide.py::test_snippets_of_a_page",
    "tests/transport/test_gloo.py",
    "tests/transport/test_slow_link.py::test_engines_have_it_too",
    "tests/ui/test_cli.py::test_infer_checks",
    "tests/ui/test_run.py",
)
"""Where tests use the `cluster` of this file: one worker runs them all, so it starts once."""
OWN_ENGINES = (
    "tests/driver/launch/test_engines.py",
    "tests/driver/launch/test_processes.py",
    "tests/driver/test_restart.py",
    "tests/engine/test_cells.py",
    "tests/ui/test_browser.py",
)
"""Files that have engines, or a server, of their own: one worker runs a file."""
SLOWEST_FIRST = ("notebook", "mpi", "library", "long")


@pytest.fixture(scope="session")
def cluster():
    """Ten engines, for any plan of as many ranks: each test loads its own."""
    import spnb

    job = spnb.Job("resnet20_v1", image_size=64, batch_size=1, num_spatial_parts=9)
    with spnb.Cluster(spnb.plan(job), progress=False) as cluster:
        yield cluster


@pytest.fixture
def on_shared_engines(cluster, monkeypatch):
    """What the package starts in this test runs on the ten engines that are there."""
    import spnb

    adopted = partial(spnb.Cluster, client=cluster.client)
    for module in ("spnb", "spnb.driver.cluster", "spnb.ui.notebook"):
        monkeypatch.setattr(f"{module}.Cluster", adopted)


@pytest.fixture
def used_memory(monkeypatch):
    """New tensors hold NaN, as memory may that was used before: fresh memory is often zero."""
    import torch

    def used(make):
        def made(*size, **options):
            found = make(*size, **options)
            return found.fill_(float("nan")) if found.is_floating_point() else found

        return made

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, used(getattr(torch, name)))


def pytest_addoption(parser):
    """The parts of the suite (tests/helpers/suite_parts.py)."""
    group = parser.getgroup("parts of the suite")
    group.addoption("--quick", action="store_true", help="the first case of each quick test")
    group.addoption("--slow", action="store_true", help="only what is left out without it")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Choose the part, and begin with the slowest kinds of tests: what remains last is short."""
    for item in items:
        if item.nodeid.startswith("spnb/driver/cluster.py"):  # its example starts engines
            item.add_marker("mpi")
            item.add_marker("slow")
        if item.nodeid.startswith("spnb/job/tuning/search.py"):
            item.add_marker("long")
    choices = [name for name in ("quick", "slow") if config.getoption(name)]
    if choices or config.args_source is not config.ArgsSource.ARGS:
        chosen = suite_parts.part(items, *(choices or ["README"]))
        left_out = set(items) - set(chosen)
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = chosen

    def place(item):
        marks = {mark.name for mark in item.iter_markers()}
        return next((k for k, name in enumerate(SLOWEST_FIRST) if name in marks), 9)

    items.sort(key=place)


def pytest_runtest_logfinish():
    """A seventh of the time of all tests would be collections of garbage, for PyTorch's modules."""
    if process_memory := sys.modules.get("spnb.runtime.process_memory"):
        process_memory.set_modules_aside()


class ByEngines(LoadScopeScheduling):
    """Any worker takes any test, but those that share engines stay together."""

    def __init__(self, config, log=None):
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid):
        file = nodeid.split("::")[0]
        if nodeid.startswith(SHARED_ENGINES):
            return "shared engines"
        if file.startswith("tests/hosts/"):  # one worker makes the hosts
            return "hosts"
        return file if file in OWN_ENGINES else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """pytest-xdist 3.8 does not heed its own marker of groups with pytest 9."""
    return ByEngines(config, log)
