"""Fine-tuning behind the page: plans that outlive the app, one run at a time, stopped and gone on with."""

import io
import json
import random
import threading
import time
from types import SimpleNamespace

import pytest
from PIL import Image

from negmerge_kit.app.finetune_runs import Cost, Run, executor_for
from negmerge_kit.app.grid_rows import (
    COLUMNS,
    MOST_ROWS,
    PRESETS,
    another_row,
    one_less,
    preset_rows,
    recipes_of,
    rows_of,
)
from negmerge_kit.app.pages import finetune
from negmerge_kit.app.pages.finetune import FAMILY, OWN, FinetunePage
from negmerge_kit.app.plans import checked_families, checked_name
from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.progress import Progress
from negmerge_kit.training import sweep_forecast
from negmerge_kit.training.forecast import SEARCHED
from negmerge_kit.training.recipe import Recipe
from negmerge_kit.training.sweep_forecast import steps_of

from .drawings import CLASSES, drawings, zipped
from .test_hostile import NUMBERS, OTHERS, TEXTS
from .tuning import tunes_in

QUICK = (Recipe(lr=1e-3, epochs=2), Recipe(lr=2e-3, epochs=2, seed=1))
WAIT = 120


def plan_of_drawings(tunes, home, name="my stripes", keep=("colours",)):
    archive = zipped(home / "arrived" / "a.zip", drawings(8))
    with tunes.uploads.images(str(archive)) as taken:
        return tunes.plans.of_images(taken, name, list(keep))


def ended(run):
    deadline = time.monotonic() + WAIT
    while not run.ended:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return run


@pytest.mark.slow
def test_uploaded_images_become_a_pool_and_the_same_ones_are_found_again(home):
    tunes = tunes_in(home)
    plan = plan_of_drawings(tunes, home)
    assert plan.scene.name == "my-stripes" and plan.images == 20 and plan.done == 0
    images = plan.folder / "images" / "my-stripes"
    assert sorted(path.name for path in images.iterdir()) == sorted(CLASSES)
    assert list(plan.folder.rglob(".arriving*")) == []
    run = ended(tunes.start(plan.id, QUICK))
    assert run.error is None and run.pool == plan.id and run.share == 1.0
    assert tunes.pools.added == [plan.folder]
    pool = open_pool(plan.folder)
    assert [entry.recipe["lr"] for entry in pool.entries] == [1e-3, 2e-3] and pool.verify() == []
    assert {label: len(curve.losses) for label, curve in run.curves.items()} == {QUICK[0].label: 2, QUICK[1].label: 2}
    assert "<svg" in finetune.losses(run) and "2 of 2" in finetune.status(run)
    # The same upload again is the same plan, and another grid adds to its pool.
    assert plan_of_drawings(tunes, home).id == plan.id
    assert plan_of_drawings(tunes, home, keep=("colours", "digits")).id != plan.id
    more = ended(tunes.start(plan.id, (Recipe(lr=5e-4, epochs=1, seed=5),)))
    assert more.done == 3 and len(open_pool(plan.folder).ids) == 3
    assert len(more.curves) == 3 and more.share == 1.0  # what was trained before is drawn, too


def test_photographs_held_sideways_are_turned_unless_they_shall_be_as_stored(home):
    """Of an upload with such images, either reading is a plan of its own, and what is left out is said."""
    tunes, exif = tunes_in(home), Image.Exif()
    exif[0x0112] = 6
    images = drawings(8)
    for number, (path, data) in enumerate(list(images.items())[:5]):
        file = io.BytesIO()
        picture = Image.open(io.BytesIO(data))
        picture.putalpha(255 * (number < 3))
        picture.save(file, "PNG", exif=exif)
        images[path] = file.getvalue()
    told = {}
    for as_viewed in (True, False):
        with tunes.uploads.images(str(zipped(home / "arrived" / "a.zip", images))) as taken:
            assert (taken.turned, taken.transparent) == (5, 2)
            plan = tunes.plans.of_images(taken, "photographs", ["colours"], as_viewed=as_viewed)
            told[as_viewed] = finetune.summary(plan, taken)
        reading = {"orientation": "exif", "transparency": "white"} if as_viewed else {}
        assert plan.scene.reading == tunes.plans.read(plan.id).scene.reading == reading
    assert len(tunes.plans.ids()) == 2
    assert "EXIF" not in told[True]
    assert "5 images carry an EXIF turn" in told[False] and "2 images have transparent pixels" in told[False]
    assert plan_of_drawings(tunes, home).scene.reading == {}


