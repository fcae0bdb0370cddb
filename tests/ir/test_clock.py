"""The clock tables of the schedules of training, as their docstrings draw them."""

from spnb.ir.schedule import Turn, all_forward_first, one_forward_one_backward
from spnb.ir.schedule import clock as training_clock


def clock(order, stages, rows):
    """The clock table of an order of passes, as its docstring draws it: one unit for each pass."""
    ticks = training_clock(order, stages, [[Turn(*turn) for turn in turns] for turns in rows])
    cells = ([tick.get(row, ("", "")) for tick in ticks] for row in range(len(rows)))
    return [[f"{'B' * (kind == 'backward')}{number}" for kind, number in row] for row in cells]


def test_clock_tables_are_those_of_the_docstrings():
    stages = [[(0, stage, [0, 1, 2])] for stage in range(2)]
    assert clock(all_forward_first, 2, stages) == [
        ["0", "1", "2", "", "", "B2", "B1", "B0"],
        ["", "0", "1", "2", "B2", "B1", "B0", ""],
    ]
    assert clock(one_forward_one_backward, 2, stages) == [
        ["0", "1", "", "B0", "2", "B1", "", "B2"],
        ["", "0", "B0", "1", "B1", "2", "B2", ""],
    ]
    mirrored = [[(0, 0, [0, 1]), (1, 1, [2, 3])], [(0, 1, [0, 1]), (1, 0, [2, 3])]]
    assert clock(one_forward_one_backward, 2, mirrored) == [
        ["0", "1", "", "B0", "", "B1", "2", "B2", "3", "B3", ""],
        ["", "0", "B0", "1", "B1", "2", "3", "", "B2", "", "B3"],
    ]


def test_tiles_of_a_mirrored_plan_wait_for_each_other_only():
    # Four tiles and a whole: ranks 1 to 3 are tiles of both pipelines.
    rows = [
        [(0, 0, [0]), (1, 1, [1])],
        *([(0, 0, [0]), (1, 0, [1])] for _ in range(3)),
        [(0, 1, [0]), (1, 0, [1])],
    ]
    assert clock(one_forward_one_backward, 2, rows) == [
        ["0", "", "", "B0", "", "1", "B1", ""],
        *([["0", "", "", "B0", "1", "", "", "B1"]] * 3),
        ["", "0", "B0", "", "1", "", "", "B1"],
    ]
