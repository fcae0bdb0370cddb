"""The command line: what it prints, writes and refuses, with its own ranks and under mpiexec."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from processes import MPIEXEC

from spnb.ui.cli import main

SMALL = ["resnet20_v1", "--image-size", "67x93", "--batch-size", "3"]
TWO = ["--num-spatial-parts", "2", "--slice-method", "vertical"]


def shell(*args, ranks):
    command = [MPIEXEC, "-n", str(ranks), sys.executable, "-m", "spnb", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=250)


@pytest.mark.long
def test_plan_starts_nothing_and_prints_the_table(capsys):
    assert main(["plan", "resnet", "--image-size", "512", "--batch-size", "2"]) == 0
    out = capsys.readouterr().out
    assert "resnet: 2 images of 512×512 in 1 part, 44 blocks" in out
    assert "2×2" in out


@pytest.mark.long
def test_an_image_sets_size_and_batch(capsys):
    assert main(["plan", "resnet20_v1", "--image", "retina"]) == 0
    assert "1 image of 1411×1411" in capsys.readouterr().out
    assert main(["plan", "resnet20_v1", "--image", "retina", "--batch-size", "2"]) == 0
    assert "2 images of 1411×1411" in capsys.readouterr().out


@pytest.mark.long
def test_another_size_than_the_images_needs_a_flag(capsys):
    line = ["plan", "resnet20_v1", "--image", "retina", "--image-size", "64x96"]
    assert main(line) == 2
    error = capsys.readouterr().err
    assert "retina is 1411x1411, but 64x96 is planned" in error
    assert "plan with --image-size 1411x1411, or with --resize, which" in error
    assert main([*line, "--resize"]) == 0
    printed = capsys.readouterr().out
    assert "1 image of 64×96" in printed
    assert "image: retina resized from 1411x1411 is decoded whole: 72.0 KiB" in printed


@pytest.mark.long
def test_a_flag_without_effect_is_said_and_the_line_runs(capsys):
    line = "plan resnet20_v1 --image-size 64 --batch-size 2 --times 2 --enable-master-comm-opt"
    assert main([*line.split(), "--fused-layers", "2", "--num-layers", "19"]) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "spnb: --times has no effect: times is for mirrored copies of the plan: it needs gems",
        "spnb: --enable-master-comm-opt has no effect: enable_master_comm_opt is for mirrored"
        " copies of the plan: it needs gems",
        "spnb: --fused-layers has no effect: fused_layers is 2, which needs halo_D2",
        "spnb: --num-layers has no effect: num_layers is for amoebanet: leave it out",
    ]
    assert "5 ranks" in printed.out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("infer resnet --precision fp8", "unknown precision 'fp8'"),
        ("infer resnet --slice-method round", "unknown slice method 'round'"),
        ("infer resnet --backend nccl --device cpu", "between GPUs, but device is cpu: leave"),
        ("infer resnet20_v1 --balance 3,4", "has 2 entries with the sum 7"),
        ("infer resnet --balance 3,a", "argument --balance: cannot read '3,a'"),
        ("infer resnet --num-spatial-parts 4096", "an image of 32×32 pixels cannot be cut"),
        ("infer resnet --spatial-size 3", "spatial_size is 3"),
        ("infer resnet --spatial-size 0 --allow-gather", "allow_gather has no tiled stage"),
        ("infer resnet20_v1 --batch-size 4 --parts 3 --local-DP 2", "has only 1 of the 4 images"),
        ("infer resnet --image nowhere.png", "there is no image file nowhere.png"),
        ("infer resnet --image retinae", "did you mean retina?"),
        (
            "infer resnet20_v1 --image-size 64 --image nowhere.png",
            "there is no image file nowhere.png",
        ),
        ("infer resnet --checkpoint nowhere.pth", "there is no checkpoint nowhere.pth"),
        ("plan resnet --checkpoint nowhere.pth", "there is no checkpoint nowhere.pth"),
        ("plan resnet --image-size 64 --image nowhere.png", "there is no image file nowhere.png"),
        ("infer resnet --image cat --image cat", "2 images (--image), but the network takes one"),
        ("plan resnet20_v1 --split-size 1 --balance 12", "has 1 entries with the sum 12"),
        ("plan json:dumps", "json:dumps raises TypeError: "),
        ("infer resnext", "unknown model 'resnext'"),
        ("infer no.such:model", "cannot find the model no.such:model"),
        ("infer resnet --save-output x.foo", "cannot save as x.foo: use"),
        (
            "infer unet --image-size 64 --batch-size 1 --num-classes 5 --save-output x.png",
            "has 5 channels, and a PNG holds 1 or 3: end the network with x.argmax(1)",
        ),
        ("infer resnet --num-spatial-part 2", "unrecognized arguments: --num-spatial-part 2"),
        ("infer resnet --optimizer sgd", "optimizer is for training"),
        ("infer resnet --num-epochs 1", "num_epochs is for training"),
        ("bench resnet -v", "verbose is for plan, infer and train"),
        ("sweep resnet --num-spatial-parts 9", "num_spatial_parts is what sweep tries: give"),
        ("sweep resnet --lengths 2,b", "'2,b' is no list of whole numbers"),
        ("plan resnet --seed -1", "seed is -1, but must be 0 or more"),
        ("plan resnet --num-classes 0", "num_classes is 0, but must be at least 1"),
        (
            "plan resnet --num-spatial-parts 999999999999",
            "num_spatial_parts is 999999999999, but must be at most 1,048,576",
        ),
        ("plan resnet --image-size 999999999999", "but must be at most 4,294,967,296"),
        ("plan resnet --image-size 64x999999999999", "but must be at most 4,294,967,296"),
        ("plan resnet --image-size 4000000000", "512,000,000,000,000,000,000 of them, but must"),
        ("train resnet20_v1 --app 2 --datapath nowhere", "nowhere (--datapath) has no CIFAR-10"),
        ("train resnet20_v1 --app 1", "there is no folder ./train (--datapath)"),
        ("train unet --app 1 --split-size 1", "unet gives a class for each pixel, but app 1"),
        ("train resnet --optimizer adamm", "unknown optimizer 'adamm'"),
        ("train resnet --enable-evaluation", "is for inference"),
        ("evaluate resnet --optimizer sgd", "optimizer is for training"),
        ("evaluate resnet20_v1 --app 2 --datapath nowhere", "nowhere (--datapath) has no CIFAR-10"),
        ("evaluate resnet20_v1 --checkpoint nowhere.pth", "nowhere.pth"),
        ("infer resnet --gems --batch-size 1", "2 turns (replicas, gems, times) of a batch of 1"),
        ("infer resnet --schedule gpipe", "schedule is for training"),
        ("infer resnet --image retina --nodata x", "'x' is no number: give one, file or none"),
        (
            "infer resnet --image retina --nodata -1",
            "whole numbers from 0 to 255: give one of them",
        ),
        ("infer resnet --image retina --preprocess 3,x", "cannot read '3,x': give MEAN,STD"),
        ("infer unet --image retina --preprocess 1/2,1", "mean of 2 numbers, but images have 3"),
        ("train resnet --replicas 0", "replicas is 0, but must be at least 1"),
        (
            "train resnet --gems --times 2 --parts 3 --batch-size 11",
            "3 parts in each of 4 turns (replicas, gems, times) of a batch of 11",
        ),
    ],
)
def test_bad_input_is_one_line_and_no_engine_starts(line, message, capsys, monkeypatch):
    monkeypatch.setattr(
        "spnb.driver.launch.engines.Engines.start", lambda self: pytest.fail("engines started")
    )
    try:
        code = main(line.split())
    except SystemExit as exit:
        code = exit.code
    assert code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("--help", 0),
        ("train --help", 0),
        ("halo --help", 0),
        ("infer resnet --no-such-flag", 2),
        ("infer resnet --balance 3,a", 2),
        ("infer resnet --spatial-size 3", 2),
        ("infer resnet --slice-method round", 2),
        ("infer resnet --optimizer sgd", 2),
        ("infer resnet --save-output x.foo", 2),
        ("plan resnet --num-spatial-parts 999999999999", 2),
        ("plan resnet --image-size 99999999999999999999999999", 2),
        ("train resnet --optimizer adamm", 2),
        ("train resnet --enable-evaluation", 2),
        ("plan resnext", 2),
    ],
)
def test_help_and_argument_errors_load_no_torch(line, code):
    program = (
        "import sys\n"
        "from spnb.ui.cli import main\n"
        "try:\n"
        f"    code = main({line.split()})\n"
        "except SystemExit as exit:\n"
        "    code = exit.code\n"
        "heavy = {'torch', 'numpy', 'pandas', 'matplotlib', 'mpi4py', 'ipyparallel'}\n"
        "print(code, sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == f"{code} []"


@pytest.mark.long
def test_importing_spnb_loads_no_torch():
    program = (
        "import sys, spnb\n"
        "dir(spnb)\n"
        "print('torch' in sys.modules)\n"
        "from spnb import Job, here, plan\n"
        "assert spnb.Job is Job and spnb.here is here and spnb.plan is plan and callable(plan)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


def test_an_unreadable_image_is_refused(tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    assert main(["infer", "resnet", "--image", str(tmp_path / "broken.png")]) == 2
    assert "cannot read" in capsys.readouterr().err


@pytest.mark.mpi
def test_infer_checks_draws_and_reports(on_shared_engines, tmp_path, capsys):
    report = tmp_path / "new" / "report.json"
    line = ["infer", *SMALL, "--parts", "2", "--check", "-v"]
    line += ["--save-plots", str(tmp_path / "plots"), "--report", str(report)]
    assert main(line) == 0
    printed = capsys.readouterr().out
    assert "check: equal to the untiled run" in printed
    assert "peak_memory_bytes" in printed  # -v: the table of ranks
    for name in ("tiles-stage-0.png", "timeline.png"):
        assert (tmp_path / "plots" / name).stat().st_size > 10_000
    told = json.loads(report.read_text())
    assert told["ranks"] == 5
    assert told["job"]["model"] == "resnet20_v1"
    assert told["job"]["parts"] == 2
    assert told["check"]["passed"] is True
    assert 0 <= told["check"]["max_abs_error"] <= 1e-5 * told["check"]["output_scale"]
    assert {"plan", "start", "infer", "step", "check"} <= set(told["seconds"])
    assert told["images_per_second"] == pytest.approx(3 / told["seconds"]["step"])
    assert [rank["rank"] for rank in told["per_rank"]] == list(range(5))
    for rank in told["per_rank"]:
        assert rank["compute_s"] > 0
        assert rank["peak_memory_bytes"] > 0
        assert {"stage", "tile", "bytes_sent", "messages", "pack_s", "wait_s", "unpack_s"} <= set(
            rank
        )
    assert told["per_rank"][0]["messages"] > 20


@pytest.mark.slow
@pytest.mark.mpi
def test_infer_under_mpiexec_with_a_rank_too_many(tmp_path):
    report = tmp_path / "report.json"
    line = [*SMALL, *TWO, "--split-size", "1", "--check", "--report", str(report)]
    done = shell("infer", *line, ranks=3)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("check: equal to the untiled run") == 1
    assert json.loads(report.read_text())["ranks"] == 2


@pytest.mark.slow
@pytest.mark.mpi
def test_too_few_ranks_under_mpiexec_are_refused():
    done = shell("infer", *SMALL, *TWO, ranks=2)
    assert done.returncode == 2
    assert "the plan needs 3 ranks, but the launcher started 2: start 3" in done.stderr


FAILING = """
import torch
from torch import nn

