"""Random networks for property tests, and a few fixed ones."""

import torch
from hypothesis import strategies as st
from torch import nn

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOLS = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVG_POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


def conv(inputs=4, outputs=4, kernel=3, **options):
    """A 2-D convolution that keeps the size of its image."""
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


class Residual(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.body(x)


class Concat(nn.Module):
    """Two branches, and half of the channels of both."""

    def __init__(self, left, right):
        super().__init__()
        self.left, self.right = left, right

    def forward(self, x):
        both = torch.cat([self.left(x), self.right(x)], dim=1)
        return both.chunk(2, dim=1)[1] * 0.5


class AsymmetricPad(nn.Module):
    def __init__(self, pads, value):
        super().__init__()
        self.pads, self.value = pads, value

    def forward(self, x):
        return nn.functional.pad(x, self.pads, value=self.value)


class InPlace(nn.Module):
    """Reads a value again after it was changed in place."""

    def forward(self, x):
        y = x * 1.5
        y.relu_()
        return y + x


class Sum(nn.Module):
    """A dense output and a pooled one."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        y = self.body(x)
        return {"dense": y, "sums": y.flatten(2).sum(2)}


def randomize(net, seed=0):
    """Weights of moderate size, norm statistics that are not those of a fresh layer."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*net.named_parameters(), *net.named_buffers()]:
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.data.copy_(noise + 0.5 if "running_var" in name else noise - 0.5)
    return net.eval()


@st.composite
def layers(draw, axes, channels, depth=2):
    """One layer or composite that keeps the number of channels."""
    kinds = ["conv", "conv", "same", "max", "avg", "norm", "inplace", "pad"]
    if depth:
        kinds += ["residual", "concat"]
    kind = draw(st.sampled_from(kinds))
    each = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(axes))  # noqa: E731
    if kind == "conv":
        kernel, dilation = each(1, 4), each(1, 2)
        padding = tuple(draw(st.integers(0, d * (k - 1))) for k, d in zip(kernel, dilation))
        groups = draw(st.sampled_from([1, 2]))
        return CONVS[axes](channels, channels, kernel, each(1, 2), padding, dilation, groups=groups)
    if kind == "same":
        return CONVS[axes](channels, channels, each(1, 4), padding="same", dilation=each(1, 2))
    if kind in ("max", "avg"):
        kernel = each(2, 3)
        padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
        ceil = draw(st.booleans())
        if kind == "max":
            return MAX_POOLS[axes](kernel, each(1, 3), padding, ceil_mode=ceil)
        counted = draw(st.booleans())
        return AVG_POOLS[axes](kernel, each(1, 3), padding, ceil, counted)
    if kind == "norm":
        return nn.Sequential(NORMS[axes](channels), nn.LeakyReLU())
    if kind == "inplace":
        return InPlace()
    if kind == "pad":
        pads = tuple(draw(st.integers(-1, 3)) for _ in range(2 * axes))
        return AsymmetricPad(pads, draw(st.sampled_from([0.0, 1.5])))
    conv = lambda: CONVS[axes](channels, channels, each(1, 4), padding="same")  # noqa: E731
    if kind == "residual":
        return Residual(conv(), nn.ReLU(), conv())
    return Concat(conv(), nn.Sequential(conv(), nn.Sigmoid()))


@st.composite
def chains(draw, axes, channels=2, longest=5):
    """A chain of random layers, with random weights."""
    body = draw(st.lists(layers(axes, channels), min_size=1, max_size=longest))
    return randomize(Sum(nn.Sequential(*body)), draw(st.integers(0, 99)))


def classifier():
    """Small and with batch norms: trained in a moment by many ranks."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        Residual(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
    )


def dense(channels=4):
    """Strides, dilation, pooling, a residual: a dense output at the end."""
    return randomize(
        nn.Sequential(
            nn.Conv2d(3, channels, 3, padding=1),
            Residual(
                nn.Conv2d(channels, channels, 5, padding=4, dilation=2), nn.BatchNorm2d(channels)
            ),
            nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            Residual(nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1, groups=2)),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            nn.AvgPool2d(3, 1, 1, count_include_pad=False),
            nn.Conv2d(channels, channels, 4, padding="same"),
        )
    )
