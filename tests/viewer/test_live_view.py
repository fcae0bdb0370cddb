"""A live view draws what ranks published: their seconds, all of them, at their time."""

import numpy as np
import pytest
from networks import conv

import spnb
from spnb.driver import run_display
from spnb.engine.activity import Activity
from spnb.io.sources import ArraySource, SyntheticSource
from spnb.runtime.trace import Recorder
from spnb.viewer import live_view
from spnb.viewer.activity_grid import FIRST, LIVE, SLOTS, ActivityGrid
from spnb.viewer.live_view import LiveRun


def figures(time, **spent):
    return {"time": time, "spent": spent}


def test_no_second_is_lost_when_spans_grow():
    grid = ActivityGrid(2)
    published = [figures(0.3 * k, compute=0.2 * k, wait=0.1 * k) for k in range(1, 500)]
    for each in published:
        grid.add(1, each)
        grid.add(1, each)  # it is published until the next one
    assert grid.step > FIRST
    sums = dict(zip(LIVE, grid.seconds.sum(axis=1)[1]))
    assert sums["compute"] == pytest.approx(0.2 * 499)
    assert sums["wait"] == pytest.approx(0.1 * 499)
    assert not grid.seconds[0].any()
    shares = grid.shares(1)
    assert len(shares) == np.ceil(0.3 * 499 / grid.step) <= SLOTS
    assert all(sum(each.values()) == pytest.approx(1, abs=2e-3) for each in shares)


@pytest.fixture
def at_once(monkeypatch):
    """Views are shown at once, and kept."""
    shown = []
    monkeypatch.setattr(live_view, "PATIENCE", 0)
    monkeypatch.setattr(live_view, "EVERY", 0)
    monkeypatch.setattr("IPython.display.display", shown.append)
    return shown


def plan_of(**options):
    return spnb.plan(
        spnb.Job(conv(3, 4), image_size=32, batch_size=2, stages=1, tiles=2, **options)
    )


def test_a_frame_has_what_each_rank_does_now(at_once):
    image = ArraySource(np.zeros((2, 3, 32, 32), np.uint8))
    run = LiveRun(plan_of(parts=2), image, "infer", {"run": 7})
    run.update([
        {"run": 7, "share": 0.5, "done": 1, "now": "wait", "stage": 0, "micro_batch": 1}
        | figures(0.2, compute=0.1, wait=0.1),
        {"run": 6, "share": 1.0, "done": 2, "now": "compute"} | figures(9.0, compute=9.0),
    ])  # fmt: skip
    (view,) = at_once
    assert view.image.startswith(b"\x89PNG")
    frame = view.frame
    assert frame["now"] == ["wait", "wait"]  # the second has not begun this run
    assert frame["share"] == 0.25
    assert frame["left"] == pytest.approx(3 * frame["elapsed"])
    assert frame["rows"] == [[{"compute": 0.5, "wait": 0.5}], []]
    run.update([{"run": 7, "share": 1.0, "now": "compute", "done": 2} | figures(0.3)] * 2)
    assert view.frame["now"] == ["done", "done"]
    run.close()
    assert view.comm is None


def test_an_epoch_is_done_with_its_steps(at_once):
    run = LiveRun(plan_of(), None, "epoch", {"epoch": 0}, steps=4)
    each = {"epoch": 0, "steps": 1, "now": "backward", "stage": 0, "micro_batch": 0}
    run.update([each | figures(0.2, forward=0.1)] * 2)
    assert at_once[0].image == b""
    assert at_once[0].frame["share"] == 0.25
    assert at_once[0].frame["now"] == ["backward"] * 2


def test_a_run_that_is_nearly_over_shows_none(monkeypatch):
    now, shown = [0.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("IPython.display.display", shown.append)

    def at(seconds, share):
        now[0] = seconds
        run.update([{"run": 0, "share": share, "now": "compute"} | figures(seconds)] * 2)

    noise = SyntheticSource((2, 3, 32, 32))
    run = LiveRun(plan_of(), noise, "infer", {"run": 0})
    at(0.9, 0.3)
    at(1.1, 0.6)  # 0.7 s are left
    assert not shown
    at(1.4, 0.5)  # 1.4 s
    assert len(shown) == 1
    assert shown[0].image == b""  # noise would hide the tiles
    now[0] = 0.0
    run = LiveRun(plan_of(), noise, "infer", {"run": 0})
    at(2.1, 0.9)  # it was said to be short, and is not
    assert len(shown) == 2


def test_a_rank_that_waits_says_so(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    seen = []
    activity = Activity(seen.append)
    activity.report(epoch=0, steps=0)
    activity.turn("forward", stage=1, micro_batch=0)
    now[0] = 1.0
    for _ in range(100):
        activity.waits()
        now[0] += 0.005
    assert seen[-1]["now"] == "wait"
    activity.turn("backward", stage=1, micro_batch=0)
    activity.report(last=True)
    spent = seen[-1]["spent"]
    assert spent["wait"] == pytest.approx(0.5, abs=0.02)
    assert spent["forward"] == pytest.approx(1.0, abs=0.02)
    assert sum(spent.values()) == pytest.approx(seen[-1]["time"])


def test_the_wait_of_a_run_counts_while_it_lasts(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    seen, recorder = [], Recorder()
    activity = Activity(seen.append)
    activity.report(recorder, run=0, share=0.0)
    now[0] = 1.0
    recorder.note(0.0, "compute", "", "conv2d")
    activity.report(recorder, run=0, share=0.1)
    for _ in range(400):
        activity.waits()
        now[0] += 0.005
    recorder.note(1.0, "wait", "", "halo")
    activity.report(recorder, last=True, run=0, share=0.2)
    grid = ActivityGrid(1)
    for each in seen:
        grid.add(0, each)
    assert len(seen) > 10
    shares = grid.shares(0)
    assert shares[:4] == [{"compute": 1.0}] * 4
    assert all(each == {"wait": pytest.approx(1, abs=0.03)} for each in shares[4:])
    assert grid.seconds.sum() == pytest.approx(3.0)


def test_scripts_show_a_bar_and_notebooks_a_widget(at_once, monkeypatch):
    run = run_display.UnderWay(plan_of(), "infer", {"run": 0}, None)
    published = [{"run": 0, "share": 0.1, "now": "compute"} | figures(0.2)] * 2
    bars = []

    def shown(**options):
        with run_display.displayed(run, show_bar=lambda *_: bars.append(1), **options) as show:
            show(published)

    shown(progress=True, live=True)
    assert (len(bars), len(at_once)) == (1, 0)  # no notebook
    monkeypatch.setattr(run_display, "_has_widgets", lambda: True)
    shown(progress=True, live=True)
    assert (len(bars), len(at_once)) == (1, 1)
    shown(progress=True, live=False)
    assert (len(bars), len(at_once)) == (2, 1)


def test_a_picture_that_fails_ends_no_run(at_once, monkeypatch, capsys):
    monkeypatch.setattr(run_display, "_has_widgets", lambda: True)
    run = run_display.UnderWay(plan_of(), "infer", {"run": 0}, None)
    with run_display.displayed(run, True, True, lambda *_: None) as show:
        show([{"run": 0, "share": "half"}])
        show([{"run": 0, "share": "half"}])
    assert capsys.readouterr().err.count("no live picture") == 1
