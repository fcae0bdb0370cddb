"""AmoebaNet-D: cells found by evolution; each reads the outputs of the two cells before it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from .resnet import conv, head

States = tuple[torch.Tensor, torch.Tensor]  # outputs of the last cell and of the one before it
Operation = Callable[[int, int], nn.Module]  # from channels and stride

# A node adds two operations: weights smaller by the root of two keep the scale of the signal.
_conv = partial(conv, gain=2**-0.5)


def _relu_conv_norm(*sizes: tuple) -> nn.Sequential:
    """ReLU, convolution and batch norm for each ``(inputs, outputs, kernel, stride)`` given."""
    layers: list[nn.Module] = []
    for inputs, outputs, kernel, stride in sizes:
        layers += [nn.ReLU(), _conv(inputs, outputs, kernel, stride), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers)


def _squeeze(inputs: int, outputs: int) -> nn.Module:
    return _relu_conv_norm((inputs, outputs, 1, 1))


# --- operations: each maps `c` channels to `c`, at stride `s` ------------------------------------


def _identity(c: int, s: int) -> nn.Module:
    return nn.Identity()  # the genotype has it only at stride 1


def _conv_1x1(c: int, s: int) -> nn.Module:
    return _relu_conv_norm((c, c, 1, s))


def _conv_3x3(c: int, s: int) -> nn.Module:
    return _relu_conv_norm((c, c // 4, 1, 1), (c // 4, c // 4, 3, s), (c // 4, c, 1, 1))


def _conv_1x7_7x1(c: int, s: int) -> nn.Module:
    return _relu_conv_norm(
        (c, c // 4, 1, 1),
        (c // 4, c // 4, (1, 7), (1, s)),
        (c // 4, c // 4, (7, 1), (s, 1)),
        (c // 4, c, 1, 1),
    )


def _avg_pool_3x3(c: int, s: int) -> nn.Module:
    return nn.AvgPool2d(3, s, padding=1, count_include_pad=False)


def _max_pool_3x3(c: int, s: int) -> nn.Module:
    return nn.MaxPool2d(3, s, padding=1)  # torchgpipe and MPI4DL average, in spite of the name


def _max_pool_2x2(c: int, s: int) -> nn.Module:
    # Rounding up agrees with the other operations at odd sizes; at even ones it changes nothing.
    return nn.MaxPool2d(2, s, ceil_mode=True)


# --- cells ---------------------------------------------------------------------------------------


class Genotype(NamedTuple):
    """The operations of a cell.

    Values 0 and 1 are the outputs of the last cell and of the one before.  Each node applies two
    operations to earlier values; the sum of their results is the next value.

    Attributes
    ----------
    nodes
        Two pairs for each node: the number of a value, and the operation on it.
    outputs
        Numbers of the values that the cell concatenates.
    """

    nodes: tuple[tuple[tuple[int, Operation], tuple[int, Operation]], ...]
    outputs: tuple[int, ...]


# The outputs are those of the reference implementation; with them, the number of parameters is that
# of the GPipe paper.  The figure of Real et al. concatenates 4, 5 and 6 in normal cells too.
NORMAL = Genotype(
    nodes=(
        ((1, _conv_1x1), (1, _max_pool_3x3)),
        ((1, _identity), (0, _conv_1x7_7x1)),
        ((0, _conv_1x1), (0, _conv_1x7_7x1)),
        ((2, _max_pool_3x3), (2, _identity)),
        ((1, _avg_pool_3x3), (5, _conv_1x1)),
    ),
    outputs=(0, 3, 4, 6),
)
REDUCTION = Genotype(
    nodes=(
        ((0, _max_pool_2x2), (0, _max_pool_3x3)),
        ((2, _identity), (1, _conv_3x3)),
        ((2, _conv_1x7_7x1), (2, _max_pool_3x3)),
        ((3, _identity), (1, _max_pool_2x2)),
        ((2, _avg_pool_3x3), (3, _conv_1x1)),
    ),
    outputs=(4, 5, 6),
)


class FactorizedReduction(nn.Module):
    """Halves the size: half of the channels read even positions, the others odd ones."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.relu = nn.ReLU()
        self.even = _conv(inputs, outputs // 2, 1, stride=2)
        self.shift = nn.ZeroPad2d((-1, 1, -1, 1))  # one pixel up and left
        self.odd = _conv(inputs, outputs - outputs // 2, 1, stride=2)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(x)
        return self.bn(torch.cat([self.even(x), self.odd(self.shift(x))], dim=1))


class Stem(nn.Module):
    """3×3 convolution at stride 2; the first cell reads its output in place of both cells'."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = _conv(3, channels, 3, stride=2)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> States:
        x = self.bn(self.conv(x))
        return x, x


class Node(nn.Module):
    """Appends a value to a cell's: ``left(values[a]) + right(values[b])``."""

    def __init__(self, a: int, left: nn.Module, b: int, right: nn.Module):
        super().__init__()
        self.a, self.left, self.b, self.right = a, left, b, right

    def forward(self, values: list[torch.Tensor]) -> list[torch.Tensor]:
        return [*values, self.left(values[self.a]) + self.right(values[self.b])]


class Cell(nn.Module):
    """A genotype's operations on the outputs of the last cell and of the one before it.

    Parameters
    ----------
    last, before
        Channels of the two outputs.
    channels
        Channels of each value inside the cell.
    stride
        2 where the cell halves the size.
    halve
        Whether the last cell was a reduction, so that the output before it has twice its size.
    """

    def __init__(
        self, genotype: Genotype, last: int, before: int, channels: int, stride: int, halve: bool
    ):
        super().__init__()
        self.last = _squeeze(last, channels)
        squeeze = FactorizedReduction if halve else _squeeze
        self.before = squeeze(before, channels)
        # Only operations on the cell's inputs (values 0 and 1) have the cell's stride.
        strides = [stride, stride, *(1 for _ in genotype.nodes)]
        self.nodes = nn.Sequential(
            *(
                Node(a, left(channels, strides[a]), b, right(channels, strides[b]))
                for (a, left), (b, right) in genotype.nodes
            )
        )
        self.outputs = genotype.outputs

    def forward(self, states: States) -> States:
        last, before = states
        values = self.nodes([self.last(last), self.before(before)])
        return torch.cat([values[n] for n in self.outputs], dim=1), last


class Last(nn.Module):
    """Returns the output of the last cell, without that of the cell before it."""

    def forward(self, states: States) -> torch.Tensor:
        return states[0]


def amoebanet_d(num_classes: int, num_layers: int = 18, num_filters: int = 416) -> nn.Sequential:
    """AmoebaNet-D (L, D) as the GPipe paper scales it.

    Real et al., *Regularized evolution for image classifier architecture search*, AAAI 2019;
    Huang et al., *GPipe: efficient training of giant neural networks using pipeline parallelism*,
    NeurIPS 2019.  After the stem and two reduction cells come three groups of normal cells with
    a reduction cell between them.

    Parameters
    ----------
    num_classes
        Number of logits.
    num_layers
        Number of normal cells, L: a multiple of 3.
    num_filters
        Channels of a value in the first group of cells, D; they double at each reduction.

    Raises
    ------
    ValueError
        If `num_layers` is not a positive multiple of 3, or `num_filters` is less than 8.

    Examples
    --------
    >>> amoebanet_d(10, num_layers=3, num_filters=16)(torch.zeros(2, 3, 33, 47)).shape
    torch.Size([2, 10])
    """
    if num_layers < 3 or num_layers % 3:
        below = num_layers // 3 * 3
        near = f"nearest are {below} and {below + 3}" if below > 0 else "least is 3"
        raise ValueError(
            f"amoebanet: num_layers {num_layers} is not a positive multiple of 3; the {near}"
        )
    if num_filters < 8:
        raise ValueError(f"amoebanet: num_filters {num_filters} is too small; the least is 8")
    group = [NORMAL] * (num_layers // 3)
    genotypes = [REDUCTION, REDUCTION, *group, REDUCTION, *group, REDUCTION, *group]
    channels = last = before = num_filters // 4
    layers, stride = OrderedDict[str, nn.Module](stem=Stem(channels)), 1
    for number, genotype in enumerate(genotypes, start=1):
        halve, stride = stride == 2, 2 if genotype is REDUCTION else 1
        channels *= stride
        layers[f"cell{number}"] = Cell(genotype, last, before, channels, stride, halve)
        last, before = channels * len(genotype.outputs), last
    layers["last"] = Last()
    return nn.Sequential(layers | head(last, num_classes))
