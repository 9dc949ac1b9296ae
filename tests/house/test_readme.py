"""Every block of the README runs: Python in one session each page, commands in a scratch folder."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from PIL import Image

from negmerge_kit.cli import main
from negmerge_kit.data.embedded import family_images

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
# These set up an environment, serve until stopped, or need a machine we do not have: told apart here, by name.
STARTERS = (
    "make ",
    "python scripts/tasks.py",
    "py -3",
    "git clone",
    "cd ",
    "pip install",
    "uv ",
    "negmerge demo",
    "negmerge pool build",
    "negmerge sweep",  # tested in tests/cli and tests/sweeps with fewer candidates
    "negmerge forget",  # the same; here it would download weights
)


def test_readme_names_the_two_commands():
    text = "\n".join(body for language, body in BLOCKS if language in ("sh", "bash", "console"))
    assert "make demo" in text and "make test" in text


@pytest.mark.slow
def test_python_blocks_run(tiny_pool, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "POOL").symlink_to(tiny_pool)
    # The one that asks a running app is run in tests/app/test_endpoints.py.
    blocks = [body for language, body in BLOCKS if language == "python" and "gradio_client" not in body]
    assert blocks
    session: dict = {}
    for body in blocks:
        exec(compile(body, "README.md", "exec"), session)


def commands():
    lines = [line for language, body in BLOCKS if language == "sh" for line in body.splitlines()]
    return [line.split("#")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def _expanded(word, folder):
    """What a shell makes of a pattern."""
    return sorted(str(path.relative_to(folder)) for path in folder.glob(word)) if "*" in word else [word]


def _write_faces(folder):
    """Two classes of pictures, as one's own folder would hold them."""
    images = family_images("shapes", "train")
    for index, (pixels, label) in enumerate(zip(images.images[:40], images.labels[:40].tolist(), strict=True)):
        place = folder / f"person_{label % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(place / f"{index}.png")


@pytest.mark.slow
def test_shell_commands_run(tiny_pool, classifier_pool, tmp_path, monkeypatch, capfd):
    shutil.copytree(classifier_pool, tmp_path / "CLASSIFIER")
    shutil.copytree(tiny_pool, tmp_path / "POOL")  # searches and comparisons leave what they found in it
    _write_faces(tmp_path / "faces")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEGMERGE_CACHE", str(tmp_path / "cache"))
    ran = 0
    for command in commands():
        if command.startswith(STARTERS):
            continue
        program, *words = [name for word in shlex.split(command) for name in _expanded(word, tmp_path)]
        # In this process: a start of Python and torch for each would take longer than the commands do.
        assert program == "negmerge" and main(words) == 0, f"{command}\n{''.join(capfd.readouterr())}"
        ran += 1
    assert ran >= 5


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)", (ROOT / "README.md").read_text()))))
def test_links_point_at_files(target):
    assert (ROOT / target).exists()
