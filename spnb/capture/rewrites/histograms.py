"""Writes histograms as counts of all tiles in bins, whose edges are known or merged."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

import torch

from ...ir.axes import Axes
from ...ir.node import Node, Ref


def plain_histogram(node: Node, items_used: Collection[int]) -> bool:
    """Whether a histogram only counts, in bins whose edges are known if they are read."""
    args = node.args
    only_counts = args["weight"] is None and not args["density"] and "range" in args
    return only_counts and (args["range"] is not None or items_used == {0})


def histogram_item(node: Node, source: Node) -> Node:
    """The counts of a histogram, or the edges of its bins."""
    bins, (low, high) = source.args["bins"], source.args["range"] or (0.0, 0.0)
    if node.args["index"] == 0:
        args = {"self": source.args["self"], "bins": bins, "min": low, "max": high}
        return replace(node, op="aten.histc.default", args=args)
    args = {"start": low, "end": high, "steps": bins + 1, "dtype": node.dtype, "layout": None}
    args |= {"device": torch.device("cpu"), "pin_memory": None}
    return replace(node, op="aten.linspace.default", args=args)


def counts(node: Node) -> Iterator[Node]:
    """Counts in bins; without ends, the smallest and largest number are those of all tiles."""
    args = {"self": node.args["self"], "bins": node.args["bins"]}
    args |= {"low": node.args["min"], "high": node.args["max"]}
    if args["low"] == args["high"]:
        for end, kind in (("low", "amin"), ("high", "amax")):
            name, extreme = f"{node.name}.{end}", {"self": node.args["self"], "dim": []}
            args[end] = Ref(name)
            call = replace(
                node, name=name, op=f"aten.{kind}.default", args=extreme | {"keepdim": False}
            )
            yield replace(call, axes=Axes.uncut((), node.axes.rank))
    yield replace(node, op="spnb.histc.default", args=args)
