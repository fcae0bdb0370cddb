"""U-Net (Ronneberger, Fischer and Brox, 2015), for images of any size.

::

    x ── encoder 0 ────────────────────── decoder 1 ── head
             └── encoder 1 ── decoder 0 ───┘                └─ half the resolution
                     └── encoder 2 ──┘                      ─┘ resized and concatenated
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .resnet import conv


class Encoder(nn.Module):
    """Pooling (except at the finest resolution), then two 3×3 convolutions with norm and ReLU."""

    def __init__(self, inputs: int, outputs: int, pooled: bool = True):
        super().__init__()
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if pooled else nn.Identity()
        self.conv1, self.norm1 = conv(inputs, outputs, 3), nn.BatchNorm2d(outputs)
        self.conv2, self.norm2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm1(self.conv1(self.pool(x))))
        return F.relu(self.norm2(self.conv2(x)))


class Decoder(Encoder):
    """Two convolutions on a skip and on the coarser result, which is resized to the skip's size.

    Parameters
    ----------
    below, across
        Channels of the coarser result and of the skip; the result has as many as the skip.
    """

    def __init__(self, below: int, across: int):
        super().__init__(below + across, across, pooled=False)

    def forward(  # type: ignore[override]  # the parameters are an encoder's, the inputs are two
        self, below: torch.Tensor, across: torch.Tensor
    ) -> torch.Tensor:
        resized = F.interpolate(below, across.shape[2:], mode="bilinear")
        return super().forward(torch.cat([across, resized], dim=1))


class UNet(nn.Module):
    """Encoders and decoders, with a skip between those of the same resolution.

    The result has a logit for each class at each pixel.

    Parameters
    ----------
    num_classes
        Channels of the result, which has the size of the image.
    channels
        Channels at each resolution, the finest first.

    Examples
    --------
    >>> UNet(num_classes=3, channels=(4, 8, 8))(torch.zeros(1, 3, 33, 47)).shape
    torch.Size([1, 3, 33, 47])
    """

    def __init__(self, num_classes: int = 10, channels: Sequence[int] = (16, 32, 64, 128)):
        super().__init__()
        pairs = list(zip((3, *channels), channels, strict=False))
        self.encoders = nn.ModuleList(
            Encoder(a, b, pooled=number > 0) for number, (a, b) in enumerate(pairs)
        )
        self.decoders = nn.ModuleList(Decoder(b, a) for a, b in reversed(pairs[1:]))
        self.head = nn.Conv2d(channels[0], num_classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for encoder in self.encoders:
            x = encoder(x)
            skips.append(x)
        skips.pop()  # the coarsest result goes to the first decoder directly
        for decoder in self.decoders:
            x = decoder(x, skips.pop())
        return self.head(x)
