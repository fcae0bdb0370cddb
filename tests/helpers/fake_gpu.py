"""A device that is none: its tensors' numbers lie with the CPU, but PyTorch takes it for a GPU.

What was not moved there, or not made there, is refused, as a GPU would refuse it; so it shows on
any machine whether all that a rank does is done on its device.
"""

from collections import Counter
from contextlib import contextmanager

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from spnb.training.tapes import saved_pieces

_setup_privateuseone_for_python_backend("elsewhere")
torch.elsewhere.get_amp_supported_dtype = list  # what PyTorch asks wherever a network is recomputed
DEVICE = torch.device("elsewhere", 0)
aten = torch.ops.aten
MOVES = {aten._to_copy, aten.copy_}


class There(torch.Tensor):
    """A tensor of the device, and the numbers that it really has."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, numbers):
        self = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=DEVICE,
        )
        self.numbers = numbers
        return self

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return dispatch(func, args, kwargs or {})


class Made(TorchFunctionMode):
    """What is made of Python's numbers comes by way of the CPU; no other mode sees that."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.tensor and kwargs.get("device") == DEVICE:
            return func(*args, **{**kwargs, "device": "cpu"}).to(DEVICE)
        return func(*args, **kwargs)


class Computed(TorchDispatchMode):
    """Operators are computed there if an operand is there, or the result shall be."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # In inference mode operators come before they are taken apart.
        with self, torch._C.DisableTorchFunction():
            found = func.decompose(*args, **(kwargs or {}))
        if found is not NotImplemented:
            return found
        return dispatch(func, args, kwargs or {}, self.calls)


def _same(a, b, known=saved_pieces._same):
    """Tensors of a GPU differ by their addresses; the wrappers here have none."""
    return known(getattr(a, "numbers", a), getattr(b, "numbers", b))


saved_pieces._same = _same


@contextmanager
def elsewhere():
    """As long as this lasts, a thread has the device; gives how often it computed what there."""
    with Made(), Computed() as computed:
        yield computed.calls


def dispatch(func, args, kwargs, calls=None):
    """Compute there if operands are, or the result shall be."""
    packet = func.overloadpacket
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    there = [x for x in tensors if isinstance(x, There)]
    wanted = kwargs.get("device")
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    if not there and (wanted is None or torch.device(wanted).type != DEVICE.type):
        return func(*args, **kwargs)
    if packet not in MOVES:
        strangers = [x for x in tensors if x.ndim and not isinstance(x, There)]
        if there and strangers:
            raise RuntimeError(f"{func}: operands on {DEVICE} and on the CPU")
        if calls is not None:
            calls[str(packet)] += 1
    plain_args, plain_kwargs = pytree.tree_map_only(There, lambda x: x.numbers, (args, kwargs))
    result = func(*plain_args, **plain_kwargs)
    if packet is aten._to_copy and wanted is not None and torch.device(wanted).type == "cpu":
        return result
    if func._schema.name.endswith("_") and isinstance(args[0], torch.Tensor):
        return args[0]
    return pytree.tree_map_only(torch.Tensor, There, result)
