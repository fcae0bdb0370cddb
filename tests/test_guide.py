"""What README, the guide and the reports tell a reader to type works as it stands there.

Each command and each snippet is run once, whatever pages it is on.  Commands that measure take
minutes to hours: here their lines are read and planned, and `tests/benchmarking` runs their verbs
on small images.  Some other commands are run on smaller images and networks than the page has
(`SMALLER`).
"""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from guide_pages import GUIDE, PAGES, ROOT, commands, fences, generated, report, script, with_table
from IPython.core.interactiveshell import InteractiveShell
from IPython.testing.globalipapp import start_ipython
from processes import MPIEXEC

import spnb
from spnb.driver.check import TOLERANCES
from spnb.driver.result import Result
from spnb.driver.training.evaluation_result import Evaluation
from spnb.driver.training.training_result import Training
from spnb.job.job_plan import JobPlan
from spnb.ui.cli import _parser, main
from spnb.ui.job_of_line import job_of_args

TEXTS = {page: page.read_text() for page in PAGES}
COMMANDS = {found.text: found for text in TEXTS.values() for found in commands(text)}
MEASURING = ("bench", "suite", "sweep", "halo", "foreseen", "tune", "calibrate")
ELSEWHERE = ("srun", "--hostfile")
"""Launchers that this machine has not."""

SMALLER = {
    "--image-size 1024": "--image-size 256",  # ResNet-110 in half precision takes minutes
    "--image-size 512": "--image-size 256",
    "--image-size 16384": "--image-size 1024",
    "--image retina": "--image retina --image-size 353 --resize",
    "--num-epochs 3": "--num-epochs 2",
    "train amoebanet": "train resnet20_v1",  # `tests/training/test_step.py` trains AmoebaNets
    " resnet": " resnet20_v1",
    " amoebanet": " amoebanet --num-layers 6 --num-filters 104",
}
"""What takes the place of words of a command, so that it runs in seconds."""
LAUNCHED = r"^mpiexec -n (\d+) python (\w+\.py)$"
"""A line that starts a program of a page on several ranks."""
SLOW = ("65536", "16384", "-n 65 ", "--ntasks=65 ", "--num-spatial-parts 64 ")
"""In a plan that takes some seconds."""

THEIRS = {
    line: int(ranks)
    for ranks, line in re.findall(
        r"^\| `-np (\d+) … .*` \| `(python -m spnb .*)`(?: [¹²])? \|$",
        TEXTS[GUIDE / "benchmark-commands.md"],
        re.M,
    )
}
"""How many ranks the benchmarks start for what a command does."""


def kind(command):
    if "--help" in command.args:
        return "help"
    if command.verb in MEASURING or any(word in command.launcher for word in ELSEWHERE):
        return "read"
    return command.verb if command.verb in ("plan", "script") else "run"


