"""Vision transformers with a class token, as they are published, but small."""

import torch
from torch import nn
from torch.nn import functional as F


class Attention(nn.Module):
    """One linear layer for queries, keys and values, as in timm."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.qkv, self.proj = (
            heads,
            nn.Linear(width, 3 * width),
            nn.Linear(width, width),
        )

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        x = F.scaled_dot_product_attention(*qkv.unbind(0))
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class WrittenOut(Attention):
    """The same by products and a softmax, with a bias for each pair of tokens (as in BEiT)."""

    def __init__(self, width, heads, count=0):
        super().__init__(width, heads)
        self.bias = nn.Parameter(torch.randn(heads, count, count)) if count else None

    def forward(self, x):
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        scores = scores if self.bias is None else scores + self.bias
        return self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, c))


class MultiHead(nn.Module):
    """PyTorch's own module."""

    def __init__(self, width, heads, batch_first=True, need_weights=False):
        super().__init__()
        self.batch_first, self.need_weights = batch_first, need_weights
        self.inner = nn.MultiheadAttention(width, heads, batch_first=batch_first)

    def forward(self, x):
        x = x if self.batch_first else x.transpose(0, 1)
        x = self.inner(x, x, x, need_weights=self.need_weights)[0]
        return x if self.batch_first else x.transpose(0, 1)


class Layer(nn.Module):
    """A transformer layer with layer scale (Touvron et al., *CaiT*, 2021)."""

    def __init__(self, width, attention, dropout=0.0):
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), attention
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x):
        x = x + self.scale * self.attention(self.norm1(x))
        return x + self.scale * self.mlp(self.norm2(x))


class ViT(nn.Module):
    """A vision transformer (Dosovitskiy et al., 2021) with some tokens in front of the image's.

    ``first`` of the extra tokens are joined before the position embedding is added, the others, as
    the registers of DINOv2 (Darcet et al., 2024), after it.
    """

    def __init__(
        self,
        size,
        head="class",
        first=1,
        registers=0,
        attention=Attention,
        depth=2,
        patch=2,
        width=8,
        **options,
    ):
        super().__init__()
        conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(size)]
        self.counts = [n // patch for n in size]
        count = torch.Size(self.counts).numel()
        self.first, self.extra, self.head = first, first + registers, head
        self.patches = conv(3, width, patch, patch)
        self.tokens = nn.Parameter(torch.randn(1, first, width))
        self.registers = nn.Parameter(torch.randn(1, registers, width)) if registers else None
        self.places = nn.Parameter(torch.randn(1, first + count, width))
        self.layers = nn.ModuleList(
            Layer(width, attention(width, 2), **options) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        dense = head in ("image", "readout")
        self.last = conv(width, 3, 3, padding=1) if dense else nn.Linear(width, 5)

    def forward(self, image):
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.tokens.expand(len(x), -1, -1), x], dim=1) + self.places
        if self.registers is not None:
            registers = self.registers.expand(len(x), -1, -1)
            x = torch.cat([x[:, : self.first], registers, x[:, self.first :]], dim=1)
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        if self.head == "class":
            return self.last(x[:, 0])
        if self.head == "mean":
            return self.last(x.mean(1))
        if self.head == "distilled":  # Touvron et al., *DeiT*, 2021
            return self.last(x[:, 0]), self.last(x[:, 1])
        if self.head == "mean of the image":
            return self.last(x[:, self.extra :].mean(dim=1))
        if self.head == "readout":  # Ranftl et al., *DPT*, 2021
            x = torch.cat(
                [x[:, self.extra :], x[:, :1].expand(-1, x.shape[1] - self.extra, -1)], -1
            )
            x = F.gelu(x.mean(-1, keepdim=True) + x[..., : x.shape[-1] // 2])
        else:
            x = x[:, self.extra :]
        return self.last(x.transpose(1, 2).reshape(len(x), -1, *self.counts))


class ClassAttention(nn.Module):
    """The class token reads all tokens (Touvron et al., *CaiT*, 2021)."""

    def __init__(self, width, heads, fused):
        super().__init__()
        self.heads, self.fused = heads, fused
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)

    def forward(self, x):
        b, n, c = x.shape
        shape = (b, n, self.heads, c // self.heads)
        q = self.q(x[:, 0]).unsqueeze(1).reshape(b, 1, *shape[2:]).permute(0, 2, 1, 3)
        k, v = (layer(x).reshape(shape).permute(0, 2, 1, 3) for layer in (self.k, self.v))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, 1, c))


class CaiT(nn.Module):
    """The class token joins the image's tokens in the last layers only."""

    def __init__(self, fused, patch=2, width=8):
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.blocks = nn.ModuleList(ClassAttention(width, 2, fused) for _ in range(2))

    def forward(self, image):
        x = self.patches(image).flatten(2).transpose(1, 2)
        token = self.token.expand(len(x), -1, -1)
        for norm, block in zip(self.norms, self.blocks):
            token = token + block(norm(torch.cat((token, x), dim=1)))
        return self.norms[-1](torch.cat((token, x), dim=1))[:, 0]


class CoordinateAttention(nn.Module):
    """Hou et al., *Coordinate attention for efficient mobile network design*, 2021."""

    def __init__(self, channels, pooled="mean"):
        super().__init__()
        self.pooled = pooled
        self.conv1, self.norm = nn.Conv2d(channels, 8, 1), nn.BatchNorm2d(8)
        self.rows, self.columns = nn.Conv2d(8, channels, 1), nn.Conv2d(8, channels, 1)

    def forward(self, x):
        height, width = x.shape[2:]
        if self.pooled == "mean":
            rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True)
        else:
            rows = F.adaptive_avg_pool2d(x, (height, 1))
            columns = F.adaptive_avg_pool2d(x, (1, width))
        y = torch.cat([rows, columns.permute(0, 1, 3, 2)], dim=2)
        y = F.hardswish(self.norm(self.conv1(y)))
        rows, columns = torch.split(y, [height, width], dim=2)
        columns = columns.permute(0, 1, 3, 2)
        return x * self.rows(rows).sigmoid() * self.columns(columns).sigmoid()
