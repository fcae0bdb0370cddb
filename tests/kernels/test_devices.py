"""Ranks on a device: all that they compute is computed there, and equals what CPUs compute."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from fake_gpu import DEVICE, There, elsewhere
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from networks import chains
from random_plans import RANDOM_NETWORKS, splits
from running import planned
from torch import nn

import spnb
from spnb.errors import CaptureError, DeviceError, PlanError
from spnb.io.datasets.examples import matched
from spnb.io.sources import ArraySource
from spnb.io.tensors import read_tensor
from spnb.ir.region import Region
from spnb.ir.weights import tensors_of
from spnb.kernels.devices import CPU, computing_on, device_of
from spnb.runtime.trace import DeviceRecorder
from spnb.runtime.worker import Worker
from spnb.training.epoch import Trainer
from spnb.training.losses import LOSSES
from spnb.training.start import TrainingStart
from spnb.training.step import TrainingWorker
from spnb.transport.host_staging import HostStaged, staged_for
from spnb.transport.local import LocalTransport, World


class HostOnly(LocalTransport):
    """A carrier that reads no memory but the host's, as MPI without support for GPUs."""

    def supports(self, device):
        return device.type == "cpu"

    def send(self, target, tag, tensor):
        assert not isinstance(tensor, There)
        super().send(target, tag, tensor)

    def receive(self, source, tag, buffer):
        assert not isinstance(buffer, There)
        return super().receive(source, tag, buffer)


def ranks_of(plan, host_only, work):
    """What each rank of a plan has to show, on the device and with no device, and its calls."""

    def there(transport):
        carrier = HostOnly(transport.world, transport.rank) if host_only else transport
        with elsewhere() as calls:
            return work(staged_for(carrier, DEVICE), DEVICE), calls

    found, calls = zip(*World(plan.num_ranks, deadline=60).run(there), strict=True)
    return found, World(plan.num_ranks, deadline=60).run(lambda t: work(t, CPU)), calls


NETWORKS = [
    ("resnet29_v2", False, {"num_spatial_parts": 4}),
    ("resnet20_v1", True, {"num_spatial_parts": 3, "slice_method": "vertical", "halo_D2": True}),
    ("unet", True, {"split_size": 1, "num_spatial_parts": 4}),
    pytest.param(
        *("amoebanet", True, {"num_layers": 3, "num_filters": 16, "local_DP": 2}),
        marks=pytest.mark.long,
    ),
]


@pytest.mark.slow(but_each=2)
@pytest.mark.long
@pytest.mark.parametrize(("model", "host_only", "options"), NETWORKS)
def test_inference_is_computed_on_the_device(model, host_only, options):
    job = spnb.Job(model, image_size="64x75", batch_size=2, parts=1, **options)
    plan = spnb.plan(job)
    sources, module = plan.open_inputs(), plan.module

    def work(transport, device):
        rank_plan = plan.rank_plan(transport.rank)
        weights = tensors_of(module, rank_plan.weights, plan.graph)
        worker = Worker(rank_plan, weights, transport, device)
        return worker.infer(lambda n, r: read_tensor(sources[n], r, job.dtype)).pieces

    there, here, calls = ranks_of(plan, host_only, work)
    for mine, wanted in zip(there, here, strict=True):
        for piece, other in zip(mine, wanted, strict=True):
            assert piece.tensor.device == CPU
            torch.testing.assert_close(piece.tensor, other.tensor, rtol=1e-4, atol=1e-4)
    assert all(each["aten.convolution"] > 0 for each in calls)


@pytest.mark.slow
@pytest.mark.long
@settings(RANDOM_NETWORKS, max_examples=25)
@given(data=st.data())
def test_random_networks_are_computed_on_the_device(data):
    net = data.draw(chains(2)).double()
    size = [data.draw(st.integers(8, 30)) for _ in range(2)]
    x = torch.randn(4, 2, *size, generator=torch.Generator().manual_seed(1)).double()
    copies = {"times": 1} if data.draw(st.booleans()) else {}
    try:
        fused = data.draw(st.sampled_from([0, 1, 100]))
        plan = planned(net, tuple(x.shape), data.draw(splits(2)), 2, fused, **copies)
    except (PlanError, CaptureError) as refusal:
        note(str(refusal))
        assume(False)
    graph = plan.graph

    def work(transport, device):
        rank_plan = plan.rank_plan(transport.rank)
        names = {name for image in rank_plan.with_mirror for name in image.weights}
        worker = Worker(rank_plan, tensors_of(net, names, graph), transport, device)
        held = Region.whole(graph.extent(next(iter(graph.inputs))))
        return worker.infer(lambda n, r: graph.axes[n].piece(x, held, r).contiguous()).pieces

    there, here, _ = ranks_of(plan, True, work)
    for piece, other in zip(itertools.chain(*there), itertools.chain(*here), strict=True):
        assert piece.region == other.region
        torch.testing.assert_close(piece.tensor, other.tensor, equal_nan=True)


