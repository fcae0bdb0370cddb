"""Values of one pass that a network keeps in its attributes and reads in the next pass.

torch.export sees a single pass, in which no such value is there yet.  So the forward is run twice
without memory.  The first run shows which attributes hold values of the image; the second one,
whether they are read before they are written again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import CaptureError
from ..kernels.compat import pytree

LIKE_ANOTHER = ("to", "type_as", "expand_as", "view_as", "reshape_as")
"""Functions that take no more than type, shape and device of other arguments than the first."""


def refuse_remembered(
    module: nn.Module, inputs: Iterable[torch.Tensor], run: Callable[[], object]
) -> None:
    """Refuse a network that reads a value of the pass before.

    Parameters
    ----------
    module
        The network; its attributes change.
    inputs
        The tensors that it is run on.
    run
        Runs it.

    Raises
    ------
    CaptureError
        With the name of the attribute.
    """
    with _OfTheImage(inputs) as mode:
        run()
    read: list[str] = []
    for path, layer in module.named_modules():
        names = [name for name, value in vars(layer).items() if mode.knows_of(value)]
        if names:
            layer.__class__ = _noting_reads(type(layer), dict.fromkeys(names, path), read)
    run()
    if read:
        raise CaptureError(
            f"the network keeps a value of one pass in its attribute {read[0]} and reads it in the"
            " next, so results would depend on the passes before: give it as an input"
        )


class _OfTheImage(TorchFunctionMode):
    """Notes which tensors are computed from some inputs."""

    def __init__(self, inputs: Iterable[torch.Tensor]):
        super().__init__()
        self._found = {id(tensor): tensor for tensor in inputs}  # kept, so that ids stay theirs

    def knows_of(self, value: object) -> bool:
        """Whether a tensor, or one in lists and dicts, is computed from the inputs."""
        return any(id(leaf) in self._found for leaf in pytree.tree_leaves(value))

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        only_of_its_shape = name.endswith("_like") or name.startswith("new_")
        read = args[:1] if name in LIKE_ANOTHER else [args, kwargs]
        if not only_of_its_shape and self.knows_of(read):
            changed = args[:1] if name == "__setitem__" else ()
            leaves = pytree.tree_leaves([result, changed])
            self._found |= {id(t): t for t in leaves if isinstance(t, torch.Tensor)}
        return result


def _noting_reads(kind: type[nn.Module], paths: Mapping[str, str], read: list[str]) -> type:
    """A class of layers that note which attributes are read before they are set."""
    waiting = set(paths)

    def get(self: nn.Module, name: str) -> Any:
        if name in waiting:
            read.append(f"{paths[name]}.{name}".removeprefix("."))
        return kind.__getattribute__(self, name)

    def put(self: nn.Module, name: str, value: Any) -> None:
        waiting.discard(name)
        kind.__setattr__(self, name, value)

    return type(kind.__name__, (kind,), {"__getattribute__": get, "__setattr__": put})