@pytest.mark.slow
def test_the_cost_is_of_what_the_pool_lacks(home):
    tunes = tunes_in(home)
    plan = tunes.plans.of_family("colours")
    once, twice = tunes.cost(plan, QUICK[:1]), tunes.cost(plan, QUICK)
    assert 0 < once.training and twice.scoring > 0 and twice.disk == 2 * once.disk > 2**20
    page = FinetunePage(tunes)
    assert "<b>2 candidates</b>, 12 epochs of" in page.estimate(plan.id, preset_rows(next(iter(PRESETS)), 700))
    assert "Row 1" in page.estimate(plan.id, [[0] * len(COLUMNS)])
    assert "Choose what should" in page.estimate("", preset_rows(next(iter(PRESETS)), 700))


def test_the_cost_is_measured_and_counts_each_candidates_own_search(home, monkeypatch):
    tunes, kinds = tunes_in(home), []
    monkeypatch.setattr(sweep_forecast, "seconds_of_a_step", lambda *given, **more: kinds.append(given[2]) or 0.25)
    monkeypatch.setattr(sweep_forecast, "seconds_of_an_image", lambda *given, **more: 0.001)
    plan = tunes.plans.of_family("colours")
    val = plan.scene.images("val")
    scored = len(val.forget) + sum(len(images) for images in val.retain)
    for _ in range(2):  # as the table changes
        cost = tunes.cost(plan, QUICK)
        assert cost.training == pytest.approx(2 * 0.25 * steps_of(QUICK[0], plan.images))
        assert cost.scoring == pytest.approx(2 * SEARCHED * 21 * scored * 0.001)
    assert len(kinds) == 1  # both recipes are of one kind, which is measured once
    told = finetune.estimate(plan, QUICK, Cost(100.0, 140.0, 2**20))
    assert "about <b>4 min</b>" in told and "2 min of searching each one’s own scale" in told
    # While something trains, no step is taken beside it.
    going = threading.Event()
    tunes.pools.jobs.begin(lambda job: going.wait(60))
    other = tunes.cost(plan, [Recipe(lr=1e-3, epochs=2, batch_size=32)])
    going.set()
    assert len(kinds) == 1 and other.training > 0 and other.scoring > 0


def test_the_search_of_its_own_scale_is_part_of_a_candidates_share():
    run = Run(SimpleNamespace(recipes=QUICK))
    run.note("a", Progress("step", 0.5, 2, 2, 0.5))
    assert run.share == pytest.approx(0.25)
    run.note("a", Progress("scoring", 0.625, 5, 20))
    assert run.share == pytest.approx(0.3125) and run.curves["a"].losses == (0.5,)


@pytest.mark.slow
def test_a_stopped_run_is_found_by_the_next_process_and_gone_on_with(home):
    tunes = tunes_in(home)
    plan = tunes.plans.of_family("colours")
    run = tunes.start(plan.id, (Recipe(lr=1e-3, epochs=1), Recipe(lr=2e-3, epochs=400)))
    with pytest.raises(ParameterError, match="one runs at a time"):
        tunes.start(plan.id)
    deadline = time.monotonic() + WAIT
    while not run.recorded or len(run.curves) < 2:
        assert time.monotonic() < deadline and not run.ended
        time.sleep(0.02)
    assert "1 of 2" in finetune.status(run) and 0.5 <= run.share < 1
    tunes.stop()
    assert ended(run).error is None and "Resume" in finetune.status(run)
    with pytest.raises(ParameterError, match="nothing is being"):
        tunes.stop()
    assert len(open_pool(plan.folder).ids) == 1

    restarted = tunes_in(home)
    assert [left.id for left in restarted.plans.unfinished()] == [plan.id]
    assert "1 of 2 candidates" in finetune.offer(restarted.plans.unfinished())
    assert restarted.open(plan.id) == plan.id
    shorter = restarted.plans.read(plan.id)
    assert [recipe.epochs for recipe in shorter.recipes] == [1, 400]
    again = restarted.start(plan.id)
    assert again.done == 1
    with pytest.raises(ParameterError, match="one runs at a time"):
        restarted.start(plan.id)
    restarted.stop()
    ended(again)


@pytest.mark.slow
def test_a_bug_or_a_failure_is_a_sentence_and_the_app_goes_on(home, monkeypatch):
    tunes = tunes_in(home)
    plan = tunes.plans.of_family("colours")
    hot = ended(tunes.start(plan.id, (Recipe(lr=1e4, epochs=3, clip_norm=1e9),)))
    assert hot.failures or hot.error
    assert "no candidate" in hot.error and "Traceback" not in finetune.status(hot)

    def bug(*values, **named):
        raise ZeroDivisionError

    monkeypatch.setattr("negmerge_kit.app.finetune_runs.start_pool", bug)
    assert "ZeroDivisionError" in ended(tunes.start(plan.id, QUICK)).error
    monkeypatch.undo()
    assert tunes.pools.jobs.do(lambda job: "alive") == "alive"


