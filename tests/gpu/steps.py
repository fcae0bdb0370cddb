"""The steps of ``tests/gpu/check.sh``: ``python steps.py STEP DEVICE`` runs one of them.

Each prints its figures, and ends with an exception if something is wrong.  With ``cpu`` as the
device, a step is only rehearsed, with small images.
"""

import copy
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

HERE = Path(__file__).parent
IMPORTED = {"pillow": "PIL", "mpich": None}
"""Modules of packages that have another name; None for one that has no module."""

# The largest error of tiles beside that of plain PyTorch, both against fp64 on the CPU.
WORSE = 3.0
FLOORS = {"fp32": 2e-6, "fp16": 2e-3, "bf16": 2e-2}
"""By precision: errors below this share of the output's scale are rounding, whatever the ratio."""


def missing(*_):
    """Print the packages of wheels.txt that this interpreter lacks."""
    names = []
    for line in (HERE / "wheels.txt").read_text().splitlines():
        if name := re.match(r"[\w-]+", line):
            module = IMPORTED.get(name[0], name[0])
            try:
                importlib.import_module(module) if module else distribution(name[0])
            except (ImportError, PackageNotFoundError):
                names.append(line.strip())
    print(" ".join(names))


def about(device):
    """Print what is checked: the card, the driver, PyTorch."""
    import torch

    if device != "cuda":
        what = "rehearsed on the CPU" if device == "cpu" else "no CUDA device"
        print(f"{what}; PyTorch {torch.__version__}, {os.cpu_count()} cores")
        return
    card = torch.cuda.get_device_properties(0)
    print(
        f"{card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}; PyTorch"
        f" {torch.__version__}, {os.cpu_count()} cores"
    )


def job_of(model, device, **options):
    import spnb

    given = {"batch_size": 1, "split_size": 1, **options}
    return spnb.Job(model, device=device, **given)


def session_of(job, training=False):
    import spnb

    return spnb.InProcess(spnb.plan(job, training=training), progress=False)


