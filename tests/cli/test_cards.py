"""`negmerge verify | push`, and candidates of another base: what holds, what does not, what leaves the machine."""

from __future__ import annotations

import json
import shutil

import pytest
from huggingface_hub import ModelCard, errors

from negmerge_kit.cards.card import with_file
from negmerge_kit.cards.files import card_files, read_card
from negmerge_kit.checkpoints.header import MADE_FROM
from negmerge_kit.checkpoints.reader import open_checkpoint
from negmerge_kit.checkpoints.writer import save_checkpoint, sha256_file
from negmerge_kit.cli import main
from negmerge_kit.errors import CardError, SceneError
from negmerge_kit.pools.pool import open_pool


@pytest.fixture(scope="module")
def made(tiny_pool, tmp_path_factory):
    """An unlearned checkpoint and its card, made once; `folder` gives a copy."""
    place = tmp_path_factory.mktemp("made")
    assert main(["unlearn", str(tiny_pool), "--out", str(place / "u.safetensors"), "--scales", "0,0.2,0.3"]) == 0
    return place


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "made")


def verified(capsys, *words):
    code = main(["verify", *map(str, words), "--json"])
    told = json.loads(capsys.readouterr().out)
    return code, {claim["claim"]: claim["holds"] for claim in told["claims"]}, told


def rewrite(folder, **changes):
    path = folder / "u.card.json"
    record = read_card(path) | changes
    with card_files(path) as write:
        write(record)
    return path


@pytest.mark.slow
def test_every_claim_of_a_fresh_card_holds(capsys, made, tiny_pool):
    code, claims, told = verified(capsys, made / "u.card.json")
    assert code == 0 and told["fail"] == 0
    assert told["unchecked"] == 0
    never = ["made", "device", "search.method", *(f"costs.{name}" for name in ("merge_seconds", "search_seconds"))]
    assert told["never_checked"] == [*never, "costs.peak_memory", "pool"]
    assert {name for name, holds in claims.items() if holds is None} == set(told["never_checked"])
    for name in (
        "the page",
        "weights",
        "record inside the weights",
        "base",
        "heads",
        "origin of the candidates",
        "images",
        "counts",
        "merge",
        "scores on validation",
        "scores on test",
        "scale",
        "curve",
        "range",
        "chosen",
        "limits",
        "operation",
        "versions",
    ):
        assert claims[name] is True
    assert sum(name.startswith("candidate ") for name in claims) == 3


def test_a_card_without_its_pool_says_what_it_could_not_check(capsys, folder):
    code = main(["verify", str(folder / "u.card.md"), "--pool", "nowhere"])
    assert code == 2 and "nowhere" in capsys.readouterr().err
    rewrite(folder, pool="../elsewhere")
    code, claims, told = verified(capsys, folder / "u.card.md")
    assert code == 2 and told["unchecked"] == 9
    assert claims["weights"] and claims["merge"] is claims["scores"] is None
    assert verified(capsys, folder / "u.card.md", "--partial")[0] == 0
    (folder / "u.safetensors").unlink()
    (folder / "u.card.md").unlink()
    code, claims, told = verified(capsys, folder / "u.card.json")
    assert code == 2 and claims["weights"] is None
    assert verified(capsys, folder / "u.card.json", "--partial")[0] == 0  # its sentences follow from its numbers


def test_the_page_is_held_to_the_record_of_the_same_version(capsys, folder):
    page, card = folder / "u.card.md", folder / "u.card.json"
    shown = page.read_text()
    rewrite(folder, pool="../elsewhere", versions={"negmerge_kit": "0.0.1"})
    page.write_text(shown)
    assert verified(capsys, card)[1]["the page"] is None
    rewrite(folder, versions=read_card(page)["versions"])
    page.write_text(page.read_text() + "\nA line of one's own.\n")
    assert verified(capsys, card)[1]["the page"] is None
    page.write_text(page.read_text().replace("of 3 candidates", "of 30 candidates"))
    code, claims, _ = verified(capsys, card)
    assert code == 2 and claims["the page"] is False


@pytest.mark.slow
def test_changed_weights_are_found_by_hash_and_by_merging_anew(capsys, folder, tiny_pool):
    weights = folder / "u.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 0x40
    weights.write_bytes(bytes(data))
    code, claims, told = verified(capsys, folder / "u.card.json", "--pool", tiny_pool)
    assert code == 2 and claims["weights"] is False and claims["merge"] is False
    assert claims["base"] is True and claims["record inside the weights"] is True
    says = next(claim["says"] for claim in told["claims"] if claim["claim"] == "merge")
    assert "1 tensors differ" in says


