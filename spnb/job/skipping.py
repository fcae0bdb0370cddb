"""What a user calls background, which patches need not compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ..errors import OptionError
from ..io.background import Background, Limits, Mask, Test, background_of
from ..io.nodata import mask_of, numbers_read, unrepeated
from ..io.open import open_source
from ..io.sources import ArraySource, Source, read_as
from ..ir.exchange import HOST
from ..ir.option_words import option
from ..ir.program import Program, Receive
from ..ir.region import Region
from ..planner.plan import Plan
from ..rules import rule_of
from ..runtime.likeness import likeness
from ..runtime.pipeline_stage import pipeline_stages_of, turns_in
from .job import Job

Skip = float | str | tuple[Any, float] | None
"""A number, ``">=230"`` or ``"<=5"``, or a mask of the background and a number; None for none."""


def with_background(
    stored: Source,
    read: Source,
    preprocess: Callable[[Source], Source],
    skip: Skip,
) -> Source:
    """Return an image of which regions that hold only background are read as one colour.

    Parameters
    ----------
    stored
        The image, not changed yet.
    read
        The same, of which nodata is NaN.
    preprocess
        What is done to it before the network reads it.
    skip
        What is background; see `spnb.driver.session.Session.infer`.

    Raises
    ------
    OptionError
        If ``skip`` is none of what it may be.
    ValueError
        If the image holds no such number, or the mask is of another number of axes.
    """
    image = preprocess(read)
    if skip is None:
        return image
    sign, number, mask = _parsed(skip)
    numbers = numbers_read(stored, number, "skip")
    if (masked := mask_of(read)) is not None and masked.numbers == numbers:
        numbers = (np.nan, np.nan)
    test: Test = Limits(numbers, numbers)
    if mask is not None:
        test = Mask(_background_in(mask, stored))
    elif sign:
        test = _beyond(stored, sign, numbers)
    space = [1] * (len(stored.shape) - 2)
    pixels = (
        np.full((1, stored.shape[1], *space), number, dtype)
        for number, dtype in zip(numbers, (np.float32, np.float64), strict=True)
    )
    colours = (
        read_as(preprocess(ArraySource(pixel)), Region.whole((1, *space)), pixel.dtype)
        for pixel in pixels
    )
    single, double = (tuple(map(float, each.ravel())) for each in colours)
    return Background(image, read, test, (single, double))


def _parsed(skip: Any) -> tuple[str, float, Any]:
    """A sign or nothing, the number, and a mask or None."""
    mask, number, sign = None, skip, ""
    if isinstance(skip, tuple) and len(skip) == 2:
        mask, number = skip
    elif isinstance(skip, str) and skip[:2] in (">=", "<="):
        sign, number = skip[:2], skip[2:]
    try:
        return sign, float(str(number)), mask  # which no bool is
    except (TypeError, ValueError):
        raise OptionError(
            f"skip is {skip!r}: give the number of the background, as 255, a limit, as '>=230' or"
            " '<=5', or a mask and a number, as (mask, 255)"
        ) from None


def _beyond(stored: Source, sign: str, numbers: tuple[float, float]) -> Limits:
    """The numbers above or below one that is stored; a TIFF may store white as 0."""
    kind = getattr(unrepeated(stored), "dtype", np.dtype(float)).kind
    above = sign == ">="
    if kind in "bu" and numbers_read(stored, 0, "skip")[0] > numbers_read(stored, 1, "skip")[0]:
        above = not above
    everything = (-np.inf, -np.inf), (np.inf, np.inf)
    return Limits(numbers, everything[1]) if above else Limits(everything[0], numbers)


def _background_in(mask: Any, image: Source) -> np.ndarray:
    """Where a mask, an array or a file, says that there is background."""
    spatial = image.shape[2:]
    if not hasattr(mask, "shape"):
        source = open_source(mask, channels=1)
        mask = source.read(Region.whole((source.shape[0], *source.shape[2:])))[0, 0]
    found = np.asarray(mask)
    if found.ndim != len(spatial) or 0 in found.shape:
        raise ValueError(
            f"skip has a mask of shape {found.shape}, but the image has {len(spatial)} axes: give"
            " an array or a file of as many, of any size"
        )
    return found != 0


def refuse_skipping(plan: Plan, job: Job) -> None:
    """Refuse to skip background where patches are not computed each by itself.

    Raises
    ------
    OptionError
        Naming what hinders it, and a way out.
    """
    name = option("skip")
    if len(plan.graph.inputs) > 1:
        raise OptionError(
            f"{name}: {job.name} reads {len(plan.graph.inputs)} inputs, and background is told by"
            " one: leave skip out"
        )
    each_by_itself = job.halo_D2 and job.fused_layers == "all"
    if not each_by_itself:
        wanted = {"patches": max(16, job.patches), "halo_D2": True, "fused_layers": "all"}
        raise OptionError(
            f"{name}: tiles and patches exchange halos here, so each of them must be computed: add"
            f" {', '.join(option(*each) for each in wanted.items())}, and each patch reads its"
            " halo from the image"
        )
    if plan.finer is not None or _receives(plan):
        raise OptionError(
            f"{name}: {job.name} needs figures of the whole image, so each part of it must be"
            " computed: leave skip out, or let the tiled stage end before (balance)"
        )
    for node in plan.stages[0].nodes:
        whole = Region.whole(node.axes.extent)
        if rule_of(node).place(whole) is None:
            raise OptionError(
                f"{name}: what {node.path or node.name} ({node.op}) computes may depend on the"
                " place in the image, so background has no one answer: leave skip out, or let the"
                " tiled stage end before"
            )


def _receives(plan: Plan) -> bool:
    """Whether a rank of the first stage receives from others."""
    programs = plan.rank_plan(plan.stages[0].team.ranks[0]).programs
    steps = (step for each in next(iter(programs.values())) for step in each.steps)
    received = (t for step in steps if isinstance(step, Receive) for t in step.transfers)
    return any(t.source != HOST for t in received)


def skipped_patches(plan: Plan, source: Source) -> pd.DataFrame:
    """Count the patches of each rank, and those that see only background.

    Parameters
    ----------
    plan
        A plan that may skip patches.
    source
        The image, with its background.
    """
    image, counts = background_of(source), []
    assert image is not None
    for rank in range(plan.num_ranks):
        stages, patches, seen = pipeline_stages_of(plan.rank_plan(rank)), 0, []
        for turn in turns_in(stages):
            stage = stages[turn.pipeline]
            for number in turn.numbers:
                images = stage.rank_plan.micro_batch_sizes[number]
                first = stage.rank_plan.first_image(number)
                for program, step in _reading(stage.rank_plan.programs[images]):
                    patches += 1
                    region = stage.rank_plan.in_batch(step.region, step.axes, first)
                    if image.holds_only_background(region):
                        seen.append(likeness(program, stage.rules))
        if patches:
            counts.append((rank, patches, len(seen), len(set(seen))))
    return pd.DataFrame(counts, columns=["rank", "patches", "background", "computed"])


def _reading(programs: Sequence[Program]) -> Iterator[tuple[Program, Receive]]:
    """The programs that read the image, each with the step that does."""
    for program in programs:
        for step in program.steps:
            if isinstance(step, Receive) and any(t.source == HOST for t in step.transfers):
                yield program, step


def skipped_text(counts: pd.DataFrame) -> str:
    """How many patches are skipped, in a line.

    Parameters
    ----------
    counts
        As `skipped_patches` returns them.
    """
    patches, background, computed = (
        int(counts[name].sum()) for name in ("patches", "background", "computed")
    )
    return (
        f"{background:,} of {patches:,} patches see only background: {computed:,} of these are"
        " computed, for all of them"
    )
