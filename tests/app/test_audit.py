"""The Audit page: the probes of the model on Unlearn beside base and chance, and what one takes away."""

import json
import zipfile
from pathlib import Path

import pytest

from negmerge_kit.app.downloads import Downloads
from negmerge_kit.app.jobs import Jobs
from negmerge_kit.app.pages import audit as auditing
from negmerge_kit.app.pages.audit import AuditPage
from negmerge_kit.audits.audit import LIMITS, audit
from negmerge_kit.cards.files import read_card
from negmerge_kit.checkpoints.writer import sha256_file
from negmerge_kit.plots.style import percent
from negmerge_kit.progress import Progress, no_progress

from .conftest import DIALS

MODEL = ("negmerge", 0.95, 0.5)
PROBES = ["zero-shot", "confidence"]


@pytest.fixture(scope="module")
def audits(page, bench, tmp_path_factory):
    return AuditPage(page, Jobs(), Downloads(page.scored, tmp_path_factory.mktemp("made")))


@pytest.fixture(scope="module")
def audited(audits, bench):
    """What the page told until the probes had answered."""
    return list(audits.run("me", PROBES, bench.pool.ids, *MODEL, *DIALS))


@pytest.mark.slow
def test_each_probe_stands_beside_base_and_chance(audited, bench):
    progress, html = audited[-1]
    found = audit(bench, bench.choose(), 0.5, probes=PROBES)
    assert progress == "" and found.headline in html and found.finding.removeprefix(found.headline).strip() in html
    assert LIMITS.split(":")[0] in html
    for probe in found.probes:
        assert probe.name in html
        for who in ("unlearned", "base"):
            assert percent(probe.measurements[who].value) in html
    assert percent(found.probes[0].chance) in html and html.count("<svg") == 1
    assert any('role="progressbar"' in text for text, _ in audited[:-1])


def test_an_audit_is_found_again_for_this_model_only(audits, audited, bench):
    ids = bench.pool.ids
    title, notice, html = audits.show(ids, *MODEL, *DIALS)
    assert html == audited[-1][1] and notice == "" and "scale 0.5" in title
    assert list(audits.run("other", PROBES, ids, *MODEL, *DIALS)) == [("", html)]
    assert audits.show(ids, "negmerge", 0.95, 0.6, *DIALS)[2] == ""
    assert "scale 0 is the base" in audits.show(ids, "negmerge", 0.95, 0, *DIALS)[1]


@pytest.mark.slow
def test_card_and_all_hold_the_audit(audits, audited, bench):
    ids = bench.pool.ids
    page = Path(audits.write("page", no_progress, ids, *MODEL, *DIALS))
    record = read_card(page)
    assert [probe["name"] for probe in record["probes"]] and record["finding"] in page.read_text()
    whole = Path(audits.write("everything", no_progress, ids, *MODEL, *DIALS))
    with zipfile.ZipFile(whole) as archive:
        assert archive.namelist() == ["unlearned.safetensors", "unlearned.json", "unlearned.md", "audit.json"]
        assert archive.testzip() is None
        told = json.loads(archive.read("audit.json"))
    assert told["scale"] == 0.5 and told["probes"] == record["probes"]
    assert record["file"]["sha256"] == sha256_file(page.with_name("unlearned.safetensors"))


@pytest.mark.slow
def test_without_an_audit_the_card_says_so(audits, bench):
    page = Path(audits.write("page", no_progress, bench.pool.ids, "negmerge", 0.95, 0.45, *DIALS))
    assert "No audit was run" in page.read_text()


@pytest.mark.parametrize(
    ("probes", "scale", "says"),
    [
        (PROBES, 0, "cale 0 is the base itself"),
        (PROBES, float("nan"), "cale is nan"),
        (["fortune"], 0.5, "choose among zero-shot"),
        ([], 0.5, "nothing to ask"),
        ("zero-shot", 0.5, "list of names"),
        ([["zero-shot"]], 0.5, "list of names"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(audits, bench, probes, scale, says):
    told = list(audits.run("me", probes, bench.pool.ids, "negmerge", 0.95, scale, *DIALS))
    assert len(told) == 1 and says in told[0][0] and told[0][1] == ""


def test_a_cancelled_audit_says_so(audits, bench):
    news = audits.run("me", PROBES, bench.pool.ids, "negmerge", 0.95, 0.7, *DIALS)
    next(news)
    audits.jobs.cancel("me")
    assert "Cancelled" in list(news)[-1][0]


@pytest.mark.slow
def test_a_retrained_model_is_made_first_and_is_a_column(audits, bench, monkeypatch):
    told = []

    def made(on, *, on_step):
        for step in (1, 2):
            on_step(Progress("step", step=step, total=2))
            told.append(step)
        return dict(on.pool.base.items())

    monkeypatch.setattr(auditing, "retrained_reference", made)
    ids = bench.pool.ids
    html = list(audits.run("me", ["zero-shot"], ids, *MODEL, *DIALS, retrain=True))[-1][1]
    assert told == [1, 2] and "<th scope=col>retrained" in html and "the retrained model" in html
    again = list(audits.run("me", ["zero-shot"], ids, *MODEL, *DIALS))[-1][1]
    assert told == [1, 2] and "<th scope=col>retrained" not in again


def test_a_public_app_trains_no_retrained_model(page, bench):
    closed = AuditPage(page, Jobs(), None, read_only=True)
    told = list(closed.run("me", ["zero-shot"], bench.pool.ids, *MODEL, *DIALS, retrain=True))
    assert len(told) == 1 and "trains nothing for its visitors" in told[0][0]
