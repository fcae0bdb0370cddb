"""What a module looks like at one moment, so that a later change of it can be noticed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import xxhash
from torch import nn

from .weights import named

_HIDDEN = {"training", *vars(nn.Module())} - {"_forward_hooks", "_forward_pre_hooks"}
"""Attributes of every module that say nothing of what it computes in evaluation mode."""

_SIMPLE = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.Size)


@dataclass(frozen=True)
class ModuleState:
    """What a plan and its weights were made from.

    Attributes
    ----------
    structure
        The layers with their settings and hooks, and the name, shape and type of each weight.
    values
        A hash of the values of all weights.
    """

    structure: Hashable
    values: int

    @classmethod
    def of(cls, module: nn.Module) -> ModuleState:
        """The state of a module now.

        Examples
        --------
        >>> layer = nn.Conv2d(1, 1, 3)
        >>> before = ModuleState.of(layer)
        >>> with torch.no_grad():
        ...     layer.weight.data += 1
        >>> after = ModuleState.of(layer)
        >>> before.structure == after.structure, before.values == after.values
        (True, False)
        """
        layers = tuple(
            (path, type(m), settings_of(m, hash_of)) for path, m in module.named_modules()
        )
        tensors = named(module)
        weights = tuple(
            (name, id(t), tuple(t.shape), t.dtype, t.requires_grad) for name, t in tensors.items()
        )
        return cls(structure=(layers, weights), values=hash_of(tensors.values()))


def hash_of(tensors: Iterable[torch.Tensor]) -> int:
    """A hash of the values of tensors, read byte by byte.

    The version counter of a tensor would not do: ``tensor.data.add_(1)`` does not move it.
    A tensor without values (on the device ``meta``) counts by its shape alone.
    """
    digest = xxhash.xxh3_64()
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode())
        if not tensor.is_meta:
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy().data)
    return digest.intdigest()


def settings_of(
    module: nn.Module, tensor_key: Callable[[list[torch.Tensor]], Hashable] = len
) -> tuple[tuple[str, Hashable], ...]:
    """The plain values, tensors and functions that a module has as attributes, besides its mode.

    Parameters
    ----------
    module
        A module, without its children.
    tensor_key
        What stands for a tensor; by default all tensors are alike.
    """

    def key(value: Any) -> Hashable:
        if isinstance(value, torch.Tensor):
            return tensor_key([value])
        if isinstance(value, _SIMPLE):
            return repr(value)
        if isinstance(value, list | tuple):
            return tuple(map(key, value))
        if isinstance(value, Mapping):
            return tuple((repr(name), key(item)) for name, item in value.items())
        return id(value) if callable(value) else type(value).__qualname__

    return tuple((name, key(value)) for name, value in vars(module).items() if name not in _HIDDEN)
