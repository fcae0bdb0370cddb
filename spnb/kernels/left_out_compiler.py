"""PyTorch's compiler, which an optimizer imports to be left out of what is compiled.

The import takes 76 MiB of each process and some seconds, and nothing is compiled there.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

COMPILER = "torch._dynamo"
MARK = "__dynamo_disable"
"""Where PyTorch keeps what a function is outside of compiled code."""


class _StandIn(ModuleType):
    """The two functions of the compiler that do nothing where nothing is compiled.

    Whoever asks for anything else gets it from the compiler, which is imported then.
    """

    def __init__(self) -> None:
        super().__init__(COMPILER)
        self._marked: list[Any] = []

    def disable(self, function: Any, *args: Any, **kwargs: Any) -> Callable[..., Any]:
        """The function itself; PyTorch keeps it as the function's mark."""
        self._marked.append(function)
        return function

    def graph_break(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def __getattr__(self, name: str) -> Any:
        if name in ("_initializing", "__spec__", "__file__"):  # the import statement itself
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(COMPILER), name)

    def leave(self) -> None:
        """Leave the place to the compiler; what is compiled later finds no marks."""
        if sys.modules.get(COMPILER) is self:
            del sys.modules[COMPILER]
        if vars(torch).get("_dynamo") is self:
            del torch._dynamo
        for function in self._marked:
            vars(function).pop(MARK, None)
        self._marked.clear()


@contextmanager
def compiler_left_out() -> Iterator[None]:
    """Keep PyTorch's optimizers from importing its compiler, if it is not imported yet.

    Examples
    --------
    >>> with compiler_left_out():
    ...     optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.5)
    ...     optimizer.step()
    """
    if COMPILER in sys.modules:
        yield
        return
    stand_in = _StandIn()
    sys.modules[COMPILER] = stand_in
    try:
        yield
    finally:
        stand_in.leave()
