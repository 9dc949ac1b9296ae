"""A merged folder has its base's config and tokenizer, no code or other weights, and is there whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from negmerge_kit.checkpoints import folders, open_checkpoint
from negmerge_kit.checkpoints.merge_files import apply_file, merge_files, undo_file
from negmerge_kit.cli import main
from negmerge_kit.errors import CheckpointError, NegmergeError
from negmerge_kit.merging import unlearn
from tests.checkpoints.files import sharded
from tests.checkpoints.test_hub import COMMIT, cache  # noqa: F401
from tests.merging.models import make

SMALL = {
    "config.json": b'{"model_type": "bert"}',
    "generation_config.json": b"{}",
    "tokenizer.json": b'{"version": "1.0"}',
    "tokenizer_config.json": b"{}",
    "vocab.txt": b"[PAD]\n",
    "merges.txt": b"a b\n",
    "special_tokens_map.json": b"{}",
    "added_tokens.json": b"{}",
    "preprocessor_config.json": b"{}",
    "processor_config.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "spiece.model": b"\x0a\x0e",
    "open_clip_config.json": b"{}",
}
STAYS = {
    "modeling_own.py": b"raise SystemExit",
    "tokenizer_own.py": b"raise SystemExit",
    "pytorch_model.bin": b"PK",
    "tokenizer.bin": b"PK",
    "README.md": b"# the base",
    ".gitattributes": b"",
}


@pytest.fixture
def models(tmp_path, monkeypatch):
    """`base`, `cut` (the same in shards) and candidates `a` and `b`, each a folder as `save_pretrained` leaves it."""
    base, candidates = make(2, seed=6)
    for name, weights in zip(("base", "a", "b"), (base, *candidates), strict=True):
        (tmp_path / name).mkdir()
        save_file(weights, tmp_path / name / "model.safetensors")
        (tmp_path / name / "config.json").write_bytes(b"{}")
    (tmp_path / "cut").mkdir()
    sharded(tmp_path / "cut", base, 3)
    for name in ("base", "cut"):
        for file, content in (SMALL | STAYS).items():
            (tmp_path / name / file).write_bytes(content)
        (tmp_path / name / "tokenizer").mkdir()
        os.mkfifo(tmp_path / name / "vocab.pipe")
    monkeypatch.chdir(tmp_path)
    return base, candidates


def content(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in Path(folder).rglob("*") if file.is_file()}


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def hidden():
    return list(Path().glob(".*"))


@pytest.mark.parametrize("base", ["base", "base/model.safetensors", "cut", "cut/model.safetensors.index.json"])
def test_from_folder_to_folder(models, capsys, base):
    assert main(["merge", base, "a", "b", "--out", "out-1.5", "--scale", "0.5", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["out"] == "out-1.5" and same(open_checkpoint("out-1.5"), dict(unlearn(*models, scale=0.5)))
    weights = [file.name for file in Path(base if Path(base).is_dir() else Path(base).parent).glob("model*")]
    found = content("out-1.5")
    assert found.keys() == {*SMALL, *(name for name in weights if "safetensors" in name)}
    assert all(found[name] == data for name, data in SMALL.items())
    assert all("pt" == open_checkpoint(file).raw_metadata["format"] for file in Path("out-1.5").glob("*.safetensors"))
    assert any("modeling_own.py, tokenizer_own.py" in note and "run it" in note for note in told["notes"])
    assert not hidden() and Path("out-1.5").stat().st_mode & 0o077 == 0o077 & ~current_umask()


def current_umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_folder_is_applied_and_undone(models):
    merge_files("base", ["a", "b"], out="out", delta_out="d.safetensors", scale=0.5)
    for done in (
        apply_file("base", "d.safetensors", scale=0.5, out="again"),
        undo_file("out", "d.safetensors", scale=0.5, out="back"),
    ):
        assert content(done["out"]).keys() == content("out").keys() and done["notes"]
    assert same(open_checkpoint("again"), open_checkpoint("out")) and same(open_checkpoint("back"), models[0])


def test_what_a_merge_wrote_and_an_empty_folder_are_replaced(models):
    Path("out").mkdir()
    merge_files("cut", ["a", "b"], out="out")
    merge_files("base", ["a", "b"], out="out", scale=0.5)
    assert content("out").keys() == {*SMALL, "model.safetensors"} and not hidden()
    Path("link").symlink_to("out")
    merge_files("cut", ["a", "b"], out="link", scale=0.5)
    assert Path("link").is_symlink() and same(open_checkpoint("out"), dict(unlearn(*models, scale=0.5)))


def spoiled(kind):
    """A folder `out` that has to stay."""
    if kind == "own":
        Path("out").mkdir()
        Path("out/notes.txt").write_bytes(b"mine")
    elif kind == "file":
        Path("out").write_bytes(b"mine")
    elif kind == "another model":
        shutil.copytree("a", "out")
    else:
        merge_files("base", ["a", "b"], out="out", delta_out="d.safetensors", scale=0.5)
        if kind == "added":
            Path("out/modeling.py").write_bytes(b"mine")
        elif kind == "nested":
            Path("out/tokenizer").mkdir()
        else:
            Path("out/model.safetensors").write_bytes(Path("d.safetensors").read_bytes())


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("own", "holds notes.txt"),
        ("file", "is a file"),
        ("another model", "holds model.safetensors"),
        ("added", "holds modeling.py"),
        ("nested", "holds tokenizer"),
        ("delta", "holds model.safetensors"),
    ],
)
def test_anything_else_stays(models, capsys, kind, says):
    spoiled(kind)
    before = content(".")
    assert main("merge base a b --out out --scale 0.25".split()) == 2
    told = capsys.readouterr().err
    assert says in told and "so it stays" in told and "remove it first" in told and told.count("\n") == 1
    assert content(".") == before and not hidden()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--out base", "folder of one of the inputs"),
        ("--out a", "folder of one of the inputs"),
        ("--out link", "folder of one of the inputs"),
        ("--out nowhere/out", "no folder nowhere"),
        ("--out out --delta-out out/d.safetensors", "both the model and the delta"),
        (f"--out {'o' * 300}", "too long"),
        ("--out out --executor process", "--out out.safetensors"),
    ],
)
def test_bad_places_are_refused_before_the_work(models, capsys, words, says):
    Path("link").symlink_to("a")
    before = content(".")
    assert main(["merge", "base", "a", "b", *words.split()]) == 2
    assert says in capsys.readouterr().err and content(".") == before and not hidden()


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_nothing_new(models, monkeypatch, there, failure):
    if there:
        merge_files("base", ["a", "b"], out="out", scale=0.5)
    before = content(".")

    def fails(folder, *words, **options):
        Path(folder).write_bytes(b"half")
        raise failure

    monkeypatch.setattr(folders, "save_checkpoint", fails)
    with pytest.raises(CheckpointError if isinstance(failure, OSError) else KeyboardInterrupt) as caught:
        merge_files("base", ["a", "b"], out="out")
    assert content(".") == before and not hidden() and ".part" not in str(caught.value)


def test_the_former_folder_comes_back_when_the_new_one_cannot_take_its_place(models, monkeypatch):
    merge_files("base", ["a", "b"], out="out", scale=0.5)
    before, rename = content("."), Path.rename

    def refuses(path, target):
        if path.suffix == ".part":
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuses)
    with pytest.raises(CheckpointError, match="could not finish writing out: Permission denied"):
        merge_files("base", ["a", "b"], out="out")
    assert content(".") == before and not hidden()


def test_a_file_that_came_during_the_merge_stays(models, monkeypatch):
    merge_files("base", ["a", "b"], out="out", scale=0.5)
    save = folders.save_checkpoint

    def meanwhile(*words, **options):
        Path("out/notes.txt").write_bytes(b"mine")
        return save(*words, **options)

    monkeypatch.setattr(folders, "save_checkpoint", meanwhile)
    with pytest.raises(CheckpointError, match=r"out exists and holds notes\.txt"):
        merge_files("base", ["a", "b"], out="out")
    assert Path("out/notes.txt").read_bytes() == b"mine" and not hidden()


@pytest.mark.slow
def test_a_kill_leaves_the_former_folder_or_none(models):
    merge_files("base", ["a", "b"], out="former", scale=0.5)
    before = content("former")
    killed = (
        "import os, signal\n"
        "from negmerge_kit.checkpoints import folders, merge_files\n"
        "save = folders.save_checkpoint\n"
        "def kill(*words, **options):\n"
        "    save(*words, **options)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "folders.save_checkpoint = kill\n"
        "for out in ('former', 'new'):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        merge_files.merge_files('base', ['a', 'b'], out=out)\n"
        "    assert os.waitpid(child, 0)[1] == signal.SIGKILL\n"
    )
    place = {"PYTHONPATH": str(Path(folders.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", killed], env=os.environ | place, check=True)
    assert content("former") == before and not Path("new").exists() and len(hidden()) == 2
    for out in ("former", "new"):
        merge_files("base", ["a", "b"], out=out)
        assert same(open_checkpoint(out), dict(unlearn(*models, scale=1.0)))


def test_a_file_says_where_config_and_tokenizer_are(models, capsys):
    assert main("merge base a b --out u.safetensors".split()) == 0
    told = capsys.readouterr().out
    assert "config and tokenizer are in base; --out FOLDER" in told and Path("u.safetensors").is_file()


def test_weights_without_a_config_go_to_a_file_as_before(models):
    Path("base/config.json").unlink()
    Path("base/open_clip_config.json").unlink()
    assert merge_files("base", ["a", "b"], out="u")["notes"] == []
    assert Path("u").is_file()


def test_what_is_too_large_for_a_small_file_is_named(models, monkeypatch):
    monkeypatch.setattr(folders, "LARGEST", 20)
    told = merge_files("base", ["a", "b"], out="out")
    assert not Path("out/config.json").exists() and any("left out, over" in note for note in told["notes"])


def test_the_names_of_other_libraries_weights_are_kept(models):
    Path("base/model.safetensors").rename("base/diffusion_pytorch_model.safetensors")
    merge_files("base", ["a", "b"], out="out")
    assert Path("out/diffusion_pytorch_model.safetensors").is_file()


def test_a_base_on_the_hub_gives_its_small_files(models, cache, monkeypatch):  # noqa: F811
    shutil.copy("base/model.safetensors", cache)
    listed = [*SMALL, *STAYS, "onnx/config.json", "model.safetensors"]
    fetched = []

    def download(repository, name, revision):
        fetched.append(name)
        shutil.copy(Path("base") / name, cache)
        return str(cache / name)

    class Listed:
        siblings = tuple(type("File", (), {"rfilename": name})() for name in listed)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: Listed)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    told = merge_files(f"hf:owner/name@{COMMIT}", ["a", "b"], out="out")
    assert set(fetched) == set(SMALL) and content("out").keys() == {*SMALL, "model.safetensors"}
    assert any("modeling_own.py" in note for note in told["notes"])


def test_without_a_network_the_cache_has_to_do(models, cache, monkeypatch):  # noqa: F811
    def unreachable(*_, **__):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    shutil.copy("base/model.safetensors", cache)
    with pytest.raises(NegmergeError, match=r"config of owner/name@01234567 cannot be downloaded .*--out FILE"):
        merge_files(f"hf:owner/name@{COMMIT}", ["a", "b"], out="out")
    shutil.copy("base/config.json", cache)
    told = merge_files(f"hf:owner/name@{COMMIT}", ["a", "b"], out="out")
    assert content("out").keys() == {"config.json", "model.safetensors"} and "cannot be reached" in told["notes"][0]
