"""Records where gradients end as calls, and refuses custom gradients: torch.export loses both."""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction

from ..errors import CaptureError
from ..ir.node import Node, Ref
from ..kernels.compat import SET_GRAD_ENABLED, DisableTorchFunction, pytree

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

_READ_DATA = inspect.getattr_static(torch.Tensor, "data").__get__
"""The function that a `TorchFunctionMode` receives for ``x.data``."""

_WRITE_DATA = inspect.getattr_static(torch.Tensor, "data").__set__
"""The function that it receives for ``x.data = y``."""

_FUNCTION: Any = torch.autograd.Function
"""The class in which ``apply`` is replaced during a capture for training."""

_PATCHING = threading.RLock()
"""Held while ``torch.autograd.Function.apply`` is replaced, so captures run one after another."""


class _Detaching(TorchFunctionMode):
    """Calls ``detach`` wherever a gradient ends, so that torch.export records it.

    A gradient ends at ``x.data``, and in training at values computed under ``torch.no_grad()``.
    """

    def __init__(self, training: bool):
        super().__init__()
        self.training = training

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function == _READ_DATA:
            return args[0].detach()
        if function == _WRITE_DATA:
            return self._overwrite(*args)
        if function is SET_GRAD_ENABLED:
            with DisableTorchFunction():  # torch.export must not record it
                return function(*args)
        if getattr(function, "__name__", "") == "_remove_batch_dim" and args[3]:
            # torch.export loses what this end of a vmap does where its out_dim is not the first.
            return function(*args[:3], 0).movedim(0, args[3])
        result = function(*args, **(kwargs or {}))
        if not self.training or torch.is_grad_enabled():
            return result
        name = getattr(function, "__name__", "")
        if name.endswith("_") and not name.startswith("__"):
            raise CaptureError(
                f"{name} changes a tensor under torch.no_grad(), which would lose its gradient: use"
                " the operator that gives a new tensor, or x.detach()"
            )
        return pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, result)

    def _overwrite(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        """``tensor.data = value``, as a call that torch.export records."""
        kinds = [(tuple(each.shape), each.dtype) for each in (tensor, value)]
        if self.training or kinds[0] != kinds[1]:
            (shape, dtype), (new_shape, new_dtype) = kinds
            raise CaptureError(
                f"the forward gives a tensor of {shape}, {dtype} other .data of {new_shape},"
                f" {new_dtype}, which torch.export does not see: use a new tensor instead"
            )
        tensor.copy_(value)


def detaching(forward: Callable[..., Any], training: bool) -> Callable[..., Any]:
    """Return a forward that calls ``detach`` wherever a gradient ends.

    Its mode is entered inside torch.export's own mode, so it receives each call first.

    Parameters
    ----------
    forward
        The forward of a module.
    training
        Whether gradients end under ``torch.no_grad()``.
    """

    @functools.wraps(forward)
    def detached(*args: Any, **kwargs: Any) -> Any:
        with _Detaching(training):
            return forward(*args, **kwargs)

    return detached


@contextmanager
def as_trained() -> Iterator[None]:
    """A context for a capture for training: gradients are on, and custom gradients are refused.

    In the context, ``torch.autograd.Function.apply`` is replaced in the whole process.  So captures
    wait for each other.  In every other thread the replacement calls the original.
    """
    capturing_thread = threading.get_ident()
    with _PATCHING:
        original = vars(_FUNCTION)["apply"]

        def apply(function: type, *args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != capturing_thread:
                return original.__get__(None, function)(*args, **kwargs)
            return _apply_in_capture(function, *args)

        _FUNCTION.apply = classmethod(apply)
        try:
            with torch.enable_grad():
                yield
        finally:
            _FUNCTION.apply = original


def _apply_in_capture(function: type, *args: Any) -> Any:
    """Compute the function of a checkpoint; refuse others, as their gradient would be lost."""
    if function is CheckpointFunction:
        compute, _, *given = args
        return compute(*given)
    raise CaptureError(
        f"{function.__name__} is a torch.autograd.Function, whose gradient torch.export does not"
        " see: write its forward in operators of PyTorch (x + (f(x) - x).detach() has the gradient"
        " of x)"
    )


def refuse_averages_of_all(module: nn.Module) -> None:
    """Refuse batch norms without a fixed momentum, which average over all batches so far.

    Raises
    ------
    CaptureError
        With the name of the module.
    """
    for path, inner in module.named_modules():
        if isinstance(inner, _BATCH_NORMS) and inner.training and inner.momentum is None:
            raise CaptureError(
                f"{path} averages its statistics over all batches so far (momentum=None), so the"
                " weight of a step depends on its number: give it a momentum, such as 0.1"
            )


def refuse_unread_norms(nodes: Iterable[Node], outputs: Iterable[object]) -> None:
    """Refuse batch norms with a result that no call reads.

    A plan does not compute them, but PyTorch would update their running statistics.

    Parameters
    ----------
    nodes
        The calls, in order.
    outputs
        The outputs of the network: values as `Ref`.

    Raises
    ------
    CaptureError
        With the name of the module.
    """
    read = {leaf.value for leaf in outputs if isinstance(leaf, Ref)}
    for node in reversed(list(nodes)):
        if node.name in read:
            read.update(node.operands)
        elif node.kind == "batch_norm":
            raise CaptureError(
                f"{node.label} moves its running statistics, but the network's output does not"
                " depend on it: leave it out of the forward"
            )


def refuse_moving(node: Node) -> None:
    """Refuse running statistics that training updates, except those of a batch norm.

    Raises
    ------
    CaptureError
        With the name of the module.
    """
    if node.kind == "instance_norm" and node.args["use_input_stats"] and node.args["running_mean"]:
        raise CaptureError(
            f"{node.label} has running statistics, which training would move: make it with"
            " track_running_stats=False, or take a batch norm"
        )