@pytest.mark.slow
def test_what_was_made_up_is_found(capsys, folder, tiny_pool):
    record = read_card(folder / "u.card.json")
    scores = json.loads(json.dumps(record["scores"]))
    scores["test"]["forget"]["value"] = 0.0
    rewrite(folder, scores=scores, kept=record["kept"] - 1, scale=0.25)
    code, claims, _ = verified(capsys, folder / "u.card.json", "--pool", tiny_pool)
    assert code == 2
    wrong = {name for name, holds in claims.items() if holds is False}
    assert wrong == {"record inside the weights", "counts", "merge", "scores on test", "scale"}


def forged(folder, change):
    """A card, its page and the record inside its weights that all tell the same forged story; hashes are right."""
    path, weights = folder / "u.card.json", folder / "u.safetensors"
    record = json.loads(json.dumps(read_card(path)))
    change(record)
    tensors = dict(open_checkpoint(weights))
    inside = {name: value for name, value in record.items() if name not in ("file", "pool")}
    save_checkpoint(weights, tensors.items(), like=tensors, metadata=inside)
    with card_files(path) as write:
        write(with_file(record, weights) | {"pool": record["pool"]})
    return path


def point(record, scale):
    return next(point for point in record["search"]["curve"] if point["scale"] == scale)


def zero(score):
    score |= {"value": 0.0, "low": 0.0, "high": 0.01}


def lie_about_the_search(r):
    zero(point(r, r["scale"])["forget"])
    r["search"].update(ended="chance")
    r.update(
        chosen="search that no one can beat",
        finding="Certified: nothing is left.",
        limits="Proof of deletion.",
        operation="retrained",
        kept_fraction=0.0,
    )


def lie_about_the_base(r):
    zero(point(r, 0.0)["forget"])
    r["search"].update(range=[0.0, 9.0])
    r.update(keep=0.5, kept_of_moved=0.0)


def lie_about_training(r):
    r["candidates"][0].update(seconds=0.1)


def lie_about_costs(r):
    r["costs"].update(training_seconds=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "caught"),
    [
        (lie_about_the_search, {"curve", "range", "chosen", "finding", "limits", "operation", "counts"}),
        (lie_about_the_base, {"curve", "range", "chosen", "counts"}),
        (lie_about_training, set()),
        (lie_about_costs, {"origin of the candidates"}),
    ],
)
def test_a_card_its_page_and_its_weights_forged_alike_are_caught(capsys, folder, tiny_pool, change, caught):
    path = forged(folder, change)
    code, claims, _ = verified(capsys, path, "--pool", tiny_pool)
    wrong = {name for name, holds in claims.items() if holds is False}
    assert code == 2 and wrong and caught <= wrong
    assert claims["weights"] and claims["record inside the weights"] and claims["the page"]


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        (lambda r: r.update(certified=True), "certified"),
        (lambda r: r["scores"].update(certified={"forget": None}), "scores.certified"),
        (lambda r: r["scores"]["test"]["forget"].update(certified=True), "scores.test.forget.certified"),
        (lambda r: r["search"].update(certified=True), "search.certified"),
        (lambda r: r["search"]["curve"][1].update(certified=True), r"search.curve\[1\].certified"),
        (lambda r: r["candidates"][0].update(certified=True), r"candidates\[0\].certified"),
        (lambda r: r["versions"].update(certified="yes"), "versions.certified"),
        (lambda r: r["costs"].update(certified=1), "costs.certified"),
        (lambda r: r["base"].update(certified=True), "base.certified"),
    ],
)
def test_an_entry_that_no_card_has_is_refused(folder, change, entry):
    path = folder / "u.card.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))
    with pytest.raises(CardError, match=f"entry '{entry}', which no card"):
        read_card(path)


