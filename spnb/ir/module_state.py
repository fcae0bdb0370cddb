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


def modes_of(module: nn.Module) -> tuple[bool, ...]:
    """For each layer, whether it is trained in training mode; see `set_training_modes`."""
    layers = module.modules()
    return tuple(layer.training or not module.training for layer in layers)


def set_training_modes(copied: nn.Module, module: nn.Module) -> None:
    """Set a copy of a module to training mode; layers that the module's owner froze stay frozen.

    A module in training mode has layers in the modes that its owner gave them: a frozen batch norm
    is in evaluation mode.  A module that is in evaluation mode itself has all layers in that mode,
    which says nothing of how it is to be trained; its copy is set by `nn.Module.train`.

    Examples
    --------
    >>> net = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1))
    >>> _ = net[0].eval()
    >>> copied = nn.Sequential(nn.BatchNorm2d(1), nn.BatchNorm2d(1)).eval()
    >>> set_training_modes(copied, net)
    >>> [layer.training for layer in copied]
    [False, True]
    """
    copied.train()
    if module.training:
        for layer, own in zip(copied.modules(), module.modules(), strict=True):
            layer.training = own.training


def hash_of(tensors: Iterable[torch.Tensor]) -> int:
    """A hash of the values of tensors, read byte by byte.

    The version counter of a tensor would not do: ``tensor.data.add_(1)`` does not move it.
    A tensor without values (on the device ``meta``) counts by its shape alone.
    """
    digest = xxhash.xxh3_64()
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode())
        if not tensor.is_meta:
            flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
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
