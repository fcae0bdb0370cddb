"""Parameters by their dotted names, as the tree of modules that the names describe."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


def module_tree(tensors: Mapping[str, torch.Tensor]) -> nn.Module:
    """Return a module whose parameters and buffers have these names.

    Parameters
    ----------
    tensors
        Parameters, and buffers, by name.  They are registered, not copied.

    Examples
    --------
    >>> tree = module_tree({"stem.conv.weight": nn.Parameter(torch.ones(1))})
    >>> [name for name, _ in tree.named_parameters()]
    ['stem.conv.weight']
    """
    tree = nn.Module()
    for name, tensor in tensors.items():
        *path, leaf = name.split(".")
        place = tree
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        if isinstance(tensor, nn.Parameter):
            place.register_parameter(leaf, tensor)
        else:
            place.register_buffer(leaf, tensor)
    return tree
