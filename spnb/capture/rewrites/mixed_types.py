"""Calls whose tensors must have one type: PyTorch refuses others, but only where it computes.

Fake tensors have shapes but no memory, and for these operators PyTorch compares the types of real
tensors only.  So a network that makes a table in fp32, and multiplies it by weights in fp64, would
be captured, and fail in a rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from ...errors import CaptureError
from ...ir.node import Node, Ref, Weight
from ...ir.option_words import option
from ...kernels.half_conv import HALVES

OF_NORMS = ("input", "weight", "bias", "running_mean", "running_var")
NORMS = dict.fromkeys(
    ["batch_norm", "instance_norm", "layer_norm", "group_norm", "native_layer_norm",
     "native_group_norm", "_native_batch_norm_legit_no_training"],
    OF_NORMS,
)  # fmt: skip
"""Norms: of half precision, they take weights in fp32, too."""

ONE_TYPE: dict[str, tuple[str, ...]] = {
    "linear": ("input", "weight", "bias"),
    "matmul": ("self", "other"),
    "mm": ("self", "mat2"),
    "mv": ("self", "vec"),
    "addmm": ("self", "mat1", "mat2"),
    "addmv": ("self", "mat", "vec"),
    "index_put": ("self", "values"),
    "index_add": ("self", "source"),
    "index_copy": ("self", "source"),
    "cdist": ("x1", "x2"),
    "_cdist_forward": ("x1", "x2"),
    "cross": ("self", "other"),
    "linalg_cross": ("self", "other"),
    "complex": ("real", "imag"),
    "polar": ("abs", "angle"),
    **dict.fromkeys(["grid_sampler", "grid_sampler_2d", "grid_sampler_3d"], ("input", "grid")),
    **NORMS,
}
"""By operator, its arguments that must have one type."""


def refuse_mixed_types(nodes: Iterable[Node], types: Mapping[str, torch.dtype]) -> None:
    """Refuse calls on several types that PyTorch does not compute.

    Parameters
    ----------
    nodes
        The calls of a network.
    types
        The types of its inputs, weights and literals, by name.

    Raises
    ------
    CaptureError
        With the layer, the operator and the types.
    """
    nodes = list(nodes)
    known = {**types, **{node.name: node.dtype for node in nodes}}
    for node in nodes:
        found = {}
        for name in ONE_TYPE.get(node.kind, ()):
            leaf = node.args.get(name)
            if isinstance(leaf, (Ref, Weight)):
                found[name] = known.get(leaf.value if isinstance(leaf, Ref) else leaf.name)
        kinds = set(found.values()) - {None}
        if node.kind in NORMS and found.pop("input", None) in HALVES:
            kinds = set(found.values()) - {None, torch.float32}
        if len(kinds) > 1:
            said = ", ".join(
                f"{name} in {str(kind).removeprefix('torch.')}" for name, kind in found.items()
            )
            raise CaptureError(
                f"{node.label} has {said}, and PyTorch computes it in one type only: convert one"
                f" to the other's type (.to), or use the {option('precision')} in which the network"
                " makes its own tensors"
            )
