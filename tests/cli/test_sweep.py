"""`negmerge sweep` and its live table."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from negmerge_kit.cli import main
from negmerge_kit.cli import progress as shown_progress
from negmerge_kit.cli.progress import ProgressDisplay
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.progress import Progress
from negmerge_kit.sweeps.job import Outcome

COLOUR = re.compile(r"\x1b\[(3[0-8]|9[0-7])[0-9;]*m")
GRID = "[recipe]\nlr = 2e-3\nepochs = 1\n[vary]\nweight_decay = [0.1, 0.2]\n"


@dataclass(frozen=True)
class Named:
    label: str


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_table_shows_jobs_losses_and_the_time_that_is_left():
    now, out = [0.0], Terminal()
    a, b = Named("lr 1e-3"), Named("lr 2e-3")
    with ProgressDisplay("candidates", 5, done=1, out=out, clock=lambda: now[0]) as table:
        now[0] = 10.0
        table.step(a, Progress("step", step=22, total=44, loss=0.53))
        now[0] = 20.0
        table.step(b, Progress("step", step=11, total=44))
        head, first, second = table.lines()
        assert "1/5" in head and "about 87 s left" in head  # 0.75 of 4 jobs in 20 s
        assert head.count("#") == int(24 * 1.75 / 5)
        assert first == "  lr 1e-3: step 22/44, loss 0.53" and second == "  lr 2e-3: step 11/44"
        now[0] = 30.0
        table.end(Outcome(a, value={}, seconds=12.0))
        table.end(Outcome(b, failure="too small: give more.", attempts=2))
        assert table.lines()[0].startswith("candidates [##############..........] 3/5, 1 failed, about 30 s left")
    shown = out.getvalue()
    assert "2/5 lr 1e-3: 12 s\n" in shown and "3/5 lr 2e-3 failed, 2 tries: too small: give more.\n" in shown
    # Three lines are wiped before the first job's line is printed, and that one is never wiped.
    before, _, after = shown.partition("2/5 lr 1e-3: 12 s\n")
    assert before.endswith("\r" + "\x1b[2K\x1b[1A" * 2 + "\x1b[2K") and "lr 2e-3" in after


def test_the_search_of_its_own_scale_is_part_of_a_candidate():
    """Its training is behind it by then: neither the bar nor the time left begins again."""
    now, job = [0.0], Named("lr 1e-3")
    with ProgressDisplay("candidates", 2, out=Terminal(), clock=lambda: now[0]) as table:
        now[0] = 10.0
        table.step(job, Progress("step", 0.5, 44, 44, 0.5))
        assert "about 30 s left" in table.lines()[0]
        table.step(job, Progress("scoring", 0.625, 5, 20))
        head, line = table.lines()
        assert line == "  lr 1e-3: scoring 5/20" and head.count("#") == int(24 * 0.625 / 2)
        assert "about 22 s left" in head  # 0.625 of 2 jobs in 10 s


def test_the_last_rule_says_so_instead_of_a_time():
    now, a, b = [0.0], Named("NegMerge"), Named("SalUn")
    with ProgressDisplay("comparing", 2, last="last rule", out=Terminal(), clock=lambda: now[0]) as table:
        now[0] = 10.0
        table.step(a, Progress("step", step=1, total=2))
        assert "about 30 s left" in table.lines()[0]
        table.end(Outcome(a, value={}, seconds=10.0))
        # All its training is done, not all it does.
        table.step(b, Progress("step", step=300, total=300, loss=0.5))
        assert table.lines()[0].endswith("1/2, last rule")
    with ProgressDisplay("comparing", 2, out=Terminal(), clock=lambda: now[0] + 10) as table:
        table._started = 0.0
        table.step(a, Progress("step", step=2, total=2))
        table.step(b, Progress("step", step=2, total=2))
        assert table.lines()[0].endswith("0/2")  # no "0 s left" while jobs run


def test_a_log_file_gets_plain_lines_now_and_then():
    now, out = [0.0], io.StringIO()
    with ProgressDisplay("candidates", 2, out=out, clock=lambda: now[0]) as table:
        for step in range(100):
            now[0] += 0.5
            table.step(Named("a"), Progress("step", step=step, total=100, loss=1.0))
        table.end(Outcome(Named("a"), value={}, seconds=50.0))
    lines = out.getvalue().splitlines()
    assert "\x1b" not in out.getvalue() and len(lines) == 4
    assert lines[0].endswith("0/2") and "step 5" in lines[2] and lines[3] == "1/2 a: 50 s"


def test_a_file_s_name_moves_no_cursor_and_long_lines_stay_one_line(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    out, job = Terminal(), Named("evil \x1b[2J[bold red] " + 80 * "x")
    with ProgressDisplay("a\x1b]0;owned\x07", 2, out=out) as display:
        display.step(job, Progress(1, 2))
        display.end(Outcome(job, failure="no \x9b1A"))
    shown = out.getvalue()
    assert not {"\x1b[2J", "\x07", "\x9b"} & {*shown} and "\x1b[2J" not in shown and "\x1b]0" not in shown
    assert r"a\x1b]0;owned\x07" in shown and r"failed: no \x9b1A" in shown and "[bold red]" in shown
    assert "\x1b[?25l" not in shown  # the cursor is never hidden


def test_no_color_is_heeded_and_a_dumb_terminal_gets_plain_lines(monkeypatch):
    for name, value, colours, moves in (("NO_COLOR", "1", False, True), ("TERM", "dumb", False, False)):
        with monkeypatch.context() as patched:
            patched.setenv("TERM", "xterm-256color")
            patched.delenv("NO_COLOR", raising=False)
            plain = Terminal()
            with ProgressDisplay("a", 2, out=plain) as display:
                display.show(done=1)
            assert COLOUR.search(plain.getvalue())
            patched.setenv(name, value)
            out = Terminal()
            with ProgressDisplay("a", 2, out=out) as display:
                display.show(done=1)
                display.show("the second", done=2)
            assert bool(COLOUR.search(out.getvalue())) is colours
            assert ("\x1b[2K" in out.getvalue()) is moves


def test_of_what_nobody_knows_the_end_the_count_is_shown(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(shown_progress, "LOG_EVERY", 0.0)
    with ProgressDisplay("images", out=out) as display:
        display.advance()
        display.show("of the second", done=7, total=9)
    assert out.getvalue().splitlines()[0] == "images 1"
    assert re.fullmatch(r"images \[#{18}\.{6}\] 7/9, about \d+ ms left, of the second", out.getvalue().splitlines()[1])
    terminal = Terminal()
    with ProgressDisplay("images", keep=False, out=terminal) as display:
        display.advance()
    assert terminal.getvalue().endswith("\x1b[2K")  # a bar that does not stay is wiped


@pytest.mark.slow
def test_sweep_makes_what_is_missing_and_says_so(tmp_path, capsys):
    grid, pool = tmp_path / "grid.toml", tmp_path / "pool"
    grid.write_text(GRID)
    command = ["sweep", "--scene", "tiny:arrows", "--grid", str(grid), "--out", str(pool), "--device", "cpu", "--json"]
    assert main(command) == 0
    shown = capsys.readouterr()
    made = json.loads(shown.out)
    assert set(made) == {"pool", "scene", "candidates", "made", "failed", "seconds"}
    assert made["made"] == made["candidates"] == open_pool(pool).ids and len(made["made"]) == 2
    assert "2/2 lr 2e-3" in shown.err and "alone it forgets to" in shown.err
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["made"] == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--scene", "nowhere"], "FILE.toml"),
        (["--grid", "huge"], "tiny"),
        (["--executor", "slurm"], "serial, process, ray"),
        (["--workers", "2"], "serial"),
        (["--executor", "process", "--address", "auto"], "ray"),
        (["--executor", "ray", "--workers", "0"], "at least 1"),
        (["--device", "banana"], "choose auto, cpu"),
        (["--device", "cuda:99"], "is not there"),
        (["--device", "auto:1", "--executor", "ray", "--address", "there:1"], "is not known"),
        (["--precision", "int8"], "float32, bfloat16, float16"),
        (["--precision", "float16", "--device", "cpu"], "needs a CUDA device"),
        (["--micro-batch", "0"], "micro_batch = 0"),
    ],
)
def test_what_is_misspelt_is_told_before_anything_is_made(tmp_path, capsys, words, says):
    wanted = {"--scene": "tiny:digits", "--grid": "tiny", "--out": str(tmp_path / "pool")}
    wanted |= dict(zip(words[::2], words[1::2], strict=True))
    assert main(["sweep", *(word for pair in wanted.items() for word in pair)]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert not (tmp_path / "pool").exists()


TRAINERS = ("sweep", "pool build", "forget", "reproduce clip-negation", "reproduce cifar10-random")


@pytest.mark.parametrize("verb", TRAINERS)
def test_an_option_that_is_gone_says_what_to_use_and_hides(capsys, verb):
    for words in (["--processes", "4"], ["--processes=4"], ["--processes"]):
        assert main([*verb.split(), *words]) == 2
        assert capsys.readouterr().err == (
            f"negmerge {verb.split()[0]}: --processes is gone: candidates train one a GPU with --executor process, or "
            "on a cluster with --executor ray.\n"
        )
    with pytest.raises(SystemExit):
        main([*verb.split(), "--help"])
    told = capsys.readouterr().out
    assert "--micro-batch" in told and "--processes" not in told


def test_a_grid_in_half_precision_is_told_before_anything_is_made(tmp_path, capsys):
    grid, pool = tmp_path / "grid.toml", tmp_path / "pool"
    grid.write_text(GRID.replace("epochs = 1", 'epochs = 1\nprecision = "float16"'))
    words = ["sweep", "--scene", "tiny:arrows", "--grid", str(grid), "--out", str(pool), "--device", "cpu"]
    assert main(words) == 2
    assert "needs a CUDA device" in capsys.readouterr().err and not pool.exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_sweep_in_processes_that_is_ended_goes_on_where_it_was(tmp_path, how):
    grid, pool = tmp_path / "grid.toml", tmp_path / "pool"
    grid.write_text(GRID.replace("[0.1, 0.2]", "[0.1, 0.2, 0.3]"))
    words = ["sweep", "--scene", "tiny:digits", "--grid", str(grid), "--out", str(pool), "--device", "cpu"]
    command = [sys.executable, "-m", "negmerge_kit.cli", *words, "--executor", "process", "--workers", "2"]
    # A group of its own: Ctrl-C reaches driver and workers alike, as from a terminal.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as driver:
        until = time.monotonic() + 180
        while time.monotonic() < until and driver.poll() is None:
            if (pool / "pool.json").exists() and open_pool(pool).ids:
                break
            time.sleep(0.05)
        os.killpg(driver.pid, how) if how == signal.SIGINT else driver.send_signal(how)
        _, said = driver.communicate(timeout=60)
    made = open_pool(pool)
    assert 1 <= len(made.ids) < 3 and made.verify() == []
    if how != signal.SIGKILL:
        # On a busy machine Python's own resource tracker may have the last word.
        assert driver.returncode == 128 + how and "stopped; what was finished is kept.\n" in said
        assert "Traceback" not in said and not list(pool.rglob("*.part"))
        return
    assert driver.returncode == -signal.SIGKILL
    assert main(words) == 0
    done = open_pool(pool)
    assert len(done.ids) == 3 and done.verify() == [] and all(entry in done.entries for entry in made.entries)
    assert not list(pool.rglob("*.part")) and not (pool / "unfinished").exists()
