"""The numbers that a script draws are those of the plan and of the table of events."""

import pytest
from networks import conv
from torch import nn

import spnb
from spnb.analysis.halos import widest_halo
from spnb.analysis.traffic import traffic_matrix
from spnb.display.kinds import kinds_of
from spnb.viewer.scene import scene_of


@pytest.fixture(scope="module")
def result():
    network = nn.Sequential(conv(3, 4), nn.ReLU(), nn.MaxPool2d(2), conv(4, 4, kernel=5), conv())
    job = spnb.Job(network, image_size="30x46", batch_size=3, parts=2, split_size=2, tiles=6)
    return spnb.InProcess(spnb.plan(job), progress=False).infer()


@pytest.fixture(scope="module")
def scene(result):
    return result.show().scene


def test_tiles_are_the_regions_of_the_plan(result, scene):
    assert scene["extent"] == [30, 46]
    tiles = scene["stages"][0]["tiles"]
    for tile in tiles:
        _, rows, columns = result.plan.rank_plan(tile["rank"]).region.spans
        assert tile["region"] == [*rows, *columns]
    areas = [(b - a) * (d - c) for a, b, c, d in (tile["region"] for tile in tiles)]
    assert sum(areas) == 30 * 46
    assert [stage["tiled"] for stage in scene["stages"]] == [True, False]
    assert scene["stages"][1]["tiles"][0]["region"] == [0, 30, 0, 46]


def test_bytes_by_neighbour_are_those_of_the_traffic(result, scene):
    matrix = traffic_matrix(result.plan)
    for stage in scene["stages"]:
        for tile in stage["tiles"]:
            received = {each["rank"]: each["bytes"] for each in tile["halo"]}
            column = matrix[:, tile["rank"]]
            assert received == {k: int(n) for k, n in enumerate(column) if n}
            assert received


def test_halos_are_those_of_the_widest_exchange(result, scene):
    halo = widest_halo(result.plan, 0)
    for tile in scene["stages"][0]["tiles"]:
        assert tile["layer"] == halo.layer
        scale = 30 / halo.extent[1]
        rows, columns = halo.need(tile["rank"]).spans[1:]
        assert tile["need"] == pytest.approx([n * scale for n in (*rows, *columns)])
        own = {t.source for t in halo.neighbours(tile["rank"])}
        assert own == {each["rank"] for each in tile["halo"] if each["region"]}


def test_shares_of_each_rank_add_up_to_all_of_its_time(result, scene):
    for rank, each in enumerate(scene["ranks"]):
        assert each["rank"] == rank
        assert sum(each["shares"]) == pytest.approx(1)
        assert min(each["shares"]) > -1e-9
        own = result.timings[result.timings["rank"] == rank]
        shares = dict(zip(scene["kinds"], each["shares"]))
        assert shares["compute"] * scene["seconds"] == pytest.approx(
            own.loc[own["kind"] == "compute", "seconds"].sum()
        )
        assert shares["done"] * scene["seconds"] == pytest.approx(
            scene["seconds"] - own["stop"].max(), abs=1e-12
        )
        assert each["sent"] == result.per_rank["bytes_sent"][rank]
        assert each["messages"] == result.per_rank["messages"][rank]


def test_every_event_of_the_table_is_there(result, scene):
    events, table = scene["events"], result.timings
    for name in ("rank", "stage", "micro_batch", "start", "stop", "bytes"):
        assert events[name] == table[name].tolist()
    assert [scene["layers"][k] for k in events["layer"]] == table["layer"].tolist()
    assert [scene["whats"][k] for k in events["what"]] == table["what"].tolist()
    assert [scene["kinds"][k] for k in events["kind"]] == kinds_of(table).tolist()


def test_a_plan_has_tiles_and_no_events(result):
    scene = scene_of(result.plan)
    assert "events" not in scene
    assert len(scene["stages"][0]["tiles"]) == 6


def test_copies_of_a_plan_share_the_tiles():
    job = spnb.Job(conv(3, 4), image_size=16, batch_size=2, stages=1, tiles=2, replicas=2)
    tiles = scene_of(spnb.plan(job))["stages"][0]["tiles"]
    assert [tile["ranks"] for tile in tiles] == [[0, 2], [1, 3]]


def test_a_volume_is_refused_in_a_line():
    job = spnb.Job(nn.Conv3d(1, 1, 3, padding=1), image_size="8x8x8", batch_size=1, stages=1)
    result = spnb.InProcess(spnb.plan(job), progress=False).infer()
    with pytest.raises(ValueError, match="this one has 3 axes: plot_timeline"):
        result.show()
