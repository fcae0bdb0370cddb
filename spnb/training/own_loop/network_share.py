"""What a rank is sent of a network that it runs in a program of the user's own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ...ir.axes import Axes
from ...ir.node import Ref
from ...ir.rank_plan import RankPlan
from ...kernels.compat import pytree
from ...runtime.pipeline_stage import PipelineStage, pipeline_stages_of
from ..reducer import buckets_of
from ..running_stats import RunningStats
from ..tapes.taped_program import TapedPrograms
from .local_pieces import LocalPieces, regions_read, regions_returned
from .network_pass import RankNetwork


class Mode(NamedTuple):
    """How a network is captured.

    Attributes
    ----------
    layers
        The modes of its layers, and their settings.
    autocast
        The type that `torch.autocast` casts to around the call; None outside of it.
    """

    layers: Hashable
    autocast: torch.dtype | None = None


@dataclass(frozen=True)
class NetworkShare:
    """A rank's share of a network, as plain picklable data.

    Attributes
    ----------
    rank_plan
        Its share of the plan.
    inputs, outputs
        Axes and type of each whole input and output, by name.
    returned
        The leaves of the network's output, as in `spnb.ir.graph.Graph`.
    nested
        The numbers of these leaves, nested as the network returns them.
    names
        Names of the parameters and buffers that the rank's stage reads.
    literals
        Tensors that the network makes from numbers in its code, by name.
    trainable
        Names of the stage's parameters that have a gradient, unless they are frozen.
    counted
        By the name of a batch norm's ``num_batches_tracked``: how often a pass adds one to it.
    owners
        By the name of each weight that some stage reads: the ranks that have it.
    """

    rank_plan: RankPlan
    inputs: Mapping[str, tuple[Axes, torch.dtype]]
    outputs: Mapping[str, tuple[Axes, torch.dtype]]
    returned: tuple[Any, ...]
    nested: Any
    names: tuple[str, ...]
    literals: Mapping[str, torch.Tensor]
    trainable: tuple[str, ...]
    counted: Mapping[str, int]
    owners: Mapping[str, Sequence[int]]

    def network(self, tensors: Mapping[str, torch.Tensor]) -> RankNetwork:
        """The network as this rank runs it.

        Parameters
        ----------
        tensors
            The parameters and buffers of its stage by name; they are used, not copied.
        """
        (stage,) = pipeline_stages_of(self.rank_plan)
        weights = {name: tensors[name] for name in self.names} | dict(self.literals)
        statistics = RunningStats([self.rank_plan])
        return RankNetwork(
            stage=stage,
            inputs=self._pieces(stage, self.inputs, regions_read),
            outputs=self._pieces(stage, self.outputs, regions_returned),
            weights=weights,
            trainable=self.trainable,
            statistics=buckets_of(self.rank_plan.shared, (), statistics.moves, weights),
            running_stats=statistics,
            programs=TapedPrograms(weights),
        )

    @staticmethod
    def _pieces(
        stage: PipelineStage,
        values: Mapping[str, tuple[Axes, torch.dtype]],
        regions: Any,
    ) -> dict[str, LocalPieces]:
        return {
            value: LocalPieces(axes, dtype, regions(stage, value))
            for value, (axes, dtype) in values.items()
        }

    def pack(self, outputs: Sequence[torch.Tensor]) -> Any:
        """The outputs, nested as the network returns them."""
        values = dict(zip(self.outputs, outputs, strict=True))
        leaves = [values[leaf.value] if isinstance(leaf, Ref) else leaf for leaf in self.returned]
        return pytree.tree_map(lambda number: leaves[number], self.nested)
