"""Complex numbers: conjugates, and real figures that tiles merge."""

import pytest
import torch
from tiled import Call, check_tiled, noise
from torch import nn
from torch.nn import functional as F
from training_steps import check, grid

SHAPE = (2, 4, 8, 12)


def spectrum(layers, x):
    return torch.complex(layers[0](x), layers[0](x + 1))


def shown(z):
    return torch.view_as_real(z) if z.is_complex() else z[None] if z.ndim == 0 else z


CALLS = {
    "conjugate": lambda z: (z * z.conj()).real,
    "conjugate of the next column": lambda z: (z * z.conj().roll(1, 3)).abs(),
    "conjugate twice": lambda z: (z.conj() * z.conj() * z).imag,
    "conjugate in an operator": lambda z: torch.linalg.vecdot(z, z, dim=1).real,
    "negative view": lambda z: z.conj().imag * z.imag,
    "negative view in windows": lambda z: F.avg_pool2d(z.conj().imag, 3, 1, 1),
    "adjoint": lambda z: z.flatten(2) @ z.flatten(2).adjoint(),
    "mH": lambda z: z.mH.mT * z,
    "mH of real numbers": lambda z: z.real.flatten(2) @ z.imag.flatten(2).mH,
    "einsum over space": lambda z: torch.einsum("bchw,bdhw->bcd", z, z),
    "norm": lambda z: torch.linalg.vector_norm(z, dim=(2, 3)),
    "norm of order 1": lambda z: torch.linalg.vector_norm(z, ord=1, dim=(2, 3)),
    "largest": lambda z: torch.linalg.vector_norm(z, ord=float("inf"), dim=(2, 3)),
    "norm of everything": lambda z: z.norm(),
    "norm of channels": lambda z: z.norm(dim=1),
    "normalize": lambda z: F.normalize(z, dim=3),
    "var": lambda z: z.var((2, 3)),
    "var of everything": lambda z: z.var(),
    "std": lambda z: z.std((-2, -1), correction=0, keepdim=True),
    "std of channels": lambda z: z.std(1),
    "std_mean": lambda z: torch.std_mean(z, (2, 3))[0] * torch.std_mean(z, (2, 3))[1].abs(),
    "mean": lambda z: z.mean((2, 3)),
    "mean of everything": lambda z: z.mean(),
    "sum": lambda z: z.sum((2, 3)),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_of_complex_numbers_is_tiled(name):
    def function(layers, x):
        return shown(CALLS[name](spectrum(layers, x)))

    net = Call(function, nn.Conv2d(4, 4, 3, padding=1))
    plans = check_tiled(net, SHAPE, grids=[(2, 2), (1, 3)])
    assert not any(plan.gathered for plan in plans)


@pytest.mark.long
@pytest.mark.parametrize("name", CALLS)
def test_its_gradients_are_those_of_the_untiled_network(name):
    def function(layers, x):
        return shown(CALLS[name](spectrum(layers, x)))

    torch.manual_seed(0)
    net = Call(function, nn.Conv2d(4, 4, 3, padding=1)).double()
    with torch.no_grad():
        like = net(noise(*SHAPE))
    target = noise(*like.shape, seed=2)
    check(net, noise(*SHAPE), target, [grid(2, 2)], rate=0.01)
