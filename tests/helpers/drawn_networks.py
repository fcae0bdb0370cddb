"""Networks that are drawn by chance, from layers of many kinds, each with a number of its own.

Unlike `networks.chains`, which hypothesis shrinks, a network is made anew from its number alone.
"""

import math
import random
from dataclasses import dataclass
from functools import partial

import torch
from networks import randomize
from tiled import Call, noise
from torch import nn
from torch.nn import functional as F

from spnb.ir.tiling import Tiling

CHANNELS = 4
MOST_VALUES = 60_000


@dataclass
class Drawn:
    """A network, its input, and how it is split."""

    net: nn.Module
    x: torch.Tensor
    kinds: list[str]
    tilings: list[Tiling]
    parts: int
    fused: int
    gather: bool

    def __str__(self):
        grids = " ".join("x".join(map(str, tiling.grid)) for tiling in self.tilings)
        size = "x".join(map(str, self.x.shape))
        gathered = " gather" if self.gather else ""
        return (
            f"{'-'.join(self.kinds)} of {size} on {grids}, {self.parts} parts,"
            f" fused {self.fused}{gathered}"
        )


def tokens(x):
    return x.flatten(2).mT


def heads(x):
    return x.flatten(2).unflatten(1, (2, -1)).mT


def image(y, like):
    return y.mT.reshape(like.shape[0], -1, *like.shape[2:])


def either(chance, *choices):
    return chance.choice(choices)


# --- windows ----------------------------------------------------------------------------------


def convolution(chance, shape):
    kernel, dilation = [chance.randint(1, 4) for _ in range(2)], chance.choice([1, 1, 2])
    padding = [chance.randint(0, dilation * (k - 1)) for k in kernel]
    mode = either(chance, "zeros", "zeros", "reflect", "replicate", "circular")
    groups, stride = either(chance, 1, 2, 4), [either(chance, 1, 1, 2) for _ in range(2)]
    return nn.Conv2d(
        4, 4, kernel, stride, padding, dilation, groups=groups, padding_mode=mode
    )  # fmt: skip


def same(chance, shape):
    return nn.Conv2d(4, 4, either(chance, 1, 3, 5), padding="same")


def transposed(chance, shape):
    kernel, stride = chance.randint(1, 4), chance.randint(1, 3)
    padding, more = chance.randint(0, kernel - 1), chance.randint(0, stride - 1)
    return nn.ConvTranspose2d(4, 4, kernel, stride, padding, more, groups=either(chance, 1, 2))


