"""What a user names to be written: nothing of another kind and nothing that is read is ever written over."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from negmerge_kit.checkpoints import save_checkpoint, sha256_file
from negmerge_kit.checkpoints.overwrite_guard import CHECKPOINT, check_output, make_folder
from negmerge_kit.cli import main
from negmerge_kit.errors import CheckpointError
from negmerge_kit.plots.save import save_figure
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.unlearning.workbench import Workbench
from tests.merging.models import make

NOTES = b"# The only copy of a week's work\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A base, two candidates, their merge with its delta, and a person's own files under all kinds of names."""
    base, candidates = make(2, seed=6)
    for name, weights in zip("base a b".split(), (base, *candidates), strict=True):
        save_checkpoint(tmp_path / f"{name}.safetensors", weights.items(), like=weights)
    torch.save(dict(base), tmp_path / "old.pt")
    monkeypatch.chdir(tmp_path)
    words = "merge base.safetensors a.safetensors b.safetensors --out m.safetensors --delta-out d.safetensors"
    assert main(words.split()) == 0
    for name in ("README.md", "mine.safetensors", "old.safetensors", "mine.json", "mine.card.json", "page.card.md"):
        (tmp_path / name).write_bytes(NOTES)
    Image.new("RGB", (8, 8)).save("photo.png")
    Image.new("RGB", (8, 8)).save("photo.pdf")
    return tmp_path


@pytest.fixture
def nothing_loads(monkeypatch):
    """Long work begins with a workbench: a refusal comes before."""

    def began(*words, **options):
        raise AssertionError("the long work began before the output was looked at")

    monkeypatch.setattr(Workbench, "__init__", began)


def refused(capsys, *words, says):
    before = {path: sha256_file(path) for path in Path().rglob("*") if path.is_file()}
    capsys.readouterr()
    code = main([str(word) for word in words])
    told = capsys.readouterr()
    assert code == 2 and told.out == "" and told.err.count("\n") == 1 and says in told.err, told
    assert {path: sha256_file(path) for path in Path().rglob("*") if path.is_file()} == before


MERGE = "merge base.safetensors a.safetensors b.safetensors"
STAYS = "so it stays"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (f"{MERGE} --out README.md", STAYS),
        (f"{MERGE} --out mine.safetensors", STAYS),
        (f"{MERGE} --delta-out photo.png", STAYS),
        (f"{MERGE} --out m.safetensors --delta-out README.md", STAYS),
        ("apply base.safetensors d.safetensors --scale 1 --out README.md", STAYS),
        ("apply base.safetensors d.safetensors --scale 1 --out d.safetensors", "one of the inputs"),
        ("undo m.safetensors d.safetensors --scale 1 --out README.md", STAYS),
        ("undo m.safetensors d.safetensors --scale 1 --out m.safetensors", "one of the inputs"),
        ("convert old.pt --out .", "old.safetensors exists"),
        ("convert old.pt --out README.md", "cannot be made"),
        ("agreement base.safetensors a.safetensors --plot photo.png", STAYS),
        ("agreement base.safetensors a.safetensors --plot photo.pdf", STAYS),
        (f"{MERGE} --out .", "it is a folder"),
        (f"{MERGE} --out nowhere/u.safetensors", "no folder nowhere"),
        (f"{MERGE} --out {'u' * 300}.safetensors", "too long"),
    ],
)
def test_files_of_another_kind_and_inputs_stay(capsys, folder, words, says):
    refused(capsys, *words.split(), says=says)


