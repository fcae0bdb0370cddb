"""Runs plans on ranks of any kind: the base of all sessions.

`spnb.driver.in_process` has all ranks as threads of this process, `spnb.driver.cluster` has MPI
engines, and `spnb.driver.mpi_launch` has the processes that ``mpiexec`` started.  The module is
longer than others since each public member is documented with an example.
"""

from __future__ import annotations

import itertools
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from ..capture.losses import LossFunction
from ..engine.service import InferTask
from ..io.sources import NOT_GIVEN, Source
from ..job import checkpoint_io
from ..job.job_plan import JobPlan
from ..job.reading import Nodata, Preprocessing, Reading
from ..job.skipping import Skip
from ..training.own_optimizer import MakeOptimizer, MakeScheduler, OwnOptimizer
from .image_results import ImageResults
from .rank_loading import RankLoading
from .result import Result, RunOutputs
from .training.callbacks import Callbacks
from .training.evaluation import DataSetEvaluation
from .training.evaluation_result import Evaluation
from .training.training_loop import train
from .training.training_request import Request
from .training.training_result import Training
from .training.training_state import TrainingState

T = TypeVar("T")


class Session(RankLoading):
    """A loaded plan, and ranks that can run it.

    Weights and images are prepared here, so that each rank receives its own share only.

    Attributes
    ----------
    plan
        The plan that is loaded.
    progress
        Whether texts and bars are shown.
    held
        The state of the training since the plan was loaded, if there was one.

    Examples
    --------
    The examples of the methods go on from this one.

    >>> import spnb
    >>> import torch
    >>> network = torch.nn.Conv2d(1, 2, 3, padding=1)
    >>> job = spnb.Job(network, image_size=8, batch_size=2, split_size=1, num_spatial_parts=2)
    >>> session = spnb.InProcess(spnb.plan(job), progress=False)
    >>> session.plan.num_ranks
    2
    """

    progress = True  # whether bars are shown

    def __init__(self, plan: JobPlan):
        super().__init__(plan)
        self._runs = itertools.count()
        self._released: list[int] = []  # runs with results that were deleted
        self.held: TrainingState | None = None

    def load(self, plan: JobPlan) -> None:
        """Load a plan: every rank receives its share and its stage's weights.

        The weights are those of the plan's job, also after a training.  To go on with trained ones,
        load a plan of ``training.job``.

        Parameters
        ----------
        plan
            As `spnb.plan` returns it.

        Examples
        --------
        >>> session.load(spnb.plan(job.replace(num_spatial_parts=4)))
        >>> session.plan.num_ranks
        4
        """
        self._require_open()
        if self.held is not None or plan.training:
            self._say(f"{plan.job.name} begins with the weights of {plan.weights_name}")
        self._load_weights(plan, plan.module)
        self.held = None

    def infer(
        self,
        image: Any = NOT_GIVEN,
        *,
        resize: bool | None = None,
        preprocess: Preprocessing | None = None,
        nodata: Nodata = "file",
        skip: Skip = None,
        check_finite: bool = False,
    ) -> Result:
        """Run the network on an image.

        Parameters
        ----------
        image
            ``(batch, channels, *spatial)``: an array, tensor, path, sample name or image source
            (see `spnb.io.open.open_source`); by default a synthetic image, and the result says
            so.  A source that ``plan.open(…)`` returned is prepared for the ranks once, and may be
            run again at no cost.  For a network of several inputs, a list or dict of them (see
            `spnb.job.job_plan.JobPlan.open_inputs`).  Where the job leaves the batch size out, the
            plan is made anew for the number of images, if it is for another one.
        resize
            Whether an image of another size than the plan's is resized rather than refused; by
            default what the job says.
        preprocess
            What each rank does to its region of the image (the first input), whose unsigned
            integers are in [0, 1] before: ``"imagenet"`` or ``"benchmark"``, a mean and a standard
            deviation ``(mean, std)`` with one number or one for each channel, or a function of an
            array ``(batch, channels, *spatial)`` that sees no neighbours of a position.
        nodata
            The number of the image (the first input), as it is stored, that stands for nodata: it
            is read as NaN.  ``"file"`` is that of a GeoTIFF's tag GDAL_NODATA, and a line says so;
            None reads all numbers as they are.
        skip
            What is background in the image, as it is stored: a number of all channels (``255``), a
            limit (``">=230"``, ``"<=5"``), or a mask and a number (``(mask, 255)``; the mask, an
            array or a file of any size, is not 0 where there is background).  A patch (see the
            option ``patches``) that sees only background is taken to be of this number throughout,
            and as all such patches have one answer, it is computed once.  With a number alone, the
            output is that without ``skip``.
        check_finite
            Whether to look through the image and every value for NaN and infinite numbers, and to
            name rank and layer where the first appear; ``result.not_finite`` has all ranks.

        Returns
        -------
        spnb.driver.result.Result
            The output, gathered from the ranks when it is asked for; timings; a check.

        Raises
        ------
        ValueError
            If the image is None or does not fit the plan, the plan is for training, or the
            preprocessing cannot be done tile by tile.
        RunError
            If a rank fails.

        Examples
        --------
        >>> session.infer(torch.rand(2, 1, 8, 8)).output.shape
        torch.Size([2, 2, 8, 8])
        """
        self._require_open()
        if self.plan.training:
            raise ValueError("this plan is for training: load one made with spnb.plan(job)")
        reading = Reading(preprocess, nodata, skip)
        opened = self.plan.open_for_run(image, reading, resize, self._say)
        plan = self.plan.for_images(next(iter(opened.values())).shape[0])
        if plan is not self.plan:
            self.load(plan)
        self._follow_network()
        sources = {name: self.sources.resident(source) for name, source in opened.items()}
        start = time.perf_counter()
        run = next(self._runs)
        released, self._released[:] = tuple(self._released), []
        reports = self._infer(sources, InferTask(run, released, check_finite))
        seconds = time.perf_counter() - start
        outputs = RunOutputs(
            fetch=partial(self._fetch, run),
            sample=partial(self._sample, run),
            range=partial(self._range, run),
            save=partial(self._save, run),
        )
        result = Result(
            self.plan, sources, reports, seconds, outputs, self._loaded_weights, self.progress
        )
        if result.skips:
            self._say(result.skipped_text)
        if check_finite:
            self._say(result.first_not_finite)
        weakref.finalize(result, self._released.append, run)  # then ranks may free its output
        return result

    def map(
        self,
        images: Iterable[Any],
        *,
        resize: bool | None = None,
        preprocess: Preprocessing | None = None,
        nodata: Nodata = "file",
        skip: Skip = None,
        check_finite: bool = False,
    ) -> ImageResults:
        """Run the network on images one after another; the next is opened while one runs.

        An image that cannot be opened or run raises an error with its name.  The results may be
        gone on with: the next is that of the image after it.

        Parameters
        ----------
        images
            For each run, what `infer` takes: files of a folder, arrays, or whatever an iterator
            gives.
        resize, preprocess, nodata, skip, check_finite
            As of `infer`.

        Returns
        -------
        spnb.driver.image_results.ImageResults
            An iterator of results.  The output of a result stays on the ranks as long as the
            result is held, so save it, or take what is needed of it.

        Examples
        --------
        >>> images = (torch.full((2, 1, 8, 8), value) for value in (0.0, 1.0))
        >>> [tuple(result.output.shape) for result in session.map(images)]
        [(2, 2, 8, 8), (2, 2, 8, 8)]
        """
        self._require_open()

        reading = Reading(preprocess, nodata, skip)

        def opened(image: Any) -> dict[str, Source]:
            inputs = self.plan.open_for_run(image, reading, resize, self._say)
            return {name: self.sources.resident(source) for name, source in inputs.items()}

        run = partial(self.infer, nodata=None, check_finite=check_finite)  # what was read is masked
        return ImageResults(images, opened, run)

    def train(
        self,
        images: Any = NOT_GIVEN,
        targets: Any = NOT_GIVEN,
        *,
        loss: str | LossFunction | None = None,
        metrics: Mapping[str, LossFunction] | None = None,
        optimizer: MakeOptimizer | None = None,
        scheduler: MakeScheduler | None = None,
        clip: float | None = None,
        validation: Any = None,
        patience: int | None = None,
        callbacks: Sequence[Any] = (),
    ) -> Training:
        """Train the network of a plan that was made with ``training=True``.

        Steps, gradients and batch statistics are those of the untiled network with the same
        micro-batches.  Each epoch takes all examples in an order of its own, in whole batches.

        The first call after `load` begins with the job's weights, and trains for ``num_epochs``.
        Another call goes on with what was trained, for as many epochs more; if the call before was
        interrupted, for those that it left.  If the job names a ``checkpoint``, the first call
        continues from that file if it exists, and each epoch writes it.

        Parameters
        ----------
        images
            ``(examples, channels, *spatial)``: an array, tensor, path or image source; by default
            those of the job's ``app``.  Or examples with their targets: a torch ``Dataset`` of
            pairs, a ``DataLoader``, an iterator of batches, or a function that returns one for each
            epoch.  This process reads these, each image once in an epoch.
        targets
            Class numbers ``(examples,)`` or ``(examples, *spatial)``, or numbers like the
            network's output.
        loss
            ``cross_entropy`` (classes), ``mse`` or ``l1``, averaged over the whole batch.  Or a
            function or module that takes what the network returns and the target, as
            ``torch.nn.CrossEntropyLoss(weight, ignore_index=255)`` or one of your own: tiles
            compute it as they compute the network, so class weights, ignored positions and a Dice
            of the whole image are exact.  It returns the loss of a micro-batch: a number, or one
            for each image or position, of which the mean is taken.  ``targets`` may then have any
            shape ``(examples, …)``, or be a tuple of arrays, which the function takes as a tuple.
        metrics
            Further functions like such a loss, by name; each is a column of the history.
        optimizer
            Makes the optimizer of named parameters, in place of the job's:
            ``functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9)``, or a function of pairs of
            a name and a parameter, which may divide them into groups.  Each rank calls it with the
            parameters of its own stage.
        scheduler
            Makes a scheduler of an optimizer, such as
            ``functools.partial(torch.optim.lr_scheduler.StepLR, step_size=3)``; it is stepped after
            each epoch.  ``ReduceLROnPlateau`` follows the loss of the validation.
        clip
            Largest norm of the gradients of all parameters together; by default there is no limit.

        validation
            Images and targets that the network is evaluated on after each epoch, as a pair, a
            ``Dataset`` or a ``DataLoader``; with the same loss and metrics, as `evaluate` does.
            The history has the figures in the row of each epoch's last step, and the weights of the
            epoch with the smallest loss are kept.
        patience
            Training ends when the validation loss was not smaller for so many epochs.
        callbacks
            Functions that take a `spnb.driver.training.callbacks.EpochRecord` after each epoch, or
            objects with methods ``after_epoch`` and ``after_step``; the latter takes a
            `spnb.driver.training.callbacks.StepRecord`, and each step is then a call of the ranks.
            If one returns True, training ends after the epoch.

        Returns
        -------
        spnb.driver.training.training_result.Training
            The trained network, the loss of each step, and the memory of each rank.

        Raises
        ------
        ValueError
            If the examples do not fit the plan.
        WeightsError
            If the checkpoint is of another network or recipe.

        Examples
        --------
        >>> session.load(spnb.plan(job, training=True))
        >>> images, labels = torch.rand(4, 1, 8, 8), torch.ones(4, 8, 8, dtype=torch.long)
        >>> training = session.train(images, labels)
        >>> len(training.history)
        2
        """
        self._require_open()
        self.plan.refuse_if_outdated()
        request = Request(
            loss=loss,
            metrics=metrics or {},
            own=OwnOptimizer(optimizer, scheduler, clip),
            validation=validation,
            patience=patience,
            callbacks=Callbacks(callbacks),
        )
        return train(self, images, targets, request, self._say)

    def evaluate(
        self,
        images: Any = NOT_GIVEN,
        targets: Any = NOT_GIVEN,
        *,
        loss: str | LossFunction | None = None,
        metrics: Mapping[str, LossFunction] | None = None,
    ) -> Evaluation:
        """Evaluate the network on a data set of any length, in evaluation mode.

        Each rank counts what it computes, and no output is gathered.  The last batch is filled up,
        and its filling is not counted.

        Where the plan is for training, the weights are those of the last whole epoch, or those that
        training would begin with.  The training stays as it is, and the next `train` goes on with
        it; ranks hold the plan for inference beside it meanwhile.

        Parameters
        ----------
        images
            As of `train`, in their order; by default those of the job's ``app``, where CIFAR-10's
            are the images of its test batch.
        targets
            As of `train`.
        loss
            As of `train`.  The loss of a function is the mean over the images of what it returns
            for each micro-batch; the last images have micro-batches of their own.
        metrics
            Further functions like such a loss, by name.

        Returns
        -------
        spnb.driver.training.evaluation_result.Evaluation
            Loss and metrics, accuracy and mean IoU of classes, and images per second.

        Raises
        ------
        ValueError
            If the examples do not fit the plan.
        CaptureError, PlanError
            If tiles cannot compute a loss or a metric.

        Examples
        --------
        >>> session.load(spnb.plan(job))
        >>> images, classes = torch.rand(5, 1, 8, 8), torch.ones(5, 8, 8, dtype=torch.long)
        >>> session.evaluate(images, classes).num_images
        5
        """
        self._require_open()
        self.plan.refuse_if_outdated()
        if not self.plan.training:
            self._follow_network()
        evaluation = DataSetEvaluation(self, images, targets, loss, metrics, self._say)
        module = self.plan.module
        if self.held is not None:
            begun = self.held.checkpoint
            self._say(f"evaluated with the weights after {begun.epoch} epochs of training")
            module = checkpoint_io.ready(module, self.plan.weights_dtype, begun.model)
        return evaluation.run(module)

    def _say(self, text: str) -> None:
        if self.progress:
            print(text, flush=True)

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called.

        Examples
        --------
        >>> session.stopped
        False
        """
        return not self._clean.alive

    def stop(self) -> None:
        """Remove the files of this session; safe to call again.

        Examples
        --------
        >>> session.stop()
        >>> session.stopped
        True
        """
        self._clean()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _require_open(self) -> None:
        if self.stopped:
            raise RuntimeError(f"this {type(self).__name__} is stopped: make a new one")
