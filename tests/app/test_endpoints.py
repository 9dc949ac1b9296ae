"""/pools, /score and /search through gradio_client: the workbench's numbers to the last digit, errors as sentences."""

import json
import re
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from negmerge_kit.pipeline import score_json, search_json


@pytest.fixture(scope="module")
def client(address):
    client = Client(address, verbose=False, analytics_enabled=False)
    yield client
    client.close()


@pytest.fixture(scope="module")
def name(client):
    return client.predict(api_name="/pools")[0]


def test_pools(client, tiny_pool):
    assert client.predict(api_name="/pools") == [tiny_pool.name]


def test_only_the_named_endpoints_are_public(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/pools", "/score", "/search", "/compare"}


@pytest.mark.slow
def test_the_readme_asks_this_app_and_is_answered(address, capsys):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    block = next(body for body in re.findall(r"^```python\n(.*?)^```$", readme, re.M | re.S) if "gradio_client" in body)
    session: dict = {}
    exec(compile(block.replace("http://127.0.0.1:7860", address), "README.md", "exec"), session)
    assert "'Uniform average', 'NegMerge'" in capsys.readouterr().out
    session["app"].close()


@pytest.mark.slow
@pytest.mark.parametrize("split", ["val", "test", "live"])
def test_score_agrees_with_the_workbench_to_the_last_digit(client, name, bench, split):
    told = client.predict(name, bench.pool.ids[:2], "negmerge", 0.4, {"agreement": 0.6}, split, api_name="/score")
    ours = score_json(bench, bench.choose(bench.pool.ids[:2], "negmerge", {"agreement": 0.6}), 0.4, split)
    assert set(told) == {"forget", "retain", "base", "kept_fraction", "seconds"}
    assert told | {"seconds": 0} == ours | {"seconds": 0}


@pytest.mark.slow
def test_search_agrees_with_the_workbench_to_the_last_digit(client, name, bench):
    told = client.predict(pool=name, test=True, scales="0:1:0.25", api_name="/search")
    choice = bench.choose()
    found = bench.search(choice, scales=[0, 0.25, 0.5, 0.75, 1])
    ours = search_json(bench, choice, found, test=True, started=0.0)
    assert told | {"seconds": 0} == ours | {"seconds": 0}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"pool": "../../etc"}, "there is no pool"),
        ({"pool": None}, "there is no pool"),
        ({"candidates": []}, "no candidate is selected"),
        ({"candidates": ["x"]}, "no candidate 'x'"),
        ({"candidates": "all"}, "list of candidate ids"),
        ({"candidates": [["x"]]}, "list of candidate ids"),
        ({"rule": "sum"}, "there is no rule"),
        ({"rule": 7}, "rule is 7"),
        ({"scale": -1}, "scale is -1"),
        ({"scale": 1e9}, "scale is 1000000000"),
        ({"scale": "1"}, "scale is '1'"),
        ({"scale": True}, "scale is True"),
        ({"params": {"agreement": 2}}, "agreement is 2"),
        ({"params": {"colour": 2}}, "colour"),
        ({"params": [1]}, "params must be an object"),
        ({"split": "train"}, "split is 'train'"),
        ({"buffers": "reset"}, "buffers is 'reset'"),
        ({"buffers": ["keep"]}, "choose one of keep, merge, recalibrate"),
        ({"buffers": "recalibrate"}, "no batch normalisation to recalibrate"),
    ],
)
def test_wrong_arguments_of_score_are_one_sentence(client, name, arguments, says):
    with pytest.raises(AppError) as error:
        client.predict(**({"pool": name} | arguments), api_name="/score")
    assert says in str(error.value) and "Traceback" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"keep": 0}, "keep is 0"),
        ({"keep": 1.5}, "keep is 1.5"),
        ({"scales": "0:1:0"}, "cannot be read"),
        ({"scales": "0:1:0.0001"}, "too many"),
        ({"scales": [0, 1]}, "scales must be"),
        ({"test": "yes"}, "test is 'yes'"),
    ],
)
def test_wrong_arguments_of_search_are_one_sentence(client, name, arguments, says):
    with pytest.raises(AppError) as error:
        client.predict(**({"pool": name} | arguments), api_name="/search")
    assert says in str(error.value)


@pytest.mark.slow
def test_candidates_added_since_are_seen_without_a_page(own_pool):
    from negmerge_kit.app.api import Endpoints
    from negmerge_kit.app.pools import Pools
    from negmerge_kit.pools.pool import open_pool
    from negmerge_kit.pools.pool_writer import record_candidate

    whole = open_pool(own_pool)
    record = json.loads((own_pool / "pool.json").read_text())
    record["candidates"] = record["candidates"][:1]
    (own_pool / "pool.json").write_text(json.dumps(record))
    pools = Pools([own_pool], made=own_pool.parent / "made", device="cpu")
    endpoints, bench = Endpoints(pools), pools.open(own_pool.parent.name).bench
    alone = endpoints.score(own_pool.parent.name, None, "negmerge", 0.3, None, "live")["kept_fraction"]
    for entry in whole.entries[1:]:
        record_candidate(bench.pool, entry)
    assert endpoints.score(own_pool.parent.name, None, "negmerge", 0.3, None, "live")["kept_fraction"] < alone
