"""Attention: each query reads all keys and values (Vaswani et al., *Attention is all you need*).

`Attention` computes a call over all keys, or over those of one tile; `spnb.rules.ring` passes the
keys of tiles from one to the next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from ..ir.axes import Axes, Dim, axes_in, dim, size_of
from ..ir.broadcasting import fitted
from ..ir.region import Region
from ..kernels.attention import Masking
from ..kernels.attention_state import result_of, with_keys
from .base import Tensors, Weights
from .matmul import Labels, Product


@dataclass(frozen=True)
class Attention(Product):
    """Attention with the labels ``query``, ``key``, ``in`` and ``out`` of its dimensions."""

    @property
    def written_out(self) -> bool:
        """Whether the network computes it by products and a softmax, and not by one operator."""
        return self.node.op.startswith("spnb.")

    @cached_property
    def keys(self) -> Dim:
        """The factors of the dimension of keys; of the operand in which it holds axes."""
        every = [axes.dims[labels.index("key")] for labels, axes in self._with_keys]
        return next((d for d in every if axes_in(d)), every[0] if every else ())

    @property
    def over_positions(self) -> bool:
        """Whether queries and keys are positions of the image, and channels are not."""
        channels = [
            axes_in(factors)
            for labels, axes in zip(self.labels, self.node.operand_axes, strict=True)
            for label, factors in zip(labels, axes.dims, strict=True)
            if label in ("in", "out")
        ]
        positions = any(axes_in(self.keys)) and any(axes_in(self._queries))
        return positions and not any(channels)

    @property
    def _with_keys(self) -> list[tuple[Labels, Axes]]:
        """Labels and axes of the operands that have a dimension of keys."""
        pairs = zip(self.labels, self.node.operand_axes, strict=True)
        return [(labels, axes) for labels, axes in pairs if "key" in labels]

    def holds_keys(self, operand: int) -> bool:
        """Whether a tile has only its own keys of an operand."""
        labels, axes = self.labels[operand], self.node.operand_axes[operand]
        found = axes.dims[labels.index("key")] if "key" in labels else ()
        return bool(axes_in(found)) and found == self.keys

    def apply(
        self, tensors: Tensors, needs: Sequence[Region], region: Region, weights: Weights
    ) -> Any:
        causal = self.node.args.get("is_causal") and axes_in(self._queries)
        if not self.written_out and not causal:
            return super().apply(tensors, needs, region, weights)
        state = self.with_keys(None, tensors, region, Region.whole(self.key_extent), weights)
        return self.result(state)

    @property
    def key_extent(self) -> tuple[int, ...]:
        """Sizes of the keys along the axes of the image."""
        sizes = {factor.axis: factor.size for factor in self.keys}
        return tuple(sizes.get(axis, 1) for axis in range(self.axes.rank))

    @property
    def _queries(self) -> Dim:
        return self.axes.dims[self.result_labels.index("query")]

    def with_keys(
        self,
        state: torch.Tensor | None,
        tensors: Tensors,
        region: Region,
        keys: Region,
        weights: Weights,
    ) -> torch.Tensor:
        """The state of the queries of a region (see `spnb.kernels.attention_state`) after more
        keys.

        Parameters
        ----------
        state
            The state before; None before the first keys.
        tensors
            The operands: of those that `holds_keys` is true of, the keys of one tile.
        region
            The region of the result.
        keys
            The region of these keys, along the axes that `keys` has.
        weights
            Parameters, buffers and constants by name, whole.
        """
        rank = self.axes.rank
        operands = [
            self._cut(tensor, axes, labels, region, keys)
            for tensor, axes, labels in zip(
                tensors, self.node.operand_axes, self.labels, strict=True
            )
        ]
        local = {
            w.name: self._cut(
                weights[w.name],
                Axes.uncut(w.shape, rank),
                self.weight_labels.get(w.name, ()),
                region,
                keys,
            )
            for w in self.node.weights
        }
        given = self.node.bind(operands, local)
        query, key, value = given["query"], given["key"], given["value"]
        scale = given["scale"]
        if scale is None:
            scale = 1 / math.sqrt(query.shape[-1])
        return with_keys(state, query, key, value, scale, self._masking(given, region, keys))

    def result(self, state: torch.Tensor) -> torch.Tensor:
        """The result, from the state after all keys."""
        return result_of(state, self.node.dtype, nan_without_keys=self.written_out)

    def _cut(
        self, tensor: torch.Tensor, axes: Axes, labels: Labels, region: Region, keys: Region
    ) -> Any:
        """The part of a tensor for some queries and keys."""
        tensor = fitted(tensor, axes, self._target(labels, axes), region)
        at = labels.index("key") if "key" in labels else None
        if at is None or axes.dims[at] == self.keys or size_of(axes.dims[at]) == 1:
            return tensor
        shape = tuple(tensor.shape)
        dims = [self.keys if k == at else dim(n) for k, n in enumerate(shape)]
        whole = Axes.uncut(shape, axes.rank)
        return fitted(tensor, whole, whole.with_dims(dims), keys)

    def _masking(self, given: Mapping[str, Any], region: Region, keys: Region) -> Masking:
        """What changes the scores of some queries and keys."""
        bias: torch.Tensor | None = given["attn_mask"]
        masked: torch.Tensor | None = given.get("masked")
        if bias is not None and bias.dtype == torch.bool:
            masked = bias.logical_not()
            bias = None
        positions = None
        if given.get("is_causal"):
            device, count = given["query"].device, given["key"].shape[-2]
            each = numbers(self.keys, keys) if axes_in(self.keys) else torch.arange(count)
            positions = numbers(self._queries, region).to(device), each.to(device)
        return Masking(bias, masked, given.get("fill", -math.inf), positions)


def numbers(factors: Dim, region: Region) -> torch.Tensor:
    """The numbers, within a whole dimension, of the positions of a region.

    >>> numbers((*dim(3, 1), *dim(4, 2)), Region(((0, 1), (1, 3), (0, 2))))
    tensor([4, 5, 8, 9])
    """
    found = torch.zeros((), dtype=torch.long)
    for factor in factors:
        start, stop = (0, factor.size) if factor.axis is None else region.spans[factor.axis]
        found = found[..., None] * factor.size + torch.arange(start, stop)
    return found.reshape(-1)
