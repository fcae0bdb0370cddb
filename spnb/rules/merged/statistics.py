"""Statistics of a set of numbers: their figures, how figures merge, and the result from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...kernels import channelwise


@dataclass(frozen=True)
class Statistic:
    """The figures of a set of numbers, such as a sum, and how the figures of sets are merged.

    Attributes
    ----------
    neutral
        The figures of an empty set.
    of
        Takes a tensor and dimensions.  Returns the figures along a last dimension; these dimensions
        have size 1.
    merge
        Takes figures, and the dimension along which they belong to different sets.  Returns the
        figures of the union; in them the dimension has size 1.
    """

    neutral: tuple[float, ...]
    of: Callable[[torch.Tensor, list[int]], torch.Tensor]
    merge: Callable[[torch.Tensor, int], torch.Tensor]


def summed(x: torch.Tensor, dims: Sequence[int]) -> torch.Tensor:
    """The sum over dimensions, which stay with one position.

    PyTorch 2.13 sums inexactly (1e-5 in fp32) over dimensions that are not one run of memory, if
    the innermost is among them: groups of channels that are last, say.  Those are summed one after
    the other.
    """
    innermost = [d for d in range(x.ndim) if x.stride(d) == 1 and x.shape[d] > 1]
    if x.is_contiguous() or not set(innermost) & set(dims):
        return x.sum(list(dims), keepdim=True)
    for d in sorted(dims, reverse=True):
        x = x.sum(d, keepdim=True)
    return x


AT_ONCE = 1 << 18
"""Number of elements whose deviations are in memory at one time."""


def few_at_a_time(
    tensors: Sequence[torch.Tensor], dims: Sequence[int]
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Parts of tensors of one shape that are computed at one time: views along one dimension."""
    shape, size = tensors[0].shape, tensors[0].numel()
    longest = max(dims, key=lambda d: shape[d])
    count = max(1, AT_ONCE * shape[longest] // max(1, size))
    return zip(*(tensor.split(count, longest) for tensor in tensors), strict=True)


def summed_by_parts(
    compute: Callable[..., torch.Tensor], tensors: Sequence[torch.Tensor], dims: Sequence[int]
) -> torch.Tensor:
    """The sum over dimensions of what is computed of tensors, a few positions after the others.

    All of it at once would be as large as a tensor, and leave a hole of this size in the
    allocator's heap.
    """
    sums = [summed(compute(*few), dims) for few in few_at_a_time(tensors, dims)]
    return sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)


class _Moments(torch.autograd.Function):
    """Count, mean and squared deviations; autograd holds only the numbers themselves."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, dims: list[int]) -> torch.Tensor:
        ctx.count, ctx.dims = math.prod(x.shape[d] for d in dims), dims
        mean, squares = _mean_and_squares(x, dims, ctx.count)
        ctx.save_for_backward(x, mean)
        figures = mean.new_full((*mean.shape, 3), ctx.count)
        figures[..., 1], figures[..., 2] = mean, squares
        return figures

    @staticmethod
    def backward(ctx: Any, of_figures: torch.Tensor) -> tuple[torch.Tensor, None]:
        x, mean = ctx.saved_tensors
        _, of_mean, of_squares = of_figures.unbind(-1)
        # The squares' derivative by the mean is zero, since deviations sum up to zero.
        term, factor = of_mean / ctx.count, 2 * of_squares
        if channelwise.in_runs(x, mean) and _over_runs(x, ctx.dims):
            return channelwise.scaled(x, factor, torch.addcmul(term, mean, factor, value=-1)), None
        gradient = torch.empty_like(x)
        for few, part in few_at_a_time([x, gradient], ctx.dims):
            torch.sub(few, mean, out=part).mul_(factor).add_(term)
        return gradient, None


def _mean_and_squares(
    x: torch.Tensor, dims: Sequence[int], count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean over dimensions, and the sum of squared deviations from it."""
    if _over_runs(x, dims):
        shape = [1 if d in dims else n for d, n in enumerate(x.shape)]
        if (found := channelwise.moments(x, shape)) is not None:
            return found[0], found[1] * count
    mean = summed(x, dims).div_(count)
    return mean, summed_by_parts(lambda few: (few - mean).square_(), [x], dims)


def _over_runs(x: torch.Tensor, dims: Sequence[int]) -> bool:
    """Whether the dimensions are those of space, or those and the batch: not the channels."""
    return set(dims) - {0} == set(range(2, x.ndim))


