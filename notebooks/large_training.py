"""A training step of a U-Net with group norms, on an image larger than memory, in patches.

Two ranks have a tile each, and compute it in patches.  Up to 1,024 pixels, plain PyTorch takes the
same step, and loss and weights are compared::

    python notebooks/large_training.py 8192 --patches 32
    python notebooks/large_training.py 512 --patches 4
"""

import argparse
import copy

import torch
from torch import nn
from torch.nn import functional as F

import spnb

LARGEST_WHOLE = 1024  # pixels of the largest side that plain PyTorch is given


def layer(channels: int, width: int) -> nn.Sequential:
    """A convolution, a group norm and a ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(4, width), nn.ReLU()
    )


class UNet(nn.Module):
    """Two levels of resolution below that of the image."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.fine, self.coarse = layer(3, width), layer(width, 2 * width)
        self.coarsest = layer(2 * width, 2 * width)
        self.last = nn.Sequential(layer(3 * width, width), nn.Conv2d(width, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores of each pixel."""
        fine = self.fine(x)
        coarse = self.coarse(F.max_pool2d(fine, 2))
        coarsest = self.coarsest(F.max_pool2d(coarse, 2))
        coarse = coarse + F.interpolate(coarsest, scale_factor=2, mode="bilinear")
        below = F.interpolate(coarse, scale_factor=2, mode="bilinear")
        return self.last(torch.cat([fine, below], dim=1))


def main() -> None:
    """Read the command line, train, and print loss and memory."""
    parser = argparse.ArgumentParser(description="a training step in patches")
    parser.add_argument("size", type=int, help="height and width of the image")
    parser.add_argument("--patches", type=int, default=4, help="patches of each of the two tiles")
    given = parser.parse_args()
    torch.manual_seed(0)
    network = UNet()
    image = torch.rand(1, 3, given.size, given.size)
    mask = (image.mean(dim=1) > 0.5).long()
    job = spnb.Job(
        copy.deepcopy(network),
        image_size=given.size,
        batch_size=1,
        split_size=1,
        num_spatial_parts=2,
        slice_method="vertical",
        patches=given.patches,
        optimizer="sgd",
        learning_rate=0.1,
        weight_decay=0.0,
    )
    plan = spnb.plan(job, training=True)
    print(plan)
    with spnb.Cluster(plan, progress=False) as cluster:
        training = cluster.train(image, mask)
    peaks = ", ".join(f"{peak / 2**20:,.0f} MiB" for peak in training.peak_memory_bytes)
    print(f"loss {training.history.loss[0]:.7f}; {training.history.seconds[0]:.0f} s; ranks: {peaks}")
    if given.size <= LARGEST_WHOLE:
        loss = F.cross_entropy(network(image), mask)
        loss.backward()
        torch.optim.SGD(network.parameters(), 0.1).step()
        trained = training.module.state_dict()
        pairs = [(trained[name], weight) for name, weight in network.state_dict().items()]
        error = max(float((a - b).abs().max()) for a, b in pairs)
        print(f"plain PyTorch: loss {float(loss.detach()):.7f}; largest difference of a weight {error:.1e}")


if __name__ == "__main__":
    main()