def of_kind(wanted):
    marks = {True: [pytest.mark.long], False: []}
    return [
        pytest.param(found, id=text, marks=marks[any(slow in text for slow in SLOW)])
        for text, found in COMMANDS.items()
        if kind(found) == wanted
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the files that pages name."""
    for page in PAGES:
        for name, text in script(TEXTS[page])[1].items():
            (tmp_path / name).write_text(text)
    pixels = np.random.default_rng(0).integers(0, 255, (160, 208, 3), dtype=np.uint8)
    for name in ("scan.tif", "slide.tif"):
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("PATH", f"{Path(MPIEXEC).parent}:{os.environ['PATH']}")
    return tmp_path


def test_pages_have_commands_of_every_verb():
    assert {found.verb for found in COMMANDS.values()} == {
        *("plan", "infer", "evaluate", "train", "script"),
        *MEASURING,
    }


@pytest.mark.parametrize("command", of_kind("help"))
def test_a_command_that_helps(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main(command.args)
    assert ended.value.code == 0
    assert "--num-spatial-parts" in capsys.readouterr().out


@pytest.mark.parametrize("command", of_kind("plan"))
def test_a_command_that_plans(command, folder, capsys):
    assert main(command.args) == 0
    assert "stage" in capsys.readouterr().out


@pytest.mark.parametrize("command", of_kind("script"))
def test_a_command_that_writes_a_job(command, folder, capsys):
    assert main(command.args) == 0
    assert "#SBATCH --ntasks=65" in capsys.readouterr().out


@pytest.mark.parametrize("command", of_kind("read"))
def test_a_command_that_is_only_read(command, folder):
    args = _parser().parse_args(command.args)
    job = job_of_args(args) if hasattr(args, "model") else None
    if started := re.search(r"(?:-n |--ntasks=)(\d+)", " ".join(command.launcher)):
        assert spnb.plan(job).num_ranks == int(started[1])


def smaller(command):
    """The same command, for a smaller image or network."""
    text = command.text
    for words, fewer in SMALLER.items():
        text = re.sub(rf"{words}(?![\w-])", fewer, text)
    (small,) = commands(f"```bash\n{text}\n```")
    return small


def own_process(command):
    """The first command of README, and those of a launcher."""
    return command.launcher or "retina" in command.args


@pytest.mark.slow(but_each=2)
@pytest.mark.mpi
@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", [p for p in of_kind("run") if own_process(*p.values)])
def test_a_command_that_runs(command, folder):
    launcher = [MPIEXEC if word == "mpiexec" else word for word in command.launcher]
    args = smaller(command).args
    line = [*launcher, sys.executable, "-m", "spnb", *args]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check_what_it_did(command, args, done.stdout, folder)


@pytest.mark.slow(but_each=7)
@pytest.mark.mpi
@pytest.mark.timeout(600)
@pytest.mark.parametrize("command", [p for p in of_kind("run") if not own_process(*p.values)])
def test_a_command_that_runs_on_shared_engines(command, folder, on_shared_engines, capsys):
    small = smaller(command)
    more = ["--report", "report.json"] if command.verb == "train" else []
    assert main([*small.args, *more]) == 0
    check_what_it_did(command, small.args, capsys.readouterr().out, folder)


def check_what_it_did(command, args, printed, folder):
    if command.text in THEIRS:
        assert f"; {THEIRS[command.text]} ranks" in printed
    if "--check" in args:
        assert "check: equal to the untiled run" in printed
    for option in ("--save-output", "--report", "--save-plots"):
        if option in args:
            assert (folder / args[args.index(option) + 1]).exists()
    if "--save-plots" in args:
        for name in ("tiles-stage-0.png", "timeline.png"):
            assert (folder / "plots" / name).stat().st_size > 10_000
    if command.verb == "train":
        steps = json.loads((folder / "report.json").read_text())["steps"]
        epochs = int(args[args.index("--num-epochs") + 1]) if "--num-epochs" in args else 1
        held_out = float(args[args.index("--validation") + 1]) if "--validation" in args else 0.0
        assert len(steps) == round(10 * (1 - held_out)) * epochs
        assert all(0 < step["loss"] < 10 for step in steps)
        assert list(folder.glob("*-checkpoint.pth"))


@pytest.mark.slow(but_each=2)
@pytest.mark.mpi
@pytest.mark.parametrize(
    ("count", "name"),
    sorted({found for text in TEXTS.values() for found in re.findall(LAUNCHED, text, re.M)}),
)
def test_a_program_of_a_page_that_a_launcher_starts(count, name, folder):
    line = [MPIEXEC, "-n", count, sys.executable, name]
    done = subprocess.run(line, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    losses = [float(each) for each in re.findall(r"loss ([\d.]+)", done.stdout)]
    assert len(losses) == 4
    assert losses[0] > losses[-1]
    assert done.stdout.count("spnb.parallel: rank") == int(count)
    assert list(folder.glob("*.pth"))


def starts_ranks(page):
    return bool(re.search(r"spnb\.(start|Cluster)\(", script(TEXTS[page])[0]))


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=page.name, marks=[pytest.mark.mpi] * starts_ranks(page))
        for page in PAGES
        if script(TEXTS[page])[0]
    ],
)
def test_snippets_of_a_page(page, folder, request):
    """One after the other, as a script; each expression that is a line ends without an error.

    A photograph of 1411×1411 pixels is scaled down, so that it takes seconds.
    """
    if starts_ranks(page):
        request.getfixturevalue("on_shared_engines")
    text = script(TEXTS[page])[0].replace("image_size=1411", "image_size=353, resize=True")
    (folder / "page.py").write_text(text)
    runpy.run_path(str(folder / "page.py"), run_name="__main__")


@pytest.mark.mpi
@pytest.mark.parametrize(
    "page", [p for p in PAGES if fences(TEXTS[p], "ipython")], ids=lambda p: p.name
)
def test_magics_of_a_page(page, folder, on_shared_engines, capsys):
    shell = start_ipython() or InteractiveShell.instance()
    for block in fences(TEXTS[page], "ipython"):
        shell.run_cell(block).raise_error()
    assert "equal to the untiled run" in capsys.readouterr().out
    shell.reset()


@pytest.mark.parametrize("name", generated())
def test_a_generated_table(name):
    page, rows = generated()[name]
    assert with_table(page, name, rows) == TEXTS[page], "run python tests/helpers/guide_pages.py"


def anchors(page):
    """What links may name in a page: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ (.*)$", TEXTS[page], re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r'\]\(([^)]+)\)|src="([^"]+)"', TEXTS[page])
    for link in map("".join, links):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_are_named_exist(page):
    named = re.findall(r"(?<![\w/.])((?:spnb|tests|notebooks|binder|\.ci)/[\w./-]*)", TEXTS[page])
    beside = [path for path in named if not (ROOT / path).exists()]
    assert not beside


OBJECTS = {
    "plan": JobPlan,
    "result": Result,
    "cluster": spnb.Cluster,
    "here": spnb.here,
    "training": Training,
    "evaluation": Evaluation,
    "spnb": spnb,
}
"""What pages call an object, or the class of one."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_names_that_are_told_exist(page):
    named = re.findall(rf"`(?:spnb\.)?({'|'.join(OBJECTS)})\.([a-z]\w*)", TEXTS[page])
    known = {
        name: {*dir(thing), *vars(thing), *getattr(thing, "__annotations__", {})}
        for name, thing in OBJECTS.items()
    }
    assert not [f"{name}.{word}" for name, word in named if word not in known[name]]


def test_the_guide_leads_back_to_readme():
    assert all("(../../README.md)" in text for page, text in TEXTS.items() if page.parent == GUIDE)


def test_contributing_fits_on_a_screen():
    assert len(TEXTS[GUIDE / "contributing.md"].splitlines()) <= 50


def test_every_benchmark_is_a_command():
    assert len(THEIRS) == 7
    assert THEIRS.keys() <= COMMANDS.keys()


def test_the_tolerances_are_those_of_a_check():
    rows = re.findall(
        r"^\| (fp\d\d|bf16)\b.* \| (\S+) \|$", TEXTS[GUIDE / "benchmark-commands.md"], re.M
    )
    stated = {spnb.Job("unet", precision=name).dtype: float(number) for name, number in rows}
    assert stated == TOLERANCES


def test_the_clock_of_mirrored_copies():
    block = re.search(r"^```\n(tick .*?)^```", TEXTS[GUIDE / "training.md"], re.M | re.S)[1]
    ticks, *ranks = block.splitlines()
    places = {found.start(): int(found[0]) for found in re.finditer(r"\d+", ticks)}
    passes = re.compile(r"B?(\d)")
    stated = {
        (places[found.start()], row, int(found[1]))
        for row, rank in enumerate(ranks)
        for found in passes.finditer(rank, len("rank 0 "))
    }
    job = spnb.Job("resnet20_v1", batch_size=4, parts=2, spatial_size=0, gems=True)
    drawn = spnb.plan(job, training=True).plot_clock().texts
    assert stated == {
        (int(text.get_position()[0]), text.get_position()[1], int(text.get_text()))
        for text in drawn
    }


def test_the_memory_of_the_performance_page_is_that_of_the_report():
    text = " ".join(TEXTS[GUIDE / "performance.md"].split())
    for bench in report("memory")["benches"]:
        if bench["workload"] in ("resnet50", "unet"):
            spent = {k: f"{v / 2**20:,.0f} MiB" for k, v in bench["peak_memory_bytes"].items()}
            assert re.search(
                rf"rank of `{bench['workload']}` takes {spent['spnb']}.{{1,30}} {spent['plain']}",
                text,
            )


def test_percentages_of_a_simulation_are_those_of_the_notebook():
    text = " ".join(TEXTS[GUIDE / "training.md"].split())
    (better, worse), *_ = re.findall(
        r"keep (\d+) % of two ranks busy, where the plan alone keeps (\d+) %", text
    )
    notebook = (ROOT / "notebooks" / "04-stages-and-micro-batches.ipynb").read_text()
    for share in (better, worse):
        assert re.search(rf"on 2 ranks, .* times as fast, {share}% of 2", notebook)
