"""Takes operators without a rule apart, into PyTorch's own definitions by simpler operators."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ..ir.graph import Graph
from ..ir.node import overload
from ..kernels.compat import decomposition_of
from ..rules import rule_of

Table = Mapping[Any, Callable[..., Any]]
"""How each of some operators is computed by others."""

MOST_TURNS = 4
"""How often parts are taken apart again."""
_further: dict[tuple[str, ...], frozenset[str]] = {}
"""What had to be taken apart besides some operators, the last time: each turn takes 0.1 s."""


def taken_apart(graph: Graph, again: Callable[[Table], Graph]) -> Graph:
    """The same network with fewer calls that have no rule, where PyTorch's definitions allow it.

    Parameters
    ----------
    graph
        The network as it was captured.
    again
        Captures the network with some operators taken apart.

    Examples
    --------
    `spnb.capture.export.capture` calls it; ``hypot`` becomes a root of squares.
    """
    operators = _without_rule(graph)
    if not operators:
        return graph
    best = _with_parts_of(operators, graph, again)
    if _without_rule(best) and len(operators) > 1:  # some are better left whole
        helped = [op for op in operators if _with_parts_of([op], graph, again) is not graph]
        best = _with_parts_of(helped, graph, again)
    return best


def _with_parts_of(
    operators: Iterable[str], graph: Graph, again: Callable[[Table], Graph]
) -> Graph:
    """The network with operators taken apart; or as it was, if that leaves as many without rule."""
    table: dict[Any, Callable[..., Any]] = {}
    known, present = tuple(operators), _without_rule(graph)
    found, waiting = graph, [*known, *_further.get(known, frozenset()).difference(present)]
    for _ in range(MOST_TURNS):
        more = {overload(op): decomposition_of(overload(op)) for op in waiting}
        more = {op: parts for op, parts in more.items() if parts and op not in table}
        if not more:
            break
        table |= more  # type: ignore[arg-type]
        try:
            found = again(table)
        except Exception:  # a definition that asks for values, or calls what capture refuses
            return graph
        waiting = [op for op in _without_rule(found) if op not in present]
        _further[known] = _further.get(known, frozenset()).union(waiting)
    return found if _count(found) < _count(graph) else graph


def _without_rule(graph: Graph) -> list[str]:
    """The operators of a network that have no rule, each once."""
    nodes = (node for node in graph.nodes if node.op.startswith("aten."))
    return list(dict.fromkeys(node.op for node in nodes if not rule_of(node).known))


def _count(graph: Graph) -> int:
    """The number of calls without a rule."""
    return sum(not rule_of(node).known for node in graph.nodes)
