"""Blocks that attend within windows and grids of an image, written as they were published."""

import math

import torch
from torch import nn
from torch.nn import functional as F
from windows import image, windows


def relative_index(*size):
    """The number of the bias of each pair of positions of a window."""
    where = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij")).flatten(1)
    apart = (where[:, :, None] - where[:, None, :]).permute(1, 2, 0).contiguous()
    for axis, n in enumerate(size):
        apart[:, :, axis] += n - 1
        apart[:, :, axis] *= math.prod(2 * m - 1 for m in size[axis + 1 :])
    return apart.sum(-1)


class RelativeBias(nn.Module):
    """A bias for each head and each pair of positions of a window."""

    def __init__(self, size, heads):
        super().__init__()
        index = relative_index(*size)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(int(index.max()) + 1, heads))
        self.register_buffer("relative_position_index", index)

    def forward(self):
        n = len(self.relative_position_index)
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        return bias.view(n, n, -1).permute(2, 0, 1).contiguous().unsqueeze(0)


class WindowAttention(nn.Module):
    """Liu et al., *Swin transformer*, 2021: heads, a relative position bias, a mask."""

    def __init__(self, dim, size, heads=2):
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.bias = RelativeBias(size, heads)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x, mask=None):
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attention = (q * self.scale) @ k.transpose(-2, -1) + self.bias()
        if mask is not None:
            count = mask.shape[0]
            attention = attention.view(b // count, count, self.heads, n, n)
            attention = attention + mask.unsqueeze(1).unsqueeze(0)
            attention = attention.view(-1, self.heads, n, n)
        x = (attention.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c)
        return self.proj(x)


def shifted_mask(height, width, size, shift):
    """Which positions of a shifted window may attend to each other."""
    regions, count = torch.zeros(1, height, width, 1), 0
    for rows in (slice(0, -size), slice(-size, -shift), slice(-shift, None)):
        for columns in (slice(0, -size), slice(-size, -shift), slice(-shift, None)):
            regions[:, rows, columns, :] = count
            count += 1
    flat = windows(regions, size).view(-1, size * size)
    apart = flat.unsqueeze(1) - flat.unsqueeze(2)
    return apart.masked_fill(apart != 0, -100.0).masked_fill(apart == 0, 0.0)


class SwinBlock(nn.Module):
    """Windows, shifted if asked for, of an image padded to whole windows; the mask may be given."""

    def __init__(self, dim=8, size=4, shift=2, mask_of=None):
        super().__init__()
        self.size, self.shift = size, shift
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, (size, size))
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
        mask = shifted_mask(*mask_of, size, shift) if mask_of else None
        self.register_buffer("attn_mask", mask)

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        shortcut, (h, w), size = x, x.shape[1:3], self.size
        x = F.pad(self.norm1(x), (0, 0, 0, -w % size, 0, -h % size))
        padded, mask = x.shape, None
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
            mask = self.attn_mask
            if mask is None:
                mask = shifted_mask(*padded[1:3], size, self.shift).to(x.dtype)
        x = image(self.attn(windows(x, size), mask), padded, size)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), (1, 2))
        x = shortcut + x[:, :h, :w, :].contiguous()
        return (x + self.mlp(self.norm2(x))).permute(0, 3, 1, 2)


