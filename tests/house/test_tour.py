"""The tour names files and functions that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOUR = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
STATIONS = re.findall(r"^## (\d+)\. .+: `([\w/]+\.py)`, `(\w+)`$", TOUR, flags=re.MULTILINE)


def test_there_are_ten_stations():
    assert [int(number) for number, _, _ in STATIONS] == list(range(1, 11)) and TOUR.count("\n## ") == 10


@pytest.mark.parametrize(("number", "file", "name"), STATIONS)
def test_a_station_is_there(number, file, name):
    tree = ast.parse((ROOT / "negmerge_kit" / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def test_every_file_that_it_names_is_there():
    for file in re.findall(r"`([\w/]+/[\w]+\.py)`", TOUR):
        assert (ROOT / "negmerge_kit" / file).is_file(), file


def test_the_command_is_one_that_is_understood():
    from negmerge_kit.cli.options import forget_parser

    command = re.search(r"^negmerge forget (.+)$", TOUR, flags=re.MULTILINE)
    assert command and forget_parser().parse_args(command[1].split()).forget == "digits"
