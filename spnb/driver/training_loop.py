"""Trains a network, epoch by epoch, on the ranks of a session; a checkpoint after each."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import nn

from ..capture.trainable import with_gradient
from ..display.cards import Card, Shown, Table, size_text
from ..io.datasets import Scaled, cifar10, image_folder
from ..io.examples import Examples, matched
from ..io.open import open_source
from ..io.sources import Source, SyntheticSource
from ..ir import weights
from ..ir.axes import Axes
from ..job import checkpoint_io
from ..job.job_plan import JobPlan
from ..training.loss_scale import LossScale
from ..training.losses import positions
from ..training.recipe import Recipe
from .checkpoint import Checkpoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Drawing

    from .session import Session

BATCHES = 10
"""Of synthetic examples, in an epoch."""


@dataclass(frozen=True, eq=False, repr=False)
class Training(Shown):
    """What training gives back.

    Attributes
    ----------
    module
        The trained network, in evaluation mode.
    history
        A row for each step since the first epoch: ``epoch``, ``step``, ``loss`` (the mean over the
        batch), ``accuracy`` (of classes; else NaN), ``learning_rate``, ``seconds``.
    checkpoint
        The file that was written, if any.
    peak_memory_bytes
        Of each rank, above an idle engine.
    """

    plan: JobPlan
    module: nn.Module
    history: pd.DataFrame
    checkpoint: Path | None = None
    peak_memory_bytes: tuple[int, ...] = field(default=())

    @cached_property
    def epochs(self) -> pd.DataFrame:
        """A row for each epoch: means over its steps, and the seconds of all of them."""
        means = self.history.groupby("epoch")[["loss", "accuracy", "learning_rate"]].mean()
        return means.assign(seconds=self.history.groupby("epoch")["seconds"].sum())

    def plot(self, ax: Drawing | None = None, **line: Any) -> Drawing:
        """Draw the loss of each step; see `spnb.display.plots.loss`."""
        from ..display import plots

        return plots.loss(self.history, ax, **line)

    def report(self) -> dict[str, Any]:
        """Every figure, as plain data."""
        return {
            "job": {**self.plan.job.values(), "model": self.plan.job.name},
            "ranks": self.plan.num_ranks,
            "epochs": self.epochs.reset_index().to_dict("records"),
            "steps": self.history.to_dict("records"),
            "peak_memory_bytes": list(self.peak_memory_bytes),
            "planned_memory_bytes": list(self.plan.memory_bytes),
        }

    @property
    def card(self) -> Card:
        """Loss, accuracy and time of each epoch."""
        known = self.history["accuracy"].notna().any()
        rows = [
            (
                str(epoch),
                f"{row.loss:.4f}",
                f"{row.accuracy:.1%}" if known else "–",
                f"{row.learning_rate:.3g}",
                f"{row.seconds:.3g} s",
            )
            for epoch, row in self.epochs.iterrows()
        ]
        ranks = self.plan.num_ranks
        title = f"{self.plan.job.name} trained for {len(rows)} epochs on {ranks} ranks"
        table = Table(("epoch", "loss", "accuracy", "learning rate", "took"), rows)
        if not (peak := max(self.peak_memory_bytes, default=0)):
            return Card(title, [table])
        planned = max(self.plan.memory_bytes)
        memory = f"memory of a rank: at most {size_text(peak)}, planned {size_text(planned)}"
        return Card(title, [table, memory])


def train(
    session: Session,
    images: Any = None,
    targets: Any = None,
    *,
    loss: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Training:
    """Train on a session's ranks; see `spnb.driver.session.Session.train`."""
    plan = session.plan
    if not plan.training:
        raise ValueError("this plan is for inference: make it with spnb.plan(job, training=True)")
    job = plan.job
    examples = images if isinstance(images, Examples) else examples_of(plan, images, targets)
    integers = examples.known_targets.dtype.kind == "i"
    recipe, begun = resumed(plan, examples, loss)
    path = job.checkpoint_file
    if begun.epoch and not weights.equal(plan.module, begun.model):
        # it was written since the plan's weights were read
        plan.module = checkpoint_io.ready(plan.module, plan.weights_dtype, begun.model, path)
    module = copy.deepcopy(plan.module)  # a module of the user's own stays
    history = list(begun.history)
    trained = job.network.trained
    kept = begun.optimizer.get("state", {})
    scaling = begun.optimizer.get("scaling")
    scaling = LossScale(**scaling) if scaling else None
    session.begin(with_gradient(plan.captured, trained), recipe, kept, job.num_workers, scaling)
    if begun.epoch:
        enough = "" if begun.epoch < job.num_epochs else ": give a larger num_epochs to go on"
        say(f"{path.name}: {begun.epoch} of {job.num_epochs} epochs are done{enough}")
    steps, peaks = len(examples) // job.batch_size, (0,) * plan.num_ranks
    classes_told = positions(plan.graph.shape(plan.graph.outputs[0])) if integers else 1
    shares = session.share(examples)
    for epoch in range(begun.epoch, job.num_epochs):
        start = time.perf_counter()
        reports = session.epoch(shares, epoch)
        took = time.perf_counter() - start
        for step in range(steps):
            right = sum(report.right[step] for report in reports) / classes_told
            history.append(
                {
                    "epoch": epoch,
                    "step": step,
                    "loss": sum(report.losses[step] for report in reports),
                    "accuracy": right if integers else float("nan"),
                    "learning_rate": recipe.rate(epoch),
                    "seconds": max(report.seconds[step] for report in reports),
                }
            )
        peaks = tuple(max(p, r.peak_memory_bytes) for p, r in zip(peaks, reports, strict=True))
        kept = take_back(session, module, steps * len(plan.micro_batch_sizes))
        mean = sum(row["loss"] for row in history[-steps:]) / steps
        text = f"epoch {epoch + 1} of {job.num_epochs}: loss {mean:.4f}"
        if integers:
            text += f", accuracy {sum(row['accuracy'] for row in history[-steps:]) / steps:.1%}"
        say(f"{text}, {took:.3g} s")
        if path is not None:
            state = {"name": recipe.optimizer, "state": kept}
            if (scaling := reports[0].loss_scale) is not None:
                state["scaling"] = asdict(scaling)
            facts = (module.state_dict(), state, epoch + 1, history, vars(recipe))
            Checkpoint(*facts).save(path)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in trained)  # as they were given, to train on in PyTorch
    plan.module = module
    columns = ["epoch", "step", "loss", "accuracy", "learning_rate", "seconds"]
    written = path if begun.epoch < job.num_epochs else None
    return Training(plan, module, pd.DataFrame(history, columns=columns), written, peaks)


