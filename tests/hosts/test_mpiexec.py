"""What a user types with ``mpiexec -hosts``: ranks on hosts that do not share all their disks."""

import time

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.mpi]

MPIEXEC = ["mpiexec", "-hosts", "node1:2,node2:2,node3", "-n", "5", "python", "-m", "spnb"]
SMALL = ["resnet20_v1", "--image-size", "64", "--batch-size", "1"]


@pytest.fixture
def first(hosts):
    """The host of rank 0, where the user is."""
    return hosts["node1"]


def test_an_image_that_only_rank_0s_host_has(first, environment):
    for image in (["retina"], ["/tmp/image.npy"]):
        first.shell(
            "python -c 'import numpy as np; np.save(\"/tmp/image\", np.ones((1, 3, 64, 64)))'",
            env=environment,
            check=True,
        )
        done = first.run(
            [*MPIEXEC, "infer", "resnet20_v1", "--image", *image, "--check"],
            env=environment,
            timeout=240,
        )
        assert done.returncode == 0, done.stdout
        assert "equal to the untiled run" in done.stdout


UNET = [
    "unet",
    "--image-size",
    "64",
    "--batch-size",
    "1",
    "--split-size",
    "1",
    "--num-spatial-parts",
    "4",
]


def test_an_output_for_a_folder_that_only_rank_0s_host_has(first, shared, environment):
    infer = [*MPIEXEC, "infer", *UNET, "--save-output"]
    done = first.run([*infer, "/tmp/out.npy"], env=environment, timeout=240)
    assert done.returncode == 2
    told = [line for line in done.stdout.splitlines() if line.startswith("spnb: ")]
    assert told == [
        "spnb: ranks [2, 3] do not see /tmp, where --save-output writes: name a folder that all"
        " hosts share, or add --gather-output, and rank 0 writes the output"
    ]
    done = first.run([*infer, "/tmp/out.npy", "--gather-output"], env=environment, timeout=240)
    assert done.returncode == 0, done.stdout
    first.shell(f"cp /tmp/out.npy {shared}/gathered.npy", check=True)
    done = first.run([*infer, shared / "seen.npy"], env=environment, timeout=240)
    assert done.returncode == 0, done.stdout
    gathered = np.load(shared / "gathered.npy")
    assert gathered.shape == (1, 10, 64, 64)
    assert np.array_equal(gathered, np.load(shared / "seen.npy"))


NETWORK = """
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3))

    def forward(self, x):
        return {"scores": self.layers(x)}

def own(): return Own()
"""


def test_a_network_that_only_rank_0s_host_has(first, environment):
    first.shell(
        f"mkdir -p /tmp/code && cat > /tmp/code/networks.py <<'END'\n{NETWORK}\nEND", check=True
    )
    for verb in (
        ["infer"],
        ["train", "--app", "3", "--num-epochs", "1", "--checkpoint", "/tmp/own.pth"],
    ):
        flags = [
            "--image-size",
            "32",
            "--batch-size",
            "2",
            "--split-size",
            "1",
            "--num-spatial-parts",
            "4",
        ]
        done = first.run(
            [*MPIEXEC[:1], "-wdir", "/", *MPIEXEC[1:], *verb, "networks:own", *flags],
            env=environment | {"PYTHONPATH": f"{environment['PYTHONPATH']}:/tmp/code"},
            timeout=240,
        )
        assert done.returncode == 0, done.stdout


def test_a_cut_link_ends_all_ranks_and_names_the_host(hosts, first, shared, environment):
    train = ["train", "unet", "--image-size", "64", "--batch-size", "4", "--num-epochs", "100000"]
    checkpoint = ["--checkpoint", "/tmp/cut.pth", "--deadline", "5"]
    output = (shared / "printed").open("w+")
    running = first.popen(
        [*MPIEXEC, *train, *checkpoint], env=environment, stdin=-3, stdout=output, stderr=-2
    )
    try:
        first.shell("until test -e /tmp/cut.pth; do sleep 0.2; done", 240, check=True)
        hosts.cut("node3")
        start = time.monotonic()
        assert running.wait(timeout=60) == 1
        assert time.monotonic() - start < 30
        for name in ("node1", "node2", "node3"):
            gone = hosts[name].shell(
                "while pgrep -f '[s]pnb train' > /dev/null; do sleep 0.2; done"
            )
            assert gone.returncode == 0
    finally:
        running.kill()
        hosts.mend("node3")
    output.seek(0)
    assert [line for line in output if line.startswith("spnb: ")] == [
        "spnb: host node3 does not answer for 5 s (its link is cut, or it is down)\n"
    ]
