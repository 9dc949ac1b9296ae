"""Ray: a two-node cluster on this machine loses a worker, a node and a driver, and nothing that is finished."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_jobs import Count, alive, wait_for

from negmerge_kit.errors import NegmergeError, ParameterError
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.sweeps.finetune_job import missing_jobs
from negmerge_kit.sweeps.job import SweepStopped
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.sweeps.run import Serial, find_executor, run_sweep
from negmerge_kit.training.recipe import Recipe

from ..app.tuning import tunes_in

pytestmark = pytest.mark.ray

HERE = str(Path(__file__).parent)
STORE = 80 * 2**20


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head of one core and a second node of one core, both asking for a token."""
    token = tmp_path_factory.mktemp("ray") / "token"
    token.write_text("0123456789abcdef" * 2)
    settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "PYTHONPATH": HERE}
    before = {name: os.environ.get(name) for name in settings}
    os.environ |= settings
    from ray._private.authentication_test_utils import reset_auth_token_state
    from ray.cluster_utils import Cluster

    reset_auth_token_state()  # Ray reads these settings once a process, and another test may have come first

    # Nothing but the nodes: a raylet gives up when its helpers have not started within 15 s.
    bare = {"num_cpus": 1, "object_store_memory": STORE, "include_log_monitor": False}
    head = {**bare, "include_dashboard": False, "no_monitor": True}
    started = Cluster(initialize_head=True, head_node_args=head)
    started.second = started.add_node(**bare)
    yield started
    pids = [
        info.process.pid for node in started.list_all_nodes() for infos in node.all_processes.values() for info in infos
    ]
    started.shutdown()
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    reset_auth_token_state()
    assert wait_for(lambda: not any(alive(pid) for pid in pids), 20)


@pytest.fixture(scope="module")
def joined(cluster):
    """The executor on that cluster."""
    return find_executor("ray", address=cluster.address, device="cpu")


def test_a_killed_worker_and_failing_jobs(joined, tmp_path):
    jobs = [Count(tmp_path, name, fault=name) for name in ("die once", "raise", "refuse", "fine")]
    steps = []
    found = {o.job.label: o for o in run_sweep(jobs, executor=joined, on_step=lambda job, p: steps.append(job))}
    assert found["die once"].attempts == 2 and found["die once"].value["label"] == "die once"
    assert "RuntimeError: a bug of its own" in found["raise"].failure and found["raise"].is_bug
    assert found["refuse"].failure == "too small: give a larger number."
    assert found["fine"].value["pid"] != os.getpid() and jobs[3] in steps
    assert found["fine"].value["threads"] == "1"


def test_a_candidate_made_there_has_the_bits_of_one_made_here(joined, tiny_pool, tmp_path):
    expected = open_pool(tiny_pool).entries[0]
    pool, _ = start_pool("tiny:digits", tmp_path / "pool")
    jobs = missing_jobs(pool, [Recipe.from_json(expected.recipe)], device="cpu")
    (outcome,) = run_sweep(jobs, store=pool, executor=joined)
    assert outcome.failure is None
    (made,) = pool.reload().entries
    assert (made.id, made.sha256, made.scores) == (expected.id, expected.sha256, expected.scores)


