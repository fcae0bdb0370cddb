"""A method of a module as the network: ``decode`` of an autoencoder, say."""

from __future__ import annotations

import copy
import difflib
import functools
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ..capture.export import rebuilt
from ..errors import OptionError
from ..ir.weights import named
from ..kernels.compat import FakeTensorMode

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d

FORWARD = "forward"
"""The method that PyTorch calls."""


def with_method(module: nn.Module, method: str) -> nn.Module:
    """Return a module whose forward is one of its methods; the given module is not changed.

    Parameters
    ----------
    module
        The network; both share layers and weights.
    method
        Name of the method.

    Raises
    ------
    OptionError
        If the module has no such method.

    Examples
    --------
    >>> class Twice(nn.Module):
    ...     def decode(self, x):
    ...         return 2 * x
    >>> with_method(Twice(), "decode")(torch.ones(2))
    tensor([2., 2.])
    """
    found = getattr(module, method, None)
    if not callable(found) or isinstance(found, nn.Module) or hasattr(nn.Module, method):
        own = [n for n in dir(module) if n not in dir(nn.Module) and not n.startswith("_")]
        own = [n for n in own if callable(getattr(module, n)) and n not in module._modules]
        close = difflib.get_close_matches(method, own, 1) or own[:5]
        hint = f": it has {', '.join(close)}" if close else ""
        raise OptionError(f"{type(module).__name__} has no method {method}{hint}")
    entered = copy.copy(module)
    is_own = hasattr(type(module), method)
    entered.forward = MethodType(_entering(module, method), entered) if is_own else found
    return entered


def _entering(module: nn.Module, method: str) -> Callable[..., Any]:
    """A forward that runs a method, in which ``self(x)`` is the module's own forward again."""

    @functools.wraps(getattr(type(module), method))
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        entering = self.forward
        self.forward = MethodType(type(module).forward, self)
        try:
            return getattr(self, method)(*args, **kwargs)
        finally:
            self.forward = entering

    return forward


def refuse_lazy(module: nn.Module) -> None:
    """Refuse a module with parameters whose shapes its first run would tell.

    Raises
    ------
    OptionError
        Naming a parameter.
    """
    for name, tensor in named(module).items():
        if is_lazy(tensor):
            raise OptionError(
                f"the shape of {name} is not known yet: run {type(module).__name__} once in"
                " PyTorch, on an image of any size that it takes"
            )


def refuse_scripted_layers(module: nn.Module) -> None:
    """Refuse a module of Python with a layer of TorchScript, whose weights a capture loses.

    Raises
    ------
    OptionError
        Naming the layer.
    """
    for name, layer in module.named_modules():
        if (
            isinstance(layer, torch.jit.ScriptModule)
            and name
            and next(layer.parameters(), None) is not None
        ):
            raise OptionError(
                f"the layer {name} of {type(module).__name__} is TorchScript, whose weights cannot"
                " be told apart inside of a module of Python: give the whole network as TorchScript"
                " (torch.jit.script), or the layer as it was before"
            )


class _Called(Exception):
    """A convolution was called."""

    def __init__(self, convolution: Convolution, channels: int):
        super().__init__()
        self.convolution, self.channels = convolution, channels


def first_called(module: nn.Module) -> Convolution | None:
    """The convolution that a forward calls first; None where that is not found out.

    Parameters
    ----------
    module
        The network; it is run without memory.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    for layer in (layer for layer in module.modules() if isinstance(layer, Convolution)):
        axes, channels = len(layer.kernel_size), layer.in_channels
        with mode:
            fake = rebuilt(module, torch.empty_like)
            image = torch.empty(1, channels, *[64] * axes)
        for inner in fake.modules():
            if isinstance(inner, Convolution):
                inner.register_forward_pre_hook(_call)
        try:
            with mode, torch.no_grad():
                fake(image)
        except _Called as call:
            if call.channels == channels == call.convolution.in_channels:
                return call.convolution
        except Exception:  # the image has another number of channels
            continue
    return None


def _call(layer: Convolution, args: tuple[Any, ...]) -> None:
    raise _Called(layer, args[0].shape[1])
