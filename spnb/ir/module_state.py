"""What a module looks like at one moment, so that a later change of it can be noticed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import torch
import xxhash
from torch import nn

from .weights import named

_HIDDEN = {"training", *vars(nn.Module())} - {"_forward_hooks", "_forward_pre_hooks"}
"""Attributes of every module that say nothing of what it computes in evaluation mode."""

_SIMPLE = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.Size)


def structure_of(module: nn.Module) -> Hashable:
    """The layers with their settings and hooks, and the name, shape and type of each weight.

    Examples
    --------
    >>> layer = nn.Conv2d(1, 1, 3)
    >>> before = structure_of(layer), hash_of(named(layer).values())
    >>> with torch.no_grad():
    ...     layer.weight.data += 1
    >>> before[0] == structure_of(layer), before[1] == hash_of(named(layer).values())
    (True, False)
    """
    layers = tuple(
        (path, type(layer), _settings_of(layer)) for path, layer in module.named_modules()
    )
    weights = tuple(
        (name, id(t), tuple(t.shape), t.dtype, t.requires_grad) for name, t in named(module).items()
    )
    return layers, weights


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


def _settings_of(module: nn.Module) -> Hashable:
    """The plain values, tensors and functions that a layer has as attributes, besides its mode."""
    return tuple((name, _key(value)) for name, value in vars(module).items() if name not in _HIDDEN)


def _key(value: Any) -> Hashable:
    """What stands for an attribute's value in a comparison."""
    if isinstance(value, torch.Tensor):
        return hash_of([value])
    if isinstance(value, _SIMPLE):
        return repr(value)
    if isinstance(value, list | tuple):
        return tuple(map(_key, value))
    if isinstance(value, Mapping):
        return tuple((repr(name), _key(item)) for name, item in value.items())
    return id(value) if callable(value) else type(value).__qualname__
