"""`negmerge audit` and `negmerge agreement --why` from the command line."""

import json

import pytest

from negmerge_kit.checkpoints.writer import save_checkpoint
from negmerge_kit.cli import main
from negmerge_kit.pools.pool import open_pool


def run(capsys, *words):
    code = main([str(word) for word in words])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.mark.slow
def test_an_audit_prints_what_the_contract_says(capsys, tiny_pool, tmp_path):
    figure = tmp_path / "probes.svg"
    code, out, _ = run(
        capsys, "audit", tiny_pool, "--scale", "0.5", "--probes", "zero-shot,neighbours", "--json", "--plot", figure
    )
    told = json.loads(out)
    assert code == 0 and told["scale"] == 0.5 and told["audited"]["rule"] == "negmerge"
    assert {probe["name"] for probe in told["probes"]} == {"zero-shot", "nearest neighbours"}
    left = [probe["left"]["low"] for probe in told["probes"]]
    assert left == sorted(left, reverse=True) and told["finding"].startswith(told["headline"])
    assert figure.read_bytes().startswith(b"<?xml")


@pytest.mark.slow
def test_what_rounding_changes_is_said_below_its_numbers(capsys, tiny_pool):
    asked = ("audit", tiny_pool, "--scale", "0.5", "--probes", "quantisation")
    code, out, _ = run(capsys, *asked, "--json")
    assert code == 0
    by = {probe["name"]: probe["details"]["by_rounding"] for probe in json.loads(out)["probes"]}["INT4 on forget"]
    said = [
        f"{who} {100 * by[who]['value']:+.1f} ({100 * by[who]['low']:+.1f} to {100 * by[who]['high']:+.1f})"
        for who in ("base", "unlearned")
    ]
    code, out, _ = run(capsys, *asked)
    assert code == 0 and f"  rounding alone changes it by points, 95 % interval: {', '.join(said)}\n" in out
    assert "INT4 on forget (lower is better): " in out and "INT8 on retain (higher is better): " in out


@pytest.mark.slow
def test_a_file_is_audited_in_place_of_a_merge(capsys, tiny_pool, tmp_path):
    pool = open_pool(tiny_pool)
    same = save_checkpoint(tmp_path / "same.safetensors", pool.base.items(), like=pool.base)
    code, out, _ = run(
        capsys, "audit", tiny_pool, "--unlearned", same, "--retrained", same, "--probes", "neighbours,membership"
    )
    assert code == 0 and "scale" not in out and "95 % interval" in out
    assert "At the level of the floor: nearest neighbours." in out and "\n  at the level of the floor" in out
    assert "nearest neighbours (lower is better): " in out and "membership SVC (higher is better): " in out
    assert "of test images, which none of them saw" in out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["audit"], "POOL"),
        (["audit", "nowhere"], "negmerge pool build"),
        (["audit", "{pool}", "--probes", "magic", "--scale", "1"], "neighbours"),
        (["audit", "{pool}", "--steps", "0", "--scale", "1"], "at least one"),
        (["audit", "{pool}", "--scale", "nan"], "scale"),
        (["audit", "{pool}", "--unlearned", "u.safetensors", "--scale", "1"], "exclude"),
        (["audit", "{pool}", "--unlearned", "missing.safetensors"], "missing.safetensors"),
        (["audit", "{pool}", "--retrained", "{pool}/heads.safetensors", "--scale", "1"], "retrained"),
        (["audit", "{pool}", "--scales", "3,4", "--keep", "1"], "infeasible"),
        (["agreement", "{pool}/base.safetensors"], "POOL"),
        (["agreement", "nowhere", "--why"], "POOL"),
    ],
)
def test_wrong_input_is_one_clear_line(capsys, tiny_pool, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    code, out, said = run(capsys, *(word.format(pool=tiny_pool) for word in words))
    lines = [line for line in said.splitlines() if line and not line.startswith("probes [")]
    assert code == 2 and not out and len(lines) == 1 and says in lines[0], said


@pytest.mark.slow
def test_agreement_takes_a_pool_and_says_why(capsys, tiny_pool, tmp_path):
    pool = open_pool(tiny_pool)
    files = [tiny_pool / entry.file for entry in pool.entries]
    whole = json.loads(run(capsys, "agreement", tiny_pool, "--json")[1])
    assert whole == json.loads(run(capsys, "agreement", tiny_pool / "base.safetensors", *files, "--json")[1])
    figure = tmp_path / "why.png"
    code, out, _ = run(capsys, "agreement", tiny_pool / "base.safetensors", *files, "--why", "--json", "--plot", figure)
    why = json.loads(out)["why"]
    assert code == 0 and figure.stat().st_size > 10_000
    assert why["whole"]["unanimous"] == whole["unanimous"] and why["hyperparameters"] == {} and why["directions"] == []
    assert [size["n"] for size in why["zero_ratio"]] == [1, 2, 3]


@pytest.mark.slow
def test_why_of_a_pool_takes_steps_and_asks_its_hyperparameters(capsys, tiny_pool, monkeypatch):
    from negmerge_kit.analysis import step_along

    monkeypatch.setattr(
        step_along.step_along, "__kwdefaults__", {**step_along.step_along.__kwdefaults__, "shares": (0.5,)}
    )
    code, out, _ = run(capsys, "agreement", tiny_pool, "--why")
    assert code == 0 and "expected from cosines" in out and "two halves" in out
    assert "lr" in out and "at random" in out and "consensus" in out and "conflict" in out
