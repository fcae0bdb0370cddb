"""Parameters, buffers and settings that a network writes in its own forward.

Writes are allowed if every pass writes the same value, such as a weight computed from other
weights.  If a pass reads a value that an earlier pass has written, results would depend on the
number of passes, and the network is refused.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..errors import CaptureError

Settings = dict[tuple[str, str], Any]
"""Plain attributes, and layers, by the path of the layer that has them and their name."""

_HIDDEN = frozenset(vars(nn.Module()))
"""Attributes of every module, such as its dicts of parameters and layers."""

_OVERWRITING = ("aten.copy", "aten.fill", "aten.zero")
"""Operators whose result has nothing of their first operand but its shape and its type."""

_ALIASES = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)
"""Calls that only give another name to a value."""


def refuse_states(program: torch.export.ExportedProgram) -> None:
    """Refuse a network in which a pass reads a parameter or buffer that an earlier pass wrote.

    Parameters
    ----------
    program
        The program that torch.export made from the network.

    Raises
    ------
    CaptureError
        With the name of the parameter or buffer.
    """
    signature = program.graph_signature
    known = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    placeholder_of = {name: placeholder for placeholder, name in known.items()}
    by_name = {node.name: node for node in program.graph.nodes}
    for spec in signature.output_specs:
        if not spec.kind.name.endswith("_MUTATION") or spec.target not in placeholder_of:
            continue
        what = f"{spec.kind.name.split('_')[0].lower()} {spec.target}"
        if _sources(by_name[spec.arg.name]) & set(signature.user_inputs):
            raise CaptureError(
                f"the network changes its {what} in its forward: a tile would change its own copy;"
                " return the new value, or update it in training only"
            )
        if _is_read(by_name[placeholder_of[spec.target]]):
            raise CaptureError(
                f"the network changes its {what} in its forward, and reads the value of an earlier"
                " pass there, so results would depend on the number of passes: use a new tensor"
                " instead"
            )


def _is_read(node: torch.fx.Node) -> bool:
    """Whether a call computes with a value; returning or overwriting it does not count."""
    for user in node.users:
        overwritten = str(getattr(user.target, "overloadpacket", "")) in _OVERWRITING
        if user.op == "output" or (overwritten and node not in user.args[1:]):
            continue
        if user.target not in _ALIASES or _is_read(user):
            return True
    return False


def _sources(node: torch.fx.Node) -> set[str]:
    """Names of the placeholders that a value depends on."""
    found: set[str] = set()
    seen: set[torch.fx.Node] = set()
    waiting = [node]
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        seen.add(each)
        if each.op == "placeholder":
            found.add(each.name)
        waiting.extend(each.all_input_nodes)
    return found


class Passes:
    """Watches changes of a module's plain attributes (numbers, texts, tuples) and layers in passes.

    torch.export resets attributes after it has run the forward, so they are read in the forward.

    Parameters
    ----------
    module
        The module; its ``forward`` is replaced.

    Attributes
    ----------
    keeps_tensors
        Whether a pass set an attribute that may hold a tensor.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self.keeps_tensors = False
        self.before = self.after = self._settings()
        forward = module.forward

        @functools.wraps(forward)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.before, others = self._settings(), self._others()
            result = forward(*args, **kwargs)
            self.after = self._settings()
            self.keeps_tensors |= self._others() != others
            return result

        module.forward = watched

    def refuse_counters(
        self,
        first: torch.export.ExportedProgram,
        export: Callable[[], torch.export.ExportedProgram],
    ) -> None:
        """Refuse a network that computes with a plain attribute that each pass changes.

        An attribute that the second pass does not change is allowed: it stores a size, for example.

        Parameters
        ----------
        first
            The program that torch.export made from the first pass.
        export
            Exports another pass.

        Raises
        ------
        CaptureError
            With the name of the attribute.
        """
        if self.after == self.before:
            return
        for (path, name), value in self.after.items():
            setattr(self.module.get_submodule(path), name, value)
        try:
            second = export()
        except Exception:  # an attribute with tensors of the first pass cannot be exported again
            return
        counters = [key for key, value in self.after.items() if self.before.get(key) != value]
        # Layers that change places have each other's names, so that graphs look alike.
        layers = [key for key in counters if isinstance(self.after[key], nn.Module)]
        if layers or (counters and str(second.graph) != str(first.graph)):
            name = ".".join(part for part in [*layers, *counters][0] if part)
            raise CaptureError(
                f"the network changes its attribute {name} in each pass and computes with it, so"
                " results would depend on the number of passes: give it as an input, or keep it"
                " constant"
            )

    def _settings(self) -> Settings:
        plain = (bool, int, float, str, tuple, type(None))
        return {
            (path, name): value
            for path, layer in self.module.named_modules()
            for name, value in (vars(layer) | dict(layer._modules.items())).items()
            if isinstance(value, (*plain, nn.Module))
        }

    def _others(self) -> dict[tuple[str, str], Any]:
        """What tells whether the tensors, and what may hold some, are the same as before."""
        return {
            (path, name): (id(value), len(value) if isinstance(value, (list, dict)) else 0)
            for path, layer in self.module.named_modules()
            for name, value in vars(layer).items()
            if isinstance(value, (torch.Tensor, list, dict)) and name not in _HIDDEN
        }
