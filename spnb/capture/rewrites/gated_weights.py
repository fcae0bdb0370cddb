"""Attention whose weights are mixed with weights that are known before the network runs.

A gate between content and position (d'Ascoli et al., *ConViT*, 2021) scales the weights of each
head, adds weights of positions alone, and may divide by the sum of both.  All of this is linear in
the weights, so it is done to the result of attention::

    ((f · softmax(q kᵀ) + c) / sum over keys) @ v  =  (f · attention(q, k, v) + c @ v) / (f + c 1)

The product with the known weights ``c`` sums over positions: each tile multiplies its own values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ...ir.node import Node, Ref, Weight
from .added_calls import AddedCalls
from .products import Tensor


@dataclass
class Gate:
    """What is done to the weights of attention after the softmax.

    Attributes
    ----------
    factors
        Weights are multiplied by these, which are the same for all keys.
    summand
        Known weights that are added then.
    normalized
        Whether the sum is divided by its own sum over the keys.
    """

    factors: list[Weight] = field(default_factory=list)
    summand: Weight | None = None
    normalized: bool = False

    def takes(self, node: Node, last: Node) -> bool:
        """Whether a call that reads the last one changes the weights so; then it is recorded."""
        if node.kind not in ("mul", "add") or self.summand is not None or node.shape != last.shape:
            return False
        mine = node.args["self"] == Ref(last.name)
        other = node.args["other" if mine else "self"]
        if not isinstance(other, Weight):
            return False
        if node.kind == "mul":
            fits = len(other.shape) <= len(node.shape) and other.shape[-1:] in ((), (1,))
            self.factors += [other] * fits
            return fits
        if node.args["alpha"] != 1 or other.shape[-2:] != node.shape[-2:]:
            return False
        self.summand = other
        return True

    @property
    def changes(self) -> bool:
        """Whether anything is done."""
        return bool(self.factors) or self.summand is not None

    def result(self, calls: AddedCalls, attention: Tensor, value: Tensor) -> Tensor:
        """The result of attention by the changed weights.

        Parameters
        ----------
        calls
            The calls so far.
        attention
            The result by the weights themselves.
        value
            The values.
        """
        shape, known = calls.shape(attention), self.summand
        for number, factor in enumerate(self.factors):
            args = {"self": attention, "other": factor}
            attention = calls.add(f"gated{number}", "aten.mul.Tensor", args, shape)
        if known is None:
            return attention
        product = calls.add(
            "by_known", "aten.matmul.default", {"self": known, "other": value}, shape
        )
        both = calls.sum("both", attention, product, shape)
        if not self.normalized:
            return both
        sums = (*known.shape[:-1], 1)
        over_keys = {"self": known, "dim": [-1], "keepdim": True, "dtype": None}
        total = calls.add("sum_of_known", "aten.sum.dim_IntList", over_keys, sums)
        ones = calls.add("ones", "aten.ones_like.default", _like(total), sums)
        for number, factor in enumerate(self.factors):
            args = {"self": ones, "other": factor}
            ones = calls.add(f"share{number}", "aten.mul.Tensor", args, sums)
        total = calls.sum("total", ones, total, sums)
        return calls.add("normalized", "aten.div.Tensor", {"self": both, "other": total}, shape)


def division_by_own_sum(last: Node, readers: Callable[[Node], list[Node | None]]) -> list[Node]:
    """The calls that divide a value by its sum over the last dimension; empty if others read it.

    Parameters
    ----------
    last
        The call that gives the value.
    readers
        Gives the calls that read the result of a call; None stands for the outputs.
    """
    reading = [node for node in readers(last) if node is not None]
    if len(reading) != len(readers(last)) or sorted(n.kind for n in reading) != ["div", "sum"]:
        return []
    divided, summed = sorted(reading, key=lambda node: node.kind)
    calls = [summed]
    if [node and node.kind for node in readers(summed)] == ["unsqueeze"]:
        calls += [node for node in readers(summed) if node is not None]
    along = [d % len(last.shape) for d in summed.args.get("dim") or ()]
    kept = calls[-1].shape == (*last.shape[:-1], 1) and along == [len(last.shape) - 1]
    by_sum = divided.args["self"] == Ref(last.name) and readers(calls[-1]) == [divided]
    plain = divided.args.get("rounding_mode") is None and divided.dtype == last.dtype
    return [*calls, divided] if kept and by_sum and plain else []


def _like(tensor: Tensor) -> dict[str, object]:
    """Arguments of a call that makes a tensor like another one."""
    names = ("dtype", "layout", "device", "pin_memory", "memory_format")
    return {"self": tensor, **dict.fromkeys(names)}
