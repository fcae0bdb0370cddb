"""Sliders for a split that show its picture and its cost at once; no engine is started."""

from __future__ import annotations

import gc
import io
from base64 import b64encode
from typing import Any

import ipywidgets as widgets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from ..analysis.halos import widest_halo
from ..analysis.memory import activation_bytes, memory
from ..analysis.traffic import totals
from ..analysis.untiled import untiled
from ..analysis.weight_memory import weight_bytes
from ..display import plots
from ..display.cards import Card, Table, counted, size_text, stage_grid, time_text
from ..errors import CaptureError, OptionError, PlanError
from ..io.sources import NOT_GIVEN
from ..io.thumbnail import thumbnail
from ..job.job import Job
from ..job.job_plan import JobPlan, plan
from ..job.machines import MachineLike, machine_of
from ..job.parsing import whole_numbers
from .job_of_line import job_of_images

SIDE = 480  # pixels of the picture's longer side


class Explorer(widgets.HBox):
    """Sliders beside a picture of the tiles and the figures of the plan.

    Parameters
    ----------
    job
        The job at which the sliders begin.
    image
        The image under the tiles: what `spnb.job.job_plan.JobPlan.open` takes; by default the
        synthetic image.
    machine
        The machine of the simulated time, as of `spnb.job.job_plan.JobPlan.simulate`.

    Attributes
    ----------
    job, plan
        Job and plan of the sliders' positions; ``plan`` is None if such a split is refused.
    tiles, slice_method, fused, stages, tiled
        The widgets.
    """

    def __init__(self, job: Job, image: Any = NOT_GIVEN, machine: MachineLike = None):
        self.job, first = job, plan(job)
        self.machine = machine_of(machine)
        self.plan: JobPlan | None = first
        source = first.open(image)
        self._picture, self._name = thumbnail(source, SIDE), source.name
        self._untiled = sum(map(sum, memory(untiled(first))))
        blocks = len(first.graph.blocks)
        tiles = whole_numbers(job.num_spatial_parts)[0]

        def slider(text: str, value: int, low: int, high: int) -> widgets.IntSlider:
            return widgets.IntSlider(
                value, low, high, description=text, style={"description_width": "90px"}
            )

        self.stages = slider("stages", job.split_size, 1, min(6, blocks))
        self.tiled = slider("of them tiled", job.spatial_size, 1, min(6, blocks))
        self.tiles = slider("tiles", tiles, 1, max(16, tiles))
        self.fused = slider("fused blocks", min(job.fused, 12), 0, 12)
        self.slice_method = widgets.Dropdown(
            options=sorted({"square", "vertical", "horizontal", job.slice_method}),
            value=job.slice_method,
            description="slices",
            style={"description_width": "90px"},
        )
        self.sliders = (self.stages, self.tiled, self.tiles, self.slice_method, self.fused)
        self.figures = widgets.HTML()
        self.picture = widgets.Image(format="png", layout={"width": "480px"})
        for each in self.sliders:
            each.observe(self._answer, "value")
        self._answer()
        left = widgets.VBox([*self.sliders, self.figures])
        super().__init__([left, self.picture])

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any] | None:
        """The widget, and beside it its picture for notebooks without a kernel."""
        found = super()._repr_mimebundle_(**kwargs)
        if found is None:
            return None
        picture = b64encode(bytes(self.picture.value)).decode()
        return {**found, "text/plain": f"Explorer of {self.job}", "image/png": picture}

    def _answer(self, _: Any = None) -> None:
        # A garbage collection goes through all objects of torch, which takes 0.2 s: not now.
        collects = gc.isenabled()
        gc.disable()
        try:
            self._show()
        finally:
            if collects:
                gc.enable()

    def _show(self) -> None:
        """Plan for the sliders, and show the plan; show the reason if the split is refused."""
        fused = self.fused.value
        try:
            self.job = self.job.replace(
                split_size=self.stages.value,
                spatial_size=min(self.tiled.value, self.stages.value),
                num_spatial_parts=self.tiles.value,
                slice_method=self.slice_method.value,
                halo_D2=fused > 0,
                fused_layers=max(1, fused),
                balance=None,
            )
            self.plan = plan(self.job)
        except (OptionError, PlanError, CaptureError) as error:
            self.plan = None
            self.figures.value = Card("This split cannot be had", [str(error)]).html
            return
        self.figures.value = self._card(self.plan).html
        self.picture.value = self._drawn(self.plan)

    def _card(self, found: JobPlan) -> Card:
        sums = totals(found)
        # A tile in the middle of its grid has halos on all sides.
        teams = (stage.team for stage in found.stages)
        middle = [team.rank_at([n // 2 for n in team.tiling.grid]) for team in teams]
        most = max(
            weight_bytes(found, stage.index) + activation_bytes(found, rank)
            for stage, rank in zip(found.stages, middle, strict=True)
        )
        rows = [
            ("ranks", f"{found.num_ranks}"),
            ("exchanges", f"{sums.exchanges:,}"),
            ("sent", f"{size_text(sums.bytes)} in {counted(sums.messages, 'message')}"),
            ("redundant work", f"{sums.redundant:.1%}"),
            ("a batch", f"{time_text(found.simulate(self.machine).seconds)}, simulated on"),
            ("", self.machine.name),
            ("memory", f"{size_text(most)} on the rank that needs most"),
            ("untiled", f"{size_text(self._untiled)}: {self._untiled / most:.1f} times as much"),
        ]
        grids = [stage_grid(stage.index, stage.team) for stage in found.stages]
        return Card(found.job.name, [Table(("", ""), rows)], grids)

    def _drawn(self, found: JobPlan) -> bytes:
        stage = next(s.index for s in found.stages if s.tiled) if _tiled(found) else None
        figure = Figure(figsize=(6, 6.6), dpi=75)
        FigureCanvasAgg(figure)
        ax = figure.add_axes((0.12, 0.16, 0.85, 0.76))
        if stage is None or len(found.extent) != 2:
            ax.imshow(self._picture)
            ax.set_title("no tiled stage")
        else:
            plots.tiles(
                widest_halo(found, stage), found.extent, self._picture, stage, self._name, ax
            )
        stream = io.BytesIO()
        figure.savefig(stream, format="png", pil_kwargs={"compress_level": 1})
        return stream.getvalue()


def explore(
    job: Job | str | nn.Module,
    image: Any = NOT_GIVEN,
    machine: MachineLike = None,
    **options: Any,
) -> Explorer:
    """Show sliders for tiles, slice method, fused blocks and stages of a job.

    Picture, bytes, redundant work and memory follow the sliders at once; no engine is started.

    Parameters
    ----------
    job
        The job at which the sliders begin; or only the network, whose size of image is that of the
        given one.
    image
        The image under the tiles: what `spnb.job.job_plan.JobPlan.open` takes; by default the
        synthetic image.
    machine
        The machine of the simulated time: as of `spnb.job.job_plan.JobPlan.simulate`.
    **options
        Options of the job.

    Returns
    -------
    Explorer
        A widget; its ``job`` and ``plan`` are those of the sliders.

    Raises
    ------
    PlanError, CaptureError
        If the job itself cannot be planned.

    Examples
    --------
    >>> view = explore(Job("resnet20_v1", image_size=64, batch_size=1))
    >>> view.tiles.value = 2
    >>> view.plan.num_ranks
    3
    """
    if isinstance(job, Job):
        return Explorer(job.replace(**options), image, machine)
    images = [] if image is NOT_GIVEN else [image]
    return Explorer(job_of_images(job, options, images), image, machine)


def _tiled(found: JobPlan) -> bool:
    return any(stage.tiled for stage in found.stages)