def test_stopping_ends_a_run_that_still_waits_in_line(home):
    tunes, go = tunes_in(home), threading.Event()
    tunes.pools.jobs.begin(lambda job: go.wait(WAIT))
    run = tunes.start(tunes.plans.of_family("colours").id, QUICK)
    tunes.stop()
    go.set()
    assert ended(run).stopped and run.done == 0 and run.error is None


def test_a_public_app_fine_tunes_nothing(home):
    tunes = tunes_in(home)
    plan = tunes.plans.of_family("colours")
    public = tunes_in(home, allowed=False)
    for call in (lambda: public.start(plan.id, QUICK), public.stop):
        with pytest.raises(ParameterError, match="public"):
            call()


def test_a_plan_that_cannot_be_read_is_left_out_and_told(home, caplog):
    plans = tunes_in(home).plans
    plan = plans.of_family("colours").with_recipes(QUICK)
    plan.write()
    assert [left.id for left in plans.unfinished()] == [plan.id]
    for text in ("{", "[]", json.dumps({"schema": 9}), json.dumps({"schema": 1, "scene": {}, "images": 1})):
        (plan.folder / "app.json").write_text(text)
        assert plans.unfinished() == []
        with pytest.raises(ParameterError, match="begin again"):
            plans.read(plan.id)
    assert "begin again" in caplog.text


@pytest.mark.parametrize("id", ["../x", "/etc", "", None, 7, [], {}, "app-x", "app-x\0", "x" * 9999])
def test_plans_are_named_by_id_only(home, id):
    with pytest.raises(ParameterError, match="choose") as error:
        tunes_in(home).start(id, QUICK)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("name", ["", "../x", "digits", "a/b", "ä", "x" * 40, "con", None, 3, "<b>", "-x", "a\nb\0"])
def test_names_that_cannot_be(name):
    with pytest.raises(ParameterError):
        checked_name(name)


@pytest.mark.parametrize("keep", [[], None, "digits", ["nonsense"], [1], [["digits"]], {}])
def test_families_that_cannot_be_kept(keep):
    with pytest.raises(ParameterError, match="family"):
        checked_families(keep)


# --- the grid -------------------------------------------------------------------------------


def test_the_table_and_the_recipes_are_the_same():
    for preset in PRESETS:
        rows = preset_rows(preset, 700)
        assert recipes_of(rows) == recipes_of([[str(cell) for cell in row] for row in rows])
        assert len(recipes_of(another_row(rows))) == len(rows) + 1
    assert preset_rows(next(iter(PRESETS)), 100_000)[0][1] == 1
    # Of the order of the images, too.
    row = preset_rows(next(iter(PRESETS)), 700)[0]
    column = COLUMNS.index("order")
    rows = [[*row[:column], order, *row[column + 1 :]] for order in ("own", " shared ", "fixed")]
    assert [recipe.order for recipe in recipes_of(rows)] == ["own", "shared", "fixed"]
    assert [again[column] for again in rows_of(recipes_of(rows))] == ["own", "shared", "fixed"]
    assert recipes_of([[*row[:column], "", *row[column + 1 :]]])[0].order == "own"
    with pytest.raises(ParameterError, match="row 1 of the grid: order is 'random': write own, shared or fixed"):
        recipes_of([[*row[:column], "random", *row[column + 1 :]]])


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (0, "fast"),
        (0, 0),
        (0, "nan"),
        (0, 1e400),
        (0, True),
        (1, 0),
        (1, 2.5),
        (1, 10**9),
        (1, ""),
        (2, -1),
        (3, 1),
        (4, "rand-x"),
        (4, "x" * 99),
        (4, 7),
        (5, "random"),
        (5, 1),
        (6, "one"),
        (6, [1]),
        (0, {"a": 1}),
        (2, "\ud800"),
    ],
)
def test_a_wrong_cell_is_named(cell, value):
    rows = preset_rows(next(iter(PRESETS)), 700)
    rows[1][cell] = value
    with pytest.raises(ParameterError, match=r"row 2 of the grid: .*"):
        recipes_of(rows)


@pytest.mark.parametrize("rows", [None, 7, "x", {}, [[]], [1], [["a"] * 5], [[1] * len(COLUMNS)] * 999, []])
def test_what_is_no_table(rows):
    with pytest.raises(ParameterError):
        recipes_of(rows)


