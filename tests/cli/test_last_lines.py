"""The last lines of a verb: what it took since its process began, and commands that run as they are printed."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from negmerge_kit.checkpoints import open_checkpoint
from negmerge_kit.cli import clock, main


def run(capsys, line):
    """Run a command as a shell would split it; its output and the commands that it prints at its end."""
    name, *words = shlex.split(line)
    assert name == "negmerge"
    code = main(words)
    shown = capsys.readouterr()
    assert code == 0, f"{line}\n{shown.err}"
    took, *following = shown.out.splitlines()[-1 - shown.out.count(": negmerge ") :]
    assert re.fullmatch(r"took [\d.]+ m?s", took), shown.out
    assert [line[:6] for line in following] == ["next: "] * len(following)
    return shown.out, [line[6:] for line in following]


@pytest.fixture
def pool(own_pool, tmp_path, monkeypatch):
    """The quick pool under a name that a shell would split, in the folder that commands run in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    return own_pool.rename(tmp_path / "my pool").relative_to(tmp_path)


GRID = "[recipe]\nlr = 1e-3\nepochs = 1\n[vary]\nweight_decay = [0.1, 0.2]\n"


@pytest.mark.slow
def test_from_a_sweep_to_a_card_by_the_printed_commands_alone(capsys, pool):
    Path("one grid.toml").write_text(GRID)
    _, (sweep,) = run(
        capsys,
        "negmerge sweep --scene tiny:arrows --grid 'one grid.toml' --out 'new pool' --device cpu --dry-run --tflops 1",
    )
    assert sweep == "negmerge sweep --scene tiny:arrows --grid 'one grid.toml' --out 'new pool' --device cpu"
    _, following = run(capsys, sweep)
    assert following == [
        f"negmerge {words} --device cpu"
        for words in ("search 'new pool'", "compare 'new pool'", "demo --pool 'new pool'")
    ]
    _, (unlearn,) = run(capsys, following[0])
    assert unlearn == "negmerge unlearn 'new pool' --device cpu --out 'new pool-unlearned.safetensors'"
    _, (verify,) = run(capsys, unlearn)
    assert verify == "negmerge verify 'new pool-unlearned.card.json'"
    assert main(shlex.split(verify)[1:]) == 0 and "0 do not hold" in capsys.readouterr().out
    _, (again,) = run(capsys, following[0])  # nothing that is there is written over
    assert again.endswith("--out 'new pool-unlearned-2.safetensors'")


@pytest.mark.slow
def test_what_was_chosen_goes_on_to_the_next_command(capsys, pool):
    _, (unlearn,) = run(
        capsys, f"negmerge search '{pool}' --rule ties --density 0.3 --keep 0.9 --test --scales 0:1:0.1"
    )
    assert unlearn == (
        "negmerge unlearn 'my pool' --keep 0.9 --scales 0:1:0.1 --rule ties --density 0.3 "
        "--out 'my pool-unlearned.safetensors'"
    )
    run(capsys, unlearn)
    rules = "negmerge:agreement=0.7,uniform"
    out, (unlearn,) = run(capsys, f"negmerge compare '{pool}' --rules {rules} --baselines none --scales 0:1:0.1")
    assert "--scales 0:1:0.1 --rule negmerge --agreement 0.7 --out" in unlearn
    assert "next takes the first of 2 rules" in out
    told, _ = run(capsys, unlearn)
    scale = re.search(r"^scale ([\d.]+)", told, re.M)[1]
    assert re.search(rf"agreement 0.7 +{float(scale):.2f}", out)
    _, (unlearn,) = run(capsys, f"negmerge audit '{pool}' --scale 0.5 --probes confidence")
    assert unlearn == ("negmerge unlearn 'my pool' --scale 0.5 --audit --out 'my pool-unlearned-3.safetensors'")
    _, following = run(
        capsys, f"negmerge audit '{pool}' --unlearned 'my pool-unlearned.safetensors' --probes confidence"
    )
    assert following == ["negmerge verify 'my pool-unlearned.card.json'"]


@pytest.mark.slow
def test_several_pools_have_a_file_each_and_nothing_follows_where_nothing_was_found(capsys, pool):
    other = shutil.copytree(pool, "deep/my pool")
    _, following = run(capsys, f"negmerge search '{pool}' '{other}' --scales 0:1:0.1")
    assert [shlex.split(words)[-1] for words in following] == [
        "my pool-unlearned.safetensors",
        "my pool-unlearned-2.safetensors",
    ]
    assert main(["search", str(pool), "--scales", "0,32"]) == 2
    assert "next" not in capsys.readouterr().out


