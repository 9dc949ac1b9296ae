"""A file that is written tells how far it is, waits for no fine-tuning, and can be cancelled; then nothing is left."""

import threading
from types import SimpleNamespace

import gradio as gr
import pytest

from negmerge_kit.app.buttons import FileWriting
from negmerge_kit.app.downloads import EVERYTHING, PAGE, RECORD, WEIGHTS, Downloads
from negmerge_kit.app.jobs import CancelledError, Jobs
from negmerge_kit.app.score_cache import Scored
from negmerge_kit.errors import CheckpointError
from negmerge_kit.progress import Progress

WAIT = 10


class Row:
    """A row of one button over `write`, and its two handlers for one visitor."""

    def __init__(self, write, jobs=None):
        row, request = FileWriting(write, "take", jobs or Jobs()), SimpleNamespace(session_hash="me")
        self.press = lambda: row.pressed("weights")(request, "here")
        self.cancel = lambda: row.cancel(request)


def stands(answer):
    """(button can be pressed, cancel is there, what is told, path) of one answer of the handler."""
    button, stop, told, path = answer
    return button.interactive, stop.visible, told, path


def test_the_page_tells_what_is_done_and_at_the_end_gives_the_file():
    go = threading.Event()

    def write(kind, report, place):
        report(Progress("Writing the weights", 0.25))
        assert go.wait(WAIT)
        return f"{place}/{kind}"

    seen = []
    for answer in Row(write).press():
        seen.append(stands(answer))
        if "25%" in seen[-1][2]:
            assert "Writing the weights" in seen[-1][2] and seen[-1][:2] == (False, True)
            go.set()
    assert seen[0] == (False, True, "", gr.skip()) and seen[-1] == (True, False, "", "here/weights")
    assert any("25%" in told for _, _, told, _ in seen)


def test_cancelling_frees_the_page_at_once_and_ends_the_writing_at_its_next_step():
    go, ended = threading.Event(), threading.Event()

    def write(kind, report, place):
        report(Progress("Writing the weights", 0.5))
        assert go.wait(WAIT)
        try:
            report(Progress("Writing the weights", 0.6))
        except CancelledError:
            ended.set()
            raise

    row = Row(write)
    pressed = row.press()
    while "50%" not in next(pressed)[2]:
        pass
    row.cancel()
    free, stop, told, path = stands(list(pressed)[-1])
    assert (free, stop, path) == (True, False, gr.skip()) and "Cancelled" in told and not ended.is_set()
    go.set()
    assert ended.wait(WAIT)


def test_what_goes_wrong_is_said_beside_the_buttons():
    def write(kind, report, place):
        raise CheckpointError("the disk is full: free some.")

    free, stop, told, path = stands(list(Row(write).press())[-1])
    assert (free, stop, path) == (True, False, gr.skip()) and "The disk is full: free some." in told


def test_a_file_waits_for_no_heavy_job(tiny_pool, tmp_path):
    from negmerge_kit.app.pools import Pools

    pools, go = Pools([tiny_pool], made=tmp_path, device="cpu"), threading.Event()
    heavy = pools.jobs.begin(lambda job: go.wait(WAIT))
    assert pools.files.do(lambda job: "written") == "written" and not heavy.future.done()
    go.set()


@pytest.mark.parametrize("kind", ["weights", "record", "page", "everything"])
def test_writing_tells_each_of_its_steps(bench, tmp_path, kind):
    told = []
    takeaway = Downloads(Scored(bench), tmp_path)
    path = getattr(takeaway, kind)(bench.choose(), 0.4, 0.95, report=told.append)
    assert path.name == {"weights": WEIGHTS, "record": RECORD, "page": PAGE, "everything": EVERYTHING}[kind]
    shares = [at.fraction for at in told if at.message == "Writing the weights"]
    assert "Scoring" in told[0].message and len(shares) == len(bench.pool.base)
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] < 1
    assert (told[-1].message == "Packing them into one file") is (kind == "everything")


@pytest.mark.slow
def test_a_cancelled_file_leaves_nothing_and_is_whole_the_next_time(bench, tmp_path):
    takeaway = Downloads(Scored(bench), tmp_path)

    def leave(at):
        if at.fraction and at.fraction > 0.5:
            raise CancelledError("cancelled.")

    with pytest.raises(CancelledError):
        takeaway.weights(bench.choose(), 0.4, 0.95, report=leave)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert takeaway.everything(bench.choose(), 0.4, 0.95).exists()
