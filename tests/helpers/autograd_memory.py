"""What autograd holds between the passes."""

import torch


def held_bytes(nodes, known):
    """Bytes of the tensors that nodes of autograd's graph hold, those in ``known`` left out."""
    found, seen, waiting = {}, set(), list(nodes)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        for name in dir(node):  # those of a function in Python are "saved_tensors"
            held = name.startswith("_saved_") or name == "saved_tensors"
            saved = getattr(node, name) if held else None
            for tensor in saved if isinstance(saved, (tuple, list)) else [saved]:
                if isinstance(tensor, torch.Tensor):
                    found[tensor.untyped_storage().data_ptr()] = tensor
    for tensor in known:
        found.pop(tensor.untyped_storage().data_ptr(), None)
    return sum(tensor.untyped_storage().nbytes() for tensor in found.values())
