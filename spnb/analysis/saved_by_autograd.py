"""What autograd saves of a call in training, found by calling it once on tensors without memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from ..capture.trainable import may_have_gradient
from ..ir.axes import Axes
from ..ir.node import Node, Ref, Weight, leaves, map_leaves
from ..ir.program import Compute
from ..ir.region import Region
from ..planner.plan import Plan
from ..rules import Rule


@dataclass(frozen=True)
class Saved:
    """What autograd saves of a call.

    Attributes
    ----------
    values
        The values that it saves, of operands and result.
    others
        Bytes of other tensors.
    shown
        The operand of which the result is a view; empty if it is none.
    """

    values: frozenset[str]
    others: int
    shown: str = ""


def saved_by(plan: Plan, node: Node, rule: Rule, step: Compute) -> Saved:
    """Return what autograd saves of a call.

    An operator that needs the values of its operands cannot be tried without them; it is taken to
    save all of its operands and its result.

    Parameters
    ----------
    plan
        The plan.
    node, rule
        The call.
    step
        The region that it computes.
    """
    types = tuple(plan.graph.dtype_of(value) for value in node.operands)
    numbers, others, shown = _tried(_Trial.of(node, rule, step, types, plan.graph.dtype))
    names = (*node.operands, node.name)
    values = frozenset(names[number] for number in numbers)
    return Saved(values, others, "" if shown is None else names[shown])


@dataclass(frozen=True)
class _Trial:
    """A call to try; calls of equal layers over equal regions are equal, so one is tried."""

    op: str
    args: str
    axes: tuple[Axes, ...]
    types: tuple[torch.dtype, ...]
    clipped: tuple[Region, ...]
    region: Region
    weights_type: torch.dtype
    node: Node = field(compare=False)
    rule: Rule = field(compare=False)
    step: Compute = field(compare=False)

    @classmethod
    def of(
        cls,
        node: Node,
        rule: Rule,
        step: Compute,
        types: tuple[torch.dtype, ...],
        weights_type: torch.dtype,
    ) -> _Trial:
        args = repr({name: map_leaves(_nameless, arg) for name, arg in node.args.items()})
        known = (node.op, args, node.operand_axes, types, step.clipped, step.region, weights_type)
        return cls(*known, node, rule, step)


def _nameless(leaf: Any) -> Any:
    """What of an argument a trial depends on."""
    if isinstance(leaf, Ref):
        return "value"
    return leaf.shape if isinstance(leaf, Weight) else leaf


@lru_cache(maxsize=4096)
def _tried(trial: _Trial) -> tuple[frozenset[int], int, int | None]:
    """The numbers of the operands that are saved, one more for the result; the bytes of others;
    and the number of the operand that the result shows."""
    result = len(trial.axes)
    try:
        operands, known, saved = _saved_in(trial)
    except Exception:  # whatever an operator raises without values
        return frozenset(range(result + 1)), 0, None
    numbers = {_number_of(tensor): k for k, tensor in enumerate(operands)}
    shown = next((numbers[number] for number in known if number in numbers), None)
    if shown is None:
        numbers |= dict.fromkeys(known, result)
    others = sum(size for number, size in saved.items() if number not in numbers)
    return frozenset(numbers[number] for number in saved if number in numbers), others, shown


def _saved_in(trial: _Trial) -> tuple[list[torch.Tensor], set[int], dict[int, int]]:
    """The operands, the memory of the result, and the bytes that autograd saves by memory."""
    weights = {w.name: _empty(w.shape, trial.weights_type) for w in trial.node.weights}
    step, rule = trial.step, trial.rule
    padded = rule.padded(step.clipped[0], step.region) if step.clipped else None
    regions = step.clipped if padded is None else (padded.region, *step.clipped[1:])
    given = zip(trial.axes, regions, trial.types, strict=True)
    operands = [_empty(axes.local_shape(region), dtype) for axes, region, dtype in given]
    saved: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[_number_of(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.enable_grad(), saved_tensors_hooks(pack, lambda tensor: tensor):
        if padded is None:
            found = rule.apply(operands, step.needs, step.region, weights)
        else:
            found = padded.bound(weights)(*operands)
    for weight in weights.values():
        saved.pop(_number_of(weight), None)
    known = {_number_of(each) for each in leaves(found) if isinstance(each, torch.Tensor)}
    return operands, known, saved


def _empty(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    has = may_have_gradient(dtype)
    return torch.empty(tuple(shape), dtype=dtype, device="meta", requires_grad=has)


def _number_of(tensor: torch.Tensor) -> int:
    """A number that tensors in the same memory have in common."""
    return tensor.untyped_storage()._cdata
