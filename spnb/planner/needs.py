"""The spans of every value that each tile of a stage owns, computes and needs.

Needs are traced backwards, one operator at a time, axis by axis: a grid of 64 × 64 tiles costs
128 spans per value, not 4,096 regions.

A need may be larger than the region that the tile owns.  Then either the value is an *exchange
point*: each tile computes the region that it owns, and an exchange brings the rest of its need.  Or
it is not: each tile computes its whole need, some of it redundantly, and so needs more of the
operands::

    exchange before every window op           exchange once for two (fused)
    x ══╗halo                                 x ════╗ halo of both
        conv ─ y ══╗halo                            conv (on the need of the next) ─ y
                   conv ─ z                                                          conv ─ z
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from ..ir.axes import Extent
from ..ir.exchange import Spans
from ..ir.graph import Graph
from ..ir.node import Node
from ..ir.region import Region, Span, intersect, join, length
from ..ir.tiling import Tiling
from ..rules import Rule, rule_of


@dataclass(frozen=True)
class StageNeeds:
    """Spans of every value of a stage, for each tile or patch of its grid, axis by axis.

    Attributes
    ----------
    own
        Spans that a tile owns.  Those of all tiles are an exact cover of the value's extent, cut
        evenly for nearly every operator.
    computed
        Spans that a tile computes; values that no call reads are absent.
    need
        The smallest spans that contain everything that the calls of a tile read, owned or not.
    points
        Exchange points: of these values a tile computes what it owns, and receives the rest.
    """

    own: Mapping[str, Spans]
    computed: Mapping[str, Spans]
    need: Mapping[str, Spans]
    points: frozenset[str]

    def merged(self, grid: Sequence[int]) -> StageNeeds:
        """The needs of tiles, from these needs of their patches.

        Parameters
        ----------
        grid
            Number of patches of a tile along each axis of ``(batch, *spatial)``.
        """

        def merge(values: Mapping[str, Spans]) -> dict[str, Spans]:
            return {
                value: tuple(
                    tuple(reduce(join, axis[k : k + n]) for k in range(0, len(axis), n))
                    for axis, n in zip(spans, grid, strict=True)
                )
                for value, spans in values.items()
            }

        own, computed, need = map(merge, (self.own, self.computed, self.need))
        return StageNeeds(own, computed, need, self.points)


def extent_in(graph: Graph, value: str, batch: int) -> Extent:
    """Extent of a value when the network runs on a micro-batch of ``batch`` images."""
    images, *space = graph.extent(value)
    return (images if images % graph.batch else images * batch // graph.batch, *space)


def trace_needs(
    graph: Graph,
    nodes: Sequence[Node],
    *,
    tiling: Tiling,
    batch: int,
    exported: Collection[str],
    groups: Mapping[str, int] | None,
) -> StageNeeds:
    """Trace the needs of a stage backwards.

    Parameters
    ----------
    graph
        The network.
    nodes
        The stage's operator calls, in order of execution.
    tiling
        The stage's grid over ``(batch, *spatial)``.
    batch
        Images in the micro-batch.
    exported
        Values that other stages or the user need; every tile computes the region of them that it
        owns.
    groups
        With fused halos, the group of blocks that computes each value; only values that another
        group reads are exchanged.  ``None``: every value may be exchanged.
    """
    own: dict[str, Spans] = {}
    computed: dict[str, Spans] = {}
    need: dict[str, Spans] = {}
    points: set[str] = set()
    reading_groups: dict[str, set[int]] = defaultdict(set)
    for node in reversed(nodes):
        name, rule = node.name, rule_of(node)
        images = tiling.spans(extent_in(graph, name, batch))[0]
        own[name] = (images, *rule.own(tiling)[1:])
        wanted = need.get(name)
        if wanted is None and name not in exported:
            continue
        may_be_point = groups is None or reading_groups[name] - {groups[name]}
        reaches_out = wanted is not None and not _inside(wanted, own[name])
        if reaches_out and (rule.owner_computes or may_be_point):
            points.add(name)
        if name in points or rule.owner_computes:
            computed[name] = own[name]
        elif name in exported or wanted is None:
            computed[name] = _hull(own[name], wanted)
        else:
            computed[name] = _rounded_up(graph, node, wanted, own[name], tiling, batch)
        spans_read = operand_needs(graph, node, rule, computed[name], batch)
        for operand, spans in zip(node.operands, spans_read, strict=True):
            need[operand] = _hull(spans, need.get(operand))
            if groups is not None:
                reading_groups[operand].add(groups[name])
    return StageNeeds(own, computed, need, frozenset(points))


def _rounded_up(
    graph: Graph, node: Node, wanted: Spans, own: Spans, tiling: Tiling, batch: int
) -> Spans:
    """Spans of a value that tiles compute: the wanted ones, or all they own if that is little more.

    With a stride, the last row or column of some tiles may not be wanted.  Computing it keeps the
    tiles equal in shape.  It is done only if it needs nothing of an operand that other tiles own.
    """
    if not _nearly(wanted, own):
        return wanted
    needs = operand_needs(graph, node, rule_of(node), own, batch)
    owned = (tiling.spans(extent_in(graph, operand, batch)) for operand in node.operands)
    return own if all(map(_inside, needs, owned)) else wanted


def operand_needs(graph: Graph, node: Node, rule: Rule, computed: Spans, batch: int) -> list[Spans]:
    """Spans of each operand, clipped to its extent, that the computed spans of a node read."""
    needs = []
    for index, operand in enumerate(node.operands):
        extent = extent_in(graph, operand, batch)
        spans = []
        for axis, n in enumerate(extent):
            read = (needed(rule, index, axis, span) for span in computed[axis])
            spans.append(tuple(intersect(span, (0, n)) for span in read))
        needs.append(tuple(spans))
    return needs


def needed(rule: Rule, operand: int, axis: int, span: Span) -> Span:
    """Span of an operand, not clipped, that a span of the result reads."""
    return rule.need(operand, axis, span) if length(span) else (0, 0)


class OperandRegions:
    """The regions of its operands that a region of a call reads.

    A rule is asked once for each span; ranks in one row or column of a grid share the answer.
    """

    def __init__(self) -> None:
        self._spans: dict[str, dict[tuple[int, int, Span], Span]] = defaultdict(dict)

    def read_by(self, node: Node, region: Region) -> tuple[Region, ...]:
        """Return the region of each operand, not clipped, that a region of the result reads."""
        rule, known = rule_of(node), self._spans[node.name]
        found = []
        for index in range(len(node.operands)):
            spans = []
            for key in ((index, axis, span) for axis, span in enumerate(region.spans)):
                if key not in known:
                    known[key] = needed(rule, *key)
                spans.append(known[key])
            found.append(Region(tuple(spans)))
        return tuple(found)


def _inside(spans: Spans, own: Spans) -> bool:
    return all(
        length(span) == 0 or intersect(span, owned) == span
        for along, owned_along in zip(spans, own, strict=True)
        for span, owned in zip(along, owned_along, strict=True)
    )


def _nearly(spans: Spans, own: Spans) -> bool:
    """Whether spans lie inside what tiles own, and lack at most a 20th of it on each axis."""
    pairs = [pair for axes in zip(spans, own, strict=True) for pair in zip(*axes, strict=True)]
    return _inside(spans, own) and all(20 * length(s) >= 19 * length(o) for s, o in pairs)


def _hull(a: Spans, b: Spans | None) -> Spans:
    if b is None:
        return a
    return tuple(tuple(map(join, x, y)) for x, y in zip(a, b, strict=True))
