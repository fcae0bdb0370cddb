"""Objects show themselves, the same as text and as HTML."""

import re
from html import unescape

import pytest

import spnb
from spnb.display.cards import Card, Grid, Table


def words(html):
    return unescape(re.sub("<[^>]+>", " ", html)).split()


def test_text_and_html_say_the_same():
    card = Card(
        "two <tiles>",
        [Table(("rank", "tile"), [("0", "64×32")]), "a line"],
        [Grid("stage 0", [["0", "1"]]), Grid("stage 1", [["2"], ["3"]])],
    )
    assert set(words(card.html)) == set(re.findall(r"[^\s│┌┐└┘├┤┬┴┼─]+", card.text))
    assert "<tiles>" not in card.html


def test_a_plan_shows_figures_and_grids():
    job = spnb.Job("resnet29_v2", image_size=64, batch_size=2, num_spatial_parts=6, local_DP=2)
    plan = spnb.plan(job)
    for shown in (repr(plan), " ".join(words(plan._repr_html_()))):
        assert "8 ranks" in shown
        assert f"{plan.totals.messages} messages" in shown
        assert "stage 1: whole, batch shared by 2" in shown
    assert "│ 3 │ 4 │ 5 │" in repr(plan)


def test_a_large_grid_is_shortened():
    job = spnb.Job("resnet20_v1", image_size=512, batch_size=1, num_spatial_parts=1024)
    lines = repr(spnb.plan(job)).splitlines()
    assert max(map(len, lines)) < 200
    assert len(lines) < 30
    assert "│  31  │" in "\n".join(lines)
    assert "…" in "\n".join(lines)


@pytest.mark.long
def test_jobs_results_and_sessions():
    job = spnb.Job("resnet20_v1", image_size=40, batch_size=1)
    assert "2×2 tiles" in job.card.text
    assert "whole" in job.card.text
    assert "batch_size" in words(job._repr_html_())
    result = spnb.InProcess(spnb.plan(job)).infer()
    rows = repr(result).splitlines()
    assert rows[0] == result.summary
    assert len(rows) == 2 + 5
    assert "images/s" in result._repr_html_()
