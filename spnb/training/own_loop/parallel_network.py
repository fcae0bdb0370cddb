"""A network over the ranks of a program of the user's own, as a module of PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .network_pass import NetworkPass, RankNetwork
from .network_tiles import NetworkTiles
from .network_weights import NetworkWeights
from .over_ranks import RunNetwork


class ParallelNetwork(NetworkTiles, NetworkWeights):
    """A network over the ranks of a program of the user's own; `spnb.parallel` makes it.

    Every rank runs the same program: it calls the network on its tiles, computes the loss, calls
    ``backward`` and steps its optimizer.  The parameters are those of this rank's stage; they are
    the parameters of the module that was given, so several networks may share them.

    A loss is one number that every rank computes: of a whole output (`gather`), or of its own
    regions with `sum` and `mean`, which go over all ranks.

    Examples
    --------
    Two ranks, here threads of one process.  The examples of the methods go on from this one.

    >>> import spnb
    >>> import torch
    >>> from spnb.transport.local import World
    >>> job = spnb.Job("unet", image_size=8, batch_size=2, split_size=1, num_spatial_parts=2)
    >>> image = torch.ones(2, 3, 8, 8)
    >>> def on_ranks(work):
    ...     def at_rank(transport):
    ...         layer = torch.nn.Conv2d(3, 1, 3, padding=1)
    ...         return work(spnb.parallel(layer, job, transport))
    ...     return World(2).run(at_rank)
    >>> on_ranks(repr)[0]
    'spnb.parallel: rank 0 of 2, stage 0, tile 0, owns Region(images 0:2, rows 0:8, columns 0:4)'
    """

    def __repr__(self) -> str:
        plan = self._loaded[1].rank_plan
        return (
            f"spnb.parallel: rank {plan.world_rank} of {plan.num_ranks}, stage {plan.stage}, tile"
            f" {plan.tile}, owns {', '.join(map(str, self.regions)) or 'no part of the input'}"
        )

    def forward(self, *inputs: torch.Tensor, **by_name: torch.Tensor) -> Any:
        """Run the network on the tiles of all ranks; every rank must call it.

        Parameters
        ----------
        *inputs, **by_name
            This rank's tiles of the inputs, as `scatter` cuts them.

        Returns
        -------
        torch.Tensor, or as the module returns it
            This rank's regions of the output: see `output_regions`.  A rank that has none gets an
            empty tensor, which takes part in ``backward``.

        Raises
        ------
        ValueError
            If an input is not this rank's tile.

        Examples
        --------
        >>> on_ranks(lambda net: net(net.scatter(image)).shape)[0]
        torch.Size([2, 1, 8, 4])
        """
        share, network = self._loaded
        given = self._checked(network, inputs, by_name)
        self._passes += 1
        run = NetworkPass(
            network=network,
            transport=self._transport,
            together=self._together,
            seed=self._seed * 1_000_003 + self._passes,
            recorded=torch.is_grad_enabled(),
        )
        trained = [network.weights[name] for name in network.trained]
        with torch.autocast(self._device.type, enabled=False):
            outputs = RunNetwork.apply(run, *given, *trained, self._anchor)
        with torch.no_grad():
            for name, times in share.counted.items():
                self._every[name] += times * len(network.rank_plan.micro_batch_sizes)
        return share.pack(outputs)

    def _checked(
        self,
        network: RankNetwork,
        inputs: Sequence[torch.Tensor],
        by_name: Mapping[str, torch.Tensor],
    ) -> list[torch.Tensor]:
        """The inputs in order; refused if they are not this rank's tiles."""
        given = dict(zip(network.inputs, inputs, strict=False)) | dict(by_name)
        if len(inputs) > len(network.inputs) or given.keys() != network.inputs.keys():
            names = ", ".join(network.inputs)
            raise ValueError(
                f"the network takes {len(network.inputs)} inputs ({names}), but"
                f" {len(inputs) + len(by_name)} are given"
            )
        for (name, tensor), local in zip(given.items(), network.inputs.values(), strict=True):
            if tuple(tensor.shape) != local.shape or tensor.dtype != local.dtype:
                raise ValueError(
                    f"rank {network.rank_plan.world_rank} takes {local.dtype} of shape"
                    f" {local.shape} for {name}, but it is given {tensor.dtype} of shape"
                    f" {tuple(tensor.shape)}: net.scatter cuts its tile from the whole of shape"
                    f" {local.axes.shape}"
                )
        return [given[name] for name in network.inputs]