@pytest.mark.slow
def test_files_go_on_to_where_they_can_be_scored(capsys, pool):
    base, candidates = pool / "base.safetensors", sorted((pool / "candidates").glob("*.safetensors"))
    files = shlex.join(map(str, [base, *candidates]))
    _, (evaluate,) = run(capsys, f"negmerge merge {files} --out m.safetensors --scale 0.5")
    assert evaluate == "negmerge evaluate m.safetensors --scene 'my pool'"
    assert main(shlex.split(evaluate)[1:]) == 0 and "forget" in capsys.readouterr().out
    _, (apply,) = run(capsys, f"negmerge merge {files} --delta-out d.safetensors --scale 0.5")
    assert apply == f"negmerge apply '{base}' d.safetensors --scale 0.5 --out unlearned.safetensors"
    _, (evaluate,) = run(capsys, apply)
    assert evaluate == "negmerge evaluate unlearned.safetensors --scene 'my pool'"
    merged, applied = open_checkpoint("m.safetensors"), open_checkpoint("unlearned.safetensors")
    assert all(tensor.equal(applied[name]) for name, tensor in merged.items())
    shutil.copy(base, "alone.safetensors")
    _, (evaluate,) = run(capsys, "negmerge apply alone.safetensors d.safetensors --scale 0.5 --out far.safetensors")
    assert evaluate == "negmerge evaluate --help"
    run(capsys, f"negmerge merge {files} --out m.safetensors --delta-out m.delta --scale 0.5")
    assert run(capsys, "negmerge undo m.safetensors m.delta --scale 0.5 --out back.safetensors")[1] == []


def test_converted_files_are_merged_the_first_as_the_base(capsys, pool):
    import torch

    for number in range(3):
        torch.save({"w": torch.full((4,), float(number)), "b": torch.ones(2)}, f"old {number}.pt")
    out, (merge,) = run(capsys, "negmerge convert 'old 0.pt' 'old 1.pt' 'old 2.pt' --out .")
    assert "the first file as the base" in out
    run(capsys, merge)
    _, (merge,) = run(capsys, "negmerge convert 'old 0.pt' --out one")
    assert merge == "negmerge merge --help"


@pytest.mark.slow
def test_data_that_were_prepared_are_forgotten_and_kept(capsys, pool, tmp_path):
    prepare = "negmerge data prepare arrows digits --model tiny --corrupt skip"
    _, (same,) = run(capsys, f"{prepare} --dry-run")
    assert same == prepare
    _, (forget,) = run(capsys, prepare)
    assert forget == (
        "negmerge forget --model tiny --corrupt skip --forget arrows --retain digits --grid tiny --out arrows-forgotten"
    )
    (tmp_path / "grid.toml").write_text(GRID)
    _, following = run(capsys, forget.replace("--grid tiny", "--grid grid.toml"))
    assert following[0] == "negmerge verify arrows-forgotten/unlearned.card.json"
    assert main(shlex.split(following[0])[1:]) == 0
    capsys.readouterr()
    for fewer in ("arrows --model tiny", "arrows digits --size 16"):
        assert run(capsys, f"negmerge data prepare {fewer}")[1] == ["negmerge forget --help"]
    assert run(capsys, "negmerge data prepare scans --model classifier:tiny")[1] == ["negmerge sweep --help"]


@pytest.mark.slow
def test_took_counts_from_the_start_of_the_process(tmp_path):
    """A process that waits between its start and its verb says so; the verb alone takes milliseconds."""
    code = (
        "import time; from negmerge_kit.cli import run; time.sleep(3); import torch; "
        f"torch.save({{'w': torch.ones(2)}}, '{tmp_path}/a.pt'); run(['convert', '{tmp_path}/a.pt', '--out', "
        f"'{tmp_path}/out'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    took = re.search(r"^took ([\d.]+) s$", done.stdout, re.M)
    assert took and float(took[1]) >= 3, done.stdout + done.stderr


def test_a_verb_that_another_process_calls_counts_from_the_call(monkeypatch, capsys):
    monkeypatch.setattr(clock, "_began", clock._began - 1000)
    assert clock.elapsed() > 1000 and main(["data", "list"]) == 0 and clock.elapsed() < 100
