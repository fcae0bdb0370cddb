"""Batch norm in training of a value in pieces: the statistics are those of all pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from ...ir.axes import Axes
from ...ir.node import Node, Ref
from ...ir.region import Region
from ...ir.tiling import Tiling
from ..base import Direct, Tensors, Weights
from ..fallback import rule_of
from ..registry import rule
from .statistics import STATISTICS


@dataclass(frozen=True)
class BatchNormOfPiece(Direct):
    """One piece, normalized.

    The call's argument ``pieces`` has all pieces, and ``number`` says which one is normalized; all
    others are those of a batch norm.
    """

    @property
    def by_micro_batch(self) -> bool:
        return True

    @cached_property
    def axes(self) -> Axes:
        return self.node.operand_axes[self.node.args["number"]]

    def lower(self, tiling: Tiling) -> Sequence[Node]:
        """The figures of each piece, those of all, and the normalized piece."""
        node, number = self.node, self.node.args["number"]
        found, figures, last = list[Node](), list[Node](), node
        for k in range(len(node.args["pieces"])):
            *before, normalized = rule_of(self._alone(k)).lower(tiling)
            found += before
            figures.append(before[-1])
            last = normalized if k == number else last
        joint = replace(
            figures[0],
            name=f"{node.name}.joint",
            op="spnb.joined_figures.default",
            args={"figures": [Ref(each.name) for each in figures], "statistic": "moments"},
            operand_axes=tuple(each.axes for each in figures),
        )
        last = replace(last, name=node.name, args={**last.args, "statistics": Ref(joint.name)})
        return [*found, joint, last]

    def _alone(self, number: int) -> Node:
        """The batch norm of one piece alone."""
        args = {k: v for k, v in self.node.args.items() if k not in ("pieces", "number")}
        axes = self.node.operand_axes[number]
        return replace(
            self.node,
            name=f"{self.node.name}.{number}",
            op="aten.batch_norm.default",
            args={"input": self.node.args["pieces"][number], **args},
            axes=axes,
            operand_axes=(axes,),
        )


@dataclass(frozen=True)
class JoinedFigures(Direct):
    """The figures of the union of several sets."""

    @cached_property
    def axes(self) -> Axes:
        return self.node.operand_axes[0]

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        figures = torch.stack(list(tensors))
        return STATISTICS[self.node.args["statistic"]].merge(figures, 0)[0]


rule("spnb.batch_norm_of_piece")(BatchNormOfPiece)
rule("spnb.joined_figures")(JoinedFigures)
