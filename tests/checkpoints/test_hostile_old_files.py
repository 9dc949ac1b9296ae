"""Small files that ask for much: each is refused with one sentence, soon, in little memory, and nothing is written."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict, deque
from pathlib import Path, PurePosixPath

import pytest
import torch

from negmerge_kit.checkpoints import open_checkpoint
from negmerge_kit.checkpoints.legacy import load_legacy
from negmerge_kit.checkpoints.pickles import MOST_STEPS, Tree
from negmerge_kit.cli import main
from negmerge_kit.errors import CheckpointError

CASES = Path(__file__).parents[1] / "cases"
SAYS = {
    "stride": "'w'.*expanded.*contiguous",
    "self": "no weights",
    "key": "name is a tuple",
    "laugh": "no weights",
    "meta": "__metadata__",
    "od": "no weights",
    "coll": "'1'.*number",
}


def long1(n: int) -> bytes:
    data = n.to_bytes(n.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def text(word: str) -> bytes:
    return b"X" + struct.pack("<I", len(word.encode())) + word.encode()


def tensor(shape=(1,), stride=(1,), *, offset=0, length=4, key="0", kind="FloatStorage") -> bytes:
    numbers = b"(" + b"".join(map(long1, shape)) + b"t(" + b"".join(map(long1, stride)) + b"t"
    storage = b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + long1(length) + b"tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + long1(offset) + numbers + b"\x89}tR"


def table(**entries: bytes) -> bytes:
    return b"}(" + b"".join(text(name) + value for name, value in entries.items()) + b"u"


def module(**entries: bytes) -> bytes:
    """A module with these children."""
    return b"cm\nM\n)\x81" + table(_parameters=b"}", _modules=table(**entries)) + b"b"


def zipped(data: bytes, numbers: bytes = b"\0" * 16, how: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + data + b".")
        archive.writestr("a/data/0", numbers)
    return out.getvalue()


def shared(step: bytes, levels: int) -> bytes:
    """A list of things, each of which holds the one before it twice; X in `step` is a reference to that."""
    first = b"]" + tensor() + b"q\x00"
    return first + b"".join(step.replace(b"XX", b"h" + bytes([k])) + b"q" + bytes([k + 1]) for k in range(levels))


def overlapping() -> bytes:
    """Two members that are the same bytes."""
    data = bytearray(zipped(table(a=tensor(), b=tensor(key="1"))))
    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("a/data/1", b"\0" * 16)
    data = bytearray(out.getvalue())
    second = data.index(b"a/data/0", data.index(b"PK\1\2"))
    third = data.index(b"a/data/1", data.index(b"PK\1\2"))
    data[third - 4 : third] = data[second - 4 : second]
    return bytes(data)


def old(content: bytes, lengths: tuple[int, ...] = ()) -> bytes:
    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    keys = pickle.dumps([str(k) for k in range(len(lengths))], 2)
    numbers = b"".join(struct.pack("<q", length) for length in lengths)
    return b"".join(pickle.dumps(part, 2) for part in parts) + b"\x80\x02" + content + b"." + keys + numbers


ATTACKS = {
    "six gigabytes of bytearray": zipped(table(a=b"cbuiltins\nbytearray\n" + long1(6 << 30) + b"\x85R")),
    "a tensor class that allocates": zipped(table(a=b"ctorch\nFloatTensor\n" + long1(1 << 33) + b"\x85R")),
    "a key of nested tuples": zipped(shared(b"XXXX\x86", 60) + b"a}h\x3c" + tensor() + b"s"),
    "a set of nested tuples": zipped(shared(b"XXXX\x86", 60) + b"a\x8f(h\x3c\x90"),
    "shared dicts": zipped(shared(b"}(X\1\0\0\0aXXX\1\0\0\0bXXu", 60)),
    "shared modules": zipped(
        module(w=b"N")
        + b"q\x000"
        + b"".join(module(a=b"h" + bytes([k]), b=b"h" + bytes([k])) + b"q" + bytes([k + 1]) + b"0" for k in range(30))
        + b"h\x1e"
    ),
    "a module in itself": zipped(b"cm\nM\n)\x81q\x00" + table(_parameters=b"}", _modules=table(a=b"h\x00")) + b"b"),
    "a shape that repeats a text": zipped(
        table(a=tensor().replace(b"(\x8a\x01\x01t", b"(" + text("x") + long1(2**40) + b"t", 1))
    ),
    "a shape beyond 64 bits": zipped(table(a=tensor((2**62, 4), (0, 0)))),
    "a shape of nothing and much": zipped(table(a=tensor((0, 2**62, 2**62), (1, 1, 1)))),
    "strides beyond the numbers": zipped(table(a=tensor((2, 2), (2**40, 1)))),
    "negative strides": zipped(table(a=tensor((2,), (-1,), offset=1))),
    "expanded by two dimensions": zipped(table(a=tensor((2**20, 2**12), (0, 0)))),
    "overlapping windows": zipped(table(a=tensor((3, 2), (1, 1)))),
    "a storage longer than its member": zipped(table(a=tensor((8,), length=8))),
    "a storage that is not there": zipped(table(a=tensor(key="../../data/0"))),
    "a storage of a negative length": zipped(table(a=tensor(length=-4))),
    "members that overlap": overlapping(),
    "a compressed member": zipped(table(a=tensor()), how=zipfile.ZIP_DEFLATED),
    "a memo of two thousand million": zipped(b"Nr\xff\xff\xff\x7f0" + b"}"),
    "bytes of an exabyte": zipped(b"\x8e" + (2**60).to_bytes(8, "little")),
    "a lone surrogate": zipped(b"}(X\3\0\0\0\xed\xa0\x80" + tensor() + b"u"),
    "a NUL in a name": zipped(table(**{"a\0b": tensor()})),
    "a name of 2,000 letters": zipped(table(**{"a" * 2000: tensor()})),
    "a number of 700 digits as a name": zipped(b"}" + long1(10**200) + tensor() + b"s"),
    "old: a length of an exabyte": old(table(a=tensor((2**57,), length=2**57)), (2**57,)),
    "old: a negative length": old(table(a=tensor()), (-4,)),
    "old: a storage without numbers": old(table(a=tensor())),
    "old: numbers of no tensor": old(table(a=tensor()), (4, 4)),
    "old: a part beyond its storage": old(
        table(a=tensor().replace(b"tQ", b"(" + text("1") + long1(3) + long1(3) + b"ttQ")), (4,)
    )
    + b"\0" * 16,
}

MEASURE = """
import contextlib, io, json, resource, sys, time
from negmerge_kit.cli import main
from negmerge_kit.checkpoints import legacy
seen = []
for path in sys.argv[2:]:
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with contextlib.redirect_stderr(io.StringIO()) as said:
        code = main(["convert", path, "--out", sys.argv[1]])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    seen.append([code, said.getvalue(), time.process_time() - start, grown / 2**20])
