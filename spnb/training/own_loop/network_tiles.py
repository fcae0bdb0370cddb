"""What a rank has of the inputs and outputs of a network, and what all ranks have together."""

from __future__ import annotations

import torch

from ...ir.region import Region
from .local_pieces import LocalPieces
from .over_ranks import Carrier, SumOverRanks, WholeValue
from .rank_module import RankModule


class NetworkTiles(RankModule):
    """The tiles of a rank: cut from whole images, brought together, and summed over."""

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions of the first input that this rank is given, one for each micro-batch.

        Examples
        --------
        >>> on_ranks(lambda net: net.regions)[1]
        (Region(images 0:2, rows 0:8, columns 4:8),)
        """
        return next(iter(self._loaded[1].inputs.values())).regions

    def output_regions(self, number: int = 0) -> tuple[Region, ...]:
        """The regions of an output that this rank computes, one for each micro-batch.

        Parameters
        ----------
        number
            Number of the output, in the order in which the network returns them.

        Examples
        --------
        >>> on_ranks(lambda net: net.output_regions())[0]
        (Region(images 0:2, rows 0:8, columns 0:4),)
        """
        return self._output(number).regions

    def scatter(self, image: torch.Tensor, number: int = 0) -> torch.Tensor:
        """Cut this rank's tile from a whole batch of images; nothing is sent.

        Parameters
        ----------
        image
            The whole batch, ``(batch, channels, *spatial)``; or a tensor with another number of
            channels, or none, over the same image.
        number
            Number of the input.

        Returns
        -------
        torch.Tensor
            The tile, or an empty tensor on a rank of a later stage.

        Raises
        ------
        ValueError
            If the image has another size; the message has both shapes.

        Examples
        --------
        >>> on_ranks(lambda net: net.scatter(image).shape)[0]
        torch.Size([2, 3, 8, 4])
        """
        local = list(self._loaded[1].inputs.values())[number]
        return local.like(image.shape).cut(image.to(self._device))

    def scatter_target(self, target: torch.Tensor, number: int = 0) -> torch.Tensor:
        """Cut, from a whole target, the part that lies over this rank's regions of an output.

        Parameters
        ----------
        target
            The whole target: of the output's shape, with another number of channels, or without
            the dimension of channels.
        number
            Number of the output.

        Returns
        -------
        torch.Tensor
            Empty on a rank that has no region of the output.

        Raises
        ------
        ValueError
            If the target is of another size; the message has both shapes.

        Examples
        --------
        >>> classes = torch.zeros(2, 8, 8, dtype=torch.long)
        >>> on_ranks(lambda net: net.scatter_target(classes).shape)[0]
        torch.Size([2, 8, 4])
        """
        return self._output(number).like(target.shape).cut(target.to(self._device))

    def gather(self, local: torch.Tensor, number: int = 0) -> torch.Tensor:
        """Return the whole of an output on every rank; every rank must call it.

        Parameters
        ----------
        local
            This rank's regions of the output, or a tensor over them, such as the classes.
        number
            Number of the output.

        Returns
        -------
        torch.Tensor
            The same on every rank.  In ``backward`` each rank takes its own part of the gradient.

        Examples
        --------
        >>> on_ranks(lambda net: net.gather(net(net.scatter(image))).shape)
        [torch.Size([2, 1, 8, 8]), torch.Size([2, 1, 8, 8])]
        """
        pieces = self._output(number).like(local.shape, local=True)
        return WholeValue.apply(local, pieces, self._carrier)

    def sum(self, local: torch.Tensor) -> torch.Tensor:
        """Return the sum of all elements on all ranks; every rank must call it.

        Parameters
        ----------
        local
            This rank's numbers, such as losses of the positions of its regions.

        Returns
        -------
        torch.Tensor
            One number, the same on every rank.

        Examples
        --------
        >>> on_ranks(lambda net: net.sum(net.scatter(image)).item())
        [384.0, 384.0]
        """
        return SumOverRanks.apply(local, self._carrier)[0]

    def mean(self, local: torch.Tensor) -> torch.Tensor:
        """Return the mean of all elements on all ranks; every rank must call it.

        Parameters
        ----------
        local
            This rank's numbers, such as losses of the positions of its regions.

        Returns
        -------
        torch.Tensor
            One number, the same on every rank.

        Examples
        --------
        >>> on_ranks(lambda net: net.mean(net.scatter(image)).item())
        [1.0, 1.0]
        """
        total, count = SumOverRanks.apply(local, self._carrier)
        return total / count

    @property
    def _carrier(self) -> Carrier:
        return Carrier(self._ranks, self._transport, self._together)

    def _output(self, number: int) -> LocalPieces:
        return list(self._loaded[1].outputs.values())[number]
