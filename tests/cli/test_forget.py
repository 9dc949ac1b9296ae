"""`negmerge forget`: folders of images and a local weight file in, an unlearned checkpoint with its card out."""

import json

import open_clip
import pytest
from PIL import Image

from negmerge_kit.checkpoints import open_checkpoint, save_checkpoint
from negmerge_kit.cli import main
from negmerge_kit.data.embedded import FAMILIES, family_images
from negmerge_kit.models.tiny_clip import TINY, register, tiny_weights
from negmerge_kit.pools.pool import open_pool

GRID = "[recipe]\nlr = 1e-3\nepochs = 2\n[vary]\nweight_decay = [0.1, 0.2]\n"


def write_images(folder, family, n):
    """The first pictures of a family as PNG files, one folder a class."""
    images = family_images(family, "train").take(n)
    for k, (pixels, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        place = folder / FAMILIES[family].classes[label].replace(" ", "_")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(place / f"{k:04d}.png")
    return folder


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The command, over two folders and a file."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    weights = tiny_weights()
    base = save_checkpoint(tmp_path / "base.safetensors", weights.items(), like=weights)
    (tmp_path / "grid.toml").write_text(GRID)
    forget = write_images(tmp_path / "arrows", "arrows", 400)
    retain = write_images(tmp_path / "colours", "colours", 400)
    data = ["--forget", f"folder:{forget}", "--retain", f"folder:{retain}", "--grid", str(tmp_path / "grid.toml")]
    return [
        "forget",
        "--model",
        TINY,
        "--pretrained",
        str(base),
        *data,
        "--out",
        str(tmp_path / "out"),
        "--device",
        "cpu",
    ]


@pytest.mark.slow
def test_from_folders_to_an_unlearned_checkpoint_and_on_where_it_was(words, tmp_path, capsys):
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    out = tmp_path / "out" / "unlearned.safetensors"
    assert result["status"] == "ok" and result["out"] == str(out)
    assert result["forget"]["value"] < result["base"]["forget"]["value"]
    assert result["retain"]["value"] >= 0.95 * result["base"]["retain"]["value"]
    assert result["test"]["forget"]["split"] == "test" and result["test"]["forget"]["n"] >= 20
    model = open_clip.create_model(register(), pretrained=str(out))
    assert set(model.state_dict()) == set(open_checkpoint(out))
    card = json.loads((tmp_path / "out" / result["card"]).read_text())
    assert card["scene"]["forget"] == "folder:arrows"  # a card names no folder of its maker

    made = open_pool(tmp_path / "out" / "pool")
    out.unlink()
    assert main([*words, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert open_pool(tmp_path / "out" / "pool").entries == made.entries
    assert {**again, "seconds": 0} == {**result, "seconds": 0}


def merged(out, capsys):
    """The ids of the candidates that the last run merged, of its card."""
    card = json.loads((out / json.loads(capsys.readouterr().out)["card"]).read_text())
    return [candidate["id"] for candidate in card["candidates"]]


@pytest.mark.slow
def test_candidates_of_another_grid_in_the_same_folder_take_no_part(words, tmp_path, capsys):
    assert main([*words, "--json"]) == 0
    first = merged(tmp_path / "out", capsys)
    (tmp_path / "grid.toml").write_text(GRID.replace("[0.1, 0.2]", "[0.2, 0.3]"))
    assert main([*words, "--json"]) == 0
    second = merged(tmp_path / "out", capsys)
    assert len(first) == len(second) == 2 and not {*first} & {*second}
    assert {*open_pool(tmp_path / "out" / "pool").ids} == {*first, *second}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--rule", "ties", "--agreement", "0.7"], "no dial of --rule ties"),
        (["--buffers", "merge"], "no batch normalisation"),
    ],
)
def test_what_the_merge_would_refuse_is_told_before_anything_is_trained(words, tmp_path, capsys, given, says):
    assert main([*words, *given]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "out" / "pool" / "pool.json").exists()


@pytest.mark.slow
def test_a_corrupt_image_is_named_and_refused_or_left_out_by_choice(words, tmp_path, capsys):
    broken = next((tmp_path / "arrows").rglob("*.png"))
    broken.write_bytes(broken.read_bytes()[:40])
    assert main(words) == 2
    said = capsys.readouterr().err
    *progress, sentence = said.splitlines()
    assert broken.name in sentence and all(line.startswith("arrows train [") for line in progress)
    assert not (tmp_path / "out" / "pool" / "pool.json").exists()
    assert main([*words, "--corrupt", "skip", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "ok"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--keep", "2"], "keep"),
        (["--scales", "a:b"], "scale"),
        (["--grid", "huge"], "grid"),
        (["--retain", "nonsense"], "nonsense"),
        (["--pretrained", "nonsense"], "nonsense"),
    ],
)
def test_what_is_misspelt_is_told_before_hours_are_spent(words, tmp_path, capsys, given, says):
    assert main([*words, *given]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
