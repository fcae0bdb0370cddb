"""The calls by which a network computes attention: from the scores to the product with the values.

`AttentionChain` follows a product of queries and keys from reader to reader.  Dimensions have
labels, so it does not matter in which order a network has them, and which product it calls::

    q @ k.transpose(-2, -1)  ─  · scale  ─  + bias  ─  masked  ─  softmax  ─  @ v
    [query, key]                                                              [query, out]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ...ir.node import Node, Ref, Weight
from ...rules.dropout import DROPOUTS
from ...rules.matmul import Labels
from ...rules.views import PERMUTES, VIEWS, order_of
from .added_biases import Added
from .gated_weights import Gate, division_by_own_sum
from .mixed_heads import Mixing
from .products import Factors, Labelled, Tensor

SAME = ("alias", "clone", "contiguous")
"""Operators that give their operand."""

CASTS = ("to", "_to_copy")
"""Operators that may change the type."""


@dataclass(frozen=True)
class Readers:
    """The calls that read each value, of those that the outputs of a network depend on.

    Attributes
    ----------
    made
        Each call by the name of its value.
    of
        By value, the calls that read it, once for each time; None stands for the outputs.
    """

    made: Mapping[str, Node]
    of: Mapping[str, Sequence[Node | None]]

    @classmethod
    def among(cls, nodes: Sequence[Node], returned: Iterable[object]) -> Readers:
        """The readers among some calls, in order, of a network that returns some leaves."""
        found: dict[str, list[Node | None]] = {}
        for leaf in returned:
            if isinstance(leaf, Ref):
                found.setdefault(leaf.value, []).append(None)
        for node in reversed(nodes):
            if node.name in found:
                for value in node.operands:
                    found.setdefault(value, []).append(node)
        return cls({node.name: node for node in nodes if node.name in found}, found)

    def only(self, node: Node) -> Node | None:
        """The only call that reads a value; None if there are several, or if it is returned."""
        readers = self.of.get(node.name, ())
        return readers[0] if len(readers) == 1 else None


@dataclass
class AttentionChain:
    """A chain of calls, as far as it was followed, and what they do to the scores.

    Attributes
    ----------
    readers
        The readers of each value.
    nodes
        The calls, in order.
    scores
        The product of queries and keys.
    labels
        Labels of the dimensions of the last call's result.
    softmax
        The label that the softmax runs over; it is that of the keys.
    scale
        Factor of the scores.
    scaled_by
        Calls that multiply the scores by a tensor or divide them, with this tensor.
    added, masked, fill
        What is added to the scores, and where they are replaced by which number, in this order.
    mixed_scores, mixed_weights
        How heads are mixed before the softmax, and after it.
    gate
        What else is done to the weights after the softmax.
    values
        The values.
    """

    readers: Readers
    nodes: list[Node]
    scores: Factors
    labels: Labels
    softmax: str | None = None
    scale: float = 1.0
    scaled_by: list[tuple[Node, Tensor]] = field(default_factory=list)
    added: Added = field(default_factory=Added)
    masked: Tensor | None = None
    fill: float = 0.0
    mixed_scores: Mixing | None = None
    mixed_weights: Mixing | None = None
    gate: Gate = field(default_factory=Gate)
    values: Labelled | None = None

    @classmethod
    def begun_by(cls, node: Node, readers: Readers) -> AttentionChain | None:
        """The chain that begins with a call; None if that is no product of two tensors."""
        factors = Factors.of(node) if node.name in readers.made else None
        if factors is None:
            return None
        chain = cls(readers, [node], factors, factors.result)
        if node.kind == "baddbmm":
            if node.args["beta"] not in (0, 1):
                return None
            chain.scale = float(node.args["alpha"])
            if factors.summand is not None and node.args["beta"]:
                chain.added.tensors.append((factors.summand, node.shape))
        return chain

    def reaches_values(self) -> bool:
        """Follow the chain; return whether it leads over a softmax to a product with values."""
        while self.values is None:
            node = self.readers.only(self.nodes[-1])
            if node is None and (divided := self._normalized()):
                self.nodes += divided
            elif node is None or not self._takes(node):
                return False
            else:
                self.nodes.append(node)
        return True

    def _normalized(self) -> list[Node]:
        """The calls that divide the weights by their sum over the keys; empty if none do."""
        last, gate = self.nodes[-1], self.gate
        if gate.summand is None or gate.normalized or self.labels[-1] != self.softmax:
            return []
        found = division_by_own_sum(last, lambda node: list(self.readers.of.get(node.name, ())))
        gate.normalized = bool(found)
        return found

    @property
    def changes_scores(self) -> bool:
        """Whether scores or weights are changed by tensors, and not only by a number."""
        by_tensors = self.masked is not None or self.gate.changes
        return bool(self.scaled_by or self.added.tensors) or by_tensors

    @property
    def mixings(self) -> list[Mixing]:
        """The calls that mix heads."""
        return [each for each in (self.mixed_scores, self.mixed_weights) if each is not None]

    # --- one call after another -------------------------------------------------------------------

    def _takes(self, node: Node) -> bool:
        """Whether a call belongs to the chain; if so, what it does is recorded."""
        if node.kind in SAME or (node.kind == "expand" and node.shape == self.nodes[-1].shape):
            return True
        if node.kind in CASTS:
            return self.softmax is not None or self._is_no_rounding(node)
        if node.kind in DROPOUTS:
            return not node.args["train"] or not node.args["p"]
        if self.added.in_a_view or node.kind in VIEWS:
            return self._takes_in_a_view(node)
        if node.kind in PERMUTES:
            self.labels = tuple(self.labels[k] for k in order_of(node))
            return True
        if self._takes_mixing(node):
            return True
        if self.softmax is not None:
            gated = self.mixed_weights is None and self.gate.takes(node, self.nodes[-1])
            return gated or self._takes_values(node)
        if node.kind == "softmax" and self._is_no_rounding(node):
            self.softmax = self.labels[node.args["dim"]]
            return True
        unchanged = node.shape == self.nodes[-1].shape and self.labels == self.scores.result
        takes = {
            "mul": self._takes_factor,
            "div": self._takes_factor,
            "add": self._takes_bias,
            "masked_fill": self._takes_mask,
        }.get(node.kind)
        return unchanged and takes is not None and takes(node)

    def _takes_in_a_view(self, node: Node) -> bool:
        """A view of the scores, an addition to it, or the view that gives their shape again."""
        others = (self.masked, self.mixed_scores, self.softmax)
        if others != (None, None, None) or self.labels != self.scores.result:
            return False
        if node.kind in VIEWS:
            self.added.in_a_view = node.shape != self.nodes[0].shape
            return True
        return node.kind == "add" and node.shape == self.nodes[-1].shape and self._takes_bias(node)

    def _takes_mixing(self, node: Node) -> bool:
        """A sum over heads, of which there is at most one before the softmax and one after it."""
        mixing = Mixing.of(node, self.nodes[-1], self.labels)
        if mixing is None or mixing.label == self.softmax:
            return False
        if self.softmax is not None:
            free = self.mixed_weights is None and not self.gate.changes
            self.mixed_weights = self.mixed_weights or mixing
            return free
        if self.mixed_scores is not None or self.masked is not None:
            return False
        self.mixed_scores = mixing
        return True

    def _takes_factor(self, node: Node) -> bool:
        """A multiplication or division, by a number or by a tensor without queries and keys."""
        changed = self.added.tensors or (self.masked, self.mixed_scores) != (None, None)
        if changed or node.args.get("rounding_mode"):
            return False
        mine, other = self._is_last(node.args["self"]), self._other(node)
        if node.kind == "div" and not mine:
            return False
        if isinstance(other, (int, float)):
            self.scale = self.scale * other if node.kind == "mul" else self.scale / other
            return True
        if not isinstance(other, (Ref, Weight)) or any(n > 1 for n in _shape(node, other)[-2:]):
            return False
        self.scaled_by.append((node, other))
        return True

    def _takes_bias(self, node: Node) -> bool:
        """An addition of a tensor."""
        other = self._other(node)
        changed = (self.masked, self.mixed_scores) != (None, None)
        if changed or node.args["alpha"] != 1:
            return False
        if not isinstance(other, (Ref, Weight)):
            return False
        self.added.tensors.append((other, node.shape))
        return True

    def _takes_mask(self, node: Node) -> bool:
        """A choice of another score where a mask is true."""
        mask, value = node.args["mask"], node.args["value"]
        if self.masked is not None or not self._is_last(node.args["self"]):
            return False
        if not isinstance(mask, (Ref, Weight)) or not isinstance(value, (int, float)):
            return False
        self.masked, self.fill = mask, float(value)
        return True

    def _takes_values(self, node: Node) -> bool:
        """A product with the values."""
        factors = Factors.of(node)
        if factors is None or factors.summand is not None:
            return False
        weights, values = factors.first, factors.second
        if self._is_last(values.tensor):
            weights, values = values, weights
        if not self._is_last(weights.tensor) or self._is_last(values.tensor):
            return False
        here = dict(zip(weights.labels, self.labels, strict=True))
        self.values = Labelled(values.tensor, tuple(here.get(n, "out") for n in values.labels))
        self.labels = tuple(here.get(label, "out") for label in factors.result)
        return True

    def _is_no_rounding(self, node: Node) -> bool:
        """Whether a call has the type of the last value, or a wider one."""
        before = self.nodes[-1].dtype
        return node.dtype.is_floating_point and node.dtype.itemsize >= before.itemsize

    def _is_last(self, leaf: object) -> bool:
        """Whether an argument is the last value of the chain."""
        return isinstance(leaf, Ref) and leaf.value == self.nodes[-1].name

    def _other(self, node: Node) -> object:
        """The argument of a call beside the last value of the chain."""
        return node.args["other" if self._is_last(node.args["self"]) else "self"]


def _shape(node: Node, tensor: Tensor) -> tuple[int, ...]:
    """Shape of a tensor among a call's arguments."""
    if isinstance(tensor, Weight):
        return tensor.shape
    return node.operand_shapes[node.operands.index(tensor.value)]
