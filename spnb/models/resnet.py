"""Residual networks: those for CIFAR, of any depth, and those for ImageNet, of bottlenecks.

Every network is a sequence of blocks, then global average pooling, then a linear layer.  It takes
images of any size and returns logits.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn


def conv(
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, int],
    stride: int | tuple[int, int] = 1,
    bias: bool = False,
    gain: float = 1.0,
) -> nn.Conv2d:
    """Convolution that keeps the size at stride 1, with the random weights of He et al. (2015).

    Kernel sizes are odd.  `gain` is a factor on the weights; with 1, a signal keeps its scale
    through a ReLU and the convolution.

    >>> conv(3, 8, (1, 7), (1, 2))
    Conv2d(3, 8, kernel_size=(1, 7), stride=(1, 2), padding=(0, 3), bias=False)
    """
    sizes = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    padding = sizes[0] // 2, sizes[1] // 2
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias)
    with torch.no_grad():  # PyTorch draws with variance 1/(3·fan-in), He et al. with 2/fan-in
        layer.weight.mul_(gain * 6**0.5)
    return layer


def head(channels: int, num_classes: int) -> OrderedDict[str, nn.Module]:
    """Layers from feature maps of any size to logits, by name.

    >>> nn.Sequential(head(64, num_classes=10))(torch.zeros(2, 64, 5, 7)).shape
    torch.Size([2, 10])
    """
    return OrderedDict(
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(channels, num_classes),
    )


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; the first has the stride.

    Parameters
    ----------
    inputs, outputs
        Channels of the operand and of the result.
    stride
        Stride of the first convolution and of the shortcut.
    gain
        Factor on the weights of the branch's last convolution.  With 1/√(number of blocks) the
        signal keeps its scale at any depth, even before training has set batch norm's statistics.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, gain: float):
        super().__init__()
        self.branch = nn.Sequential(
            conv(inputs, outputs, 3, stride, bias=True),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            conv(outputs, outputs, 3, bias=True, gain=gain),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = _shortcut(inputs, outputs, stride)
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.branch(x) + self.shortcut(x))


class PreactivationBottleneck(nn.Module):
    """Three times norm, ReLU and convolution (1×1 with the stride, 3×3, 1×1), and a shortcut.

    Parameters
    ----------
    inputs, width, outputs
        Channels of the operand, between the convolutions, and of the result.
    stride, gain
        As in `BasicBlock`.
    activate
        Whether norm and ReLU come before the first convolution; False after a stem that ends in
        them.
    """

    def __init__(
        self, inputs: int, width: int, outputs: int, stride: int, gain: float, activate: bool
    ):
        super().__init__()
        first = [nn.BatchNorm2d(inputs), nn.ReLU()] if activate else []
        self.branch = nn.Sequential(
            *first,
            conv(inputs, width, 1, stride, bias=True),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            conv(width, width, 3, bias=True),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            conv(width, outputs, 1, bias=True, gain=gain),
        )
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.branch(x) + self.shortcut(x)


class Bottleneck(nn.Module):
    """Convolutions 1×1, 3×3 (with the stride) and 1×1 to four times the width, and a shortcut.

    Parameters and buffers have torchvision's names.  `stride` and `gain` are as in `BasicBlock`.
    """

    def __init__(self, inputs: int, width: int, stride: int, gain: float):
        super().__init__()
        outputs = 4 * width
        self.conv1, self.bn1 = conv(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, outputs, 1, gain=gain), nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if (inputs, stride) != (outputs, 1):
            self.downsample = nn.Sequential(
                conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + self.downsample(x))


def resnet_v1(depth: int, num_classes: int) -> nn.Sequential:
    """ResNet of basic blocks with 16, 32 and 64 channels, for depths 6n+2.

    The CIFAR network of He et al., *Deep residual learning for image recognition*, CVPR 2016, with
    the Keras example's details: biases in all convolutions, and 1×1 convolutions as shortcuts
    where the shape changes.

    Raises
    ------
    ValueError
        If the depth is not 6n+2.

    Examples
    --------
    >>> resnet_v1(20, num_classes=10)(torch.zeros(2, 3, 33, 47)).shape
    torch.Size([2, 10])
    """
    count = _blocks_per_stage(depth, 6, "v1")
    layers, inputs, gain = _stem(), 16, (3 * count) ** -0.5
    for stage, outputs in enumerate((16, 32, 64), start=1):
        for number in range(count):
            stride = 2 if stage > 1 and number == 0 else 1
            layers[f"block{stage}_{number}"] = BasicBlock(inputs, outputs, stride, gain)
            inputs = outputs
    return nn.Sequential(layers | head(inputs, num_classes))


def resnet_v2(depth: int, num_classes: int) -> nn.Sequential:
    """Preactivated ResNet of bottlenecks, up to 256 channels wide, for depths 9n+2.

    From He et al., *Identity mappings in deep residual networks*, ECCV 2016, in the form of the
    Keras example, which the MPI4DL benchmarks use at depth 110: bottlenecks of 16, 64 and 128
    channels between 64, 128 and 256 channels, and biases in all convolutions.

    Raises
    ------
    ValueError
        If the depth is not 9n+2.

    Examples
    --------
    >>> resnet_v2(29, num_classes=10)(torch.zeros(2, 3, 33, 47)).shape
    torch.Size([2, 10])
    """
    count = _blocks_per_stage(depth, 9, "v2")
    layers, inputs, gain = _stem(), 16, (3 * count) ** -0.5
    for stage, (width, outputs) in enumerate(((16, 64), (64, 128), (128, 256)), start=1):
        for number in range(count):
            stride = 2 if stage > 1 and number == 0 else 1
            activate = stage > 1 or number > 0
            layers[f"block{stage}_{number}"] = PreactivationBottleneck(
                inputs, width, outputs, stride, gain, activate
            )
            inputs = outputs
    layers |= {"last_bn": nn.BatchNorm2d(inputs), "last_relu": nn.ReLU()}
    return nn.Sequential(layers | head(inputs, num_classes))


def imagenet_resnet(counts: tuple[int, int, int, int], num_classes: int) -> nn.Sequential:
    """ResNet of bottlenecks with ImageNet's stem, in four stages of ``counts`` blocks.

    From He et al., *Deep residual learning for image recognition*, CVPR 2016.  As in torchvision,
    the 3×3 convolutions have the strides; the state dict has torchvision's names, so its
    checkpoints can be loaded.

    Examples
    --------
    >>> resnet50 = imagenet_resnet((3, 4, 6, 3), num_classes=10)
    >>> resnet50(torch.zeros(2, 3, 65, 97)).shape
    torch.Size([2, 10])
    """
    layers = OrderedDict[str, nn.Module](
        conv1=conv(3, 64, 7, stride=2),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(),
        maxpool=nn.MaxPool2d(3, stride=2, padding=1),
    )
    inputs, gain = 64, sum(counts) ** -0.5
    for stage, (count, width) in enumerate(zip(counts, (64, 128, 256, 512), strict=True), start=1):
        blocks = []
        for number in range(count):
            stride = 2 if stage > 1 and number == 0 else 1
            blocks.append(Bottleneck(inputs, width, stride, gain))
            inputs = 4 * width
        layers[f"layer{stage}"] = nn.Sequential(*blocks)
    return nn.Sequential(layers | head(inputs, num_classes))


def _stem() -> OrderedDict[str, nn.Module]:
    return OrderedDict(conv=conv(3, 16, 3, bias=True), bn=nn.BatchNorm2d(16), relu=nn.ReLU())


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    same = (inputs, stride) == (outputs, 1)
    return nn.Identity() if same else conv(inputs, outputs, 1, stride, bias=True)


def _blocks_per_stage(depth: int, period: int, version: str) -> int:
    count, excess = divmod(depth - 2, period)
    if excess or count < 1:
        near = [str(period * n + 2) for n in (count, count + 1) if n >= 1]
        nearest = f"nearest are {' and '.join(near)}" if len(near) > 1 else f"least is {period + 2}"
        raise ValueError(
            f"resnet{depth}_{version}: depth {depth} is not {period}n+2; the {nearest}"
        )
    return count