print(json.dumps(seen))
"""


@pytest.mark.slow
def test_no_small_file_takes_long_or_much(tmp_path):
    """Neither the cases of the collection nor attacks of every kind: 10 s and 1 GB would be too much for 4 KB."""
    files = {name: CASES / f"{name}.pt" for name in SAYS}
    for k, (name, data) in enumerate(ATTACKS.items()):
        files[name] = tmp_path / f"{k}.pt"
        files[name].write_bytes(data)
    assert all(path.stat().st_size < 4096 for path in files.values())
    words = [sys.executable, "-c", MEASURE, str(tmp_path / "out"), *map(str, files.values())]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, (code, said, seconds, gigabytes) in zip(files, json.loads(done.stdout), strict=True):
        assert code == 2 and said.count("\n") == 1 and str(files[name]) in said, (name, code, said)
        assert seconds < 10 and gigabytes < 0.5, (name, seconds, gigabytes)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", SAYS)
def test_the_cases_say_what_is_wrong(name):
    with pytest.raises(CheckpointError, match=SAYS[name]):
        load_legacy(CASES / f"{name}.pt")


@pytest.mark.slow
def test_a_pickle_of_pops_is_not_inflated(tmp_path):
    """255 MB of instructions in 260 KB: a compressed member is refused by its entry, before a byte of it is read."""
    with zipfile.ZipFile(tmp_path / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"N" + b"20" * (255 << 19) + b".")
    assert (tmp_path / "a.pt").stat().st_size < 300_000
    with pytest.raises(CheckpointError, match="compressed"):
        load_legacy(tmp_path / "a.pt")


@pytest.mark.slow
def test_instructions_are_counted():
    with pytest.raises(pickle.UnpicklingError, match="instructions"):
        Tree(b"N" + b"20" * (MOST_STEPS // 2) + b".")
    pairs = b"ccollections\nOrderedDict\nq\x000](" + b"K\x00K\x01\x86" * 1000 + b"eq\x010"
    with pytest.raises(pickle.UnpicklingError, match="instructions"):  # a list that is taken over again and again
        Tree(pairs + b"h\x00h\x01\x85R0" * 5000 + b"N.")


@pytest.mark.slow
def test_deep_nests_come_and_go():
    depth = 100_000
    for step, end in ((b"]", b"a"), (b"}N", b"s"), (b"(", b"t"), (b"ca\nb\n)R}N", b"sb")):
        assert Tree(step * depth + b"N" + end * depth + b".").content is not None


def save(tmp_path, content, **options):
    torch.save(content, tmp_path / "a.pt", **options)
    return tmp_path / "a.pt"


STATE = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_of_pickle_comes_over(tmp_path, protocol):
    found = load_legacy(save(tmp_path, {"state_dict": STATE, "x": {1, 2}, "y": b"bytes"}, pickle_protocol=protocol))
    assert found.weights.keys() == STATE.keys() and torch.equal(found.weights["w"], STATE["w"])


def test_tensors_beside_a_state_dict_are_not_taken_for_it(tmp_path):
    """The ImageNet example saves its best accuracy as a tensor next to the state dict, Megatron its random state."""
    found = load_legacy(save(tmp_path, {"epoch": 3, "best_acc1": torch.tensor(76.1), "state_dict": STATE}))
    assert found.weights.keys() == STATE.keys() and "best_acc1 (tensor)" in found.dropped
    lightning = {
        "state_dict": STATE,
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []},
    }
    assert load_legacy(save(tmp_path, lightning)).weights.keys() == STATE.keys()


@pytest.mark.parametrize("old_format", [False, True])
def test_classes_of_every_kind_may_be_next_to_the_weights(tmp_path, old_format):
    """Trainers pickle their options and logs along; torch.load(weights_only=True) refuses a file that holds these."""
    content = {
        "state_dict": OrderedDict(STATE),
        "args": Namespace(lr=0.1),
        "log": defaultdict(list, loss=[0.5]),
        "recent": deque([1, 2]),
        "where": PurePosixPath("runs/a"),
    }
    found = load_legacy(save(tmp_path, content, _use_new_zipfile_serialization=not old_format))
    assert found.weights.keys() == STATE.keys() and torch.equal(found.weights["w"], STATE["w"])
    assert {"argparse.Namespace", "collections.defaultdict", "collections.deque"} < {*found.named}


def test_several_state_dicts_are_a_choice(tmp_path, capsys):
    average = {name: value + 1 for name, value in STATE.items()}
    path = save(tmp_path, {"state_dict": STATE, "state_dict_ema": average, "epoch": 3})
    assert main(["convert", str(path), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "--weights state_dict (2 tensors, 8 elements) or state_dict_ema (2 tensors, 8 elements)" in said
    assert not (tmp_path / "out").exists()
    assert main(["convert", str(path), "--weights", "state_dict_ema", "--out", str(tmp_path / "out")]) == 0
    assert torch.equal(open_checkpoint(tmp_path / "out" / "a.safetensors")["w"], average["w"])
    with pytest.raises(CheckpointError, match="no state dict 'ema'.*choose state_dict "):
        load_legacy(path, weights="ema")
    other = save(tmp_path, {"model": {"encoder": STATE, "decoder": STATE | {"c": torch.ones(1)}}})
    assert set(load_legacy(other, weights="model.decoder").weights) == {"w", "b", "c"}


def test_a_later_file_that_is_bad_writes_nothing(tmp_path):
    good = save(tmp_path, STATE)
    assert main(["convert", str(good), str(CASES / "meta.pt"), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


def test_torchscript_archives_come_over(tmp_path):
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).eval()
    with pytest.warns():  # torch says that it will go
        torch.jit.save(torch.jit.trace(layer, torch.ones(1, 3)), tmp_path / "a.pt")
    found = load_legacy(tmp_path / "a.pt").weights
    assert found.keys() == layer.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in layer.state_dict().items())


DTYPES = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "complex64",
    "int64",
    "int32",
    "int16",
    "int8",
    "uint64",
    "uint32",
    "uint16",
    "uint8",
    "bool",
]


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_of_safetensors_comes_over(tmp_path, name, old_format):
    value = torch.arange(6).reshape(2, 3).to(getattr(torch, name))
    path = save(tmp_path, {"x": value.T, "y": value[:1]}, _use_new_zipfile_serialization=not old_format)
    found = load_legacy(path).weights
    for key, expected in (("x", value.T), ("y", value[:1])):
        assert found[key].dtype == value.dtype and found[key].shape == expected.shape
        bits = [each.contiguous().view(-1).view(torch.uint8) for each in (found[key], expected)]
        assert torch.equal(*bits)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: torch.ones(2, dtype=torch.complex128), "'x'.*ComplexDouble"),
        (lambda: torch.ones(2, dtype=torch.complex64).conj(), "'x'.*resolve_conj"),
        (lambda: torch.ones(2, dtype=torch.complex64).conj().imag, "'x'.*resolve_neg"),
        (lambda: torch.eye(2).to_sparse(), "'x'.*sparse"),
        (lambda: torch.ones(1).expand(5), "'x'.*contiguous"),
        (lambda: torch.ones(2).to(torch.float8_e4m3fnuz), "'x'.*float8_e4m3fnuz"),
    ],
)
def test_what_safetensors_cannot_hold_is_refused_by_name(tmp_path, make, says):
    with pytest.raises(CheckpointError, match=says):
        load_legacy(save(tmp_path, {"w": torch.ones(2), "x": make()}))


def test_changed_numbers_are_noticed(tmp_path):
    path = save(tmp_path, {"w": torch.arange(1000.0)})
    data = bytearray(path.read_bytes())
    data[data.index(torch.arange(1000.0).numpy().tobytes()) + 77] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="'w'.*CRC"):
        load_legacy(path)


def test_a_part_of_a_storage_of_the_old_format_is_that_part(tmp_path):
    """torch once wrote views of storages as (key, first, count); 0.1 read them from the first number on."""
    part = tensor((2,), length=4).replace(b"tQ", b"(" + text("1") + long1(2) + long1(2) + b"ttQ")
    (tmp_path / "a.pt").write_bytes(old(table(w=part), (4,)) + struct.pack("<4f", 1, 2, 3, 4))
    assert load_legacy(tmp_path / "a.pt").weights["w"].tolist() == [3, 4]
