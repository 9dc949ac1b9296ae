"""The card as a page: what a reader, the Hub and `verify` find in it."""

from __future__ import annotations

import json

import pytest
from huggingface_hub import ModelCard

from negmerge_kit.cards.card import LIMITS, card, checked_record, public, searched, with_file
from negmerge_kit.cards.files import card_files, card_path, page_agrees, read_card, weights_of
from negmerge_kit.cards.markdown import card_markdown
from negmerge_kit.errors import CardError
from negmerge_kit.pipeline import search_json

PROBE = {
    "name": "linear probe",
    "asks": "Can a|linear model still read it?",
    "base": {"value": 0.9, "n": 100, "low": 0.82, "high": 0.95, "split": "test"},
    "unlearned": {"value": 0.8, "n": 100, "low": 0.71, "high": 0.87, "split": "test"},
    "chance": 0.1,
    "retrained": None,
    "verdict": "leftover",
    "undefined": None,
}


@pytest.fixture(scope="module")
def record(bench, tmp_path_factory):
    from negmerge_kit.checkpoints.writer import save_checkpoint

    choice = bench.choose()
    result = search_json(bench, choice, bench.search(choice, scales=(0.0, 0.2, 0.3)), test=True, started=0.0)
    told = card(bench, choice, result, chosen=searched(result), probes={"probes": [PROBE], "finding": "Much is left."})
    weights = {"w": bench.pool.base["visual.proj"]}
    return with_file(
        told, save_checkpoint(tmp_path_factory.mktemp("c") / "u.safetensors", weights.items(), like=weights)
    )


def test_a_card_says_what_the_issue_asks_of_it(record, bench):
    pool = bench.pool
    assert record["base"]["sha256"] == pool.base_file.sha256
    assert [(c["id"], c["sha256"], c["recipe"]) for c in record["candidates"]] == [
        (entry.id, entry.sha256, entry.recipe) for entry in pool.entries
    ]
    assert all(len(images["fingerprint"]) == 64 for images in record["scene"]["sets"])
    assert record["rule"] == "negmerge" and record["params"]["agreement"] == 1.0
    assert record["chosen"].startswith("search over 3 scales") and len(record["search"]["curve"]) == 3
    for split in ("validation", "test"):
        for side in ("forget", "retain"):
            for scores in (record["scores"][split], record["scores"][split]["base"]):
                assert set(scores[side]) == {"value", "n", "low", "high", "split"}
    assert record["costs"]["training_seconds"] == pytest.approx(sum(entry.seconds for entry in pool.entries))
    assert record["versions"]["torch"] and record["limits"] == LIMITS and "no proof of deletion" in LIMITS
    json.dumps(record, allow_nan=False)


def test_the_page_shows_it_and_the_hub_can_read_it(record):
    page = ModelCard(card_markdown(record, licence="mit"))
    data = page.data.to_dict()
    assert data["license"] == "mit" and "machine-unlearning" in data["tags"]
    metrics = {r["dataset"]["name"]: r["metrics"][0]["value"] for r in data["model-index"][0]["results"]}
    assert metrics["forget: digits"] == pytest.approx(record["scores"]["test"]["forget"]["value"], abs=1e-6)
    text = page.text
    assert LIMITS in text and record["file"]["sha256"] in text and record["base"]["sha256"] in text
    for entry in record["candidates"]:
        assert entry["sha256"] in text
    for score in (record["scores"]["test"]["forget"], record["scores"]["validation"]["base"]["retain"]):
        assert f"{100 * score['value']:.1f} % ({100 * score['low']:.1f}–{100 * score['high']:.1f})" in text
    assert "Can a\\|linear model" in text and "80.0 % (71.0–87.0) | – | – | 10.0 % | knowledge is left |" in text
    assert "Much is left." in text
    left = {"value": 0.875, "low": 0.76, "high": 0.96, "floor": "chance", "at": 0.1}
    placed = card_markdown(record | {"probes": [PROBE | {"verdict": "open", "left": left, "good": "lower"}]})
    assert "| linear probe ↓ |" in placed
    assert "| 88 % (76 to 96) of the way from chance, 10.0 %, to the base; undecided without a retrained" in placed
    undefined = card_markdown(record | {"probes": [PROBE | {"undefined": "nobody knows"}]})
    assert "| not defined: nobody knows |" in undefined
    assert "No audit was run" in card_markdown(record | {"probes": None})
    forced = card_markdown(record | {"forced": ["abc"]})
    assert "`--force`" in forced and "abc" in forced and "--force" not in text


def test_a_card_of_ones_own_model_and_folders_names_no_folder_of_its_maker(record):
    scene = {
        **record["scene"],
        "model": {"arch": "ViT-B-32", "pretrained": "/home/me/base.safetensors"},
        "forget": "folder:/home/me/cars",
        "retain": ["hf:owner/name", "folder:../mine/birds"],
    }
    text = card_markdown(record | {"scene": public(scene)})
    assert "# ViT-B-32 without folder:cars" in text and "folder:birds" in text and "hf:owner/name" in text
    assert "/home/me" not in text and "../mine" not in text
    assert "load_model({'arch': 'ViT-B-32', 'pretrained': 'base.safetensors'})" in text
    assert public(record["scene"]) == record["scene"]


