"""Options by short names; and names that are none."""

import inspect

import pytest
import torch

import spnb
from spnb.errors import OptionError
from spnb.job.names import other_names
from spnb.job.options import OptionTable, options

SHORT = {"tiles": 6, "stages": 3, "tiled_stages": 2, "micro_batches": 4}
LONG = {"num_spatial_parts": 6, "split_size": 3, "spatial_size": 2, "parts": 4}


def test_short_names_are_those_of_the_same_options():
    job = spnb.Job("unet", batch_size=4, **SHORT)
    assert job.values() == spnb.Job("unet", batch_size=4, **LONG).values()
    assert job.replace(tiles=2).num_spatial_parts == 2
    assert {*SHORT, "fuse"} == set(other_names())


@pytest.mark.parametrize(
    ("fuse", "halo_D2", "fused_layers"),
    [(2, True, 2), ("all", True, "all"), (0, False, 1), (None, False, 1), ("3", True, 3)],
)
def test_fuse_sets_both_options_of_fused_halos(fuse, halo_D2, fused_layers):
    job = spnb.Job("unet", fuse=fuse)
    assert (job.halo_D2, job.fused_layers) == (halo_D2, fused_layers)
    assert not job.replace(fuse=0).halo_D2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tiles": 4, "num_spatial_parts": 4}, "tiles is another name of num_spatial_parts"),
        ({"fuse": 2, "halo_D2": True}, "leave halo_D2 out"),
        ({"fuse": 2, "fused_layers": 2}, "fuse is another name of fused_layers"),
    ],
)
def test_an_option_by_two_names_is_refused(given, message):
    with pytest.raises(OptionError, match=message):
        spnb.Job("unet", **given)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("num_tiles", "tiles"),
        ("tile", "tiles"),
        ("epochs", "num_epochs"),
        ("batchsize", "batch_size"),
        ("image", "image_size"),
        ("rate", "learning_rate"),
        ("split", "split_size"),
        ("halo_d2", "halo_D2"),
        ("zzz", "help"),
    ],
)
def test_a_wrong_name_is_told_with_the_nearest(wrong, meant):
    for make in (spnb.Job, spnb.plan, spnb.Job("unet").replace):
        model = () if make.__name__ == "replace" else ("unet",)
        with pytest.raises(TypeError, match=f"no option {wrong}: .*{meant}"):
            make(*model, **{wrong: 3})


def test_help_and_completion_show_every_option():
    assert {o.name for o in options()} < set(inspect.signature(spnb.Job).parameters)
    assert inspect.signature(spnb.Job) == inspect.signature(OptionTable)
    assert "num_spatial_parts (or tiles)" in spnb.Job.__doc__


def test_a_network_is_planned_as_it_is():
    net = torch.nn.Conv2d(1, 2, 3, padding=1)
    given = {"image_size": 12, "batch_size": 1, "stages": 1, "tiles": 2}
    found = spnb.plan(net, **given)
    assert str(found) == str(spnb.plan(spnb.Job(net, **given)))
    assert spnb.plan(found.job, tiles=4).num_ranks == 4
    assert found.is_of(spnb.Job(net, **given))
    assert not found.is_of(spnb.Job(torch.nn.Conv2d(1, 2, 3, padding=1), **given))
    assert not spnb.plan(net, training=True, **given).is_of(found.job)
