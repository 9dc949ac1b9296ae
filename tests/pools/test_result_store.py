"""Results by key: found again under equal keys only, whole or absent, and never in the way of the work."""

import json
import multiprocessing
import os
import signal
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from negmerge_kit.checkpoints import atomic
from negmerge_kit.errors import MismatchError
from negmerge_kit.pools.result_store import ResultStore, digest

KEY = {"rule": "negmerge", "keep": 0.95, "scales": None, "sets": [{"name": "digits", "n": 3}]}
TENSORS = {"confidence": torch.arange(5, dtype=torch.float32)}

plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from("abcd"), plain_values), plain_values)
@settings(max_examples=40)
def test_a_value_comes_back_under_its_key_whatever_the_order(tmp_path_factory, key, value):
    store = ResultStore(tmp_path_factory.mktemp("store"))
    assert store.put("row", key, value)
    assert store.get("row", dict(reversed(key.items()))) == value
    assert store.get("point", key) is None is store.get("row", key | {"more": None})


def test_keys_differ_by_value_type_and_nesting_and_agree_with_the_digests_of_earlier_pools():
    keys = [
        KEY,
        KEY | {"keep": 0.9},
        KEY | {"scales": []},
        KEY | {"keep": 1},
        KEY | {"keep": 1.0},
        KEY | {"keep": True},
    ]
    assert len(set(map(digest, keys))) == len(keys)
    assert digest({"a": (1, 2)}) == digest({"a": [1, 2]})
    assert digest(["b", 0.1, {"d": None, "c": 2}]).startswith("8cfe4e04b2dd")  # ids of candidates are made so
    for value, error in ((float("nan"), ValueError), (float("-inf"), ValueError), ({1, 2}, TypeError)):
        with pytest.raises(error):
            digest({"a": value})


def test_tensors_come_back_with_what_they_were_made_from(tmp_path):
    store = ResultStore(tmp_path / "new")
    assert store.get_tensors("shadow", KEY) is None
    assert store.put_tensors("shadow", KEY, TENSORS, metadata={"seconds": 2.5})
    found = store.get_tensors("shadow", KEY)
    assert torch.equal(found["confidence"], TENSORS["confidence"])
    assert found.metadata == {"seconds": 2.5, "made_from": KEY} and found.path.name.startswith("shadow-")
    assert store.get_tensors("shadow", KEY | {"keep": 0.9}) is None is store.get("shadow", KEY)
    with pytest.raises(MismatchError):
        store.put_tensors("shadow", KEY, TENSORS, like={"confidence": torch.zeros(4)})


def damages(path, whole):
    yield whole[: len(whole) // 2]
    yield b""
    yield b"\x80\x04 no such file"
    yield b'{"made_from": [], "value": 3}'
    yield b"[1, 2]"
    yield whole.replace(b"0.95", b"0.94")  # another key's result under this key's name


@pytest.mark.parametrize("tensors", [False, True])
def test_what_cannot_be_read_or_is_of_another_key_is_absent_and_written_again(tmp_path, tensors):
    store = ResultStore(tmp_path)
    put, get = (store.put_tensors, store.get_tensors) if tensors else (store.put, store.get)
    value, suffix = (TENSORS, ".safetensors") if tensors else ({"score": 0.5}, ".json")
    assert put("row", KEY, value)
    path = store.path("row", KEY, suffix)
    whole = path.read_bytes()
    for damaged in damages(path, whole):
        path.write_bytes(damaged)
        assert get("row", KEY) is None, damaged
        assert put("row", KEY, value) and path.read_bytes() == whole
    path.unlink()
    path.mkdir()
    assert get("row", KEY) is None and not put("row", KEY, value)


def test_a_folder_that_cannot_be_written_keeps_nothing_and_stops_nobody(tmp_path, monkeypatch):
    (tmp_path / "in the way").write_text("a file")
    gone = ResultStore(tmp_path / "deleted pool" / "searches")
    assert not gone.put("row", KEY, 1) and not gone.folder.parent.exists()
    store = ResultStore(tmp_path / "in the way")
    assert not store.put("row", KEY, 1) and not store.put_tensors("row", KEY, TENSORS)
    assert store.get("row", KEY) is None is store.get_tensors("row", KEY)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    store = ResultStore(tmp_path)
    assert store.put("row", KEY, 1)
    monkeypatch.setattr(atomic.os, "fsync", full)
    assert not store.put("row", KEY, 2) and not store.put_tensors("row", KEY, TENSORS)
    assert store.get("row", KEY) == 1 and sorted(path.name[0] for path in tmp_path.iterdir()) == ["i", "r"]


def rewrite(folder, number, ready):
    store = ResultStore(folder)
    ready.set()
    while True:
        store.put("row", KEY, [number] * 2000)
        store.put_tensors("row", KEY, {"w": torch.full((2000,), number)})


def die_before_renaming(folder):
    atomic.os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
    ResultStore(folder).put("row", KEY, "never whole")


@pytest.mark.slow
def test_writers_of_one_key_and_their_violent_end_leave_a_whole_result(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = [context.Event() for _ in range(2)]
    writers = [context.Process(target=rewrite, args=(tmp_path, k, ready[k]), daemon=True) for k in range(2)]
    for writer in writers:
        writer.start()
    assert all(event.wait(60) for event in ready)
    store, seen = ResultStore(tmp_path), set()
    until = time.monotonic() + 60
    while time.monotonic() < until and not (len(seen) == 2 and store.get_tensors("row", KEY)):
        if value := store.get("row", KEY):
            assert value in ([0] * 2000, [1] * 2000)
            seen.add(value[0])
    assert seen == {0, 1}
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    before = store.get("row", KEY)
    assert before in ([0] * 2000, [1] * 2000)
    left = store.get_tensors("row", KEY)["w"]
    assert len(left) == 2000 and left.unique().numel() == 1
    last = context.Process(target=die_before_renaming, args=(tmp_path,))
    last.start()
    last.join()
    assert last.exitcode == -signal.SIGKILL and store.get("row", KEY) == before
    assert store.put("row", KEY, "after") and store.get("row", KEY) == "after"


def test_the_record_says_what_it_was_made_from(tmp_path):
    store = ResultStore(tmp_path)
    store.put("row", KEY, 1)
    assert json.loads(store.path("row", KEY).read_text()) == {"made_from": KEY, "value": 1}
