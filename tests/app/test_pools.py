"""Several pools behind one app: opened when asked for, closed for want of memory, and never mixed up."""

import shutil
from contextlib import suppress

import pytest

from negmerge_kit.app.pools import Pools, find_pools
from negmerge_kit.errors import PoolError


@pytest.fixture(scope="module")
def folders(tiny_pool, tmp_path_factory):
    """A folder of two pools; the second lacks the first one's last candidate."""
    import json

    home = tmp_path_factory.mktemp("home")
    for name in ("a", "b"):
        shutil.copytree(tiny_pool, home / name)
    record = home / "b" / "pool.json"
    told = json.loads(record.read_text())
    record.write_text(json.dumps(told | {"candidates": told["candidates"][:-1]}))
    return home


def test_a_folder_of_pools_gives_each_of_them(folders, tiny_pool, tmp_path):
    assert [path.name for path in find_pools(folders)] == ["a", "b"]
    assert find_pools(tiny_pool) == [tiny_pool]
    with pytest.raises(PoolError, match="is a pool"):
        find_pools(tmp_path)


def test_a_pool_that_forget_made_is_called_by_the_folder_it_lies_in(tiny_pool, tmp_path):
    for folder in ("faces/pool", "cars/pool", "other/faces/pool", "cars/other"):
        shutil.copytree(tiny_pool, tmp_path / folder)
    found = [pool for folder in ("faces", "cars", "other/faces") for pool in find_pools(tmp_path / folder)]
    pools = Pools(found, made=tmp_path / "made", device="cpu")
    assert pools.ids == ["faces", "other", "cars", "faces-2"]


@pytest.mark.slow
def test_pools_are_opened_when_asked_for_and_the_longest_unused_is_closed(folders, tmp_path):
    pools = Pools(find_pools(folders), made=tmp_path, device="cpu", memory=0)
    assert pools.ids == ["a", "b"] and pools.opened == []
    first = pools.open("a")
    assert pools.open("a") is first and pools.opened == ["a"]
    second = pools.open("b")
    assert pools.opened == ["b"] and len(second.bench.pool.ids) == len(first.bench.pool.ids) - 1
    roomy = Pools(find_pools(folders), made=tmp_path, device="cpu")
    roomy.open("a"), roomy.open("b"), roomy.open("a")
    assert roomy.opened == ["b", "a"]


@pytest.mark.slow
def test_pools_of_the_same_candidates_never_share_a_job(tiny_pool, tmp_path, monkeypatch):
    """Ids come from base, forget set and recipe, so two pools may hold the very same ids and keep other images."""
    for name in ("a", "b"):
        shutil.copytree(tiny_pool, tmp_path / name)
    pools = Pools([tmp_path / "a", tmp_path / "b"], made=tmp_path, device="cpu")
    keys = []
    monkeypatch.setattr(pools.jobs, "follow", lambda visitor, key, work: keys.append(key) or iter([]))
    for id in pools.ids:
        opened = pools.open(id)
        choice = opened.bench.choose()
        list(opened.compare.follow("me", 0.95))
        list(opened.agreement.explanation("me", choice))
        with suppress(AssertionError):  # no audit came of it
            list(opened.audit.follow("me", (choice, 0.5, ("linear",))))
    assert len(keys) == 6 and len(set(keys)) == 6


def test_a_pool_that_is_added_is_served_once(folders, tiny_pool, tmp_path):
    pools = Pools([folders / "a"], made=tmp_path, device="cpu")
    assert pools.add(folders / "a") == "a"
    same = shutil.copytree(tiny_pool, tmp_path / "elsewhere" / "a")
    assert pools.add(same) == "a-2" and pools.ids == ["a", "a-2"]
    with pytest.raises(PoolError, match=r"no pool\.json"):
        pools.add(tmp_path)


@pytest.mark.parametrize("id", ["b", "../b", "", None, 7, ["a"], {"a": 1}, "a\0", "x" * 10_000])
def test_a_pool_that_is_not_served_is_refused(folders, tmp_path, id):
    pools = Pools([folders / "a"], made=tmp_path, device="cpu")
    with pytest.raises(PoolError, match="there is no pool") as error:
        pools.open(id)
    assert len(str(error.value)) < 300 and pools.opened == []
