"""Tests in tiers: what `make check` and `make test` run, and that no room is left to the slow tiers alone."""

import ast
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TIERS = {"slow", "browser", "ray"}


def _marks(nodes):
    return {node.attr for top in nodes for node in ast.walk(top) if isinstance(node, ast.Attribute)} & TIERS


def _unit_tests(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    if _marks(node for node in body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"):
        return []
    tests = (node for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))
    return [test.name for test in tests if not _marks(test.decorator_list)]


@pytest.mark.slow
@pytest.mark.parametrize("room", sorted(path.parent.name for path in (ROOT / "negmerge_kit").glob("*/__init__.py")))
def test_every_room_has_unit_tests(room):
    assert sum(len(_unit_tests(path)) for path in (ROOT / "tests" / room).glob("test_*.py")) >= 5


def test_check_runs_the_unit_tests_and_test_runs_all(monkeypatch):
    spec = importlib.util.spec_from_file_location("tasks", ROOT / "scripts" / "tasks.py")
    assert spec and spec.loader
    tasks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tasks)
    ran = []
    monkeypatch.setattr(tasks, "setup", lambda: None)
    monkeypatch.setattr(tasks, "run", lambda *command: ran.append(command) or 0)
    assert tasks.main(["check", "-x"]) == 0 and tasks.main(["test", "-x"]) == 0
    (*lint, check), (*again, everything) = ran[:4], ran[4:]
    assert lint == again and "-m" not in check[2:]
    assert everything[-3:] == ("-m", "", "-x") and (*everything[:-3], "-x") == check


def test_plain_pytest_leaves_each_tier_out():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "-m 'not slow and not browser and not ray'" in text
    assert all(f'"{tier}: ' in text for tier in TIERS)
