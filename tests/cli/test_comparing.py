"""`negmerge compare` as a user meets it: the JSON contract, tables, kept rows, several pools, one-line errors."""

import json
import shutil

import pytest

from negmerge_kit.cli import main
from negmerge_kit.cli.compare_tables import differences_table, spread_table
from negmerge_kit.comparison.bootstrap import resample
from negmerge_kit.comparison.compare import across, compare_rules
from negmerge_kit.scenes.scene import Splits
from negmerge_kit.unlearning.workbench import Workbench
from tests.comparison.small_workbench import GRID, stand

SCORE = {"value", "n", "low", "high", "split"}
QUICK = ("--rules", "negmerge,uniform,random-mask", "--baselines", "none", "--keep", "0.9", "--scales", "0:1:0.25")


def run(capsys, *words):
    code = main([str(word) for word in words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.fixture(scope="module", autouse=True)
def few_images():
    """A quarter of the images of every set: these tests are about words and shapes of answers."""
    whole = Workbench.images

    def images(self, split):
        splits = whole(self, split)
        return Splits(splits.forget.take(60), tuple(images.take(60) for images in splits.retain))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workbench, "images", images)
        yield


@pytest.fixture(scope="module")
def compared(tiny_pool, tmp_path_factory):
    """A copy of the quick pool whose rows the first test computes and the others find."""
    return shutil.copytree(tiny_pool, tmp_path_factory.mktemp("compared") / "pool")


@pytest.mark.slow
def test_compare_prints_the_contract(capsys, compared, tmp_path):
    plot = tmp_path / "frontier.png"
    code, out, err = run(capsys, "compare", compared, *QUICK, "--plot", plot, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["keep"], told["seeds"], told["forced"]) == (0.9, 1, [])
    assert [row["rule"] for row in told["rows"]] == ["negmerge", "uniform", "random-mask"]
    for row in told["rows"]:
        assert {
            "rule",
            "params",
            "status",
            "scale",
            "validation",
            "test",
            "matched",
            "kept_fraction",
            "evaluations",
            "seconds",
            "peak_memory",
        } <= set(row)
        for which, split in (("validation", "val"), ("test", "test"), ("matched", "test")):
            for side in ("forget", "retain"):
                assert set(row[which][side]) == SCORE and row[which][side]["split"] == split
        assert row["validation"]["retain"]["value"] >= 0.9 * told["base"]["val"]["retain"]["value"]
        assert row["cost"]["wall"] == pytest.approx(row["cost"]["train"] + row["seconds"])
        assert row["cost"]["train"] > 0 and row["evaluations"] == 4
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_same_rows_are_found_again_and_shown_as_tables(capsys, compared):
    kept = {path: path.stat().st_mtime_ns for path in (compared / "comparisons").iterdir()}
    assert len(kept) == 3
    code, out, _ = run(capsys, "compare", compared, *QUICK)
    assert code == 0 and {path: path.stat().st_mtime_ns for path in (compared / "comparisons").iterdir()} == kept
    for words in ("NegMerge", "Uniform average", "Control: random mask", "where retention meets the floor", "train"):
        assert words in out
    # The command that comes next holds the pool's path.
    assert max(len(line) for line in out.splitlines() if not line.startswith("next:")) <= 160


@pytest.mark.slow
def test_only_the_named_candidates_are_compared(capsys, compared):
    ids = [candidate["id"] for candidate in json.loads((compared / "pool.json").read_text())["candidates"]]
    words = ("compare", compared, "--rules", "uniform", "--scales", "0:1:0.5", "--baselines", "single", "--json")
    code, out, err = run(capsys, *words, "--candidates", f"{ids[1]},{ids[0]}")
    assert code == 0, err
    few = json.loads(out)
    assert few["candidates"] == ids[:2]
    rows = {row["rule"]: row for row in few["rows"]}
    assert rows["uniform"]["candidates"] == ids[:2] and set(rows["single"]["candidates"]) < set(ids[:2])
    kept = [json.loads(file.read_text()) for file in (compared / "comparisons").iterdir()]
    assert any(
        len(record["made_from"]["candidates"]) == 2 and record["made_from"]["rule"] == "uniform" for record in kept
    )
    for wrong, says in ((ids[0], "at least two"), (f"{ids[0]},{ids[0]}", "each one once"), (f"{ids[0]},nope", "nope")):
        code, _, err = run(capsys, *words, "--candidates", wrong)
        assert code == 2 and says in err


@pytest.mark.slow
def test_a_verb_that_draws_names_the_file(capsys, compared, tmp_path):
    plot = tmp_path / "figure.png"
    for words in (("compare", compared, *QUICK), ("agreement", compared)):
        code, out, err = run(capsys, *words, "--plot", plot)
        assert code == 0 and f"wrote {plot}" in out.splitlines() and plot.exists(), err
        plot.unlink()


@pytest.mark.slow
def test_differences_and_subsets_are_told(capsys, compared):
    words = ("--rules", "negmerge,uniform", *QUICK[2:], "--resample", 60, "--subsets", 1, "--subset-size", 2)
    code, out, err = run(capsys, "compare", compared, *words, "--json")
    assert code == 0, err
    told = json.loads(out)
    rules = told["resampled"]["rules"]
    assert rules["negmerge"]["differences"]["matched forget"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    effect = rules["uniform"]["differences"]["protocol forget"]
    by_name = {row["name"]: row["test"]["forget"]["value"] for row in told["rows"]}
    assert effect["low"] <= effect["value"] <= effect["high"]
    assert effect["value"] == pytest.approx(by_name["uniform"] - by_name["negmerge"])
    assert [len(draw) for draw in told["subsets"]["draws"]] == [2]


def test_tables_of_differences_and_spreads():
    comparison = compare_rules(stand(), ["uniform", "negmerge"], scales=GRID)
    table = differences_table(comparison, resample(comparison, replicates=30), "negmerge")
    assert "minus negmerge" in table and "Uniform average" in table and "NegMerge " not in table
    table = spread_table(across([comparison] * 8), "8 pools")
    value = 100 * comparison.rows[0].test.forget.value
    assert table.count(f"{value:.1f}") >= 6 and " … (" in table


@pytest.mark.slow
def test_several_pools_show_points_and_their_range(capsys, compared, tmp_path):
    other = shutil.copytree(compared, tmp_path / "other")
    words = ("--rules", "negmerge,uniform", *QUICK[2:])
    code, out, _ = run(capsys, "compare", compared, other, *words, "--json")
    told = json.loads(out)
    assert code == 0 and told["seeds"] == 2 and len(told["rows"]) == 4 and len(told["pools"]) == 2
    for item in told["across"]:
        assert len(item["matched"]["forget"]["points"]) == 2 and item["matched"]["forget"]["interval"] is None
    _, out, _ = run(capsys, "compare", compared, other, *words)
    assert "2 pools: forget, test" in out
    code, _, err = run(capsys, "compare", compared, compared, *words)
    assert code == 2 and "named twice" in err
    code, _, err = run(capsys, "compare", compared, other, *words, "--resample", 9)
    assert code == 2 and "look at one pool" in err
    record = (other / "pool.json").read_text()
    (other / "pool.json").write_text(record.replace('"name": "tiny:digits"', '"name": "tiny:shapes"', 1))
    code, _, err = run(capsys, "compare", compared, other, *words)
    assert code == 2 and "different scenes" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--rules", "nonsense"), "no rule"),
        (("--baselines", "none", "--rules", "none"), "nothing to compare"),
        (("--keep", "1.5"), "keep is 1.5"),
        (("--plot", "a.gif"), "name the figure"),
        (("--plot", "nowhere/a.png"), "there is no folder nowhere"),
        (("--resample", "-5"), "--resample is -5"),
        (("--subsets", "-1"), "--subsets is -1"),
        (("--rules", "negmerge", "--baselines", "none", "--resample", "9", "--reference", "ties"), "ties is not"),
        (("--rules", "negmerge", "--baselines", "none", "--subsets", "99"), "do not exist"),
    ],
)
def test_wrong_input_is_one_line_and_exit_2(capsys, compared, words, says):
    code, out, err = run(capsys, "compare", compared, *QUICK[4:], *words)
    assert code == 2 and out == "" and says in err.splitlines()[-1]


@pytest.mark.slow
def test_a_floor_that_no_rule_meets_exits_2(capsys, compared):
    words = ("--rules", "uniform", "--baselines", "none", "--scales", "0,3,4")
    code, out, err = run(capsys, "compare", compared, *words)
    assert code == 2 and "infeasible" in err.splitlines()[-1] and "infeasible" in out
