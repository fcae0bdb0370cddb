"""Tokens that are joined to others: attention over them is one call, as that over positions is.

After a concatenation of differently cut tensors, the tokens of an image are no positions of it any
more.  The plan holds such a concatenation in pieces (see `spnb.planner.pieces`), and attention in
pieces has to be one call.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir.node import Node
from ...rules import Whole, rule_of

CONCATENATIONS = ("cat", "concat", "concatenate")


@dataclass(frozen=True)
class JoinedTokens:
    """What becomes of concatenations that tiles cannot make.

    Attributes
    ----------
    values
        Names of the concatenations, and of all values that are computed from them.
    sizes
        How many tokens the concatenations have.
    """

    values: frozenset[str]
    sizes: frozenset[int]

    @classmethod
    def among(cls, nodes: Sequence[Node]) -> JoinedTokens:
        """Find them among the calls of a network, in order."""
        values, sizes = set[str](), set[int]()
        for node in nodes:
            depends = not values.isdisjoint(node.operands)
            if node.kind in CONCATENATIONS and (depends or isinstance(rule_of(node), Whole)):
                sizes.add(node.shape[node.args["dim"]])
                depends = True
            if depends:
                values.add(node.name)
        return cls(frozenset(values), frozenset(sizes))

    def has(self, keys: str, count: int) -> bool:
        """Whether a value of so many keys may be such tokens."""
        return keys in self.values and count in self.sizes
