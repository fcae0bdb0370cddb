"""Operations of autograd that go over all ranks: a whole value, a sum, and a network's pass.

A loss is one number, which every rank computes.  So the gradient of a value that each rank has
whole is the same on all of them, and a rank's own part of it is its part of the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ...ir.tags import COLLECT
from ...transport import Transport
from ...transport.allreduce import AllReduce
from .local_pieces import LocalPieces
from .network_pass import NetworkPass, Together


class RunNetwork(torch.autograd.Function):
    """Runs a pass of the network.

    Its operands are the inputs, the trained parameters, and a number that always has a gradient: a
    rank without parameters, and without a tile that has a gradient, takes part in the backward
    pass too.
    """

    @staticmethod
    def forward(ctx: Any, run: NetworkPass, *operands: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.run = run
        ctx.set_materialize_grads(False)
        count = len(run.network.inputs)
        of_inputs = any(ctx.needs_input_grad[1 : count + 1])
        found = run.forward(operands[:count], of_inputs)
        ctx.mark_non_differentiable(*(each for each in found if not each.is_floating_point()))
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        of_inputs, of_weights = ctx.run.backward(gradients)
        return None, *of_inputs, *of_weights.values(), None


class WholeValue(torch.autograd.Function):
    """The whole of a value on every rank, from the regions of all."""

    @staticmethod
    def forward(
        ctx: Any,
        local: torch.Tensor,
        pieces: LocalPieces,
        ranks: Sequence[int],
        transport: Transport,
        together: Together,
    ) -> torch.Tensor:
        ctx.pieces = pieces
        whole = torch.zeros(pieces.axes.shape, dtype=local.dtype, device=local.device)
        pieces.put(whole, local)
        with together(lambda: "gather"):
            AllReduce(whole, ranks, transport, COLLECT.tag()).result()
            transport.flush()
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return ctx.pieces.cut(gradient), None, None, None, None


class SumOverRanks(torch.autograd.Function):
    """The sum of all elements of a value on all ranks, and their number."""

    @staticmethod
    def forward(
        ctx: Any,
        local: torch.Tensor,
        ranks: Sequence[int],
        transport: Transport,
        together: Together,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.shape = local.shape
        own = torch.stack([local.double().sum(), torch.tensor(float(local.numel())).double()])
        with together(lambda: "sum"):
            total, count = AllReduce(own, ranks, transport, COLLECT.tag()).result()
            transport.flush()
        exact = local.dtype if local.is_floating_point() else torch.get_default_dtype()
        ctx.mark_non_differentiable(count)
        return total.to(exact), count.to(exact)

    @staticmethod
    def backward(
        ctx: Any, gradient: torch.Tensor, _: torch.Tensor
    ) -> tuple[torch.Tensor | None, ...]:
        return gradient.expand(ctx.shape), None, None, None
