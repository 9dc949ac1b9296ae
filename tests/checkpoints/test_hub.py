"""Hub ids: only pinned, from the cache without a network, and one sentence at once where there is neither."""

from __future__ import annotations

import time

import pytest
import torch
from safetensors.torch import save_file

from negmerge_kit.checkpoints import hub, open_checkpoint
from negmerge_kit.checkpoints.hub import is_hub_id
from negmerge_kit.errors import CheckpointError
from tests.checkpoints.files import sharded

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of one commit in an otherwise empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    folder = tmp_path / "models--owner--name" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    return folder


def test_a_cached_commit_opens_without_a_network(cache):
    save_file({"w": torch.ones(2)}, cache / "model.safetensors")
    save_file({"v": torch.ones(3)}, cache / "other.safetensors")
    assert open_checkpoint(f"hf:owner/name@{COMMIT}")["w"].tolist() == [1, 1]
    assert open_checkpoint(f"owner/name@{COMMIT}:other.safetensors")["v"].tolist() == [1, 1, 1]


def test_cached_shards_open_as_one(cache):
    weights = {f"w{k}": torch.randn(3) for k in range(4)}
    sharded(cache, weights, 2)
    assert set(open_checkpoint(f"hf:owner/name@{COMMIT}")) == set(weights)


@pytest.mark.parametrize(
    "text", ["hf:owner/name", "hf:owner/name@main", "owner/name@v1.0", f"hf:owner/name@{COMMIT[:12]}"]
)
def test_an_id_that_is_not_pinned_is_refused(text):
    assert is_hub_id(text)
    with pytest.raises(CheckpointError, match="not pinned"):
        open_checkpoint(text)


def test_paths_are_not_taken_for_ids(tmp_path):
    assert not is_hub_id("runs/a.safetensors") and not is_hub_id(str(tmp_path))
    with pytest.raises(CheckpointError, match="does not exist"):
        open_checkpoint("owner/name")


def test_no_network_is_one_sentence_at_once(cache, monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("Name or service not known\nand more lines")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    started = time.perf_counter()
    with pytest.raises(
        CheckpointError, match=r"owner/name@01234567 .*cannot be downloaded \(Name or service"
    ) as caught:
        open_checkpoint(f"hf:owner/name@{COMMIT}")
    assert time.perf_counter() - started < 10 and "\n" not in str(caught.value)


def test_a_download_takes_what_the_repository_lists(cache, monkeypatch):
    class Listed:
        siblings = (type("File", (), {"rfilename": name})() for name in ("README.md", "open_clip_model.safetensors"))

    fetched = []

    def download(_, name, revision):
        fetched.append((name, revision))
        save_file({"w": torch.ones(1)}, cache / name)
        return str(cache / name)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: Listed)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert set(open_checkpoint(f"hf:owner/name@{COMMIT}")) == {"w"}
    assert fetched == [("open_clip_model.safetensors", COMMIT)]
    assert hub.PATIENCE <= 10
