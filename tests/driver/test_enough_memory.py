"""The memory that ranks are foreseen to take, beside that of their hosts, before they start."""

import pytest

import spnb
from spnb.driver.enough_memory import foreseen, require_memory
from spnb.errors import PlanError
from spnb.runtime import host_memory
from spnb.runtime.host_memory import HostMemory
from spnb.ui.cli import main

MIB = 1 << 20
JOB = {"image_size": 512, "batch_size": 8, "split_size": 1, "num_spatial_parts": 2}


def hosts(total, free, held=0, names="aa"):
    return [HostMemory(name, total * MIB, free * MIB, held * MIB) for name in names]


@pytest.fixture(scope="module")
def plan():
    return spnb.plan(spnb.Job("unet", **JOB))


def test_what_fits_is_started_without_a_word(plan, capsys):
    needed = foreseen(plan, [0, 1]) // MIB + 1
    require_memory(plan, hosts(needed, needed))
    require_memory(plan, hosts(needed, needed - 100, held=50))  # of an earlier plan
    require_memory(plan, hosts(needed // 2 + 1, needed // 2 + 1, names="ab"))
    assert capsys.readouterr().err == ""


def test_too_little_that_is_free_is_a_warning_with_a_way_out(plan, capsys):
    require_memory(plan, hosts(9000, 800))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("spnb: the 2 ranks on a are foreseen to take 1.")
    assert "of memory, and 800.0 MiB of 8.8 GiB are free: with parts=8 they take" in line


def test_more_than_a_host_has_is_refused_unless_it_is_forced(plan, capsys):
    told = r"foreseen to take 1\.. GiB of memory, and 600\.0 MiB of 700\.0 MiB are free: with .*or "
    with pytest.raises(PlanError, match=told + r"try it with force=True$"):
        require_memory(plan, hosts(700, 600))
    require_memory(spnb.plan(plan.job.replace(force=True)), hosts(700, 600))
    assert "they take" in capsys.readouterr().err


def test_a_line_with_too_large_a_plan_ends_before_engines_start(capsys, monkeypatch):
    small = HostMemory("a", 700 * MIB, 600 * MIB, 0)
    monkeypatch.setattr("spnb.driver.cluster.host_memory", lambda: small)
    monkeypatch.setattr("spnb.driver.enough_memory._smaller", lambda plan: [])
    monkeypatch.setattr(
        "spnb.driver.launch.engines.Engines.start", lambda self: pytest.fail("engines started")
    )
    line = "infer resnet20_v1 --image-size 64 --batch-size 1 --split-size 1 --num-spatial-parts 4"
    assert main(line.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("spnb: the 4 ranks on a are foreseen to take 9")
    assert "are free: use more hosts, more --patches or --parts, or a smaller --batch-size" in line


@pytest.mark.parametrize(
    ("kind", "limit", "used", "cached"),
    [
        ("", "memory.max", "memory.current", "inactive_file"),
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ],
)
def test_the_limit_of_a_container_counts(kind, limit, used, cached, tmp_path, monkeypatch):
    group = tmp_path / kind
    group.mkdir(exist_ok=True)
    (group / limit).write_text(f"{64 * MIB}\n")
    (group / used).write_text(f"{40 * MIB}\n")
    (group / "memory.stat").write_text(f"anon 5\n{cached} {8 * MIB}\n")
    monkeypatch.setattr(host_memory, "CGROUPS", tmp_path)
    seen = list(host_memory._limits())
    if seen:  # a system of the other version has no such group
        assert set(seen) == {(64 * MIB, 32 * MIB)}
        assert (host_memory.host_memory().total, host_memory.host_memory().free) == (
            64 * MIB,
            32 * MIB,
        )
    (group / limit).write_text("max\n" if not kind else f"{2**63 - 4096}\n")
    assert not list(host_memory._limits())
