"""The look at a pool before it is merged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from negmerge_kit.merging import check_pool, sign_agreement, total
from negmerge_kit.merging.similarity import likeness
from tests.merging.models import arrays, in_chunks, make
from tests.oracles import agreement_by_length


def test_cosines_and_shares_are_numpys():
    base, candidates = make(4, seed=3)
    check = check_pool(base, candidates)
    flat = [np.concatenate([d[name].reshape(-1) for name in d]).astype(np.float64) for d in arrays(base, candidates)]
    for i in range(4):
        assert check.moved_fraction[i] == pytest.approx(np.mean(flat[i] != 0))
        for j in range(4):
            expected = flat[i] @ flat[j] / np.linalg.norm(flat[i]) / np.linalg.norm(flat[j])
            assert check.cosines[i][j] == pytest.approx(expected, abs=1e-12)
    assert check.agreement == total(sign_agreement(base, candidates))
    assert check.warnings == () and set(check.as_json()) >= {"cosines", "chance", "warnings"}


def test_a_pool_that_gives_cause_for_doubt_says_so():
    base, candidates = make(12, seed=3, common=0.0, frozen=0.0)
    still = {name: tensor.clone() for name, tensor in base.items()}
    found = check_pool(base, [*candidates, candidates[0].copy(), still], base_hashes=["a", "b"]).warnings
    for words in ("different bases", "candidate 14 did not move", "candidate 1 and candidate 13", "would become zero"):
        assert sum(words in warning for warning in found) == 1, found


def test_a_candidate_that_did_not_move_has_no_cosine():
    check = check_pool({"w": torch.zeros(3)}, [{"w": torch.zeros(3)}, {"w": torch.ones(3)}])
    assert check.cosines == ((0.0, 0.0), (0.0, pytest.approx(1.0)))


def test_lengths_by_hand():
    """Deltas (3, 1, -2, 0) and (1, -1, -4, 2): the mean is (2, 0, -3, 1), the first and the third are unanimous."""
    base = {"w": torch.tensor([1.0, 2.0, 3.0, 4.0]), "still": torch.ones(2)}
    tuned = [
        {"w": base["w"] + torch.tensor(move), "still": torch.ones(2)} for move in ([3.0, 1, -2, 0], [1.0, -1, -4, 2])
    ]
    for layers in (list(sign_agreement(base, tuned)), [layer.agreement for layer in likeness(base, tuned)]):
        moved, still = layers
        assert (moved.square, moved.unanimous_square) == (4 + 9 + 1, 4 + 9)
        assert moved.unanimous_of_length == total(layers).unanimous_of_length == 13 / 14
        assert (still.square, still.unanimous_square, still.unanimous_of_length) == (0, 0, 0)


@pytest.mark.parametrize("chunk", [None, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_lengths_are_numpys_in_chunks_of_any_size(dtype, chunk, monkeypatch):
    in_chunks(monkeypatch, chunk)
    base, candidates = make(4, seed=3, dtype=dtype)
    expected = agreement_by_length(arrays(base, candidates))
    layers = list(sign_agreement(base, candidates))
    found = {layer.name: layer.unanimous_of_length for layer in layers if layer.elements}
    assert found | {"all": total(layers).unanimous_of_length} == pytest.approx(expected, rel=1e-6)
    assert 0 < expected["all"] < 1
