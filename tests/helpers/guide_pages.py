"""README and the pages of the guide: their text, commands, snippets, and generated tables.

``python tests/helpers/guide_pages.py`` writes every generated table into its page anew.  In a page,
such a table follows a comment with its name, as ``<!-- table: options -->``.
"""

import argparse
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from spnb import models
from spnb.job.names import FUSE
from spnb.job.options import options
from spnb.ui.cli import _parser
from spnb.ui.flags import flag

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "notebooks" / "guide"
REPORTS = ROOT / "notebooks" / "reports"
PAGES = [ROOT / "README.md", *sorted(GUIDE.glob("*.md")), REPORTS / "README.md"]


@dataclass(frozen=True)
class Command:
    """A line of a page that runs spnb in a shell.

    Attributes
    ----------
    text
        The line as a reader types it, from the launcher on.
    launcher
        The words before ``python``, as ``mpiexec -n 5``.
    args
        The words after ``python -m spnb``.
    """

    text: str
    launcher: tuple[str, ...]
    args: tuple[str, ...]

    @property
    def verb(self):
        return self.args[0]


def fences(text, language):
    """The blocks of a page in a language.

    >>> fences("a\\n```bash\\nls\\n```\\nb", "bash")
    ['ls\\n']
    """
    return re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.M | re.S)


def commands(text):
    """Every command of a page, in blocks and in running text, where it may be broken.

    >>> [found.args for found in commands("`mpiexec -n 2 python -m spnb\\ninfer resnet`")]
    [('infer', 'resnet')]
    """
    blocks = [line for block in fences(text, "bash") for line in block.splitlines()]
    inline = re.findall(r"`([^`]+)`", re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S))
    found = []
    for line in [*blocks, *(" ".join(words.split()) for words in inline)]:
        for part in line.split("&&"):
            words = shlex.split(part, comments=True)
            at = [k for k, w in enumerate(words) if w == "-m" and words[k + 1 : k + 2] == ["spnb"]]
            if at and words[at[0] + 2 :] and "…" not in part:
                launcher, args = words[: at[0] - 1], words[at[0] + 2 :]
                found.append(Command(" ".join(words), tuple(launcher), tuple(args)))
    return found


def script(text):
    """The Python blocks of a page, one after the other; and those that are files of their own."""
    blocks = fences(text, "python")
    files = {m[1]: block for block in blocks if (m := re.match(r"# (\w+\.py)\n", block))}
    return "\n".join(block for block in blocks if block not in files.values()), files


