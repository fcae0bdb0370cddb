"""Attention whose heads are mixed, before the softmax or after it, as attention that is not mixed.

Each head has a weighted sum of the scores of all heads, or of their weights (Shazeer et al.,
*Talking-heads attention*, 2020).  Both sums move out of the softmax, so that the keys of tiles go
round as ever, and no score is ever sent::

    scores    sum_h m[g, h] (q_h · k_h)     =  (m[g, 1] q_1 │ m[g, 2] q_2 │ …) · (k_1 │ k_2 │ …)
    weights   (sum_h m[g, h] w_h) @ v_g     =  sum_h m[g, h] (w_h @ v_g)

In both, all heads share one head of keys or values, with the channels of all of them.  So as much
is sent as without mixing, but products take as many times longer as there are heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.node import Node, Ref, Weight
from ...rules.matmul import Labels
from .added_calls import AddedCalls
from .products import Factors, Tensor

BATCH = "abcd"
"""Letters for the dimensions before the heads, in equations."""


@dataclass(frozen=True)
class Mixing:
    """A call that gives each head a weighted sum over all heads, and perhaps adds a number.

    Attributes
    ----------
    node
        The call.
    label
        The label of the heads' dimension.
    matrix, term
        The weights, and a letter for each of their dimensions: ``g`` for a head of the result,
        ``h`` for one of the operand.
    bias
        What is added to each head of the result.
    """

    node: Node
    label: str
    matrix: Weight
    term: str
    bias: Weight | None = None

    @classmethod
    def of(cls, node: Node, last: Node, labels: Labels) -> Mixing | None:
        """The mixing that a call does; None if it does something else.

        Parameters
        ----------
        node
            The call.
        last, labels
            The call whose result it reads, and the labels of the result's dimensions.
        """
        given = _mixing(node, last)
        if given is None or node.dtype != last.dtype:
            return None
        number, matrix, term, bias = given
        heads = last.shape[number]
        square = matrix.shape == tuple(heads if letter in "gh" else 1 for letter in term)
        if not square or node.shape != last.shape or len(labels) - 3 > len(BATCH):
            return None
        return cls(node, labels[number], matrix, term, bias)

    def mixed_queries(self, calls: AddedCalls, query: Tensor) -> Tensor:
        """The queries of each head: those of all heads, times the head's weights of them."""
        *batch, heads, tokens, channels = calls.shape(query)
        before = BATCH[: len(batch)]
        shape = (*batch, heads, tokens, heads, channels)
        equation = f"{before}hnd,{self.term}->{before}gnhd"
        found = calls.einsum("queries", equation, (query, self.matrix), shape)
        return calls.view("mixed_queries", found, (*batch, heads, tokens, heads * channels))

    def takes_bias(self, shape: Sequence[int]) -> bool:
        """Whether a bias of the scores has a dimension of heads."""
        return len(shape) > 2 and shape[-3] == self.matrix.shape[0]

    def mixed_bias(self, calls: AddedCalls, bias: Tensor | None) -> Tensor | None:
        """The bias of mixed scores, from the bias of scores; None if there is none."""
        if bias is not None:
            shape = calls.shape(bias)
            before = BATCH[: len(shape) - 3]
            equation = f"{before}hmn,{self.term}->{before}gmn"
            bias = calls.einsum("mixed_bias", equation, (bias, self.matrix), shape)
        if self.bias is None:
            return bias
        own = calls.view("own_bias", self.bias, (*self.bias.shape, 1, 1))
        return own if bias is None else calls.sum("bias", bias, own, calls.shape(bias))

    def result(self, calls: AddedCalls, attention: Tensor, value: Tensor) -> Tensor:
        """The attention by mixed weights.

        Parameters
        ----------
        calls
            The calls so far.
        attention
            That of each head over the values of all heads.
        value
            The values, each head's its own.
        """
        *batch, heads, _, channels = calls.shape(value)
        tokens, before = calls.shape(attention)[-2], BATCH[: len(batch)]
        each = (*batch, heads, tokens, heads, channels)
        shape = (*batch, heads, tokens, channels)
        found = calls.view("of_each_head", attention, each)
        equation = f"{before}hngd,{self.term}->{before}gnd"
        found = calls.einsum("mixed", equation, (found, self.matrix), shape)
        if self.bias is None:
            return found
        # The number that is added to each weight adds the sum of all values.
        equation = f"{before}gnd,g->{before}gd"
        own = calls.einsum("sums", equation, (value, self.bias), (*batch, heads, channels))
        own = calls.view("own", own, (*batch, heads, 1, channels))
        return calls.sum("mixed_and_own", found, own, shape)


def of_all_heads(calls: AddedCalls, tensor: Tensor, name: str) -> Tensor:
    """One head that has the channels of all heads, for the same tokens."""
    *batch, heads, tokens, channels = calls.shape(tensor)
    count = len(batch)
    order = [*range(count), count + 1, count, count + 2]
    found = calls.permuted(f"{name}.by_token", tensor, order)
    return calls.view(f"{name}.of_all", found, (*batch, 1, tokens, heads * channels))


def _mixing(node: Node, last: Node) -> tuple[int, Weight, str, Weight | None] | None:
    """The mixed dimension, the weights with the letters of their dimensions, and the bias."""
    if node.kind in ("linear", "conv2d") and node.args["input"] == Ref(last.name):
        matrix, bias = node.args["weight"], node.args["bias"]
        if not isinstance(matrix, Weight) or not isinstance(bias, (Weight, type(None))):
            return None
        if node.kind == "linear":
            return len(last.shape) - 1, matrix, "gh", bias
        pointwise = math.prod(matrix.shape[2:]) == 1 and node.args["groups"] == 1
        return (1, matrix, "ghyz", bias) if pointwise else None
    factors = Factors.of(node)
    if factors is None or factors.summand is not None:
        return None
    weights, matrix = factors.first, factors.second.tensor
    term = factors.second.labels
    if isinstance(weights.tensor, Weight):
        weights, matrix, term = factors.second, factors.first.tensor, factors.first.labels
    if weights.tensor != Ref(last.name) or not isinstance(matrix, Weight) or len(term) != 2:
        return None
    summed = [label for label in term if label in weights.labels]
    if len(summed) != 1 or summed[0] in factors.result:
        return None
    number = weights.labels.index(summed[0])
    (new,) = (label for label in term if label != summed[0])
    wanted = tuple(new if k == number else label for k, label in enumerate(weights.labels))
    letters = "".join("h" if label == summed[0] else "g" for label in term)
    return (number, matrix, letters, None) if factors.result == wanted else None
