"""Tensors that gloo carries: the same result to the last bit, and the same care for failures."""

import pytest
import torch

import spnb
from spnb.errors import RunError

pytestmark = pytest.mark.mpi


def job(**options):
    given = {"image_size": "33x47", "batch_size": 4, "parts": 2, "backend": "gloo"}
    return spnb.Job("resnet20_v1", **(given | options))


def _carriers():
    from spnb.engine.remote import _transport as transport

    channels = transport._channels
    return None if channels is None else type(channels.carrier).__name__


@pytest.mark.slow(but_each=2)
@pytest.mark.parametrize("options", [{"local_DP": 2}, {"halo_D2": True, "precision": "bf_16"}])
def test_equal_to_mpi(cluster, options):
    cluster.load(spnb.plan(job(**options)))
    found = cluster.infer()
    assert found.check().passed
    _carriers.__module__ = "__main__"  # sent by its code: engines cannot import the tests
    assert set(cluster.view.apply_sync(_carriers)) == {"Gloo"}  # engines of earlier plans too
    messages = found.per_rank[["messages", "bytes_sent"]]
    cluster.load(spnb.plan(job(**options, backend="mpi")))
    other = cluster.infer()
    assert not any(cluster.view.apply_sync(_carriers))
    assert torch.equal(found.output, other.output)
    assert messages.equals(other.per_rank[["messages", "bytes_sent"]])


def _out_of_turn():
    """Messages are received in another order than the one they were sent in."""
    from spnb.engine.remote import _transport as transport

    tags, found = (7, 3, 5, 3), []
    if transport.rank == 0:
        for number, tag in enumerate(tags):
            transport.send(1, tag, torch.full((1000,), 10.0 * tag + number))
        transport.send(1, 4, torch.empty(0))
        transport.flush()
    if transport.rank == 1:
        buffers = [*(torch.empty(1000) for _ in tags), torch.empty(0)]
        for tag, buffer in zip((3, 5, 7, 3, 4), buffers, strict=True):
            transport.wait([transport.receive(0, tag, buffer)])
        found = [buffer.unique().tolist() for buffer in buffers]
    return found


def test_messages_are_told_apart_by_tag_in_any_order(cluster):
    cluster.load(spnb.plan(job()))
    _out_of_turn.__module__ = "__main__"  # sent by its code: engines cannot import the tests
    assert cluster.view.apply_sync(_out_of_turn)[1] == [[31], [52], [70], [33], []]


def _reads_gpus():
    from spnb.transport.mpi_library import reads_gpus

    return reads_gpus()


def test_the_mpi_library_is_asked_whether_it_reads_gpus(cluster):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    _reads_gpus.__module__ = "__main__"
    assert not any(cluster.view.apply_sync(_reads_gpus))


def test_nccl_without_a_gpu_is_one_line_on_all_ranks(cluster):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(
        RunError, match=r"rank 0 on \S+: device is cuda, but PyTorch \S+ sees no GPU"
    ):
        cluster.load(spnb.plan(job(backend="nccl")))
    cluster.load(spnb.plan(job()))
    assert cluster.infer().check().passed


CELL = """
here = spnb.here
if here.rank == 1:
    raise ValueError("not today")
if here.stage == 0:
    here.exchange(torch.zeros(4, 3, *here.region.shape[1:]))
"""


def test_a_failing_rank_frees_the_others_and_leaves_nothing_behind(cluster):
    cluster.load(spnb.plan(job()))
    wanted = cluster.infer().output
    for _ in range(3):
        with pytest.raises(Exception, match="not today"):
            cluster.view.execute(CELL, block=True)
        assert torch.equal(cluster.infer().output, wanted)


def test_threads_of_one_process_need_no_carrier():
    with pytest.raises(ValueError, match="backend is gloo, but threads of one process need no"):
        spnb.InProcess(spnb.plan(job()))
