"""How many files of the package one command enters: who reads along should not have to open half the house."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

COUNT = """
import sys, threading
from pathlib import Path
import negmerge_kit
from negmerge_kit.cli import main

package, entered = str(Path(negmerge_kit.__file__).parent) + "/", set()


def watch(frame, event, _):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(package) and code.co_flags & 1:  # a function, not an import
        entered.add(code.co_filename)


threading.setprofile(watch)
sys.setprofile(watch)
code = main(sys.argv[1:])
sys.setprofile(None)
print(code, len(entered))
"""


def entered(*words):
    """Files in which a function of ours runs, as many as a command enters."""
    done = subprocess.run([sys.executable, "-c", COUNT, *map(str, words)], capture_output=True, text=True, check=True)
    code, count = done.stdout.splitlines()[-1].split()
    assert code == "0", done.stderr
    return int(count)


def test_unlearn_enters_no_more_files_than_it_did(own_pool, tmp_path):
    assert entered("unlearn", own_pool, "--out", tmp_path / "u.safetensors", "--device", "cpu") <= 61


def test_forget_enters_no_more_files_than_it_did(tmp_path):
    recipe = tmp_path / "one.toml"
    recipe.write_text("[[runs]]\nlr = 1e-3\nepochs = 1\n\n[[runs]]\nlr = 2e-3\nepochs = 1\n")
    what = ["--model", "tiny", "--forget", "digits", "--retain", "shapes", "--grid", recipe, "--scales", "0,0.3"]
    assert entered("forget", *what, "--keep", "0.5", "--out", tmp_path / "out", "--device", "cpu") <= 85