@pytest.mark.long
@pytest.mark.slow(but_each=3)
@pytest.mark.parametrize(
    ("options", "host_only"),
    [({}, False), ({"recompute": True, "parts": 2}, True), ({"gems": True}, True)],
)
def test_training_is_computed_on_the_device(options, host_only):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv2d(8, 8, 3, 2, 1),
        nn.GroupNorm(2, 8),
        nn.Upsample(scale_factor=1.5, mode="bilinear"),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 10, 3)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    job = spnb.Job(net, image_size=32, batch_size=4, precision="fp64", **options)
    plan = spnb.plan(job, training=True)
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)).numpy()
    examples = matched(ArraySource(images), np.arange(8) % 10, (4, 10))
    recipe = job.recipe("cross_entropy")
    module = plan.module
    trained = [name for name, _ in module.named_parameters()]

    def work(transport, device):
        rank_plan = plan.rank_plan(transport.rank)
        names = {n for image in rank_plan.with_mirror for n in plan.graph.made_of(image.weights)[0]}
        weights = tensors_of(module, names, plan.graph)
        facts = (trained, transport, LOSSES["cross_entropy"], job.schedule, device)
        start = TrainingStart(tuple(trained), recipe)
        trainer = Trainer(TrainingWorker(rank_plan, weights, *facts), start)
        told = trainer.epoch(examples, 0, 0)
        resumed = replace(start, optimizer_state=trainer.optimizer_state)
        again = Trainer(TrainingWorker(rank_plan, trainer.weights, *facts), resumed)
        return [told, again.epoch(examples, 1, 0)], again.weights

    there, here, calls = ranks_of(plan, host_only, work)
    for (told, weights), (other, wanted) in zip(there, here, strict=True):
        assert [e.losses for e in told] == [pytest.approx(e.losses) for e in other]
        assert [e.right for e in told] == [e.right for e in other]
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, wanted[name], rtol=1e-8, atol=1e-8)
    assert all(each["aten.convolution_backward"] > 0 for each in calls)


def test_what_is_not_on_the_device_is_refused_there():
    with elsewhere(), computing_on(DEVICE):
        x = torch.ones(3)
        assert x.device == DEVICE
        with pytest.raises(RuntimeError, match="operands on elsewhere:0 and on the CPU"):
            x + torch.ones(3, device="cpu")
        assert (x + 1).to("cpu").tolist() == [2, 2, 2]


def test_messages_go_through_the_host_where_the_carrier_reads_nothing_else():
    def work(transport):
        with elsewhere(), computing_on(DEVICE):
            carrier = staged_for(HostOnly(transport.world, transport.rank), DEVICE)
            assert isinstance(carrier, HostStaged)
            buffer = torch.zeros(2)
            carrier.send(1 - carrier.rank, 5, torch.full((2,), float(carrier.rank)))
            arrival = carrier.receive(1 - carrier.rank, 5, buffer)
            carrier.wait([arrival])
            assert arrival.done()
            carrier.flush()
            assert buffer.device == DEVICE
            return buffer.to("cpu").tolist()

    assert World(2).run(work) == [[1, 1], [0, 0]]
    plain = LocalTransport(World(1), 0)
    assert staged_for(plain, DEVICE) is plain


@pytest.mark.long
def test_a_host_without_gpus_says_so():
    if torch.cuda.is_available():
        pytest.skip("this host has a GPU")
    with pytest.raises(DeviceError, match=r"device is cuda, but PyTorch .* sees no GPU here: use"):
        device_of("cuda")
    with pytest.raises(DeviceError, match="sees no GPU"):
        spnb.InProcess(spnb.plan(spnb.Job("resnet20_v1", batch_size=1, device="cuda")))


def test_gpus_of_a_host_are_dealt_in_turn(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    found = [device_of("cuda", rank) for rank in range(3)]
    assert [str(device) for device in found] == ["cuda:0", "cuda:1", "cuda:0"]


def test_marks_in_a_devices_queue_become_seconds():
    @dataclass
    class Mark:
        at: float
        reached: bool = False

        def elapsed_time(self, other):
            assert last[-1].reached
            return other.at - self.at

        def synchronize(self):
            self.reached = True

    last, clock = [], itertools.count(1000, 500)

    def mark():
        last.append(Mark(float(next(clock))))
        return last[-1]

    recorder = DeviceRecorder(mark)
    recorder.start()
    begun = recorder.now()
    recorder.note(begun, "compute", "layer1", "conv2d")
    (event,) = recorder.finish()
    assert (event.start, event.stop) == (0.5, 1.0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_gpu_inference_is_exact(precision):
    job = spnb.Job("resnet29_v2", image_size="64x75", batch_size=1, device="cuda")
    session = spnb.InProcess(spnb.plan(job.replace(precision=precision)), progress=False)
    result = session.infer()
    assert result.check().passed
    assert (result.timings.seconds >= 0).all()


@pytest.mark.mpi
@pytest.mark.skipif(torch.cuda.device_count() < 5, reason="NCCL needs a GPU for each of 5 ranks")
def test_nccl_equals_mpi():
    job = spnb.Job("resnet20_v1", image_size=64, batch_size=2, parts=2, backend="nccl")
    with spnb.Cluster(spnb.plan(job), progress=False) as cluster:
        found = cluster.infer()
        assert found.check().passed
        cluster.load(spnb.plan(job.replace(backend="mpi", device="cuda")))
        assert torch.equal(cluster.infer().output, found.output)
