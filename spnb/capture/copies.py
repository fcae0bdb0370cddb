"""Copies of modules that hold results of earlier passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class DetachedCopies(TorchFunctionMode):
    """While it is entered, `copy.deepcopy` copies the value of a tensor that is a result.

    PyTorch refuses to copy a tensor that has a history of gradients.  Modules hold such tensors in
    plain attributes: a weight that hooks compute of others (``torch.nn.utils.weight_norm``,
    ``spectral_norm`` and ``prune``), or features of the last pass.  The copy has no history.

    Examples
    --------
    >>> import copy
    >>> from torch.nn.utils import prune
    >>> layer = prune.identity(torch.nn.Linear(2, 2), "weight")
    >>> with DetachedCopies():
    ...     copy.deepcopy(layer).weight.grad_fn is None
    True
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            # The memo has the copy for the tensor itself, so that who shares it shares the copy.
            memo[id(tensor)] = tensor.detach().clone()
            return memo[id(tensor)]
        return func(*args, **(kwargs or {}))
