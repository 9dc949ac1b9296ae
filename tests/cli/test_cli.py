"""The command line as a user meets it: the verbs of issue and README, their JSON, their one-line errors."""

import json

import open_clip
import pytest

from negmerge_kit.cli import VERBS, main
from negmerge_kit.models.tiny_clip import register


def run(capsys, *words):
    code = main([str(word) for word in words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def result(capsys, *words):
    code, out, err = run(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out)


SCORE = {"value", "n", "low", "high", "split"}


@pytest.mark.slow
def test_search_unlearn_and_evaluate_agree_to_the_last_digit(capsys, tiny_pool, tmp_path):
    found = result(capsys, "search", tiny_pool, "--test")
    out, card = tmp_path / "u.safetensors", tmp_path / "card.json"
    done = result(capsys, "unlearn", tiny_pool, "--out", out, "--card", card)
    scored = result(capsys, "evaluate", out, "--scene", "tiny:digits")
    by_pool = result(capsys, "evaluate", out, "--scene", tiny_pool)
    validation = result(capsys, "evaluate", out, "--scene", "tiny:digits", "--split", "val")

    assert scored == by_pool
    for name in ("forget", "retain"):
        assert set(found[name]) == SCORE
        assert found[name] == done[name] == validation[name]
        assert found["test"][name] == done["test"][name] == scored[name]
    assert {k: v for k, v in found.items() if k != "seconds"} == {
        k: v for k, v in done.items() if k not in ("seconds", "out", "card")
    }
    assert (done["out"], done["card"]) == (str(out), str(card))
    record = json.loads(card.read_text())
    assert record["chosen"].startswith("search over 21 scales") and record["keep"] == 0.95
    assert record["scale"] == found["scale"] and record["scores"]["test"] == found["test"]
    assert [item["id"] for item in record["candidates"]]
    assert "prove" in record["limits"]

    model = open_clip.create_model(register(), pretrained=str(out))
    from negmerge_kit.checkpoints.reader import open_checkpoint

    assert set(model.state_dict()) == set(open_checkpoint(out))


@pytest.mark.slow
def test_search_prints_the_contract(capsys, tiny_pool):
    found = result(capsys, "search", tiny_pool, "--exhaustive")
    assert set(found) == {
        "choose",
        "rule",
        "params",
        "status",
        "scale",
        "keep",
        "base",
        "forget",
        "retain",
        "kept_fraction",
        "curve",
        "test",
        "seconds",
        "failing",
        "method",
        "range",
        "ended",
        "outcome",
        "remedy",
    }
    assert [point["scale"] for point in found["curve"]] == [round(i * 0.05, 2) for i in range(21)]
    assert all(point["stopped"] is None and set(point["forget"]) == SCORE for point in found["curve"])
    early = result(capsys, "search", tiny_pool)
    assert (early["scale"], early["forget"]) == (found["scale"], found["forget"])
    assert any(point["stopped"] and point["retain"] is None for point in early["curve"])
    assert found["retain"]["value"] >= 0.95 * found["base"]["retain"]["value"]


@pytest.mark.slow
def test_rule_flags_reach_the_merge(capsys, tiny_pool):
    def kept(*flags):
        return result(capsys, "search", tiny_pool, "--scales", "0,0.05", *flags)["kept_fraction"]

    assert kept("--agreement", "0.6") > kept()
    assert kept("--rule", "uniform") > kept()
    one = json.loads(run(capsys, "pool", "show", tiny_pool, "--json")[1])["candidates"][0]["id"]
    assert kept("--candidates", one) > kept()


@pytest.mark.slow
def test_an_infeasible_floor_writes_nothing_and_exits_2(capsys, tiny_pool, tmp_path):
    out = tmp_path / "u.safetensors"
    code, shown, _ = run(capsys, "unlearn", tiny_pool, "--out", out, "--scales", "3,4", "--keep", "1", "--json")
    assert code == 2 and not out.exists()
    answer = json.loads(shown)
    assert answer["status"] == "infeasible" and answer["scale"] is None and answer["out"] is None
    code, _, said = run(capsys, "search", tiny_pool, "--scales", "3,4", "--keep", "1")
    assert code == 2 and said.startswith("infeasible") and said.count("\n") == 1


@pytest.mark.slow
def test_a_scale_by_hand_is_written_as_such(capsys, tiny_pool, tmp_path):
    card = tmp_path / "card.json"
    done = result(capsys, "unlearn", tiny_pool, "--out", tmp_path / "u.safetensors", "--card", card, "--scale", "0.2")
    assert done["scale"] == 0.2
    record = json.loads(card.read_text())
    assert record["chosen"] == "by hand" and record["keep"] is None


def test_weights_and_card_come_together_or_not_at_all(capsys, tiny_pool, tmp_path):
    out = tmp_path / "u.safetensors"
    for card in (tmp_path / "no" / "card.json", out):
        code, _, said = run(capsys, "unlearn", tiny_pool, "--out", out, "--card", card, "--scale", "0.2")
        assert code == 2 and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_search_that_forgets_nothing_writes_nothing(capsys, tiny_pool, tmp_path):
    out = tmp_path / "u.safetensors"
    code, _, said = run(capsys, "unlearn", tiny_pool, "--out", out, "--scales", "0,0.0000001")
    assert code == 2 and "nothing was written" in said and not out.exists()


def test_a_file_of_another_text_tower_is_refused(capsys, tiny_pool, tmp_path):
    from negmerge_kit.checkpoints.writer import save_checkpoint
    from negmerge_kit.pools.pool import open_pool

    base = dict(open_pool(tiny_pool).base)
    base["ln_final.weight"] = base["ln_final.weight"] + 1
    path = save_checkpoint(tmp_path / "other.safetensors", base.items(), like=base)
    code, _, said = run(capsys, "evaluate", path, "--scene", "tiny:digits")
    assert code == 2 and "text tower" in said


@pytest.mark.slow
def test_pool_show_and_verify(capsys, tiny_pool, own_pool):
    shown = json.loads(run(capsys, "pool", "show", tiny_pool, "--json")[1])
    assert len(shown["candidates"]) == 3 and shown["scene"]["name"] == "tiny:digits"
    code, out, _ = run(capsys, "pool", "show", tiny_pool)
    assert code == 0 and all(item["id"] in out for item in shown["candidates"])
    code, out, _ = run(capsys, "pool", "verify", tiny_pool)
    assert code == 0 and "cosine between candidates: 0." in out and "warning" not in out
    checked = result(capsys, "pool", "verify", tiny_pool)
    assert checked["candidates"] == [item["id"] for item in shown["candidates"]]
    assert all(0 < checked["cosines"][i][j] < 0.999 for i, j in ((0, 1), (0, 2), (1, 2)))
    assert checked["unanimous_of_moved"] > checked["chance"] == 0.25
    path = own_pool / shown["candidates"][0]["file"]
    path.write_bytes(path.read_bytes()[:100])
    code, _, said = run(capsys, "pool", "verify", own_pool)
    assert code == 2 and path.name in said
    code, _, said = run(capsys, "search", own_pool)
    assert code == 2 and path.name in said and "again" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["frobnicate"], "there is no verb"),
        (["search"], "POOL"),
        (["search", "nowhere"], "negmerge pool build"),
        (["search", "{pool}", "--scales", "nan"], "scale"),
        (["search", "{pool}", "--keep", "nan"], "keep"),
        (["search", "{pool}", "--keep", "95"], "keep"),
        (["search", "{pool}", "--rule", "magic"], "magic"),
        (["search", "{pool}", "--agreement", "0.5"], "agreement"),
        (["search", "{pool}", "--candidates", ""], "at least one"),
        (["search", "{pool}", "--candidates", "abc"], "no candidate"),
        (["search", "{pool}", "--device", "tpu"], "device"),
        (["unlearn", "{pool}", "--out", "no/such/folder/u.safetensors"], "folder"),
        (["unlearn", "{pool}", "--out", "u.safetensors", "--scale", "nan"], "scale"),
        (["evaluate", "missing.safetensors", "--scene", "tiny:digits"], "missing.safetensors"),
        (["evaluate", "{pool}/base.safetensors", "--scene", "tiny:cats"], "digits"),
        (["evaluate", "{pool}/heads.safetensors", "--scene", "tiny:digits"], "tensor"),
        (["pool", "build", "imagenet"], "tiny"),
        (["pool", "build", "scene.toml"], "`negmerge sweep --scene FILE.toml`"),
        (["pool", "build", "tiny", "--grid", "huge"], "grid"),
        (["pool"], "build, show or verify"),
        (["demo", "--pool", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_clear_line(capsys, tiny_pool, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    code, _, said = run(capsys, *(word.format(pool=tiny_pool) for word in words))
    assert code == 2
    assert says in said and said.count("\n") == 1 and said.startswith("negmerge"), said
    assert "Traceback" not in said
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_verb_that_is_gone_says_what_to_type_instead(capsys):
    for words in ([], ["merge", "--json"], ["--help"]):
        assert run(capsys, "bench", *words) == (
            2,
            "",
            "negmerge bench is gone: run `python -m benchmarks merge` in a checkout of the repository.\n",
        )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(capsys, verb):
    try:
        code = main([verb, "--help"])
    except SystemExit as stop:
        code = stop.code
    assert code == 0 and capsys.readouterr().out.startswith("usage: negmerge")


def test_the_verb_list(capsys):
    for words in ([], ["--help"]):
        code, out, _ = run(capsys, *words)
        assert code == 0 and all(verb in out for verb in VERBS)
    assert run(capsys, "--version")[1].strip() == "0.1.0"
