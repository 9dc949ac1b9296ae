"""The slider's measurement on a model of random weights: every candidate moves, every set of them is merged anew."""

import pytest

from benchmarks.bench_slider import RandomPool, bench, random_slider
from negmerge_kit.errors import ParameterError


@pytest.mark.slow
def test_scale_moves_and_other_candidates_are_timed_apart(monkeypatch):
    asked = []
    candidate = RandomPool.candidate
    monkeypatch.setattr(RandomPool, "candidate", lambda self, id: (asked.append(id), candidate(self, id))[1])
    told = random_slider("negmerge-tiny", images=70, candidates=3, moves=2, device="cpu")
    assert asked == ["0", "1", "2"] and told["residency"] == "float32" and told["candidates"] == 3
    assert [row["limit_ms"] for row in told["rows"]] == [300.0, 300.0, 1000.0]
    assert all(row["n"] == 2 and row["p95_ms"] > 0 for row in told["rows"])


def test_what_does_not_go_together_is_one_sentence(tmp_path):
    with pytest.raises(ParameterError, match="not both"):
        bench(tmp_path, model="ViT-B-32")
    with pytest.raises(ParameterError, match="--model"):
        bench(images=100)
