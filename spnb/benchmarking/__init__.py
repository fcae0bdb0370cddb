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
