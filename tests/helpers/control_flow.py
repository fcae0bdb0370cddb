"""Networks with oddities of control flow, drawn from a grammar by seed.

Run as a script, it tries many: ``python tests/helpers/control_flow.py 0 5000``.
"""

import contextlib
import io
import logging
import random
import sys

import torch
from networks import randomize
from running import assert_equal, planned, run
from tiled import noise
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from spnb.errors import CaptureError, OptionError, PlanError
from spnb.ir.tiling import Tiling

REFUSALS = (CaptureError, PlanError, OptionError)
BATCH, CHANNELS = 2, 3


def coordinates(x):
    rows, columns = (torch.linspace(-1, 1, n, dtype=x.dtype) for n in x.shape[2:])
    return torch.meshgrid(rows, columns, indexing="ij")


def grid(x, scale):
    rows, columns = coordinates(x)
    return (torch.stack([columns, rows], -1) * scale).expand(x.shape[0], -1, -1, -1)


def autocast(inner, x, **options):
    with torch.autocast("cpu", **options):
        return inner(x).to(x.dtype)


def without_gradient(inner, x):
    with torch.no_grad():
        return inner(x)


def in_inference_mode(inner, x):
    with torch.inference_mode():
        return inner(x)


def attempted(inner, x):
    try:
        return inner(x[:, :2])
    except (RuntimeError, ValueError):
        return inner(x)


def while_loop(inner, x):
    count = torch.zeros((), dtype=torch.int64)
    return torch.while_loop(lambda n, x: n < 2, lambda n, x: (n + 1, inner(x)), (count, x))[1]


def decided(inner, x):
    return inner(x) if x.mean() > 0 else x


def early(inner, x):
    for k in range(10):
        if k * 3 > x.shape[1]:
            return x
        x = inner(x)
    return x


def listed(inner, x):
    parts = [part.contiguous() for part in x.split(1, 1)]
    parts[1] = parts[1] + 1
    return inner(torch.cat(list(reversed(parts)), 1))


def overwritten(inner, x):
    y = inner(x).clone()
    y[:, 1:2, 2:5] *= 2
    y[:, 0] = x[:, 1]
    return y


def masked(inner, x):
    y = inner(x).clone()
    y[y < 0] = 0.5
    return y


def written_in_region(inner, x):
    y = inner(x)
    with torch.no_grad():
        y.mul_(2)
    return y


WRAPS = {
    "autocast off": lambda inner, x: autocast(inner, x, enabled=False),
    "autocast on": lambda inner, x: autocast(inner, x, dtype=torch.bfloat16),
    "no_grad": without_gradient,
    "inference_mode": in_inference_mode,
    "checkpoint": lambda inner, x: checkpoint(inner, x, use_reentrant=False),
    "reentrant checkpoint": lambda inner, x: checkpoint(inner, x, use_reentrant=True),
    "residual": lambda inner, x: x + inner(x),
    "cond on mean": lambda inner, x: torch.cond(x.mean() > 0, inner, lambda x: x * 2, (x,)),
    "cond on max": lambda inner, x: torch.cond(x.max() > 1, lambda x: x - 1, inner, (x,)),
    "cond on size": lambda inner, x: torch.cond(x.shape[2] > 4, inner, lambda x: x, (x,)),
    "while_loop": while_loop,
    "vmap": lambda inner, x: torch.vmap(lambda image: inner(image[None])[0])(x),
    "decided": decided,
    "attempted": attempted,
    "early": early,
    "listed": listed,
    "overwritten": overwritten,
    "masked": masked,
    "written in region": written_in_region,
    "jvp": lambda inner, x: torch.func.jvp(inner, (x,), (torch.ones_like(x),))[1],
    "grad": lambda inner, x: torch.func.grad(lambda x: inner(x).square().sum())(x),
    "scaled by item": lambda inner, x: inner(x) / (1 + abs(x.max().item())),
    "shifted by items": lambda inner, x: inner(x) - x.amin().item() * x.mean().item(),
    "cut by item": lambda inner, x: inner(x)[..., : int(x.argmax().item() % 3) + 1],
    "inner dictionary": lambda inner, x: {"y": inner(x)}["y"],
    "generator": lambda inner, x: sum(inner(x * k) for k in range(2)),
    "recursion": lambda inner, x: (lambda f: f(f, x, 2))(
        lambda f, x, n: f(f, inner(x), n - 1) if n else x
    ),
}

