"""Axes of which only a part is cut: an axis of ``outer * inner`` positions, by ``inner``."""

from __future__ import annotations

from itertools import pairwise

from .axes import Axes, Dim, Factor, joined


def inner_cut(axes: Axes, axis: int, outer: int) -> Axes:
    """Axes in which only the faster part of an axis is cut.

    >>> inner_cut(Axes.image((1, 3, 56, 56)), axis=1, outer=7)
    Axes(1 | 3 | 7·axis1 8 | axis2 56)
    """
    dims = []
    for factors in axes.dims:
        found: list[Factor] = []
        for factor in factors:
            cut = factor.axis == axis
            found += [Factor(outer), Factor(factor.size // outer, axis)] if cut else [factor]
        dims.append(joined(found))
    return axes.with_dims(dims)


def whole_cut(axes: Axes, axis: int, outer: int) -> Axes:
    """Axes in which an axis is cut together with the slower part before it.

    >>> tokens = Axes(((Factor(7), Factor(8, 1), Factor(56, 2)), (Factor(3),)), rank=3)
    >>> whole_cut(tokens, axis=1, outer=7)
    Axes(axis1 56·axis2 56 | 3)
    """
    dims = []
    for factors in axes.dims:
        found: list[Factor] = []
        for factor in factors:
            if factor.axis == axis:
                before = found.pop()
                found += _divided(before, outer)
                factor = Factor(outer * factor.size, axis)
            found.append(factor)
        dims.append(tuple(found))
    return axes.with_dims(dims)


def can_cut_whole(axes: Axes, axis: int, outer: int) -> bool:
    """Whether a part of ``outer`` positions is before an axis, in the same dimension."""
    pairs = (pair for d in axes.dims for pair in pairwise(d))
    return any(here.axis == axis and before.size % outer == 0 for before, here in pairs)


def _divided(factor: Factor, outer: int) -> list[Factor]:
    """The slower part of a factor, without a faster part of ``outer`` positions."""
    rest = factor.size // outer
    return [Factor(rest, factor.axis)] if rest > 1 else []


def unfolded(axes: Axes) -> Axes:
    """Axes of the tensor with a dimension for each factor."""
    return axes.with_dims([(factor,) for factors in axes.dims for factor in factors])


def with_outer(axes: Axes, axis: int, outer: int) -> Axes:
    """Axes with a dimension for each factor, and one for ``outer`` positions before an axis."""
    dims: list[Dim] = []
    for (factor,) in unfolded(axes).dims:
        if factor.axis == axis:
            (before,) = dims.pop()
            dims += [(rest,) for rest in _divided(before, outer)] + [(Factor(outer),)]
        dims.append((factor,))
    return axes.with_dims(dims)


def place_of(axes: Axes, axis: int) -> int:
    """The number of the dimension that holds an axis."""
    return next(k for k in range(len(axes.dims)) if axis in axes.axes_of(k))


def with_dim(axes: Axes, number: int, factors: Dim) -> Axes:
    """Axes with other factors of one dimension."""
    return axes.with_dims([*axes.dims[:number], factors, *axes.dims[number + 1 :]])
