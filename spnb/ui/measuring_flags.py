"""The flags of the verbs that measure; PyTorch is not imported here."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

from .. import benchmarking
from ..errors import OptionError
from ..job.parsing import blocks_fused, size_in_bytes


def add_measuring_flags(parser: argparse.ArgumentParser, verb: str) -> None:
    """Add the flags of a verb that measures to a parser."""
    if verb in ("bench", "suite"):
        parser.add_argument(
            "--baselines",
            metavar="NAME[,NAME]",
            type=_names,
            help="contestants: plain, tuned, compiled, onnxruntime, openvino (default: all that"
            " are installed)",
        )
        parser.add_argument(
            "--training",
            action="store_true",
            help="time steps of training and measure their memory, compared with plain torch on the"
            " whole image, with plain torch on each tile without an exchange, and with one rank",
        )
    if verb == "suite":
        _add_suite_flags(parser)
    if verb == "sweep":
        _add_sweep_flags(parser)
    if verb == "foreseen":
        _add_foreseen_flags(parser)
    if verb == "tune":
        _add_tune_flags(parser)
    elif verb == "halo":
        _add_halo_flags(parser)
    else:
        _add_number(parser, "--rounds", 5, "measured steps of each contestant")


def _add_foreseen_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--workloads",
        metavar="NAME[,NAME]",
        type=_names,
        help="built-in networks to foresee and to measure (default:"
        f" {','.join(benchmarking.FORESEEN_WORKLOADS)})",
    )
    parser.add_argument(
        "--machine",
        metavar="NAME",
        default="here",
        help="the machine that is simulated, as of tune (default: here)",
    )


def _add_tune_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ranks", type=int, required=True, metavar="N", help="most ranks")
    parser.add_argument(
        "--memory",
        type=_size,
        metavar="SIZE",
        help="most memory that a rank may need, such as 4GiB (default: no limit)",
    )
    parser.add_argument(
        "--machine",
        metavar="NAME",
        help="the machine that is simulated: here (as measured by the command calibrate; all ranks"
        " share its cores), calibrated (the same, with a core for each rank), core, gpu, or a file"
        " of figures (default: calibrated, if this machine was measured; else core)",
    )
    parser.add_argument(
        "--training", action="store_true", help="search splits for training, not for inference"
    )
    parser.add_argument(
        "--seconds", type=float, default=6.0, metavar="S", help="time to search (default: 6)"
    )


def _size(text: str) -> int:
    try:
        return size_in_bytes(text)
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _add_suite_flags(parser: argparse.ArgumentParser) -> None:
    trained = ",".join(benchmarking.TRAINED_WORKLOADS)
    parser.add_argument(
        "--workloads",
        metavar="NAME[,NAME]",
        type=_names,
        help=f"built-in networks (default: {','.join(benchmarking.WORKLOADS)}; with --training"
        f" {trained})",
    )
    sizes, trained = (
        ",".join(map(str, each)) for each in (benchmarking.SIZES, benchmarking.TRAINED_SIZES)
    )
    parser.add_argument(
        "--sizes",
        type=_listed(int),
        metavar="N[,N]",
        help=f"sides of square images, in pixels (default: {sizes}; with --training {trained})",
    )
    memory = ",".join(map(str, benchmarking.MEMORY_SIZES))
    parser.add_argument(
        "--memory-sizes",
        type=_listed(int),
        metavar="N[,N]",
        help="with --training: sides of the images on which memory is measured; steps are timed"
        f" on those of --sizes (default: {memory})",
    )
    _add_list(parser, "--tiles", benchmarking.TILES, "numbers of tiles")


def _add_sweep_flags(parser: argparse.ArgumentParser) -> None:
    text = (
        "numbers of blocks that share one halo exchange, or all; 0 is an exchange before each"
        " window operator"
    )
    _add_list(parser, "--lengths", benchmarking.LENGTHS, text, blocks_fused)
    _add_list(parser, "--tiles", benchmarking.LENGTH_TILES, "numbers of tiles")


def _add_halo_flags(parser: argparse.ArgumentParser) -> None:
    _add_list(parser, "--sizes", benchmarking.HALO_SIZES, "sides of square images, in pixels")
    text = "widths of the halo, in positions on each side of a tile"
    _add_list(parser, "--halos", benchmarking.HALOS, text)
    _add_list(parser, "--tiles", benchmarking.TILES, "numbers of tiles")
    parser.add_argument(
        "--slice-method",
        default="square",
        metavar="METHOD",
        help="how an image is cut, as in the command plan (default: square)",
    )
    _add_number(parser, "--channels", 64, "channels of the exchanged tensors")
    text = "measured exchanges for each size, halo and number of tiles"
    _add_number(parser, "--repeats", 50, text)


def _add_number(parser: argparse.ArgumentParser, name: str, default: int, text: str) -> None:
    """Add a flag that takes a whole number; its help text states the default."""
    parser.add_argument(
        name, type=int, default=default, metavar="N", help=f"{text} (default: {default})"
    )


def _add_list(
    parser: argparse.ArgumentParser,
    name: str,
    default: Sequence[int],
    text: str,
    read: Callable[[str], Any] = int,
) -> None:
    """Add a flag that takes a list of numbers; its help text states the default."""
    parser.add_argument(
        name,
        type=_listed(read),
        default=list(default),
        metavar="N[,N]",
        help=f"{text} (default: {','.join(map(str, default))})",
    )


def _names(text: str) -> list[str]:
    return text.split(",")


def _listed(read: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def numbers(text: str) -> list[Any]:
        try:
            return [read(n) for n in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no list of whole numbers") from None

    return numbers
