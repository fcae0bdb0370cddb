"""Baselines: other ways to run a network on one machine, each in a process that is timed.

``python -m spnb.benchmarking.baselines`` is such a process; its step is one pass over a batch.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import nn

from ..job.job import Job
from ..kernels.compat import freeze_compiled_weights
from ..runtime.allocator import joining_blocks, keep_blocks
from .timed_process import Step, TimedProcess, Unavailable, serve


@dataclass(frozen=True)
class Baseline:
    """A way to run a network in one process, with all cores.

    Attributes
    ----------
    make
        Returns, for a network and its inputs, a function that runs the network once.
    keeps_memory
        Whether the allocator is set to keep large blocks from one operator to the next.
    """

    make: Callable[[nn.Module, Sequence[torch.Tensor]], Step]
    keeps_memory: bool = True


def plain(network: nn.Module, inputs: Sequence[torch.Tensor]) -> Step:
    """Run the network with PyTorch's default settings."""

    def step() -> Any:
        with torch.no_grad():
            return network(*inputs)

    return step


def tuned(network: nn.Module, inputs: Sequence[torch.Tensor]) -> Step:
    """Run the network with the fastest of the usual settings.

    Norms are folded into convolutions; memory formats (for images of two axes) and numbers of
    threads are tried.
    """
    from torch.fx.experimental.optimization import fuse

    try:
        network = fuse(network)
    except Exception as error:  # torch.fx cannot trace it, so norms stay unfolded
        print(f"not folded: {type(error).__name__}", file=sys.stderr)
    candidates = [(network, inputs)]
    if inputs[0].ndim == 4:
        last = torch.channels_last
        # The network is copied, since the other candidate's tensors must keep their layout.
        copied = pickle.loads(pickle.dumps(network)).to(memory_format=last)
        laid_out = [x.to(memory_format=last) if x.ndim == 4 else x for x in inputs]
        candidates.append((copied, laid_out))

    def runner(network: nn.Module, inputs: Sequence[torch.Tensor], threads: int) -> Step:
        def step() -> Any:
            torch.set_num_threads(threads)
            with torch.inference_mode():
                return network(*inputs)

        return step

    cores = torch.get_num_threads()
    every = [runner(*c, threads) for c in candidates for threads in {1, max(1, cores // 2), cores}]
    return min(every, key=lambda step: _seconds(step, 3))


def compiled(network: nn.Module, inputs: Sequence[torch.Tensor]) -> Step:
    """Run the network under torch.compile, with its weights frozen into the code."""
    freeze_compiled_weights()
    fast = torch.compile(network)

    def step() -> Any:
        with torch.inference_mode():
            return fast(*inputs)

    return step


def onnxruntime(network: nn.Module, inputs: Sequence[torch.Tensor]) -> Step:
    """Run the exported network under ONNX Runtime."""
    try:
        import onnxruntime as runtime
        import onnxscript  # noqa: F401 - what torch's exporter needs
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed") from None
    program = torch.onnx.export(network, tuple(inputs), dynamo=True, verbose=False)
    assert program is not None, "the dynamo exporter returns the program"
    session = runtime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    named = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)}
    return lambda: session.run(None, named)


def openvino(network: nn.Module, inputs: Sequence[torch.Tensor]) -> Step:
    """Run the converted network under OpenVINO, in full precision."""
    try:
        import openvino as ov
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed") from None
    exported = torch.export.export(network, tuple(inputs))
    model = ov.compile_model(ov.convert_model(exported), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    arrays = [x.numpy() for x in inputs]
    return lambda: model(arrays)


BASELINES = {
    "plain": Baseline(plain, keeps_memory=False),
    "tuned": Baseline(tuned),
    "compiled": Baseline(compiled),
    "onnxruntime": Baseline(onnxruntime, keeps_memory=False),
    "openvino": Baseline(openvino, keeps_memory=False),
}


class BaselineProcess(TimedProcess):
    """A baseline in a process of its own; it sleeps between two steps.

    Raises
    ------
    Unavailable
        If the baseline cannot run here.
    """

    def __init__(self, baseline: str, job: Job):
        environment = joining_blocks() if BASELINES[baseline].keeps_memory else None
        super().__init__(__name__, (baseline, replace(job)), environment)
        self.prepare_seconds = self.prepared()


def _seconds(step: Step, times: int) -> float:
    step()
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return median(taken)


def _prepare(request: tuple[str, Job]) -> Step:
    """The pass over a batch of a baseline and a job."""
    name, job = request
    if BASELINES[name].keeps_memory:
        keep_blocks()
    shapes = job.shapes.values() if isinstance(job.shapes, dict) else job.shapes
    torch.manual_seed(job.seed)
    inputs = [torch.rand(shape, dtype=job.dtype) for shape in shapes]
    return BASELINES[name].make(job.module, inputs)


if __name__ == "__main__":
    serve(_prepare)
