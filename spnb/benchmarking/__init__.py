"""Compares spnb's time with that of other ways to run a network, in one run, as ratios.

May import `spnb.driver` and the floors below.  Begin with `benchmark` (one plan), then `measure`
(contestants in turns), `baselines` (the other ways) and `suite` (the standard workloads).  Training
has `training_bench`, `measured_training`, `plain_training` and `training_suite` for these.
"""

WORKLOADS = ("w1", "w2", "w3", "resnet50")
"""Networks bound by arithmetic, by memory traffic and by their number of layers; and a mixture."""

SIZES, TILES = (512, 1024), (2, 4)
"""Sides of the square images that workloads are measured on, and numbers of tiles."""

TRAINED_WORKLOADS = ("unet", "resnet20_v1", "resnet50")
"""Networks whose training is measured."""

TRAINED_SIZES, MEMORY_SIZES = (256, 512), (512, 1024)
"""Sides of the images on which training is timed, and on which its memory is measured."""

LENGTHS, LENGTH_TILES = (0, 1, 2, 3, 4, 5, 6, 7, 8), (2, 4, 9)
"""Numbers of blocks that share an exchange (0: one before each window operator), and of tiles."""

HALO_SIZES, HALOS = (512, 1024, 2048), (1, 2, 4, 8)
"""Sides of images, and widths of halos, of the timed halo exchanges."""
MOST_ROUNDS = 10**6
"""Most rounds, or repeated exchanges, of a measurement."""

FORESEEN_WORKLOADS = {"resnet20_v1": 1024, "resnet50": 512, "unet": 512, "w1": 512, "w2": 768}
"""Networks of which splits are foreseen and measured, and the sides of their images."""

FORESEEN_SPLITS: dict[str, dict[str, int]] = {
    "whole": {"stages": 1, "tiled_stages": 0},
    "2 tiles": {"stages": 1, "tiles": 2},
    "4 tiles": {"stages": 1, "tiles": 4},
    "4 tiles, fused by 2": {"stages": 1, "tiles": 4, "fuse": 2},
    "2 tiles, then whole; 2 parts": {"stages": 2, "tiles": 2, "micro_batches": 2},
    "2 stages; 2 parts": {"stages": 2, "tiled_stages": 0, "micro_batches": 2},
}
"""The splits that are foreseen and measured, by their names: the options of a job."""
