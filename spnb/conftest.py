"""Examples in docstrings: those of a method go on from the example of its class."""

import contextlib
import doctest
import io
import os
import pydoc
from typing import Any

import pytest

# Simulations are of the built-in machine, whatever this one was measured to be.
os.environ["SPNB_MACHINE"] = os.path.join(os.path.dirname(__file__), "no-machine.json")

EVALUATION = "spnb.driver.training.evaluation_result.Evaluation"
TRAINING = "spnb.driver.training.training_result.Training"
PARALLEL = "spnb.training.own_loop.parallel_network.ParallelNetwork"
CONTINUED = {
    EVALUATION: EVALUATION,
    "spnb.driver.in_process.InProcess": "spnb.driver.in_process.InProcess",
    "spnb.driver.result.Result": "spnb.driver.result.Result",
    "spnb.driver.run_record.RunRecord": "spnb.driver.result.Result",
    "spnb.driver.session.Session": "spnb.driver.session.Session",
    TRAINING: TRAINING,
    "spnb.engine.here.Here": "spnb.engine.here.Here",
    "spnb.planner.plan.Plan": "spnb.planner.plan.Plan",
    "spnb.planner.rank_places.RankPlaces": "spnb.planner.plan.Plan",
    "spnb.planner.staged_graph.StagedGraph": "spnb.planner.plan.Plan",
    "spnb.training.own_loop.network_tiles.NetworkTiles": PARALLEL,
    "spnb.training.own_loop.network_weights.NetworkWeights": PARALLEL,
    "spnb.training.own_loop.parallel_network.ParallelNetwork": PARALLEL,
    "spnb.training.own_loop.rank_module.RankModule": PARALLEL,
}
"""Classes whose methods have such examples, and the class whose example is run before them."""


@pytest.fixture(autouse=True)
def after_the_example_of_the_class(request: pytest.FixtureRequest) -> None:
    """Give the example of a method the names that the example of its class ends with."""
    example = getattr(request.node, "dtest", None)
    if example is None:
        return
    owner = CONTINUED.get(example.name.rpartition(".")[0])
    if owner is not None:
        example.globs.update(names_after(pydoc.locate(owner).__doc__ or "", owner))


def names_after(docstring: str, name: str) -> dict[str, Any]:
    """Run the example of a docstring; the names that it defines."""
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for example in doctest.DocTestParser().get_examples(docstring):
            exec(compile(example.source, name, "single"), names)
    return names
