"""The weights of a plan: where they come from, and the module that has them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ..errors import PlanError
from ..ir.graph import Graph
from ..ir.module_state import hash_of
from ..kernels.half_conv import HALVES
from .job import Job


class PlanWeights:
    """What a plan knows of its network's weights; it holds none until `module` is read.

    Attributes
    ----------
    graph, job, training
        The network as it is planned, of what job, and whether it is trained.
    """

    graph: Graph
    job: Job
    training: bool

    @property
    def module(self) -> nn.Module:
        """The network with the weights of the job, in evaluation mode.

        Raises
        ------
        WeightsError
            If the checkpoint or the factory cannot be used.
        PlanError
            If the plan depends on the values of a buffer, which has others by now.
        """
        module = self.job.network.module(self.weights_dtype, self.weights_file)
        for name, planned in self.graph.fixed.items():
            if hash_of([module.get_buffer(name)]) != planned:
                raise PlanError(
                    f"{self.job.name} was planned with other values of its buffer {name}, which"
                    f" says where the image is read: load {self.weights_name} into the network, and"
                    " plan it again"
                )
        return module

    def build_module(self) -> None:
        """Build `module` now, so that a bad checkpoint is refused before ranks start.

        Raises
        ------
        WeightsError
            If the checkpoint or the factory cannot be used.

        Examples
        --------
        >>> import spnb
        >>> spnb.plan(spnb.Job("resnet20_v1", image_size=64, batch_size=1)).build_module()
        """
        _ = self.module

    @property
    def weights_dtype(self) -> torch.dtype | None:
        """Floating type of the weights; ``None`` if they keep types of their own.

        Training in half precision has its weights in fp32.
        """
        half = self.training and self.job.dtype in HALVES
        return torch.float32 if half else self.job.weights_dtype

    @property
    def weights_file(self) -> Path | None:
        """The file that weights are read from.

        A plan for training needs no checkpoint that exists already; without one, it begins with the
        file ``weights``, if the job names it.
        """
        return self._job_of_weights.weights_file

    @property
    def weights_origin(self) -> str:
        """Where the weights come from, in words: a file, a seed or the module.

        Examples
        --------
        >>> import spnb
        >>> spnb.plan(spnb.Job("resnet20_v1", image_size=64, batch_size=1)).weights_origin
        'seed 0'
        """
        return self._job_of_weights.weights_origin

    @property
    def weights_name(self) -> str:
        """As `weights_origin`, without the folder of a file.

        Examples
        --------
        >>> import spnb
        >>> spnb.plan(spnb.Job("resnet20_v1", image_size=64, batch_size=1)).weights_name
        'seed 0'
        """
        return self.weights_origin if self.weights_file is None else self.weights_file.name

    @property
    def _job_of_weights(self) -> Job:
        """The job, without a checkpoint that training has yet to write."""
        file = self.job.checkpoint
        unwritten = self.training and file is not None and not Path(file).exists()
        return self.job.replace(checkpoint=None) if unwritten else self.job
