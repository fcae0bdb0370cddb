"""What a graph of calls would not show of training: made calls of, or refused."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction

from ..errors import CaptureError
from ..ir.node import Node, Ref
from ..kernels.compat import SET_GRAD_ENABLED, DisableTorchFunction, pytree


class _Detaching(TorchFunctionMode):
    """Has calls of ``detach`` where gradients end, which torch.export would lose sight of.

    That is ``x.data``, and in training what is computed under ``torch.no_grad()``.
    """

    def __init__(self, training: bool):
        super().__init__()
        self.training = training

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function == torch.Tensor.data.__get__:
            return args[0].detach()
        if function is SET_GRAD_ENABLED:
            with DisableTorchFunction():  # nothing that torch.export shall see
                return function(*args)
        result = function(*args, **(kwargs or {}))
        if not self.training or torch.is_grad_enabled():
            return result
        if (name := getattr(function, "__name__", "")).endswith("_") and name[:2] != "__":
            raise CaptureError(
                f"{name} changes a tensor under torch.no_grad(), where its gradient passes by: use"
                " the operator that gives a new tensor, or x.detach()"
            )
        return pytree.tree_map_only(torch.Tensor, torch.Tensor.detach, result)


def detaching(forward: Callable[..., Any], training: bool) -> Callable[..., Any]:
    """A forward that calls ``detach`` where gradients end.

    The mode is inside torch.export's own, and so sees calls before that does.
    """

    @functools.wraps(forward)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with _Detaching(training):
            return forward(*args, **kwargs)

    return inside


def _no_gradient_of_its_own(function: type, *args: Any, **kwargs: Any) -> Any:
    if function is CheckpointFunction:  # the gradient of what it computes anew
        compute, _, *given = args
        return compute(*given)
    raise CaptureError(
        f"{function.__name__} is a torch.autograd.Function, whose gradient torch.export does not"
        " see: write its forward in operators of PyTorch (x + (f(x) - x).detach() has the gradient"
        " of x)"
    )


@contextmanager
def as_trained() -> Iterator[None]:
    """Gradients are on at first, as in training, and operators have those that PyTorch gives."""
    apply = torch.autograd.Function.__dict__["apply"]
    torch.autograd.Function.apply = classmethod(_no_gradient_of_its_own)
    try:
        with torch.enable_grad():
            yield
    finally:
        torch.autograd.Function.apply = apply


def refuse_averages_of_all(module: nn.Module) -> None:
    """Refuse batch norms whose statistics move by less from step to step."""
    for path, inner in module.named_modules():
        if isinstance(inner, nn.modules.batchnorm._BatchNorm) and inner.momentum is None:
            raise CaptureError(
                f"{path} averages its statistics over all batches so far (momentum=None), by a"
                " number that changes with each step: give it a momentum, as 0.1"
            )


def refuse_unread_norms(nodes: Iterable[Node], outputs: Iterable[Any]) -> None:
    """Refuse batch norms that nothing reads, which are not computed and yet would move."""
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
    """Refuse statistics other than a batch norm's that would move."""
    if node.kind == "instance_norm" and node.args["use_input_stats"] and node.args["running_mean"]:
        raise CaptureError(
            f"{node.label} has running statistics, which training would move: make it with"
            " track_running_stats=False, or take a batch norm"
        )
