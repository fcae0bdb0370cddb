"""A captured network: operator calls with their extents, as plain picklable data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch

from .axes import Axes, Extent
from .blocks import Block
from .node import Joined, Node, Ref, Weight


class Structure(Protocol):
    """The nesting of lists, tuples and dicts, without their leaves."""

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        """Return the nested structure with these leaves."""
        ...


@dataclass(frozen=True)
class Graph:
    """A captured network.

    Attributes
    ----------
    inputs
        Axes of each input by its name.
    dtype
        Floating type of the inputs.
    nodes
        Operator calls in the order of execution.
    returned
        The leaves of the network's output: values as `Ref`, those that are joined of several as
        `Joined`, tensors known before it runs as `Weight`, everything else unchanged.
    blocks
        The module's building blocks, in order: stages are cut between them.
    structure
        How the leaves of the output are nested, as torch.export found it.
    constants
        Calls that read no input; they are computed once, when weights are read.
    literals
        Tensors that the network makes from numbers in its code, by name.
    training
        Whether the network was captured for training: see `spnb.capture.export.capture`.
    counted
        By the name of a batch norm's ``num_batches_tracked``: how often a pass adds one to it.
    default_dtype
        PyTorch's default floating type when the network was captured.
    gpu_casts
        Path of the first module with a region of ``torch.autocast("cuda")``; empty without one.
    target_types
        By name, the type of each input that is a target of a loss in the graph.
    loss_calls
        Names of the calls of such a loss; it mixes the images of a micro-batch.
    given_tiles
        Names of the calls that pass on the tiles that ranks are given: see
        `spnb.capture.tiled_inputs`.
    fixed
        By name, a hash of each buffer whose values decide what tiles exchange, such as a grid of
        coordinates; with other values, the network must be captured again.
    """

    inputs: Mapping[str, Axes]
    dtype: torch.dtype
    nodes: tuple[Node, ...]
    returned: tuple[Any, ...]
    blocks: tuple[Block, ...]
    structure: Structure = field(repr=False)
    constants: tuple[Node, ...] = ()
    literals: Mapping[str, torch.Tensor] = field(default_factory=dict)
    training: bool = False
    counted: Mapping[str, int] = field(default_factory=dict)
    default_dtype: torch.dtype = torch.float32
    gpu_casts: str = ""
    target_types: Mapping[str, torch.dtype] = field(default_factory=dict)
    loss_calls: frozenset[str] = frozenset()
    given_tiles: frozenset[str] = frozenset()
    fixed: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def floating_types(self) -> frozenset[torch.dtype]:
        """The floating types of its inputs and values."""
        every = {self.dtype, *(node.dtype for node in self.nodes)}
        return frozenset(each for each in every if each.is_floating_point)

    def is_same_as(self, other: Graph) -> bool:
        """Whether another graph has the same calls, constants and outputs."""
        literals = self.literals.keys() == other.literals.keys() and all(
            torch.equal(tensor, other.literals[name]) for name, tensor in self.literals.items()
        )
        return literals and self._comparable == other._comparable

    @property
    def _comparable(self) -> tuple[Any, ...]:
        return (self.inputs, self.dtype, self.nodes, self.returned, self.blocks, self.constants)

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Each node by the name of the value it computes."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def axes(self) -> dict[str, Axes]:
        """Where the axes of the image lie in every value, inputs included."""
        return {**self.inputs, **{node.name: node.axes for node in self.nodes}}

    def nodes_of(self, block: Block) -> tuple[Node, ...]:
        """The operator calls of a block."""
        return self.nodes[block.start : block.stop]

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of the values that the network returns, or of which it joins what it returns."""
        found: list[str] = []
        for leaf in self.returned:
            if isinstance(leaf, Ref):
                found.append(leaf.value)
            elif isinstance(leaf, Joined):
                found += leaf.values
        return tuple(dict.fromkeys(found))

    @cached_property
    def batch(self) -> int:
        """Images in a batch."""
        return next(iter(self.inputs.values())).extent[0]

    @cached_property
    def turns(self) -> dict[str, tuple[int, int]]:
        """In training, for each call of a batch norm, ``(k, n)``: it is call k, from 0, of n."""
        calls: dict[str, list[str]] = {}
        for node in self.nodes if self.training else ():
            running = node.args.get("running_mean")
            if isinstance(running, Weight):
                calls.setdefault(running.name, []).append(node.name)
        return {name: (k, len(names)) for names in calls.values() for k, name in enumerate(names)}

    def made_of(self, names: Iterable[str]) -> tuple[list[str], list[Node]]:
        """Return the parameters, buffers and literals that weights depend on, and the calls.

        Parameters
        ----------
        names
            Names of weights, constants included.
        """
        wanted = dict.fromkeys(names)
        calls: list[Node] = []
        for node in reversed(self.constants):
            if f"={node.name}" in wanted:
                calls.insert(0, node)
                del wanted[f"={node.name}"]
                wanted |= dict.fromkeys(weight.name for weight in node.weights)
        return list(wanted), calls

    def shape(self, value: str) -> tuple[int, ...]:
        """Shape of a whole value."""
        return self.axes[value].shape

    def extent(self, value: str) -> Extent:
        """Sizes of a value along ``(batch, *spatial)``."""
        return self.axes[value].extent

    def channels(self, value: str) -> int:
        """Elements at each position of ``(batch, *spatial)``."""
        return self.axes[value].channels

    def dtype_of(self, value: str) -> torch.dtype:
        """Type of a value's elements."""
        if value in self.by_name:
            return self.by_name[value].dtype
        return self.target_types.get(value, self.dtype)

    def itemsize(self, value: str) -> int:
        """Bytes of an element."""
        return self.dtype_of(value).itemsize

    def pack(self, values: Mapping[str, Any], known: Mapping[str, torch.Tensor]) -> Any:
        """Return the outputs, nested as the network returns them.

        Parameters
        ----------
        values
            Each of `outputs`.
        known
            Weights and constants, of which some may be returned.
        """
        leaves = []
        for leaf in self.returned:
            if isinstance(leaf, Ref):
                leaf = values[leaf.value]
            elif isinstance(leaf, Joined):
                leaf = torch.cat([values[value] for value in leaf.values], leaf.number)
            leaves.append(known[leaf.name] if isinstance(leaf, Weight) else leaf)
        return self.structure.unflatten(leaves)