def resumed(
    plan: JobPlan, examples: Examples, loss: str | None = None
) -> tuple[Recipe, Checkpoint]:
    """How to train, and from where on: the checkpoint if there is one, else the plan's weights.

    Raises
    ------
    ValueError
        If the loss does not go with the targets.
    WeightsError
        If the checkpoint was made with another recipe.
    """
    integers, path = examples.known_targets.dtype.kind == "i", plan.job.checkpoint_file
    loss = loss or ("cross_entropy" if integers else "mse")
    if integers != (loss == "cross_entropy"):
        kind = "class numbers" if integers else "numbers like the output"
        raise ValueError(f"the loss {loss} does not go with targets that are {kind}")
    recipe = plan.job.recipe(loss)
    before = Checkpoint.read(path) if path is not None and path.exists() else None
    begun = before or Checkpoint(plan.module.state_dict())
    begun.check(recipe, path)
    return recipe, begun


def examples_of(plan: JobPlan, images: Any = None, targets: Any = None) -> Examples:
    """What to train on: images and targets that fit a plan, or synthetic ones.

    Raises
    ------
    ValueError
        If they do not fit, or make no whole batch.
    """
    graph, job = plan.graph, plan.job
    if len(graph.inputs) > 1 or len(graph.outputs) > 1:
        raise ValueError(
            f"{job.name} has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs: training"
            " takes one of each in this version"
        )
    batch, channels, *size = job.input_shape
    output = graph.axes[graph.outputs[0]]
    if output.shape[:1] != (batch,) or output.axes_of(0) != (0,) * (batch > 1):
        raise ValueError(
            f"{job.name} gives an output of shape {output.shape}, whose first dimension is not the"
            f" batch of {batch}: there is no target for each image, so train a network that gives"
            " (batch, …)"
        )
    if images is None:
        if targets is not None:
            raise ValueError("targets without images: give both, or neither for synthetic ones")
        images, targets = _of_the_job(plan, output)
    elif targets is None:
        raise ValueError("images without targets: give what the output should be for each")
    else:
        images = open_source(images, channels=channels, size=size)
    examples = matched(images, targets, output.shape, tells_classes(plan), job.seed)
    if len(examples) < batch:
        raise ValueError(
            f"{len(examples)} images make no batch of {batch}: use a smaller batch_size"
        )
    return examples


def tells_classes(plan: JobPlan) -> bool:
    """Whether the output may be scores of classes: its second dimension lies whole on each rank."""
    (value,) = plan.graph.outputs
    axes, grid = plan.graph.axes[value], plan.maker_of(value).team.tiling.grid
    return len(axes.dims) > 1 and all(grid[axis] == 1 for axis in axes.axes_of(1))


def _of_the_job(plan: JobPlan, output: Axes) -> tuple[Source, Any]:
    """The images and targets that a job's options name."""
    job = plan.job
    batch, channels, *size = job.input_shape
    if job.app == 3:
        count = BATCHES * batch
        noise = torch.Generator().manual_seed(job.seed)
        shape = output.shape
        if tells_classes(plan):
            targets = torch.randint(0, shape[1], (count, *shape[2:]), generator=noise)
        else:
            targets = torch.rand(count, *shape[1:], generator=noise)
        return SyntheticSource((count, channels, *size), job.seed), targets
    if len(output.dims) > 2:
        raise ValueError(
            f"{job.name} gives a class for each pixel, but app {job.app} has one for each image:"
            " take another network, or give images and targets to train(…)"
        )
    if job.app == 1:
        return image_folder(job.datapath, channels, size)
    images, labels = cifar10(job.datapath)
    if channels != 3 or len(size) != 2:
        raise ValueError(f"{job.name} takes {channels} channels, but CIFAR-10 has 3 on two axes")
    return images if tuple(size) == (32, 32) else Scaled(images, tuple(size)), labels


def take_back(session: Session, module: nn.Module, seen: int) -> dict[str, dict[str, Any]]:
    """Put the weights that ranks have into the network; what their optimizers keep, by name.

    Parameters
    ----------
    seen
        Micro-batches since the weights were taken last: batch norms count them.
    """
    every = weights.named(module)
    kept: dict[str, dict[str, Any]] = {}
    firsts = [stage.team.ranks[0] for stage in session.plan.stages]
    with torch.no_grad():
        for found, optimized in session.weights_of(firsts):
            kept |= optimized
            for name, tensor in found.items():
                every[name].copy_(tensor)
        for name, times in session.plan.captured.counted.items():
            every[name] += times * seen
    return kept
