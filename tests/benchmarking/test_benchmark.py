"""What a benchmark compares is what it says; its verdicts are not asserted, they are timings."""

from pathlib import Path

import matplotlib as mpl
import pytest
import torch
from torch import nn

import spnb
from spnb.benchmarking.baselines import BASELINES, BaselineProcess, Unavailable
from spnb.benchmarking.benchmark import Bench
from spnb.benchmarking.contestants import on_one_thread, without_messages
from spnb.ir.exchange import HOST
from spnb.ir.program import Receive, Send
from spnb.ui.cli import main

mpl.use("Agg")


def job(**options):
    given = {"image_size": 48, "batch_size": 1, "num_spatial_parts": 4}
    return spnb.Job("resnet20_v1", **(given | options))


def messages(plan, rank):
    images = plan.rank_plan(rank).with_mirror
    steps = (s for image in images for (p,) in image.programs.values() for s in p.steps)
    steps = [s for s in steps if isinstance(s, (Send, Receive))]
    return [t for s in steps for t in s.transfers if HOST not in (t.source, t.target)]


@pytest.mark.parametrize("options", [{}, {"gems": True, "batch_size": 2}])
def test_the_limit_sends_nothing_and_computes_the_same(options):
    plan = spnb.plan(job(**options))
    limit = without_messages(plan)
    for rank in range(plan.num_ranks):
        assert messages(plan, rank)
        assert not messages(limit, rank)
    (own,), (its,) = (
        [len(p.steps) for (p,) in each.rank_plan(0).programs.values()] for each in (plan, limit)
    )
    assert own == its
    result = spnb.InProcess(limit).infer()
    assert result.output.shape == (plan.graph.batch, 10)
    assert torch.isfinite(result.output).all()
    assert result.per_rank.bytes_sent.sum() == 0


def test_tiles_without_halos_differ_from_the_untiled_run():
    assert not spnb.InProcess(without_messages(spnb.plan(job()))).infer().check(strict=False).passed


@pytest.mark.parametrize("name", ["plain", "tuned"])
def test_a_baseline_computes_what_the_network_does(name):
    network = job().module
    x = torch.rand(1, 3, 48, 48)
    threads = torch.get_num_threads()
    try:
        found = BASELINES[name].make(network, [x])()
    finally:
        torch.set_num_threads(threads)
    with torch.no_grad():
        torch.testing.assert_close(found, network(x), rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_a_process_times_steps_and_measures_memory():
    process = BaselineProcess("plain", job())
    try:
        assert process.prepare_seconds > 0
        assert process.step() > 0
        assert process.peak_bytes() >= 0
    finally:
        process.stop()


def test_a_network_that_cannot_travel_is_told():
    class Local(nn.Conv2d):
        pass

    with pytest.raises(Unavailable, match="define it in a module"):
        BaselineProcess("plain", spnb.Job(Local(3, 4, 3), image_size=48, batch_size=1))


@pytest.mark.long
def test_an_error_in_the_process_is_told():
    with pytest.raises(Unavailable, match="there is no checkpoint nowhere"):
        BaselineProcess("plain", job(checkpoint="nowhere.pth"))


def page_faults(process):
    """How often the system gave a process a page of memory so far."""
    return int(Path(f"/proc/{process._process.pid}/stat").read_text().split()[9])


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="not told by this system")
def test_a_tuned_baseline_keeps_its_large_blocks_from_step_to_step():
    large = spnb.Job(torch.nn.Conv2d(3, 8, 3), image_size=1024, batch_size=1)  # makes 32 MiB
    process = BaselineProcess("tuned", large)
    try:
        process.step()
        before = page_faults(process)
        process.step()
        assert page_faults(process) - before < 1000  # of 4 KiB: the result alone has 8000
    finally:
        process.stop()


@pytest.mark.long
def test_ratios_are_of_the_same_round():
    seconds = {"spnb": (1.0, 2.0, 4.0), "plain": (3.0, 4.0, 4.0)}
    found = Bench(spnb.plan(job()), seconds, {"plain": 0.5}, {"plain": 1 << 20}, {"x": "no"})
    row = found.table.loc["plain"]
    assert (row.ratio, row.lowest, row.highest, row.seconds) == (2.0, 1.0, 3.0, 4.0)
    assert "not measured: x: no" in repr(found)
    assert "2.00×" in repr(found)
    ax = found.plot()
    assert [bar.get_width() for bar in ax.patches] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--baselines quick", "unknown baseline 'quick': use some of plain"),
        ("--rounds 0", "rounds is 0"),
    ],
)
@pytest.mark.parametrize("verb", ["bench resnet20_v1", "suite"])
def test_what_cannot_be_asked(verb, line, message, capsys):
    assert main([*verb.split(), *line.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("halo --halos 0", "halos is 0, but must be at least 1"),
        ("halo --repeats 0", "repeats is 0"),
        ("halo --channels 1000000000000", "channels is 1000000000000, but must be at most 65,536"),
        ("halo --tiles 1000000000000", "num_spatial_parts is 1000000000000, but must be at most"),
        ("suite --sizes 1000000000000", "image_size is 1000000000000, but must be at most"),
        ("sweep w2 --rounds 0", "rounds is 0"),
        ("sweep w2 --image-size 64 --batch-size 1 --tiles 9999", "cannot be cut into"),
        ("suite --workloads w9 --baselines plain", "unknown model 'w9'"),
        ("bench w2 --device cuda", "device is cuda, but all that a split is measured against"),
    ],
)
def test_what_cannot_be_measured(line, message, capsys):
    assert main(line.split()) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["sweep w2 --lengths 1,x", "halo --tiles two", "suite --image-size 64"]
)
def test_what_cannot_be_read(line, capsys):
    with pytest.raises(SystemExit) as ended:
        main(line.split())
    assert ended.value.code == 2
    assert "spnb" in capsys.readouterr().err


def test_one_rank_has_the_whole_image_and_one_thread():
    solo = on_one_thread(job(parts=1))
    assert solo.num_ranks == 1
    assert solo.rank_plan(0).threads == 1
    assert spnb.InProcess(solo).infer().check().passed