def table(headings, rows):
    """A table in Markdown.

    >>> print(table(("a", "b"), [(1, 2)]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    head, *lines = ["| " + " | ".join(map(str, row)) + " |" for row in (headings, *rows)]
    return "\n".join([head, "|---" * len(headings) + "|", *lines])


def option_tables():
    """Flags of the network and its split; and flags of training."""
    of_job, of_training = [], []
    for option in options():
        text = option.metadata["help"].removeprefix("training: ")
        default = "off" if option.default is False else option.default
        name = f"`{flag(option)}`" + ", `-v`" * (option.name == "verbose")
        if other := option.metadata["other"]:
            sets = ", which sets `--halo-D2` too" if other == FUSE else ""
            name += f" (or `--{other.replace('_', '-')}`{sets})"
        row = (name, "" if default is None else default, text)
        (of_training if option.metadata["training"] else of_job).append(row)
    headings = ("flag", "default", "meaning")
    return table(headings, of_job), table(headings, of_training)


def verbs():
    """The parser of each command."""
    actions = _parser()._actions
    return next(a for a in actions if isinstance(a, argparse._SubParsersAction)).choices


def verb_table():
    """Commands, and what each does."""
    rows = [(f"`{name}`", sub.description) for name, sub in verbs().items()]
    return table(("command", "what it does"), rows)


def command_table():
    """Flags that belong to commands, and not to the job."""
    known, rows = {FUSE, *(option.name for option in options())}, {}
    for verb, sub in verbs().items():
        for action in sub._actions:
            if action.option_strings and action.dest not in {*known, "help"}:
                key = (action.option_strings[-1], action.help)
                rows.setdefault(key, []).append(verb)
    return table(
        ("flag", "of", "meaning"),
        [(f"`{name}`", ", ".join(of), text) for (name, text), of in rows.items()],
    )


def network_table():
    """Built-in networks."""
    return table(("name", "network"), [(f"`{name}`", text) for name, text in models.names()])


def report(name):
    """A file of measurements."""
    return json.loads((REPORTS / f"{name}.json").read_text())


OTHERS = ("plain", "tuned", "compiled", "onnxruntime", "openvino", "no exchange")
TITLES = ("plain torch", "tuned torch", "torch.compile", "ONNX Runtime", "OpenVINO", "no exchange")


def ratio_table():
    """How many times as long as spnb the others take, for images of 1024²."""
    rows = []
    for bench in report("suite")["benches"]:
        if bench["size"] == 1024:
            ratios = (f"{bench['ratios'][name]:.2f}" for name in OTHERS)
            rows.append((f"`{bench['workload']}`", bench["tiles"], *ratios))
    return table(("workload", "tiles", *TITLES), rows)


def duration(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1e3:.0f} ms"


def time_table():
    """All of the suite."""
    names = (*OTHERS, "one rank, one thread")
    rows = [
        (
            f"{bench['workload']} {bench['size']}²",
            bench["tiles"],
            duration(median(bench["seconds"]["spnb"])),
            *(f"{bench['ratios'][name]:.2f}" for name in names),
            f"{bench['exchange_share']:.1%}",
        )
        for bench in report("suite")["benches"]
    ]
    titles = (*TITLES, "one rank, one thread", "exchange")
    return table(("workload", "tiles", "a step", *titles), rows)


def memory_table():
    """Untiled, bounded, planned and measured memory of a rank, in MiB."""
    rows = []
    for bench in report("memory")["benches"]:
        untiled, measured = (bench["peak_memory_bytes"][n] for n in ("plain", "spnb"))
        numbers = (untiled, 1.15 * untiled / 4, bench["planned_memory_bytes"], measured)
        name = f"{bench['workload']} {bench['size']}²"
        rows.append((name, *(f"{number / 2**20:.0f}" for number in numbers)))
    return table(("workload", "untiled", "bound", "planned", "measured"), rows)


def training_table():
    """Time of a training step, and memory of a rank in MiB; nothing before it was measured."""
    if not (REPORTS / "training.json").exists():
        return ""
    names = ("plain", "plain, blocks kept", "tiles alone", "tiles alone, blocks kept")
    names += ("one rank, one thread",)
    rows = []
    for bench in report("training")["benches"]:
        peaks, timed = bench["peak_memory_bytes"], bench["seconds"].get("spnb")
        network, rank = bench["workload"] + ", recomputed" * bench["recompute"], peaks.get("spnb")
        shares = [f"{rank / peaks[n]:.2f}" if rank else "–" for n in ("plain", "tiles alone")]
        rows.append(
            (
                f"{network} {bench['size']}²",
                bench["tiles"],
                duration(median(timed)) if timed else "–",
                *(f"{bench['ratios'][n]:.2f}" if timed else "–" for n in names),
                f"{rank / 2**20:.0f}" if rank else "–",
                f"{bench['planned_memory_bytes'] / 2**20:.0f}",
                *shares,
            )
        )
    headings = ("workload", "tiles", "a step", "plain torch", *names[1:], "memory", "planned")
    return table((*headings, "of plain torch", "of a tile alone"), rows)


def sweep_table():
    """What fused halos cost and save."""
    rows = [
        (
            line["tiles"],
            line["fused"],
            line["exchanges"],
            line["messages"],
            f"{line['bytes'] / 2**20:.1f} MiB",
            f"{line['redundant']:.1%}",
            duration(line["seconds"]) + " **best**" * line["best"],
        )
        for line in report("sweep")["lengths"]
    ]
    headings = ("tiles", "fused", "exchanges", "messages", "sent", "redundant work", "a step")
    return table(headings, rows)


def halo_table():
    """Halo exchange alone."""
    rows = [
        (
            line["tiles"],
            f"{line['size']}²",
            line["halo"],
            line["messages"],
            f"{line['bytes'] / 2**10:.0f} KiB",
            *(f"{line[name] * 1e6:.0f} µs" for name in ("exchange", "ping", "copy")),
        )
        for line in report("halo")["exchanges"]
    ]
    headings = ("tiles", "image", "halo", "messages", "received", "exchange", "ping-pong", "copy")
    return table(headings, rows)


def fault_table():
    """What became of each fault that was tried; nothing before the first trial."""
    if not (REPORTS / "faults.json").exists():
        return ""
    groups = {}
    for run in report("faults")["runs"]:
        groups.setdefault((run["way"], run["fault"], run["victim"]), []).append(run)
    rows = [
        (
            *key,
            ", ".join(dict.fromkeys(run["moment"] for run in runs)),
            ", ".join(sorted({run["carrier"] for run in runs}, reverse=True)),
            f"{max(run['seconds'] for run in runs):.1f} s" if any_ended(runs) else "goes on",
            " or ".join(dict.fromkeys(run["said"] for run in runs if run["said"])) or "–",
        )
        for key, runs in groups.items()
    ]
    headings = ("started by", "fault", "of", "at", "carrier", "it ends within", "it says")
    return table(headings, rows)


def foreseen_table():
    """Foreseen and measured time and memory of splits; nothing before they were measured."""
    if not (REPORTS / "foreseen.json").exists():
        return ""
    rows = [
        (
            f"{line['workload']} {line['size']}²",
            line["split"],
            line["ranks"],
            *(duration(line[name]) for name in ("foreseen", "measured")),
            f"{line['foreseen'] / line['measured']:.2f}",
            *(f"{line[name] / 2**20:.0f}" for name in ("foreseen_bytes", "measured_bytes")),
            f"{line['foreseen_bytes'] / line['measured_bytes']:.2f}",
        )
        for line in report("foreseen")["benches"]
    ]
    headings = ("network", "split", "ranks", "foreseen", "measured", "ratio")
    return table((*headings, "memory foreseen", "measured", "ratio"), rows)


def any_ended(runs):
    """Whether one of these runs ended by its fault."""
    return any(run["code"] or run["said"] for run in runs)


def generated():
    """Each generated table, by its name, with the page that has it."""
    of_job, of_training = option_tables()
    every = {
        "commands": (GUIDE / "options.md", verb_table()),
        "options": (GUIDE / "options.md", of_job),
        "options of training": (GUIDE / "options.md", of_training),
        "flags of commands": (GUIDE / "options.md", command_table()),
        "networks": (GUIDE / "networks-and-operators.md", network_table()),
        "ratios": (GUIDE / "performance.md", ratio_table()),
        "times": (REPORTS / "README.md", time_table()),
        "memory": (REPORTS / "README.md", memory_table()),
        "training": (REPORTS / "README.md", training_table()),
        "sweep": (REPORTS / "README.md", sweep_table()),
        "halo": (REPORTS / "README.md", halo_table()),
        "foreseen": (REPORTS / "README.md", foreseen_table()),
        "faults": (GUIDE / "faults.md", fault_table()),
    }
    return {name: found for name, found in every.items() if found[1]}


def with_table(page, name, rows):
    """The text of a page with a table in place of the one that follows the comment of its name."""
    text = page.read_text()
    found = re.search(rf"<!-- table: {name} -->\n\n((?:\|.*\n)*)", text)
    assert found, f"{page.name} has no place for the table: <!-- table: {name} -->"
    return text[: found.start(1)] + rows + "\n" + text[found.end(1) :]


if __name__ == "__main__":
    for title, (page, rows) in generated().items():
        page.write_text(with_table(page, title, rows))