class SwinV2Attention(nn.Module):
    """Liu et al., *Swin transformer V2*, 2022: cosines, and a bias computed from coordinates."""

    def __init__(self, dim=8, size=4, heads=2):
        super().__init__()
        self.size, self.heads = size, heads
        self.logit_scale = nn.Parameter(torch.ones(heads, 1, 1))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, heads, bias=False))
        steps = torch.arange(-(size - 1), size, dtype=torch.float32)
        table = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1)[None] * 8 / (size - 1)
        table = torch.sign(table) * torch.log2(table.abs() + 1) / 3
        self.register_buffer("relative_coords_table", table)
        self.register_buffer("relative_position_index", relative_index(size, size))
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        n, shape = self.size**2, x.permute(0, 2, 3, 1).shape
        x = windows(x.permute(0, 2, 3, 1), self.size)
        qkv = self.qkv(x).reshape(len(x), n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attention = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        attention = attention * self.logit_scale.clamp(max=4.6).exp()
        table = self.cpb_mlp(self.relative_coords_table).view(-1, self.heads)
        bias = table[self.relative_position_index.view(-1)].view(n, n, -1).permute(2, 0, 1)
        attention = (attention + 16 * bias.sigmoid().unsqueeze(0)).softmax(-1)
        x = self.proj((attention @ v).transpose(1, 2).reshape(len(x), n, -1))
        return image(x, shape, self.size).permute(0, 3, 1, 2)


class MaxViTBlock(nn.Module):
    """Tu et al., *MaxViT*, 2022: attention in windows, then in a grid, as in timm."""

    def __init__(self, dim=8, size=4, heads=2, fused=True):
        super().__init__()
        self.size, self.heads, self.fused = size, heads, fused
        self.conv = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.layers = nn.ModuleList()
        for _ in range(2):
            parts = {"norm": nn.LayerNorm(dim), "qkv": nn.Linear(dim, 3 * dim)}
            parts |= {"proj": nn.Linear(dim, dim), "mlp": nn.Linear(dim, dim)}
            self.layers.append(nn.ModuleDict(parts))
        self.rel_pos = RelativeBias((size, size), heads)

    def attention(self, layer, x):
        b, shape = x.shape[0], x.shape
        qkv = layer["qkv"](x).view(b, -1, self.heads, 3 * shape[-1] // self.heads).transpose(1, 2)
        q, k, v = qkv.chunk(3, dim=3)
        bias = self.rel_pos()
        if self.fused:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        else:
            x = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        return layer["proj"](x.transpose(1, 2).reshape(shape))

    def blocks(self, x):
        b, h, w, c = x.shape
        x = x.view(b, h // self.size, self.size, w // self.size, self.size, c)
        return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, self.size, self.size, c)

    def unblocked(self, x, shape):
        h, w, c = shape[1:]
        x = x.view(-1, h // self.size, w // self.size, self.size, self.size, c)
        return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, h, w, c)

    def grid(self, x):
        b, h, w, c = x.shape
        x = x.view(b, self.size, h // self.size, self.size, w // self.size, c)
        return x.permute(0, 2, 4, 1, 3, 5).contiguous().view(-1, self.size, self.size, c)

    def ungridded(self, x, shape):
        h, w, c = shape[1:]
        x = x.view(-1, h // self.size, w // self.size, self.size, self.size, c)
        return x.permute(0, 3, 1, 4, 2, 5).contiguous().view(-1, h, w, c)

    def forward(self, x):
        x = (x + self.conv(x)).permute(0, 2, 3, 1)
        ways = ((self.blocks, self.unblocked), (self.grid, self.ungridded))
        for layer, (there, back) in zip(self.layers, ways):
            y = self.attention(layer, there(layer["norm"](x)))
            x = x + back(y, x.shape)
            x = x + layer["mlp"](layer["norm"](x))
        return x.permute(0, 3, 1, 2)


class LocallyGrouped(nn.Module):
    """Chu et al., *Twins*, 2021: the windows of its local attention, of an image of tokens."""

    def __init__(self, dim=8, size=4, heads=2):
        super().__init__()
        self.size, self.heads = size, heads
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, x):
        b, c, h, w = x.shape
        x, ws = x.flatten(2).transpose(1, 2).view(b, h, w, c), self.size
        down, right = -h % ws, -w % ws
        x = F.pad(x, (0, 0, 0, right, 0, down))
        rows, columns = x.shape[1] // ws, x.shape[2] // ws
        x = x.reshape(b, rows, ws, columns, ws, c).transpose(2, 3)
        qkv = self.qkv(x).reshape(b, rows * columns, ws * ws, 3, self.heads, c // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)
        attention = ((q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5).softmax(-1)
        x = (attention @ v).transpose(2, 3).reshape(b, rows, columns, ws, ws, c)
        x = x.transpose(2, 3).reshape(b, rows * ws, columns * ws, c)
        x = self.proj(x[:, :h, :w, :].reshape(b, h * w, c))
        return x.transpose(1, 2).reshape(b, c, h, w)


class OverlappingCross(nn.Module):
    """Chen et al., *HAT*, 2023: queries of a window attend to a larger window around it."""

    def __init__(self, dim=8, size=4, heads=2):
        super().__init__()
        self.size, self.heads, self.larger = size, heads, size + size // 2
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.unfold = nn.Unfold(self.larger, stride=size, padding=(self.larger - size) // 2)

    def forward(self, x):
        b, c, h, w = x.shape
        x = x.permute(0, 2, 3, 1)
        qkv = self.qkv(x).reshape(b, h, w, 3, c).permute(3, 0, 4, 1, 2)
        q = windows(qkv[0].permute(0, 2, 3, 1), self.size)
        pairs = self.unfold(torch.cat((qkv[1], qkv[2]), dim=1))
        n, m = pairs.shape[-1], self.larger**2
        pairs = pairs.reshape(b, 2, c, m, n).permute(1, 0, 4, 3, 2).reshape(2, b * n, m, c)
        q, k, v = (
            y.reshape(b * n, -1, self.heads, c // self.heads).permute(0, 2, 1, 3)
            for y in (q, pairs[0], pairs[1])
        )
        attention = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
        y = (attention @ v).transpose(1, 2).reshape(b * n, self.size**2, c)
        y = self.proj(image(y, x.shape, self.size)) + x
        return y.permute(0, 3, 1, 2)


class LeWin(nn.Module):
    """Wang et al., *Uformer*, 2022: tokens, windows, and a convolution in the feed-forward part."""

    def __init__(self, dim=8, size=4):
        super().__init__()
        self.size, self.norm = size, nn.LayerNorm(dim)
        self.attn = WindowAttention(dim, (size, size))
        self.up, self.down = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.depthwise = nn.Conv2d(2 * dim, 2 * dim, 3, padding=1, groups=2 * dim)

    def forward(self, x):
        b, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2).contiguous()
        y = windows(self.norm(tokens).view(b, h, w, c), self.size)
        y = image(self.attn(y), (b, h, w, c), self.size).view(b, h * w, c)
        tokens = tokens + y
        y = F.gelu(self.up(tokens)).transpose(1, 2).view(b, 2 * c, h, w)
        y = F.gelu(self.depthwise(y)).flatten(2).transpose(1, 2).contiguous()
        tokens = tokens + self.down(y)
        return tokens.transpose(1, 2).view(b, c, h, w)


class SwinIR(nn.Module):
    """Liang et al., *SwinIR*, 2021: a residual group, of an image padded by reflection."""

    def __init__(self, dim=8, size=4):
        super().__init__()
        self.size, self.first = size, nn.Conv2d(3, dim, 3, padding=1)
        self.blocks = nn.ModuleList([SwinBlock(dim, size, 0), SwinBlock(dim, size, size // 2)])
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)
        self.last = nn.Sequential(nn.Conv2d(dim, 12, 3, padding=1), nn.PixelShuffle(2))

    def forward(self, x):
        h, w = x.shape[2:]
        x = F.pad(x, (0, -w % self.size, 0, -h % self.size), "reflect")
        x = y = self.first(x)
        for block in self.blocks:
            y = block(y)
        return self.last(x + self.conv(y))[:, :, : 2 * h, : 2 * w]


class Shuffle(nn.Module):
    """Huang et al., *Shuffle transformer*, 2021: windows of positions far apart."""

    def __init__(self, dim=8, size=4, heads=2):
        super().__init__()
        self.size, self.heads = size, heads
        self.to_qkv, self.proj = nn.Conv2d(dim, 3 * dim, 1), nn.Conv2d(dim, dim, 1)
        self.local = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)

    def forward(self, x):
        b, c, h, w = x.shape
        s, d = self.size, c // self.heads
        # b (qkv h d) (ws1 hh) (ws2 ww) -> qkv (b hh ww) h (ws1 ws2) d
        qkv = self.to_qkv(x).reshape(b, 3, self.heads, d, s, h // s, s, w // s)
        q, k, v = qkv.permute(1, 0, 5, 7, 2, 4, 6, 3).reshape(3, -1, self.heads, s * s, d)
        y = ((q @ k.transpose(-2, -1)) * d**-0.5).softmax(-1) @ v
        # (b hh ww) h (ws1 ws2) d -> b (h d) (ws1 hh) (ws2 ww)
        y = y.reshape(b, h // s, w // s, self.heads, s, s, d).permute(0, 3, 6, 4, 1, 5, 2)
        x = x + self.proj(y.reshape(b, c, h, w))
        return x + self.local(x)


class OmniBlock(nn.Module):
    """Wang et al., *OmniSR*, 2023: positions and channels, in windows and in a grid."""

    def __init__(self, dim=8, size=4):
        super().__init__()
        self.size = size
        self.qkv = nn.ModuleList([nn.Conv2d(dim, 3 * dim, 1) for _ in range(4)])

    def forward(self, x):
        b, c, h, w = x.shape
        s = self.size
        split = (b, c, h // s, s, w // s, s)
        rows = (b, c, s, h // s, s, w // s)
        # shape, order with the window last and channels before it, and back
        ways = [
            (split, (0, 2, 4, 3, 5, 1)),
            (split, (0, 2, 4, 1, 3, 5)),
            (rows, (0, 3, 5, 2, 4, 1)),
            (rows, (0, 2, 4, 1, 3, 5)),
        ]
        for number, (layer, (shape, order)) in enumerate(zip(self.qkv, ways)):
            q, k, v = (y.reshape(shape).permute(order) for y in layer(x).chunk(3, 1))
            back = [order.index(k) for k in range(6)]
            of_channels = number % 2
            if of_channels:
                q, k, v = (y.flatten(4) for y in (q, k, v))
                q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
            else:
                q, k, v = (y.flatten(3, 4) for y in (q, k, v))
            y = (q @ k.transpose(-2, -1)).softmax(-1) @ v
            x = x + y.reshape([shape[k] for k in order]).permute(back).reshape(b, c, h, w)
        return x


class VideoSwin(nn.Module):
    """Liu et al., *Video Swin transformer*, 2022: windows of a volume, channels last."""

    def __init__(self, dim=4, size=(2, 3, 2), shift=(1, 1, 1)):
        super().__init__()
        self.size, self.shift = size, shift
        self.norm, self.attn = nn.LayerNorm(dim), WindowAttention(dim, size)

    def forward(self, x):
        x = x.permute(0, 2, 3, 4, 1)
        (b, d, h, w, c), (p, q, r) = x.shape, self.size
        y = torch.roll(self.norm(x), [-k for k in self.shift], (1, 2, 3))
        y = y.view(b, d // p, p, h // q, q, w // r, r, c).permute(0, 1, 3, 5, 2, 4, 6, 7)
        y = self.attn(y.reshape(-1, p * q * r, c))
        y = y.view(b, d // p, h // q, w // r, p, q, r, c).permute(0, 1, 4, 2, 5, 3, 6, 7)
        y = torch.roll(y.reshape(b, d, h, w, c), self.shift, (1, 2, 3))
        return (x + y).permute(0, 4, 1, 2, 3)


class WindowFilter(nn.Module):
    """Rao et al., *Global filter networks*, 2021, in windows: products of Fourier transforms."""

    def __init__(self, dim=8, size=4):
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.randn(size, size // 2 + 1, dim, 2))

    def forward(self, x):
        b, c, h, w = x.shape
        s = self.size
        y = x.permute(0, 2, 3, 1).view(b, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5)
        y = torch.fft.rfft2(y, dim=(3, 4), norm="ortho") * torch.view_as_complex(self.weight)
        y = torch.fft.irfft2(y, s=(s, s), dim=(3, 4), norm="ortho")
        return x + y.permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c).permute(0, 3, 1, 2)


class FourierUnit(nn.Module):
    """Suvorov et al., *LaMa*, 2022, in patches: real and imaginary parts as channels."""

    def __init__(self, dim=8, size=4):
        super().__init__()
        self.size, self.conv = size, nn.Conv2d(2 * dim, 2 * dim, 1)

    def forward(self, x):
        b, c, h, w = x.shape
        s = self.size
        y = x.view(b, c, h // s, s, w // s, s).permute(0, 2, 4, 1, 3, 5)
        f = torch.fft.fftshift(torch.fft.rfftn(y, dim=(-2, -1)), dim=-2)
        pairs = torch.stack((f.real, f.imag), -1).permute(0, 1, 2, 3, 6, 4, 5)
        pairs = pairs.reshape(-1, 2 * c, s, s // 2 + 1)
        pairs = F.relu(self.conv(pairs)).view(b, h // s, w // s, c, 2, s, s // 2 + 1)
        pairs = pairs.permute(0, 1, 2, 3, 5, 6, 4).contiguous()
        f = torch.fft.ifftshift(torch.complex(pairs[..., 0], pairs[..., 1]), dim=-2)
        y = torch.fft.irfftn(f, s=(s, s), dim=(-2, -1))
        return x + y.permute(0, 3, 1, 4, 2, 5).reshape(x.shape)


def of_global_queries(layers, x):
    """Hatamizadeh et al., *GC ViT*, 2023: one window of queries for all windows."""
    b, c, h, w = x.shape
    q = layers[0](F.adaptive_avg_pool2d(layers[0](x), (4, 4)))
    y = windows(x.permute(0, 2, 3, 1)).view(b, -1, 16, c)
    q = q.permute(0, 2, 3, 1).reshape(b, 1, 16, c).expand(-1, y.shape[1], -1, -1)
    y = (q @ y.transpose(-2, -1)).softmax(-1) @ y
    return image(y, (b, h, w, c)).permute(0, 3, 1, 2)