def test_both_files_hold_one_record_and_the_page_is_held_to_it(record, tmp_path):
    path = tmp_path / "u.card.json"
    with card_files(path) as write:
        write(record)
    page = tmp_path / "u.card.md"
    assert read_card(path) == read_card(page) == record
    assert page_agrees(page, record) == (True, [])
    page.write_text(page.read_text() + "\nLicence: mine.\n")
    assert page_agrees(page, record) == (True, ["Licence: mine."])
    shown = page.read_text()
    value = 100 * record["scores"]["test"]["forget"]["value"]
    for old, new in ((f"{value:.1f} % (", "1.0 % ("), ("split: test", "split: train"), (LIMITS, "All is gone.")):
        assert old in shown
        page.write_text(shown.replace(old, new, 1))
        assert page_agrees(page, record) == (False, []), old


def test_neither_file_appears_when_the_weights_fail(record, tmp_path):
    with pytest.raises(ValueError, match="NaN"), card_files(tmp_path / "u.card.json") as write:
        write(record)
        raise ValueError("NaN in the weights")
    assert not list(tmp_path.iterdir())


def test_the_names_of_a_card(tmp_path):
    weights = tmp_path / "u.safetensors"
    assert card_path(weights) == tmp_path / "u.card.json"
    assert card_path(weights, tmp_path / "a.md") == tmp_path / "a.json"
    with pytest.raises(CardError, match="end it in"):
        card_path(weights, tmp_path / "a.txt")
    with pytest.raises(CardError, match="two files"):
        card_path(tmp_path / "u.json", tmp_path / "u.md")
    for name in ("../u.safetensors", "/etc/u.safetensors", None, "u.pt"):
        with pytest.raises(CardError, match="--file"):
            weights_of(tmp_path / "c.json", {"file": {"name": name}})


@pytest.mark.parametrize(
    "change",
    [
        lambda r: [],
        lambda r: r | {"schema": 1},
        lambda r: r | {"scale": "0.3"},
        lambda r: r | {"scale": True},
        lambda r: {k: v for k, v in r.items() if k != "scores"},
        lambda r: r | {"base": {"sha256": "abc"}},
        lambda r: r | {"candidates": [3]},
        lambda r: r | {"limits": None},
    ],
)
def test_what_is_no_card_is_one_sentence(record, tmp_path, change):
    (tmp_path / "c.json").write_text(json.dumps(change(record)))
    with pytest.raises(CardError) as caught:
        read_card(tmp_path / "c.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("keep", ['{"shapes": "x"}', '{"shapes": null}', '{"shapes?": [0.9]}', "1" + "0" * 400])
def test_floors_that_are_no_numbers_are_refused(record, tmp_path, keep):
    text = json.dumps(record | {"keep": "HERE"}).replace('"HERE"', keep)
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(CardError, match="keep|no card"):
        read_card(tmp_path / "c.json")
    (tmp_path / "c.json").write_text(json.dumps(record | {"keep": {"shapes": 0.97}}))
    assert read_card(tmp_path / "c.json")["keep"] == {"shapes": 0.97}


def paths(told, path=()):
    """The way to every entry inside a record."""
    for key, value in told.items() if isinstance(told, dict) else enumerate(told) if isinstance(told, list) else ():
        yield (*path, key)
        yield from paths(value, (*path, key))


@pytest.mark.parametrize("instead", [None, 3, "text", [], {}, True, [[]], {"value": "x"}], ids=str)
def test_a_card_with_any_entry_exchanged_is_refused_or_shown(record, instead):
    """Whatever stands in place of an entry: one sentence, or a page; never anything else."""
    refused = 0
    for path in paths(record | {"search": {"curve": record["search"]["curve"][:1]}}):
        other = json.loads(json.dumps(record))
        inner = other
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = instead
        try:
            assert card_markdown(checked_record(other)).startswith("---")
        except CardError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 50


def test_a_page_whose_front_matter_is_broken_does_not_agree(record, tmp_path):
    page = tmp_path / "c.md"
    for front in ("---\n: [\n---", "---\n- a\n---", ""):
        page.write_text(front + card_markdown(record).split("\n---", 1)[1])
        assert page_agrees(page, record) == (False, [])


@pytest.mark.parametrize("text", ["", "{", '{"scale": NaN}', "[" * 100_000, "# A page\n\nwithout a record\n"])
def test_a_file_without_a_record_is_one_sentence(tmp_path, text):
    for name in ("c.json", "c.md"):
        (tmp_path / name).write_text(text)
        with pytest.raises(CardError, match="no card"):
            read_card(tmp_path / name)
    with pytest.raises(CardError, match="cannot be read"):
        read_card(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("model", "base", "licence"),
    [
        ({"arch": "ViT-B-32-quickgelu", "pretrained": "openai"}, "timm/vit_base_patch32_clip_224.openai", "mit"),
        ({"arch": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"}, "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "mit"),
        ({"arch": "hf-hub:owner/name", "pretrained": None}, "owner/name", None),
        ({"arch": "timm:resnet18", "pretrained": "a1_in1k"}, "timm/resnet18.a1_in1k", None),
        ({"arch": "ViT-B-32", "pretrained": "mine.safetensors"}, None, None),
        ("tiny", None, "mit"),
    ],
)
def test_the_front_matter_names_base_licence_and_merge(record, model, base, licence):
    other = record | {"scene": record["scene"] | {"model": model}}
    data = ModelCard(card_markdown(other)).data.to_dict()
    assert "merge" in data["tags"] and data.get("license") == licence
    assert data.get("base_model") == base and data.get("base_model_relation") == ("merge" if base else None)
    assert ModelCard(card_markdown(other, licence="apache-2.0")).data.license == "apache-2.0"