class Fragile(nn.Module):
    def forward(self, x):
        return torch.ops.spnbcli.fragile(x)

torch.library.define("spnbcli::fragile", "(Tensor x) -> Tensor")

@torch.library.impl("spnbcli::fragile", "CPU")
def fragile(x):
    if x.shape[-1] == 47:  # the right tiles of 93 columns
        raise RuntimeError("too wide")
    return x * {scale}

torch.library.register_fake("spnbcli::fragile")(lambda x: torch.empty_like(x))

from spnb import rule
from spnb.rules import Rule
rule("spnbcli.fragile")(lambda node: Rule(node))

def make():
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), Fragile(), nn.Conv2d(4, 2, 1))
"""


@pytest.mark.mpi
def test_a_failure_under_mpiexec_names_rank_stage_and_layer_and_ends_all(tmp_path, monkeypatch):
    (tmp_path / "fragile.py").write_text(FAILING.format(scale=1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2]}")
    args = ["fragile:make", "--image-size", "67x93", "--batch-size", "1", "--balance", "2,1"]
    done = shell("infer", *args, *TWO, ranks=3)
    assert done.returncode == 1
    assert "stage 0, 1 (fragile): RuntimeError: too wide" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.mpi
def test_a_check_that_fails_exits_with_1(tmp_path, monkeypatch):
    # An operator whose rule lies: it needs its neighbours, and says that it does not.
    (tmp_path / "liar.py").write_text(
        FAILING.format(scale=1).replace(
            "    if x.shape[-1] == 47:  # the right tiles of 93 columns\n"
            '        raise RuntimeError("too wide")\n    return x * 1',
            "    return x - x.mean((2, 3), True)",
        )
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parents[2]}")
    args = ["liar:make", "--image-size", "67x93", "--batch-size", "1", "--split-size", "1"]
    done = shell("infer", *args, *TWO, "--check", ranks=2)
    assert "check: NOT equal to the untiled run" in done.stdout
    assert done.returncode == 1


@pytest.mark.long
def test_plan_of_training_and_of_each_rank(capsys):
    line = "plan resnet20_v1 --image-size 64 --batch-size 4 --parts 4 --split-size 1"
    printed = []
    for more in ("", " --schedule gpipe", " --schedule 1f1b", " -v"):
        assert main((line + more).split()) == 0
        printed.append(capsys.readouterr().out)
    assert "to be trained" not in printed[0]
    assert all("to be trained" in text for text in printed[1:3])
    assert printed[1] != printed[2]  # 1f1b holds fewer micro-batches
    assert printed[3].startswith(printed[0])
    rows = printed[3].removeprefix(printed[0]).splitlines()
    assert rows[0].split()[:4] == ["rank", "stage", "tile", "region"]
    assert len(rows) == 5
