"""Groups a network's operator calls into building blocks; a stage is a run of whole blocks.

A block is a residual block, a cell, or a layer of the stem, as the network's author would say.
Blocks are found in the tree of modules.  A module is divided into its children if they form
a *chain*: each passes one value, and no other, to the next.  The graph shows whether they do::

    encoder:  stage → stage → stage         divided: one value passes between stages
    residual: conv → norm → conv → (+)      one block: the shortcut passes too
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
    """A run of consecutive nodes that came from one building block of the network.

    Attributes
    ----------
    path
        Path of the block's module.
    start, stop
        Numbers of its first node, and of the first node after it.
    """

    path: str
    start: int
    stop: int


def blocks_of(nodes: Sequence[Node], module: nn.Module) -> tuple[Block, ...]:
    """Return the building blocks of a network, in order.

    A call that belongs to no block, such as an addition in the network's own ``forward``, is put
    into the block before it.
    """
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
    """The innermost module among the owners that contains a path; None if none does."""
    names = path.split(".")
    prefixes = (".".join(names[:n]) for n in range(len(names), 0, -1))
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
    """Whether a module is a list of blocks.

    A sequence of one convolution with its norm and activation is a single block, not a list.
    """
    if isinstance(module, nn.Sequential):
        weights = (getattr(child, "weight", None) for child in module.children())
        convolutions = sum(w is not None and w.ndim > 2 for w in weights)
        return _compound(module) or convolutions > 1
    return isinstance(module, _LISTS)


def _members(module: nn.Module, path: str) -> Iterator[str]:
    """Paths of a module's children; a list among them is replaced by its own children."""
    for name, child in module.named_children():
        inner = f"{path}.{name}"
        if _is_run(child):
            yield from _members(child, inner)
        else:
            yield inner


def _chained(module: nn.Module, path: str, nodes: Sequence[Node]) -> bool:
    """Whether each member of a module passes one value, and no other, to the next."""
    members = set(_members(module, path))
    of_module = [k for k, n in enumerate(nodes) if n.path == path or n.path.startswith(path + ".")]
    if not of_module:
        return False
    run = range(of_module[0], of_module[-1] + 1)
    last_use = {value: k for k in run for value in nodes[k].operands}
    read_later = {v for n in nodes[run.stop :] for v in n.operands}
    # Values that a later call of the run reads, or that the run computed for calls after it.
    alive = {v for k in run for v in nodes[k].operands} - {nodes[k].name for k in run}
    for k, following in itertools.pairwise(run):
        alive.add(nodes[k].name)
        computed = {nodes[j].name for j in range(run.start, k + 1)}
        alive = {v for v in alive if last_use.get(v, -1) > k or (v in computed and v in read_later)}
        here, there = _owner(nodes[k].path, members), _owner(nodes[following].path, members)
        if here != there and len(alive) > 1:
            return False
    return True
