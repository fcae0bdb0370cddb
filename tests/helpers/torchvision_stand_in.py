"""Stands in for torchvision, which timm and spandrel import, but none of the tried networks calls.

No torchvision fits the PyTorch of requirements.txt.
"""

import enum
import sys
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType

from torch import nn

Interpolation = enum.Enum(
    "InterpolationMode", ["NEAREST", "BILINEAR", "BICUBIC", "BOX", "HAMMING", "LANCZOS"]
)
DATASETS = ["CIFAR100", "CIFAR10", "MNIST", "KMNIST", "FashionMNIST", "ImageFolder"]
NAMES = {
    "ops.misc": {"FrozenBatchNorm2d": type("FrozenBatchNorm2d", (nn.Module,), {})},
    "datasets": {name: type(name, (), {}) for name in DATASETS},
    "transforms.functional": {"InterpolationMode": Interpolation, "rotate": None}
    | {"normalize": None},
    "transforms": {name: type(name, (), {}) for name in ["ToTensor", "CenterCrop"]},
}
"""What is imported from each module: a class where it is read or inherited from at import."""


def _modules():
    """The modules by their full names; each is an attribute of the one that holds it."""
    modules = {"torchvision": ModuleType("torchvision")}
    for path, names in NAMES.items():
        parent = "torchvision"
        for word in path.split("."):
            name = f"{parent}.{word}"
            module = modules.setdefault(name, ModuleType(name))
            setattr(modules[parent], word, module)
            parent = name
        vars(modules[parent]).update(names)
    return modules


@contextmanager
def torchvision_stand_in():
    """While packages are imported, torchvision is there; afterwards, nobody finds a stand-in."""
    if find_spec("torchvision"):
        yield
        return
    modules = _modules()
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