def pool(chance, shape):
    kernel = [chance.randint(2, 3) for _ in range(2)]
    padding = [chance.randint(0, k // 2) for k in kernel]
    stride, ceil = chance.randint(1, 3), either(chance, True, False)
    if chance.random() < 0.5:
        return nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
    return nn.AvgPool2d(kernel, stride, padding, ceil, either(chance, True, False))


def power_pool(chance, shape):
    return Call(lambda x: F.lp_pool2d(x.abs() + 0.1, 2, 2, ceil_mode=True))


def adaptive(chance, shape):
    size = [chance.randint(2, n) for n in shape[2:]]
    return either(chance, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)(size)


def pooled_and_unpooled(chance, shape):
    def unpooled(x):
        x = x + torch.linspace(0, 0.1, x[0, 0].numel()).to(x).view(x.shape[2:])  # no two are equal
        y, places = F.max_pool2d(x, 2, return_indices=True)
        return F.max_unpool2d(y, places, 2, output_size=x.shape)

    return Call(unpooled)


def unfolded(chance, shape):
    k = either(chance, 2, 3)
    return Call(lambda m, x: m[0](F.unfold(x, k, padding=k // 2)).view(
        x.shape[0], 4, *(n + 2 * (k // 2) - k + 1 for n in x.shape[2:])
    ), nn.Conv1d(4 * k * k, 4, 1))  # fmt: skip


def padded(chance, shape):
    mode = either(chance, "constant", "reflect", "replicate", "circular")
    low = -1 if mode == "constant" else 0
    pads = [chance.randint(low, 2) for _ in range(4)]
    return Call(lambda x: F.pad(x, pads, mode))


# --- sizes ------------------------------------------------------------------------------------


def resized(chance, shape):
    mode = either(chance, "nearest", "nearest-exact", "bilinear", "bicubic", "area")
    how = {} if mode not in ("bilinear", "bicubic") else {"align_corners": chance.random() < 0.5}
    if chance.random() < 0.5:
        size = [chance.randint(max(2, n // 2), 2 * n) for n in shape[2:]]
        return Call(lambda x: F.interpolate(x, size, mode=mode, **how))
    factor = either(chance, 2, 0.5, 1.5)
    return Call(lambda x: F.interpolate(x, scale_factor=factor, mode=mode, **how))


def warped(chance, shape):
    mode = either(chance, "bilinear", "nearest", "bicubic")
    padding, align = either(chance, "zeros", "border", "reflection"), chance.random() < 0.5
    matrix = [[chance.uniform(-1.2, 1.2) for _ in range(3)] for _ in range(2)]
    size = [chance.randint(2, n + 2) for n in shape[2:]]

    def net(x):
        theta = torch.tensor(matrix, dtype=x.dtype).expand(x.shape[0], -1, -1)
        places = F.affine_grid(theta, [x.shape[0], 1, *size], align_corners=align)
        return F.grid_sample(x, places, mode, padding, align)

    return Call(net)


def shuffled(chance, shape):
    return nn.Sequential(nn.Conv2d(4, 16, 1), nn.PixelShuffle(2))


def unshuffled(chance, shape):
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(16, 4, 1))


def sliced(chance, shape):
    rows, step = chance.randint(0, 2), either(chance, 1, 2)
    columns = either(chance, None, -1)
    return Call(lambda x: x[:, :, rows:, :columns:step])


def repeated(chance, shape):
    times, number = 2, either(chance, 2, 3)
    return either(
        chance,
        Call(lambda x: x.repeat_interleave(times, number)),
        Call(lambda x: x.repeat(1, 1, *(times if k == number else 1 for k in (2, 3)))),
    )


def rows_taken(chance, shape):
    rows = chance.sample(range(shape[2]), max(2, shape[2] // 2))
    rows = torch.tensor(either(chance, rows, sorted(rows)))
    return Call(lambda x: x[:, :, rows])


def halved(chance, shape):
    number, length = either(chance, 2, 3), chance.randint(2, 2 * shape[3])
    return either(
        chance,
        Call(lambda x: F.glu(x, number)),
        Call(lambda x: torch.cat(x.tensor_split(3, number)[::-1], number)),
        Call(lambda x: F.avg_pool1d(x.flatten(2), length).std(2)[..., None, None] + x),
        Call(lambda x: x.unfold(number, 2, 2).amax(-1)),
    )


# --- positions --------------------------------------------------------------------------------


def moved(chance, shape):
    shift = [chance.randint(-3, 3) for _ in range(2)]
    dims, quarters = either(chance, [2], [3], [2, 3]), chance.randint(1, 3)
    return either(
        chance,
        Call(lambda x: x.roll(shift, (2, 3)) + x),
        Call(lambda x: x.flip(dims) + x),
        Call(lambda x: x.mT.contiguous()),
        Call(lambda x: x.rot90(quarters, (2, 3))),
        Call(lambda x: x + x.mT if x.shape[2] == x.shape[3] else x),
    )


def differences(chance, shape):
    number = either(chance, 2, 3)
    return Call(lambda x: torch.diff(x, dim=number))


def scanned(chance, shape):
    number = either(chance, 2, 3)
    return either(
        chance,
        Call(lambda x: x.cumsum(number) / 10),
        Call(lambda x: x.cummax(number)[0]),
        Call(lambda x: x.logcumsumexp(number) / 5),
    )


def complex_numbers(chance, shape):
    def of(x):
        return torch.complex(x, x.flip(1))

    dims, number = either(chance, [2, 3], [3], [1], [1, 2]), either(chance, 2, 3)
    order = either(chance, 1, 2, 3, math.inf)
    return either(
        chance,
        Call(lambda x: (of(x) * of(x).conj().roll(1, number)).imag),
        Call(lambda x: F.avg_pool2d(of(x).conj().imag, 3, 1, 1) + of(x).abs()),
        Call(lambda x: x + torch.linalg.vector_norm(of(x), order, dims, keepdim=True)),
        Call(lambda x: x + of(x).std(dims, correction=0, keepdim=True)),
        Call(lambda x: x * (of(x).mean(dims, keepdim=True) * 1j).real),
        Call(
            lambda x: ((of(x).flatten(2) @ of(x).flatten(2).mH).real @ x.flatten(2)).view(x.shape)
        ),
        Call(lambda x: torch.fft.ifft(torch.fft.fft(of(x), dim=1).conj(), dim=1).real),
        Call(lambda x: torch.view_as_real(of(x).cumsum(number) / 10).sum(-1)),
        Call(lambda x: x + torch.polar(x.abs(), x).real),
    )


def written(chance, shape):
    def write(x):
        y = x.clone()
        y[:, 0, 1:-1] = 0.5
        y[:, :2, :, ::2] *= 2
        return y

    return Call(write)


def coordinates(chance, shape):
    def net(x):
        rows = torch.linspace(-1, 1, x.shape[2], dtype=x.dtype)
        columns = torch.arange(x.shape[3]).to(x)
        return x + rows[:, None] * columns / 10

    return Call(net)


def added(chance, shape):
    parameter = nn.Conv2d(1, 1, 1)
    parameter.weight = nn.Parameter(torch.zeros(4, *shape[2:]))
    return Call(lambda m, x: x + m[0].weight, parameter)


def triangle(chance, shape):
    offset = chance.randint(-2, 2)
    return Call(lambda x: x.tril(offset) + x / 2)


# --- channels ---------------------------------------------------------------------------------


def activation(chance, shape):
    return either(
        chance, nn.ReLU(), nn.GELU(), nn.SiLU(), nn.Hardswish(), nn.PReLU(4), nn.Softplus(),
        nn.Softmax2d(), nn.LogSoftmax(1),
    )  # fmt: skip


def gated(chance, shape):
    return nn.Sequential(nn.Conv2d(4, 8, 1), nn.GLU(1))


def in_place(chance, shape):
    def net(x):
        y = x * 1.5
        y.relu_()
        return y + x

    return Call(net)


def masked(chance, shape):
    return either(
        chance,
        Call(lambda x: torch.where(x > x.mean(1, keepdim=True), x, x / 2)),
        Call(lambda x: x.masked_fill(x < 0, 0.1)),
        Call(lambda x: x.clamp(-1, 1) + x.sign()),
    )


def ranked(chance, shape):
    return either(
        chance,
        Call(lambda x: x.sort(1)[0]),
        Call(lambda x: torch.cat(x.topk(2, 1)[:1] * 2, 1)),
        Call(lambda x: x.gather(1, x.argsort(1))),
        Call(lambda x: torch.zeros_like(x).scatter(1, x.argmax(1, keepdim=True), 1.0) + x),
    )


def joined(chance, shape):
    return Call(lambda m, x: torch.cat([m[0](x), x.tanh()], 1).chunk(2, 1)[1] + x,
                nn.Conv2d(4, 4, 3, padding=1))  # fmt: skip


def residual(chance, shape):
    body = [nn.Conv2d(4, 4, 3, padding=1), either(chance, nn.ReLU(), nn.Tanh(), nn.BatchNorm2d(4))]
    return Call(lambda m, x: x + m[1](m[0](x)), *body)


def of_channels_last(chance, shape):
    return Call(
        lambda m, x: m[2](F.gelu(m[1](m[0](x.permute(0, 2, 3, 1))))).permute(0, 3, 1, 2),
        nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4),
    )  # fmt: skip


# --- sums over the image ----------------------------------------------------------------------


def norm(chance, shape):
    return either(
        chance, nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True),
        nn.LayerNorm(list(shape[1:])), nn.LayerNorm(shape[-1]), nn.LocalResponseNorm(3),
    )  # fmt: skip


def gate(chance, shape):
    """Hu et al., *Squeeze-and-excitation networks*, 2018."""
    dims = either(chance, (2, 3), (2,), (3,))
    reduce = either(chance, torch.mean, torch.amax, torch.amin, torch.std, torch.sum)
    return Call(lambda m, x: x * m[0](reduce(x, dims, keepdim=True)).sigmoid(), nn.Conv2d(4, 4, 1))


def normed(chance, shape):
    return either(
        chance,
        Call(lambda x: F.normalize(x, dim=1)),
        Call(lambda x: x / (x.flatten(2).norm(dim=2)[..., None, None] + 1)),
        Call(lambda x: x - x.logsumexp((2, 3), keepdim=True)),
        Call(lambda x: x.flatten(2).softmax(2).view(x.shape) * 10 + x),
        Call(lambda x: x.softmax(3) + x.softmax(2)),
        Call(lambda x: (x - x.min()) / (x.max() - x.min() + 1)),
    )


def placed(chance, shape):
    k, largest = chance.randint(1, 4), either(chance, True, False)
    return either(
        chance,
        Call(lambda x: x + x.flatten(2).argmax(2)[..., None, None].to(x) / 50),
        Call(lambda x: x + x.flatten(2).topk(k, 2, largest)[0].mean(2)[..., None, None]),
        Call(lambda x: x + torch.histc(x.round(), k, -3, 3).sum() / x.numel()),
    )


def binned(chance, shape):
    """Sums or extremes of positions with the same number, given back to them."""
    how, count = either(chance, "sum", "mean", "amax"), chance.randint(2, 4)

    def net(x):
        flat = x.flatten(2)
        index = torch.arange(flat.shape[2]).mul(7).remainder(count) + (flat[:, :1] > 0)
        index = index.expand(-1, 4, -1)
        bins = torch.zeros(x.shape[0], 4, count + 1).to(x).scatter_reduce(2, index, flat, how)
        return bins.gather(2, index).view(x.shape) / 4 + x

    return Call(net)


def scored(chance, shape):
    """Scores of all positions that are no attention, or are read twice."""

    def weights(x):
        return (tokens(x) @ x.flatten(2) / 4).softmax(-1)

    return either(
        chance,
        Call(lambda x: image(weights(x) @ tokens(x) + weights(x).mean(1)[..., None], x)),
        Call(lambda x: image((tokens(x) @ x.flatten(2) / x[0, 0].numel()) @ tokens(x), x)),
        Call(lambda x: x + F.max_pool1d(x.flatten(2), 3).mean(2)[..., None, None]),
    )


def mixer(chance, shape):
    count = math.prod(shape[2:])
    return Call(lambda m, x: m[0](x.flatten(2)).view(x.shape) + x, nn.Linear(count, count))


def channel_attention(chance, shape):
    def net(x):
        y = F.normalize(x.flatten(2), dim=-1)
        return ((y @ y.mT).softmax(-1) @ x.flatten(2)).view(x.shape)

    return Call(net)


def attention(chance, shape):
    how = either(chance, "called", "written", "causal", "biased", "mixed", "pooled")
    if how == "mixed":
        return Call(
            lambda m, x: image(m[1](m[0](heads(x) @ heads(x).mT).softmax(-1)) @ heads(x), x),
            nn.Conv2d(2, 2, 1), nn.Conv2d(2, 2, 1),
        )  # fmt: skip
    if how == "written":
        return Call(lambda x: image((heads(x) @ heads(x * 2).mT / 2).softmax(-1) @ heads(x), x))
    if how == "biased":
        count = math.prod(shape[2:])
        bias = torch.arange(2.0 * count * count).sin().view(2, count, count).double()
        return Call(
            lambda x: image((heads(x) @ heads(x).mT + bias).softmax(-1) @ heads(x), x)
        )  # fmt: skip
    keys = (lambda x: F.avg_pool2d(x, 2)) if how == "pooled" else (lambda x: x)
    attend = partial(F.scaled_dot_product_attention, is_causal=how == "causal")
    return Call(lambda x: image(attend(heads(x), heads(keys(x)), heads(keys(x) + 1)), x))


def of_rows(chance, shape):
    def net(x):
        rows = x.permute(0, 2, 3, 1).flatten(0, 1)
        rows = F.scaled_dot_product_attention(rows, rows, rows)
        return rows.view(x.shape[0], *x.shape[2:], 4).permute(0, 3, 1, 2)

    return Call(net)


def class_token(chance, shape):
    token = nn.Linear(4, 1)

    def net(m, x):
        y = torch.cat([m[0].weight[None].expand(x.shape[0], -1, -1), tokens(x)], 1)
        y = y + F.scaled_dot_product_attention(y, y, y)
        return image(m[1](y)[:, 1:], x) + y[:, 0, :, None, None]

    return Call(net, token, nn.Linear(4, 4))


def windows(chance, shape):
    """Liu et al., *Swin transformer*, 2021."""
    size, shift = either(chance, 2, 3, 4), either(chance, 0, 1)

    def net(x):
        b, c, h, w = x.shape
        y = F.pad(x, (0, -w % size, 0, -h % size)).roll((-shift, -shift), (2, 3))
        rows, columns = y.shape[2] // size, y.shape[3] // size
        y = y.view(b, c, rows, size, columns, size).permute(0, 2, 4, 3, 5, 1).flatten(3, 4)
        y = F.scaled_dot_product_attention(y, y, y).unflatten(3, (size, size))
        y = y.permute(0, 5, 1, 3, 2, 4).reshape(b, c, rows * size, columns * size)
        return x + y.roll((shift, shift), (2, 3))[:, :, :h, :w]

    return Call(net)


def summed(chance, shape):
    return either(
        chance,
        Call(lambda x: torch.einsum("bchw,bdhw->bcd", x, x)[..., None] / 50 + x.mean(3)[:, None]),
        Call(lambda x: x.mean((2, 3), keepdim=True).expand_as(x) + x),
        Call(lambda x: x + x.var(2, keepdim=True) + x.prod(3, keepdim=True).tanh()),
    )


LAYERS = [
    convolution, convolution, convolution, same, same, transposed, pool, pool, power_pool, adaptive,
    pooled_and_unpooled, unfolded, padded, resized, resized, warped, shuffled, unshuffled, sliced,
    repeated, rows_taken, halved, moved, differences, scanned, written, coordinates, added,
    complex_numbers, triangle, activation, activation, gated, in_place, masked, ranked, joined,
    residual, of_channels_last, norm, norm, gate, gate, normed, placed, mixer, channel_attention,
    attention, attention, of_rows, class_token, windows, summed, binned, scored,
]  # fmt: skip


def drawn(number):
    """The network with a number."""
    chance = random.Random(number)
    batch, parts = chance.choice([(1, 1), (1, 1), (2, 1), (3, 2)])
    x = noise(batch, CHANNELS, *(chance.randint(5, 16) for _ in range(2)), seed=number)
    layers, kinds, y, wanted = [], [], x, chance.randint(1, 5)
    while len(layers) < wanted:
        make = chance.choice(LAYERS)
        layer = randomize(make(chance, tuple(y.shape)), number).double()
        try:
            with torch.no_grad():
                z = layer(y)
        except (RuntimeError, ValueError, IndexError):
            continue  # the image is too small for it
        small = z.ndim == 4 and z.numel() <= MOST_VALUES and min(z.shape[2:]) > 1
        if small and z.shape[:2] == y.shape[:2] and z.isfinite().all() and z.abs().max() < 1e4:
            layers, kinds, y = [*layers, layer], [*kinds, make.__name__], z
    grids = [(1, chance.randint(1, 3), chance.randint(1, 3)) for _ in range(chance.randint(1, 2))]
    if chance.random() < 0.5:  # else it is tiled to the end
        grids.append((chance.choice([1, min(2, batch // parts)]), 1, 1))
    return Drawn(
        nn.Sequential(*layers),
        x,
        kinds,
        [Tiling.even(grid) for grid in grids[: len(layers)]],
        parts,
        chance.choice([0, 0, 1, 100]),
        chance.random() < 0.3,
    )
