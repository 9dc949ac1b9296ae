"""Every notebook runs from top to bottom, without an error or a warning, and its widgets answer."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

# A control to set in the kernel, and a line that prints what its figure then holds.
PROBES = {
    "02_hyperparameter_sensitivity": (
        "explorer.controls['scale']",
        [0.2, 0.8],
        "[list(line.get_xdata()) for line in explorer.figure.axes[0].lines if line.get_gid() == 'best']",
    ),
    "03_sign_agreement": (
        "explorer.controls['votes']",
        [5, 8],
        "[round(bar.get_height(), 6) for bar in explorer.figure.axes[0].patches]",
    ),
}


@pytest.fixture(scope="module")
def cache(whole_pool, tmp_path_factory):
    """A user's cache folder that already holds the embedded pool."""
    from negmerge_kit.checkpoints.pool import open_pool
    from negmerge_kit.sweeps.embedded import default_folder

    home = tmp_path_factory.mktemp("cache")
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(home)
    folder = default_folder(open_pool(whole_pool).scene)
    folder.parent.mkdir(parents=True)
    folder.symlink_to(whole_pool, target_is_directory=True)
    yield home
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


def test_there_are_notebooks():
    assert {path.stem for path in NOTEBOOKS} == set(PROBES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_its_widget_answers(path, cache):
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}})
    control, values, probe = PROBES[path.stem]
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
            for output in cell.get("outputs", []):
                assert output.get("name") != "stderr", output["text"]
        seen = []
        for value in values:
            cell = nbformat.v4.new_code_cell(f"{control}.value = {value}\nprint({probe})")
            notebook.cells.append(cell)
            client.execute_cell(cell, len(notebook.cells) - 1)
            seen.append("".join(output["text"] for output in cell.outputs if output.get("name") == "stdout"))
    assert seen[0] != seen[1] and all(text.strip() not in ("", "[]") for text in seen)
    pictures = [
        output for cell in notebook.cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
    ]
    assert pictures
