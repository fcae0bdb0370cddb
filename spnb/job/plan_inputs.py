"""Opens what a network is run on, as a source for each of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from ..io.open import open_source
from ..io.sources import RowSource, Source
from ..planner.plan import Plan
from .job import Job


class PlanInputs(Plan):
    """A plan that opens images in the size and batch that it was made for.

    Attributes
    ----------
    job
        What is planned.
    """

    job: Job

    def open(self, image: Any = None) -> Source:
        """Open an image as a source that fits the plan.

        Parameters
        ----------
        image
            What `spnb.io.open.open_source` takes; None for the synthetic image.  An image that is
            named by file or sample is resized to the plan's size; an array must have that size.

        Returns
        -------
        Source
            Reads regions of a batch ``(batch, channels, *spatial)``.

        Raises
        ------
        ValueError, FileNotFoundError
            If the image cannot be read or does not fit.

        Examples
        --------
        >>> import spnb
        >>> spnb.plan(spnb.Job("resnet20_v1", image_size=64, batch_size=2)).open("retina").shape
        (2, 3, 64, 64)
        """
        batch, channels, *size = self.job.input_shape
        return open_source(
            image,
            batch_size=batch,
            channels=channels,
            size=tuple(size),
            seed=self.job.seed,
            resize=isinstance(image, (str, Path)),
        )

    def open_inputs(self, inputs: Any = None) -> dict[str, Source]:
        """Open what a network is run on, as a source for each of its inputs.

        Parameters
        ----------
        inputs
            What `open` takes.  For a network with several inputs: a list of these in the order of
            its arguments, or a dict by the names in ``input_shapes``.  None for synthetic inputs.

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
        sources: dict[str, Source] = {names[0]: self.open(first)}
        for number, (name, given) in enumerate(zip(names[1:], others, strict=True), 1):
            sources[name] = self._open_further(name, given, self.job.seed + number)
        return sources

    def _open_further(self, name: str, given: Any, seed: int) -> Source:
        """Open an input after the first: an image too, or numbers without spatial axes."""
        shape = self.graph.shape(name)
        if len(shape) != len(self.job.input_shape):
            return RowSource.of(given, shape, seed)
        batch, channels, *size = shape
        return open_source(given, batch_size=batch, channels=channels, size=tuple(size), seed=seed)


def in_order(
    inputs: Any,
    names: Sequence[str],
    shapes: Sequence[tuple[int, ...]] | Mapping[str, tuple[int, ...]],
    arguments: Sequence[str],
) -> list[Any]:
    """Return what is passed for each input of a network, in the order of its graph.

    Parameters
    ----------
    inputs
        What the user passes: for one input anything; for several a list in the order of the
        network's arguments, or a dict by their names; None for synthetic inputs.
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
    if inputs is None:
        return [None] * len(names)
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
        given = len(inputs) if isinstance(inputs, (list, tuple)) else 1
        raise ValueError(f"{given} inputs, but the network takes {len(names)}: {', '.join(names)}")
    return list(inputs)
