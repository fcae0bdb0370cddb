"""Opens images as sources, one for each input of a plan's network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import pandas as pd

from ..io.open import open_source
from ..io.sources import NOT_GIVEN, RowSource, Source, given
from ..planner.plan import Plan
from .job import Job
from .options import LeftOut
from .reading import Nodata, Reading, read_so
from .skipping import Skip, refuse_skipping, skipped_patches


class PlanInputs(Plan):
    """A plan that opens images in its own size and batch.

    Attributes
    ----------
    job
        What is planned.
    """

    job: Job

    def open(self, image: Any = NOT_GIVEN, *, resize: bool | None = None) -> Source:
        """Open an image as a source that fits the plan.

        Parameters
        ----------
        image
            What `spnb.io.open.open_source` takes; by default the synthetic image.  Where the job
            leaves the batch size out, the source has as many images as are given.
        resize
            Whether an image of another size than the plan's is resized rather than refused; by
            default what the job says.

        Returns
        -------
        Source
            Reads regions of a batch ``(batch, channels, *spatial)``.

        Raises
        ------
        ValueError, FileNotFoundError
            If the image is None, cannot be read, or does not fit.

        Examples
        --------
        >>> import spnb
        >>> plan = spnb.plan(spnb.Job("resnet20_v1", image_size=64, batch_size=2))
        >>> plan.open("retina", resize=True).shape
        (2, 3, 64, 64)
        """
        own_number = isinstance(self.job.batch_size, LeftOut) and given(image, "the image")
        return self._opened(image, self.job.input_shape, self.job.seed, resize, own_number)

    def _opened(
        self,
        image: Any,
        shape: Sequence[int],
        seed: int,
        resize: bool | None,
        own_number: bool = False,
    ) -> Source:
        """Open an image in a shape; with its own number of images if that is wanted."""
        batch, channels, *size = shape
        return open_source(
            image if given(image, "the image") else None,
            batch_size=None if own_number else batch,
            channels=channels,
            size=tuple(size),
            seed=seed,
            resize=self.job.resize if resize is None else resize,
        )

    def open_inputs(
        self, inputs: Any = NOT_GIVEN, *, resize: bool | None = None
    ) -> dict[str, Source]:
        """Open images as sources, one for each input of the network.

        Parameters
        ----------
        inputs
            What `open` takes.  For a network with several inputs: a list of these in the order of
            its arguments, or a dict by the names in ``input_shapes``.  By default they are
            synthetic.
        resize
            As of `open`.

        Returns
        -------
        dict of str to Source
            By name of the input in the graph.

        Raises
        ------
        ValueError
            If the number or the names of the inputs are not the network's.

        Examples
        --------
        >>> import spnb
        >>> sources = spnb.plan(spnb.Job("resnet20_v1", image_size=64, batch_size=2)).open_inputs()
        >>> [source.shape for source in sources.values()]
        [(2, 3, 64, 64)]
        """
        names = list(self.graph.inputs)
        arguments = list(signature(self.job.network.skeleton.forward).parameters)
        first, *others = in_order(inputs, names, self.job.shapes, arguments)
        sources: dict[str, Source] = {names[0]: self.open(first, resize=resize)}
        for number, (name, further) in enumerate(zip(names[1:], others, strict=True), 1):
            shape, seed = self.graph.shape(name), self.job.seed + number
            given(further, f"the input {name}")
            if len(shape) == len(self.job.input_shape):
                sources[name] = self._opened(further, shape, seed, resize)
            else:  # numbers without spatial axes
                sources[name] = RowSource.of(further, shape, seed)
        return sources

    def open_for_run(
        self,
        inputs: Any,
        reading: Reading,
        resize: bool | None = None,
        say: Callable[[str], None] = print,
    ) -> dict[str, Source]:
        """Open the inputs of a run, of which the first is read in its own way.

        Parameters
        ----------
        inputs, resize
            As of `open_inputs`.
        reading
            How the first input is read.
        say
            Says in a line that a file's number for nodata is read as NaN.

        Returns
        -------
        dict of str to Source
            By name of the input in the graph.

        Raises
        ------
        OptionError, ValueError
            If an input does not fit, or cannot be read so.

        Examples
        --------
        >>> import spnb
        >>> plan = spnb.plan(spnb.Job("resnet20_v1", image_size=64, batch_size=2))
        >>> image, = plan.open_for_run(NOT_GIVEN, Reading("imagenet")).values()
        >>> image.std
        (0.229, 0.224, 0.225)
        """
        if reading.skip is not None:
            refuse_skipping(self, self.job)
        opened = self.open_inputs(inputs, resize=resize)
        first = next(iter(opened))
        return {**opened, first: read_so(opened[first], reading, say)}

    def skipped(self, image: Any, skip: Skip, nodata: Nodata = "file") -> pd.DataFrame:
        """Count the patches of an image that see only background; all of it is read.

        Parameters
        ----------
        image, skip, nodata
            As of `spnb.driver.session.Session.infer`.

        Returns
        -------
        pandas.DataFrame
            A row for each rank that reads the image: ``rank``; ``patches``; ``background``, the
            number of those that see nothing else; and ``computed``, the number of these that a run
            computes, each as the first of its kind.

        Raises
        ------
        OptionError, ValueError
            If the plan cannot skip patches, or the image does not fit.

        Examples
        --------
        >>> import numpy as np, spnb, torch
        >>> net = torch.nn.Conv2d(1, 1, 3, padding=1)
        >>> slide = np.full((1, 1, 64, 64), 255, np.uint8)
        >>> slide[..., :8, :8] = 0
        >>> each_by_itself = {"patches": 64, "halo_D2": True, "fused_layers": "all"}
        >>> job = spnb.Job(net, image_size=64, batch_size=1, split_size=1, num_spatial_parts=1)
        >>> spnb.plan(job.replace(**each_by_itself)).skipped(slide, 255)
           rank  patches  background  computed
        0     0       64          60         8
        """
        reading = Reading(nodata=nodata, skip=skip)
        source = next(iter(self.open_for_run(image, reading, say=lambda line: None).values()))
        return skipped_patches(self, source)


def in_order(
    inputs: Any,
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]] | Mapping[str, tuple[int, ...]],
    arguments: Sequence[str],
) -> list[Any]:
    """Return the user's inputs in the order of the network's graph.

    Parameters
    ----------
    inputs
        The user's inputs: for one input anything; for several a list in the order of the network's
        arguments, or a dict by their names; `NOT_GIVEN` for synthetic inputs.
    names
        Inputs of the graph.
    shapes
        Shapes of the inputs, by name if the user named them.
    arguments
        Arguments of the network, in order.

    Raises
    ------
    ValueError
        If the number or the names of the inputs are not the network's.

    Examples
    --------
    >>> in_order(["A", "B"], ["b", "a"], {"b": (1, 3, 8, 8), "a": (1, 3, 8, 8)}, ["a", "b"])
    ['B', 'A']
    """
    if len(names) == 1 and not isinstance(inputs, Mapping):
        return [inputs]
    if not given(inputs, "the list of inputs"):
        return [NOT_GIVEN] * len(names)
    by_name = isinstance(shapes, Mapping)
    if isinstance(inputs, (list, tuple)) and by_name:
        planned = [name for name in arguments if name in shapes]
        if len(planned) == len(shapes) == len(inputs):
            inputs = dict(zip(planned, inputs, strict=True))
    if isinstance(inputs, Mapping):
        wanted = list(shapes if by_name else names)
        if set(inputs) != set(wanted):
            raise ValueError(f"the inputs are named {list(inputs)}, but {wanted} are planned")
        inputs = [inputs[name] for name in wanted]
    if not isinstance(inputs, (list, tuple)) or len(inputs) != len(names):
        count = len(inputs) if isinstance(inputs, (list, tuple)) else 1
        raise ValueError(f"{count} inputs, but the network takes {len(names)}: {', '.join(names)}")
    return list(inputs)
