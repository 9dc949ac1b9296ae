"""Old checkpoints: everything the authors saved comes over, nothing that a file names is imported or called."""

from __future__ import annotations

import io
import os
import pickle
import random
import subprocess
import sys
import zipfile

import pytest
import torch
from torch import nn

from negmerge_kit.checkpoints import open_checkpoint
from negmerge_kit.checkpoints.attention import fuse_attention
from negmerge_kit.checkpoints.legacy import convert_files, load_legacy
from negmerge_kit.cli import main
from negmerge_kit.errors import CheckpointError
from tests.checkpoints.authors import ClassificationHead, ImageEncoder, Tower, save_as_the_authors_do

FORMATS = [{}, {"_use_new_zipfile_serialization": False}]


def towers():
    torch.manual_seed(0)
    plain = Tower().eval()
    for parameter in plain.parameters():
        parameter.data.normal_(std=0.3)
    split = Tower().eval()
    split.load_state_dict(plain.state_dict())
    return plain, ImageEncoder(split).eval()


@pytest.mark.parametrize("options", FORMATS, ids=["zip", "old"])
def test_the_authors_encoder_gives_the_same_features_after_conversion(tmp_path, options):
    plain, encoder = towers()
    save_as_the_authors_do(encoder, tmp_path / "finetuned.pt", **options)
    report = convert_files([str(tmp_path / "finetuned.pt")], tmp_path / "out")["files"][0]
    weights = open_checkpoint(report["out"])
    assert set(weights) == set(plain.state_dict())
    fresh = Tower().eval()
    fresh.load_state_dict(dict(weights))
    x = torch.randn(4, 3, 8)
    with torch.no_grad():
        assert torch.equal(fresh(x), plain(x))
        torch.testing.assert_close(fresh(x), encoder.model(x), rtol=1e-5, atol=1e-6)
    assert "attn_mask" not in " ".join(weights)
    assert any("Normalize" in line for line in report["dropped"])
    assert "src.modeling.ImageEncoder" in report["named"]


@pytest.mark.parametrize("options", FORMATS, ids=["zip", "old"])
def test_heads_state_dicts_and_wrappers(tmp_path, options):
    head = ClassificationHead()
    save_as_the_authors_do(head, tmp_path / "head.pt", **options)
    assert set(load_legacy(tmp_path / "head.pt").weights) == {"weight", "bias"}
    state = {
        "w": torch.randn(3, 2),
        "n": torch.tensor(3),
        "h": torch.randn(2).to(torch.bfloat16),
        "t": torch.randn(4, 2).T,
    }
    for content in (
        state,
        nn.ParameterDict({"w": nn.Parameter(state["w"])}).state_dict(),
        {"state_dict": state, "epoch": 3},
        {"model": {f"module.{name}": value for name, value in state.items()}, "optimizer": {"lr": 0.1}},
    ):
        torch.save(content, tmp_path / "s.pt", **options)
        found = load_legacy(tmp_path / "s.pt")
        assert all(torch.equal(tensor, state[name]) for name, tensor in found.weights.items()) and found.weights
        assert len(found.dropped) == (1 if len(content) == 2 and "w" not in content else 0)


@pytest.mark.parametrize("wrap", ["module.", "module._orig_mod.", "_orig_mod.module.", "model._fsdp_wrapped_module."])
def test_wrappers_in_names_go_and_one_line_says_so(tmp_path, wrap, capsys):
    state = {"a.w": torch.randn(3, 2), "b.w": torch.randn(2)}
    torch.save({f"{wrap}{name}": value for name, value in state.items()}, tmp_path / "s.pt")
    assert main(["convert", str(tmp_path / "s.pt"), "--out", str(tmp_path / "out")]) == 0
    assert f"note: names read without their wrappers, such as {wrap}a.w as a.w\n" in capsys.readouterr().out
    found = open_checkpoint(tmp_path / "out/s.safetensors")
    assert {*found} == {*state} and all(torch.equal(found[name], state[name]) for name in state)
    torch.save(state, tmp_path / "s.pt")
    assert convert_files([str(tmp_path / "s.pt")], tmp_path / "again")["files"][0]["notes"] == []


def test_a_name_that_is_only_a_prefix_stays(tmp_path):
    torch.save({"module.": torch.ones(2)}, tmp_path / "s.pt")
    assert {*load_legacy(tmp_path / "s.pt").weights} == {"module."}


def test_views_of_one_storage_come_over_apart(tmp_path):
    shared = torch.arange(12.0)
    torch.save({"a": shared[:4], "b": shared[4:].view(2, 4), "c": shared[::3]}, tmp_path / "s.pt")
    found = load_legacy(tmp_path / "s.pt").weights
    assert found["b"].tolist() == shared[4:].view(2, 4).tolist() and found["c"].tolist() == [0, 3, 6, 9]


