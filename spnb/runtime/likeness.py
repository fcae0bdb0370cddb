"""What two programs have in common that give one answer to regions of one colour.

A program that receives nothing from other ranks computes a patch (or a tile with all of its halo)
by itself.  Two such programs compute the same of equal numbers if all of their calls read equally
much, lie in equal places of what they read, and pad by equally much::

    image   ┌──────┬──────┬──────┐
            │ edge │ edge │ edge │   corner, edges, corner: three likenesses
            ├──────┼──────┼──────┤
            │ edge │inside│ edge │   a patch inside is like each other one inside of its size
            └──────┴──────┴──────┘
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from ..ir.exchange import HOST
from ..ir.program import Compute, Free, Keep, Program, Receive, Send
from ..ir.region import Region
from ..rules import Rule


def likeness(program: Program, rules: Sequence[Rule]) -> Hashable:
    """What is equal of two programs that compute the same of equal numbers.

    Parameters
    ----------
    program
        A rank's steps.
    rules
        The rule of each node of the rank's stage.

    Returns
    -------
    Hashable
        None if the program receives from other ranks, reads several regions or none, or if a call
        may depend on where the region lies.
    """
    held: dict[str, Region] = {}
    found: list[Hashable] = []
    if sum(isinstance(step, Receive) for step in program.steps) != 1:
        return None
    for step in program.steps:
        match step:
            case Receive():
                if any(t.source != HOST for t in step.transfers):
                    return None
                held[step.value] = step.region
                found.append(step.region.shape)
            case Compute():
                rule = rules[step.node]
                place = () if step.region.empty else rule.place(step.region)
                if place is None:
                    return None
                operands = (held[value] for value in rule.node.operands)
                reads = [
                    _reads(need, clipped, own)
                    for need, clipped, own in zip(step.needs, step.clipped, operands, strict=True)
                ]
                found.append((step.node, step.region.shape, *reads, step.padding, place))
                held[rule.node.name] = step.region
            case Keep():
                found.append(_within(step.own, held[step.value]))
            case Send():
                found.append(tuple(_within(t.region, held[step.value]) for t in step.transfers))
            case Free():
                pass
    return tuple(found)


def _reads(need: Region, clipped: Region, held: Region) -> Hashable:
    """What a call reads of an operand, beginning at what is held of it, and its margins."""
    pairs = zip(need.spans, clipped.spans, strict=True)
    return _within(clipped, held), tuple((a - n, m - b) for (n, m), (a, b) in pairs)


def _within(region: Region, held: Region) -> Hashable:
    """A region, counted from where another one begins."""
    pairs = zip(region.spans, held.spans, strict=True)
    return tuple((a - start, b - start) for (a, b), (start, _) in pairs)
