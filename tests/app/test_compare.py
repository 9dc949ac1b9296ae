"""The Compare page and /compare: the command's numbers, found again from the pool, and a click that loads a row."""

import dataclasses
import json
import re
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from negmerge_kit.app.jobs import Jobs
from negmerge_kit.app.pages import compare as comparing
from negmerge_kit.app.pages.compare import Compare, compare_html, floor_of, follow, shown_first
from negmerge_kit.errors import ParameterError
from negmerge_kit.plots.style import percent
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.progress import Progress
from negmerge_kit.unlearning.workbench import Workbench

SPENT = {"seconds", "peak_memory", "cost"}


def without_cost(found):
    """A comparison without what two runs need not share: costs, and the curve, which lists all that was counted."""
    if isinstance(found, dict):
        return {key: without_cost(value) for key, value in found.items() if key not in SPENT | {"curve"}}
    return [without_cost(value) for value in found] if isinstance(found, list) else found


@pytest.mark.slow
def test_progress_names_the_rules_and_the_table_holds_the_rows(compared):
    compare, told, _ = compared
    assert any("last rule" in progress for progress, _ in told[:-1]) and all(html == "" for _, html in told[:-1])
    progress, html = told[-1]
    comparison = compare.known(0.95)
    assert progress == "" and html == compare_html(comparison)
    for row in comparison.rows:
        assert row.method.title in html
        assert percent(row.matched.test.forget.value) in html and f"{row.matched.crossing.scale:.3f}" in html
    assert html.count("data-row=") == 4 and "n =\N{NO-BREAK SPACE}357" in html
    svg = re.search(r"<svg.*?</svg>", html, re.S)[0]
    ElementTree.fromstring(svg)
    assert 'data-mark="forget-matched-negmerge"' in svg


@pytest.mark.slow
def test_the_last_rule_forecasts_no_time(compared, monkeypatch):
    compare, told, known = compared[0], [], compared[0].known(0.95)

    def compare_rules(stand, methods, *, on_row, **more):
        for done, row in enumerate(known.rows):
            on_row(Progress(row.method.title, step=done, total=len(known.rows)))
        return known

    monkeypatch.setattr(comparing, "compare_rules", compare_rules)
    job = SimpleNamespace(tell=lambda text, share, *, forecast: told.append((text, share, forecast)))
    compare._compare(job, compare.bench.pool, 0.95, "keep")
    count = len(known.rows)
    assert told == [(r.method.title, k / count, k + 1 < count) for k, r in enumerate(known.rows)]


@pytest.mark.slow
def test_a_second_visit_finds_the_rows_in_the_pool(compared, two):
    compare, told, folder = compared
    assert len(list((folder / "comparisons").iterdir())) == len(two)
    again = Compare(compare.bench, Jobs())
    assert again.ready(0.95) and not again.ready(0.9)
    assert list(follow(again, "me", 0.95))[-1] == told[-1]
    assert shown_first(again, 0.95) == told[-1][1]


@pytest.mark.slow
@pytest.mark.parametrize("read_only", [True, False])
def test_a_read_only_pool_is_not_written(compared, monkeypatch, read_only):
    compare, _, folder = compared
    before = {path.name: path.read_bytes() for path in (folder / "comparisons").iterdir()}
    comparison = compare.known(0.95)
    row = dataclasses.replace(comparison.rows[0], kept_fraction=0.123)

    def compared_at_once(stand, methods, *, kept, **others):
        kept.keep(row, stand.pool.ids)
        return dataclasses.replace(comparison, rows=(kept.find(row.method, stand.pool.ids),))

    monkeypatch.setattr(comparing, "compare_rules", compared_at_once)
    fresh = Compare(compare.bench, Jobs(), read_only=read_only)
    list(follow(fresh, "me", 0.95))
    assert fresh.known(0.95).rows == (row,)
    after = {path.name: path.read_bytes() for path in (folder / "comparisons").iterdir()}
    assert (after == before) is read_only
    for name, told in before.items():
        (folder / "comparisons" / name).write_bytes(told)


@pytest.mark.slow
def test_a_row_loads_as_the_controls_of_unlearn(compared):
    compare, _, _ = compared
    row = compare.known(0.95).rows[1]
    loaded = compare.load("negmerge", "matched", 0.95)
    assert (loaded.rule, loaded.candidates, loaded.params) == ("negmerge", row.candidates, row.params)
    assert loaded.scale == row.matched.crossing.scale
    assert compare.load("negmerge", "protocol", 0.95).scale == row.scale


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "which"), [("nobody", "matched"), ("negmerge", "test"), (["negmerge"], "matched"), (None, None)]
)
def test_a_row_that_is_not_there_is_one_sentence(compared, name, which):
    with pytest.raises(ParameterError, match="not there"):
        compared[0].load(name, which, 0.95)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [None, "high", float("nan"), 0.79, 1.01, True, [0.9]])
def test_a_floor_that_the_slider_cannot_send(compared, keep):
    with pytest.raises(ParameterError, match="keep at least"):
        floor_of(keep)
    assert 'role="alert"' in shown_first(compared[0], keep)
    assert 'role="alert"' in list(follow(compared[0], "me", keep))[-1][0]


@pytest.mark.slow
def test_a_cancelled_comparison_says_how_to_go_on(compared):
    compare, _, _ = compared
    fresh = Compare(compare.bench, Jobs())
    news = follow(fresh, "me", 0.8)
    next(news)
    fresh.jobs.cancel("me")
    assert "Cancelled" in list(news)[-1][0]
    assert fresh.known(0.8) is None


def test_too_few_candidates_say_so(own_pool):
    record = json.loads((own_pool / "pool.json").read_text())
    record["candidates"] = record["candidates"][:1]
    (own_pool / "pool.json").write_text(json.dumps(record))
    compare = Compare(Workbench(open_pool(own_pool), device="cpu"), Jobs())
    assert "it takes two" in shown_first(compare, 0.95)
    assert "with one, every rule is that candidate" in list(follow(compare, "me", 0.95))[-1][0]


@pytest.mark.slow
def test_the_endpoint_answers_as_the_command(address, own_pool, tiny_pool, capsys):
    from negmerge_kit.cli import main

    flags = ["--rules", "uniform", "--baselines", "none", "--scales", "0:1:0.25", "--keep", "0.9"]
    assert main(["compare", str(own_pool), *flags, "--device", "cpu", "--json"]) == 0
    ours = json.loads(capsys.readouterr().out)
    client = Client(address, verbose=False, analytics_enabled=False)
    told = client.predict(tiny_pool.name, "uniform", "none", 0.9, "0:1:0.25", api_name="/compare")
    assert without_cost(told) == without_cost(ours | {"pool": tiny_pool.name})
    for arguments, says in (
        ({"keep": 0}, "keep is 0"),
        ({"rules": "best"}, "there is no rule"),
        ({"rules": 7}, "rules is 7"),
        ({"rules": "none", "baselines": "none"}, "nothing to compare"),
        ({"rules": ",".join(f"ties:density=0.{n:03}" for n in range(1, 99))}, "too many"),
        ({"scales": "0:1:0.0001"}, "too many"),
    ):
        with pytest.raises(AppError) as error:
            client.predict(**({"pool": tiny_pool.name} | arguments), api_name="/compare")
        assert says in str(error.value) and "Traceback" not in str(error.value)
    client.close()
    assert not (tiny_pool / "comparisons").exists()  # a script's comparison is not written to the pool
