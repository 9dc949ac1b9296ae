"""Questions to a pool as jobs: the answers of the workbench, in this process or in others."""

import json
import pickle

import pytest

from negmerge_kit.cli import main
from negmerge_kit.comparison.compare import compare_rules
from negmerge_kit.comparison.methods import find_methods
from negmerge_kit.comparison.row_store import RowStore
from negmerge_kit.pools.pool import open_pool
from negmerge_kit.sweeps.comparison_job import comparison_jobs
from negmerge_kit.sweeps.run import run_sweep
from negmerge_kit.unlearning.workbench import Workbench

pytestmark = pytest.mark.slow

SCALES = (0.0, 0.3, 0.6)


def test_a_comparison_is_one_job_a_rule(own_pool):
    pool = open_pool(own_pool)
    methods = find_methods("negmerge,uniform", "none")
    jobs = comparison_jobs(pool, methods, scales=SCALES, device="cpu")
    rows = {outcome.job.method.name: outcome.value for outcome in run_sweep(jobs)}
    bench = Workbench(pool, device="cpu")
    kept = RowStore(pool, keep=0.95, scales=SCALES, device=bench.model.device)
    found = compare_rules(bench, methods, scales=SCALES, kept=kept)
    assert {row.method.name: row.json() for row in found.rows} == rows
    assert [job.label for job in jobs] == [row.method.title for row in found.rows]
    assert max(len(pickle.dumps(job)) for job in jobs) < 20_000  # what travels is small: weights are in files


def test_a_comparisons_jobs_look_at_the_pools_candidates_as_it_was_given(own_pool):
    pool = open_pool(own_pool)
    two = pool.only(pool.ids[:2])
    (job,) = comparison_jobs(two, find_methods("uniform", "none"), scales=SCALES, device="cpu")
    assert job.run()["candidates"] == two.ids
    (job,) = comparison_jobs(pool, find_methods("uniform", "none"), scales=SCALES, device="cpu")
    assert job.run()["candidates"] == pool.ids


def test_compare_spreads_its_rules_over_workers(own_pool, capsys):
    words = ["compare", str(own_pool), "--rules", "negmerge,uniform", "--baselines", "none", "--scales", "0,0.3"]
    words += ["--device", "cpu", "--json"]
    assert main([*words, "--executor", "process", "--workers", "1"]) == 0
    shown = capsys.readouterr()
    assert "2/2 " in shown.err and len(list((own_pool / "comparisons").glob("*.json"))) == 2
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(shown.out)
