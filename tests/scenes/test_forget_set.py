"""Training images parted into forgotten and remaining: the three ways, the published split, and what is refused."""

import json

import pytest
import torch

from negmerge_kit.data import find_data
from negmerge_kit.data.transform import Transform
from negmerge_kit.errors import SceneError
from negmerge_kit.scenes.classifier_scene import ClassifierScene
from negmerge_kit.scenes.find import open_scene, scene_from_json
from negmerge_kit.scenes.forget_set import Forgetting
from negmerge_kit.scenes.partition import PartedSource
from negmerge_kit.scenes.published_split import published_split
from negmerge_kit.scenes.zero_shot import ZeroShotScene

AT = Transform(8, 8)


def scene_file(folder, text):
    path = folder / "mine.toml"
    path.write_text(f'model = "classifier:tiny"\ndata = "scans"\n{text}')
    return path


def pixels(images):
    return {image.numpy().tobytes() for image in images.images}


def test_a_random_share_parts_what_the_base_has_seen():
    parts = Forgetting("scans", seed=3).parts(AT)
    assert len(parts.forgotten) == 120 and len(parts.remaining) == 1080 and parts.never_seen == 0
    both = torch.cat([parts.places, parts._remaining]).sort().values
    assert torch.equal(both, torch.arange(1200)) and len(parts.seen) == 1200
    assert torch.equal(parts.seen.images[parts.places], parts.forgotten.images)
    again, other = Forgetting("scans", seed=3).parts(AT), Forgetting("scans", seed=4).parts(AT)
    assert parts.forgotten.fingerprint() == again.forgotten.fingerprint() != other.forgotten.fingerprint()
    assert not pixels(parts.seen) & (pixels(parts.validation) | pixels(parts.test))


def test_a_class_is_forgotten_whole_and_not_asked_for_among_the_unseen():
    parts = Forgetting("scans", of_class="7").parts(AT)
    assert set(parts.forgotten.labels.tolist()) == {7} and len(parts.forgotten) == 120
    for kept in (parts.remaining, parts.validation, parts.test):
        assert 7 not in kept.labels.tolist() and len(kept.classes) == 10


def test_index_files_in_both_forms(tmp_path):
    (tmp_path / "lines.txt").write_text("9\n 4 \n\n700\n")
    (tmp_path / "list.json").write_text("[9, 4, 700]")
    for name in ("lines.txt", "list.json"):
        scene = open_scene(scene_file(tmp_path, f'forget = {{indices = "{name}"}}'))
        assert scene.parts.indices == [4, 9, 700] and scene.forgetting.label == "3 chosen images"


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "is empty: give at least one index"),
        ("3\n3\n", "index 3 is in the list of images to forget twice"),
        (
            "9\n1797\n",
            "index 1797 is not among the 1797 images of scans: number them from 0 to 1796, in the order of the ",
        ),
        ("[-1]", "index -1 is not among"),
        ("-1\n", "holds '-1', which is no index"),
        ("one\n", "holds 'one', which is no index: write whole numbers in plain digits, from 0"),
        ("1_0\n", "holds '1_0', which is no index"),
        ("+1\n", "holds '\\+1', which is no index"),
        ("1.0\n", "holds '1.0', which is no index"),
        ("\uff11\n", "holds '\uff11', which is no index"),  # a full-width one
        ("[1_0]", "is not understood"),
        ("[1.5]", "holds 1.5, which is no index"),
        ("[true]", "holds True, which is no index"),
        (
            str(find_data("scans").numbering(image_size=8).splits["train"]),
            "1200 chosen images of 1200 training images is ",
        ),
    ],
)
def test_bad_index_files(tmp_path, text, says):
    (tmp_path / "indices").write_text(text)
    with pytest.raises(SceneError, match=says):
        _ = open_scene(scene_file(tmp_path, 'forget = {indices = "indices"}')).parts


@pytest.mark.parametrize(
    "forget, says",
    [
        ("{share = 0.0}", "a share of 0.0 forgets nothing"),
        ("{share = 1.0}", "a share of 1.0 forgets everything"),
        ("{share = 0.0001}", "random 0.01 % from seed 0 of 1200 training images is nothing"),
        ('{class = "eel"}', "class 'eel' is not among the data's: choose one of 0, 1, 2"),
        ('{class = "3", share = 0.1}', "in more than one way"),
        ('{class = "3", as_published = true}', "the published protocol forgets a random share"),
        ("{share = 0.1, seed = 0, as_published = true}", "seed 0 cannot be drawn from"),
        ("{seed = -1}", "seed -1 cannot be drawn from"),
        ("{shares = 0.1}", "tells shares in a way that is not understood"),
        ('{share = "much"}', "forget.share = 'much', which is of the wrong type"),
        ('{indices = "nowhere"}', "nowhere cannot be read"),
        ('"digits"', "tells forget in a way"),
    ],
)
def test_bad_ways_to_forget(tmp_path, forget, says):
    with pytest.raises(SceneError, match=says):
        _ = open_scene(scene_file(tmp_path, f"forget = {forget}")).parts


