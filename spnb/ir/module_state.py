"""What a module looks like at one moment, so that a later change of it can be noticed."""

from __future__ import annotations

import argparse
import functools
import numbers
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
import xxhash
from torch import nn

from .weights import named

_HIDDEN = {"training", *vars(nn.Module())} - {"_forward_hooks", "_forward_pre_hooks"}
"""Attributes of every module that say nothing of what it computes in evaluation mode."""

_SIMPLE = (numbers.Number, str, bytes, type(None), torch.dtype, torch.Size)

_FUNCTIONS = (type, FunctionType, MethodType, BuiltinFunctionType)

_NAMESPACES = (SimpleNamespace, argparse.Namespace)
"""Of the objects of Python's own library, those that hold settings; others hold locks and files."""


def structure_of(module: nn.Module) -> Hashable:
    """The layers with their settings and hooks, and the name, shape and type of each weight.

    Settings are attributes of layers and of their classes, and what is inside of these: lists,
    dicts, arrays, configurations, and layers that PyTorch does not know of.

    Examples
    --------
    >>> layer = nn.Conv2d(1, 1, 3)
    >>> before = structure_of(layer), hash_of(named(layer).values())
    >>> with torch.no_grad():
    ...     layer.weight.data += 1
    >>> before[0] == structure_of(layer), before[1] == hash_of(named(layer).values())
    (True, False)
    """
    settings = _Settings(module.modules())
    layers = tuple(
        (path, type(layer), settings.of_layer(layer)) for path, layer in module.named_modules()
    )
    weights = tuple(
        (name, id(t), tuple(t.shape), t.dtype, t.requires_grad) for name, t in named(module).items()
    )
    return layers, weights


def attributes_of(module: nn.Module) -> Hashable:
    """The layers with their own settings and hooks, without those of their classes.

    This is quick enough for each step of a training.

    Examples
    --------
    >>> layer = nn.Dropout(0.5)
    >>> before = attributes_of(layer)
    >>> layer.p = 0.2
    >>> before == attributes_of(layer)
    False
    """
    settings = _Settings(module.modules())
    return tuple((path, settings.own(layer)) for path, layer in module.named_modules())


def modes_of(module: nn.Module, as_it_is: bool = False) -> tuple[bool, ...]:
    """For each layer, whether it is trained in training mode; see `set_training_modes`."""
    every = not (module.training or as_it_is)
    return tuple(layer.training or every for layer in module.modules())


def set_training_modes(copied: nn.Module, module: nn.Module, as_it_is: bool = False) -> None:
    """Set a copy of a module to training mode; layers that the module's owner froze stay frozen.

    A module in training mode has layers in the modes that its owner gave them: a frozen batch norm
    is in evaluation mode.  A module that is in evaluation mode itself has all layers in that mode,
    which says nothing of how it is to be trained; its copy is set by `nn.Module.train`, unless
    each layer is to be ``as_it_is``.

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
    if module.training or as_it_is:
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


class _Settings:
    """What stands for settings in a comparison; each object is looked into once.

    Parameters
    ----------
    layers
        Those whose settings are asked for by `of_layer`, and not looked into where others refer to
        them.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        # Each object is held, so that no other one has its id.
        self._seen: dict[int, tuple[int, Any]] = {id(e): (k, e) for k, e in enumerate(layers)}

    def of_layer(self, module: nn.Module) -> Hashable:
        """The attributes that a layer has besides its mode, and those of its class."""
        classes = [each for each in type(module).__mro__ if each not in (nn.Module, object)]
        return self.own(module), tuple(self._once(each, self._of_class) for each in classes)

    def own(self, module: nn.Module) -> Hashable:
        """The attributes that a layer has besides its mode."""
        mine = {name: value for name, value in vars(module).items() if name not in _HIDDEN}
        return self.key(mine)

    def key(self, value: Any) -> Hashable:
        """What stands for a value."""
        if isinstance(value, torch.Tensor):
            return hash_of([value])
        if isinstance(value, _SIMPLE):
            return repr(value)
        if isinstance(value, np.ndarray):
            return value.dtype.str, value.shape, xxhash.xxh3_64_intdigest(value.tobytes())
        if isinstance(value, _FUNCTIONS):
            return id(value)
        return self._once(value, self._inside)

    def _once(self, value: Any, look: Callable[[Any], Hashable]) -> Hashable:
        """What is found inside an object; for one that was met before, its number."""
        if id(value) in self._seen:
            return self._seen[id(value)][0]
        self._seen[id(value)] = len(self._seen), value
        return look(value)

    def _of_class(self, kind: type) -> Hashable:
        return tuple((name, self.key(value)) for name, value in vars(kind).items())

    def _inside(self, value: Any) -> Hashable:
        if isinstance(value, list | tuple):
            return tuple(map(self.key, value))
        if isinstance(value, set | frozenset):
            return frozenset(map(self.key, value))
        if isinstance(value, Mapping):
            return tuple((repr(name), self.key(item)) for name, item in value.items())
        if isinstance(value, nn.Module):  # in a list, where PyTorch does not look for layers
            return self.of_layer(value), hash_of(named(value).values())
        if isinstance(value, functools.partial):
            return self.key(value.func), self.key(value.args), self.key(value.keywords)
        kind = type(value)
        foreign = kind.__module__.partition(".")[0] in sys.stdlib_module_names
        inside = {} if foreign and kind not in _NAMESPACES else getattr(value, "__dict__", {})
        slots = {
            name: getattr(value, name, None)
            for each in kind.__mro__
            for name in getattr(each, "__slots__", ())
            if not foreign and name not in ("__dict__", "__weakref__")
        }
        return kind.__qualname__, callable(value) and id(value), self.key({**inside, **slots})
