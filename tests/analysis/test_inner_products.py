"""Candidates that do not belong with the others are named: by length, by direction, from a pool's files, once."""

import json
import shutil
from math import isnan

import numpy as np
import pytest
import torch

from negmerge_kit.analysis.inner_products import health_of, inner_products, known_products
from negmerge_kit.app.jobs import Jobs
from negmerge_kit.app.pages.unlearn import Unlearn
from negmerge_kit.app.score_cache import Scored
from negmerge_kit.cli import main
from negmerge_kit.merging.health import health, suggestion
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.pools.pool_writer import record_candidate, save_candidate, writing
from negmerge_kit.unlearning.workbench import Workbench


def vectors(n=6, size=4000, common=1.0, seed=0):
    random = np.random.RandomState(seed)
    return common * random.randn(size) + random.randn(n, size)


def by_hand(rows):
    """{place: (|τ| / median, cosine with the mean of the others)} of those that do not belong, by numpy."""
    norms = np.linalg.norm(rows, axis=1)
    odd = {}
    for i, row in enumerate(rows):
        rest = np.delete(rows, i, 0).mean(0)
        cosine = row @ rest / np.linalg.norm(row) / np.linalg.norm(rest)
        if norms[i] > 3 * np.median(norms) or cosine < 0.2:
            odd[i] = (norms[i] / np.median(norms), cosine)
    return odd


@pytest.mark.parametrize("change", [{}, {2: 2.9}, {2: 3.2}, {0: -1.0}, {1: 10.0, 4: -0.5}, {3: 0.01}], ids=str)
def test_what_is_named_is_what_numpy_names(change):
    rows = vectors()
    for place, factor in change.items():
        rows[place] *= factor
    table = health((rows @ rows.T).tolist())
    assert [row.norm for row in table] == pytest.approx(np.linalg.norm(rows, axis=1))
    found = {place: (row.times_median, row.cosine) for place, row in enumerate(table) if row.is_odd}
    expected = by_hand(rows)
    assert found.keys() == expected.keys()
    for place, numbers in expected.items():
        assert found[place] == pytest.approx(numbers, abs=1e-9)
    assert {2: 2.9} != change or not found
    assert {2: 3.2} != change or set(found) == {2}


def test_short_ones_are_not_named_and_one_of_its_own_direction_is():
    rows = vectors()
    rows[3] *= 0.01
    assert not any(row.is_odd for row in health((rows @ rows.T).tolist()))
    rows[3] = np.random.RandomState(9).randn(rows.shape[1]) * 1.4
    table = health((rows @ rows.T).tolist())
    odd = table[3]
    assert (
        [row.is_odd for row in table] == [place == 3 for place in range(6)]
        and odd.cosine < 0.2
        and odd.times_median < 1.2
    )
    assert "points elsewhere" in odd.sentence("x") and "as far" not in odd.sentence("x")


@pytest.mark.parametrize("products", [[], [[4.0]], [[0.0, 0.0], [0.0, 5.0]]])
def test_one_that_moved_has_nothing_to_be_compared_with(products):
    for row in health(products):
        assert row.times_median is row.cosine is None and row.is_odd == (row.norm == 0)


def test_one_of_nan_and_one_that_did_not_move_are_odd_and_leave_the_others_alone():
    rows = vectors()
    alone = health((rows @ rows.T).tolist())
    more = np.vstack([rows, 0 * rows[0], np.nan * rows[0]])
    table = health((more @ more.T).tolist())
    for row, expected in zip(table, alone, strict=False):
        assert (row.times_median, row.cosine) == pytest.approx((expected.times_median, expected.cosine))
    assert "did not move" in table[6].sentence("a") and "not finite" in table[7].sentence("b")
    told = [row.json("x") for row in table]
    json.dumps(told, allow_nan=False)
    assert [row["odd"] for row in told] == [False] * 6 + [True] * 2 and told[7]["norm"] is None is told[0]["why"]


def test_the_suggestion_counts_those_that_are_too_long():
    rows = vectors(10)
    assert suggestion(health((rows @ rows.T).tolist())) == ""
    rows[:2] *= 6 * np.median(np.linalg.norm(rows, axis=1)) / np.linalg.norm(rows[:2], axis=1)[:, None]
    times = [row.times_median for row in health((rows @ rows.T).tolist())][:2]
    said = suggestion(health((rows @ rows.T).tolist()))
    assert said.startswith("2 of 10 candidates move") and f"{max(times):.2g} times as far as the median" in said


