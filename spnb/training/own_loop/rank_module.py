"""The module of a rank in a program of the user's own: its layers, and its plans."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any, NoReturn, Protocol, Self

import torch
from torch import nn

from ...errors import PlanError
from ...ir.module_state import attributes_of, modes_of
from ...ir.weights import named
from ...kernels.devices import computing_on
from ...kernels.half_conv import convolving
from ...runtime.worker import share_failures
from ...transport import Transport
from ...transport.base import among
from .joint_optimizers import refuse_joint_optimizers
from .network_pass import RankNetwork
from .network_share import Mode, NetworkShare

MODES = 8
"""Number of modes of a network whose plans are kept; a schedule of dropout may make many."""

FORWARD_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
BACKWARD_HOOKS = ("_backward_hooks", "_backward_pre_hooks")


class Planner(Protocol):
    """Gives this rank its share of a network."""

    def share_of(self, mode: Mode) -> NetworkShare:
        """Return the share in a mode; every rank must call it."""

    def of_copy(self, module: nn.Module) -> Planner:
        """Return the planner of a copy of the module."""


class RankModule(nn.Module):
    """A module with the layers of another, whose parameters are those of a rank's stage.

    Parameters
    ----------
    module
        The network with its weights.
    planner
        Gives this rank's share of the network in a mode.
    transport
        Carries the messages.
    device
        The device that the rank computes on.
    seed
        Seed of dropout's random numbers.
    shares
        This rank's shares in the modes that are known already; every rank plans if there are none.

    Attributes
    ----------
    of_no_layer
        A parameter of a rank whose stage has none that is trained; else None.
    """

    of_no_layer: nn.Parameter | None
    _module: nn.Module

    def __init__(
        self,
        module: nn.Module,
        planner: Planner,
        transport: Transport,
        device: torch.device,
        seed: int,
        shares: Iterable[tuple[Mode, NetworkShare]] = (),
    ):
        super().__init__()
        self._planner, self._transport, self._device, self._seed = planner, transport, device, seed
        self.__dict__["_module"] = module  # its layers are those of this module, and not it itself
        self._modules.update(module._modules)
        self._parameters.update(module._parameters)
        self._buffers.update(module._buffers)
        self._every = named(module)  # of all stages; those of other stages may be outdated
        self._hooks = _hooks_of(module, FORWARD_HOOKS)
        self._passes, self._known = 0, dict[Mode, tuple[NetworkShare, RankNetwork]]()
        for mode, share in shares:
            self._known[mode] = share, share.network(self._every)
        self._anchor = torch.zeros((), requires_grad=True)
        self.training = module.training
        share, network = self._loaded
        self._plan = network.rank_plan  # of the first mode
        # PyTorch's optimizers refuse to have no parameter, and its GradScaler to have no gradient.
        self.of_no_layer = None if network.trained else nn.Parameter(torch.zeros(1))
        if self._plan.num_stages > 1:
            refuse_joint_optimizers(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A network with weights of its own, as for a moving average of them; nothing is sent."""
        module = copy.deepcopy(self._module, memo)
        found = memo[id(self)] = type(self)(
            module=module,
            planner=self._planner.of_copy(module),
            transport=self._transport,
            device=self._device,
            seed=self._seed,
            shares=[(mode, share) for mode, (share, _) in self._known.items()],
        )
        found._passes = self._passes
        return found

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "a network over ranks cannot be pickled, since it belongs to this rank: save"
            " net.state_dict(), which has the weights of all ranks"
        )

    def train(self, mode: bool = True) -> Self:
        """Set all layers to training mode, or to evaluation mode.

        Parameters
        ----------
        mode
            Whether it is training mode.

        Examples
        --------
        >>> on_ranks(lambda net: net.train(False).training)
        [False, False]
        """
        self._module.train(mode)
        return super().train(mode)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters by name, without those that only ranks of other stages have.

        Examples
        --------
        >>> on_ranks(lambda net: [name for name, _ in net.named_parameters()])[0]
        ['weight', 'bias']
        """
        return self._own(super().named_parameters(*args, **kwargs))

    def named_buffers(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, torch.Tensor]]:
        """The buffers by name, without those that only ranks of other stages have.

        Examples
        --------
        >>> on_ranks(lambda net: list(net.named_buffers()))[0]
        []
        """
        return self._own(super().named_buffers(*args, **kwargs))

    def named_modules(
        self, memo: set[nn.Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Module]]:
        """All layers by path; in a module that has this one as a part, those of this rank's stage.

        A module that has this one as a part, as `torch.optim.swa_utils.AveragedModel`, finds its
        parameters so.  They are the same as those of `named_parameters`.

        Parameters
        ----------
        memo, prefix, remove_duplicate
            As of `torch.nn.Module`; the module that has this one as a part gives ``memo``.

        Examples
        --------
        >>> on_ranks(lambda net: [path for path, _ in net.named_modules()])[0]
        ['']
        """
        for path, layer in super().named_modules(memo, prefix, remove_duplicate):
            own = [item for item in layer._parameters.items() if item[1] is not None]
            if memo is None or layer is self or not own or any(self._own(own)):
                yield path, layer

    def _own(self, every: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """Those of named tensors that this rank has, or no rank."""
        here, elsewhere = set[int](), set[int]()
        for share, _ in self._known.values():
            for name, ranks in share.owners.items():
                (here if self.rank in ranks else elsewhere).add(id(self._every[name]))
        return (each for each in every if id(each[1]) in here or id(each[1]) not in elsewhere)

    @property
    def _loaded(self) -> tuple[NetworkShare, RankNetwork]:
        """The rank's share in the mode of now; every rank plans at the first use of a mode."""
        self._refuse_changes()
        device = self._device.type
        casts = torch.is_autocast_enabled(device)
        mode = Mode(
            layers=(modes_of(self._module, as_it_is=True), attributes_of(self._module)),
            autocast=torch.get_autocast_dtype(device) if casts else None,
        )
        if mode not in self._known:
            share = self._planner.share_of(mode)
            self._known[mode] = share, share.network(self._every)
            if len(self._known) > MODES:
                del self._known[next(iter(self._known))]
        return self._known[mode]

    def _refuse_changes(self) -> None:
        """Refuse layers and hooks that the user has added since."""
        module, now = self._module, named(self._module)
        changed = [name for name in self._every | now if now.get(name) is not self._every.get(name)]
        own = chain(module._modules.items(), module._parameters.items())
        changed += [name for name, each in own if getattr(self, name) is not each]
        if changed:
            raise PlanError(
                f"{changed[0]} was added, replaced or removed since spnb.parallel: change the"
                " module first, and make it parallel then"
            )
        added = _hooks_of(module, FORWARD_HOOKS) - self._hooks
        for path, kind, _ in sorted(added | _hooks_of(module, BACKWARD_HOOKS)):
            raise PlanError(
                f"{path or 'the module'} has a hook of its own ({kind.strip('_')}), which would not"
                " be called with values: let the network return the value, or put the hook on the"
                " network that spnb.parallel gave"
            )

    @contextmanager
    def _together(self, at: Callable[[], str]) -> Iterator[None]:
        """The context of a call of all ranks; a failure here becomes known to the others."""
        failures = share_failures(self._transport, at)
        fast = convolving({self._plan.dtype}, self._device)
        ranks = among(self._transport, len(self._ranks))
        with computing_on(self._device), ranks, failures, fast:
            yield

    @property
    def _ranks(self) -> range:
        return range(self._plan.num_ranks)

    @property
    def rank(self) -> int:
        """Number of this rank.

        Examples
        --------
        >>> on_ranks(lambda net: net.rank)
        [0, 1]
        """
        return self._transport.rank


def _hooks_of(module: nn.Module, kinds: Collection[str]) -> set[tuple[str, str, int]]:
    """The hooks of a module and its layers: the path, the kind, and the number of its function."""
    return {
        (path, kind, id(hook))
        for path, layer in module.named_modules()
        for kind in kinds
        for hook in getattr(layer, kind).values()
    }