def test_fusing_stacks_q_k_and_v_and_refuses_a_part():
    parts = {part: torch.randn(4, 4) for part in "QKVO"}
    weights = {f"v.attn.{part}.weight": tensor for part, tensor in parts.items()}
    weights |= {f"v.attn.{part}.bias": tensor[0] for part, tensor in parts.items()} | {"v.ln.weight": torch.ones(4)}
    fused = fuse_attention(weights)
    assert sorted(fused) == [
        "v.attn.in_proj_bias",
        "v.attn.in_proj_weight",
        "v.attn.out_proj.bias",
        "v.attn.out_proj.weight",
        "v.ln.weight",
    ]
    for place, part in enumerate("QKV"):
        assert torch.equal(fused["v.attn.in_proj_weight"][4 * place : 4 * place + 4], parts[part])
        assert torch.equal(fused["v.attn.in_proj_bias"][4 * place : 4 * place + 4], parts[part][0])
    assert torch.equal(fused["v.attn.out_proj.weight"], parts["O"])
    with pytest.raises(CheckpointError, match=r"attn\.V\.weight"):
        fuse_attention({"attn.Q.weight": torch.ones(1, 1), "attn.K.weight": torch.ones(1, 1)})


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def attacks(marker):
    yield pickle.dumps(Malicious(marker), 2)
    yield pickle.dumps({"w": Malicious(marker)}, 4)
    yield f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()
    yield f'c__builtin__\neval\n(S\'open("{marker}", "w")\'\ntR.'.encode()
    yield f"(S'touch {marker}'\nios\nsystem\n.".encode()
    yield f"(cos\nsystem\nS'touch {marker}'\no.".encode()
    yield f"csubprocess\nPopen\n((S'touch'\nS'{marker}'\nltR.".encode()
    yield f"cbuiltins\ngetattr\n(cos\n__dict__\nS'system'\ntR(S'touch {marker}'\ntR.".encode()
    yield (
        b"\x80\x02"
        + f"ctorch._utils\n_rebuild_tensor_v2\n}}S'__setstate__'\ncos\nsystem\nsbS'touch {marker}'\nb.".encode()
    )
    yield b"ccollections\nOrderedDict\n)R}S'__class__'\ncos\nsystem\nsb."
    yield b"\x80\x02\x82\x01."  # an extension code
    yield b"r\xff\xff\xff\x7f."  # a memo of two thousand million places
    yield b"\x80\x05\x96" + (2**60).to_bytes(8, "little") + b"."  # a byte array of an exabyte
    yield b"(" * 100_000 + b"."
    yield b"]" + b"2" * 60 + b"."


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", b"3")
    return out.getvalue()


def test_malicious_pickles_execute_nothing(tmp_path):
    marker = tmp_path / "executed"
    old = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    for attack in attacks(marker):
        for data in (attack, zipped(attack), old + attack):
            (tmp_path / "evil.pt").write_bytes(data)
            with pytest.raises(CheckpointError, match=r"evil\.pt"):
                load_legacy(tmp_path / "evil.pt")
            assert not marker.exists()


def test_an_attack_beside_real_weights_is_dropped_by_name(tmp_path):
    marker = tmp_path / "executed"
    torch.save({"w": torch.ones(2), "evil": Malicious(marker)}, tmp_path / "a.pt")
    found = load_legacy(tmp_path / "a.pt")
    assert found.weights["w"].tolist() == [1, 1] and not marker.exists()
    assert any("evil" in line for line in found.dropped)
    assert any("system" in name for name in found.named)


@pytest.mark.slow
def test_nothing_named_in_a_file_is_imported(tmp_path):
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    attack = zipped(b"ctrap\nThing\n)R.")
    (tmp_path / "a.pt").write_bytes(attack)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from negmerge_kit.checkpoints.legacy import load_legacy\n"
        "try: load_legacy(sys.argv[1] + '/a.pt')\n"
        "except Exception as error: print(type(error).__name__, 'trap' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["CheckpointError", "False"], done.stderr


@pytest.mark.parametrize("options", FORMATS, ids=["zip", "old"])
def test_damaged_old_files_are_a_named_error_or_right(tmp_path, options):
    path = tmp_path / "a.pt"
    torch.save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(2), "x": "text"}, path, **options)
    data, rng = path.read_bytes(), random.Random(0)
    for _ in range(400):
        broken = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        path.write_bytes(bytes(broken[: rng.randrange(len(broken))] if rng.random() < 0.3 else broken))
        try:
            weights = load_legacy(path).weights
        except CheckpointError as error:
            assert "a.pt" in str(error)
        else:
            assert all(isinstance(tensor, torch.Tensor) for tensor in weights.values())


def test_tensors_that_reach_beyond_their_numbers_are_refused(tmp_path):
    torch.save({"w": torch.ones(4)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data[:8] if name.endswith("data/0") else data)
    with pytest.raises(CheckpointError, match="cut short"):
        load_legacy(tmp_path / "b.pt")


def test_two_files_of_one_name_do_not_overwrite_each_other(tmp_path):
    paths = []
    for folder in ("m1", "m2"):
        (tmp_path / folder).mkdir()
        paths.append(str(tmp_path / folder / "finetuned.pt"))
        torch.save({"w": torch.ones(1)}, paths[-1])
    done = convert_files(paths, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "m1-finetuned.safetensors",
        "m2-finetuned.safetensors",
    ]
    assert [file["tensors"] for file in done["files"]] == [1, 1]


def test_files_without_weights_say_what_they_are(tmp_path):
    for content in ({"epoch": 3}, [1, 2], "text", {"a": {"b": 3}}):
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match="holds no weights"):
            load_legacy(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"b\.pt"):
        load_legacy(tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="does not exist"):
        load_legacy(tmp_path / "c.pt")