@pytest.fixture
def odd_pool(own_pool):
    """The quick pool with two more: one that went ten times as far, one that went the other way."""
    shutil.rmtree(own_pool / "likeness", ignore_errors=True)  # another test may have asked the shared pool
    pool = open_pool(own_pool)
    base, tuned = pool.base, pool.candidate(pool.ids[0])
    with writing(own_pool):
        for name, factor in (("far", 10.0), ("back", -1.0)):
            items = (
                (key, base[key] + factor * (tuned[key] - base[key]) if base[key].is_floating_point() else base[key])
                for key in base
            )
            pool = record_candidate(pool, save_candidate(pool, {"file": f"{name}.safetensors"}, items))
    return own_pool


def odd_of(pool, ids=None):
    return {id: row for id, row in health_of(pool, inner_products(pool), ids).items() if row.is_odd}


def named(pool):
    return {pool.entry(id).recipe.get("file", "?"): odd for id, odd in odd_of(pool).items()}


def test_a_pool_s_candidates_are_compared_once(odd_pool, monkeypatch):
    pool = open_pool(odd_pool)
    assert known_products(pool) is None
    odd = named(pool)
    assert set(odd) == {"far.safetensors", "back.safetensors"}
    assert odd["far.safetensors"].times_median > 3 > 1.5 > odd["back.safetensors"].times_median
    assert odd["back.safetensors"].cosine < 0

    def asked_again(*_, **__):
        raise AssertionError("computed twice")

    monkeypatch.setattr("negmerge_kit.merging.similarity.inner_products", asked_again)
    assert named(open_pool(odd_pool)) == odd
    # Without the two, and as far as the first three are asked alone, nothing is odd.
    assert odd_of(pool, pool.ids[:3]) == {}
    (file,) = (odd_pool / "likeness").iterdir()
    record = json.loads(file.read_text())
    for damaged in ({}, record | {"value": [[1.0]]}, record | {"value": [3]}, record | {"value": [["a"]]}):
        file.write_text(json.dumps(damaged))
        with pytest.raises(AssertionError, match="twice"):
            inner_products(pool)


def test_a_candidate_of_nan_is_compared_and_nothing_is_kept(own_pool):
    pool = open_pool(own_pool)
    with writing(own_pool):
        items = ((key, torch.full_like(tensor, torch.nan)) for key, tensor in pool.base.items())
        pool = record_candidate(pool, save_candidate(pool, {"file": "nan.safetensors"}, items))
    assert isnan(inner_products(pool)[-1][-1]) and known_products(pool) is None


def test_a_pool_of_other_candidates_is_compared_again(odd_pool):
    inner_products(open_pool(odd_pool))
    record = json.loads((odd_pool / "pool.json").read_text())
    (odd_pool / "pool.json").write_text(json.dumps({**record, "candidates": record["candidates"][:3]}))
    assert known_products(open_pool(odd_pool)) is None
    assert len(inner_products(open_pool(odd_pool))) == 3


def test_pool_show_and_agreement_name_them(odd_pool, tiny_pool, capfd):
    assert main(["pool", "show", str(odd_pool)]) == 0
    shown = capfd.readouterr().out
    assert shown.count("warning: ") == 2 and "times as far as the median candidate" in shown
    assert "points elsewhere than the others (cosine -" in shown
    assert main(["pool", "show", str(odd_pool), "--json"]) == 0
    ids = open_pool(odd_pool).ids
    assert [row["candidate"] for row in json.loads(capfd.readouterr().out)["health"] if row["odd"]] == ids[3:]
    assert main(["agreement", str(odd_pool), "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert len(told["health"]) == len(ids) and "times as far as the median" in told["suggestion"]
    told = [row for row in told["health"] if row["odd"]]
    assert [odd["candidate"] for odd in told] == [f"{id}.safetensors" for id in ids[3:]]
    assert told[0]["times_median"] > 3 and told[1]["cosine"] < 0.2
    assert main(["agreement", str(odd_pool)]) == 0
    assert capfd.readouterr().out.count("warning: ") == 2
    calm = shutil.copytree(tiny_pool, odd_pool.parent / "calm")
    assert main(["pool", "show", str(calm)]) == 0 and "warning" not in capfd.readouterr().out


def test_pool_show_still_shows_a_pool_whose_file_is_gone(odd_pool, capfd):
    pool = open_pool(odd_pool)
    (odd_pool / pool.entries[0].file).unlink()
    assert main(["pool", "show", str(odd_pool)]) == 0
    said = capfd.readouterr()
    assert "the candidates cannot be compared" in said.err and pool.ids[0] in said.out


@pytest.mark.slow
def test_the_page_names_them_where_they_are_chosen(odd_pool):
    pool = open_pool(odd_pool)
    page = Unlearn(Scored(Workbench(pool, device="cpu"), Jobs()))
    everyone = page.kept_line(page.bench.choose())
    assert "Far.safetensors moved" in everyone and "Back.safetensors points elsewhere" in everyone
    assert "nm-notice" not in page.kept_line(page.bench.choose(pool.ids[:3]))
