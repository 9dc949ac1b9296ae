"""A sentence names what was given and what to do instead: slips that newcomers made."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from negmerge_kit.cli import main
from tests.merging.models import make

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    from negmerge_kit.checkpoints import save_checkpoint

    base, (candidate,) = make(1, seed=6)
    still = {name: tensor for name, tensor in base.items() if "running" not in name}
    save_checkpoint(tmp_path / "base.safetensors", base.items(), like=base)
    save_checkpoint(tmp_path / "a.safetensors", candidate.items(), like=candidate)
    save_checkpoint(tmp_path / "still.safetensors", still.items(), like=still)
    (tmp_path / "pool.json").write_text(json.dumps({}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("evaluate base.safetensors --scene nosuch.toml", "scene nosuch.toml does not exist: check the path"),
        ("sweep --scene nosuch.toml --grid tiny --out P", "scene nosuch.toml does not exist: check the path"),
        ("search base.safetensors", "base.safetensors is a file: give the pool's folder"),
        ("pool show pool.json", "pool.json is a file: give the pool's folder"),
        ("demo --pool base.safetensors", "base.safetensors is a file: give the pool's folder"),
        ("search . --scales 1:0:0.1", "scales '1:0:0.1' end before they start: write 0:1:0.1."),
        ("search . --scales 1:0:-0.1", "write 0:1:0.1."),
        (
            "merge base.safetensors a.safetensors --out u.safetensors --density 0.2",
            "--density is no dial of --rule negmerge: leave it out, or choose --rule ties or breadcrumbs.",
        ),
        (
            "merge still.safetensors a.safetensors --out u.safetensors --buffers merge",
            "still.safetensors has no running statistics to merge: leave --buffers out.",
        ),
        ("pool nosuch", "there is no `negmerge pool nosuch`: say what to do with the pool: build, show or verify."),
        (
            "data nosuch",
            "there is no `negmerge data nosuch`: say what to do with data: list, check, prepare or verify.",
        ),
        (
            "merge base.safetensors a.safetensors --out no/u.safetensors",
            "cannot write no/u.safetensors: there is no folder no. Make it first.",
        ),
    ],
)
def test_the_sentence_names_the_slip_and_the_remedy(capsys, folder, words, says):
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1, said
    assert not (folder / "u.safetensors").exists()


@pytest.mark.parametrize("verb", ["search", "unlearn", "compare", "audit"])
def test_running_statistics_that_a_model_has_not_are_not_ignored(capsys, tiny_pool, tmp_path, verb):
    out = ["--out", str(tmp_path / "u.safetensors")] if verb == "unlearn" else []
    assert main([verb, str(tiny_pool), "--buffers", "merge", *out]) == 2
    said = capsys.readouterr().err
    assert 'tiny has no batch normalisation to merge: use buffers "keep".' in said and said.count("\n") == 1


def test_setup_says_what_is_next(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("tasks", ROOT / "scripts" / "tasks.py")
    assert spec and spec.loader
    tasks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tasks)
    monkeypatch.setattr(tasks, "setup", lambda: None)
    assert tasks.main(["setup"]) == 0
    told = capsys.readouterr().out
    assert told.count("\n") == 1 and "make demo" in told
    assert ("Scripts" if sys.platform == "win32" else "source .venv/bin/activate") in told
