"""Control characters of strangers' files never reach the terminal; our own bars and tables still move."""

import io
import logging
import subprocess
import sys
import warnings

import numpy as np
import pytest
from safetensors.numpy import save_file

from negmerge_kit.cli import main, pool
from negmerge_kit.cli.terminal import Plain, plain_terminal, raw
from negmerge_kit.errors import ParameterError
from negmerge_kit.sweeps import malloc

EVIL = "a\x1b]0;owned\x07\x1b[2J\x9b1A\u202e\ud800\x00b"
CONTROLS = ["\x1b", "\x07", "\x9b", "\u202e", "\ud800", "\x00"]


def test_errors_tables_logs_and_warnings_are_escaped_wherever_they_are_printed(monkeypatch, capsys):
    def verb(words):
        print(EVIL)
        logging.lastResort.handle(logging.LogRecord("x", logging.ERROR, "x", 1, "%s", (EVIL,), None))
        # As the interpreter shows one. Not shown through it: pytest would record it, and half a pair of surrogates
        # cannot be sent between pytest-xdist's processes.
        print(warnings.formatwarning(UserWarning(EVIL), UserWarning, "x", 1), file=sys.stderr)
        raise ParameterError(EVIL)

    monkeypatch.setattr(pool, "pool", verb)
    before = sys.stdout
    assert main(["pool"]) == 2 and sys.stdout is before
    out, err = capsys.readouterr()
    assert not [control for control in CONTROLS if control in out + err]
    written = r"a\x1b]0;owned\x07\x1b[2J\x9b1A\u202e\ud800\x00b"
    assert out == f"{written}\n" and err.count(written) == 3 and err.endswith(f"negmerge pool: {written}\n")


def test_our_own_bars_and_tables_still_move():
    shown = io.StringIO()
    stream = Plain(shown)
    stream.write("\r 3/8")
    raw(stream).write("\x1b[2F\x1b[J")
    stream.write("a\rb")
    assert shown.getvalue() == "\r 3/8\x1b[2F\x1b[Ja\\x0db"
    with plain_terminal():
        assert sys.stderr.isatty() is not None and sys.stdout.encoding
        assert not isinstance(raw(sys.stderr), Plain) and raw(shown) is shown


def test_a_strangers_tensor_name_is_written_out(tmp_path, capfd):
    for value, (name, key) in enumerate((("base", "w\x1b[2J"), ("one", "v\x1b[2J"), ("two", "v\x1b[2J"))):
        save_file({key: np.full(2, value, np.float32)}, tmp_path / f"{name}.safetensors")
    files = [str(tmp_path / f"{name}.safetensors") for name in ("base", "one", "two")]
    assert main(["merge", *files, "--scale", "1", "--out", str(tmp_path / "out.safetensors")]) == 2
    said = capfd.readouterr().err
    assert "\x1b" not in said and r"\x1b[2J" in said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="glibc's setting")
def test_freed_memory_is_kept_in_our_own_processes_and_not_on_import():
    work = (
        "import resource\n{}\n"
        "def once(): kept = [b'x' * 3_000_000 for _ in range(10)]\n"
        "for _ in range(3): once()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(20): once()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"
    )
    faults = [
        int(
            subprocess.run([sys.executable, "-c", work.format(line)], capture_output=True, text=True, check=True).stdout
        )
        for line in ("import negmerge_kit", "from negmerge_kit.sweeps.malloc import keep_freed_memory as k; assert k()")
    ]
    assert faults[1] < 100 < faults[0] / 10, faults


def test_elsewhere_the_allocator_is_left_alone(monkeypatch):
    monkeypatch.setattr(malloc.sys, "platform", "darwin")
    assert malloc.keep_freed_memory() is False


@pytest.mark.slow
def test_who_waits_for_a_pool_is_told_by_which_process_and_a_pool_of_nothing_leaves_no_folder(tmp_path):
    from negmerge_kit.errors import PoolBusyError
    from negmerge_kit.pools.pool_writer import writing

    hold = (
        "import sys; from negmerge_kit.pools.pool_writer import writing\n"
        f"with writing({str(tmp_path / 'pool')!r}): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(PoolBusyError) as error, writing(tmp_path / "pool"):
            pass
        other.communicate("")
    if sys.platform == "linux":
        assert f"another process ({other.pid}) is adding" in str(error.value)
    assert other.returncode == 0 and not (tmp_path / "pool").exists()


def test_a_forget_from_which_nothing_came_leaves_no_folder(tmp_path, capsys):
    given = ["--model", "tiny", "--forget", f"folder:{tmp_path / 'nowhere'}", "--retain", "letters", "--grid", "tiny"]
    assert main(["forget", *given, "--out", str(tmp_path / "out")]) == 2
    assert "nowhere" in capsys.readouterr().err and not (tmp_path / "out").exists()