@pytest.mark.slow
def test_what_is_only_on_the_page_or_in_open_tables_is_named(capsys, folder, tiny_pool):
    page = folder / "u.card.md"
    page.write_text(page.read_text().replace("---\n", "---\ncertified: true\n", 1))
    code, claims, told = verified(capsys, folder / "u.card.json", "--pool", tiny_pool)
    says = next(claim["says"] for claim in told["claims"] if claim["claim"] == "the page")
    assert code == 2 and claims["the page"] is None and "certified: True" in says
    for entry in ("scene", "recipe"):
        copy = shutil.copytree(folder, folder.parent / entry)
        path = forged(copy, lambda r, e=entry: (r["scene"] if e == "scene" else r["candidates"][0][e]).update(own=1))
        code, claims, _ = verified(capsys, path, "--pool", tiny_pool)
        assert code == 2 and False in claims.values() and claims["merge"] is None


def test_a_changed_candidate_is_found_and_nothing_is_merged_from_it(capsys, folder, own_pool):
    first, second, third = open_pool(own_pool).entries
    (own_pool / first.file).write_bytes(b"changed")
    (own_pool / second.file).unlink()
    record = json.loads((own_pool / "pool.json").read_text())
    record["candidates"][2]["recipe"]["lr"] = 1.0
    (own_pool / "pool.json").write_text(json.dumps(record))
    code, claims, _ = verified(capsys, folder / "u.card.json", "--pool", own_pool)
    assert code == 2 and claims[f"candidate {first.id}"] is False and claims[f"candidate {second.id}"] is None
    assert claims[f"candidate {third.id}"] is False
    assert claims["base"] is True and claims["merge"] is None and claims["scores"] is None


