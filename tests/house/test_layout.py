"""What a visitor sees at the top, and what must never be committed."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from negmerge_kit.baselines import BASELINES

ROOT = Path(__file__).parents[2]
TOP = {
    "README.md",
    "pyproject.toml",
    "notebooks",
    "negmerge_kit",
    "app.py",
    "tests",
    "benchmarks",
    "docs",
    "scripts",
    "Makefile",
    "Dockerfile",
    "constraints.txt",
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
}


def tracked():
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listing.stdout.split("\0") if name]


def test_the_top_level_is_short():
    shown = {path.relative_to(ROOT).parts[0] for path in tracked()}
    assert {name for name in shown if not name.startswith(".")} == TOP


def test_no_large_files():
    assert not [path for path in tracked() if path.stat().st_size > 2 * 2**20]


def test_constraints_name_no_address():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert lines and all(re.fullmatch(r"[A-Za-z0-9._-]+==[^\s:/]+( ; .+)?", line) for line in lines)


def test_a_long_module_says_why():
    """No cap, which would split files by number: over 400 lines, the docstring at the top gives the reason."""
    for path in tracked():
        if path.suffix == ".py" and "negmerge_kit" in path.parts:
            text = path.read_text(encoding="utf-8")
            if len(text.splitlines()) > 400:
                assert "long because" in (ast.get_docstring(ast.parse(text)) or ""), path


def test_a_baseline_is_a_short_file():
    for name in BASELINES:
        path = ROOT / "negmerge_kit" / "baselines" / f"{name.replace('-', '_')}.py"
        assert 15 <= len(path.read_text(encoding="utf-8").splitlines()) <= 100, path.name


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.name)
def test_notebooks_hold_no_outputs(path):
    check = subprocess.run([sys.executable, "-m", "nbstripout", "--verify", str(path)], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr


def test_the_wheel_ships_the_weights(tmp_path):
    """hatchling obeys .gitignore: what the package needs at run time is asked for by name."""
    shipped = [path for path in (ROOT / "negmerge_kit").rglob("*.safetensors")]
    assert shipped and sum(path.stat().st_size for path in shipped) <= 1.5 * 2**20
    assert set(shipped) <= set(tracked())


def test_the_wheel_ships_the_pages_of_the_app():
    """The folder of the package is in the wheel as git tracks it."""
    files = [path for name in ("*.html", "*.css", "*.js") for path in (ROOT / "negmerge_kit").rglob(name)]
    assert {path.suffix for path in files} == {".html", ".css", ".js"} and set(files) <= set(tracked())
    assert 'packages = ["negmerge_kit"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_type_checkers_of_users_read_our_types():
    """PEP 561: without this file mypy takes everything that comes from the package for Any."""
    assert ROOT / "negmerge_kit" / "py.typed" in tracked()