def mpi(ranks, *args, timeout=80):
    """Run spnb under mpiexec; return what it printed."""
    found = distribution("mpich") if not os.environ.get("MPIEXEC") else None
    mpiexec = os.environ.get("MPIEXEC") or next(
        str(found.locate_file(file)) for file in found.files if file.name == "mpiexec"
    )
    line = [mpiexec, "-launcher", "fork", "-n", str(ranks), sys.executable, "-m", "spnb", *args]
    threads = str(max(1, (os.cpu_count() or 1) // ranks))
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    done = subprocess.run(line, capture_output=True, text=True, timeout=timeout, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ranks_on_the_host(device):
    """MPI ranks compute on the CPU: the environment is complete."""
    printed = mpi(2, "infer", "resnet20_v1", *SMALL, "--num-spatial-parts", "2", "--check")
    print(re.search(r"check: .*", printed)[0])


SMALL = ("--image-size", "128", "--batch-size", "1", "--split-size", "1")


def inference(device):
    """Tiles on the card against plain PyTorch on the card, both against fp64 on the CPU."""
    import torch

    from spnb.kernels.devices import compute_exactly

    compute_exactly()
    side = 512 if device == "cuda" else 96
    print(f"{'network':12} {'grid':5} {'type':5} {'error of tiles':>15} {'of plain torch':>15}")
    for model in ("resnet20_v1", "unet", "w1"):
        for grid, tiles in (("2x2", 4), ("1x3", 3)):
            for precision, dtype in TYPES(torch).items():
                job = job_of(
                    model,
                    device,
                    image_size=side,
                    num_spatial_parts=tiles,
                    slice_method=grid,
                    precision=precision,
                )
                net = job.replace(precision="fp32", device="cpu").module.eval()
                image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))
                with torch.no_grad():
                    exact = copy.deepcopy(net).double()(image.double())
                    on_card = copy.deepcopy(net).to(device, dtype)
                    plain = on_card(image.to(device, dtype)).double().cpu()
                tiled = session_of(job).infer(image.to(dtype)).output.double()
                scale = float(exact.abs().max())
                ours, theirs = (float((x - exact).abs().max()) / scale for x in (tiled, plain))
                print(f"{model:12} {grid:5} {precision:5} {ours:15.2e} {theirs:15.2e}")
                assert ours <= max(WORSE * theirs, FLOORS[precision]), "tiles differ too much"


def TYPES(torch):
    """The types that are checked."""
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


LOSS = {"fp32": 1e-3, "fp16": 5e-2, "bf16": 1e-1}
"""By precision: how far the loss after some steps may be from that of plain PyTorch in fp32."""


def training(device):
    """Losses of some steps in tiles against those of plain PyTorch in fp32 on the card."""
    import torch
    from torch.nn import functional as F

    from spnb.kernels.devices import compute_exactly

    compute_exactly()
    side, steps = (256, 4) if device == "cuda" else (48, 3)
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(2, 3, side, side, generator=generator)
    labels = torch.randint(0, 10, (2,), generator=generator)
    for model in ("resnet20_v1", "resnet29_v2"):
        for precision in TYPES(torch):
            job = job_of(
                model,
                device,
                image_size=side,
                batch_size=2,
                split_size=2,
                num_spatial_parts=4,
                precision=precision,
                optimizer="sgd",
                learning_rate=0.01,
                learning_rate_decay=1.0,
                weight_decay=0.0,
                num_epochs=steps,
            )
            found = session_of(job, training=True).train(images, labels)
            tiled = found.history["loss"].tolist()
            initial = job.replace(precision="fp32", device="cpu").module
            net = copy.deepcopy(initial).to(device).train().requires_grad_()
            optimizer = torch.optim.SGD(net.parameters(), 0.01)
            plain = []
            for _ in range(steps):
                optimizer.zero_grad()
                loss = F.cross_entropy(net(images.to(device)), labels.to(device))
                loss.backward()
                optimizer.step()
                plain.append(float(loss.detach()))
            # In fp16, steps with infinite gradients are left out until the loss's scale is right.
            compared = list(zip(tiled, plain, strict=True))[: 1 if precision == "fp16" else None]
            error = max(abs(a - b) for a, b in compared)
            print(
                f"{model:12} {precision:5} losses {tiled[0]:.4f} … {tiled[-1]:.4f}, plain torch"
                f" {plain[-1]:.4f}, apart by {error:.1e}"
            )
            assert error <= LOSS[precision] * max(1.0, *plain), "losses differ too much"
            assert tiled[-1] < tiled[0], "the loss grows"


def shared_by_ranks(device):
    """One to four MPI ranks share the card, and exchange halos through the host's memory."""
    side = "2048" if device == "cuda" else "128"
    for ranks in (1, 2, 3, 4):
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "report.json")
            printed = mpi(
                *(ranks, "infer", "unet", "--image-size", side, "--batch-size", "1"),
                *("--split-size", "1", "--num-spatial-parts", str(ranks), "--device", device),
                *("--check", "--report", str(file)),
            )
            step = json.loads(file.read_text())["seconds"]["step"]
        verdict = re.search(r"check: (.*)", printed)[1]
        print(f"{ranks} ranks: {step * 1e3:.1f} ms a step (the first); {verdict}")
        print(f"        {time.monotonic() - begun:.0f} s with the start of Python")


LIMIT = 3 << 30
"""Bytes of the card that PyTorch may take in the step of patches: plain PyTorch needs more."""


def patches(device):
    """An image that plain PyTorch cannot hold in some of the card's memory, in patches."""
    import torch

    from spnb.kernels.devices import compute_exactly

    compute_exactly()
    side = 4096 if device == "cuda" else 96
    options = {"halo_D2": True, "fused_layers": "all", "num_spatial_parts": 1}
    job = job_of("w1", device, image_size=side, patches=16, **options)
    image = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(3))
    net = job.module.eval()
    with torch.no_grad():
        exact = copy.deepcopy(net).to(device)(image.to(device)).cpu()
    if device == "cuda":
        torch.cuda.empty_cache()
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(LIMIT / whole)
        try:
            with torch.no_grad():
                copy.deepcopy(net).to(device)(image.to(device))
            raise AssertionError(f"plain PyTorch needs no more than {LIMIT / 2**30:.0f} GiB")
        except torch.OutOfMemoryError:
            print(f"plain torch: out of memory with {LIMIT / 2**30:.0f} GiB, on {side}²")
        torch.cuda.empty_cache()
    result = session_of(job).infer(image)
    error = float((result.output - exact).abs().max()) / float(exact.abs().max())
    peak = result.per_rank["peak_memory_bytes"].max() / 2**20
    print(f"16 patches: {peak:,.0f} MiB, error {error:.1e} of the output's scale")
    assert error <= 1e-5, "patches differ from the whole image"


