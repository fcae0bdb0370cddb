"""``%spnb`` in an IPython shell: lines, errors in one line, completion."""

import pytest
import torch
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.testing.globalipapp import start_ipython

import spnb
from spnb.job import options
from spnb.ui import flags, notebook
from spnb.ui.explorer import Explorer
from spnb.ui.magics import SpnbMagics


@pytest.fixture(scope="module")
def shell():
    shell = start_ipython() or InteractiveShell.instance()
    shell.run_line_magic("load_ext", "spnb")
    yield shell
    shell.reset()


@pytest.fixture
def spnb_line(shell):
    """Runs one line, in a shell where no line of an earlier test left a plan or a result."""
    shell.register_magics(SpnbMagics(shell))
    return lambda line: shell.run_line_magic("spnb", line)


NET = "resnet29_v2 --image-size 64 --batch-size 1 --resize"


@pytest.mark.long
def test_plan_and_change_one_thing(spnb_line):
    plan = spnb_line(f"plan {NET} --num-spatial-parts 6 --slice-method vertical")
    assert plan.stages[0].team.tiling.grid == (1, 1, 6)
    changed = spnb_line("plan --halo-D2 --fused-layers 2")
    assert changed.stages[0].team.tiling.grid == (1, 1, 6)
    assert changed.fused == 2
    assert spnb_line("tiles retina").get_title().startswith("Stage 0: retina")
    assert "rank 2" in spnb_line("halo --rank 2").get_title()
    for picture in ("clock", "traffic", "memory"):
        assert hasattr(spnb_line(picture), "figure")
    assert spnb_line("simulate").seconds > 0


@pytest.mark.long
def test_variables_are_modules_jobs_plans_and_images(shell, spnb_line):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1))
    job = spnb.Job(net, image_size="30x40", batch_size=1, split_size=1)
    shell.user_ns.update(net=net, job=job, plan=spnb.plan(job), photo=torch.rand(30, 40))
    assert spnb_line("plan net --split-size 1 --batch-size 2").job.module is not None
    assert spnb_line("plan job").extent == (30, 40)
    assert spnb_line("plan job --num-spatial-parts 2").num_ranks == 2
    assert spnb_line("plan plan") is shell.user_ns["plan"]
    assert "array" in spnb_line("tiles photo").get_title()
    assert isinstance(spnb_line("explore job --image photo"), Explorer)
    assert spnb_line("plan resnet29_v2 --image retina").extent == (1411, 1411)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evaluate photo", "give images and targets, or neither: not 1 names"),
        ("train photo", "give images and targets, or neither: not 1 names"),
        ("train --patience 1", "patience counts epochs of a validation"),
        ("", "verbs are plan, start"),
        ("bogus", "unknown verb 'bogus'"),
        ("plan resnet29_v2 --num-spatial-parts x", "cannot read 'x'"),
        ("plan resnet29_v2 --bogus 1", "unrecognized arguments: --bogus"),
        (f"plan {NET} --num-spatial-parts 160000", "cannot be cut into 400×400 tiles"),
        ("plan nonet", "unknown model 'nonet'"),
        ("timeline", "no result yet"),
        ("infer", "no engines run"),
        ("restart", "no engines run"),
        ("tiles nosuchfile.png", "no image file nosuchfile.png"),
        (f"plan {NET} --image nothing", "the variable nothing is None: give it an image"),
    ],
)
def test_what_is_wrong_is_one_line(shell, spnb_line, line, words):
    notebook.stop()
    shell.user_ns["nothing"] = None
    if line.startswith("tiles"):
        spnb_line(f"plan {NET}")
    with pytest.raises(UsageError, match=words) as caught:
        spnb_line(line)
    assert "\n" not in str(caught.value)


def test_help_names_every_option(spnb_line, capsys):
    assert spnb_line("plan --help") is None
    text = capsys.readouterr().out
    assert all(flags.flag(option) in text for option in options.options())


