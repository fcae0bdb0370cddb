"""A network cut into stages: which stage computes each value, and which stages read it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

from ..ir.exchange import HOST, Team
from ..ir.graph import Graph
from ..ir.node import Node
from ..ir.tiling import Tiling
from ..rules import gathered_axes, rule_of
from .stage import Stage, stages_of


class StagedGraph:
    """A graph cut into stages of consecutive blocks, each on a team of ranks.

    The examples of the methods go on from the example of `spnb.planner.plan.Plan`.

    Parameters
    ----------
    graph
        The network, each call as its stage can run it.
    tilings
        Grid of each stage over ``(batch, *spatial)``.
    blocks
        Number of blocks in each stage.
    patches
        Grid over the spatial axes that cuts each tile of the first stage.

    Attributes
    ----------
    stages
        The stages, in order.
    host
        The team with only the host, which holds the inputs and receives the outputs.
    """

    def __init__(
        self,
        graph: Graph,
        tilings: Sequence[Tiling],
        blocks: Sequence[int],
        patches: Sequence[int],
    ):
        self.graph = graph
        self.stages = tuple(stages_of(graph, tilings, blocks, patches))
        axes = graph.extent(next(iter(graph.inputs)))
        self.host = Team((HOST,), Tiling.even((1,) * len(axes)))

    @cached_property
    def producer(self) -> dict[str, int]:
        """Number of the stage that computes each value; `HOST` for the inputs.

        Examples
        --------
        >>> plan.producer[plan.graph.outputs[0]]
        1
        """
        made = {node.name: stage.index for stage in self.stages for node in stage.nodes}
        return dict.fromkeys(self.graph.inputs, HOST) | made

    @cached_property
    def readers(self) -> dict[str, list[int]]:
        """Numbers of the stages that read each value, in order; `HOST` reads the outputs.

        Examples
        --------
        >>> plan.readers[plan.graph.outputs[0]]  # the host
        [-1]
        """
        readers: dict[str, dict[int, None]] = defaultdict(dict)
        for stage in self.stages:
            for node in stage.nodes:
                for operand in node.operands:
                    readers[operand][stage.index] = None
        for value in self.graph.outputs:
            readers[value][HOST] = None
        return {value: list(stages) for value, stages in readers.items()}

    @cached_property
    def gathered(self) -> dict[tuple[int, str], Node]:
        """By stage and value, the call that needs the whole value in a stage that is cut.

        Examples
        --------
        >>> plan.gathered  # nothing in stage 0 needs a whole value
        {}
        """
        return {
            (stage.index, value): node
            for stage in self.stages
            if stage.tiled
            for node in stage.nodes
            for index, value in enumerate(node.operands)
            if gathered_axes(rule_of(node), index, stage.cuts)
        }

    @cached_property
    def users(self) -> dict[tuple[int, ...], list[str]]:
        """Names of weights by the stages that read them; each name occurs once.

        Examples
        --------
        >>> list(plan.users)  # no weight is read by both stages
        [(0,), (1,)]
        """
        users: dict[str, list[int]] = defaultdict(list)
        for stage in self.stages:
            for name in self.graph.made_of(stage.weights)[0]:
                users[name].append(stage.index)
        found: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for name, stages in users.items():
            found[tuple(stages)].append(name)
        return dict(sorted(found.items()))

    def team_of(self, stage: int) -> Team:
        """The ranks of a stage and their grid.

        Parameters
        ----------
        stage
            Number of the stage, or `spnb.ir.exchange.HOST`.

        Returns
        -------
        Team
            The stage's; for `HOST`, the host.

        Examples
        --------
        >>> plan.team_of(0).tiling.grid
        (1, 2, 2)
        """
        return self.host if stage == HOST else self.stages[stage].team

    def maker_of(self, value: str) -> Stage:
        """The stage that computes a value.

        Parameters
        ----------
        value
            Name of the value in the graph; not an input.

        Returns
        -------
        Stage
            The stage.

        Examples
        --------
        >>> plan.maker_of(plan.graph.outputs[0]).index
        1
        """
        return self.stages[self.producer[value]]

    def entry_of(self, stage: Stage) -> str:
        """The first value that a stage reads and does not compute.

        Parameters
        ----------
        stage
            The stage.

        Returns
        -------
        str
            Name of the value in the graph; of stage 0, the network's first input.

        Examples
        --------
        >>> plan.entry_of(plan.stages[0]) == next(iter(plan.graph.inputs))
        True
        """
        read = (value for node in stage.nodes for value in node.operands)
        outside = (value for value in read if self.producer[value] != stage.index)
        return next(outside, next(iter(self.graph.inputs)))

    def exported_by(self, stage: Stage) -> set[str]:
        """Values of a stage that other stages or the host read.

        Parameters
        ----------
        stage
            The stage.

        Returns
        -------
        set of str
            Names of the values in the graph.

        Examples
        --------
        >>> plan.exported_by(plan.stages[1]) == set(plan.graph.outputs)
        True
        """
        return {
            node.name
            for node in stage.nodes
            if any(reader != stage.index for reader in self.readers.get(node.name, ()))
        }
