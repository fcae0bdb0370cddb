"""The weights of all stages of a network, in a program of the user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ...errors import RankError
from ...ir.tags import COLLECT, OVERFLOW
from ...transport.allreduce import AllReduce
from ..clipping import clip_gradients
from .grad_scaler import GradScalerOverRanks
from .rank_module import RankModule


class NetworkWeights(RankModule):
    """The weights of a network whose stages are on several ranks."""

    def clip_grad_norm_(self, max_norm: float, norm_type: float = 2.0) -> torch.Tensor:
        """Scale the gradients of all stages so that their norm is at most a number.

        Every rank must call it.  With several stages, `torch.nn.utils.clip_grad_norm_` would see
        those of this rank's stage alone.

        Parameters
        ----------
        max_norm
            The largest norm.
        norm_type
            Order of the norm; infinity for the largest gradient.

        Returns
        -------
        torch.Tensor
            The norm before.

        Examples
        --------
        >>> def clip(net):
        ...     net.sum(net(net.scatter(image)) ** 2).backward()
        ...     return net.clip_grad_norm_(1.0) > 1.0
        >>> on_ranks(clip)
        [tensor(True), tensor(True)]
        """
        _, network = self._loaded
        parameters = {name: network.weights[name] for name in network.trainable}
        with torch.no_grad(), self._together(lambda: "clip_grad_norm_"):
            norm = clip_gradients(
                parameters=parameters,
                buckets=network.gradients_of(parameters),
                transport=self._transport,
                num_ranks=len(self._ranks),
                most=float(max_norm),
                order=float(norm_type),
            )
        return torch.tensor(norm, dtype=torch.float64)

    def no_sync(self) -> AbstractContextManager[None]:
        """Return a context that changes nothing, for loops written for `DistributedDataParallel`.

        Each backward pass sums gradients over ranks, and they add up until ``zero_grad``.

        Examples
        --------
        >>> def accumulated(net):
        ...     with net.no_sync():
        ...         net.sum(net(net.scatter(image))).backward()
        ...     return net.get_parameter("bias").grad
        >>> on_ranks(accumulated)[0]
        tensor([128.])
        """
        return nullcontext()

    def grad_scaler(self, **options: Any) -> torch.amp.GradScaler:
        """Return a scaler of the loss, whose ranks skip a step together.

        Every rank must use it in the same way.  With several stages, `torch.amp.GradScaler` itself
        would see the gradients of this rank's stage alone.

        Parameters
        ----------
        **options
            As of `torch.amp.GradScaler`, without the device.

        Returns
        -------
        torch.amp.GradScaler
            A scaler with PyTorch's methods.

        Examples
        --------
        >>> def scaled(net):
        ...     scaler, optimizer = net.grad_scaler(), torch.optim.SGD(net.parameters(), 0.1)
        ...     scaler.scale(net.sum(net(net.scatter(image)) ** 2)).backward()
        ...     scaler.step(optimizer)
        ...     scaler.update()
        ...     return scaler.get_scale()
        >>> on_ranks(scaled)
        [65536.0, 65536.0]
        """
        return GradScalerOverRanks(self._agree_on_overflow, self._device.type, **options)

    def _agree_on_overflow(self, optimizer: torch.optim.Optimizer) -> None:
        """Make the gradients of an optimizer infinite if those of any rank are."""
        own = self.of_no_layer
        if own is not None and own.requires_grad and own.grad is None:
            own.grad = torch.zeros_like(own)
        parameters = (p for group in optimizer.param_groups for p in group["params"])
        gradients = [p.grad for p in parameters if p.grad is not None]
        infinite = not all(bool(gradient.isfinite().all()) for gradient in gradients)
        with torch.no_grad(), self._together(lambda: "the scale of the loss"):
            mine = torch.tensor(float(infinite))
            count = AllReduce(mine, self._ranks, self._transport, OVERFLOW.tag()).result()
            self._transport.flush()
            if count:
                for gradient in gradients:
                    gradient.fill_(torch.inf)

    def state_dict(
        self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> Any:
        """Return the weights of the whole network; with several stages, every rank must call it.

        Parameters
        ----------
        destination
            A dict that they are added to.
        prefix
            Put before each name.
        keep_vars
            Whether parameters are returned, and not only their values.

        Returns
        -------
        dict
            The weights by the module's own names, on every rank.

        Examples
        --------
        >>> list(on_ranks(lambda net: net.state_dict())[0])
        ['weight', 'bias']
        """
        share, _ = self._loaded
        with torch.no_grad(), self._together(lambda: "state_dict"):
            for name, owners in share.owners.items():
                self._send_weight(self._every[name], owners)
            self._transport.flush()
        return self._module.state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)

    def _send_weight(self, tensor: torch.Tensor, owners: Sequence[int]) -> None:
        """Bring a weight up to date on the ranks that do not have it."""
        rank = self._transport.rank
        if rank == owners[0]:
            for other in set(self._ranks).difference(owners):
                sent = tensor.detach().clone(memory_format=torch.contiguous_format)
                self._transport.send(other, COLLECT.tag(), sent)
        elif rank not in owners:
            buffer = torch.empty_like(tensor, memory_format=torch.contiguous_format)
            self._transport.wait([self._transport.receive(owners[0], COLLECT.tag(), buffer)])
            tensor.copy_(buffer)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Read the weights of the whole network; every rank takes those of its stage.

        Parameters
        ----------
        state_dict
            Weights by the module's own names.
        strict
            Whether names that are missing, or are not the network's, are refused.
        assign
            Refused: tensors are copied, since the optimizer has the parameters.

        Raises
        ------
        RuntimeError
            If names or shapes do not fit.

        Examples
        --------
        >>> zeros = {"weight": torch.zeros(1, 3, 3, 3), "bias": torch.zeros(1)}
        >>> on_ranks(lambda net: net.load_state_dict(zeros))[0]
        <All keys matched successfully>
        """
        if assign:
            raise RuntimeError(
                "assign=True would replace the parameters that ranks train: leave it"
            )
        return self._module.load_state_dict(state_dict, strict)

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Any:
        """Refuse to change device or type; `torch.nn.Module.to` and its like call this."""
        for name, tensor in self._every.items():
            changed = fn(tensor.detach())
            if (changed.dtype, changed.device) != (tensor.dtype, tensor.device):
                raise RankError(
                    f"{name} is {tensor.dtype} on {tensor.device}, as it was planned, not"
                    f" {changed.dtype} on {changed.device}: change precision or device of the job"
                )
        return self
