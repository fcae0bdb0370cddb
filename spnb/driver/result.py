"""The result of a run: its record, the output, and a check against the untiled run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..display import plots
from ..display.progress import Bar, shown_by_module
from ..engine.report import Report
from ..errors import CheckFailed
from ..io.background import background_of
from ..io.nodata import mask_of
from ..io.sources import Source
from ..io.tensors import read_tensor
from ..io.writing.sample_types import changed_colours
from ..io.writing.writers import Store
from ..ir.axes import Axes as ValueAxes
from ..ir.cost import CORE
from ..ir.node import Weight
from ..ir.region import Region
from ..ir.value_range import ValueRange
from ..ir.weights import tensors_of
from ..job.job_plan import JobPlan
from ..job.parsing import INT8
from ..kernels.compat import pytree
from ..kernels.half_conv import convolving
from ..runtime.output_samples import OutputSample, OutputWindow, sampled
from ..runtime.state import Piece
from .check import TOLERANCES, Check, compared
from .result_view import is_picture, output_layer
from .run_record import RunRecord
from .saved_outputs import files_read, grid_of, makers_of, named_outputs, store_of, value_of
from .weight_files import weights_hash

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ..viewer.run_view import RunView


@dataclass(frozen=True)
class RunOutputs:
    """The outputs of a run that stayed on its ranks.

    Attributes
    ----------
    fetch
        Fetches the pieces of some ranks.
    sample
        Fetches every n-th position of a part of an output, as far as some ranks have it.
    range
        Finds the range of an output's numbers on some ranks.
    save
        Has some ranks write their regions of an output to a file.
    """

    fetch: Callable[[Sequence[int]], list[list[Piece]]]
    sample: Callable[[Sequence[int], OutputWindow], list[list[OutputSample]]]
    range: Callable[[Sequence[int], str], ValueRange]
    save: Callable[[Sequence[int], str, Store], None]


class Result(RunRecord):
    """One run of a plan on an image: its record, its output, and a check of the output.

    `spnb.driver.session.Session.infer` returns it.  The attributes are those of `RunRecord`.  The
    examples of the methods go on from this one.

    Examples
    --------
    >>> import spnb
    >>> job = spnb.Job("resnet20_v1", image_size=32, batch_size=1, num_spatial_parts=2)
    >>> result = spnb.InProcess(spnb.plan(job), progress=False).infer()
    >>> sorted(result.seconds), len(result.reports), result.source.shape
    (['infer', 'step'], 3, (1, 3, 32, 32))
    """

    def __init__(
        self,
        plan: JobPlan,
        sources: dict[str, Source],
        reports: Sequence[Report],
        seconds: float,
        outputs: RunOutputs,
        weights: int | None,
        progress: bool = True,
    ):
        super().__init__(plan, sources, reports, seconds)
        self._outputs, self._weights, self._progress = outputs, weights, progress

    @cached_property
    def output(self) -> Any:
        """The network's output, gathered from the ranks.

        Returns
        -------
        torch.Tensor or a structure of them
            As the network returns it: one tensor, or a tuple, list or dict of them, on the CPU.

        Raises
        ------
        RuntimeError
            If another plan was loaded since, and the output had stayed on the ranks.

        Examples
        --------
        >>> result.output.shape
        torch.Size([1, 10])
        """
        graph = self.plan.graph
        whole = {
            value: torch.empty(graph.shape(value), dtype=graph.dtype_of(value))
            for value in graph.outputs
        }
        for piece in self._pieces():
            held = Region.whole(graph.extent(piece.value))
            graph.axes[piece.value].put(whole[piece.value], held, piece.region, piece.tensor)
        known = [leaf.name for leaf in graph.returned if isinstance(leaf, Weight)]
        return graph.pack(whole, tensors_of(self.plan.module, known, graph))

    def _pieces(self) -> list[Piece]:
        away = [report.rank for report in self.reports if report.pieces is None]
        fetched = dict(zip(away, self._outputs.fetch(away), strict=True)) if away else {}
        return [
            piece
            for report in self.reports
            for piece in (fetched[report.rank] if report.pieces is None else report.pieces)
        ]

    def save(
        self, path: str | Path, output: int | str | None = None, *, overwrite: bool = False
    ) -> Path:
        """Write an output to a file, by region: each rank writes its own tile.

        The file is written beside the path, and moved there when it is complete.

        Parameters
        ----------
        path
            ``.npy``, ``.tif`` or ``.zarr``, in the layout that the network returns; a TIFF has a
            page for each image and channel.  ``.png`` for one image of 1 or 3 channels: classes,
            as ``argmax`` gives them, keep their numbers, and colours in [0, 1] become 0 to 255.
            In a TIFF and a PNG, integers are of 8 or 16 bits if these hold all of them.  A TIFF has
            the georeference or the pixel size of the image's TIFF, for the output's positions.
        output
            The number or key of an output, where the network returns several.
        overwrite
            Whether an array that exists may be replaced; anything else never is.

        Returns
        -------
        pathlib.Path
            The file.

        Raises
        ------
        ValueError
            If the format is unknown or cannot hold the output, if there are several outputs and
            none is named, or if the run reads the file.
        FileExistsError
            If there is an array, and ``overwrite`` is False, or anything else.
        WriteError, RunError, RankError
            If the file cannot be made, or a rank cannot write its tile.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.load(result.save(f"{folder}/scores.npy")).shape
        (1, 10)
        """
        value = value_of(self.plan.graph, output)
        store = store_of(self.plan.graph, path, output)
        store.require(overwrite, files_read(self.plan.job, self.sources))
        makers = makers_of(self.plan, value)
        if store.depends_on_numbers:
            numbers = self._outputs.range(makers, value)
            store = store.holding(numbers)
            self._say(changed_colours(store.path, store.dtype, numbers))
        if store.is_tiff:
            grid, line = grid_of(self.plan.graph, self.sources, value)
            is_masked = mask_of(next(iter(self.sources.values()))) is not None
            store = replace(store, grid=grid, nan_is_nodata=is_masked)
            self._say(line)
        with store.created() as created:
            self._outputs.save(makers, value, created)
        return store.path

    def _say(self, line: str) -> None:
        if line and self._progress:
            print(line, flush=True)

    def show(self, output: int | str | None = None, overlay: str | None = None) -> RunView:
        """Show image, output, tiles and timeline in one widget, to look into by hovering.

        Image and output are read by region, at the resolution of the screen; a large one is never
        held whole.  Of a batch, the first image is shown.  A notebook without a kernel shows a
        picture of the same.

        Parameters
        ----------
        output
            The number or key of an output, where the network returns several.
        overlay
            How the output is painted: ``"classes"`` (of the highest score), ``"probability"``,
            ``"heat"`` or ``"colours"``; by default what suits its numbers.

        Returns
        -------
        spnb.viewer.run_view.RunView
            A widget.  Its ``scene`` has the numbers that are drawn.

        Raises
        ------
        ValueError
            If there is no such output or overlay, or the image has other than two axes.
        RuntimeError
            If another plan was loaded since, and the output had stayed on the ranks.

        Examples
        --------
        >>> view = result.show()
        >>> len(view.scene["ranks"]), view.scene["extent"], list(view.layers)
        (3, [32, 32], ['image'])
        """
        from ..viewer.layer import Layer
        from ..viewer.run_view import require_style
        from ..viewer.views import view_of

        graph, styles = self.plan.graph, require_style(overlay)
        single = len(self.named_outputs) == 1 == len(graph.outputs)
        value = None if output is None and not single else value_of(graph, output)
        layers = {"image": Layer.of_image(self.source)}
        note = self.summary
        if value is not None and is_picture(graph, value):
            sample = partial(self._sample, value)
            layers["output"] = output_layer(graph, value, "output", sample, styles)
        elif styles:
            raise ValueError(
                f"no overlay of {output or 'the output'}: it is no picture (batch, channels, rows,"
                " columns) or map (batch, rows, columns), or it is one of several: name it as"
                " output="
            )
        return view_of(self.plan, layers, self.timings, note)

    def _sample(self, value: str, window: OutputWindow) -> list[OutputSample]:
        """A part of an output: of what is here, and of what the ranks hold."""
        if "output" in vars(self):  # it was gathered
            whole = Region.whole(self.plan.graph.extent(value))
            leaf = pytree.tree_leaves(self.output)[self._number_of(value)]
            return sampled([Piece(value, whole, leaf)], window)
        held = (p for report in self.reports for p in report.pieces or ())
        found = sampled(held, window)
        makers = makers_of(self.plan, value)
        away = [r.rank for r in self.reports if r.pieces is None and r.rank in makers]
        each = self._outputs.sample(away, window) if away else []
        return [*found, *(sample for samples in each for sample in samples)]

    def _number_of(self, value: str) -> int:
        """The place of an output among all that the network returns."""
        returned = self.plan.graph.returned
        return [getattr(leaf, "value", None) for leaf in returned].index(value)

    @cached_property
    def named_outputs(self) -> dict[str, str]:
        """The name of each output in the graph, by its key in the structure of the outputs.

        Examples
        --------
        >>> list(result.named_outputs)
        ['output']
        """
        return named_outputs(self.plan.graph)

    @cached_property
    def untiled_output(self) -> Any:
        """The output of the network for the same image, run untiled in this process.

        Examples
        --------
        >>> result.untiled_output.shape
        torch.Size([1, 10])
        """
        background = background_of(self.source)
        if background is None:
            return self._untiled(self.sources)
        (first,) = self.sources  # networks of several inputs skip nothing
        whole = self._untiled({first: background.source})
        if background.test.exact:
            return whole  # the patches that were skipped are of that colour
        blank = self._untiled({first: background.blanked()})
        return self._replaced(whole, blank)

    def _replaced(self, whole: Any, blank: Any) -> Any:
        """Outputs of which the patches that were skipped are those of another image.

        Raises
        ------
        ValueError
            If patches gave no output, but what a later stage reads.
        """
        graph = self.plan.graph
        numbers = {value: self._number_of(value) for value in graph.outputs}
        found, blanks = pytree.tree_leaves(whole), pytree.tree_leaves(blank)
        regions = [
            each
            for report in self.reports
            for patch in (report.skipped.answered if report.skipped else ())
            for each in patch.regions
        ]
        for value, region in regions:
            if value not in numbers:
                raise ValueError(
                    "no check: skip has a limit or a mask, so the skipped patches are not those of"
                    " the image, and a later stage reads them. Check with one stage, or with a"
                    " number alone"
                )
            axes, all_of_it = graph.axes[value], Region.whole(graph.extent(value))
            piece = axes.piece(blanks[numbers[value]], all_of_it, region)
            with torch.inference_mode():
                axes.put(found[numbers[value]], all_of_it, region, piece)
        return whole

    def _untiled(self, sources: Mapping[str, Source]) -> Any:
        """The output of the network for whole images, run in this process.

        Raises
        ------
        PlanError
            If the network has other layers or settings by now.
        ValueError
            If it has other weights than in the run.
        """
        graph, job = self.plan.graph, self.plan.job
        self.plan.refuse_if_outdated()
        if self._weights != weights_hash(job.module):
            raise ValueError(
                f"the weights of {job.name} changed since this run, so that its output cannot be"
                " compared with the untiled one: call infer again"
            )
        wholes = (
            # In PyTorch's own order, as the network is run without spnb.
            read_tensor(source, Region.whole(graph.extent(name)), graph.dtype).contiguous()
            for name, source in sources.items()
        )
        costs: dict[str, float] = defaultdict(float)
        for node in graph.nodes:
            costs[node.path] += CORE.seconds(node)
        with (
            torch.inference_mode(),
            convolving(graph.floating_types),
            Bar(self._progress) as bar,
            shown_by_module(bar, "untiled run", job.module, costs),
        ):
            if isinstance(job.shapes, dict):
                return job.module(**dict(zip(job.shapes, wholes, strict=True)))
            return job.module(*wholes)

    @property
    def _tolerance(self) -> float:
        """The tolerance of the least precise type in the network; in int8, sums are exact."""
        if self.plan.job.precision == INT8:
            return 0.0
        return max(TOLERANCES[dtype] for dtype in self.plan.graph.floating_types)

    def check(self, tolerance: float | None = None, *, strict: bool = True) -> Check:
        """Compare with the untiled run in the same precision.

        Parameters
        ----------
        tolerance
            Largest error as a share of the output's scale; by default that of the precision in
            `spnb.driver.check.TOLERANCES`.
        strict
            Raise if the check does not pass.

        Returns
        -------
        spnb.driver.check.Check
            The largest error, where it is, and whether it is within the tolerance.

        Raises
        ------
        CheckFailed
            If ``strict`` and the outputs differ by more than the tolerance.
        PlanError, ValueError
            If the network has other layers, settings or weights by now than in the run.

        Examples
        --------
        >>> result.check().passed
        True
        """
        tolerance = self._tolerance if tolerance is None else tolerance
        check = compared(self.output, self.untiled_output, tolerance)
        if strict and not check.passed:
            raise CheckFailed(f"{check}; largest at {check.where}")
        return check

    def plot_difference(self, output: int | str | None = None, ax: Axes | None = None) -> Axes:
        """Draw where an output differs from the untiled run's; see `spnb.display.plots.difference`.

        Parameters
        ----------
        output
            The number or key of an output, where the network returns several.
        ax
            Where to draw; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Raises
        ------
        ValueError
            If there are several outputs and none is named.

        Examples
        --------
        >>> "within" in result.plot_difference().get_title()
        True
        """
        value = value_of(self.plan.graph, output)
        number = self._number_of(value)
        tiled, untiled = (
            pytree.tree_leaves(whole)[number] for whole in (self.output, self.untiled_output)
        )
        graph, maker = self.plan.graph, self.plan.maker_of(value)
        error = (tiled.double() - untiled.double()).abs()
        tiles = None
        if graph.axes[value] == ValueAxes.image(tuple(tiled.shape)) and tiled.ndim >= 4:
            error = error.amax(tuple(range(tiled.ndim - 2)))
            own = self.plan.stage_needs[maker.index, self.plan.micro_batch_sizes[0]].own[value][-2:]
            tiles = [Region((row, column)) for row in own[0] for column in own[1]]
        else:
            error = error.reshape(-1, error.shape[-1] if error.ndim else 1)
        scale = float(untiled.double().abs().max())
        return plots.difference(error.numpy(), scale, self._tolerance, tiles, ax)