@pytest.mark.slow
def test_compare_audit_and_card_tell_the_same_numbers(capsys, made, own_pool):
    card = read_card(made / "u.card.json")

    def told(*words):
        assert main([*map(str, words), "--scales", "0,0.2,0.3", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    (row,) = told("compare", own_pool, "--rules", "negmerge", "--baselines", "none")["rows"]
    assert (row["scale"], row["params"], row["kept_fraction"]) == (card["scale"], card["params"], card["kept_fraction"])
    for split in ("validation", "test"):
        assert row[split] == {side: card["scores"][split][side] for side in ("forget", "retain")}
    asked = told("audit", own_pool, "--probes", "zero-shot")
    (probe,) = asked["probes"]
    assert asked["scale"] == card["scale"]
    assert probe["unlearned"] == card["scores"]["test"]["forget"]
    assert probe["base"] == card["scores"]["test"]["base"]["forget"]
    search = told("search", own_pool, "--test")
    assert search["test"] == card["scores"]["test"] and search["curve"] == card["search"]["curve"]


def test_images_that_differ_fail_and_images_that_are_not_here_are_not_checked(capsys, folder, tiny_pool, monkeypatch):
    from negmerge_kit.scenes.scene import Scene

    real = Scene.describe
    monkeypatch.setattr(Scene, "describe", lambda self: real(self) | {"sets": []})
    _, claims, _ = verified(capsys, folder / "u.card.json", "--pool", tiny_pool)
    assert claims["images"] is False and claims["merge"] is claims["scores"] is None

    def absent(self):
        raise SceneError("these images are not prepared.")

    monkeypatch.setattr(Scene, "describe", absent)
    code, claims, _ = verified(capsys, folder / "u.card.json", "--pool", tiny_pool)
    assert code == 2 and claims["images"] is claims["merge"] is None and claims["base"] is True
    assert verified(capsys, folder / "u.card.json", "--pool", tiny_pool, "--partial")[0] == 0


@pytest.fixture
def mixed_pool(own_pool):
    """A pool whose first candidate says that it was made from another base."""
    pool = open_pool(own_pool)
    entry = pool.entries[0]
    weights = dict(pool.candidates[0])
    path = save_checkpoint(own_pool / entry.file, weights.items(), like=weights, metadata={MADE_FROM: "f" * 64})
    record = json.loads((own_pool / "pool.json").read_text())
    record["candidates"][0]["sha256"] = sha256_file(path)
    (own_pool / "pool.json").write_text(json.dumps(record))
    return own_pool, entry.id


@pytest.mark.slow
def test_a_candidate_of_another_base_is_refused_unless_forced_and_then_named(capsys, mixed_pool, tmp_path):
    pool, stranger = mixed_pool
    out = tmp_path / "u.safetensors"
    words = ["unlearn", str(pool), "--out", str(out), "--scale", "0.2"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "another base" in said and stranger in said and "--force" in said and said.count("\n") == 1
    assert not out.exists()
    assert main(["pool", "verify", str(pool)]) == 0 and "different bases" in capsys.readouterr().out
    assert main([*words, "--force"]) == 0
    capsys.readouterr()
    card = tmp_path / "u.card.json"
    assert read_card(card)["forced"] == [stranger] and "`--force`" in card.with_suffix(".md").read_text()
    code, claims, _ = verified(capsys, card)
    assert code == 0 and claims["origin of the candidates"] is True and claims["scale"] is True
    rewrite(tmp_path, forced=[])
    assert verified(capsys, card)[1]["origin of the candidates"] is False


def test_push_lays_out_what_it_would_send(capsys, folder, tmp_path, tiny_pool):
    place = tmp_path / "hub"
    words = ["push", str(folder / "u.safetensors"), "--repo", "me/forgetful", "--licence", "mit", "--dry-run", "--json"]
    assert main([*words, "--folder", str(place)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["commit"] is None and told["repo"] == "me/forgetful"
    assert told["files"] == {path.name: path.stat().st_size for path in place.iterdir()}
    assert set(told["files"]) == {"README.md", "card.json", "model.safetensors"}
    assert (place / "model.safetensors").read_bytes() == (folder / "u.safetensors").read_bytes()
    assert ModelCard.load(place / "README.md").data.license == "mit"
    assert len(open_checkpoint(place)) == len(open_checkpoint(folder / "u.safetensors"))
    record = read_card(place / "card.json")
    assert "pool" not in record and str(tiny_pool) not in (place / "README.md").read_text()
    assert read_card(place / "README.md") == record and read_card(folder / "u.card.json")["pool"]
    code, claims, _ = verified(capsys, place / "card.json", "--partial")
    assert code == 0 and claims["weights"] and claims["record inside the weights"]
    assert main([*words, "--folder", str(place)]) == 2 and "not empty" in capsys.readouterr().err
    assert main(words) == 0 and json.loads(capsys.readouterr().out)["folder"] is None


class Commit:
    commit_url = "the/commit"


def test_push_sends_one_commit(capsys, folder, monkeypatch):
    sent = []
    monkeypatch.setattr("huggingface_hub.HfApi.whoami", lambda self: {"name": "me"})
    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda self, *a, **k: sent.append((a, k)))
    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", lambda self, *a, **k: sent.append((a, k)) or Commit)
    assert main(["push", str(folder / "u.safetensors"), "--repo", "me/forgetful", "--private"]) == 0
    assert "sent to the/commit" in capsys.readouterr().out
    (made, making), ((repository, operations), options) = sent
    assert made == ("me/forgetful",) and making == {"private": True, "exist_ok": True} and repository == made[0]
    assert [operation.path_in_repo for operation in operations] == ["README.md", "card.json", "model.safetensors"]
    assert "negmerge" in options["commit_message"]


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (ConnectionError("Name or service not known\nand more"), "network"),
        (errors.OfflineModeIsEnabled("offline"), "network"),
        (errors.LocalTokenNotFoundError("no token"), "hf auth login"),
    ],
)
def test_no_network_or_login_is_one_sentence(capsys, folder, monkeypatch, fault, says):
    def fail(self):
        raise fault

    monkeypatch.setattr("huggingface_hub.HfApi.whoami", fail)
    assert main(["push", str(folder / "u.safetensors"), "--repo", "me/forgetful"]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1 and "nothing was sent" in said


def test_what_must_not_be_sent_is_refused(capsys, folder, tmp_path):
    weights = folder / "u.safetensors"
    for words, says in [
        (["push", weights, "--repo", "forgetful", "--dry-run"], "OWNER/NAME"),
        (["push", weights, "--repo", "me/for getful", "--dry-run"], "OWNER/NAME"),
        (["push", weights, "--repo", "me/x", "--folder", tmp_path / "x"], "--dry-run"),
        (["push", folder / "other.safetensors", "--repo", "me/x", "--dry-run"], "cannot be read"),
        (
            ["push", folder / "u.card.json", "--repo", "me/x", "--dry-run", "--card", folder / "u.card.json"],
            "safetensors",
        ),
        (["verify", folder / "none.json"], "cannot be read"),
    ]:
        assert main([str(word) for word in words]) == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1
    weights.write_bytes((folder / "u.safetensors").read_bytes()[:-4] + b"\0\0\0\1")
    assert main(["push", str(weights), "--repo", "me/x", "--dry-run"]) == 2
    assert "is not the file that its card describes" in capsys.readouterr().err
    assert with_file({}, weights)["file"]["sha256"] != read_card(folder / "u.card.json")["file"]["sha256"]
