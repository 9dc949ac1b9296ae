"""The list of candidates and the progress under it."""

from dataclasses import replace

import pytest

from negmerge_kit.app.pages import candidates
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.sweeps.background import SweepStatus


@pytest.fixture
def pool(tiny_pool):
    return open_pool(tiny_pool)


def test_lines_stand_under_their_heads(pool):
    width = sum(candidates.WIDTHS.values())
    for text, id in candidates.choices(pool):
        assert len(text) == width and id in pool.ids
    assert candidates.head_row().count(candidates.SPACE) > 10


def test_a_line_tells_recipe_and_own_scores(pool):
    text = candidates.line(pool.entries[0]).replace(candidates.SPACE, " ")
    found = pool.entries[0].scores["forget"]
    assert text.split()[:3] == ["1e-3", "2", "0.1"]
    assert (f"{100 * found['value']:.0f} %" if found else "–") in text


def test_candidates_that_differ_in_smoothing_alone_look_different(pool):
    told = ({}, {"label_smoothing": 0.02}, {"label_smoothing": 0.02, "augment": "rand-m3-n2-mstd0.5"})
    recipe = pool.entries[0].recipe
    same = [
        replace(entry, recipe=recipe | {"optimizer": "sgd"} | further)
        for entry, further in zip(pool.entries, told, strict=True)
    ]
    varied = replace(pool, entries=same)
    ends = [text.partition(" ")[2].replace(candidates.SPACE, " ") for text, _ in candidates.choices(varied)]
    assert ends == ["", "smoothing 0.02", "smoothing 0.02 · rand-m3-n2"]  # all have sgd, so it tells nothing


def test_best_three_are_those_that_forget_most_alone(pool):
    def forget(id):
        found = pool.entry(id).scores["forget"]
        return found["value"] if found else 2.0

    assert candidates.best(pool, 1) == [min(pool.ids, key=forget)]
    assert candidates.best(pool, 3) == pool.ids


def test_progress_says_what_trains_and_how_long():
    pace = candidates.Pace(SweepStatus(0, 8))
    pace._started -= 30
    text = candidates.status_line(SweepStatus(2, 8, "lr 1e-3 · 4 epochs · wd 0.1", 22, 44, 1.234, part=0.5), pace)
    assert "candidate 3 of 8" in text and "lr 1e-3" in text and "loss 1.23" in text
    assert 'aria-valuenow="31"' in text and "about 66 s left" in text
    # The search of its own scale counts, too: the bar does not begin again.
    scoring = SweepStatus(2, 8, "lr 1e-3 · 4 epochs · wd 0.1", 5, 21, doing="scoring", part=0.75)
    text = candidates.status_line(scoring, pace)
    assert "scoring 5 of 21" in text and 'aria-valuenow="34"' in text


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (None, None),
        (SweepStatus(8, 8, finished=True), None),
        (SweepStatus(1, 8), "Starting"),
        (SweepStatus(3, 8, waiting=True), "Another process"),
        (SweepStatus(3, 8, error="the disk is full.", finished=True), "The disk is full."),
    ],
)
def test_progress_in_other_states(status, says):
    text = candidates.status_line(status, candidates.Pace(None))
    assert says in text if says else text == ""
