"""docs/when.md is what its record says, word for word, and so is the kit's own advice."""

import json

import pytest

from benchmarks.uneven import CELLS, KINDS, RECORD, RULES
from benchmarks.uneven_page import PAGE, Record, by_share, forest, page
from negmerge_kit.merging.health import EVIDENCE


@pytest.fixture(scope="module")
def record():
    return Record(json.loads(RECORD.read_text(encoding="utf-8")))


def value(record, cell, rule):
    return record.row(cell, rule)["difference"]["value"]


def test_the_page_is_made_from_the_record(record):
    assert PAGE.read_text(encoding="utf-8") == page(record)
    assert record.cells == list(CELLS) and record.values["pools"] == 8
    assert {kind: found["candidates"] for kind, found in record.values["kinds"].items()} == {
        kind: count for kind, (count, _) in KINDS.items()
    }
    assert all(len(record.row(cell, rule)["curves"]) == 8 for cell in CELLS for rule in RULES)


def test_what_the_page_says_in_words(record):
    apart = [value(record, cell, "negmerge:agreement=0.75") - value(record, cell, "negmerge") for cell in CELLS]
    assert max(apart) < 0 and -0.08 < min(apart) < -0.07  # "in all eighteen cells ... by up to eight points"
    clean = [cell for cell in CELLS if cell.endswith("clean")]
    for rule in ("negmerge", "median", "normalised", "single"):
        for cell in clean:  # "nothing pays"
            assert record.row(cell, rule)["difference"]["high"] > 0
    hard = "8 + 2 reckless"
    assert abs(value(record, hard, "negmerge:agreement=0.75:average=min") - value(record, hard, "median")) < 0.01
    assert value(record, hard, "median") < value(record, hard, "negmerge") < 0
    assert record.row("8 + 2 wrong", "negmerge")["difference"]["low"] > 0
    fixed = "8 + 2 reckless, fixed order"
    for rule in ("negmerge", "negmerge:agreement=0.75", "median"):  # "come before it"
        assert value(record, fixed, rule) < value(record, fixed, "single")
    plain = [record.row(f"{pool} reckless", "uniform")["forget"]["value"] for pool in ("4 + 1", "8 + 2", "24 + 6")]
    assert plain == sorted(plain, reverse=True)  # "the plain mean gains more from further candidates"


def test_the_advice_names_the_records_numbers(record):
    for rule in ("median", "negmerge"):
        assert f"{-100 * value(record, '8 + 2 reckless', rule):.1f}" in EVIDENCE


def test_figures_show_every_cell(record):
    assert [label.get_text() for label in forest(record).axes[0].get_yticklabels()] == list(CELLS)
    assert "8 pools" in by_share(record).get_suptitle()