LEAVES = {
    "conv": lambda layers, x: layers[0](x),
    "another conv": lambda layers, x: layers[1](x),
    "relu in place": lambda layers, x: F.relu(layers[0](x), inplace=True),
    "norm": lambda layers, x: layers[2](x),
    "gate": lambda layers, x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "coordinates": lambda layers, x: x + coordinates(x)[0] * coordinates(x)[1],
    "more coordinates": lambda layers, x: layers[3](
        torch.cat([x, grid(x, 1.0).permute(0, 3, 1, 2)], 1)
    ),
    "sampled": lambda layers, x: F.grid_sample(x, grid(x, 0.9), align_corners=True),
    "resized": lambda layers, x: F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:]),
    "detached": lambda layers, x: layers[0](x).detach() + x,
    "data": lambda layers, x: layers[0](x).data,
    "where": lambda layers, x: torch.where(x > 0, x, layers[0](x)),
    "sorted": lambda layers, x: x.sort(1).values,
    "einsum": lambda layers, x: torch.einsum("bchw,dc->bdhw", x, layers[0].weight[:, :, 0, 0]),
}


class Drawn(nn.Module):
    """A network that a seed stands for."""

    def __init__(self, seed):
        super().__init__()
        chance = random.Random(seed)
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
                nn.Conv2d(CHANNELS, CHANNELS, 5, padding=2, padding_mode="reflect"),
                nn.GroupNorm(1, CHANNELS),
                nn.Conv2d(CHANNELS + 2, CHANNELS, 1),
            ]
        )
        self.steps = [self._draw(chance) for _ in range(chance.randint(1, 3))]

    def _draw(self, chance):
        leaf = chance.choice(list(LEAVES))
        return [*chance.sample(list(WRAPS), chance.choice([0, 1, 1, 2])), leaf]

    def _inner(self, names):
        first, *rest = names
        if not rest:
            return lambda x: LEAVES[first](self.layers, x)
        inner = self._inner(rest)
        return lambda x: WRAPS[first](inner, x)

    def forward(self, x):
        for names in self.steps:
            x = self._inner(names)(x)
        return x


def outcome(seed):
    """What became of a network: ``"equal"``, or the message of its refusal.

    A network that fails untiled too is left out.

    Anything else is raised: another exception, an unequal answer, text on standard error.
    """
    chance = random.Random(seed)
    net = randomize(Drawn(seed)).double().eval()
    shape = (BATCH, CHANNELS, chance.choice([8, 9, 12]), chance.choice([8, 11]))
    x = noise(*shape, seed=seed)
    try:
        with torch.no_grad():
            untiled = net(x.clone())
    except Exception:  # PyTorch's compiler, which runs torch.cond, raises errors of many classes
        return "untiled fails"
    tilings = [Tiling.even((1, *chance.choice([(2, 2), (1, 3), (2, 1)])))]
    options = {"parts": chance.choice([1, 1, 2]), "fused": chance.choice([0, 1 << 30])}
    options["allow_gather"] = chance.random() < 0.5
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), _heard(printed):
        try:
            plan = planned(net, shape, tilings, **options)
        except REFUSALS as error:
            assert "\n" not in str(error), str(error)
            assert not printed.getvalue(), printed.getvalue()
            return str(error)
        tiled, _ = run(plan, net, x)
    assert_equal(tiled, untiled)
    return "equal"


@contextlib.contextmanager
def _heard(stream):
    """Write what PyTorch logs to a stream too: its own handlers hold the first standard error."""
    handler = logging.StreamHandler(stream)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


def main(first, last):
    """Try the networks of many seeds; print what failed, and how many were equal."""
    found = {"equal": 0, "refused": 0, "failed": 0}
    for seed in range(first, last):
        try:
            result = outcome(seed)
            found["equal" if result == "equal" else "refused"] += 1
            if result != "equal" and "-v" in sys.argv:
                print(f"{seed} {Drawn(seed).steps}\n    {result[:300]}", flush=True)
        except BaseException as error:
            found["failed"] += 1
            print(
                f"{seed} {Drawn(seed).steps}\n    {type(error).__name__}: {str(error)[:600]}",
                flush=True,
            )
            if isinstance(error, KeyboardInterrupt):
                break
    print(found)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
