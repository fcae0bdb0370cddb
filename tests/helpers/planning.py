"""What plans are made of in tests: grids of stages, and convolutions that keep their channels."""

from torch import nn

from spnb.ir.tiling import Tiling, grid_of

WHOLE = Tiling.even((1, 1, 1))


def grid(method, tiles):
    return Tiling.even((1, *grid_of(method, tiles, 2)))


def conv(channels=4, kernel=3):
    return nn.Conv2d(channels, channels, kernel, padding=kernel // 2)