def _moments(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    return _Moments.apply(x, dims)


class _MergedMoments(torch.autograd.Function):
    """Mean and squared deviations of a union (Chan, Golub and LeVeque, 1979)."""

    @staticmethod
    def forward(ctx: Any, figures: torch.Tensor, d: int) -> torch.Tensor:
        count, mean, squares = figures.unbind(-1)
        total = count.sum(d, keepdim=True)
        share = count / total.clamp(min=1)
        joint = (share * mean).sum(d, keepdim=True)
        deviations = mean - joint
        spread = (squares + count * deviations.square()).sum(d, keepdim=True)
        ctx.save_for_backward(count, share, deviations)
        return torch.stack([total, joint, spread], dim=-1)

    @staticmethod
    def backward(ctx: Any, of_figures: torch.Tensor) -> tuple[torch.Tensor, None]:
        count, share, deviations = ctx.saved_tensors
        _, of_joint, of_spread = of_figures.unbind(-1)
        # The spread's derivative by the joint mean is zero, since deviations sum up to zero.
        of_mean = share * of_joint + 2 * of_spread * count * deviations
        of_squares = of_spread.expand_as(of_mean)
        return torch.stack([torch.zeros_like(of_mean), of_mean, of_squares], dim=-1), None


def _merged_moments(figures: torch.Tensor, d: int) -> torch.Tensor:
    return _MergedMoments.apply(figures, d)


def _exponentials(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    top = x.amax(dims, keepdim=True)
    return torch.stack([top, (x - _finite(top)).exp().sum(dims, keepdim=True)], dim=-1)


def _merged_exponentials(figures: torch.Tensor, d: int) -> torch.Tensor:
    top, total = figures.unbind(-1)
    joint = top.amax(d, keepdim=True)
    summed_up = (total * (top - _finite(joint)).exp()).sum(d, keepdim=True)
    return torch.stack([joint, summed_up], dim=-1)


def _finite(top: torch.Tensor) -> torch.Tensor:
    return top.masked_fill(top.isinf(), 0.0)


def _counted(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    total = summed(x, dims)
    count = torch.full_like(total, math.prod(x.shape[d] for d in dims))
    return torch.stack([count, total], dim=-1)


def _product(x: torch.Tensor, dims: list[int]) -> torch.Tensor:
    for d in dims:
        x = x.prod(d, keepdim=True)
    return x


def _one(reduce: Callable[[torch.Tensor, list[int]], torch.Tensor], neutral: float) -> Statistic:
    """A statistic of one figure, which figures of sets are merged by, too."""
    return Statistic(
        (neutral,),
        lambda x, dims: reduce(x, dims).unsqueeze(-1),
        lambda figures, d: reduce(figures, [d]),
    )


STATISTICS = {
    "sum": _one(lambda x, dims: x.sum(dims, keepdim=True), 0.0),
    "product": _one(_product, 1.0),
    "largest": _one(lambda x, dims: x.amax(dims, keepdim=True), -math.inf),
    "smallest": _one(lambda x, dims: x.amin(dims, keepdim=True), math.inf),
    "counted": Statistic((0.0, 0.0), _counted, lambda figures, d: figures.sum(d, keepdim=True)),
    "moments": Statistic((0.0, 0.0, 0.0), _moments, _merged_moments),
    "exponentials": Statistic((-math.inf, 0.0), _exponentials, _merged_exponentials),
}


@dataclass(frozen=True)
class Reduced:
    """One reduction: a statistic of prepared numbers, and the function that gives the result.

    Attributes
    ----------
    statistic
        A key of `STATISTICS`.
    finish
        Computes the result from the figures, the number of elements and the call's arguments.
    prepare
        Computes the numbers of the statistic from the tensor and the arguments.
    """

    statistic: str
    finish: Callable[..., torch.Tensor]
    prepare: Callable[..., torch.Tensor] = lambda x, args: x


def _variance(figures: list[torch.Tensor], count: int, args: dict[str, Any]) -> torch.Tensor:
    return figures[2] / max(0, count - _correction(args))


def _counted_variance(
    figures: list[torch.Tensor], count: int, args: dict[str, Any]
) -> torch.Tensor:
    return figures[2] / (figures[0] - _correction(args)).clamp(min=0)


def _correction(args: Mapping[str, Any]) -> float:
    correction = args.get("correction", args.get("unbiased", 1))
    return 1 if correction is None else float(correction)


def order_of(args: Mapping[str, Any]) -> float:
    """The order of a vector norm, from its arguments."""
    order = args.get("ord", args.get("p"))
    return 2.0 if order is None else float(order)


NORMS = {math.inf: "norm_of_largest", -math.inf: "norm_of_smallest", 0.0: "norm_of_nonzero"}
"""For some orders of a vector norm, the reduction; for all others, a sum of powers."""

POWER_NORM = Reduced(
    "sum",
    lambda figures, count, args: figures[0] ** (1 / order_of(args)),
    lambda x, args: x.abs() ** order_of(args),
)
OF_IMAGES = ("mean", "var", "std")
"""Reductions that divide by a count: over the images of a micro-batch, of which there may be fewer
than of the batch, tiles count them."""

REDUCTIONS = {
    "sum": Reduced("sum", lambda figures, count, args: figures[0]),
    "prod": Reduced("product", lambda figures, count, args: figures[0]),
    "mean": Reduced("sum", lambda figures, count, args: figures[0] / count),
    "mean of images": Reduced("counted", lambda figures, count, args: figures[1] / figures[0]),
    "var of images": Reduced("moments", _counted_variance),
    "std of images": Reduced("moments", lambda *given: _counted_variance(*given).sqrt()),
    "amax": Reduced("largest", lambda figures, count, args: figures[0]),
    "amin": Reduced("smallest", lambda figures, count, args: figures[0]),
    "var": Reduced("moments", _variance),
    "std": Reduced("moments", lambda *given: _variance(*given).sqrt()),
    "logsumexp": Reduced("exponentials", lambda f, count, args: f[0] + f[1].log()),
    "norm_of_largest": Reduced("largest", lambda f, count, args: f[0], lambda x, args: x.abs()),
    "norm_of_smallest": Reduced("smallest", lambda f, count, args: f[0], lambda x, args: x.abs()),
    "norm_of_nonzero": Reduced(
        "sum", lambda f, count, args: f[0], lambda x, args: (x != 0).to(x.dtype)
    ),
    "linalg_vector_norm": POWER_NORM,
    "norm": POWER_NORM,
}
