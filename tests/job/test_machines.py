"""The machine of a simulation: by name, from a file, and what a bad file says."""

import json

import pytest
import torch

import spnb
from spnb.errors import OptionError
from spnb.ir.cost import CORE, GPU, Machine, Speed
from spnb.job.machines import MeasuredMachine, machine_file, machine_of

MACHINE = Machine(
    flops=1e9, cores=3, speeds=(Speed("conv2d", 9, 16, 16, 1 << 20, 2e9),), backward=2.5
)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The file of this machine's figures."""
    path = tmp_path / "figures" / "machine.json"
    monkeypatch.setenv("SPNB_MACHINE", str(path))
    return path


def measured(version=torch.__version__):
    return MeasuredMachine(MACHINE, "host-a", "x86_64", version, "2026-11-29")


def test_figures_come_back_from_their_file(file):
    measured().write(file)
    assert MeasuredMachine.read(file).machine.speeds == MACHINE.speeds
    here, each = machine_of("here"), machine_of("calibrated")
    assert (here.cores, each.cores, here.backward) == (3, None, 2.5)
    assert here.name == "host-a, measured 2026-11-29; all ranks share its 3 cores"
    assert machine_of() == machine_of(file) == each


def test_without_a_file_there_are_built_in_machines(file):
    assert (machine_of(), machine_of("core"), machine_of("gpu")) == (CORE, CORE, GPU)
    assert machine_of(MACHINE) is MACHINE
    with pytest.raises(OptionError, match=r"machine is here, but this machine was not measured"):
        machine_of("here")
    with pytest.raises(OptionError, match=r"unknown machine 'cray': use here, calibrated, core"):
        machine_of("cray")


def test_a_simulation_says_which_machine_it_is_of(file):
    measured().write(file)
    plan = spnb.plan("resnet20_v1", image_size=64, batch_size=1)
    assert "host-a, measured 2026-11-29; a core for each rank" in repr(plan.simulate())
    compared = spnb.compare([plan, spnb.plan(plan.job.replace(tiles=2))])
    assert "simulated on host-a, measured 2026-11-29" in compared.card.text
    view = spnb.explore(plan.job)
    assert "host-a, measured 2026-11-29" in view.figures.value
    measured("2.0").write(file)
    assert (
        f"with PyTorch 2.0, and this is {torch.__version__}: calibrate again" in machine_of().name
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda found: "{", "it is no JSON"),
        (lambda found: "[]", "it has no figures of a machine"),
        (lambda found: found | {"format": 99}, "another version of spnb wrote it"),
        (lambda found: found | {"machine": found["machine"] | {"latency": -1}}, "latency is -1.0"),
        (lambda found: found | {"machine": found["machine"] | {"cores": 0}}, "cores is 0, but"),
        (lambda found: {k: v for k, v in found.items() if k != "day"}, "'day' is missing"),
        (lambda found: found | {"machine": {}}, "'flops' is missing"),
    ],
)
def test_a_bad_file_is_one_line(file, change, reason):
    measured().write(file)
    changed = change(json.loads(file.read_text()))
    file.write_text(changed if isinstance(changed, str) else json.dumps(changed))
    with pytest.raises(OptionError) as caught:
        machine_of()
    text = str(caught.value)
    assert reason in text
    assert str(file) in text
    assert "\n" not in text
    assert "measure again with python -m spnb calibrate, or remove the file" in text


def test_the_users_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("SPNB_MACHINE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert machine_file() == tmp_path / "spnb" / "machine.json"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert machine_file() == tmp_path / ".config" / "spnb" / "machine.json"
