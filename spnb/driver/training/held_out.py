"""The examples of a validation: a share that training leaves out, or those of another folder."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ...errors import DatasetError, OptionError
from ...io.datasets.examples import Examples
from ...io.datasets.image_folder import class_folders
from ...io.datasets.prepared import Chosen
from ...job.job_plan import JobPlan
from .training_examples import examples_of, require_a_batch


@dataclass(frozen=True)
class Divided:
    """Examples to train on, and others to evaluate after each epoch.

    Attributes
    ----------
    training
        The examples that the network is trained on.
    validation
        The others; None for no validation.
    """

    training: Examples
    validation: Examples | None = None


def divided(plan: JobPlan, examples: Examples, validation: float | str | None) -> Divided:
    """Return what a plan is trained on, and what it is validated on.

    Parameters
    ----------
    plan
        The plan.
    examples
        All examples that are given for training.
    validation
        The share of them that is left out, between 0 and 1; or a folder like that of the job's
        ``datapath``, of which CIFAR-10's test images are taken; None for no validation.

    Raises
    ------
    ValueError
        If the share leaves no image for the validation, or no batch to train on.
    DatasetError, OptionError
        If there is no such folder, or it has other classes.
    """
    if validation is None:
        return Divided(examples)
    if isinstance(validation, str):
        return Divided(examples, _of_folder(plan, validation))
    order = np.random.default_rng(plan.job.seed).permutation(len(examples))
    count = round(validation * len(examples))
    if count < 1:
        raise OptionError(
            f"validation is {validation:g} of {len(examples)} images, which is no image: give more"
        )
    found = Divided(_chosen(examples, order[count:]), _chosen(examples, order[:count]))
    require_a_batch(found.training, plan.job.batch_size)
    return found


def _chosen(examples: Examples, numbers: np.ndarray) -> Examples:
    """Some of the examples, in their order."""
    kept = np.sort(numbers)
    targets = np.asarray(examples.known_targets)[kept]
    return replace(examples, images=Chosen(examples.source, tuple(kept.tolist())), targets=targets)


def _of_folder(plan: JobPlan, folder: str) -> Examples:
    """The examples of a folder, whose classes must be those of the training."""
    job = plan.job
    if job.app == 3:
        raise OptionError(
            f"validation is the folder {folder}, but images are synthetic (app 3): give app 1 or 2,"
            " or the share of the images that is left out, as 0.2"
        )
    if job.app == 1:
        own, others = ([p.name for p in class_folders(path)] for path in (job.datapath, folder))
        if own != others:
            raise DatasetError(
                f"{folder} has the classes {', '.join(others)}, but {job.datapath} has"
                f" {', '.join(own)}: give both the same folders"
            )
    return examples_of(plan, evaluation=True, any_number=True, datapath=folder)
