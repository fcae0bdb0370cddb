"""Segments are chosen by the memory that a rank may have."""

import pytest

import spnb
from spnb.analysis.segments import segments_of
from spnb.errors import OptionError, PlanError

JOB = spnb.Job("resnet20_v1", image_size=256, batch_size=2, num_spatial_parts=2, split_size=1)
MIB = 1 << 20


def planned(**options):
    return spnb.plan(JOB.replace(**options), training=True)


@pytest.mark.slow(but_each=2)
@pytest.mark.long
@pytest.mark.parametrize("parts", [1, 2])
def test_as_little_is_computed_again_as_the_memory_allows(parts):
    (most,), (least,) = (
        planned(parts=parts, recompute=again).memory_bytes for again in (False, True)
    )
    assert least < most - 20 * MIB
    stops = []
    for share in (1.0, 0.8, 0.5, 0.2, 0.0):
        allowed = int(least + share * (most - least))
        plan = planned(parts=parts, recompute_memory=allowed)
        assert max(plan.memory_bytes) <= allowed
        stops.append(segments_of(plan, 0).stop)
    assert stops == sorted(stops) and stops[0] == 0 and len(set(stops)) >= 4


@pytest.mark.long
def test_too_little_memory_is_refused_with_both_numbers():
    (least,) = planned(recompute=True).memory_bytes
    with pytest.raises(PlanError, match=r"stage 0 needs \d+\.\d MiB .* is 90\.0 MiB") as told:
        planned(recompute_memory="90MiB")
    assert float(str(told.value).split()[3]) == pytest.approx(least / MIB, rel=0.01)


@pytest.mark.parametrize("size", ["much", "-2GiB", 0, "1.2.3GB", 0.5])
def test_a_size_that_is_none_is_refused(size):
    with pytest.raises(OptionError, match="cannot read the size"):
        JOB.replace(recompute_memory=size)


def test_patches_are_always_computed_again():
    with pytest.raises(OptionError, match="patches is 4, and patches are always computed"):
        JOB.replace(patches=4, recompute_memory="2GiB")
