"""Worker processes: pinned, replaced when lost, ended with the driver; the same bits as one after another."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from small_jobs import Count, alive, wait_for

from negmerge_kit.errors import ParameterError, PoolError
from negmerge_kit.pools.pool import RECORD, open_pool
from negmerge_kit.pools.pool_writer import record_candidate
from negmerge_kit.progress import Progress
from negmerge_kit.sweeps import process_pool
from negmerge_kit.sweeps.finetune_job import missing_jobs, pool_order
from negmerge_kit.sweeps.job import Outcome, SweepStopped, pool_digest
from negmerge_kit.sweeps.pool_setup import start_pool
from negmerge_kit.sweeps.process_pool import Processes, places
from negmerge_kit.sweeps.run import find_executor, run_sweep
from negmerge_kit.sweeps.worker import NowAndThen
from negmerge_kit.training.recipe import Recipe

HERE = str(Path(__file__).parent)
ONE, TWO = Processes(workers=1, device="cpu"), Processes(workers=2, device="cpu")


@pytest.mark.slow
def test_a_lost_worker_is_replaced_and_failures_are_outcomes(tmp_path):
    jobs = [Count(tmp_path, name, fault=name) for name in ("die", "die once", "raise", "refuse", "exit", "unsendable")]
    jobs += [Count(tmp_path, "fine"), Count(tmp_path, "also fine")]
    steps = []
    found = {o.job.label: o for o in run_sweep(jobs, executor=TWO, on_step=lambda job, p: steps.append((job, p)))}
    assert set(found) == {job.label for job in jobs}

    assert found["die once"].attempts == 2 and found["die once"].value["label"] == "die once"
    assert len(jobs[1].pids()) == 2 and len(jobs[0].pids()) == found["die"].attempts == 3
    assert "lost 3 times (signal 9)" in found["die"].failure and not found["die"].is_bug
    assert "RuntimeError: a bug of its own" in found["raise"].failure and found["raise"].is_bug
    assert found["refuse"].failure == "too small: give a larger number." and not found["refuse"].is_bug
    assert "SystemExit: 4" in found["exit"].failure and found["unsendable"].is_bug
    for name in ("fine", "also fine"):
        assert found[name].failure is None and found[name].attempts == 1
        assert str(found[name].value["pid"]) in found[name].worker and found[name].value["pid"] != os.getpid()
    assert (jobs[6], 1) in [(job, progress.step) for job, progress in steps]
    assert wait_for(lambda: not any(alive(pid) for job in jobs for pid in job.pids()), 10)
    assert {path.suffix for path in tmp_path.iterdir()} == {".started"}


def test_the_first_report_of_each_part_is_passed_on_and_then_one_now_and_then():
    chosen = NowAndThen(seconds=1e9)
    chosen._said = -2e9
    told = [Progress(doing, step=k, total=3) for doing in ("step", "scoring") for k in (1, 2, 3)]
    assert [(step.message, step.step) for step in told if chosen(step)] == [("step", 1), ("scoring", 1)]
    chosen = NowAndThen(seconds=0.0)
    assert all(chosen(step) for step in told)


@pytest.mark.slow
def test_each_worker_has_its_gpu_and_its_share_of_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(process_pool, "visible_gpus", lambda: ["3", "GPU-5"])
    monkeypatch.setattr(process_pool, "cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    jobs = [Count(tmp_path, f"{k}", seconds=1.0) for k in range(4)]
    values = [outcome.value for outcome in run_sweep(jobs, executor=Processes(device="auto"))]
    assert {value["gpu"] for value in values} == {"3", "GPU-5"}
    assert {value["threads"] for value in values} == {"3"}
    assert len({value["pid"] for value in values}) == 2


def test_places_share_what_is_there(monkeypatch):
    monkeypatch.setattr(process_pool, "cores", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert [place.threads for place in places(3, "cpu", most=9)] == [2, 2, 2]
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [place.threads for place in places(3, "cpu", most=9)] == [2, 2, 2]
    assert len(places(None, "cpu", most=99)) == 8
    monkeypatch.setattr(process_pool, "visible_gpus", lambda: ["0", "1"])
    assert [place.gpu for place in places(None, "cuda", most=9)] == ["0", "1"]
    assert [place.gpu for place in places(3, "auto", most=9)] == ["0", "1", "0"]
    with pytest.raises(ParameterError, match="at least 1"):
        places(0, "cpu", most=1)


@pytest.mark.slow
def test_a_stopped_sweep_ends_its_workers_soon(tmp_path):
    jobs = [Count(tmp_path, "long", steps=10_000, seconds=600)]

    def stop(job, progress):
        raise SweepStopped

    assert list(run_sweep(jobs, executor=ONE, on_step=stop)) == []
    assert wait_for(lambda: not any(alive(pid) for pid in jobs[0].pids()), 5)


class Astray:
    """Workers that see something else under the driver's path."""

    def __init__(self, run):
        self._run = run

    def run(self, jobs, on_step, digests):
        yield from self._run(jobs, on_step, digests)


@pytest.mark.slow
def test_a_worker_that_does_not_see_the_pool_stops_the_sweep(own_pool):
    def run(jobs, on_step, digests):
        assert digests == {own_pool: pool_digest(own_pool)} and digests[own_pool]
        yield from ONE.run(jobs, on_step, {own_pool: "another pool's"})

    job = Count(own_pool, "a")
    with pytest.raises(PoolError, match=f"does not see {own_pool}.*every machine shares"):
        list(run_sweep([job], executor=Astray(run)))
    assert not (own_pool / "a.started").exists()
    assert [outcome.failure for outcome in run_sweep([job], executor=ONE)] == [None]


