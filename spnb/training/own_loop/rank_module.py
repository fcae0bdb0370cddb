"""The module of a rank in a program of the user's own: its parameters, and its plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ...ir.weights import named
from ...kernels.devices import computing_on
from ...kernels.half_conv import convolving
from ...runtime.worker import share_failures
from ...transport import Transport
from ...transport.base import among
from .module_tree import module_tree
from .network_pass import RankNetwork
from .network_share import Mode, NetworkShare


class RankModule(nn.Module):
    """A module with the parameters of a rank's stage.

    Parameters
    ----------
    module
        The network with its weights.
    share_of
        Gives this rank's share of the network in a mode; every rank must call it.
    transport
        Carries the messages.
    device
        The device that the rank computes on.
    seed
        Seed of dropout's random numbers.

    Attributes
    ----------
    of_no_layer
        A parameter of a rank whose stage has none that is trained; else None.
    """

    of_no_layer: nn.Parameter | None

    def __init__(
        self,
        module: nn.Module,
        share_of: Callable[[Mode], NetworkShare],
        transport: Transport,
        device: torch.device,
        seed: int,
    ):
        super().__init__()
        self._share_of, self._transport, self._device, self._seed = (
            share_of,
            transport,
            device,
            seed,
        )
        self._every = named(module)  # of all stages; those of other stages may be outdated
        self._names_of_state = tuple(module.state_dict())
        self._passes, self._known = 0, dict[Mode, tuple[NetworkShare, RankNetwork]]()
        self._anchor = torch.zeros((), requires_grad=True)
        self.training = module.training
        share, _ = self._loaded
        tree = module_tree({name: self._every[name] for name in share.names})
        self._modules.update(tree._modules)
        self._parameters.update(tree._parameters)
        self._buffers.update(tree._buffers)
        # PyTorch's optimizers refuse to have no parameter, and its GradScaler to have no gradient.
        idle = not any(parameter.requires_grad for parameter in self.parameters())
        self.of_no_layer = nn.Parameter(torch.zeros(1)) if idle else None

    @property
    def _loaded(self) -> tuple[NetworkShare, RankNetwork]:
        """The rank's share in the mode of now; every rank plans at the first use of a mode."""
        device = self._device.type
        casts = torch.is_autocast_enabled(device)
        mode = Mode(self.training, torch.get_autocast_dtype(device) if casts else None)
        if mode not in self._known:
            share = self._share_of(mode)
            self._known[mode] = share, share.network(self._every)
        return self._known[mode]

    @contextmanager
    def _together(self, at: Callable[[], str]) -> Iterator[None]:
        """The context of a call of all ranks; a failure here becomes known to the others."""
        dtype = self._loaded[1].rank_plan.dtype
        failures, fast = share_failures(self._transport, at), convolving({dtype}, self._device)
        ranks = among(self._transport, len(self._ranks))
        with computing_on(self._device), ranks, failures, fast:
            yield

    @property
    def _ranks(self) -> range:
        return range(self._loaded[1].rank_plan.num_ranks)

    @property
    def rank(self) -> int:
        """Number of this rank.

        Examples
        --------
        >>> on_ranks(lambda net: net.rank)
        [0, 1]
        """
        return self._transport.rank
