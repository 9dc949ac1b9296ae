"""Every notebook runs from a fresh kernel, cell by cell, without an error or a warning; its widgets and prose hold."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

MARK = """
def mark(figure):
    found = {line.get_gid(): line.get_data() for line in figure.axes[0].get_lines()}
    return {side: tuple(values[0] for values in found[f"{side}-here"]) for side in ("forget", "retain")}

def at(bench, scale, ids=None, rule="negmerge"):
    scores = bench.score(bench.choose(ids, rule), scale, "live")
    return {"forget": (scale, scores.forget.value), "retain": (scale, scores.retain.value)}
"""

# What a reader does to a notebook's widgets, and what their figures must then hold: run in the notebook's own kernel.
PROBES = {
    "01_forget_in_ten_lines": """
        explorer.set(scale=0.4, rule=("uniform", {}), candidates=pool.ids[:3])
        assert mark(explorer.figure) == at(bench, 0.4, pool.ids[:3], "uniform")
        explorer.controls["candidates"].buttons["all"].click()
        assert mark(explorer.figure) == at(bench, 0.4, None, "uniform")
        explorer.controls["rule"].menu.value = "negmerge"
        explorer.buttons["find"].click()
        assert explorer.controls["scale"].value == bench.search(bench.choose()).best.scale
        gallery.controls["scale"].value = 0.0
        said = [text.get_text()[4:] for axes in gallery.figure.axes for text in axes.texts]
        assert said[0::2] == said[1::2] and len(said) == 24
        gallery.controls["scale"].value = 1.5
        said = [text.get_text()[4:] for axes in gallery.figure.axes for text in axes.texts]
        assert said[0::2] != said[1::2]
    """,
    "02_hyperparameter_sensitivity": """
        explorer.set(candidate=digits.ids[4], scale=0.3)
        assert mark(explorer.figure) == at(Workbench(digits), 0.3, [digits.ids[4]])
    """,
    "03_sign_agreement": """
        for votes in (5, 8):
            explorer.controls["votes"].value = votes
            beneath = [bar.get_height() for bar in explorer.drawn.beneath.axes[0].patches]
            from negmerge_kit.plots.scale_curve import agreement_shares
            assert beneath == list(agreement_shares(layers, votes).values())
        place = next(value for text, value in explorer.controls["where"].options if text.endswith("block 3"))
        explorer.controls["where"].value = place
        block = total(layer for layer in layers if "resblocks.2." in layer.name)
        bars = [bar.get_height() for bar in explorer.figure.axes[0].patches[:n]]
        assert bars == [count / block.moved for count in block.histogram[1:]]
    """,
    "04_choosing_the_scale": "",
    "05_is_it_gone": "",
    "06_your_own_model": """
        explorer.set(scale=0.4, candidates=bench.pool.ids[:2])
        assert mark(explorer.figure) == at(bench, 0.4, bench.pool.ids[:2])
    """,
}


@pytest.fixture(scope="module")
def cache(whole_pool, tmp_path_factory):
    """A user's cache folder that already holds the embedded pool; the rest is made anew in it."""
    from negmerge_kit.data.decoded_cache import PLACE
    from negmerge_kit.pools.pool import open_pool
    from negmerge_kit.sweeps.pool_setup import default_folder

    home = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PLACE, str(home))
        patch.setenv("OMP_NUM_THREADS", "1")  # two kernels at a time, on the two cores that CI has
        folder = default_folder(open_pool(whole_pool).scene)
        folder.parent.mkdir(parents=True)
        folder.symlink_to(whole_pool, target_is_directory=True)
        yield home


def run(path):
    """The notebook with its outputs and what came of the probe; an error is an output, as in JupyterLab."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=500, kernel_name="python3", allow_errors=True, resources={"metadata": {"path": path.parent}}
    )
    probe = re.sub(r"^ {8}", "", PROBES[path.stem], flags=re.MULTILINE)
    with client.setup_kernel():
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
            if errors(cell):
                break
        else:
            notebook.cells.append(nbformat.v4.new_code_cell(MARK + probe))
            client.execute_cell(notebook.cells[-1], len(notebook.cells) - 1)
    return notebook


def errors(cell):
    return [o["ename"] + ": " + o["evalue"] for o in cell.get("outputs", []) if o.output_type == "error"]


@pytest.fixture(scope="module")
def executed(cache):
    """Every notebook, executed once, two at a time."""
    with ThreadPoolExecutor(2) as workers:
        return dict(zip((path.stem for path in NOTEBOOKS), workers.map(run, NOTEBOOKS), strict=True))


def test_there_are_six():
    assert [path.stem for path in NOTEBOOKS] == list(PROBES)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBES)
def test_notebook_runs_and_its_widgets_answer(name, executed):
    for cell in executed[name].cells:
        assert not errors(cell), f"{errors(cell)} in\n{cell.source}"
        for output in cell.get("outputs", []):
            assert output.get("name") != "stderr", output["text"]
            assert not re.search(r"\bwarn", output.get("text", ""), re.IGNORECASE), output["text"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBES)
def test_pictures_are_there_and_say_what_they_show(name, executed):
    pictures = [
        output
        for cell in executed[name].cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]
    assert pictures
    assert all(picture["metadata"]["image/png"].get("alt") for picture in pictures)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_share_in_the_prose_is_computed_and_held_above(path):
    """A percentage in a text stands as a number in a cell above it (95 % is the protocol's own)."""
    above = ""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            above += cell.source
            continue
        for quoted in re.findall(r"(\d+(?:\.\d+)?) %", cell.source):
            if quoted != "95":
                assert re.search(rf"\b{float(quoted) / 100:g}0*\b", above), f"{quoted} % is computed nowhere above"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_name_no_machine_and_one_kernel(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}
    assert not re.search(r"/(home|Users|work|root)/|C:\\", path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 40_000
