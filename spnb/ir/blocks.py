"""Groups a network's operator calls into building blocks, between which stages are cut.

A block is what its author would call one: a residual block, a cell, a layer of the stem.  The
module tree tells, with one question asked of the graph: a module that holds other modules is opened
where they form a *chain*, each handing one value to the next::

    encoder:  stage → stage → stage         opened: one value crosses between stages
    residual: conv → norm → conv → (+)      a block: the shortcut crosses too
                └──────────────┘
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from .node import Node

_LISTS = (nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Block:
    """A run of consecutive nodes that came from one building block of the module."""

    path: str
    start: int
    stop: int


def blocks_of(nodes: Sequence[Node], module: nn.Module) -> tuple[Block, ...]:
    """The building blocks of a network, in order; what is called between two is the first's."""
    owners = set(_open(module, "", nodes))
    blocks: list[Block] = []
    for index, node in enumerate(nodes):
        path = _owner(node.path, owners)
        if blocks and (path in (None, blocks[-1].path) or node.kind == "getitem"):
            blocks[-1] = replace(blocks[-1], stop=index + 1)
        else:
            blocks.append(Block(path or "forward", index, index + 1))
    return tuple(blocks)


def _owner(path: str, owners: set[str]) -> str | None:
    parts = path.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in owners), None)


def _open(module: nn.Module, path: str, nodes: Sequence[Node]) -> Iterator[str]:
    """Paths of the blocks in a module."""
    for name, child in module.named_children():
        inner = f"{path}.{name}" if path else name
        if _is_run(child) or (_compound(child) and _chained(child, inner, nodes)):
            yield from _open(child, inner, nodes)
        else:
            yield inner


def _compound(module: nn.Module) -> bool:
    """Whether a module holds modules that hold modules."""
    return any(True for child in module.children() for _ in child.children())


def _is_run(module: nn.Module) -> bool:
    """Whether a module is a list of blocks: not so a convolution with its norm and activation."""
    if isinstance(module, nn.Sequential):
        weights = (getattr(child, "weight", None) for child in module.children())
        windows = sum(w is not None and w.ndim > 2 for w in weights)
        return _compound(module) or windows > 1
    return isinstance(module, _LISTS)


def _members(module: nn.Module, path: str) -> Iterator[str]:
    for name, child in module.named_children():
        inner = f"{path}.{name}"
        if _is_run(child):
            yield from _members(child, inner)
        else:
            yield inner


def _chained(module: nn.Module, path: str, nodes: Sequence[Node]) -> bool:
    """Whether the members of a module hand one value, and no other, from each to the next."""
    members = set(_members(module, path))
    inside = [k for k, n in enumerate(nodes) if n.path == path or n.path.startswith(path + ".")]
    if not inside:
        return False
    run = range(inside[0], inside[-1] + 1)
    last_use = {value: k for k in run for value in nodes[k].operands}
    leaves = {v for n in nodes[run.stop :] for v in n.operands}  # alive to the end of the run
    alive = {v for k in run for v in nodes[k].operands} - {nodes[k].name for k in run}
    for k, following in itertools.pairwise(run):
        alive.add(nodes[k].name)
        made = {nodes[j].name for j in range(run.start, k + 1)}
        alive = {v for v in alive if last_use.get(v, -1) > k or (v in made and v in leaves)}
        here, there = _owner(nodes[k].path, members), _owner(nodes[following].path, members)
        if here != there and len(alive) > 1:
            return False
    return True
