"""A real pool whose deltas are a tenth as long: searches, comparison and card find the floor at ten times the scale."""

import json

import pytest

from negmerge_kit.cli import main
from negmerge_kit.comparison.bootstrap import resample
from negmerge_kit.comparison.compare import compare_rules
from negmerge_kit.comparison.row_store import RowStore
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.pools.pool_writer import create_pool, record_candidate, save_candidate
from negmerge_kit.scoring.scale_search import DEFAULT_SCALES
from negmerge_kit.unlearning.workbench import Workbench
from tests.comparison.small_workbench import GRID, stand

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tenth(tiny_pool, tmp_path_factory):
    """The quick pool, every candidate moved back to a tenth of its way."""
    pool = open_pool(tiny_pool)
    made = create_pool(tmp_path_factory.mktemp("tenth") / "pool", pool.scene, pool.base, pool.heads)
    for entry in pool.entries:
        weights = pool.candidate(entry.id)
        moved = ((name, base + (weights[name] - base) / 10) for name, base in pool.base.items())
        made = record_candidate(made, save_candidate(made, entry.recipe, moved))
    return made.folder


def test_the_search_finds_ten_times_the_scale(bench, tenth):
    short = Workbench(open_pool(tenth), device="cpu")
    long = bench.search(bench.choose(), scales=DEFAULT_SCALES)
    found = short.search(short.choose())
    assert long.ended == found.ended == "floor" and found.best.scale > 1.5
    assert found.best.scale == pytest.approx(10 * long.best.scale, abs=0.6)
    assert found.best.forget.value == pytest.approx(long.best.forget.value, abs=0.06)
    paper = short.search(short.choose(), scales=DEFAULT_SCALES)
    assert paper.best.scale <= 1.0 and paper.ended == "grid"


def test_the_command_line_says_which_range_was_searched(tenth, tmp_path, capsys):
    out = tmp_path / "u.safetensors"
    assert main(["unlearn", str(tenth), "--out", str(out), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    card = json.loads(out.with_suffix(".card.json").read_text())
    assert answer["scale"] > 1.5 and answer["ended"] == card["search"]["ended"] == "floor"
    assert answer["range"] == card["search"]["range"] and answer["range"][1] >= answer["scale"]
    assert f"from 0 to {answer['range'][1]:g}" in card["chosen"]
    assert main(["search", str(tenth), "--scales", "0:1:0.05"]) == 0
    assert "the grid ended before the floor: at scale 1 retention is" in capsys.readouterr().out


def test_a_comparison_goes_on_too_and_says_where_it_did_not(tenth, capsys):
    short = Workbench(open_pool(tenth), device="cpu")
    (row,) = compare_rules(short, ["negmerge"]).rows
    assert row.scale == short.search(short.choose()).best.scale
    assert row.reach[1] >= row.scale and row.ended == "floor" and row.outcome is None
    assert main(["compare", str(tenth), "--rules", "negmerge", "--baselines", "none", "--scales", "0:1:0.05"]) == 0
    assert "NegMerge: the grid ended before the floor" in capsys.readouterr().out


def test_rows_of_a_given_grid_are_not_those_of_the_open_search(tenth):
    short, row = Workbench(open_pool(tenth), device="cpu"), None
    for scales in (DEFAULT_SCALES, None):
        kept = RowStore(short.pool, keep=0.95, scales=scales, device=short.model.device)
        assert kept.find(row.method, short.pool.ids) is None if row else True
        row = compare_rules(short, ["negmerge"], scales=scales, kept=kept).rows[0]
    assert row.scale > 1.5


def test_replicates_of_an_open_search_choose_beyond_the_grid():
    made = stand(step=0.05)
    comparison = compare_rules(made, ["uniform", "negmerge"])
    assert all(row.scale > 1 for row in comparison.rows)
    found = resample(comparison, replicates=20)
    for row in comparison.rows:
        numbers = found[row.method.name].numbers
        assert numbers["protocol forget"].value == pytest.approx(row.test.forget.value, abs=0.02)
    capped = compare_rules(made, ["uniform", "negmerge"], scales=GRID)
    assert all(row.scale <= 1.0 and row.ended == "grid" for row in capped.rows)
