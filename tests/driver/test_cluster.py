"""Plans on real MPI engines: exact, with images and outputs of every kind."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import randomize
from on_engines import planned, remote
from saved import read
from torch import nn
from torch.nn import functional as F

import spnb
from spnb.analysis.traffic import traffic
from spnb.display.paint import painted, png
from spnb.driver import result_view
from spnb.driver.visible_files import VisibleFiles

pytestmark = pytest.mark.mpi
CASES = [
    {"slice_method": method, "num_spatial_parts": tiles}
    for method, tiles in [
        ("square", 4),
        ("square", 9),
        ("vertical", 3),
        ("vertical", 5),
        ("horizontal", 2),
        ("horizontal", 6),
    ]
]
CASES += [{"image_size": "97x1024"}, {"image_size": "1411x1411", "precision": "fp32"}]
CASES += [{"halo_D2": True, "fused_layers": fused, "balance": (6, 1)} for fused in (2, "all")]
CASES += [{"batch_size": 5, "parts": 3}]
CASES += [
    {"split_size": 3, "spatial_size": 2, "num_spatial_parts": "4,2", "balance": (3, 3, 1)},
    {"batch_size": 5, "parts": 2, "local_DP": 2},
    {"batch_size": 4, "spatial_size": 0, "split_size": 3, "local_DP": 3},
    {"precision": "fp_16", "image_size": "193x201"},
    {"precision": "bf_16", "image_size": "193x201"},
    {"backend": "gloo", "batch_size": 3, "parts": 2},
    {"backend": "gloo", "num_spatial_parts": 9, "precision": "fp32"},
]
"""Every kind of message; `tests/runtime/test_exact.py` has all grids and sizes, in one process."""


@pytest.mark.slow(but_each=2)
@pytest.mark.parametrize("given", CASES, ids=str)
def test_equal_to_the_untiled_run(cluster, given):
    cluster.load(planned(**given))
    result = cluster.infer()
    check = result.check()
    assert check.passed
    assert check.output_scale > 0.1
    assert list(result.per_rank["rank"]) == list(range(cluster.plan.num_ranks))
    for row in result.per_rank.itertuples():
        assert (row.messages, row.bytes_sent) == traffic(cluster.plan, row.rank)


@pytest.mark.parametrize(
    "options", [{"gems": True}, {"replicas": 2, "times": 2, "gems": True, "parts": 1}]
)
def test_copies_share_a_batch(cluster, options):
    job = spnb.Job("resnet20_v1", image_size="33x47", batch_size=8, num_spatial_parts=2, **options)
    plan = spnb.plan(job)
    cluster.load(plan)
    result = cluster.infer()
    assert result.check().passed
    told = result.per_rank
    assert told["rank"].tolist() == list(range(plan.num_ranks))
    assert [(m, b) for m, b in zip(told["messages"], told["bytes_sent"], strict=True)] == [
        traffic(plan, rank) for rank in range(plan.num_ranks)
    ]
    # Rank 0 is a tile in one copy, and has the untiled stage in the other.
    stages = result.timings.groupby("rank")["stage"].unique()
    assert sorted(stages[0]) == [0, 1]
    assert sorted(stages[1]) == [0]
    ranks = cluster.view.apply_sync(lambda: __import__("spnb").here.rank)[: plan.num_ranks]
    assert ranks == list(range(plan.num_ranks))


def test_the_callers_process_is_no_mpi_rank():
    code = (
        "import sys, spnb, spnb.driver.cluster, spnb.ui.cli\n"
        "print([name for name in sys.modules if name.startswith('mpi4py')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_of_mpi_has_a_name_while_ranks_run(cluster):
    files = cluster.engines._launch.files
    assert len(files) == 2  # of shared memory, and Hydra's
    assert not any(Path(file).exists() for file in files)


def test_images_of_every_kind(cluster, tmp_path):
    cluster.load(planned(image_size="64x80", precision="fp32"))
    array = np.random.default_rng(0).random((1, 3, 64, 80), dtype=np.float32)
    np.save(tmp_path / "image.npy", array)
    outputs = [
        cluster.infer(image).output
        for image in (array, torch.from_numpy(array), str(tmp_path / "image.npy"))
    ]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert cluster.infer("retina").check().passed
    with pytest.raises(ValueError, match="64"):
        cluster.infer(np.zeros((1, 3, 32, 80, 5), dtype=np.float32))
    assert cluster.infer("coffee").check().passed


def test_results_outlive_the_next_run(cluster):
    cluster.load(planned(image_size="700x700", precision="fp32"))
    one, two = cluster.infer("retina"), cluster.infer("astronaut")
    assert one.reports[-1].pieces is None or one.output.numel()
    assert one.check().passed
    assert two.check().passed
    kept = sum(cluster.view.apply_sync(_kept))
    del one, two
    cluster.infer("retina")
    assert sum(cluster.view.apply_sync(_kept)) < kept


@remote
def _kept():
    import spnb

    return len(spnb.here.outputs)


def test_files_that_engines_do_not_see_are_sent(cluster):
    cluster.shares_files, cluster.files = False, VisibleFiles(lambda mark: [True] + [False] * 9)
    try:
        cluster.load(planned(image_size="193x201", batch_size=3, parts=2))
        assert cluster.infer("retina").check().passed
    finally:
        cluster.shares_files, cluster.files = True, VisibleFiles()


class Everything(nn.Module):
    """Merged figures, attention in windows and everywhere, two inputs, outputs of every kind."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8)
        self.row = nn.Linear(5, 8)

    def forward(self, image, row):
        x = self.norm(self.conv(image)) * self.row(row)[:, :, None, None]
        pooled, places = F.max_pool2d(x, 2, return_indices=True)
        w = pooled.unflatten(2, (-1, 4)).unflatten(4, (-1, 4)).permute(0, 2, 4, 3, 5, 1)
        w = w.reshape(-1, 16, 8)
        w = F.scaled_dot_product_attention(w, w, w).mean(1)
        tokens = pooled.flatten(2).transpose(1, 2)
        everywhere = F.scaled_dot_product_attention(tokens, tokens, tokens)
        rest = [w, x.amax((2, 3)), everywhere]
        return {"dense": x.roll(3, 2), "mask": x > 0, "places": places, "rest": rest}


