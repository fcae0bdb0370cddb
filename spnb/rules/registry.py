"""The registry of rules: for each operator, the function that makes the rules of its calls."""

from __future__ import annotations

from collections.abc import Callable

from ..ir.node import Node
from .base import Rule

RuleFactory = Callable[[Node], Rule | None]
"""Makes the rule of a call; returns None if the operator has no rule for such a call."""

_registry: dict[str, RuleFactory] = {}
_registrations = 0


def rule(*kinds: str) -> Callable[[RuleFactory], RuleFactory]:
    """Register a function that makes the rules of operators; it decorates the function.

    Parameters
    ----------
    *kinds
        Operators without overload: ``"conv2d"``, or ``"mylib.op"`` outside ATen.

    Returns
    -------
    callable
        A decorator.  The function that it decorates takes a call of the operator (a
        `spnb.ir.node.Node`) and returns its `Rule`, or ``None`` if it has none for this call.

    Examples
    --------
    A custom operator ``torch.ops.mylib.swish`` that is elementwise:

    >>> @rule("mylib.swish")
    ... def swish(node):
    ...     return Rule(node)
    """

    def register(factory: RuleFactory) -> RuleFactory:
        global _registrations
        _registrations += 1
        _registry.update(dict.fromkeys(kinds, factory))
        return factory

    return register


def registered() -> int:
    """The number of registrations so far; rules that were made at a lower number are outdated."""
    return _registrations


def factory_of(op: str) -> RuleFactory | None:
    """The function that makes the rules of an operator, named as ``"aten.conv2d.default"``."""
    namespace, kind, _ = op.split(".")
    return _registry.get(kind if namespace in ("aten", "_operator") else f"{namespace}.{kind}")


def module_of_rule(node: Node) -> str | None:
    """The module that registered the rule of a call, if outside ATen; ranks import it."""
    factory = factory_of(node.op)
    return factory.__module__ if factory else None


def has_rule(op: str) -> bool:
    """Whether some use of an operator has a rule."""
    return factory_of(op) is not None
