"""Analysis of variance from inner products, against SciPy's in one dimension."""

import numpy as np
import pytest
from scipy.stats import f_oneway

from negmerge_kit.errors import ParameterError
from negmerge_kit.scoring.variance import explained_share


def products(rows):
    return (rows @ rows.T).tolist()


def test_one_dimension_gives_the_textbook_f():
    random = np.random.default_rng(0)
    labels = [0] * 4 + [1] * 5 + [2] * 6
    values = random.normal(size=15) + np.array(labels)
    found = explained_share(products(values[:, None]), labels, permutations=4999)
    theirs = f_oneway(*(values[np.array(labels) == k] for k in range(3)))
    assert found.share / (1 - found.share) * (15 - 3) / (3 - 1) == pytest.approx(theirs.statistic)
    assert found.p == pytest.approx(theirs.pvalue, abs=0.02)
    assert found.chance == 2 / 14


def test_a_field_that_does_nothing_explains_what_chance_does():
    random = np.random.default_rng(1)
    found = [explained_share(products(random.normal(size=(12, 40))), [0, 1, 2] * 4, permutations=99) for _ in range(60)]
    assert np.mean([item.share for item in found]) == pytest.approx(2 / 11, abs=0.01)
    assert np.mean([item.beyond_chance for item in found]) == pytest.approx(0, abs=0.015)
    assert np.mean([item.p <= 0.05 for item in found]) < 0.15


def test_a_shift_of_all_vectors_changes_nothing():
    rows = np.random.default_rng(2).normal(size=(6, 3))
    a, b = (explained_share(products(rows + shift), [0, 0, 1, 1, 2, 2]) for shift in (0.0, 5.0))
    assert a.share == pytest.approx(b.share) and a.p == b.p


@pytest.mark.parametrize(
    ("rows", "labels"),
    [(np.eye(3), [0, 0, 0]), (np.eye(3), [0, 1, 2]), (np.ones((4, 2)), [0, 0, 1, 1]), (np.eye(1), [0])],
)
def test_nothing_to_tell(rows, labels):
    assert explained_share(products(rows), labels) is None


def test_labels_that_do_not_fit():
    with pytest.raises(ParameterError, match="label"):
        explained_share([[1.0]], [0, 1])