def test_a_recipe_twice_and_a_full_table():
    row = preset_rows(next(iter(PRESETS)), 700)[0]
    with pytest.raises(ParameterError, match="twice"):
        recipes_of([row, row])
    rows = [[*row[:-1], seed] for seed in range(MOST_ROWS)]
    with pytest.raises(ParameterError, match="most"):
        another_row(rows)


# --- Ray ------------------------------------------------------------------------------------


def test_an_address_needs_ray_and_must_be_one(monkeypatch):
    assert type(executor_for("", "cpu")).__name__ == "Serial"
    for address in ("http://x", "a b:1", "x", "10.0.0.5", ":1", None, 7, "a:1\r\nb", "x" * 999):
        with pytest.raises(NegmergeError, match="Ray address"):
            executor_for(address, "cpu")
    monkeypatch.setattr("negmerge_kit.app.finetune_runs.find_spec", lambda name: None)
    with pytest.raises(ParameterError, match="not installed"):
        executor_for("10.0.0.5:6379", "cpu")
    monkeypatch.setattr("negmerge_kit.app.finetune_runs.find_spec", lambda name: SimpleNamespace())
    assert executor_for("auto", "cpu").address == "auto"


# --- hostile calls ----------------------------------------------------------------------------


def test_a_faulty_last_row_can_be_removed():
    rows = preset_rows(next(iter(PRESETS)), 700)
    faulty = [*rows, ["a lot", None, "", "", "none", -1, "own"]]
    with pytest.raises(ParameterError):
        recipes_of(faulty)
    assert one_less(faulty) == rows and one_less(rows) == rows[:1] and one_less(rows[:1]) == rows[:1]
    assert len(one_less(rows[:1] * (MOST_ROWS + 1))) == MOST_ROWS


def test_every_handler_of_the_page_refuses_what_it_cannot_use_in_a_sentence(home):
    """A thousand calls with nonsense in every place: nothing but sentences, nothing begun, nothing read or left."""
    page = FinetunePage(tunes_in(home))
    secret = home / "secret.txt"
    secret.write_text("a-secret")
    plan = page.tunes.plans.of_family("colours")
    rows = preset_rows(next(iter(PRESETS)), 700)
    calls = {
        "own": (lambda *values: list(page.choose("me", *values)), [OWN, None, None, None, "x", ["colours"], "digits"]),
        "family": (lambda *values: list(page.choose("me", FAMILY, *values)), [None, None, None, "x", [], "nobody"]),
        "weights": (
            lambda *values: list(page.choose("me", FAMILY, None, None, None, "", [], *values)),
            ["nobody", str(secret), None, "negmerge-tiny"],
        ),
        "preset": (page.preset, [plan.id, next(iter(PRESETS))]),
        "more": (another_row, [rows]),
        "fewer": (one_less, [rows]),
        "estimate": (page.estimate, ["app-none", rows]),
        "start": (page.start, ["app-none", rows, ""]),
        "resume": (page.resume, [plan.id, ""]),
        "open": (page.tunes.open, [plan.id]),
        "look": (page.look, [""]),
    }
    lot, refused = random.Random(5), 0
    for number in range(1000):
        which = lot.choice(list(calls))
        function, good = calls[which]
        values = list(good)
        for place in lot.sample(range(len(values)), lot.randint(1, len(values))):
            values[place] = lot.choice([*lot.choice([NUMBERS, TEXTS, OTHERS]), str(secret), [str(secret)]])
        try:
            said = str(function(*values))
            assert "<script>" not in said or which in ("more", "fewer"), which  # those give cells back as text
        except NegmergeError as error:
            said, refused = str(error), refused + 1
            assert len(said) < 2000, which
        except Exception as error:
            raise AssertionError(f"call {number}, {which}{str(values)[:300]}: {error!r}") from error
        assert "a-secret" not in said and "Traceback" not in said
    assert refused > 500 and page.tunes.run is None and secret.exists()
    assert [id for _, id in page.begun()] == [plan.id] and not list((home / "cache").rglob("*.safetensors"))


def test_in_a_public_app_every_handler_refuses(home):
    page = FinetunePage(tunes_in(home, allowed=False))
    rows = preset_rows(next(iter(PRESETS)), 700)
    for call in (
        lambda: list(page.choose("me", FAMILY, None, None, None, "", [], "digits")),
        lambda: page.start("app-x", rows, ""),
        lambda: page.resume("app-x", ""),
    ):
        with pytest.raises(ParameterError, match="public"):
            call()
    assert "public" in page.estimate("", rows)
    assert not (home / "cache").exists()