def test_merging_several_inputs_and_outputs_of_every_type(cluster):
    shapes = {"row": (2, 5), "image": (2, 3, 40, 56)}
    job = spnb.Job(
        randomize(Everything()),
        input_shapes={name: shapes[name] for name in ("image", "row")},
        split_size=1,
        num_spatial_parts=6,
        precision="fp64",
    )
    cluster.load(spnb.plan(job))
    inputs = {"image": np.random.default_rng(0).random(shapes["image"]), "row": np.ones((2, 5))}
    result = cluster.infer(inputs)
    result.check()
    assert result.output["mask"].dtype == torch.bool
    assert {"halo", "merge", "ring"} <= set(result.timings.query("kind == 'pack'").what)


@pytest.mark.slow(but_each=2)
@pytest.mark.parametrize("suffix", ["npy", "tif", "zarr"])
def test_ranks_write_their_tiles_themselves(cluster, tmp_path, suffix):
    job = spnb.Job(
        "unet",
        image_size="300x530",
        batch_size=1,
        split_size=1,
        num_spatial_parts=9,
        resize=True,
    )
    cluster.load(spnb.plan(job))
    result = cluster.infer("retina")
    path = result.save(tmp_path / f"out.{suffix}")
    assert np.array_equal(read(path).squeeze(), result.output.numpy().squeeze())
    result.check()


def test_a_client_of_ones_own(cluster):
    with spnb.Cluster(planned(), client=cluster.client, progress=False) as other:
        assert other.infer().check().passed
        with pytest.raises(RuntimeError, match="your own"):
            other.restart()
        with pytest.raises(RuntimeError, match="17 new engines"):
            other.load(planned(num_spatial_parts=16))
    cluster.load(planned())
    assert cluster.infer().check().passed


def test_an_output_that_stays_on_engines_is_looked_into(cluster, monkeypatch):
    monkeypatch.setattr(result_view, "SMALL", 0)
    network = nn.Conv2d(3, 8, 3, padding=1)
    job = spnb.Job(network, image_size="400x500", batch_size=1, split_size=1)
    cluster.load(spnb.plan(job))
    result = cluster.infer()
    assert all(report.pieces is None for report in result.reports)
    view = result.show(overlay="classes")
    found, exact = view.tile("output", 1, 0, 0)
    assert "output" not in vars(result)  # it was not gathered
    assert exact
    part = result.output[0, :, ::2, ::2].numpy()
    assert found == png(painted(part, "classes", (0, 1)))


def test_records_that_come_calls_later_are_removed_too(cluster, monkeypatch):
    client, ended = cluster.client, []
    purge = client.purge_local_results
    monkeypatch.setattr(client, "purge_local_results", lambda r: (ended.extend(r), purge(r)))
    cluster.load(planned(num_spatial_parts=4))
    for _ in range(6):
        cluster.infer()
    late = ended[0].msg_ids[0]
    _ = client.metadata[late]  # as when the engine's output comes now
    cluster.infer()
    assert late not in client.metadata
