"""How fast spnb is, against what else there is; all in one run, and ratios first."""

WORKLOADS = ("w1", "w2", "w3", "resnet50")
"""Bound by arithmetic, by memory traffic, by the number of layers, and a bit of each."""

SIZES, TILES = (512, 1024), (2, 4)
"""Of the images that workloads are measured on, and what these are cut into."""

LENGTHS, LENGTH_TILES = (0, 1, 2, 3, 4, 5, 6, 7, 8), (2, 4, 9)
"""Blocks that share an exchange, 0 for one before each window operator; and tiles."""

HALO_SIZES, HALOS = (512, 1024, 2048), (1, 2, 4, 8)
"""Of images, and positions that their tiles grow: for exchanges alone."""
