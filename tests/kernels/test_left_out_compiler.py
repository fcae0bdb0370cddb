"""An optimizer works as ever without PyTorch's compiler, which is there once it is asked for."""

import subprocess
import sys

BEGIN = """
import sys, torch
from spnb.kernels.left_out_compiler import COMPILER, MARK, compiler_left_out
def trained(optimizer):
    weight = torch.ones(3, requires_grad=True)
    optimizer = optimizer([weight], lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        (weight * torch.arange(3.0)).pow(2).sum().backward()
        optimizer.step()
    return weight.detach()
names = "Adam", "AdamW", "SGD", "RMSprop", "Adagrad"
every = [getattr(torch.optim, name) for name in names]
"""


def printed(code):
    found = subprocess.run(
        [sys.executable, "-c", BEGIN + code], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.split()


def test_optimizers_do_not_import_the_compiler():
    """Every step is as with the compiler, also after it was imported and uses the optimizers."""
    code = """
with compiler_left_out():
    without = [trained(each) for each in every]
print(COMPILER in sys.modules, "_dynamo" in vars(torch))
print(MARK in vars(torch.optim.Optimizer.zero_grad.__wrapped__))
print(all(torch.equal(a, trained(each)) for a, each in zip(without, every)))
print(COMPILER in sys.modules, torch._dynamo.__file__ is not None)
print(MARK in vars(torch.optim.Optimizer.zero_grad.__wrapped__))
"""
    assert printed(code) == ["False", "False", "False", "True", "True", "True", "True"]


def test_whoever_asks_for_the_compiler_gets_it():
    code = """
with compiler_left_out():
    trained(torch.optim.SGD)
    import torch._dynamo.config
    print(torch._dynamo.config.__name__)
print(torch._dynamo.__file__ is not None)
"""
    assert printed(code) == ["torch._dynamo.config", "True"]


def test_an_attribute_of_the_compiler_imports_it():
    code = """
with compiler_left_out():
    import torch._dynamo
    print(callable(torch._dynamo.optimize), torch._dynamo.__file__ is not None)
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(1)).item())
"""
    assert printed(code) == ["True", "True", "2.0"]
