"""Would another runtime be faster for what lies between two exchanges? One call, on one thread.

``python tests/helpers/onnx_comparison.py`` measures a convolution with its activation, which is
what lies between two exchanges of many networks: by spnb, and by ONNX Runtime in a session of its
own. That needs ``pip install onnx onnxscript onnxruntime``, which no test does.
"""

from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import torch
from torch import nn

import spnb
from spnb.runtime.allocator import keep_blocks

LAYERS = ((16, 16, 3, (256, 512)), (64, 64, 3, (256, 512)), (64, 16, 1, (256, 512)))
LAYERS += ((128, 128, 3, (64, 32)), (512, 512, 3, (16, 8)))
ROUNDS = 15


def session_of(net, x):
    """What runs a network in ONNX Runtime, on one thread."""
    import onnxruntime  # no requirement of spnb's: only this measurement needs it

    with TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        torch.onnx.export(net, (x,), path, dynamo=True, verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: x.numpy()})


def main():
    """A line for each layer; both take turns, and the medians of the rounds are told."""
    keep_blocks()
    print("channels   kernel  positions   spnb       ONNX Runtime   ratio")
    for entering, leaving, kernel, size in LAYERS:
        convolution = nn.Conv2d(entering, leaving, kernel, padding=kernel // 2)
        net, x = nn.Sequential(convolution, nn.ReLU()).eval(), torch.rand(1, entering, *size)
        job = spnb.Job(net, image_size=size, batch_size=1, split_size=1, num_spatial_parts=1)
        ranks, other = spnb.InProcess(spnb.plan(job), progress=False), session_of(net, x)
        image = ranks.plan.open(x)
        torch.set_num_threads(1)
        ours, theirs = [], []
        for number in range(ROUNDS + 2):
            timings = ranks.infer(image).timings
            start = perf_counter()
            other()
            stop = perf_counter()
            if number > 1:
                ours.append(timings.seconds[timings.kind == "compute"].sum())
                theirs.append(stop - start)
        a, b = median(ours) * 1e3, median(theirs) * 1e3
        shape = f"{kernel}x{kernel}     {'x'.join(map(str, size)):9s}"
        print(f"{entering:3d} > {leaving:3d}  {shape}  {a:6.2f} ms  {b:6.2f} ms      {b / a:.2f}")


if __name__ == "__main__":
    main()