def test_the_app_fine_tunes_on_the_cluster_at_the_address_it_is_given(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(Serial, "run", None)  # not here
    tunes = tunes_in(tmp_path)
    plan = tunes.plans.of_family("colours")
    run = tunes.start(plan.id, (Recipe(lr=1e-3, epochs=2),), cluster.address)
    run.future.result(120)
    assert run.failures == [] and run.pool == plan.id and len(open_pool(plan.folder).ids) == 1
    (curve,) = run.curves.values()
    assert curve.losses


def test_what_no_node_has_and_what_no_node_sees(joined, cluster, tmp_path):
    greedy = find_executor("ray", address=cluster.address, gpus_per_job=0.5)
    with pytest.raises(ParameterError, match="largest node has 0"):
        list(run_sweep([Count(tmp_path, "a")], executor=greedy))
    (outcome,) = joined.run([Count(tmp_path, "a")], lambda job, progress: None, {tmp_path: "another pool's"})
    assert outcome.stops and "does not see" in outcome.failure
    assert not (tmp_path / "a.started").exists()


def test_a_stopped_sweep_leaves_no_task_behind(joined, tmp_path):
    job = Count(tmp_path, "long", steps=10_000, seconds=600)

    def stop(job, progress):
        raise SweepStopped

    assert list(run_sweep([job], executor=joined, on_step=stop)) == []
    assert wait_for(lambda: not any(alive(pid) for pid in job.pids()), 20)


def test_a_killed_driver_frees_the_cluster_and_another_goes_on(joined, cluster, tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {HERE!r})\n"
        "from pathlib import Path\nfrom small_jobs import Count\n"
        "from negmerge_kit.sweeps.run import find_executor, run_sweep\n"
        f"job = Count(Path({str(tmp_path)!r}), 'long', steps=9, seconds=600)\n"
        f"list(run_sweep([job], executor=find_executor('ray', address={cluster.address!r})))\n"
    )
    job = Count(tmp_path, "long")
    with subprocess.Popen([sys.executable, script]) as driver:
        assert wait_for((tmp_path / "long.started").exists, 120)
        driver.send_signal(signal.SIGKILL)
        driver.wait(30)
    assert wait_for(lambda: not any(alive(pid) for pid in job.pids()), 30)
    (outcome,) = run_sweep([job], executor=joined)
    assert outcome.failure is None


def test_a_lost_node_s_job_runs_again_on_another(joined, cluster, tmp_path):
    jobs = [Count(tmp_path, f"{k}", steps=80, seconds=8) for k in range(3)]
    killed = []

    def on_step(job, progress):
        # Both nodes are at work: the second is lost with all its processes.
        if not killed and all((tmp_path / f"{k}.started").exists() for k in (0, 1)):
            killed.append(1)
            cluster.remove_node(cluster.second, allow_graceful=False)

    outcomes = list(run_sweep(jobs, executor=joined, on_step=on_step))
    assert killed and [outcome.failure for outcome in outcomes] == [None] * 3
    assert sorted(outcome.attempts for outcome in outcomes) == [1, 1, 2]
    assert {outcome.job for outcome in outcomes} == set(jobs)
    assert len({outcome.value["node"] for outcome in outcomes}) == 1


@pytest.mark.parametrize("share", [float("nan"), -0.5, 1.5, float("inf")])
def test_a_share_that_cannot_be_is_told_before_a_cluster_is_started(tmp_path, share, monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **settings: pytest.fail("a cluster was started"))
    monkeypatch.setattr("negmerge_kit.sweeps.ray_pool.visible_gpus", lambda: ["0", "1"])
    with pytest.raises(ParameterError, match="--gpus-per-job"):
        list(run_sweep([Count(tmp_path, "a")], executor=find_executor("ray", gpus_per_job=share)))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.0.0.1:port"])
def test_a_cluster_that_is_not_there_is_one_sentence_at_once(tmp_path, address):
    started = time.monotonic()
    with pytest.raises(NegmergeError, match=f"{address} cannot be used"):
        list(run_sweep([Count(tmp_path, "a")], executor=find_executor("ray", address=address)))
    assert time.monotonic() - started < 10


def test_a_local_cluster_ends_with_its_sweep(tmp_path):
    script = tmp_path / "sweep.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {HERE!r})\n"
        "import os\nfrom pathlib import Path\nfrom small_jobs import Count\n"
        "from negmerge_kit.sweeps.run import find_executor, run_sweep\n"
        f"job = Count(Path({str(tmp_path)!r}), 'one')\n"
        "for outcome in run_sweep([job], executor=find_executor('ray', workers=1, device='cpu')):\n"
        "    print(outcome.failure, os.environ['RAY_AUTH_MODE'])\n"
        "from small_jobs import children\nprint(children(os.getpid()))\n"
    )
    environment = {**os.environ, "RAY_AUTH_TOKEN": "0123456789abcdef" * 2, "PYTHONPATH": HERE}
    environment.pop("RAY_AUTH_MODE", None)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=180, env=environment)
    assert done.stdout.splitlines() == ["None token", "[]"], done.stderr
