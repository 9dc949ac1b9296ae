"""`negmerge search`: ways to search, floors for single sets, several pools in turn."""

import json
import shutil

import pytest

from negmerge_kit.app.pages.candidates import best
from negmerge_kit.cli import main
from negmerge_kit.notebook.picker import CandidatePicker, best_alone
from negmerge_kit.pools.pool import open_pool


def run(capsys, *words):
    code = main([*map(str, words), "--device", "cpu"])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.slow
def test_every_method_finds_the_same_scale_and_says_how(capsys, tiny_pool):
    found = {}
    for flags in ([], ["--exhaustive"]):
        code, out, _ = run(capsys, "search", tiny_pool, "--scales", "0:1:0.2", "--json", *flags)
        told = json.loads(out)
        assert code == 0 and told["failing"] is None
        found[told["method"]] = told
        assert len(told["curve"]) == 6 and all(
            set(p) == {"scale", "forget", "retain", "stopped"} for p in told["curve"]
        )
    assert set(found) == {"early", "exhaustive"} and len({told["scale"] for told in found.values()}) == 1
    assert all(point["stopped"] is None for point in found["exhaustive"]["curve"])


@pytest.mark.parametrize(
    "verb", [("search", "POOL"), ("unlearn", "POOL", "--out", "u.safetensors"), ("reproduce", "clip-negation")]
)
def test_bisecting_is_gone_and_the_sentence_says_what_to_use(capsys, verb):
    code, _, said = run(capsys, *verb, "--bisect")
    assert code == 2 and "--bisect is gone: leave it out, the default search finds the best scale" in said


@pytest.mark.slow
def test_a_floor_for_each_set_from_the_command_line_to_the_card(capsys, tiny_pool, tmp_path):
    code, out, _ = run(
        capsys, "search", tiny_pool, "--keep", "shapes=0.9,letters=0.97", "--scales", "0:1:0.2", "--json"
    )
    told = json.loads(out)
    assert code == 0 and told["keep"] == {"shapes": 0.9, "letters": 0.97}
    full = [point for point in told["curve"] if not point["stopped"]]
    chosen = next(point for point in full if point["scale"] == told["scale"])
    base = next(point for point in full if point["scale"] == 0)
    for name, share in told["keep"].items():
        assert chosen["retain_sets"][name]["value"] >= share * base["retain_sets"][name]["value"]
    words = ("--keep", "shapes=0.9,letters=0.97", "--scales", "0:1:0.2", "--out", tmp_path / "u.safetensors")
    code, out, _ = run(capsys, "unlearn", tiny_pool, *words)
    assert code == 0 and "keeping 0.9 of the base's retention of shapes, 0.97" in out
    code, out, said = run(capsys, "verify", next(tmp_path.glob("*.json")), "--pool", tiny_pool)
    assert code == 0, out + said


@pytest.mark.slow
def test_an_infeasible_search_names_the_floor(capsys, tiny_pool):
    code, _, said = run(capsys, "search", tiny_pool, "--keep", "textures=1", "--scales", "2,3")
    assert code == 2 and "retention of textures cannot reach its floor at 2 of 2 scales" in said
    code, _, said = run(capsys, "search", tiny_pool, "--keep", "nope=0.9")
    assert code == 2 and "'nope': choose among shapes" in said and said.count("\n") == 1


@pytest.mark.slow
def test_several_pools_are_searched_in_turn(capsys, tiny_pool, own_pool):
    code, out, _ = run(capsys, "search", tiny_pool, own_pool, "--scales", "0:1:0.2", "--json")
    first, second = json.loads(out)["searches"]
    assert code == 0 and [first.pop("pool"), second.pop("pool")] == [str(tiny_pool), str(own_pool)]
    assert first | {"seconds": 0} == second | {"seconds": 0}
    code, out, _ = run(capsys, "search", tiny_pool, own_pool, "--keep", "1", "--scales", "3")
    assert code == 2 and out.count("rule negmerge") == 2


@pytest.mark.parametrize("keep", ["x", "0", "a=1,a=1", "=1"])
def test_an_unreadable_floor_is_one_sentence(capsys, tiny_pool, keep):
    code, _, said = run(capsys, "search", tiny_pool, f"--keep={keep}")
    assert code == 2 and "keep" in said and said.count("\n") == 1


@pytest.mark.slow
def test_a_copy_of_a_candidate_has_no_vote_and_every_verb_names_it(capsys, own_pool):
    def said(*words):
        assert main([*map(str, words)]) == 0
        return capsys.readouterr()

    alone = json.loads(said("search", own_pool, "--json").out)
    record = json.loads((own_pool / "pool.json").read_text())
    first = record["candidates"][0]
    again = first | {"id": "again", "file": "candidates/again.safetensors"}
    shutil.copy(own_pool / first["file"], own_pool / again["file"])
    record["candidates"].append(again)
    (own_pool / "pool.json").write_text(json.dumps(record))

    told = f"candidate again holds the same weights as {first['id']}"
    assert told in said("pool", "show", own_pool).out and told in said("pool", "verify", own_pool).out
    pool = open_pool(own_pool)
    assert "again" not in {*best(pool), *best_alone(pool, 3), *CandidatePicker(pool).value} and len(best(pool)) == 3
    agreement = said("agreement", own_pool, "--json")
    assert told in agreement.err and len(json.loads(agreement.out)["candidates"]) == 3
    assert json.loads(said("search", own_pool, "--json").out)["curve"] == alone["curve"]
    assert told in said("compare", own_pool, "--rules", "negmerge,single", "--baselines", "none").err
    assert main(["compare", str(own_pool), "--subsets", "4", "--subset-size", "2"]) == 2
    assert "do not exist" in capsys.readouterr().err
    assert main(["search", str(own_pool), "--candidates", f"{first['id']},again"]) == 2
    assert "two votes of one model" in capsys.readouterr().err
