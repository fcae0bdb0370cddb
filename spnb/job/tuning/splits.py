"""The splits that are searched, as data."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

FUSED: tuple[int | str, ...] = (0, 1, 2, 4, 8, "all")
"""Numbers of fused blocks, in order of redundant work; 0 for an exchange before each operator."""

PARTS = (1, 2, 4, 8, 16, 32)
STAGES = (1, 2, 3, 4, 8)
PATCHES = (1, 4, 16)
COPIES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Split:
    """A split of a network.

    Attributes
    ----------
    tiles, method
        Tiles of each tiled stage, and how they are cut.
    stages, tiled
        Number of stages, and how many of them are tiled.
    parts, replicas, slices
        Micro-batches; copies of the plan; ranks of each untiled stage.
    patches
        Patches of each tile.
    recompute
        In training, whether values are computed again.
    """

    tiles: int = 1
    method: str = "square"
    stages: int = 1
    tiled: int = 0
    parts: int = 1
    replicas: int = 1
    slices: int = 1
    patches: int = 1
    recompute: bool = False

    @property
    def ranks(self) -> int:
        """Number of ranks.

        >>> Split(tiles=4, stages=2, tiled=1, replicas=2).ranks
        10
        """
        untiled = (self.stages - self.tiled) * self.slices
        return self.replicas * (self.tiles * self.tiled + untiled)

    def options(self) -> dict[str, Any]:
        """The options of a job with this split; halos are not fused."""
        tiled = {"num_spatial_parts": self.tiles, "slice_method": self.method}
        whole = {"num_spatial_parts": 4, "slice_method": "square"}  # as if they were left out
        return {
            "split_size": self.stages,
            "spatial_size": self.tiled,
            **(tiled if self.tiled else whole),
            "parts": self.parts,
            "replicas": self.replicas,
            "local_DP": self.slices,
            "patches": self.patches,
            "recompute": self.recompute,
            "recompute_memory": None,
            "halo_D2": False,
            "fused_layers": 1,
            "balance": None,
        }


def searched() -> tuple[str, ...]:
    """Names of the options that are searched."""
    return tuple(Split().options())


def splits(ranks: int, batch: int, axes: int, training: bool) -> Iterator[Split]:
    """Every split that is searched.

    Parameters
    ----------
    ranks
        Most ranks.
    batch
        Images of a batch.
    axes
        Spatial axes of the image.
    training
        Whether the network is trained.
    """
    again = (False, True) if training else (False,)
    for replicas in (n for n in COPIES if n <= min(ranks, batch)):
        images, each = batch // replicas, ranks // replicas
        for parts in (n for n in PARTS if n <= images):
            for shape in _shapes(each, images // parts, axes):
                for recompute in again:
                    changed = {"parts": parts, "replicas": replicas, "recompute": recompute}
                    yield Split(**{**shape, **changed})


def _shapes(ranks: int, images: int, axes: int) -> Iterator[dict[str, Any]]:
    """Stages and tiles of one copy of a plan, for so many images of a micro-batch."""
    for stages in (n for n in STAGES if n <= ranks):
        yield {"stages": stages, "tiled": 0}
        for tiled in sorted({1, stages - 1, stages} - {0}):
            for slices in (n for n in COPIES if n <= images):
                if slices > 1 and tiled == stages:
                    continue
                most = (ranks - (stages - tiled) * slices) // tiled
                for tiles in (n for n in tile_counts(most) if n > 1):
                    for method in methods(tiles, axes):
                        shape: dict[str, Any] = {"stages": stages, "tiled": tiled}
                        shape |= {"slices": slices, "tiles": tiles, "method": method}
                        for patches in PATCHES if tiled == 1 else (1,):
                            yield {**shape, "patches": patches}


def tile_counts(most: int) -> list[int]:
    """Numbers of tiles up to the most: powers of 2 and 3, their products, and the most itself.

    >>> tile_counts(17)
    [1, 2, 3, 4, 6, 8, 9, 12, 16, 17]
    """
    if most < 1:
        return []
    round_numbers = (2**k * 3**j for k in range(most.bit_length()) for j in range(3))
    return sorted({most, *(n for n in round_numbers if n <= most)})


def methods(tiles: int, axes: int) -> Collection[str]:
    """The slice methods that make different grids of a number of tiles."""
    if axes == 1:
        return ("square",)
    is_prime = all(tiles % k for k in range(2, tiles))
    return (
        ("vertical", "horizontal")
        if is_prime and axes == 2
        else ("square", "vertical", "horizontal")
    )


def agrees(split: Split, held: Mapping[str, Any]) -> bool:
    """Whether a split has the values that a job gives."""
    options = split.options()
    return all(options[name] == value for name, value in held.items() if name in _OWN)


_OWN = (
    *("split_size", "spatial_size", "num_spatial_parts", "slice_method", "parts", "replicas"),
    *("local_DP", "patches", "recompute"),
)
