"""What the README claims of the embedded scene, measured anew on the whole grid."""

import pytest

from negmerge_kit.merging import chance, total
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.scoring import paired_difference
from negmerge_kit.unlearning.evaluation import ImageQueue
from negmerge_kit.unlearning.workbench import Workbench

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def embedded(whole_pool):
    return Workbench(open_pool(whole_pool), device="cpu")


def test_merging_forgets_and_keeps_by_the_papers_protocol(embedded):
    choice = embedded.choose()
    found = embedded.search(choice, keep=0.95)
    assert found.status == "ok"
    assert found.best.retain.value >= 0.95 * found.base.retain.value

    forget = embedded.images("test").forget
    right = []
    for which, scale in ((None, 0.0), (choice, found.best.scale)):
        with embedded.at(which, scale) as model:
            right.append((ImageQueue([forget]).classes(model)[0] == forget.labels.cpu()).tolist())
    before, after = map(sum, right)
    assert (before, after) == (
        embedded.base_scores("test").forget.correct,
        embedded.score(choice, found.best.scale, "test").forget.correct,
    )
    assert after <= 0.75 * before
    lost = sum(a and not b for a, b in zip(*right, strict=True))
    gained = sum(b and not a for a, b in zip(*right, strict=True))
    _, high = paired_difference(lost, gained, len(forget))
    assert high < 0


def test_signs_agree_far_more_often_than_by_chance(embedded):
    n = len(embedded.pool.ids)
    assert n == 8
    assert total(embedded.agreement()).unanimous_of_moved >= 10 * chance(n)


def test_agreement_falls_as_candidates_join(embedded):
    ids = embedded.pool.ids
    shares = [total(embedded.agreement(ids[:k])).unanimous_of_moved for k in (1, 2, 4, 8)]
    assert shares[0] == 1.0
    assert shares == sorted(shares, reverse=True) and shares[-1] < 0.6


def test_candidates_are_sensitive_to_their_hyperparameters(embedded):
    alone = [entry.scores["forget"]["value"] for entry in embedded.pool.entries if entry.scores["status"] == "ok"]
    assert len(alone) >= 7 and max(alone) - min(alone) > 0.03
