"""Files in, files out: the contract's JSON, whole outputs or none, and no input ever touched."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

from negmerge_kit.checkpoints import open_checkpoint, save_checkpoint, sha256_file
from negmerge_kit.checkpoints.delta_file import open_delta
from negmerge_kit.checkpoints.merge_files import agreement_files, apply_file, merge_files, undo_file
from negmerge_kit.cli import main
from negmerge_kit.errors import CheckpointError, NegmergeError, ParameterError
from negmerge_kit.merging import RULES, merge, unlearn
from tests.checkpoints.files import sharded
from tests.merging.models import arrays, make
from tests.oracles import agreement_by_length


@pytest.fixture
def models(tmp_path):
    base, candidates = make(3, seed=6)
    paths = []
    for name, weights in zip("base a b c".split(), (base, *candidates), strict=True):
        paths.append(str(save_checkpoint(tmp_path / f"{name}.safetensors", weights.items(), like=weights)))
    return base, candidates, paths


def same(found, expected):
    return found.keys() == expected.keys() and all(
        torch.equal(found[name].reshape(-1).view(torch.uint8), expected[name].reshape(-1).view(torch.uint8))
        for name in expected
    )


@pytest.mark.parametrize("rule", RULES)
def test_the_streamed_file_is_the_dict_in_memory(models, tmp_path, rule):
    base, candidates, (first, *rest) = models
    result = merge_files(first, rest, out=tmp_path / "u.safetensors", scale=0.7, rule=rule)
    assert same(open_checkpoint(tmp_path / "u.safetensors"), dict(unlearn(base, candidates, scale=0.7, rule=rule)))
    assert set(result) >= {
        "rule",
        "params",
        "candidates",
        "elements",
        "moved",
        "kept",
        "kept_fraction",
        "kept_of_moved",
        "scale",
        "seconds",
        "out",
    }
    json.dumps(result)


def test_out_and_delta_in_one_pass_and_back_again(models, tmp_path):
    base, candidates, (first, *rest) = models
    out, delta = tmp_path / "u.safetensors", tmp_path / "d.safetensors"
    merge_files(first, rest, out=out, delta_out=delta, scale=0.7)
    assert same(dict(open_delta(delta)), dict(merge(base, candidates)))
    undo_file(out, delta, scale=0.7, out=tmp_path / "back.safetensors")
    assert same(open_checkpoint(tmp_path / "back.safetensors"), base)
    apply_file(first, delta, scale=0.7, out=tmp_path / "again.safetensors")
    assert same(open_checkpoint(tmp_path / "again.safetensors"), open_checkpoint(out))
    record = open_checkpoint(out).metadata
    assert record["rule"] == "negmerge" and record["scale"] == 0.7
    assert record["inputs"]["base"] == {"base.safetensors": sha256_file(first)}
    assert [list(entry.values()) for entry in record["inputs"]["others"]] == [[sha256_file(path)] for path in rest]


def test_base_and_candidates_may_be_cut_into_different_shards(models, tmp_path):
    base, candidates, _ = models
    paths = []
    for k, weights in enumerate((base, *candidates)):
        (tmp_path / str(k)).mkdir()
        paths.append(sharded(tmp_path / str(k), weights, k + 1))
    merge_files(paths[0], paths[1:], out=tmp_path / "one.safetensors")
    assert same(open_checkpoint(tmp_path / "one.safetensors.index.json"), dict(unlearn(base, candidates, scale=1.0)))
    merge_files(paths[3], [paths[0], paths[1]], out=tmp_path / "four.safetensors")
    assert len(open_checkpoint(tmp_path / "four.safetensors.index.json").files) == 4


def test_agreement_prints_the_contract(models):
    _, _, (first, *rest) = models
    result = agreement_files(first, rest)
    assert list(result)[:10] == [
        "candidates",
        "elements",
        "moved",
        "unanimous",
        "unanimous_fraction",
        "unanimous_of_moved",
        "unanimous_of_length",
        "chance",
        "histogram",
        "tensors",
    ]
    assert result["chance"] == 0.25 and sum(result["histogram"]) == result["moved"]
    assert set(result["tensors"][0]) == {"name", "elements", "moved", "unanimous_fraction", "unanimous_of_length"}


def test_lengths_in_json_are_the_oracles_and_null_where_a_candidate_holds_nan(models, tmp_path, capsys):
    base, candidates, (first, *rest) = models
    told = agreement_files(first, rest)
    expected = agreement_by_length(arrays(base, candidates))
    assert told["unanimous_of_length"] == pytest.approx(expected.pop("all"))
    shares = {tensor["name"]: tensor["unanimous_of_length"] for tensor in told["tensors"]}
    assert {name: share for name, share in shares.items() if share} == pytest.approx(
        {name: share for name, share in expected.items() if share}
    )
    damaged = candidates[1] | {"f": torch.full((128,), float("nan"))}
    save_checkpoint(tmp_path / "b.safetensors", damaged.items(), like=damaged)
    assert main(["agreement", first, *rest, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    again = {tensor["name"]: tensor["unanimous_of_length"] for tensor in told["tensors"]}
    assert told["unanimous_of_length"] is None and again == {**shares, "f": None}
    assert main(["agreement", first, *rest]) == 0
    assert "not finite" in capsys.readouterr().out


def test_outputs_never_fall_on_inputs(models, tmp_path):
    _, _, (first, *rest) = models
    before = [sha256_file(path) for path in (first, *rest)]
    for options in ({"out": first}, {"out": rest[1]}, {"delta_out": rest[0]}):
        with pytest.raises(CheckpointError, match="one of the inputs"):
            merge_files(first, rest, **options)
    with pytest.raises(ParameterError, match="two files"):
        merge_files(first, rest, out=tmp_path / "x.safetensors", delta_out=tmp_path / "x.safetensors")
    assert [sha256_file(path) for path in (first, *rest)] == before


def test_the_base_among_the_candidates_is_noticed_by_path_and_by_bytes(models, tmp_path):
    base, _, (first, *rest) = models
    copy = save_checkpoint(tmp_path / "copy.safetensors", base.items(), like=base)
    for candidate in (first, copy):
        with pytest.raises(ParameterError, match="base itself"):
            merge_files(first, [candidate, *rest], out=tmp_path / "u.safetensors")
    assert not (tmp_path / "u.safetensors").exists()


@pytest.mark.parametrize("damage", ["truncated", "foreign", "nan", "other model", "missing"])
def test_bad_inputs_are_exit_code_two_one_line_and_no_output(models, tmp_path, capsys, damage):
    _, candidates, (first, *rest) = models
    victim = tmp_path / "b.safetensors"
    if damage == "truncated":
        victim.write_bytes(victim.read_bytes()[:-3])
    elif damage == "foreign":
        victim.write_bytes(b"GIF89a" * 20)
    elif damage == "missing":
        victim.unlink()
    else:
        weights = candidates[1] | ({"f": torch.full((128,), float("nan"))} if damage == "nan" else {"x": torch.ones(1)})
        save_checkpoint(victim, weights.items(), like=weights)
    code = main(["merge", first, *rest, "--out", str(tmp_path / "u.safetensors"), "--delta-out", str(tmp_path / "d")])
    told = capsys.readouterr()
    assert code == 2 and told.out == "" and len(told.err.strip().splitlines()) == 1
    assert not (tmp_path / "u.safetensors").exists() and not (tmp_path / "d").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_wrong_rule_or_dial_fails_before_a_file_is_made(models, tmp_path):
    _, _, (first, *rest) = models
    for options in ({"rule": "best"}, {"agreement": 0.2}, {"scale": float("nan")}, {"buffers": "x"}):
        with pytest.raises(NegmergeError):
            merge_files(first, rest, out=tmp_path / "u.safetensors", **options)
    assert not (tmp_path / "u.safetensors").exists()


def test_half_precision_files_merge_with_a_warning(tmp_path):
    base, candidates = make(2, dtype=torch.bfloat16)
    paths = [
        save_checkpoint(tmp_path / f"{k}.safetensors", weights.items(), like=weights)
        for k, weights in enumerate((base, *candidates))
    ]
    with pytest.warns(UserWarning, match="half precision"):
        merge_files(paths[0], paths[1:], out=tmp_path / "u.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert same(open_checkpoint(tmp_path / "u.safetensors"), dict(unlearn(base, candidates, scale=1.0)))
