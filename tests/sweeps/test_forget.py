"""The whole of `negmerge forget` as a function: candidates, scale, checkpoint, card."""

from dataclasses import replace

import pytest
from PIL import Image

from negmerge_kit import Recipe, SearchOptions, forget
from negmerge_kit.cards.files import read_card
from negmerge_kit.data.embedded import family_images
from negmerge_kit.errors import CheckpointError, NegmergeError, ParameterError
from negmerge_kit.sweeps.forget import UNLEARNED, quiet_steps

GRID = "[recipe]\nlr = 2e-3\nepochs = 1\n[vary]\nweight_decay = [0.1, 0.2]\n"


@pytest.fixture
def digits(tmp_path):
    """A folder of a few digits a class in each split."""
    for split in ("train", "val", "test"):
        images = family_images("digits", split).take(60)
        for number, (picture, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
            place = tmp_path / "digits" / split / f"digit_{label}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.permute(1, 2, 0).numpy()).save(place / f"{number}.png")
    return f"folder:{tmp_path / 'digits'}"


@pytest.mark.slow
def test_a_folder_is_forgotten_in_one_call_and_the_second_one_trains_nothing(digits, tmp_path, monkeypatch):
    (tmp_path / "grid.toml").write_text(GRID)
    asked = {"grid": tmp_path / "grid.toml", "out": tmp_path / "out", "options": SearchOptions(scale=0.2)}
    unlearned = forget("tiny", digits, ["shapes", "arrows"], **asked, device="cpu")
    assert unlearned.weights == tmp_path / "out" / UNLEARNED and unlearned.card.is_file()
    assert len(read_card(unlearned.card)["candidates"]) == 2
    unlearned.weights.unlink()
    monkeypatch.setattr(
        "negmerge_kit.sweeps.finetune_job.finetune", lambda *given, **named: pytest.fail("trained again")
    )
    assert forget("tiny", digits, ["shapes", "arrows"], **asked, device="cpu").result["scale"] == 0.2


def test_nothing_is_left_of_a_call_from_which_nothing_came(tmp_path):
    with pytest.raises(NegmergeError, match="no candidate could be fine-tuned: out of luck"):
        steps = replace(quiet_steps("cpu"), sweep=lambda pool, recipes: ["a traceback\nout of luck"])
        forget("tiny", "digits", "shapes", "tiny", tmp_path / "out", steps=steps, device="cpu")
    assert (tmp_path / "out" / "pool").is_dir()  # the base is there for the next call
    with pytest.raises(CheckpointError, match="neither a file nor"):
        forget("no-such-file.pt", "digits", "shapes", "tiny", tmp_path / "other", device="cpu")
    assert not (tmp_path / "other").exists()


def test_recipes_are_those_of_the_grid_for_this_forget_set(tmp_path):
    seen = []

    def sweep(pool, recipes):
        seen.extend(recipes)
        return ["none"]

    with pytest.raises(NegmergeError):
        forget(
            "tiny",
            "digits",
            "shapes",
            "tiny",
            tmp_path / "o",
            precision="bfloat16",
            steps=replace(quiet_steps("cpu"), sweep=sweep),
        )
    assert len(seen) == 8 and {recipe.precision for recipe in seen} == {"bfloat16"}
    assert all(isinstance(recipe, Recipe) for recipe in seen)


def test_the_gap_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ParameterError, match="only a standard classifier"):
        forget("tiny", "digits", "shapes", "tiny", tmp_path / "out", SearchOptions(choose="gap"))
    assert not (tmp_path / "out").exists()


def test_candidates_train_where_they_were_asked_to(tmp_path, monkeypatch):
    devices = []
    monkeypatch.setattr("negmerge_kit.sweeps.forget.run_sweep", lambda jobs, **named: devices.extend(jobs) or ())
    with pytest.raises(NegmergeError, match="grid tiny gave none"):
        forget("tiny", "digits", "shapes", "tiny", tmp_path / "out", device="cpu")
    assert devices and {job.device for job in devices} == {"cpu"}
