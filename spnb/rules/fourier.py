"""Fourier transforms of channels or in windows, and operators on the complex numbers they give."""

from __future__ import annotations

from ..ir.axes import dim, size_of
from ..ir.node import Node
from .base import Local, Rule
from .elementwise import elementwise, uncut
from .fallback import AlongDimensions
from .registry import rule

TRANSFORMS = """
    fft_fft fft_fft2 fft_fftn fft_hfft fft_ifft fft_ifft2 fft_ifftn fft_ihfft fft_irfft fft_irfft2
    fft_irfftn fft_rfft fft_rfft2 fft_rfftn _fft_c2c _fft_c2r _fft_r2c
"""


@rule(*TRANSFORMS.split())
def fourier(node: Node) -> Rule | None:
    """The rule of a Fourier transform: along an axis of the image it reads all of it."""
    axes, rank = node.operand_axes[0], len(node.operand_axes[0].dims)
    dims, sizes = node.args.get("dim"), node.args.get("s")
    if dims is None:
        dims = range(rank - len(sizes) if sizes else 0, rank)
    numbers = {d % rank for d in ([dims] if isinstance(dims, int) else dims)}
    pairs = zip(axes.dims, node.shape, strict=True)
    result = axes.with_dims([d if size_of(d) == n else dim(n) for d, n in pairs])
    if uncut(axes, sorted(numbers)):
        return Local(node, result)
    return None if 0 in numbers else AlongDimensions(node, result, tuple(sorted(numbers)))


COMPLEX = "angle complex conj conj_physical imag polar resolve_conj resolve_neg"

rule(*COMPLEX.split(), "_conj", "_conj_physical")(elementwise)


@rule("view_as_real", "view_as_complex")
def real_pairs(node: Node) -> Rule | None:
    """The rule of complex numbers as pairs of real ones, in a last dimension."""
    axes = node.operand_axes[0]
    to_real = node.kind == "view_as_real"
    return Local(node, axes.with_dims([*axes.dims, dim(2)] if to_real else axes.dims[:-1]))
