"""Imports go down only, and packages on one floor do not know each other."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "negmerge_kit"

FLOORS = {
    "errors": 0,
    "types": 0,
    "safe_json": 0,
    "progress": 0,
    "devices": 1,
    "image_set": 1,
    "merging": 2,
    "scoring": 2,
    "checkpoints": 3,
    "pools": 4,
    "data": 5,
    "models": 6,
    "scenes": 7,
    "training": 8,
    "unlearning": 8,
    "analysis": 9,
    "baselines": 9,
    "classifier_eval": 9,
    "audits": 10,
    "comparison": 10,
    "cards": 11,
    "reproduction": 12,
    "pipeline": 12,
    "sweeps": 13,
    "plots": 13,
    "notebook": 14,
    "app": 15,
    "cli": 16,
}
ONLY_HERE = {
    "gradio": ("app",),
    "ray": ("sweeps",),
    "ipywidgets": ("notebook",),
    "matplotlib": ("plots", "notebook"),
    "open_clip": ("data", "models", "training"),
}


def rooms_imported(tree):
    """(room or outside package, line) of every import, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute, so that a room is always named"
            names = [node.module] if node.module != "negmerge_kit" else [f"negmerge_kit.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            yield name.split("."), node.lineno


def modules():
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    here = room_of(path)
    for parts, line in rooms_imported(ast.parse(path.read_text(encoding="utf-8"))):
        if parts[0] == "negmerge_kit" and len(parts) > 1 and parts[1] in FLOORS and parts[1] != here:
            assert FLOORS[parts[1]] < FLOORS[here], f"{path}:{line}: {here} imports {parts[1]}"
        allowed = ONLY_HERE.get(parts[0])
        if allowed:
            assert here in allowed, f"{path}:{line}: {parts[0]} belongs to {allowed}"


@pytest.mark.slow
def test_the_package_knows_nothing_of_its_benchmarks():
    """They measure it from outside, in a checkout; the wheel does not hold them."""
    for path in modules():
        imported = {parts[0] for parts, _ in rooms_imported(ast.parse(path.read_text(encoding="utf-8")))}
        assert "benchmarks" not in imported, path


def test_every_room_has_a_floor():
    rooms = {room_of(path) for path in modules()}
    assert rooms <= set(FLOORS), f"give {rooms - set(FLOORS)} a floor"


def test_the_pure_floors_open_no_file():
    """Merging and scoring compute; checkpoints is the only room that reads and writes weights."""
    for path in modules():
        if room_of(path) in ("merging", "scoring"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id not in ("open", "print", "exec", "eval"), f"{path}:{node.lineno}"
            outside = {parts[0] for parts, _ in rooms_imported(ast.parse(path.read_text(encoding="utf-8")))}
            assert not outside & {"pathlib", "io", "tempfile", "safetensors", "open_clip", "torchvision"}, path


def test_nothing_below_the_command_line_prints():
    for path in modules():
        if room_of(path) not in ("cli",):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                    assert node.func.id != "print", f"{path}:{node.lineno}"


def test_no_file_imports_itself_in_a_circle():
    """Imports inside functions and those for types only count, too: each file can be read after those it names."""
    files = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path for path in modules()}
    files = {name.removesuffix(".__init__"): path for name, path in files.items()}
    graph = {}
    for name, path in files.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in files:
                named = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[name] |= (named & files.keys()) or {node.module}
    graph = {name: imported - {name} for name, imported in graph.items()}
    try:
        assert len(list(TopologicalSorter(graph).static_order())) == len(files)
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


@pytest.mark.slow
def test_every_import_of_ours_exists():
    """mypy ignores imports that are missing (other packages have no types), so it does not see a file that moved.

    As text, so that code in strings, which tests hand to other processes, counts too.
    """
    root = PACKAGE.parent
    for path in sorted([*PACKAGE.rglob("*.py"), *(root / "tests").rglob("*.py"), *(root / "benchmarks").rglob("*.py")]):
        for name, what in re.findall(r"from (negmerge_kit(?:\.\w+)+) import (\w+)", path.read_text(encoding="utf-8")):
            place = root.joinpath(*name.split("."))
            assert place.with_suffix(".py").exists() or place.is_dir(), f"{path}: {name} is not there"
            inside = place / "__init__.py"
            there = not inside.exists() or (place / f"{what}.py").exists() or (place / what).is_dir()
            assert there or re.search(rf"\b{what}\b", inside.read_text(encoding="utf-8")), (
                f"{path}: {name} has no {what}"
            )