def complete(shell, text):
    return shell.complete(None, text, len(text))[1]


@pytest.mark.long
def test_completion(shell):
    assert "traffic" in complete(shell, "%spnb tr")
    assert set(complete(shell, "%spnb plan resn")) >= {"resnet", "resnet50"}
    assert "--slice-method" in complete(shell, "%spnb plan resnet --sl")
    assert "vertical" in complete(shell, "%spnb plan resnet --slice-method v")
    assert "bf16" in complete(shell, "%spnb plan resnet --precision b")
    assert "retina" in complete(shell, "%spnb infer ret")
    assert "retina" in complete(shell, "%spnb plan resnet --image ret")
    assert "infer" in complete(shell, "run = %spnb inf")
    shell.user_ns["segmenter"] = torch.nn.Conv2d(1, 1, 1)
    assert "segmenter" in complete(shell, "%spnb plan segm")


@pytest.mark.mpi
def test_engines_stay_and_px_works(shell, spnb_line, tmp_path):
    spnb_line(f"plan {NET} --num-spatial-parts 2")
    cluster = spnb_line("start")
    pids = cluster.view.apply_sync(_pid)
    assert spnb_line("start") is cluster
    shell.run_cell_magic("px", "", "mine = spnb.here.rank, sorted(spnb.here.neighbours)")
    assert cluster.view["mine"] == [(0, ["right"]), (1, ["left"]), (2, [])]
    result = spnb_line("infer retina --check")
    assert result.check().passed
    assert len(spnb_line("timings")) == len(result.timings)
    for picture in ("timeline", "layers", "memory", "difference"):
        assert hasattr(spnb_line(picture), "figure")
    assert spnb_line(f"trace {tmp_path / 'trace.json'}").exists()
    spnb_line("plan --num-spatial-parts 1 --slice-method square")
    with pytest.raises(UsageError, match="another plan than the last"):
        spnb_line("infer")
    assert spnb_line("load").view.apply_sync(_pid) == pids
    assert spnb_line("infer").check().passed
    with pytest.raises(ValueError, match=r"deadline would have no effect: spnb\.stop"):
        spnb.start(cluster.plan, deadline=3)
    net = torch.nn.Conv2d(1, 2, 3, padding=1)
    images, labels = torch.rand(6, 1, 12, 10), torch.ones(6, 12, 10, dtype=torch.long)
    shell.user_ns.update(net=net, images=images, labels=labels, two=images[:2])
    spnb_line("plan net --image-size 12x10 --batch-size 2 --split-size 1 --num-spatial-parts 2")
    training = spnb_line(
        "train images labels --num-epochs 2 --optimizer sgd --validation 0.34 --patience 1"
    )
    assert len(training.history) == 2 * len(training.epochs)  # two images are held out
    assert (
        training.epochs["validation_loss"].min()
        == training.epochs["validation_loss"][training.best_epoch]
    )
    assert training.plan.job.optimizer == "sgd"
    with torch.no_grad():
        wanted = float(torch.nn.functional.cross_entropy(training.module(images), labels))
    assert spnb_line("evaluate images labels").loss == pytest.approx(wanted, rel=1e-5)
    spnb_line("start")
    assert torch.equal(spnb_line("infer two").plan.module.weight, training.module.weight)
    assert cluster.view.apply_sync(_pid) == pids
    spnb_line("stop")
    assert cluster.stopped
    with pytest.raises(UsageError, match=r"no engines run: spnb\.start\(plan\) starts them"):
        shell.run_cell_magic("px", "", "mine = spnb.here.rank")
    spnb_line("stop")
    shell.run_line_magic("load_ext", "spnb")  # as where a notebook is run again on one kernel
    again = spnb.start(cluster.plan)
    assert again is not cluster
    shell.run_cell_magic("px", "", "mine = spnb.here.rank")
    assert again.view["mine"] == [0, 1]
    spnb.stop()


def _pid():
    import os

    return os.getpid()


_pid.__module__ = "__main__"
