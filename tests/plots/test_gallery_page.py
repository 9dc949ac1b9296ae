"""docs/figures.md is what its command writes, shows every figure of the kit, and stays small."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def gallery():
    spec = importlib.util.spec_from_file_location("figures", DOCS / "figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_command_writes(gallery):
    assert (DOCS / "figures.md").read_text(encoding="utf-8") == gallery.page(), "run: python docs/figures.py --page"


def test_every_picture_is_there_and_small(gallery):
    pictures = sorted((DOCS / "figures").glob("*.png"))
    assert sorted(path.stem for path in pictures) == sorted(entry.name for entry in gallery.ENTRIES)
    sizes = [path.stat().st_size for path in pictures]
    assert max(sizes) < 200_000 and sum(sizes) < 1_500_000


def figures_of_the_kit():
    """Names of the public functions in plots that return a Figure and take results."""
    for path in (ROOT / "negmerge_kit" / "plots").glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.returns is not None and not node.name.startswith("_"):
                if ast.unparse(node.returns) == "Figure":
                    yield node.name


def test_every_figure_is_shown_by_its_call(gallery):
    page = gallery.page()
    names = set(figures_of_the_kit())
    assert len(names) > 12 and not [name for name in sorted(names) if f"{name}(" not in page]


def test_the_calls_are_python_and_end_in_their_figure(gallery):
    assert gallery.evaluated("a = 2\na + b", {"b": 3}) == 5
    for entry in gallery.ENTRIES:
        assert isinstance(ast.parse(entry.call).body[-1], ast.Expr)