def test_a_candidate_written_into_a_copy_of_the_pool_stops_the_sweep(own_pool):
    """On another machine the same path may be a copy of the pool: what is written there, the driver does not see."""
    pool = open_pool(own_pool)

    def run(jobs, on_step, digests):
        yield Outcome(jobs[0], replace(pool.entries[0], id="new", file="candidates/new.safetensors"), worker="there:1")

    with pytest.raises(PoolError, match=f"there:1 does not see {own_pool}"):
        list(run_sweep([Count(own_pool, "a")], store=pool, executor=Astray(run)))
    assert open_pool(own_pool).ids == pool.ids


def test_a_pools_digest_stays_while_candidates_come_and_is_another_for_another_base(own_pool, tmp_path):
    before, pool = pool_digest(own_pool), open_pool(own_pool)
    record_candidate(pool, replace(pool.entries[0], id="copy"))
    assert pool_digest(own_pool) == before
    record = json.loads((own_pool / RECORD).read_text())
    record["base"]["sha256"] = "0" * 64
    (own_pool / RECORD).write_text(json.dumps(record))
    assert pool_digest(own_pool) not in (None, before) and pool_digest(tmp_path / "nowhere") is None


@pytest.mark.slow
def test_a_worker_that_dies_between_two_jobs_costs_none(tmp_path):
    jobs = [Count(tmp_path, "first"), Count(tmp_path, "second")]
    outcomes = []
    for outcome in run_sweep(jobs, executor=ONE):
        outcomes.append(outcome)
        if len(outcomes) == 1:
            os.kill(outcome.value["pid"], signal.SIGKILL)
            assert wait_for(lambda: not alive(outcomes[0].value["pid"]))
            time.sleep(0.5)  # until the pool has noticed
    assert [(outcome.failure, outcome.attempts) for outcome in outcomes] == [(None, 1)] * 2


@pytest.mark.slow
def test_a_script_without_a_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {HERE!r})\n"
        "from pathlib import Path\nfrom small_jobs import Count\nfrom negmerge_kit import run_sweep\n"
        f"print(list(run_sweep([Count(Path({str(tmp_path)!r}), 'a')], executor='process')))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "if __name__ == '__main__':" in done.stderr.splitlines()[-1]


@pytest.mark.slow
def test_processes_make_the_pool_that_one_thread_makes(tiny_pool, tmp_path):
    expected = open_pool(tiny_pool).entries[:2]
    recipes = [Recipe.from_json(recipe) for recipe in (entry.recipe for entry in expected)]
    pool, _ = start_pool("tiny:digits", tmp_path / "pool")
    jobs = missing_jobs(pool, recipes, device="cpu")
    order = pool_order(pool, recipes)
    # Begun in the other order: the pool's order is the grid's all the same.
    steps = []
    outcomes = list(
        run_sweep(
            jobs[::-1],
            store=pool,
            executor=TWO,
            order=order,
            on_step=lambda job, step: steps.append((job, step.message)),
        )
    )
    assert set(steps) == {(job, doing) for job in jobs for doing in ("step", "scoring")}
    assert [outcome.failure for outcome in outcomes] == [None] * 2
    made = pool.reload()
    assert [(e.id, e.sha256, e.scores, e.losses) for e in made.entries] == [
        (e.id, e.sha256, e.scores, e.losses) for e in expected
    ]
    assert not (pool.folder / "unfinished").exists()


def test_executors_refuse_what_is_not_theirs():
    for wrong in ({"workers": 0}, {"address": "auto"}, {"gpus_per_job": 0.5}):
        with pytest.raises(ParameterError):
            find_executor("process", **wrong)
    with pytest.raises(ParameterError, match="serial, process, ray"):
        find_executor("slurm")
    with pytest.raises(ParameterError, match="serial"):
        find_executor("serial", workers=2)


@pytest.mark.slow
def test_a_killed_driver_takes_its_workers_along(tmp_path):
    script = tmp_path / "driver.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {HERE!r})\n"
        "from pathlib import Path\nfrom small_jobs import Count\n"
        "from negmerge_kit.sweeps.run import run_sweep\nfrom negmerge_kit.sweeps.process_pool import Processes\n"
        f"jobs = [Count(Path({str(tmp_path)!r}), 'long', steps=2, seconds=600)]\n"
        "if __name__ == '__main__':\n    list(run_sweep(jobs, executor=Processes(1, 'cpu')))\n"
    )
    job = Count(tmp_path, "long")
    with subprocess.Popen([sys.executable, script]) as driver:
        assert wait_for((tmp_path / "long.started").exists, 120)
        (worker,) = job.pids()
        assert alive(worker)
        driver.send_signal(signal.SIGKILL)
        driver.wait(30)
    assert wait_for(lambda: not alive(worker), 10)


def test_only_one_module_imports_ray():
    package = Path(process_pool.__file__).parents[1]
    importing = [
        path.name for path in package.rglob("*.py") if re.search(r"^\s*(import|from) ray\b", path.read_text(), re.M)
    ]
    assert importing == ["ray_pool.py"]
