"""Writes a changed view of a tensor back into the tensor, by a call that returns the result."""

from __future__ import annotations

from dataclasses import replace

from ..ir.node import Node, Ref
from ..rules.views import PERMUTES, order_of

SAME_ORDER = ("view", "unsqueeze", "squeeze", "unflatten", "view_as", "_reshape_alias")
"""Views that show the elements of a tensor in their order."""


def written_back(view: Node, source: Node, held: Ref, changed: Ref, name: str) -> Node | None:
    """The call that gives a tensor after its view was changed; None for other views.

    Parameters
    ----------
    view
        The call that made the view.
    source
        The call that made the tensor.
    held
        The tensor's present value.
    changed
        The view's present value.
    name
        Name of the result.

    Examples
    --------
    After ``v = x[:, 0]`` and ``v.add_(1)``, x is ``x.select_scatter(v + 1, 1, 0)``.
    """
    if view.op == "aten.slice.Tensor":
        if view.shape == source.shape:
            return _like(source, name, "alias.default", self=changed)
        given = {key: view.args[key] for key in ("dim", "start", "end", "step")}
        return _like(source, name, "slice_scatter.default", self=held, src=changed, **given)
    if view.op == "aten.select.int":
        given = {key: view.args[key] for key in ("dim", "index")}
        return _like(source, name, "select_scatter.default", self=held, src=changed, **given)
    if view.kind in SAME_ORDER and view.dtype == source.dtype:
        return _like(source, name, "reshape.default", self=changed, shape=list(source.shape))
    if view.kind in ("alias", "detach"):
        return _like(source, name, "alias.default", self=changed)
    if view.kind in PERMUTES:
        order = order_of(view)
        back = [order.index(k) for k in range(len(order))]
        return _like(source, name, "permute.default", self=changed, dims=back)
    return None


def _like(source: Node, name: str, op: str, **args: object) -> Node:
    """A call with a result of the shape and type of another one's."""
    return replace(source, name=name, op=f"aten.{op}", args=args, parts=())