def memory(device):
    """Memory of a rank: foreseen, and measured."""
    import spnb

    side = 1024 if device == "cuda" else 128
    print(f"{'network':12} {'tiles':>5} {'foreseen MiB':>13} {'measured MiB':>13} {'ratio':>6}")
    for model in ("resnet20_v1", "unet"):
        for ranks in (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder, "report.json")
                options = ("--image-size", str(side), "--batch-size", "1", "--split-size", "1")
                tiles = ("--num-spatial-parts", str(ranks), "--device", device)
                mpi(ranks, "infer", model, *options, *tiles, "--report", str(file))
                rows = json.loads(file.read_text())["per_rank"]
            measured = max(row["peak_memory_bytes"] for row in rows)
            job = job_of(model, device, image_size=side, num_spatial_parts=ranks)
            foreseen = max(spnb.plan(job).memory_bytes)
            print(
                f"{model:12} {ranks:5} {foreseen / 2**20:13,.0f} {measured / 2**20:13,.0f}"
                f" {measured / foreseen:6.2f}"
            )


def speed(device):
    """A step of one rank against plain PyTorch and torch.compile, and the gaps between kernels."""
    import torch

    from spnb.kernels.devices import compute_exactly

    compute_exactly()
    side = 1024 if device == "cuda" else 96
    print(f"{'network':12} {'':14} {'ms a step':>10} {'of plain':>9} {'gaps':>6}")
    for model in ("resnet20_v1", "unet"):
        job = job_of(model, device, image_size=side, num_spatial_parts=1)
        net = copy.deepcopy(job.module).eval().to(device)
        image = torch.rand(1, 3, side, side)
        compiled = torch.compile(net)
        session = session_of(job)
        source = session.plan.open(image)
        contestants = {
            # All bring the image to the card, as spnb does.
            "plain torch": lambda net=net, x=image: net(x.to(device)),
            "torch.compile": lambda net=compiled, x=image: net(x.to(device)),
            "spnb, one rank": partial(session.infer, source),
        }
        plain = None
        for name, run in contestants.items():
            try:
                seconds, gaps = _timed(run, device, torch)
            except Exception as error:
                print(f"{model:12} {name:14} not measured: {str(error).splitlines()[0][:70]}")
                assert name == "torch.compile", "only torch.compile may be missing"
                continue
            plain = plain or seconds
            print(f"{model:12} {name:14} {seconds * 1e3:10.2f} {seconds / plain:9.2f} {gaps:6.0%}")


def _timed(run, device, torch):
    """The median seconds of a run, and the share of a run in which no kernel runs."""
    from torch.profiler import ProfilerActivity, profile

    def once():
        with torch.no_grad():
            run()
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(3):
        once()
    taken = []
    for _ in range(10):
        begun = time.perf_counter()
        once()
        taken.append(time.perf_counter() - begun)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profile(activities=activities) as profiled:
        once()
    kernels = [e for e in profiled.events() if "CUDA" in str(e.device_type)] or profiled.events()
    spans = sorted((e.time_range.start, e.time_range.end) for e in kernels)
    busy, reached = 0.0, spans[0][0]
    for start, stop in spans:
        busy += max(0.0, stop - max(start, reached))
        reached = max(reached, stop)
    return sorted(taken)[len(taken) // 2], 1 - busy / (reached - spans[0][0])


STEPS = {
    "missing": missing,
    "about": about,
    "ranks-on-the-host": ranks_on_the_host,
    "inference": inference,
    "training": training,
    "shared-by-ranks": shared_by_ranks,
    "patches": patches,
    "memory": memory,
    "speed": speed,
}

if __name__ == "__main__":
    STEPS[sys.argv[1]](sys.argv[2] if len(sys.argv) > 2 else "cpu")
