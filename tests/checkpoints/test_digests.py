"""Hashing while other work is done: the digests of hashlib, one sentence an error, nothing heavy imported."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time

import pytest

from negmerge_kit.checkpoints.digests import BLOCK, TURN, Digests
from negmerge_kit.cli.merge import _inputs
from negmerge_kit.errors import CheckpointError


def test_digests_are_hashlibs_whatever_the_size(tmp_path):
    files = []
    for size in (0, 1, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK * TURN, BLOCK * TURN * 2 + 5):
        files.append(tmp_path / str(size))
        files[-1].write_bytes(os.urandom(size))
    with Digests() as digests:
        digests.begin(files[::-1])
        for file in [*files, files[3]]:
            assert digests.of(file) == hashlib.sha256(file.read_bytes()).hexdigest()


def test_what_cannot_be_read_is_one_sentence_when_it_is_asked_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with Digests() as digests:
        digests.begin([tmp_path / "none", tmp_path / "pipe", tmp_path])
        for path in (tmp_path / "none", tmp_path / "pipe", tmp_path):
            with pytest.raises(CheckpointError, match="cannot be read"):
                digests.of(path)


def test_leaving_ends_what_still_runs(tmp_path):
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(200 << 30)  # a hole; reading it takes minutes
    before, started = threading.active_count(), time.perf_counter()
    with Digests() as digests:
        digests.begin([large])
        time.sleep(0.1)
    assert time.perf_counter() - started < 10 and threading.active_count() <= before


def test_hashing_begins_before_torch_and_only_on_what_is_read(tmp_path):
    code = "import negmerge_kit.cli.merge, sys; print({'torch', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    base, one, out = (str(tmp_path / f"{name}.safetensors") for name in ("base", "one", "out"))
    for file in (base, one, out):
        (tmp_path / file).write_bytes(b"x")
    found = [str(path) for path in _inputs(["--json", base, "--scale", "1", one, "no.safetensors", "--out", out])]
    assert found == [base, one]
    for words in ([base, one], [base, one, "--out", out, "--help"], [base, "--executor", "process", f"--out={out}"]):
        assert list(_inputs(words)) == []


def test_a_file_that_was_replaced_since_it_was_hashed_is_refused(tmp_path):
    file, other = tmp_path / "a", tmp_path / "b"
    file.write_bytes(b"abc")
    other.write_bytes(b"abd")
    with Digests() as digests:
        assert digests.of(file).startswith("ba7816bf")
        other.replace(file)
        with pytest.raises(CheckpointError, match="changed while it was read"):
            digests.of(file)