def test_shards_that_are_merged_elsewhere_are_refused_alike(capsys, folder):
    assert main(f"{MERGE} --out README.md --executor process".split()) == 2
    assert STAYS in capsys.readouterr().err and Path("README.md").read_bytes() == NOTES


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_an_input_is_known_through_links(capsys, folder, link):
    for name in ("base", "a", "d"):
        link(f"{name}.safetensors", f"link-{name}.safetensors")
    refused(capsys, *MERGE.split(), "--out", "link-base.safetensors", says="one of the inputs")
    refused(capsys, *MERGE.split(), "--delta-out", "link-a.safetensors", says="one of the inputs")
    words = "apply base.safetensors d.safetensors --scale 1 --out link-d.safetensors"
    refused(capsys, *words.split(), says="one of the inputs")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--out mine.safetensors", STAYS),
        ("--out README.md", ".safetensors ending"),
        ("--out u.safetensors --card mine.json", STAYS),
        ("--out u.safetensors --card README.md", STAYS),
        ("--out mine.safetensors --card c.json", STAYS),
        ("--out page.safetensors", "page.card.md exists"),
        ("--out nowhere/u.safetensors", "cannot write nowhere/u.safetensors"),
        ("--out {pool}/base.safetensors", "one of the inputs"),
        ("--out {pool}/heads.safetensors", "one of the inputs"),
        ("--out {pool}/{candidate}", "one of the inputs"),
        ("--out linked.safetensors", "one of the inputs"),
        ("--out same.safetensors", "one of the inputs"),
        ("--out u.safetensors --card {pool}/pool.json", "one of the inputs"),
    ],
)
def test_unlearn_says_so_before_it_searches(capsys, folder, own_pool, nothing_loads, words, says):
    candidate = open_pool(own_pool).entries[0].file
    Path("linked.safetensors").symlink_to(own_pool / candidate)
    Path("same.safetensors").hardlink_to(own_pool / "base.safetensors")
    words = words.format(pool=own_pool, candidate=candidate)
    refused(capsys, "unlearn", own_pool, *words.split(), says=says)


def test_the_file_that_a_pool_took_its_base_from_stays(capsys, folder, own_pool, nothing_loads):
    record = json.loads((own_pool / "pool.json").read_text())
    record["scene"]["model"] = {"arch": "ViT-B-32", "pretrained": str(folder / "base.safetensors")}
    (own_pool / "pool.json").write_text(json.dumps(record))
    refused(capsys, "unlearn", own_pool, "--out", "base.safetensors", says="one of the inputs")


@pytest.mark.parametrize("verb", ["compare", "audit"])
def test_a_photo_is_no_figure_of_ours(capsys, folder, own_pool, nothing_loads, verb):
    refused(capsys, verb, own_pool, "--plot", "photo.png", says="photo.png exists and is not a PNG figure of ours")


def test_forget_says_so_before_it_trains(capsys, folder, monkeypatch):
    monkeypatch.setattr("negmerge_kit.cli.forget.prepare_scene", lambda scene: pytest.fail("the long work began"))
    Path("FACES").mkdir()
    Path("FACES/unlearned.safetensors").write_bytes(NOTES)
    words = "forget --model tiny --forget digits --retain shapes --grid tiny --out FACES"
    refused(capsys, *words.split(), says=STAYS)


@pytest.mark.slow
def test_what_the_command_wrote_itself_is_replaced(capsys, folder, own_pool):
    figure = Figure()
    for ending in ("png", "svg", "pdf"):
        for _ in range(2):
            save_figure(figure, Path(f"figure.{ending}"))
    Path("empty.safetensors").touch()
    for words in (
        f"{MERGE} --out m.safetensors --delta-out d.safetensors",
        f"{MERGE} --out empty.safetensors",
        "convert old.pt --out CONVERTED",
        "convert old.pt --out CONVERTED",
        f"unlearn {own_pool} --out u.safetensors --scale 0.2",
        f"unlearn {own_pool} --out u.safetensors --scale 0.2",
        f"unlearn {own_pool} --out u.safetensors --scale 0.2 --card u.card.md",
    ):
        assert main(words.split()) == 0, capsys.readouterr()


def test_a_device_and_a_folder_are_no_places(tmp_path):
    with pytest.raises(CheckpointError, match=STAYS):
        check_output(Path("/dev/null"), CHECKPOINT)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be made"):
        make_folder(tmp_path / "file")