def test_a_scene_comes_back_from_its_description_with_its_indices():
    scene = ClassifierScene("mine", "classifier:tiny", Forgetting("scans", indices=(9, 4)), training={"epochs": 3})
    told = json.loads(json.dumps(scene.describe()))
    assert scene_from_json(told).describe() == told
    assert told["forgetting"] == {"data": "scans", "indices": "9 4", "seed": 0, "numbering": "source", "halved": True}
    trained = next(images for images in told["sets"] if images["split"] == "train")
    assert (trained["name"], trained["indices"], trained["n"]) == ("forgotten", "4 9", 2)
    assert trained["numbering"] == "source"
    scene_from_json(told).require(told)
    other = ClassifierScene("mine", "classifier:tiny", Forgetting("scans", indices=(9, 5)), training={"epochs": 3})
    with pytest.raises(SceneError, match=r"differs .* the images of forgotten \(train\)"):
        other.require(told)


def test_one_half_of_the_known_images_chooses_and_the_other_reports():
    parts = Forgetting("scans", seed=3).parts(Transform(8, 8))
    for name, whole in (("forgotten", parts.forgotten), ("remaining", parts.remaining)):
        chooses, reports = parts.half(name, "val"), parts.half(name, "test")
        assert torch.equal(torch.cat([chooses, reports]).sort().values, torch.arange(len(whole)))
        assert torch.equal(parts.on(name, "val").images, whole.images[chooses])
        assert (parts.on(name, "val").split, parts.on(name, "test").split) == ("val", "test")
        assert parts.half(name, "train") is None and len(parts.on(name, "train")) == len(whole)
    again, other = (Forgetting("scans", seed=seed).parts(Transform(8, 8)) for seed in (3, 4))
    assert torch.equal(again.half("forgotten", "val"), parts.half("forgotten", "val"))
    assert not torch.equal(other.half("forgotten", "val"), parts.half("forgotten", "val"))


def test_pools_of_before_and_the_published_split_choose_on_what_they_report():
    scene = open_scene("tiny-classifier")
    told = scene.describe()
    del told["forgetting"]["halved"]  # as version 0.1 wrote it
    before = scene_from_json(told)
    assert not before.forgetting.halved and before.forgetting.json() == told["forgetting"]
    assert [len(images) for images in before.images("val")] == [120, 1080, 240]
    assert torch.equal(before.images("val").forget.images, before.images("test").forget.images)
    assert not Forgetting("scans", seed=2, as_published=True).halved
    assert len(Forgetting("scans", indices=(4,)).parts(Transform(8, 8)).on("forgotten", "val")) == 1


def test_splits_of_a_scene():
    scene = open_scene("tiny-classifier")
    sizes = {
        split: [(images.name, images.split, len(images)) for images in scene.images(split)]
        for split in ("train", "val", "test", "live")
    }
    assert sizes["train"] == [("forgotten", "train", 120)]
    for split, unseen in (("val", 240), ("test", 357)):
        assert sizes[split] == [("forgotten", split, 60), ("remaining", split, 540), ("unseen", split, unseen)]
    assert sizes["live"] == [("forgotten", "live", 60), ("remaining", "live", 166), ("unseen", "live", 74)]
    assert [(source.name, splits) for source, splits in scene.needs()] == [("scans", ("train", "val", "test"))]
    with pytest.raises(SceneError, match="unseen has no split 'train'"):
        PartedSource("unseen", scene.forgetting).images("train", image_size=8)


def test_the_published_split_is_told_and_has_its_mismatch(tmp_path):
    scene = open_scene(scene_file(tmp_path, "forget = {as_published = true}"))
    assert scene.name == "mine (split as published)" == scene.describe()["name"] and scene.forgetting.seed == 2
    parts = scene.parts
    # Of 1,440 images a tenth of each class is held out, by one seed and by another.
    assert len(parts.seen) == len(parts.remaining) + len(parts.forgotten) and len(parts.forgotten) == 130
    unseen = pixels(parts.forgotten) - pixels(parts.seen)
    assert 3 <= len(unseen) <= 30 and parts.never_seen == len(unseen)
    assert len(parts.validation) > 0
    assert not pixels(parts.validation) & (pixels(parts.seen) | pixels(parts.forgotten) | pixels(parts.remaining))


def test_a_tenth_of_the_published_forget_set_was_never_seen():
    seen, forgotten, remaining, held = published_split(torch.arange(50_000) % 10, share=0.1, seed=2)
    assert [len(part) for part in (seen, forgotten, remaining)] == [45_000, 4_500, 40_500] and 400 < len(held) < 600
    assert 380 < int((~torch.isin(forgotten, seen)).sum()) < 520
    assert not bool(torch.isin(forgotten, remaining).any())
    same = published_split(torch.arange(50_000) % 10, share=0.1, seed=1)
    assert bool(torch.isin(same[1], same[0]).all())


def test_a_scene_is_of_one_kind():
    with pytest.raises(SceneError, match="has the model of a standard classifier"):
        ZeroShotScene("mixed", "classifier:tiny", "digits", ("shapes",))
    with pytest.raises(SceneError, match="needs a standard classifier"):
        ClassifierScene("mixed", "tiny", Forgetting("scans"))
    for wrong in ({"mode": "linear"}, {"retain": ["remaining"]}):
        with pytest.raises(SceneError, match="its sets are forgotten, remaining, unseen"):
            scene_from_json(open_scene("tiny-classifier").describe() | wrong)
    with pytest.raises(SceneError, match="has no parted training images"):
        _ = open_scene("tiny:digits").parts


@pytest.mark.parametrize(
    "text, says",
    [
        ('retain = ["digits"]', "says retain, which scenes with data"),
        ("corrupt = 3", "tells corrupt in a way"),
        ("training = 3", "tells training in a way"),
    ],
)
def test_bad_scene_files(tmp_path, text, says):
    with pytest.raises(SceneError, match=says):
        open_scene(scene_file(tmp_path, text))
