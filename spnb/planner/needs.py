"""What each tile of a stage owns, computes and needs of every value.

Needs are traced backwards, one operator at a time, axis by axis: a grid of 64 × 64 tiles costs
128 spans a value, not 4,096 regions.

Where a need reaches past what a tile owns there are two ways to meet it.  Either the value is an
*exchange point*: computed on the tile alone, then exchanged up to the need.  Or it is not: computed
on the whole need, redundantly, and the need passes on to its operands::

    exchange before every window op           exchange once for two (fused)
    x ══╗halo                                 x ════╗ halo of both
        conv ─ y ══╗halo                            conv (on the need of the next) ─ y
                   conv ─ z                                                          conv ─ z
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

from ..ir.axes import Extent
from ..ir.exchange import Spans
from ..ir.graph import Graph
from ..ir.node import Node
from ..ir.region import Span, Tiling, intersect, join, length
from ..rules import Rule, rule_of


@dataclass(frozen=True)
class StageNeeds:
    """Spans of every value of a stage, for every part of its grid.

    Attributes
    ----------
    own
        An exact cover of the value's extent: even cuts of it, for nearly every operator.
    computed
        What a tile computes; values that nobody reads are absent.
    need
        What a tile needs in hand, own or not: union over the readers in this stage.
    points
        Exchange points: values computed on the tile alone and exchanged up to the need.
    """

    own: Mapping[str, Spans]
    computed: Mapping[str, Spans]
    need: Mapping[str, Spans]
    points: frozenset[str]

    def merged(self, grid: Sequence[int]) -> StageNeeds:
        """The layout of tiles that are each a grid of the parts of this one."""

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
    tiling: Tiling,
    batch: int,
    exported: Collection[str],
    groups: Mapping[str, int] | None,
) -> StageNeeds:
    """Trace the needs of a stage backwards.

    Parameters
    ----------
    nodes
        The stage's operator calls, in order of execution.
    tiling
        The stage's grid over ``(batch, *spatial)``.
    batch
        Images in the micro-batch.
    exported
        Values that other stages or the user need: every tile computes what it owns of them.
    groups
        With fused halos, the group of blocks that computes each value: only values that cross
        into another group are exchanged.  ``None``: every value may be.
    """
    own: dict[str, Spans] = {}
    computed: dict[str, Spans] = {}
    want: dict[str, Spans] = {}
    points: set[str] = set()
    readers: dict[str, set[int]] = {}
    for node in reversed(nodes):
        name, rule = node.name, rule_of(node)
        images = tiling.spans(extent_in(graph, name, batch))[0]
        own[name] = (images, *rule.own(tiling)[1:])
        wanted = want.get(name)
        if wanted is None and name not in exported:
            continue
        crosses = groups is None or rule.owner_computes or readers.get(name, set()) - {groups[name]}
        if wanted is not None and crosses and not _inside(wanted, own[name]):
            points.add(name)
            computed[name] = own[name]
        elif rule.owner_computes:
            computed[name] = own[name]
        elif name in exported:
            computed[name] = _hull(own[name], wanted)
        else:
            computed[name] = wanted
            if _nearly(wanted, own[name]):
                needs = operand_needs(graph, node, rule, own[name], batch)
                extents = (extent_in(graph, operand, batch) for operand in node.operands)
                if all(map(_inside, needs, map(tiling.spans, extents))):
                    computed[name] = own[name]  # a row more, of nobody else's: tiles stay alike
        for operand, spans in zip(
            node.operands, operand_needs(graph, node, rule, computed[name], batch), strict=True
        ):
            want[operand] = _hull(spans, want.get(operand))
            if groups is not None:
                readers.setdefault(operand, set()).add(groups[name])
    return StageNeeds(own, computed, want, frozenset(points))


def operand_needs(graph: Graph, node: Node, rule: Rule, computed: Spans, batch: int) -> list[Spans]:
    """Spans of each operand, clipped to its extent, that the computed spans of a node read."""
    needs = []
    for index, operand in enumerate(node.operands):
        extent = extent_in(graph, operand, batch)
        spans = []
        for axis, n in enumerate(extent):
            parts = (needed(rule, index, axis, part) for part in computed[axis])
            spans.append(tuple(intersect(part, (0, n)) for part in parts))
        needs.append(tuple(spans))
    return needs


def needed(rule: Rule, operand: int, axis: int, span: Span) -> Span:
    """Span of an operand, not clipped, that a span of the result reads."""
    return rule.need(operand, axis, span) if length(span) else (0, 0)


def _inside(spans: Spans, own: Spans) -> bool:
    return all(
        length(span) == 0 or intersect(span, mine) == span
        for axis, owned in zip(spans, own, strict=True)
        for span, mine in zip(axis, owned, strict=True)
    )


def _nearly(spans: Spans, own: Spans) -> bool:
    """Whether spans are all but a 20th of what tiles own, and nothing else, as under a stride."""
    pairs = [pair for axes in zip(spans, own, strict=True) for pair in zip(*axes, strict=True)]
    return _inside(spans, own) and all(20 * length(s) >= 19 * length(o) for s, o in pairs)


def _hull(a: Spans, b: Spans | None) -> Spans:
    if b is None:
        return a
    return tuple(tuple(map(join, x, y)) for x, y in zip(a, b, strict=True))
